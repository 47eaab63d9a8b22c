"""`posthouse test`: the connection test, step by step."""

from typing import Any

import click

from posthouse.cli.calling import Call, calling, clean
from posthouse.cli.connection import path_of

PROTOCOLS = ("smtp", "imap", "pop3")
TITLES = {"token": "token", "smtp": "SMTP", "imap": "IMAP", "pop3": "POP3"}
EXITS = {"passed": 0, "failed": 1, "temporary": 75}


@click.command(epilog="Example:  posthouse test support@example.com --only smtp")
@click.argument("address")
@click.option("--only", type=click.Choice(PROTOCOLS), help="Renew the token, then try just this protocol.")
@click.option("--round-trip", is_flag=True, help="Not yet available: send a message and look for it.")
@calling()
def test(call: Call, address: str, only: str | None, round_trip: bool) -> int:
    """Renew the token, then try each protocol by itself, and say what each has proved.

    Ends with 0 when all passed, 1 when a person has to do something, 75 when waiting may help.
    """
    if round_trip:
        click.echo("--round-trip is not yet available. posthouse send tries the way out.", err=True)
        return 69
    return run(call, address, only)


def run(call: Call, address: str, only: str | None = None) -> int:
    """The steps one after the other, told as they end; the exit status."""
    reports = []
    known = call.api.get(path_of("mailboxes", address))
    for name in ("token", *((only,) if only else _used(known))):
        if not call.as_json:
            click.echo(f"{TITLES[name]} … ", nl=False)
        report = call.api.post(path_of("mailboxes", address, "test"), {"only": [name]})
        reports.append(report)
        if not call.as_json:
            tell(report["checks"][0], f"Get a token: posthouse authorise {address}")
        if name == "token" and report["verdict"] != "passed" and len(known["tokens"]) < 2:
            break
    return end(call, reports)


def _used(known: dict[str, Any]) -> list[str]:
    return [server["protocol"] for server in known["servers"]]


def tell(check: dict[str, Any], without_token: str = "") -> None:
    """One step; `without_token` is the way out where there is none."""
    words = {"passed": "good", "failed": "failed", "skipped": "not tried", "unused": "not used"}
    click.echo(f"{words[check['state']]} ({check['seconds']:.1f} s)")
    asked = check["asked"] if check["state"] == "failed" else ""
    for line in (asked, check["sentence"], check["evidence"], check["cause"], check["fix"]):
        if line:
            click.echo(f"    {clean(line, 900)}")
    if check["name"] == "token" and check["state"] == "failed" and not check["temporary"]:
        click.echo(f"    {without_token}")


def end(call: Call, reports: list[dict[str, Any]]) -> int:
    verdicts = {report["verdict"] for report in reports}
    verdict = next((one for one in ("failed", "temporary") if one in verdicts), "passed")
    together = {**reports[0], "verdict": verdict, "checks": [check for one in reports for check in one["checks"]]}
    call.show(together, lambda _: None)
    return EXITS[verdict]
