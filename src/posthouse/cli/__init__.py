"""The command line. Each command lies in a module of its own, loaded only when it is asked for."""

import importlib
import sys
from typing import Any

import click

from posthouse import __version__
from posthouse.problems import ProblemError

COMMANDS = {
    "serve": ("posthouse.cli.serve", "serve", "The gateway."),
    "demo": ("posthouse.cli.demo", "demo", "The gateway with a provider in a box, to try it out."),
    "sandbox": ("posthouse.cli.sandbox", "sandbox", "The provider in a box alone."),
}
"""Name: module, attribute, one line of help."""


class LazyGroup(click.Group):
    """Knows the names and one line of help of its commands without loading them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

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


def main(arguments: list[str] | None = None) -> Any:
    """Run a command; the exit status is one of sysexits, as in the reference."""
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    try:
        status = posthouse.main(args=words, prog_name="posthouse", standalone_mode=False)
    except ProblemError as error:
        return _end(error.status, [str(problem) for problem in error.problems], debug)
    except click.UsageError as error:
        return _end(64, [error.format_message()], debug)
    except click.Abort:
        return _end(130, [], debug)
    except click.exceptions.Exit as end:
        return _end(end.exit_code, [], False)
    except Exception as fault:
        words_of_fault = f"Posthouse itself failed ({type(fault).__name__}). Run it again with --debug and tell us."
        return _end(70, [words_of_fault], debug)
    return _end(status if isinstance(status, int) else 0, [], False)


def _end(status: int, sentences: list[str], debug: bool) -> Any:
    if debug and sys.exc_info()[0] is not None and status not in (0, 130):
        import traceback

        traceback.print_exc()
    for sentence in sentences:
        click.echo(sentence, err=True)
    raise SystemExit(status)
