"""A certificate authority of the tests, and the certificate of their mail servers."""

from dataclasses import dataclass
from pathlib import Path

import trustme

NAMES = ("localhost", "127.0.0.1", "mail.example.test")


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: the authority that clients must trust, the servers' chain, and their key."""

    authority: Path
    chain: Path
    key: Path


def issue(directory: Path) -> Certificates:
    """Write a fresh authority and a certificate for NAMES into `directory`."""
    made = Certificates(directory / "ca.pem", directory / "chain.pem", directory / "key.pem")
    authority = trustme.CA()
    leaf = authority.issue_cert(*NAMES)
    authority.cert_pem.write_to_path(made.authority)
    made.chain.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    made.key.touch(mode=0o600)
    leaf.private_key_pem.write_to_path(made.key)
    return made
