"""What a device may send in a time, and how large, is told in a sentence for its display."""

import asyncio
import smtplib
from pathlib import Path

import pytest

from tests.support.house import Hands, House, house

ADDRESS, PRINTER = "alice@example.com", "printer"
FILE = f"""
[[provider]]
name = "here"
token_url = "https://id.example.com/token"
authorize_url = "https://id.example.com/authorize"
smtp = "mail.example.com:587 starttls"
[provider.limits]
size = "1 MB"
[[app]]
name = "office"
provider = "here"
client_id = "c0ffee"
[[mailbox]]
address = "{ADDRESS}"
app = "office"
[[device]]
name = "{PRINTER}"
mailboxes = ["{ADDRESS}"]
rate = "3/h"
"""


async def send(gateway: House, count: int = 1, body: str = "A page.\n") -> None:
    for _ in range(count):
        await gateway.send(PRINTER, "bob@example.org", "A page", body=body)


async def test_a_device_may_send_so_many_messages_an_hour_and_a_restart_does_not_help(tmp_path: Path) -> None:
    clock = Hands()
    async with house(tmp_path / "data", FILE, clock=clock) as gateway:
        password = gateway.passwords[PRINTER]
        await send(gateway, 2)
        clock.forward(1800)
    async with house(tmp_path / "data", clock=clock) as gateway:
        gateway.passwords[PRINTER] = password
        await send(gateway)
        answer = await over_the_rate(gateway)
        assert answer.startswith("452 4.7.1 printer may send 3/h; again at ")
        clock.forward(1900)
        await send(gateway, 2)
        assert (await over_the_rate(gateway)).startswith("452 4.7.1 ")


async def over_the_rate(gateway: House) -> str:
    code, text = await asyncio.to_thread(_mail_from, gateway.gateway.smtp_ports[0], gateway.passwords[PRINTER].reveal())
    return f"{code} {text}"


def _mail_from(port: int, password: str, size: int = 0) -> tuple[int, str]:
    with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
        client.login(PRINTER, password)
        code, text = client.mail("scan@printer.example", [f"SIZE={size}"] if size else [])
        return code, text.decode()


async def test_another_rate_counts_what_was_sent_before(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE) as gateway:
        await send(gateway, 3)
        assert (await over_the_rate(gateway)).startswith("452 4.7.1 ")
        await gateway.apply(FILE.replace("3/h", "5/h"))
        await send(gateway, 2)
        assert (await over_the_rate(gateway)).startswith("452 4.7.1 printer may send 5/h")


async def test_what_is_larger_than_the_provider_takes_is_refused_at_mail_and_after_data(tmp_path: Path) -> None:
    async with house(tmp_path / "data", FILE) as gateway:
        port, password = gateway.gateway.smtp_ports[0], gateway.passwords[PRINTER].reveal()
        code, text = await asyncio.to_thread(_mail_from, port, password, 1_100_000)
        assert (code, text) == (552, f"5.3.4 Too large: {ADDRESS} may send 1 MB")
        with pytest.raises(AssertionError, match="Too large"):
            await send(gateway, body="One of many lines.\n" * 60_000)
        assert list((tmp_path / "data" / "spool").glob("*")) == []
