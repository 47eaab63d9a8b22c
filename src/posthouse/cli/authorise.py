"""`posthouse authorise`: get a token for a mailbox, or a new one, with a person signing in somewhere."""

import sys
from typing import Any

import click

from posthouse.cli.calling import Call, calling, clean, confirm
from posthouse.cli.connection import path_of
from posthouse.cli.tokens import purpose_option
from posthouse.problems import ProblemError

POLL = 0.5
METHODS = ("browser", "device", "paste", "link", "app")
QR_LIMIT = 300
"""Characters of an address that is drawn; a larger picture would fill the terminal."""
PASTED = 16_384
"""Characters of a pasted address."""
PROGRESS = {
    "permitted": "permission was given, the token is being acquired",
    "proving": "the token is being tried at the mail servers",
}


@click.command(
    epilog="Example:  posthouse authorise support@example.com --method device",
)
@click.argument("address")
@click.option(
    "--method",
    type=click.Choice(METHODS),
    help="How to sign in. device: a code to type anywhere. browser: a page of this gateway. paste: the browser is"
    " elsewhere and cannot reach the gateway. link: a page for the mailbox's owner, valid for days."
    " app: nobody signs in, the app registration has rights of its own.",
)
@purpose_option
@click.option(
    "--switch",
    "account",
    metavar="ACCOUNT",
    help="The mailbox is to sign in as ACCOUNT from then on; what serves goes on until that has proved itself.",
)
@click.option("--no-wait", is_flag=True, help="Print where to sign in, and end.")
@calling()
def authorise(
    call: Call, address: str, method: str | None, purpose: str | None, account: str | None, no_wait: bool
) -> int:
    """Get a token, or re-authorise: the old one serves until the new one has proved itself.

    Prints where to sign in, waits, and ends with 0 when the token is proved and 1 when a person is still needed.
    Ctrl-C ends only the waiting.
    """
    asked = {"method": method, "for": purpose, "switch_to": account}
    wanted = {name: value for name, value in asked.items() if value}
    begun = call.api.post(path_of("mailboxes", address, "authorisations"), wanted)
    if begun["url"] and begun["method"] != "paste":
        _open_page(call, begun)
    call.show(begun, lambda one: _tell_where(address, one))
    if no_wait or begun["method"] == "link":
        return 0
    try:
        if begun["method"] == "paste":
            _paste(call, begun)
        ended = _end(call, _wait(call, begun))
        if ended == 0:
            _tell_what_is_left(call, address)
        return ended
    except KeyboardInterrupt:
        click.echo("\nNo longer waiting; the sign-in can still be finished while a gateway runs.", err=True)
        return 130


def _tell_what_is_left(call: Call, address: str) -> None:
    """A setting with a token of its own has to be authorised as well."""
    from posthouse.cli.wording import step_for

    if step := step_for(call.api.get(path_of("mailboxes", address))):
        click.echo(f"Still to do: {step}", err=True)


def _open_page(call: Call, begun: dict[str, Any]) -> None:
    """The browser has to reach us, or nothing will come of it. Raises ProblemError."""
    try:
        call.api.can_be_visited()
    except ProblemError:
        call.api.delete(path_of("authorisations", begun["id"]))
        raise


def _tell_where(address: str, one: dict[str, Any]) -> None:
    """The address and the code on lines of their own, so that they can be copied and read by programs."""
    if one["method"] == "app":
        return
    if one["method"] == "link":
        click.echo(f"Send this link to whoever signs in for {address}; it works until {one['expires_at']}:")
        click.echo(one["url"])
        return
    if one["method"] == "paste":
        click.echo(f"Open this in any browser, and sign in for {address}:")
        click.echo(clean(one["url"], PASTED))
        return
    if one["url"]:
        click.echo(f"Open this in a browser on a machine that reaches it, and sign in for {address}:")
        click.echo(one["url"])
        return
    click.echo(f"Open this page, and sign in for {address}:")
    click.echo(clean(one["verification_uri"], 2000))
    click.echo("with this code:")
    click.echo(clean(one["user_code"]))
    _draw(one["verification_uri_complete"] or one["verification_uri"])


def _draw(url: str) -> None:
    """A QR code for a phone, where somebody looks."""
    if sys.stdout.isatty() and len(url) <= QR_LIMIT:
        import segno

        segno.make_qr(url).terminal(compact=True, border=2)


def _paste(call: Call, begun: dict[str, Any]) -> None:
    """Ask until the address fits. Raises ProblemError at the end of the input."""
    click.echo("In the end the browser shows a page, perhaps only that it cannot be reached.", err=True)
    while True:
        click.echo("Paste the whole address of that page: ", nl=False, err=True)
        given = sys.stdin.readline(PASTED)
        try:
            call.api.post(path_of("authorisations", begun["id"], "paste"), {"address": given.strip()})
            return
        except ProblemError as wrong:
            if not given or wrong.problems[0].id != "sign-in.foreign":
                raise
            click.echo(str(wrong), err=True)


def _wait(call: Call, begun: dict[str, Any]) -> dict[str, Any]:
    told = begun["state"]
    if begun["method"] != "app":
        click.echo("Waiting for the sign-in … (Ctrl-C ends only the waiting)", err=True)
    while True:
        current: dict[str, Any] = call.api.get(path_of("authorisations", begun["id"]))
        words = f"{current['state']} {current['detail']}"
        if words != told and current["state"] in PROGRESS:
            told = words
            click.echo(f"  {PROGRESS[current['state']]} {clean(current['detail'], 300)}".rstrip(), err=True)
        if current["ended"] or current["state"] == "unverified":
            return current
        if current["state"] == "proving" and current["reason"] == "refused":
            return current
        call.api.pause(POLL)


def _end(call: Call, current: dict[str, Any]) -> int:
    if current["state"] == "unverified":
        click.echo(clean(current["detail"], 500), err=True)
        otherwise = "Confirm it on the page of the mailbox, or run this on a terminal."
        confirm("Was it the right person who signed in?", yes=False, otherwise=otherwise)
        call.api.post(path_of("authorisations", current["id"], "confirm"))
        return _end(call, _wait(call, current))
    if current["state"] == "done":
        call.show(current, lambda _: click.echo("Authenticated: the token is acquired and proved."))
        return 0
    call.show(current, lambda _: None)
    reason = clean(current["detail"] or current["reason"], 900)
    click.echo(f"Not authenticated ({current['state']}): {reason}", err=True)
    if current["reason"] == "way_closed":
        click.echo("This way is closed; another one may be open: --method browser, paste or link.", err=True)
    if current["person"]:
        click.echo(f"If that is the account to use from now on: --switch {clean(current['person'])}", err=True)
    return 1
