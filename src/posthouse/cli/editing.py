"""`add`, `edit` and `remove` of mailboxes, app registrations, providers and devices, with the keys of an apply file.

Secrets come from a prompt, a file or the environment: what stands on a command line can be read by everybody.
"""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from posthouse.cli.calling import Call, calling, clean, confirm
from posthouse.cli.connection import path_of
from posthouse.providers import applied

PATHS = {"mailbox": "mailboxes", "app": "apps", "provider": "providers", "device": "devices"}
NAMES = {"mailbox": "address", "app": "name", "provider": "name", "device": "name"}
TEXTS = {
    "mailbox": (
        "app", "signs_in_as", "method", "smtp", "imap", "pop3", "smtp_user", "imap_user", "pop3_user", "timeout",
        "sender", "sender_name", "sender_address", "receive", "folder", "check_interval", "after_fetch",
        "destination", "token", "sending_token", "receiving_token", "notices_token",
    ),
    "app": ("provider", "client_id", "secret_expires", "tenant"),
    "provider": (
        "title", *applied.URLS, "smtp", "imap", "pop3", "ca_file", "limits.size",
    ),
    "device": ("rate", "lane", "deadline"),
}  # fmt: skip
LISTS = {
    "mailbox": ("senders", "also_known_as"),
    "app": (),
    "provider": ("scopes",),
    "device": ("mailboxes", "protocols", "networks", "senders"),
}
FLAGS = {
    "mailbox": ("send", "default", "ordered"),
    "app": ("testing",),
    "provider": ("own_redirect",),
    "device": ("ordered",),
}
COUNTS = {"provider": tuple(f"limits.{key}" for key in applied.COUNTS)}
SECRETS = {"mailbox": ("password",), "app": ("client_secret",), "provider": (), "device": ("password",)}
FILES = {"app": ("private_key", "certificate", "service_account")}
"""Secrets of several lines: only from a file."""
EXAMPLES = {
    "mailbox": ("support@example.com --app office", "support@example.com --sender-name Support"),
    "app": ("office --provider microsoft --client-id ID --client-secret", "office --secret-expires 2027-05-01"),
    "provider": ("example --issuer https://id.example.com --smtp 'mail.example.com:587 starttls'",
                 "example --imap 'mail.example.com:993 tls'"),
    "device": ("printer --mailboxes support@example.com", "printer --networks 10.0.0.0/8"),
}  # fmt: skip
LARGEST_FILE = 64 * 1024
Command = Callable[..., Any]


def add_verbs(group: click.Group, kind: str) -> None:
    """Give the group its `add`, `edit` and `remove`."""
    group.add_command(_add(kind))
    group.add_command(_edit(kind))
    group.add_command(_remove(kind))


def _add(kind: str) -> click.Command:
    @click.command("add", epilog=f"Example:  posthouse {kind} add {EXAMPLES[kind][0]}")
    @click.argument("name", metavar=NAMES[kind].upper())
    @_with_options(kind)
    @calling()
    def add(call: Call, name: str, **words: Any) -> int:
        """Make a new one. Every mistake is told at once, and nothing is made then."""
        test = words.pop("test", False)
        table = {NAMES[kind]: name, **_table(kind, words)}
        done = call.api.post(f"/{PATHS[kind]}", table)
        return _tell(call, kind, done, test=test)

    return add


def _edit(kind: str) -> click.Command:
    @click.command("edit", epilog=f"Example:  posthouse {kind} edit {EXAMPLES[kind][1]}")
    @click.argument("name", metavar=NAMES[kind].upper())
    @_with_options(kind)
    @click.option("--unset", multiple=True, metavar="KEY", help="Take this away, as if it had never been given.")
    @_about_mail(kind)
    @calling()
    def edit(call: Call, name: str, unset: tuple[str, ...], **words: Any) -> int:
        """Change what is named; everything else keeps its value."""
        test, mail = words.pop("test", False), {key: words.pop(key, None) for key in ("move_to", "discard")}
        table = _table(kind, words) | _nested({key.replace("-", "_"): None for key in unset})
        if not table:
            raise click.UsageError(f"Say what is to be changed: posthouse {kind} edit --help")
        done = call.api.patch(path_of(PATHS[kind], name), table, **mail)
        return _tell(call, kind, done, test=test)

    return edit


def _remove(kind: str) -> click.Command:
    @click.command("remove", epilog=f"Example:  posthouse {kind} remove {EXAMPLES[kind][1].split()[0]}")
    @click.argument("name", metavar=NAMES[kind].upper())
    @click.option("--yes", is_flag=True, help="Do not ask.")
    @_about_mail(kind)
    @calling()
    def remove(call: Call, name: str, yes: bool, **mail: Any) -> int:
        """Remove it, unless something uses it."""
        call.api.get(path_of(PATHS[kind], name))
        confirm(f"Remove the {kind} {name}?", yes=yes)
        return _tell(call, kind, call.api.delete(path_of(PATHS[kind], name), **mail))

    return remove


def _about_mail(kind: str) -> Callable[[Command], Command]:
    if kind != "mailbox":
        return lambda command: command
    move_to = click.option("--move-to", metavar="ADDRESS", help="The mailbox that is to send what waits here.")
    discard = click.option("--discard", metavar="N", type=int, help="Throw away so many queued messages.")
    return lambda command: move_to(discard(command))


# Options to a table, as it stands in an apply file


def _with_options(kind: str) -> Callable[[Command], Command]:
    options = [_option(key) for key in TEXTS[kind]]
    options += [_option(key, multiple=True, help="Give it once for each; all of them.") for key in LISTS[kind]]
    options += [click.option(f"--{_dashed(key)}/--no-{_dashed(key)}", key, default=None) for key in FLAGS[kind]]
    options += [_option(key, type=int, metavar="N") for key in COUNTS.get(kind, ())]
    options += [option for key in SECRETS[kind] for option in _secret_options(key)]
    options += [_file_option(key) for key in FILES.get(kind, ())]
    if kind == "device":
        options.append(click.option("--new-password", is_flag=True, help="Make a new one, and print it once."))
    if kind == "mailbox":
        options.append(click.option("--test", is_flag=True, help="Run the connection test afterwards."))

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _dashed(key: str) -> str:
    return key.replace("_", "-").replace("limits.", "limit-")


def _option(key: str, **more: Any) -> Callable[[Command], Command]:
    return click.option(f"--{_dashed(key)}", _argument(key), **{"metavar": "TEXT", **more})


def _secret_options(key: str) -> list[Callable[[Command], Command]]:
    name = _dashed(key)
    return [
        click.option(f"--{name}", f"ask_{key}", is_flag=True, help="Ask for it, or read a line of standard input."),
        _file_option(key),
        click.option(f"--{name}-env", f"env_{key}", metavar="NAME", help="From this environment variable."),
    ]


def _file_option(key: str) -> Callable[[Command], Command]:
    path = click.Path(path_type=Path, dir_okay=False, exists=True)
    return click.option(f"--{_dashed(key)}-file", f"file_{key}", type=path, help="From this file.")


def _table(kind: str, words: Mapping[str, Any]) -> dict[str, Any]:
    given = {key: words[_argument(key)] for key in keys_of(kind) if words.get(_argument(key)) not in (None, ())}
    table: dict[str, Any] = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
    if table.get("ca_file"):
        table["ca_file"] = str(Path(table["ca_file"]).absolute())
    if words.get("new_password"):
        table["password"] = None
    return _nested(table) | _secrets(kind, words)


def keys_of(kind: str) -> tuple[str, ...]:
    """The keys of an apply file that have an option, without its name and its secrets."""
    return (*TEXTS[kind], *LISTS[kind], *FLAGS[kind], *COUNTS.get(kind, ()))


def _argument(key: str) -> str:
    return key.replace(".", "_")


def _nested(table: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of the limits in a table of their own."""
    limits = {key.removeprefix("limits."): value for key, value in table.items() if key.startswith("limits.")}
    rest = {key: value for key, value in table.items() if not key.startswith("limits.")}
    return rest | ({"limits": limits} if limits else {})


def _secrets(kind: str, words: Mapping[str, Any]) -> dict[str, str]:
    keys = (*SECRETS[kind], *FILES.get(kind, ()))
    return {key: found for key in keys if (found := _secret(key, words)) is not None}


def _secret(key: str, words: Mapping[str, Any]) -> str | None:
    if words.get(f"ask_{key}"):
        return _asked(key)
    if path := words.get(f"file_{key}"):
        return _from_file(key, path)
    if name := words.get(f"env_{key}"):
        if not os.environ.get(name):
            raise click.UsageError(f"The environment variable {name} is not set.")
        return os.environ[name]
    return None


def _asked(key: str) -> str:
    if sys.stdin.isatty():
        typed: str = click.prompt(key.replace("_", " ").capitalize(), hide_input=True, err=True)
        return typed
    return sys.stdin.readline(LARGEST_FILE).rstrip("\r\n")


def _from_file(key: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        text = content.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        raise click.UsageError(f"The file {path} cannot be read as text.") from None
    if len(content) > LARGEST_FILE:
        raise click.UsageError(f"The file {path} is too large for a {key.replace('_', ' ')}.")
    return text.rstrip("\r\n")


# What was done


def _tell(call: Call, kind: str, done: dict[str, Any], *, test: bool = False) -> int:
    call.show(done, lambda _: _say(kind, done))
    if not test:
        return 0
    from posthouse.cli.testing import run

    return run(call, done["name"])


def _say(kind: str, done: dict[str, Any]) -> None:
    keys = f": {', '.join(done['changed'])}" if done["changed"] else ""
    click.echo(f"{kind} {done['name']} {done['what']}{keys}")
    for note in done["notes"]:
        click.echo(clean(note, 500))
    if done["password"]:
        click.echo(f"password of device {done['name']}, shown this once: {done['password']}")
