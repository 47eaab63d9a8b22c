"""The one command that programs wait for again and again: `token print` over the control socket, in 80 ms.

Loads nothing that it can do without. Whatever is not plain is left to the command of the same name.
"""

import os
import sys
from pathlib import Path

OPTIONS = {"--as": "as", "--for": "for", "--config": "config"}


def print_token(words: list[str]) -> bool:
    """Whether the token was printed; if not, nothing was done."""
    asked = _read(words)
    if asked is None:
        return False
    from posthouse.cli.connection import SocketApi, path_of
    from posthouse.problems import ProblemError
    from posthouse.settings import read_settings

    try:
        settings = read_settings(Path(asked["config"]) if "config" in asked else None, os.environ)
        path = path_of("control", "token", asked["address"])
        data = SocketApi(settings.data / "control.sock").get(path, **{"as": asked.get("as"), "for": asked.get("for")})
    except ProblemError:
        return False
    sys.stdout.write(f"{data['text']}\n")
    return True


def _read(words: list[str]) -> dict[str, str] | None:
    """One address and the options above, each at most once; None for anything else."""
    asked: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        name = OPTIONS.get(word, "address" if not word.startswith("-") else "")
        value = next(rest, "") if word in OPTIONS else word
        if not name or name in asked or not value:
            return None
        asked[name] = value
    return asked if "address" in asked else None
