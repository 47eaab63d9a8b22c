"""Who may use the page and the API: administrators, their sessions, one-time sign-in links, API keys."""

from dataclasses import dataclass, field

from sqlalchemy import bindparam, delete, insert, select, update

from posthouse.store.database import Row, Transaction
from posthouse.store.tables import administrator, api_key, session, sign_in_link


@dataclass(frozen=True, slots=True)
class Administrator:
    """`role`: administrator, limited (with `permissions`) or auditor. An empty hash: signs in by link only."""

    id: str
    name: str
    role: str
    permissions: tuple[str, ...]
    password_hash: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """`permissions` among read, send, receive, manage; `mailboxes` addresses, empty for all."""

    id: str
    name: str
    permissions: tuple[str, ...]
    mailboxes: tuple[str, ...]
    created_at: float


_administrators = select(administrator).order_by(administrator.c.name)
_by_name = select(administrator).where(administrator.c.name == bindparam("wanted"))
_insert = insert(administrator).values(
    {name: bindparam(name) for name in ("id", "name", "password_hash", "role", "permissions", "created_at")}
)
_remove = delete(administrator).where(administrator.c.id == bindparam("row_id"))
_set_password = (
    update(administrator).where(administrator.c.id == bindparam("row_id")).values(password_hash=bindparam("new_hash"))
)
_set_role = (
    update(administrator)
    .where(administrator.c.id == bindparam("row_id"))
    .values(role=bindparam("new_role"), permissions=bindparam("new_permissions"))
)
_open_session = insert(session).values(
    {name: bindparam(name) for name in ("hash", "administrator_id", "created_at", "expires_at")}
)
_session = (
    select(administrator)
    .join(session, session.c.administrator_id == administrator.c.id)
    .where(session.c.hash == bindparam("wanted"), session.c.expires_at > bindparam("now"))
)
_opened_at = select(session.c.created_at).where(session.c.hash == bindparam("wanted"))
_renew_session = update(session).where(session.c.hash == bindparam("wanted")).values(created_at=bindparam("now"))
_close_session = delete(session).where(session.c.hash == bindparam("wanted"))
_close_sessions = delete(session).where(session.c.administrator_id == bindparam("row_id"))
_forget_sessions = delete(session).where(session.c.expires_at <= bindparam("now"))
_make_link = insert(sign_in_link).values({name: bindparam(name) for name in ("hash", "administrator_id", "expires_at")})
_use_link = (
    update(sign_in_link)
    .where(
        sign_in_link.c.hash == bindparam("wanted"),
        sign_in_link.c.expires_at > bindparam("now"),
        sign_in_link.c.used_at == 0,
    )
    .values(used_at=bindparam("now"))
    .returning(sign_in_link.c.administrator_id)
)
_forget_links = delete(sign_in_link).where(sign_in_link.c.administrator_id == bindparam("row_id"))
_forget_old_links = delete(sign_in_link).where(sign_in_link.c.expires_at <= bindparam("now"))
_keys = select(api_key).order_by(api_key.c.name)
_key = select(api_key).where(api_key.c.hash == bindparam("wanted"))
_insert_key = insert(api_key).values(
    {name: bindparam(name) for name in ("id", "name", "hash", "permissions", "mailboxes", "created_at")}
)
_remove_key = delete(api_key).where(api_key.c.name == bindparam("wanted"))


async def administrators(tx: Transaction) -> list[Administrator]:
    return [_administrator(row) for row in await tx.all(_administrators)]


async def by_name(tx: Transaction, name: str) -> Administrator | None:
    row = await tx.one(_by_name, wanted=name)
    return _administrator(row) if row else None


async def add(tx: Transaction, new: Administrator, now: float) -> None:
    await tx.run(
        _insert,
        id=new.id,
        name=new.name,
        password_hash=new.password_hash,
        role=new.role,
        permissions=" ".join(new.permissions),
        created_at=now,
    )


async def remove(tx: Transaction, row_id: str) -> None:
    """With everything that would sign this person in."""
    await tx.run(_close_sessions, row_id=row_id)
    await tx.run(_forget_links, row_id=row_id)
    await tx.run(_remove, row_id=row_id)


async def set_password(tx: Transaction, row_id: str, password_hash: str) -> None:
    """A new password ends every session of its owner."""
    await tx.run(_set_password, row_id=row_id, new_hash=password_hash)
    await tx.run(_close_sessions, row_id=row_id)


async def set_role(tx: Transaction, row_id: str, role: str, permissions: tuple[str, ...]) -> None:
    await tx.run(_set_role, row_id=row_id, new_role=role, new_permissions=" ".join(permissions))


async def open_session(tx: Transaction, hash_: str, administrator_id: str, now: float, expires_at: float) -> None:
    await tx.run(_forget_sessions, now=now)
    await tx.run(_open_session, hash=hash_, administrator_id=administrator_id, created_at=now, expires_at=expires_at)


async def of_session(tx: Transaction, hash_: str, now: float) -> Administrator | None:
    row = await tx.one(_session, wanted=hash_, now=now)
    return _administrator(row) if row else None


async def opened_at(tx: Transaction, hash_: str) -> float:
    """When the owner of the session last showed who they are; 0.0 where there is no such session."""
    row = await tx.one(_opened_at, wanted=hash_)
    return float(row["created_at"]) if row else 0.0


async def renew_session(tx: Transaction, hash_: str, now: float) -> None:
    """Its owner has just shown who they are once more. It ends no later for that."""
    await tx.run(_renew_session, wanted=hash_, now=now)


async def close_session(tx: Transaction, hash_: str) -> None:
    await tx.run(_close_session, wanted=hash_)


async def make_link(tx: Transaction, hash_: str, administrator_id: str, expires_at: float) -> None:
    await tx.run(_make_link, hash=hash_, administrator_id=administrator_id, expires_at=expires_at)


async def use_link(tx: Transaction, hash_: str, now: float) -> str | None:
    """The administrator a link signs in, once."""
    row = await tx.one(_use_link, wanted=hash_, now=now)
    await tx.run(_forget_old_links, now=now)
    return str(row["administrator_id"]) if row else None


async def keys(tx: Transaction) -> list[ApiKey]:
    return [_api_key(row) for row in await tx.all(_keys)]


async def key(tx: Transaction, hash_: str) -> ApiKey | None:
    row = await tx.one(_key, wanted=hash_)
    return _api_key(row) if row else None


async def add_key(tx: Transaction, new: ApiKey, hash_: str) -> None:
    await tx.run(
        _insert_key,
        id=new.id,
        name=new.name,
        hash=hash_,
        permissions=" ".join(new.permissions),
        mailboxes=" ".join(new.mailboxes),
        created_at=new.created_at,
    )


async def remove_key(tx: Transaction, name: str) -> bool:
    return bool(await tx.run(_remove_key, wanted=name))


def _administrator(row: Row) -> Administrator:
    return Administrator(
        id=row["id"],
        name=row["name"],
        role=row["role"],
        permissions=tuple(row["permissions"].split()),
        password_hash=row["password_hash"],
    )


def _api_key(row: Row) -> ApiKey:
    return ApiKey(
        id=row["id"],
        name=row["name"],
        permissions=tuple(row["permissions"].split()),
        mailboxes=tuple(row["mailboxes"].split()),
        created_at=row["created_at"],
    )
