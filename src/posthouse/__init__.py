"""Posthouse: fresh OAuth 2.0 tokens for every device and program that only knows a password."""

__version__ = "0.1.0"
