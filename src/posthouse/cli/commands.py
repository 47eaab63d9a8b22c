"""All commands by name. Each lies in a module of its own, loaded only when it is asked for."""

import difflib
import importlib

import click

from posthouse import __version__

COMMANDS = {
    "serve": ("posthouse.cli.serve", "serve", "The gateway."),
    "demo": ("posthouse.cli.demo", "demo", "The gateway with a provider in a box, to try it out."),
    "sandbox": ("posthouse.cli.sandbox", "sandbox", "The provider in a box alone."),
    "apply": ("posthouse.cli.apply", "apply", "Providers, apps, mailboxes and devices from a file."),
    "status": ("posthouse.cli.status", "status", "Everything at a glance."),
    "authorise": ("posthouse.cli.authorise", "authorise", "Get a token for a mailbox, or a new one."),
    "token": ("posthouse.cli.tokens", "token", "Tokens: list, status, print, delete."),
    "mailbox": ("posthouse.cli.mailboxes", "mailbox", "Mailboxes: list, show, add, edit, remove."),
    "app": ("posthouse.cli.configured", "app", "App registrations: list, show, add, edit, remove, guide, check."),
    "provider": ("posthouse.cli.configured", "provider", "Providers: list, show, add, edit, remove."),
    "device": ("posthouse.cli.configured", "device", "Devices: list, show, add, edit, remove."),
    "queue": ("posthouse.cli.queue", "queue", "Mail that waits or has failed: list, show, retry, release, remove."),
    "send": ("posthouse.cli.send", "send", "Hand a message in, as with sendmail."),
    "journal": ("posthouse.cli.journal", "journal", "What happened to messages."),
    "admin": ("posthouse.cli.admin", "admin", "Administrators, sign-in links, API keys."),
    "key": ("posthouse.cli.key", "key", "The keys everything is encrypted with: status, rotate."),
    "test": ("posthouse.cli.testing", "test", "The connection test: the token, then each protocol."),
    "doctor": ("posthouse.cli.later", "doctor", "Not yet available."),
    "received": ("posthouse.cli.later", "received", "Not yet available."),
    "destination": ("posthouse.cli.later", "destination", "Not yet available."),
    "webhook": ("posthouse.cli.later", "webhook", "Not yet available."),
    "import": ("posthouse.cli.later", "import_", "Not yet available."),
    "backup": ("posthouse.cli.later", "backup", "Not yet available."),
    "restore": ("posthouse.cli.later", "restore", "Not yet available."),
    "bundle": ("posthouse.cli.later", "bundle", "Not yet available."),
}
"""Name: module, attribute, one line of help."""
ALIASES = {"authorize": "authorise"}


class LazyGroup(click.Group):
    """Knows the names and one line of help of its commands without loading them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and name not in ALIASES and not name.startswith("-"):
            close = difflib.get_close_matches(name, COMMANDS, 1)
            advice = f"Did you mean '{close[0]}'?" if close else "All commands: posthouse --help"
            raise click.UsageError(f"No such command '{name}'. {advice}", ctx)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            advice = "Options stand after the command's name: posthouse status --debug"
            raise click.UsageError(f"{error.format_message()} {advice}", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="posthouse")
def posthouse() -> None:
    """Posthouse keeps OAuth 2.0 tokens fresh, so that everything that knows only a password can go on with its mail.

    \b
    Try it:      posthouse demo
    Then:        posthouse serve, posthouse apply FILE.toml, posthouse authorise ADDRESS
    """
