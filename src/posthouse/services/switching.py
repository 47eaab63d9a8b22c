"""Which app and account a mailbox and each of its settings sign in with. While one serves, another waits for its proof.

A setting that is not told apart signs in as its mailbox does. Callers bump the configuration before they read what
they decide upon, so that of two who change the same mailbox the later one sees what the first has done.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from posthouse.model.mailbox import Apart, Former, Mailbox, MailboxSettings, Purpose, Way
from posthouse.model.token import Token, TokenState
from posthouse.store import configuration, events, tokens
from posthouse.store.configuration import encode
from posthouse.store.database import Transaction

KEPT = 7 * 86_400.0
"""Seconds for which one can go back to the way that served before."""
Works = Mapping[str, Collection[Purpose]]
"""Settings by mailbox id."""
Kept = Mapping[tuple[str, Purpose], str]
"""Settings by mailbox id that keep their old way, and what was said when the new one was tried."""


@dataclass(frozen=True, slots=True)
class Choice:
    """`way` serves from now on; `switch` is wanted and waits for its proof; `apart` are settings that differ."""

    way: Way
    switch: Way | None = None
    apart: dict[Purpose, Apart] = field(default_factory=dict)

    def fitted(self, settings: MailboxSettings, present: Mailbox | None) -> dict[str, object]:
        """The columns of the mailbox, with `settings` as they are wanted."""
        former, formers = (present.settings.former, present.settings.formers) if present else (None, {})
        document = replace(settings, switch=self.switch, former=former, apart=self.apart, formers=formers)
        return {**_columns(self.way), "document": encode(document)}


async def choose(
    tx: Transaction,
    present: Mailbox | None,
    address: str,
    wanted: Way,
    settings: MailboxSettings,
    *,
    has_password: bool,
    now: float,
) -> Choice:
    """The ways of `present`, or of a new mailbox, when `wanted` is asked for with `settings`; tokens are made.

    The token of `wanted` is found here; what stands in it does not count.
    """
    if wanted.app_id is None:
        return Choice(Way(app_id=None, account=address, token_id=None))
    name = address if settings.token == "own" else "main"  # noqa: S105
    wanted = await _with_token(tx, wanted, name, now)
    old = present.way if present else Way(app_id=None, account=address, token_id=None)
    way, switch = await _step(tx, old, wanted, has_password)
    choice = Choice(way, switch)
    for purpose in _to_choose(present, settings):
        goal = await _with_token(tx, wanted, own_name(address, purpose), now) if settings.owns(purpose) else wanted
        before = _before(present, purpose)
        way, switch = await _step(tx, before, goal, has_password) if before else (goal, None)
        if (way, switch) != (choice.way, choice.switch):
            choice.apart[purpose] = _kept_apart(present, purpose, Apart(way=way, switch=switch))
    return choice


def own_name(address: str, purpose: Purpose) -> str:
    """What the token is called that a setting has for itself."""
    return f"{address} {purpose}"


def _to_choose(present: Mailbox | None, settings: MailboxSettings) -> tuple[Purpose, ...]:
    """The gateway's notices are looked at as long as they are told apart."""
    used = settings.purposes()
    return (*used, "notices") if present and "notices" in present.settings.apart and "notices" not in used else used


def _kept_apart(present: Mailbox | None, purpose: Purpose, wanted: Apart) -> Apart:
    """What was said when its switch was tried stays said."""
    known = present.settings.apart.get(purpose) if present else None
    return known if known is not None and (known.way, known.switch) == (wanted.way, wanted.switch) else wanted


def _before(present: Mailbox | None, purpose: Purpose) -> Way | None:
    """What serves a setting that is in use already."""
    used = present is not None and (purpose == "notices" or purpose in present.settings.purposes())
    return present.for_setting(purpose).way if present is not None and used else None


async def _with_token(tx: Transaction, way: Way, name: str, now: float) -> Way:
    token = await tokens.ensure(tx, way.app_id or "", way.account, name, now)
    return replace(way, token_id=token.id)


async def _step(tx: Transaction, old: Way, wanted: Way, has_password: bool) -> tuple[Way, Way | None]:
    """The way that serves, and what waits to take over."""
    if wanted == old or not await serves(tx, old, has_password):
        return wanted, None
    return old, wanted


async def serves(tx: Transaction, way: Way, has_password: bool) -> bool:
    if way.app_id is None:
        return has_password
    token = await tokens.get(tx, way.token_id or "")
    return token is not None and token.serving_grant is not None and token.state is TokenState.ACQUIRED


# A token has proved itself


async def finish_all(tx: Transaction, token: Token, works: Works, kept: Kept, now: float) -> None:
    """`token` has proved itself for `works`: those of them that waited for it go over to it, `kept` ones stay behind.

    Mailboxes are read here, since they may have been changed or removed while it was being proved.
    """
    if await _concerned(tx, token.id, works, kept):
        await events.bump(tx, "configuration")
        for mailbox in await _concerned(tx, token.id, works, kept):
            changed = await _finished(tx, mailbox, token, works.get(mailbox.id, ()), _of(mailbox, kept), now)
            if changed != mailbox:
                await _save(tx, changed)


async def _concerned(tx: Transaction, token_id: str, works: Works, kept: Kept) -> list[Mailbox]:
    known = {*works, *(mailbox_id for mailbox_id, _ in kept)}
    mailboxes = (await configuration.load(tx)).mailboxes.values()
    return [one for one in mailboxes if one.id in known and (_waits_for(one, token_id) or _of(one, kept))]


def _waits_for(mailbox: Mailbox, token_id: str) -> bool:
    switches = (mailbox.settings.switch, *(apart.switch for apart in mailbox.settings.apart.values()))
    return any(switch is not None and switch.token_id == token_id for switch in switches)


def _of(mailbox: Mailbox, kept: Kept) -> dict[Purpose, str]:
    return {purpose: said for (mailbox_id, purpose), said in kept.items() if mailbox_id == mailbox.id}


async def _finished(
    tx: Transaction, mailbox: Mailbox, token: Token, works: Collection[Purpose], kept: dict[Purpose, str], now: float
) -> Mailbox:
    shared = [purpose for purpose in works if purpose not in mailbox.settings.apart]
    switch = mailbox.settings.switch
    if switch is not None and switch.token_id == token.id and shared:
        behind = {purpose: said for purpose, said in kept.items() if purpose not in mailbox.settings.apart}
        mailbox = _stay_behind(mailbox, mailbox.way, switch, behind)
        mailbox = await _go_over(tx, mailbox, switch, now)
    for purpose, apart in mailbox.settings.apart.items():
        if apart.switch is not None and apart.switch.token_id == token.id:
            if purpose in works:
                mailbox = await _go_over(tx, mailbox, apart.switch, now, purpose)
            elif purpose in kept:
                mailbox = _stay_behind(mailbox, apart.way, apart.switch, {purpose: kept[purpose]})
    return mailbox


def _stay_behind(mailbox: Mailbox, way: Way, switch: Way, kept: Mapping[Purpose, str]) -> Mailbox:
    stay = {purpose: Apart(way=way, switch=switch, refused=said) for purpose, said in kept.items()}
    return _with(mailbox, apart={**mailbox.settings.apart, **stay})


async def finish(tx: Transaction, mailbox: Mailbox, now: float) -> bool:
    """The token that was waited for has proved itself: let it serve. False where none was waited for."""
    switch = mailbox.settings.switch
    if switch is None:
        return False
    await _save(tx, await _go_over(tx, mailbox, switch, now))
    return True


async def keep_old_consent(tx: Transaction, token: Token, kept: Kept, now: float) -> None:
    """The consent that serves is about to be replaced, and `kept` go on with it: it becomes a token of its own.

    They wait for `token` as before a switch.
    """
    await events.bump(tx, "configuration")
    mailboxes = (await configuration.load(tx)).mailboxes
    staying = [
        (mailboxes[mailbox_id], purpose, said)
        for (mailbox_id, purpose), said in kept.items()
        if mailbox_id in mailboxes and mailboxes[mailbox_id].for_setting(purpose).token_id == token.id
    ]
    if not staying or token.serving_grant is None:
        return
    old = await tokens.split_off(tx, token, f"before {token.serving_grant}", now)
    changed = {mailbox.id: mailbox for mailbox, _, _ in staying}
    for mailbox, purpose, said in staying:
        now_by = mailbox.for_setting(purpose).way
        left = replace(now_by, token_id=old.id)
        changed[mailbox.id] = _stay_behind(changed[mailbox.id], left, now_by, {purpose: said})
    for mailbox in changed.values():
        await _save(tx, mailbox)


# Back


async def go_back(tx: Transaction, mailbox: Mailbox, now: float, purpose: Purpose | None = None) -> bool:
    """To the way that served before, and lives. False where there is none, or it has ended meanwhile.

    With `purpose` that of one setting; what it is to have from now on is what it has gone back to.
    """
    former = former_of(mailbox, purpose)
    if former is None or former.until <= now or not await serves(tx, former.way, mailbox.has_password):
        return False
    if purpose is not None:
        own = "shared" if former.way == mailbox.way else "own"
        mailbox = _with(mailbox, **{f"{purpose}_token": own})
    await _save(tx, await _go_over(tx, mailbox, former.way, now, purpose))
    return True


def former_of(mailbox: Mailbox, purpose: Purpose | None) -> Former | None:
    return mailbox.settings.formers.get(purpose) if purpose else mailbox.settings.former


async def _go_over(tx: Transaction, mailbox: Mailbox, way: Way, now: float, purpose: Purpose | None = None) -> Mailbox:
    """What is left is kept for a while, if it still serves."""
    left = mailbox.for_setting(purpose).way
    former = None
    if await serves(tx, left, mailbox.has_password):
        former = Former(app_id=left.app_id, account=left.account, token_id=left.token_id, until=now + KEPT)
    if purpose is None:
        apart = {key: _following(one, left, way) for key, one in mailbox.settings.apart.items()}
        return _together(_with(mailbox.by_way(way), switch=None, former=former, apart=apart))
    formers = {key: kept for key, kept in mailbox.settings.formers.items() if key != purpose}
    formers |= {purpose: former} if former else {}
    apart = {**mailbox.settings.apart, purpose: Apart(way=way)}
    return _together(_with(mailbox, apart=apart, formers=formers))


def _following(apart: Apart, left: Way, way: Way) -> Apart:
    """A setting that waits for what its mailbox has left waits for what that has gone over to."""
    if apart.switch != left:
        return apart
    return replace(apart, switch=way if apart.way != way else None, refused="")


def _together(mailbox: Mailbox) -> Mailbox:
    """Settings that now sign in as their mailbox does are not told apart any more."""
    settings = mailbox.settings
    usual = (mailbox.way, settings.switch)
    apart = {key: one for key, one in settings.apart.items() if (one.way, one.switch) != usual}
    return mailbox if apart == settings.apart else _with(mailbox, apart=apart)


def _with(mailbox: Mailbox, **changes: object) -> Mailbox:
    return mailbox.with_settings(replace(mailbox.settings, **changes))


def _columns(way: Way) -> dict[str, object]:
    return {"app_id": way.app_id, "account": way.account, "token_id": way.token_id}


async def _save(tx: Transaction, mailbox: Mailbox) -> None:
    await configuration.save(tx, "mailbox", mailbox.id, **_columns(mailbox.way), document=encode(mailbox.settings))
