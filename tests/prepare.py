"""Get what the tests need beside Python packages, then run them: ./dev test [--install] [words for pytest].

oidc-provider comes from npm. Debian's packages are installed when CI=true, with --install, or after a yes
on a terminal, and in a way that starts no daemon, now or at the next boot. What cannot be had is said, and
its tests are left out. Only the standard library.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.needs import NEEDS, OIDC, in_ci, node, why_missing

ROOT = Path(__file__).resolve().parent.parent
POLICY = Path("/usr/sbin/policy-rc.d")
LISTS = Path("/var/lib/apt/lists")
SYSTEMD = Path("/run/systemd/system")
UNITS = ("dovecot.service", "dovecot.socket", "postfix.service")
QUIETLY = ("env", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1")
APT = (*QUIETLY, "apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300")
INSTALL = (*APT, "install", "--no-install-recommends", "--no-remove")
NO_MAIL_FROM_OUTSIDE = "postfix postfix/main_mailer_type select Local only\n"


class Failed(Exception):
    """A program that was asked to install something ended badly; holds the end of what it said."""


def main(words: Sequence[str]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    prepare(wanted="--install" in words)
    further = [word for word in words if word != "--install"]
    os.chdir(ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "pytest", *further])


def prepare(*, wanted: bool) -> None:
    get_oidc_provider()
    packages = missing_packages()
    if packages and may_install(packages, wanted=wanted):
        get_packages(packages)
    for name in NEEDS:
        if reason := why_missing(name):
            consequence = "its tests fail" if in_ci() else "its tests are left out and named at the end"
            say(f"{reason}; {consequence}.")


def say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def run(words: Sequence[str | Path], *, given: str = "", cwd: Path | None = None) -> None:
    """Run a program that needs no terminal. Raises Failed with the end of its output."""
    ended = subprocess.run(
        words, cwd=cwd, input=given, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    if ended.returncode:
        raise Failed(ended.stdout.strip()[-1500:])


def get_oidc_provider() -> None:
    runtime = node()
    if not runtime or not why_missing("oidc"):
        return
    say("Getting oidc-provider from npm …")
    npm = runtime.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    try:
        run([runtime, npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=OIDC)
    except Failed as failure:
        say(f"npm could not install oidc-provider:\n{failure}")


def missing_packages() -> list[str]:
    """Debian's packages that would bring something that is missing."""
    named = [package for name, need in NEEDS.items() if why_missing(name) for package in need.packages]
    return [package for package in named if not installed(package)]


def installed(package: str) -> bool:
    if not shutil.which("dpkg-query"):
        return False
    words = ("dpkg-query", "-W", "-f", "${db:Status-Status}", package)
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout == "installed"


def may_install(packages: Sequence[str], *, wanted: bool) -> bool:
    if not shutil.which("apt-get"):
        say(f"Without apt-get the tests cannot install what they need; on Debian it is: {' '.join(packages)}")
        return False
    if wanted or in_ci():
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        say(f"Not installed, for nobody said so (./dev test --install does): {' '.join(packages)}")
        return False
    say(f"Some tests need {' '.join(packages)} from Debian. No daemon is started.")
    print("Install them? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def get_packages(packages: Sequence[str]) -> None:
    root = as_root()
    if root is None:
        say(f"Only root may install, and sudo is not here or refuses: {' '.join(packages)}")
        return
    say(f"Installing {' '.join(packages)} … (some minutes the first time)")
    with no_daemon(root):
        install(root, packages)
    stay_off(root, packages)


def as_root() -> tuple[str, ...] | None:
    """What goes before a command so that root runs it; None where that cannot be had."""
    if os.geteuid() == 0:
        return ()
    if not shutil.which("sudo"):
        return None
    may_ask = sys.stdin.isatty() and not in_ci()
    check = ("sudo", "-v") if may_ask else ("sudo", "-n", "true")
    return check[:-1] if subprocess.run(check, check=False).returncode == 0 else None


@contextlib.contextmanager
def no_daemon(root: tuple[str, ...], policy: Path = POLICY) -> Iterator[None]:
    """While this lasts Debian starts no daemon that it installs; a policy of the machine's own is kept."""
    if policy.exists():
        yield
        return
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as refusal:
        refusal.write("#!/bin/sh\nexit 101\n")
        refusal.flush()
        run([*root, "install", "-m", "755", refusal.name, policy])
    try:
        yield
    finally:
        run([*root, "rm", "-f", policy])


def install(root: tuple[str, ...], packages: Sequence[str]) -> None:
    """Install the packages, with fresh lists if need be; one by one when they do not go together."""
    if "postfix" in packages:
        with contextlib.suppress(Failed, OSError):
            run([*root, "debconf-set-selections"], given=NO_MAIL_FROM_OUTSIDE)
    try:
        if not any(LISTS.glob("*Packages*")):
            raise Failed("no lists of packages yet")
        run([*root, *INSTALL, *packages])
    except Failed:
        say("Reading Debian's lists of packages anew …")
        with contextlib.suppress(Failed):
            run([*root, *APT, "update"])
        one_by_one(root, packages)


def one_by_one(root: tuple[str, ...], packages: Sequence[str]) -> None:
    try:
        run([*root, *INSTALL, *packages])
    except Failed as failure:
        if len(packages) == 1:
            say(f"apt-get could not install {packages[0]}:\n{failure}")
            return
        for package in packages:
            one_by_one(root, [package])


def stay_off(root: tuple[str, ...], packages: Sequence[str]) -> None:
    """What was installed for the tests does not start by itself at the next boot either."""
    units = [unit for unit in UNITS if any(package.startswith(unit.split(".")[0]) for package in packages)]
    if units and SYSTEMD.exists():
        with contextlib.suppress(Failed):
            run([*root, "systemctl", "disable", *units])


if __name__ == "__main__":
    main(sys.argv[1:])
