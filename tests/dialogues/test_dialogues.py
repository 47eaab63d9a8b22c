"""Plays the dialogues `smtp-*.txt` beside this file against the SMTP server engine.

    # why the dialogue is there
    ! starttls size_limit=100       what differs from the plainest policy; `no-` turns something off
    C EHLO me.example               the client says this line
    R one\\n.\\ntwo                   the client sends these octets, no line end added; \\r \\n \\0 \\x00 are read
    S 250-*                         the server answers this line; * stands for anything, and after `250-` for any
                                    number of such lines
    S                               the server has nothing to say
    TLS                             the handshake is done
    END                             the server has closed, and has said why (`Ending`)
    GOT 1                           so many messages were taken until now

The driver behind the engine knows `me` with the password `secret` (and the token `secret`), has no recipient whose
name begins with `nobody`, and takes every message.
"""

from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from posthouse.protocol import smtp_reply as replies
from posthouse.protocol import smtp_server as smtp
from posthouse.protocol.sasl import Credentials
from posthouse.protocol.smtp_reply import Reply
from posthouse.protocol.smtp_server import ServerPolicy, SmtpServer
from posthouse.secret import Secret

HERE = Path(__file__).parent
PLAINEST = ServerPolicy("gw.example", auth_required=False, auth_needs_tls=False)


class Player:
    def __init__(self, policy: ServerPolicy) -> None:
        self.server = SmtpServer(policy)
        self.unheard = self.server.data_to_send()
        self.taken = 0
        self.ending = ""

    def play(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        match word:
            case "C":
                self._send(rest.encode() + b"\r\n")
            case "R":
                self._send(rest.encode("latin-1").decode("unicode_escape").encode("latin-1"))
            case "S":
                self._hear(rest)
            case "TLS":
                self.server.tls_started()
            case "END":
                assert self.ending == rest
            case "GOT":
                assert self.taken == int(rest)
            case _:
                raise AssertionError("not a line of a dialogue")

    def finish(self) -> None:
        assert self.unheard == b"", "the server said more"

    def _send(self, data: bytes) -> None:
        self.server.receive_data(data)
        while (event := self.server.next_event()) is not None:
            if isinstance(event, smtp.Ended):
                self.ending = event.reason.name
            elif reply := self._decision(event):
                self.server.reply(reply)
        self.unheard += self.server.data_to_send()

    def _hear(self, pattern: str) -> None:
        if not pattern:
            assert self.unheard == b""
            return
        assert self._heard(pattern), f"the server says {self.unheard!r}"
        while pattern.endswith("-*") and self._heard(pattern):
            pass

    def _heard(self, pattern: str) -> bool:
        line, end, rest = self.unheard.partition(b"\r\n")
        if not end or not fnmatchcase(line.decode(), pattern):
            return False
        self.unheard = rest
        return True

    def _decision(self, event: smtp.Event) -> Reply | None:
        match event:
            case smtp.StartTls():
                return replies.READY_FOR_TLS
            case smtp.Authenticate(Credentials(user=user, secret=secret)):
                return replies.AUTHENTICATED if (user, secret) == ("me", Secret("secret")) else replies.WRONG_PASSWORD
            case smtp.MailFrom():
                return replies.SENDER_OK
            case smtp.RcptTo(address):
                return Reply(550, "5.1.1", "Unknown") if address.startswith("nobody") else replies.RECIPIENT_OK
            case smtp.DataBegun():
                return replies.GO_AHEAD
            case smtp.BodyEnd():
                self.taken += 1
                return replies.OK
        return None


def policy(words: list[str]) -> ServerPolicy:
    """The plainest policy with what the dialogue wants otherwise."""
    wishes: dict[str, Any] = {}
    for word in words:
        name, _, value = word.removeprefix("no-").partition("=")
        number = int(value) if value.isdecimal() else None
        wishes[name] = number or tuple(value.split(",")) if value else not word.startswith("no-")
    return replace(PLAINEST, **wishes)


@pytest.mark.parametrize("file", sorted(HERE.glob("smtp-*.txt")), ids=lambda file: file.stem)
def test_the_server_plays_its_part(file: Path) -> None:
    lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
    wishes = " ".join(line[1:] for line in lines if line.startswith("!")).split()
    player = Player(policy(wishes))
    for line in lines:
        if line.startswith("!"):
            continue
        try:
            player.play(line)
        except AssertionError as wrong:
            raise AssertionError(f"{file.name}: {line}: {wrong}") from None
    player.finish()


def test_the_player_notices_a_wrong_answer() -> None:
    player = Player(PLAINEST)
    with pytest.raises(AssertionError):
        player.play("S 554 *")
