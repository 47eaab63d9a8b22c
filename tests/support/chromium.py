"""Debian's Chromium without a window, driven by Playwright; it asks nobody outside for anything."""

import contextlib
from collections.abc import AsyncIterator

from playwright.async_api import Browser, async_playwright

from tests.support.needs import program

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)


@contextlib.asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """A running browser; make a context or a page of it for each person."""
    executable = program("chromium")
    assert executable
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=executable, args=list(QUIET))
        try:
            yield running
        finally:
            await running.close()
