"""False ends of a message, by every way in, to a server that would be fooled by them: nothing gets through.

What ends in CR.CR or the like for one server and not for the next hides a message of its own (CVE-2023-51764 and kin).
"""

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from posthouse.protocol.reading import has_bare_line_end
from posthouse.services import dispatcher
from posthouse.settings import ListenAt
from tests.faults.clients import client
from tests.faults.liars import listening
from tests.support.boxes import ALICE, BOB, PRINTER, subject_of
from tests.support.clients import over_socket
from tests.support.house import House, house, until

ENDS = {
    "LF.LF": b"\n.\n",
    "CR.CR": b"\r.\r",
    "LF.CRLF": b"\n.\r\n",
    "CRLF.LF": b"\r\n.\n",
    "CRLF.CR": b"\r\n.\r",
    "CR.CRLF": b"\r.\r\n",
    "LF.CR": b"\n.\r",
    "CR.LF": b"\r.\n",
    "NUL.CRLF": b"\r\n\0.\r\n",
    "CRLF.NUL": b"\r\n.\0\r\n",
    "NUL NUL": b"\0.\0",
}
EVIL = b"MAIL FROM:<boss@example.com>\r\nRCPT TO:<victim@example.com>\r\nDATA\r\nSubject: smuggled\r\n\r\nevil"
END = re.compile(rb"(?:\r\n|\r|\n|\0)\0?\.\0?(?:\r\n|\r|\n|\0)")
"""What it takes for the end of a message."""


@dataclass(slots=True)
class Gullible:
    """A submission server that takes any line end for one, and forgets a dot that was doubled only after CRLF."""

    taken: list[bytes] = field(default_factory=list)

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 gullible.example\r\n")
        rest, body = b"", None  # what was not looked at yet, and the message that is being read
        while data := await reader.read(65536):
            rest += data
            while True:
                if body is not None:
                    if (end := END.search(body + rest)) is None:
                        break
                    whole, rest, body = (body + rest)[: end.start()], (body + rest)[end.end() :], None
                    self.taken.append(whole)
                    writer.write(b"250 Taken\r\n")
                line, found, after = rest.partition(b"\n")
                if not found:
                    break
                rest = after
                verb = line[:4].strip().upper()
                body = b"\r\n" if verb == b"DATA" else None
                writer.write(ANSWERS.get(verb, b"250 Fine\r\n"))
                if verb == b"QUIT":
                    await writer.drain()
                    return


ANSWERS = {
    b"EHLO": b"250-gullible.example\r\n250-AUTH PLAIN\r\n250 PIPELINING\r\n",
    b"AUTH": b"235 In\r\n",
    b"DATA": b"354 Go on\r\n",
    b"QUIT": b"221 Bye\r\n",
}


@contextlib.asynccontextmanager
async def opened(tmp_path: Path) -> AsyncIterator[tuple[House, Gullible]]:
    sink = Gullible()
    async with listening(sink.converse) as port:
        text = f'[[mailbox]]\naddress = "{ALICE}"\npassword = "x"\nsmtp = "127.0.0.1:{port} plain"\ndefault = true'
        device = f'[[device]]\nname = "{PRINTER}"\nmailboxes = ["{ALICE}"]'
        async with house(tmp_path / "data", f"{text}\n{device}", web=ListenAt("127.0.0.1", 0)) as gateway:
            yield gateway, sink


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher, "POLL", 0.02)


def text_with(end: bytes, subject: str) -> bytes:
    return f"From: {ALICE}\r\nTo: {BOB}\r\nSubject: {subject}\r\n\r\nfirst".encode() + end + EVIL


async def arrived(sink: Gullible, *subjects: str) -> None:
    """These messages are what the server has, each once and whole, and nothing else."""

    async def all_there() -> bool:
        return len(sink.taken) >= len(subjects)

    await until(all_there, "the messages arriving")
    assert sorted(subject_of(body.decode()) for body in sink.taken) == sorted(subjects)
    assert not any(has_bare_line_end(body.removeprefix(b"\r\n")) or b"\0" in body for body in sink.taken)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_the_server_is_fooled_by_them(end: bytes) -> None:
    """Else the tests below would prove nothing."""
    sink = Gullible()
    async with listening(sink.converse) as port, client(port) as somebody:
        assert (await somebody.begin(BOB)).startswith(b"354 ")
        await somebody.say(text_with(end, "x") + b"\r\n.\r\nQUIT\r\n")
        assert b"221 " in await somebody.rest()
    assert len(sink.taken) == 2
    assert b"Subject: smuggled" in sink.taken[1]


async def test_over_smtp_wherever_the_octets_are_cut(tmp_path: Path) -> None:
    async with opened(tmp_path) as (gateway, sink):
        port, login = gateway.gateway.smtp_ports[0], (PRINTER, gateway.passwords[PRINTER])
        for name, end in ENDS.items():
            text = text_with(end, name) + b"\r\n.\r\n"
            at = text.index(end + b"MAIL")
            async with client(port, login=login) as somebody:
                for cut in range(at - 1, at + len(end) + 2):
                    assert (await somebody.begin(BOB)).startswith(b"354 ")
                    await somebody.say(text[:cut])
                    await asyncio.sleep(0.005)
                    assert (await somebody.ask(text[cut:-2])).startswith(b"550 5.6.0 "), (name, cut)
                    assert (await somebody.ask(b"NOOP")).startswith(b"250 "), (name, cut)
        await gateway.send(PRINTER, BOB, "Honest")
        await arrived(sink, "Honest")


async def test_in_chunks_that_nobody_offered(tmp_path: Path) -> None:
    async with opened(tmp_path) as (gateway, sink):
        port, login = gateway.gateway.smtp_ports[0], (PRINTER, gateway.passwords[PRINTER])
        for name, end in ENDS.items():
            async with client(port, login=login) as somebody:
                envelope = f"MAIL FROM:<{ALICE}>\r\nRCPT TO:<{BOB}>\r\n".encode()
                text = text_with(end, name)
                await somebody.say(envelope + b"BDAT %d LAST\r\n" % len(text) + text + b"\r\n.\r\n")
                answers = (await somebody.rest()).splitlines()
            assert [answer[:3] for answer in answers] == [b"250", b"250", b"502"], name
        await gateway.send(PRINTER, BOB, "Honest")
        await arrived(sink, "Honest")


async def test_over_the_api(tmp_path: Path) -> None:
    """A NUL is refused; any line end is one, and goes out as CRLF with the dot behind it doubled."""
    taken = []
    async with opened(tmp_path) as (gateway, sink), over_socket(gateway) as api:
        for name, end in ENDS.items():
            letter = {"to": [BOB], "subject": name, "text": (b"first" + end + EVIL).decode()}
            answers = (await api.hand_in(text_with(end, name)), await api.post("/messages", letter))
            assert {answer.status_code for answer in answers} == {422 if b"\0" in end else 202}, name
            taken += [name] * 2 * (b"\0" not in end)
        await arrived(sink, *taken)


async def test_with_posthouse_send(tmp_path: Path) -> None:
    async with opened(tmp_path) as (gateway, sink):
        await gateway.gateway.start_web()
        words = (
            sys.executable,
            "-m",
            "posthouse.cli",
            "send",
            "-i",
            "--socket",
            str(tmp_path / "data" / "control.sock"),
            BOB,
        )

        async def hand_in(text: bytes) -> int:
            return (
                await asyncio.to_thread(subprocess.run, words, input=text, capture_output=True, check=False)
            ).returncode

        without_nul = b"first".join(end for end in ENDS.values() if b"\0" not in end)
        assert await hand_in(text_with(without_nul, "All of them")) == 0
        assert await hand_in(text_with(ENDS["NUL NUL"], "NUL")) == 65
        await arrived(sink, "All of them")
