"""A mailbox with a password at Postfix, which takes messages by chunks (RFC 3030)."""

import asyncio
import ssl
from pathlib import Path

import pytest

from posthouse.services import upstream
from tests.support.dovecot import PASSWORD
from tests.support.dovecot import Server as Dovecot
from tests.support.house import house, until
from tests.support.postfix import Server as Postfix

ALICE, BOB, PRINTER = "alice@example.test", "bob@example.test", "printer"
LARGE = "".join(f".{'.' * (number % 3)} line {number}\n" for number in range(40_000))
SMALL = ".\n..\n"


async def test_large_and_dotted_mail_goes_to_postfix_by_chunks_octet_by_octet(
    tmp_path: Path, dovecot: Dovecot, postfix: Postfix, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusting = ssl.create_default_context(cafile=str(postfix.authority))
    monkeypatch.setattr(upstream, "client_context", lambda _: trusting)
    text = (
        f'[[mailbox]]\naddress = "{ALICE}"\npassword = "{PASSWORD}"\nsmtp = "localhost:{postfix.submission} starttls"\n'
        f'[[device]]\nname = "{PRINTER}"\nmailboxes = ["{ALICE}"]\n'
    )
    async with house(tmp_path / "data", text) as gateway:
        for subject, body in (("Large", LARGE), ("Small", SMALL)):
            await gateway.until_message(await gateway.send(PRINTER, BOB, subject, body=body), "sent")

        async def arrived() -> bool:
            inbox = await asyncio.to_thread(dovecot.inbox, "bob")
            bodies = {message.replace(b"\r\n", b"\n").partition(b"\n\n")[2].rstrip() for message in inbox}
            return {LARGE.rstrip().encode(), SMALL.rstrip().encode()} <= bodies

        await until(arrived, "both messages being in the inbox")

    async def told() -> bool:
        return " bdat=" in await asyncio.to_thread(postfix.log.read_text)

    await until(told, "Postfix telling of chunks")
