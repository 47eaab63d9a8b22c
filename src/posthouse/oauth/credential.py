"""A private key and its certificate, checked against one another and kept as one secret in PEM form."""

from datetime import datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from posthouse.problems import problem
from posthouse.secret import Secret

_CERTIFICATE = "-----BEGIN CERTIFICATE-----"
SHORTEST = 2048
"""Bits of an RSA key."""
Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def make_bundle(key: Secret, certificate: str = "") -> Secret:
    """The key, with its certificate where one is given or stands beside it. Raises ProblemError."""
    private = _private_key(key.reveal())
    written = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    found = _CERTIFICATE in key.reveal()
    text = certificate or (key.reveal()[key.reveal().index(_CERTIFICATE) :] if found else "")
    if not text:
        return Secret(written)
    read = _certificate(text)
    if _public(read.public_key()) != _public(private.public_key()):
        raise problem(
            "credential.pair",
            "The certificate does not belong to the private key.",
            "Give the certificate that was made with this key.",
        )
    return Secret(written + read.public_bytes(Encoding.PEM).decode())


def split_bundle(bundle: Secret) -> tuple[Secret, str]:
    """The key, and the certificate or "", both in PEM form."""
    key, mark, rest = bundle.reveal().partition(_CERTIFICATE)
    return Secret(key), mark + rest


def ends_at(bundle: Secret) -> datetime | None:
    """When the certificate ends; None where there is none."""
    certificate = split_bundle(bundle)[1]
    return _certificate(certificate).not_valid_after_utc if certificate else None


def _private_key(text: str) -> Key:
    try:
        private = load_pem_private_key(text.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise problem(
            "credential.key", "This is not a private key.", "Give an unencrypted private key in PEM form."
        ) from None
    weak = isinstance(private, rsa.RSAPrivateKey) and private.key_size < SHORTEST
    if weak or not isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise problem(
            "credential.key", "This private key cannot be used.", f"Make an RSA key of at least {SHORTEST} bits."
        )
    return private


def _certificate(text: str) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(text.encode())
    except ValueError:
        raise problem("credential.certificate", "The certificate cannot be read.", "Give it in PEM form.") from None


def _public(key: object) -> bytes:
    data: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined]
    return data
