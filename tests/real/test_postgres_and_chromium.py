"""PostgreSQL and Chromium are there, and tests do not see each other's data."""

import asyncpg
import pytest
from playwright.async_api import Browser

from tests.support.oidc import Provider


@pytest.mark.parametrize("turn", [1, 2])
async def test_every_test_has_an_empty_database(postgres: str, turn: int) -> None:
    connection = await asyncpg.connect(postgres)
    try:
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
        await connection.execute("CREATE TABLE only_here ()")
    finally:
        await connection.close()


async def test_chromium_opens_a_page_of_the_provider(chromium: Browser, oidc: Provider) -> None:
    page = await chromium.new_page()
    await page.goto(f"{oidc.issuer}/device")
    assert await page.title() == "Enter the code"
