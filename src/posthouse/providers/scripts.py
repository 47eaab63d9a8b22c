"""Scripts that register an app: templates beside the guides, with every value quoted for the shell it goes to."""

import json
import shlex
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def rendered(name: str, values: dict[str, Any]) -> str:
    """The script `name` of the guides with its values. Filters: `ps` and `sh` quote a text, `toml` writes one."""
    return _environment().get_template(name).render(values)


def toml(text: str) -> str:
    """A basic string; JSON escapes what TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def for_powershell(text: str) -> str:
    """Verbatim string; PowerShell takes every typographic quote for a plain one (language specification, 2.3.5.2)."""
    return "'" + "".join(letter * 2 if letter in "'\u2018\u2019\u201a\u201b" else letter for letter in text) + "'"


@cache
def _environment() -> Environment:
    made = Environment(  # noqa: S701 - these are scripts; what goes into them is quoted by `ps` and `sh`
        loader=PackageLoader("posthouse.providers", "guides"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters.update(ps=for_powershell, sh=shlex.quote, toml=toml)
    return made
