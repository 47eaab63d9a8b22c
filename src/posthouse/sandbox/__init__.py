"""A provider in a box: sign-in, SMTP, IMAP and POP3 on loopback, with switches for everything that can go wrong.

For people without a tenant, for the demonstration and for tests. Nothing here is imported by the gateway.
"""

from posthouse.sandbox.box import Sandbox, run
from posthouse.sandbox.faults import Fault
from posthouse.sandbox.settings import Client, Person, SandboxSettings

__all__ = ["Client", "Fault", "Person", "Sandbox", "SandboxSettings", "run"]
