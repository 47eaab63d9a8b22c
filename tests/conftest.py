"""Real servers for tests that ask for them, and what happens when one cannot be had.

A test names what it needs with `@pytest.mark.needs("dovecot", …)`; the fixtures postgres, oidc, dovecot,
postfix and chromium imply it. Where something is missing the test is left out and named at the end of
the run; with CI=true it fails.
"""

import sys
from collections.abc import AsyncIterator, Generator, Iterator
from itertools import count
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from playwright.async_api import Browser

from tests.support import certificates as authority
from tests.support import chromium as browsers
from tests.support import dovecot as dovecots
from tests.support import oidc as providers
from tests.support import postfix as postfixes
from tests.support import postgres as databases
from tests.support.needs import NEEDS, in_ci, why_missing
from tests.support.processes import tail

LEFT_OUT = "left out: "
numbers = count(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse names that nothing is known about, so that no test is left out by a slip of the pen."""
    unknown = {name for item in items for name in needed(item) if name not in NEEDS}
    if unknown:
        raise pytest.UsageError(f"nobody knows how to get {', '.join(sorted(unknown))}; see tests/support/needs.py")


def needed(item: pytest.Item) -> list[str]:
    named = [name for mark in item.iter_markers("needs") for name in mark.args]
    implied = [name for name in getattr(item, "fixturenames", ()) if name in NEEDS]
    return list(dict.fromkeys(named + implied))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    reasons = [reason for name in needed(item) if (reason := why_missing(name))]
    if reasons and in_ci():
        pytest.fail(LEFT_OUT + "; ".join(reasons), pytrace=False)
    if reasons:
        pytest.skip(LEFT_OUT + "; ".join(reasons))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the end of each server's log under a failure."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(log := getattr(value, "log", None), Path):
                report.sections.append((f"the end of {name}'s log", tail(log)))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tests = left_out(terminalreporter)
    if not tests:
        return
    terminalreporter.section("left out")
    for reason, names in tests.items():
        terminalreporter.line(f"{len(names)} left out, because {reason}:")
        terminalreporter.line("".join(f"  {name}\n" for name in names), flush=True)


def left_out(terminalreporter: pytest.TerminalReporter) -> dict[str, list[str]]:
    """The tests that were left out, by reason."""
    tests: dict[str, list[str]] = {}
    for outcome in ("skipped", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr or "")
            _, found, reason = why.partition(LEFT_OUT)
            if found and why.removeprefix("Skipped: ").startswith(LEFT_OUT):
                tests.setdefault(reason, []).append(report.nodeid)
    return tests


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> authority.Certificates:
    """An authority of the tests and the certificate of their servers, for localhost and 127.0.0.1."""
    return authority.issue(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[databases.Server]:
    with databases.server() as running:
        yield running


@pytest.fixture
def postgres(postgres_server: databases.Server) -> str:
    """The postgresql:// address of a fresh, empty database."""
    name = f"fresh_{next(numbers)}"
    postgres_server.run(f"CREATE DATABASE {name} STRATEGY file_copy")
    return postgres_server.url(name)


@pytest.fixture(scope="session")
def oidc_server() -> Iterator[providers.Provider]:
    with providers.provider() as running:
        yield running


@pytest.fixture
def oidc(oidc_server: providers.Provider) -> providers.Provider:
    """oidc-provider, without sessions, grants, counts or faults of earlier tests."""
    oidc_server.reset()
    return oidc_server


@pytest.fixture(scope="session")
def dovecot_server(oidc_server: providers.Provider, certificates: authority.Certificates) -> Iterator[dovecots.Server]:
    with dovecots.server(oidc_server, certificates) as running:
        yield running


@pytest.fixture
def dovecot(oidc: providers.Provider, dovecot_server: dovecots.Server) -> dovecots.Server:
    """Dovecot with empty mailboxes, asking `oidc` about tokens."""
    dovecot_server.empty()
    return dovecot_server


@pytest.fixture(scope="session")
def postfix_server(dovecot_server: dovecots.Server, certificates: authority.Certificates) -> Iterator[postfixes.Server]:
    with postfixes.server(dovecot_server, certificates) as running:
        yield running


@pytest.fixture
def postfix(dovecot: dovecots.Server, postfix_server: postfixes.Server) -> postfixes.Server:
    """Postfix submission: logins by `dovecot`, delivery into it."""
    return postfix_server


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    """A running Chromium."""
    async with browsers.browser() as running:
        yield running
