"""One mailbox that goes by all ways to sign in, from a password to another provider, and loses nothing on the way."""

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from posthouse.net.connect import client_context
from posthouse.sandbox.settings import CLIENTS, PEOPLE
from posthouse.secret import Secret
from posthouse.services.authorise import Method
from posthouse.store import events
from posthouse.store.authorisations import Authorisation
from tests.support.boxes import ALICE, BOB, PRINTER, Box, box
from tests.support.house import House, house, until

WITH_PASSWORD = replace(PEOPLE[0], app_password=Secret("app password of alice"))
OFFICE = '[[app]]\nname = "office"\nprovider = "{}"\nclient_id = "posthouse-office"\nclient_secret = "{}"\n'
SECRET = "a secret for trying out"


@dataclass
class Walk:
    """Alice's mailbox and its printer; `sent` are the messages that have left so far."""

    home: House
    provider: Box
    sent: list[str]

    async def change(self, line: str) -> None:
        await self.home.apply(f'[[mailbox]]\naddress = "{ALICE}"\n{line}')

    async def page(self, subject: str) -> None:
        """The printer sends, and it arrives."""
        queue_id = await self.home.send(PRINTER, BOB, subject)
        await self.home.until_message(queue_id, "sent")
        self.sent.append(queue_id)
        assert subject in self.provider.subjects(BOB)

    async def page_without_token(self, subject: str) -> str:
        """The token is deleted; what the printer sends then waits."""
        parts = self.home.parts
        await parts.authorise.delete_token((await self.home.token(ALICE)).id)
        last = await parts.store.database.read(lambda tx: events.value_of(tx, "event"))

        async def told() -> bool:
            return parts.following.position >= last

        await until(told, "the gateway hearing of it")
        queue_id = await self.home.send(PRINTER, BOB, subject)
        await self.home.until_message(queue_id, "parked")
        return queue_id

    async def sign_in(self, method: Method, person: str = ALICE) -> Authorisation:
        authorise, mailbox = self.home.parts.authorise, self.home.parts.directory.now.by_address[ALICE]
        begun = await authorise.begin(mailbox, method)
        attempt = begun.authorisation
        if method == "device":
            await self.provider.approve_as(person)(attempt)
        elif method == "paste":
            end = await self.provider.control("approve", url=begun.url, person=person)
            attempt = await authorise.paste(attempt.id, Secret(end["url"]))
        elif method != "app":
            redirect = await authorise.open_start_page(Secret(begun.url.rpartition("/")[2]))
            end = await self.provider.control("approve", url=redirect.url.reveal(), person=person)
            attempt = await authorise.callback(dict(parse_qsl(urlsplit(end["url"]).query)), redirect.cookie)
        over = await self.home.followed(attempt)
        assert over.state == "done", over.detail
        await self.home.parts.directory.refresh()
        return over

    async def by(self) -> tuple[str, str]:
        """App registration and account that serve."""
        await self.home.parts.directory.refresh()
        snapshot = self.home.parts.directory.now
        mailbox = snapshot.by_address[ALICE]
        app = snapshot.app_of(mailbox)
        return app.name if app else "password", mailbox.account

    async def nothing_is_lost(self) -> None:
        assert [(await self.home.message(queue_id)).state for queue_id in self.sent] == ["sent"] * len(self.sent)
        histories = [await self.home.lines(queue_id) for queue_id in self.sent]
        assert all((lines[0], lines[-1]) == ("accepted", "sent") for lines in histories)
        snapshot = self.home.parts.directory.now
        assert snapshot.devices_by_name[PRINTER].settings.mailboxes == (ALICE,)
        assert snapshot.default_mailbox == snapshot.by_address[ALICE]


async def test_password_browser_device_link_paste_app_person_provider_and_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = tuple(replace(client, redirect_uris=("http://localhost:8480/oauth/callback",)) for client in CLIENTS)
    async with (
        box(tmp_path / "box", people=(WITH_PASSWORD, PEOPLE[1]), clients=clients) as provider,
        box(tmp_path / "other", clients=clients) as other,
    ):
        ours = Path(provider.described["ca_file"])
        monkeypatch.setattr("posthouse.services.upstream.client_context", lambda file: client_context(file or ours))
        text = provider.apply_file(ALICE, more=OFFICE.format("sandbox", SECRET))
        password = f'app = ""\npassword = "app password of alice"\nsmtp = "{provider.described["smtp"]}"\n'
        text = text.replace('app = "demo"', f"default = true\n{password}")
        async with house(tmp_path / "data", text) as home:
            walk = Walk(home, provider, [])
            await walk.page("by password")
            await walk.change('app = "demo"')
            await walk.page("still by password")
            assert await walk.by() == ("password", ALICE)

            for method in ("browser", "device", "link", "paste"):
                await walk.sign_in(method)
                assert await walk.by() == ("demo", ALICE)
                await walk.page(f"by {method}")
                await walk.nothing_is_lost()

            waiting = await walk.page_without_token("parked")
            await walk.change('app = "office"')
            await walk.sign_in("app")
            await home.until_message(waiting, "sent")
            walk.sent.append(waiting)
            assert await walk.by() == ("office", ALICE)

            await walk.change(f'app = "demo"\nsigns_in_as = "{BOB}"\nsender_address = "{BOB}"')
            assert await walk.by() == ("office", ALICE)
            await walk.sign_in("device", BOB)
            assert await walk.by() == ("demo", BOB)
            await walk.page("by another person")

            known = other.described
            await home.apply(
                f'[[provider]]\nname = "other"\nissuer = "{known["issuer"]}"\nca_file = "{known["ca_file"]}"\n'
                f'scopes = ["mail", "offline_access"]\nsmtp = "{known["smtp"]}"\n'
                '[[app]]\nname = "elsewhere"\nprovider = "other"\nclient_id = "posthouse"'
            )
            await walk.change(f'app = "elsewhere"\nsigns_in_as = "{ALICE}"\nsender_address = ""\nsmtp = ""')
            assert await walk.by() == ("demo", BOB)
            walk.provider = other
            await walk.sign_in("device")
            assert await walk.by() == ("elsewhere", ALICE)
            await walk.page("by another provider")
            await walk.nothing_is_lost()

            await home.parts.going_back.go(home.parts.directory.now.by_address[ALICE])
            assert await walk.by() == ("demo", BOB)


async def test_back_to_the_password_lets_waiting_mail_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with box(tmp_path / "box", people=(WITH_PASSWORD, PEOPLE[1])) as provider:
        ours = Path(provider.described["ca_file"])
        monkeypatch.setattr("posthouse.services.upstream.client_context", lambda file: client_context(file or ours))
        password = f'app = ""\npassword = "app password of alice"\nsmtp = "{provider.described["smtp"]}"\n'
        text = provider.apply_file(ALICE).replace('app = "demo"', password)
        async with house(tmp_path / "data", text) as home:
            walk = Walk(home, provider, [])
            await walk.change('app = "demo"')
            await walk.sign_in("device")
            waiting = await walk.page_without_token("parked")
            await home.parts.going_back.go(home.parts.directory.now.by_address[ALICE])
            await home.until_message(waiting, "sent")
            assert await walk.by() == ("password", ALICE)
