"""The sandbox's own authority: made once, made anew when it must be, and trusted by strict clients."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from posthouse.sandbox import certificates
from posthouse.sandbox.certificates import server_context

FILES = ("ca.pem", "server.pem", "server.key")


def contents(directory: Path) -> list[bytes]:
    return [(directory / name).read_bytes() for name in FILES]


def handshake(directory: Path, name: str, host: str = "127.0.0.1") -> None:
    """A TLS handshake in memory between the sandbox and a client that trusts ca.pem only, strictly."""
    server_side = server_context(directory, host)
    client_context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
    client_context.verify_flags |= ssl.VERIFY_X509_STRICT
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(to_client, to_server, server_hostname=name)
    server = server_side.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert client.version() == "TLSv1.3"


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_a_strict_client_trusts_each_loopback_name(tmp_path: Path, name: str) -> None:
    server_context(tmp_path)
    handshake(tmp_path, name)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, "mail.example.com")


def test_files_are_kept_and_the_key_is_private(tmp_path: Path) -> None:
    server_context(tmp_path)
    before = contents(tmp_path)
    server_context(tmp_path)
    assert contents(tmp_path) == before
    assert (tmp_path / "server.key").stat().st_mode & 0o077 == 0
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_means_all_new_ones_that_fit(tmp_path: Path, name: str) -> None:
    server_context(tmp_path)
    (tmp_path / name).unlink()
    handshake(tmp_path, "localhost")


def test_a_broken_certificate_is_replaced(tmp_path: Path) -> None:
    server_context(tmp_path)
    (tmp_path / "server.pem").write_text("rubbish")
    handshake(tmp_path, "localhost")


def test_an_ending_certificate_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(certificates, "LIFETIME", timedelta(days=29))
        server_context(tmp_path)
    server_context(tmp_path)
    certificate = x509.load_pem_x509_certificate((tmp_path / "server.pem").read_bytes())
    assert certificate.not_valid_after_utc > datetime.now(UTC) + timedelta(days=700)


def test_another_host_gets_a_certificate_with_its_name(tmp_path: Path) -> None:
    server_context(tmp_path)
    handshake(tmp_path, "sandbox.example", "sandbox.example")
