"""The command line: runs one command, and makes one sentence of whatever goes wrong."""

import os
import sys
from typing import Any

from posthouse.cli.quick import print_token
from posthouse.problems import ProblemError


def main(arguments: list[str] | None = None) -> Any:
    """Run a command; the exit status is one of sysexits, as in the reference."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:2] == ["token", "print"] and print_token(words[2:]):
        raise SystemExit(0)
    return _main(words)


def _main(words: list[str]) -> Any:
    import click

    from posthouse.cli.commands import posthouse

    debug = "--debug" in words
    try:
        status = posthouse.main(args=words, prog_name="posthouse", standalone_mode=False)
    except ProblemError as error:
        return _end(error.status, [str(problem) for problem in error.problems], debug)
    except click.UsageError as error:
        return _end(64, [error.format_message()], debug)
    except click.Abort:
        return _end(130, [], debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _end(0, [], False)
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
        sys.stderr.write(f"{sentence}\n")
    raise SystemExit(status)
