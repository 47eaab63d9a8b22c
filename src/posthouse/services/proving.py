"""Proving a token: one login and one cheap command for a protocol, since a login alone proves little at Exchange."""

from dataclasses import dataclass
from typing import Literal

from posthouse.model.delivery import ACCOUNT_CLASSES
from posthouse.model.mailbox import Mailbox, Protocol
from posthouse.providers.catalogue import Entry, explain_imap, explain_network, explain_pop3, explain_smtp
from posthouse.providers.provider import Family
from posthouse.services.credentials import Way
from posthouse.services.imap_session import open_imap
from posthouse.services.pop_session import open_pop
from posthouse.services.upstream import GOODBYE, UpstreamFailed, open_smtp

Verdict = Literal["proved", "refused", "unreachable"]


@dataclass(frozen=True, slots=True)
class Proof:
    """`answer` is the server's, `cause` and `fix` the catalogue's words for it, `class_` what it calls for.

    `stage` is where it failed, as in UpstreamFailed; empty where it was not tried, or is proved.
    """

    protocol: Protocol
    verdict: Verdict
    answer: str = ""
    cause: str = ""
    fix: str = ""
    class_: str = ""
    stage: str = ""


async def prove(mailbox: Mailbox, protocol: Protocol, way: Way, *, hostname: str, family: Family) -> Proof:
    """Try the protocol with this way to log in."""
    try:
        answer = await _TRIES[protocol](mailbox, way, hostname)
    except UpstreamFailed as failed:
        return failure(protocol, failed, family)
    except (OSError, ValueError) as cause:
        return Proof(protocol, "unreachable", f"it could not be tried: {cause}"[:500])
    return Proof(protocol, "proved", answer)


async def _try_smtp(mailbox: Mailbox, way: Way, hostname: str) -> str:
    session = await open_smtp(
        way.endpoint, way.login, hostname=hostname, ca_file=way.ca_file, timeout=mailbox.settings.timeout
    )
    try:
        reply = await session.noop()
    finally:
        session.close()
        await session.channel.wait_closed(GOODBYE)
    if not reply.accepted:
        raise UpstreamFailed("command", str(reply), reply=reply)
    return str(reply)


async def _try_imap(mailbox: Mailbox, way: Way, hostname: str) -> str:
    session = await open_imap(way.endpoint, way.login, ca_file=way.ca_file, timeout=mailbox.settings.timeout)
    try:
        session.engine.select(mailbox.settings.folder, read_only=True)
        await session.succeed()
    finally:
        await session.close()
    return f"opened {mailbox.settings.folder}"


async def _try_pop3(mailbox: Mailbox, way: Way, hostname: str) -> str:
    session = await open_pop(way.endpoint, way.login, ca_file=way.ca_file, timeout=mailbox.settings.timeout)
    try:
        size = await session.size()
    finally:
        await session.close()
    return f"{size.count} messages"


_TRIES = {"smtp": _try_smtp, "imap": _try_imap, "pop3": _try_pop3}


def failure(protocol: Protocol, failed: UpstreamFailed, family: Family) -> Proof:
    """What a login or command that failed says about the protocol."""
    entry = _explain(protocol, failed, family)
    verdict: Verdict = "refused" if _is_refusal(failed, entry) else "unreachable"
    said = (entry.meaning, entry.fix, entry.class_) if entry else ("", "", "")
    return Proof(protocol, verdict, failed.text, *said, stage=failed.stage)


def _explain(protocol: Protocol, failed: UpstreamFailed, family: Family) -> Entry | None:
    if failed.reply is not None:
        return explain_smtp(family, failed.reply.code, failed.reply.enhanced, failed.reply.text)
    if failed.stage in ("name", "connect", "tls", "time"):
        where = {"name": "dns", "tls": "tls"}.get(failed.stage, "tcp")
        return explain_network(where, family, failed.text)  # type: ignore[arg-type]
    if protocol == "imap":
        status, _, text = failed.text.partition(" ")
        return explain_imap(family, status, text)
    return explain_pop3(family, failed.text.removeprefix("-ERR ")) if protocol == "pop3" else None


def _is_refusal(failed: UpstreamFailed, entry: Entry | None) -> bool:
    """Whether asking again would bring the same answer: never for the network or for what a server calls temporary."""
    if failed.stage not in ("login", "command"):
        return False
    if entry is not None:
        return entry.class_ in ACCOUNT_CLASSES
    return failed.reply is None or failed.reply.permanent
