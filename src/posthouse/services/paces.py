"""What accounts have used of their allowances, from the database and into it.

It is written down with every heartbeat; what a crash has kept from that is counted from the journal.
"""

from collections.abc import Mapping

from posthouse.model.pacing import DAY, Allowance, Pace
from posthouse.store import journal, paces
from posthouse.store.database import Transaction


async def read(
    tx: Transaction, allowances: Mapping[str, Allowance], accounts: Mapping[str, str], since: float | None, now: float
) -> dict[str, Pace]:
    """The paces of accounts. `accounts` by mailbox id; `since` is from when on something may not be written down."""
    rows = await paces.load(tx, allowances)
    found = {account: Pace(allowance) for account, allowance in allowances.items()}
    for account, (document, _) in rows.items():
        found[account].read(document)
    if found and since is not None:
        for line in await journal.handed_over(tx, max(since, now - DAY)):
            account = accounts.get(line.mailbox_id, "")
            if account in found and line.at > rows.get(account, ({}, 0.0))[1]:
                found[account].count(line.at, line.recipients)
    await paces.save(tx, {account: pace.document() for account, pace in found.items() if pace.changed}, now)
    return found
