"""A message of 100 MB, and one to 10,000 people: taken whole, without memory for it, and nobody is forgotten."""

import asyncio
import base64
import socket
from collections import Counter
from pathlib import Path

from posthouse.sandbox.certificates import server_context
from posthouse.secret import Secret
from tests.faults.liars import liar
from tests.support.boxes import ALICE, BOB, PRINTER, box
from tests.support.clients import over_socket
from tests.support.house import house, until
from tests.support.serving import Serving, serving

LINE = b"One of very many lines that are all alike, as scanned pages are to us.\r\n"
BLOCK = LINE * 3500
MEGABYTES = 100
BY_CHUNKS = b"250-liar.example\r\n250-AUTH XOAUTH2\r\n250-CHUNKING\r\n250 PIPELINING\r\n"


def send(port: int, password: Secret, subject: str, blocks: int) -> str:
    """Without keeping the message in memory; its queue id."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client, client.makefile("rb") as heard:

        def say(octets: bytes, expected: bytes) -> bytes:
            client.sendall(octets)
            line = heard.readline()
            while line[3:4] == b"-":
                line = heard.readline()
            assert line.startswith(expected), line
            return line

        say(b"", b"220")
        say(b"EHLO me\r\n", b"250")
        login = base64.b64encode(f"\0{PRINTER}\0{password.reveal()}".encode())
        say(b"AUTH PLAIN " + login + b"\r\n", b"235")
        say(b"MAIL FROM:<scan@printer.example> SIZE=%d\r\n" % (blocks * len(BLOCK)), b"250")
        say(b"RCPT TO:<" + BOB.encode() + b">\r\n", b"250")
        say(b"DATA\r\n", b"354")
        client.sendall(f"Subject: {subject}\r\n\r\n".encode())
        for _ in range(blocks):
            client.sendall(BLOCK)
        return say(b".\r\n", b"250").decode().split()[-1]


def most_memory(gateway: Serving) -> int:
    """Megabytes that the process has had at most."""
    status = Path(f"/proc/{gateway.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


async def test_a_message_of_100_mb_needs_no_more_memory_than_a_small_one(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, liar(server_context(tmp_path / "box")) as server:
        server.says = {"EHLO": BY_CHUNKS}
        async with house(tmp_path / "data", provider.apply_file(ALICE), background=False) as made:
            assert (await made.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
            own = f'app = "demo"\nsmtp = "localhost:{server.port} tls"'
            await made.apply(provider.apply_file(ALICE).replace('app = "demo"', own))
            password = made.passwords[PRINTER]
        with serving(tmp_path, tmp_path / "data", more='message_size = "120 MB"') as gateway:
            await asyncio.to_thread(gateway.start)
            memory, blocks = [], (4, MEGABYTES * 1024**2 // len(BLOCK))
            for number in blocks:
                queue_id = await asyncio.to_thread(send, gateway.smtp_ports[0], password, f"{number} blocks", number)

                async def sent(queue_id: str = queue_id) -> bool:
                    return gateway.states()[queue_id] == "sent"

                await until(sent, "the message being sent")
                memory.append(most_memory(gateway))
    small, large = server.taken
    assert [small.count(LINE), large.count(LINE)] == [number * 3500 for number in blocks]
    assert large.endswith(BLOCK)
    assert memory[1] - memory[0] < 30


async def test_a_message_to_10_000_people_reaches_each_of_them_once(tmp_path: Path) -> None:
    people = [f"person{number}@example.org" for number in range(10_000)]
    limits = "[provider.limits]\nrecipients_per_message = 500\nrecipients_per_day = 10000\n"
    async with box(tmp_path / "box", recipients_per_message=500, recipients_per_day=10_000) as provider:
        text = provider.apply_file(ALICE).replace("[[app]]", f"{limits}[[app]]", 1)
        async with house(tmp_path / "data", text) as gateway:
            assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
            letter = {"to": [BOB], "bcc": people[1:], "subject": "To everybody", "text": "Hello\n"}
            async with over_socket(gateway) as api:
                answer = await api.post("/messages", letter)
                assert answer.status_code == 202, answer.text
                found = await gateway.until_message(answer.json()["id"], "sent")
                shown = await api.get(f"/messages/{found.id}")
                assert len(shown.json()["recipients"]) == 10_000
            assert found.attempts == 1
            assert provider.sandbox.post.received == Counter({BOB: 1, **dict.fromkeys(people[1:], 1)})
            assert provider.sandbox.post.sent[ALICE] == 20
            assert await gateway.lines(found.id) == ["accepted", *["sent in part"] * 19, "sent"]
