"""Programs that hand mail over, each in its way: SMTP with a login, the REST API, `posthouse send`."""

import asyncio
import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from posthouse.cli.connection import SocketApi
from posthouse.problems import TEMPORARY, ProblemError
from posthouse.secret import Secret
from tests.faults.clients import Client, client
from tests.support.boxes import PRINTER
from tests.support.serving import PROGRAM
from tests.torture.judge import Judge, Letter

SIZES = {1_000: 30, 8_000: 25, 50_000: 12, 65_000: 8, 70_000: 8, 300_000: 12, 2_000_000: 5}
"""Octets of bodies, and how often: most are kept in their row, some are spooled."""
MOST_RECIPIENTS = 4
A_CONNECTION = 8
"""Messages at most over one connection."""
AFTER_REFUSAL = 0.1
"""Seconds that a program waits before it tries again."""
TROUBLE = (OSError, EOFError, TimeoutError, asyncio.IncompleteReadError, AssertionError)


class Target(Protocol):
    """Where mail is handed over, as it is at the moment."""

    judge: Judge
    mailboxes: tuple[str, ...]
    password: Secret

    @property
    def config(self) -> Path: ...
    @property
    def data(self) -> Path: ...
    @property
    def environment(self) -> Mapping[str, str]: ...
    @property
    def ended(self) -> bool: ...

    async def port(self) -> int:
        """Waits until something is taken."""
        ...


def make_lines(chance: random.Random, size: int) -> bytes:
    """Of all sorts: with dots in front, empty ones, long ones, and letters beyond ASCII."""
    lines: list[bytes] = []
    length = 0
    while length < size:
        line = chance.choice((b"", b".", b"..", b"A plain line.", "Grüße aus Østerbro".encode()))
        line += chance.randbytes(chance.randrange(1, 400)).hex().encode() if chance.random() < 0.8 else b""
        lines.append(line)
        length += len(line) + 2
    return b"\r\n".join(lines) + b"\r\n"


@dataclass(slots=True)
class Sender:
    number: int
    target: Target
    chance: random.Random
    bodies: list[bytes]
    way: str
    made: int = 0

    async def run(self) -> None:
        hand_over = {"smtp": self._by_smtp, "api": self._by_api, "send": self._by_command}[self.way]
        while not self.target.ended:
            try:
                await hand_over(await self.target.port())
            except TROUBLE:
                await asyncio.sleep(0.02)

    def _letter(self) -> Letter:
        self.made += 1
        name = f"{self.way}-{self.number}-{self.made}"
        message_id = f"<{name}@torture.example>"
        mailbox = self.chance.choice(self.target.mailboxes)
        recipients = tuple(f"{name}-{n}@else.example" for n in range(self.chance.choice((1, 1, 1, MOST_RECIPIENTS))))
        header = (
            f"From: {mailbox}\r\nTo: {', '.join(recipients)}\r\nSubject: {name}\r\nMessage-ID: {message_id}\r\n"
            "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n"
        )
        body = f"This is {name}.\r\n".encode() + self.chance.choice(self.bodies)
        letter = Letter(message_id, header.encode(), body, recipients, self.way, mailbox)
        self.target.judge.hands_over(letter)
        return letter

    async def _by_smtp(self, port: int) -> None:
        mailbox = self.chance.choice(self.target.mailboxes)
        async with client(port, login=(f"{PRINTER}\\{mailbox}", self.target.password)) as talking:
            for _ in range(self.chance.randrange(1, A_CONNECTION)):
                if self.target.ended:
                    return
                letter = self._letter()
                answer = (await _submit(talking, letter)).decode().strip()
                if answer.startswith("250"):
                    self.target.judge.promises(letter, answer.rpartition(" ")[2])
                else:
                    self.target.judge.refuses(letter, answer or "closed")
                    await talking.ask(b"RSET")
                    await asyncio.sleep(AFTER_REFUSAL)

    async def _by_api(self, port: int) -> None:
        """The same request until it is answered: with its key it may not make two messages."""
        letter = self._letter()
        while not self.target.ended:
            answer = await asyncio.to_thread(self._post, letter)
            if answer is not None:
                return
            await self.target.port()
            await asyncio.sleep(0.1)

    def _post(self, letter: Letter) -> str | None:
        """Its queue id; None where it has to be done again."""
        headers = {"Content-Type": "message/rfc822", "Idempotency-Key": letter.message_id}
        path = f"/messages?mailbox={letter.mailbox}"
        try:
            answer = SocketApi(self.target.data / "control.sock").call("POST", path, letter.text, headers)
            data = answer.data
        except (ProblemError, ValueError):
            return None
        if answer.status == 202:
            self.target.judge.promises(letter, data["id"])
            return str(data["id"])
        self.target.judge.refuses(letter, f"{answer.status} {data.get('detail')}")
        return None if answer.status == 503 else ""

    async def _by_command(self, port: int) -> None:
        letter = self._letter()
        words = (
            "send",
            "--config",
            str(self.target.config),
            "-i",
            "--mailbox",
            letter.mailbox,
            "--",
            *letter.recipients,
        )
        process = await asyncio.create_subprocess_exec(
            *PROGRAM,
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, **self.target.environment},
        )
        try:
            _, said = await process.communicate(letter.text)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        if process.returncode == 0:
            self.target.judge.promises(letter, "")
        else:
            self.target.judge.refuses(letter, f"exit {process.returncode} {said.decode(errors='replace').strip()}")
            if process.returncode != TEMPORARY:
                self.target.judge.complain(f"posthouse send ended with {process.returncode}: {said[-500:]!r}")


async def _submit(talking: Client, letter: Letter) -> bytes:
    """The last answer."""
    lines = (f"MAIL FROM:<{letter.mailbox}> BODY=8BITMIME", *(f"RCPT TO:<{one}>" for one in letter.recipients), "DATA")
    for line in lines:
        answer = await talking.ask(line.encode())
        if not answer.startswith((b"2", b"3")):
            return answer
    stuffed = letter.text.replace(b"\r\n.", b"\r\n..")
    await talking.say(stuffed + b".\r\n")
    return await talking.hear()


def crowd(target: Target, how_many: int, seed: int) -> list[Sender]:
    """Of twenty, three use the API and one the command."""
    chance = random.Random(seed)
    sizes = chance.choices(list(SIZES), list(SIZES.values()), k=60)
    bodies = [make_lines(chance, size) for size in sizes]
    ways = ["send" if n % 20 == 1 else "api" if n % 6 == 2 else "smtp" for n in range(how_many)]
    return [Sender(n, target, random.Random(f"{seed} {n}"), bodies, way) for n, way in enumerate(ways)]
