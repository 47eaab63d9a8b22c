"""What accounts at providers have used of their allowances, so that neither a restart nor another node begins anew."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import bindparam, select, update

from posthouse.store.compiling import insert_if_absent
from posthouse.store.database import Transaction
from posthouse.store.tables import pace

Document = dict[str, Any]

_one = select(pace.c.document, pace.c.saved_at).where(pace.c.account == bindparam("wanted"))
_save = (
    update(pace)
    .where(pace.c.account == bindparam("wanted"))
    .values(document=bindparam("new_document"), saved_at=bindparam("now"))
)
_add = insert_if_absent(
    pace, account=bindparam("wanted"), document=bindparam("new_document"), saved_at=bindparam("now")
)


async def load(tx: Transaction, accounts: Iterable[str]) -> dict[str, tuple[Document, float]]:
    """By account what was written down, and when; those of which nothing is known are left out."""
    found = {account: await tx.one(_one, wanted=account) for account in accounts}
    return {account: (msgspec.json.decode(row["document"]), row["saved_at"]) for account, row in found.items() if row}


async def save(tx: Transaction, documents: Mapping[str, Document], now: float) -> None:
    for account, document in sorted(documents.items()):
        values = {"wanted": account, "new_document": msgspec.json.encode(document).decode(), "now": now}
        if not await tx.run(_save, **values):
            await tx.run(_add, **values)
