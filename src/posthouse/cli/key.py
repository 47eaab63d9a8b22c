"""`posthouse key`: where the master key comes from, what lies under which data key, and changing both."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from posthouse.cli.calling import Call, calling, confirm, facts, moment, table
from posthouse.problems import problem

POLL = 1.0
STUCK = 300
"""Polls without any progress after which the command stops waiting."""
LONGEST = 1000


@click.group()
def key() -> None:
    """The keys that tokens, secrets and mail are encrypted with."""


@key.command(epilog="Example:  posthouse key status")
@calling()
def status(call: Call) -> int:
    """Where the master key comes from, and how much lies under which data key. Ends with 1 while one is changed."""
    found = call.api.get("/control/sealing")
    call.show(found, _tell)
    return 1 if found["other_masters"] or len(found["keys"]) > 1 else 0


def _tell(found: Mapping[str, Any]) -> None:
    master = found["master"]
    facts({"master key": master["id"], "comes from": master["where"], "also opened by": found["other_masters"]})
    table(
        ("DATA KEY", "STATE", "MADE", "VALUES", "WHAT"),
        ((one["id"], one["state"], moment(one["made_at"]), str(_values(one)), _what(one)) for one in found["keys"]),
        empty="There is no data key.",
    )
    if found["unreadable"]:
        click.echo(_unreadable(found), err=True)
    if found["other_masters"]:
        click.echo(f"A change of the master key is not finished. {_how_to_finish(found)}", err=True)


def _values(one: Mapping[str, Any]) -> int:
    return sum(one["values"].values())


def _what(one: Mapping[str, Any]) -> str:
    return ", ".join(f"{what}: {number}" for what, number in one["values"].items())


def _unreadable(found: Mapping[str, Any]) -> str:
    return (
        f"{found['unreadable']} values cannot be opened, so the former key is kept. They were damaged: restore a "
        "backup, or sign in again for the mailbox that `posthouse status` names."
    )


def _how_to_finish(found: Mapping[str, Any]) -> str:
    behind = [node["id"] for node in found["nodes"] if node["master"] not in ("", found["master"]["id"])]
    first = (
        f"Give {', '.join(behind)} the new key and restart it, then" if behind else "Once every gateway has the key,"
    )
    return f"{first}: posthouse key rotate --finish"


@key.command(epilog="Example:  posthouse key rotate")
@click.option("--master", is_flag=True, help="Change the master key instead, which lies outside the database.")
@click.option("--new-key", type=click.Path(), help="The new master key: a file with it, or - for standard input.")
@click.option("--finish", is_flag=True, help="Forget the former master key, once every gateway has the new one.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--no-wait", is_flag=True, help="End at once; a running gateway goes on with it.")
@calling()
def rotate(call: Call, master: bool, new_key: str | None, finish: bool, yes: bool, no_wait: bool) -> int:
    """Change the data key, or with --master the master key, while everything goes on.

    What lies under the former data key is encrypted anew in the background. After a kill or Ctrl-C the same command
    goes on with it.
    """
    if finish:
        return _finish(call)
    if master or new_key is not None:
        return _change_master(call, _read_key(new_key), yes=yes)
    started = call.api.post("/control/sealing/rotate")
    if no_wait:
        call.show(started, lambda _: click.echo("Begun. How far it is: posthouse key status"))
        return 0
    try:
        return _end(call, _wait(call, started))
    except KeyboardInterrupt:
        click.echo("\nNo longer waiting. A running gateway goes on; else say this again.", err=True)
        return 130


def _wait(call: Call, found: dict[str, Any]) -> dict[str, Any]:
    told, unchanged = "", 0
    while _left(found) > found["unreadable"] or _is_coming(found) or (call.api.alone and _is_removed_next(found)):
        words = _progress(found)
        unchanged = unchanged + 1 if words == told else 0
        if unchanged >= STUCK:
            raise problem("key.stuck", "There is no progress.", "See `posthouse key status` and the log.", status=75)
        if words != told:
            click.echo(words, err=True)
        told = words
        call.api.pause(POLL)
        found = call.api.get("/control/sealing")
    return found


def _is_removed_next(found: Mapping[str, Any]) -> bool:
    return len(found["keys"]) > 1 and not _left(found)


def _left(found: Mapping[str, Any]) -> int:
    return sum(_values(one) for one in found["keys"] if one["state"] == "old")


def _is_coming(found: Mapping[str, Any]) -> bool:
    return any(one["state"] == "coming" for one in found["keys"])


def _progress(found: Mapping[str, Any]) -> str:
    if _is_coming(found):
        behind = [node["id"] for node in found["nodes"] if not node["knows_all"]]
        return f"  the new key is made known to every gateway{': waiting for ' if behind else ''}{', '.join(behind)}"
    left, total = _left(found), sum(_values(one) for one in found["keys"])
    return f"  {total - left} of {total} values are encrypted with the new key"


def _end(call: Call, found: dict[str, Any]) -> int:
    call.show(found, _tell_end)
    return 1 if found["unreadable"] else 0


def _tell_end(found: Mapping[str, Any]) -> None:
    current = next(one for one in found["keys"] if one["state"] == "current")
    click.echo(f"Everything is encrypted with the data key {current['id']}.")
    if found["unreadable"]:
        click.echo(_unreadable(found), err=True)
    elif len(found["keys"]) > 1:
        click.echo("The gateway removes the former key in some minutes, when nothing can be on its way under it.")
    else:
        click.echo("The former key is removed.")


def _read_key(new_key: str | None) -> str:
    """Raises ProblemError."""
    if new_key is None:
        return ""
    try:
        text = sys.stdin.readline(LONGEST) if new_key == "-" else Path(new_key).read_text(errors="replace")[:LONGEST]
    except OSError as cause:
        raise problem("key.unreadable", f"{new_key} cannot be read: {cause.strerror}.", status=64) from None
    if not text.strip():
        raise problem("key.malformed", f"There is no key in {new_key}.", "It is 43 letters of base64.", status=64)
    return text.strip()


def _change_master(call: Call, given: str, *, yes: bool) -> int:
    confirm(
        "Backups made until now can be read with the present master key only: is there a copy of it beside them?",
        yes=yes,
    )
    changed = call.api.post("/control/sealing/master", {"key": given})
    call.show(changed, _tell_master)
    return 0 if changed["done"] else 1


def _tell_master(changed: Mapping[str, Any]) -> None:
    master = changed["master"]
    if changed["done"]:
        click.echo(f"The master key {master['id']} is in {master['where']}, and the former one opens nothing any more.")
    elif master["kind"] in ("file", "keyring"):
        click.echo(f"The master key {master['id']} is in {master['where']}; the former one still opens the database.")
        click.echo(_how_to_finish(changed))
    else:
        click.echo("The new master key opens the database as well as the one in use.")
        click.echo(f"Put it where the old one is, in {master['where']}, for every gateway, and restart them. Then:")
        click.echo("posthouse key rotate --finish")


def _finish(call: Call) -> int:
    changed = call.api.post("/control/sealing/finish")
    words = "The former master key opens nothing any more." if changed["done"] else "There was nothing to finish."
    call.show(changed, lambda _: click.echo(words))
    return 0
