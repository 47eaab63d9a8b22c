"""`posthouse app guide` and `posthouse app check`: how to register an app, and whether the provider knows it."""

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from posthouse.cli.calling import Call, calling, clean, show
from posthouse.cli.connection import connect, path_of
from posthouse.cli.options import common
from posthouse.cli.testing import end, tell
from posthouse.problems import problem

if TYPE_CHECKING:
    from posthouse.settings import Settings

WAYS = ("browser", "device", "paste", "link", "app")
CREDENTIALS = ("none", "secret", "certificate", "service_account")
STEPS = {
    "discovery": "the sign-in's description of itself",
    "browser": "the sign-in page, with our client id and redirect URL",
    "device": "a device code",
    "client": "what the app shows itself with",
}
SHELLS = {"powershell": ".ps1", "az": ".sh"}
WIDTH = 100


@click.command(epilog="Example:  posthouse app guide microsoft --way device --send --receive imap")
@click.argument("provider")
@click.option("--way", type=click.Choice(WAYS), help="How a token will be got; left out, the first that is open.")
@click.option("--send", is_flag=True, help="For sending; so it is too when nothing else is said.")
@click.option("--receive", type=click.Choice(("imap", "pop3")), help="For receiving.")
@click.option("--credential", type=click.Choice(CREDENTIALS), help="What the app shows itself with.")
@click.option("--mailbox", "mailboxes", multiple=True, metavar="ADDRESS", help="Goes into the scripts; more than once.")
@click.option("--tenant", help="Microsoft: the directory, by domain or id.")
@click.option("--app", "name", metavar="NAME", help="An app registration that Posthouse has already.")
@click.option("--shell", type=click.Choice(tuple(SHELLS)), help="Print only the script for it.")
@common
@click.option("--json", "as_json", is_flag=True, help="Print JSON, as the API answers it.")
def guide(
    config: Path | None, debug: bool, as_json: bool, provider: str, name: str | None, shell: str | None, **asked: Any
) -> None:
    """How to register an app at a provider: the exact redirect URL, the permissions, a script or a list of steps.

    What Posthouse knows is filled in. The steps end with what goes into an apply file.
    """
    from posthouse.settings import read_settings

    settings = read_settings(config, os.environ)
    wanted = {"app": name, "mailbox": list(asked.pop("mailboxes")), **asked}
    found = _ask(settings, provider, {key: value for key, value in wanted.items() if value}, debug=debug)
    if shell:
        click.echo(_script(found, SHELLS[shell]), nl=False)
    else:
        show(found, _tell, as_json=as_json)


def _ask(settings: "Settings", provider: str, wanted: dict[str, Any], *, debug: bool) -> dict[str, Any]:
    """It is the first thing that somebody wants to know, so it works before there is any data. Raises ProblemError."""
    if settings.data.is_dir():
        with connect(settings, debug=debug) as api:
            return dict(api.get(path_of("providers", provider, "guide"), **wanted))
    from posthouse.providers.provider import built_in
    from posthouse.services.app_guide import Asked, app_guide
    from posthouse.services.directory import NOTHING, Snapshot
    from posthouse.web.api.registering import shape

    asked = Asked(**{**wanted, "mailboxes": tuple(wanted.pop("mailbox", ()))})
    return shape(app_guide(Snapshot(NOTHING, dict(built_in())), settings.external_url, provider, asked)).model_dump()


def _script(found: dict[str, Any], ending: str) -> str:
    """Raises ProblemError where there is none."""
    for one in found["scripts"]:
        if one["name"].endswith(ending):
            return str(one["text"])
    raise problem("guide.no-script", f"There is no script for {found['title']}.", "Leave --shell out for the steps.")


def _tell(found: dict[str, Any]) -> None:
    if found["closed"]:
        click.echo(found["closed"])
        if found["ways"]:
            click.echo(f"Open are: {', '.join(found['ways'])}.")
        return
    for warning in found["warnings"]:
        click.echo(_wrapped(f"Warning: {warning}", ""), err=True)
    for option, one in zip(SHELLS, found["scripts"], strict=False):
        click.echo(f"Script for {one['title']}: this command with --shell {option} > {one['name']}")
    if found["scripts"]:
        click.echo("Or by hand:")
    for number, step in enumerate(found["steps"], start=1):
        click.echo(_wrapped(step["text"], f"{number}. "))
        for line in step["lines"]:
            click.echo(f"       {line}")
    for one in found["borrowed"]:
        click.echo(f"Without a registration of your own, that of {one['title']}:")
        click.echo(_wrapped(f"Warning: {one['warning']}", ""))
        for line in one["lines"]:
            click.echo(f"       {line}")


def _wrapped(text: str, mark: str) -> str:
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=mark,
        subsequent_indent=" " * len(mark),
        break_long_words=False,
        break_on_hyphens=False,
    )


@click.command(epilog="Example:  posthouse app check office")
@click.argument("name")
@calling()
def check(call: Call, name: str) -> int:
    """Ask the provider, with harmless requests, whether it knows an app registration.

    Nobody signs in, and what the provider gives is thrown away. Ends with 0 when all passed, 1 when a person has to do
    something, 75 when waiting may help.
    """
    reports: list[dict[str, Any]] = []
    for step, title in STEPS.items():
        if not call.as_json:
            click.echo(f"{title} … ", nl=False)
        report = call.api.post(path_of("apps", name, "check"), {"only": [step]})
        reports.append(report)
        if not call.as_json:
            for one in report["checks"]:
                tell(one)
    if not call.as_json:
        _tell_app(reports[0])
    return end(call, reports)


def _tell_app(report: dict[str, Any]) -> None:
    for warning in report["warnings"]:
        click.echo(_wrapped(f"Warning: {warning}", ""), err=True)
    click.echo(f"redirect URL: {clean(report['redirect_url'], 2000)}")
