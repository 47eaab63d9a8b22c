"""Forms on the page: what is made and changed with them, what they say about mistakes, and who may send them."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from posthouse.cli import editing
from posthouse.model.device import DeviceSettings
from posthouse.store import messages, people
from posthouse.store.sealing import fingerprint
from posthouse.web.confirming import FRESH
from posthouse.web.pages.editing import FORMS, Form
from tests.contract.making import DEADLINE, mail
from tests.support.boxes import ALICE, Box, box
from tests.support.house import House, house, until
from tests.support.visitors import Visitor, add_person, administrator, visitor
from tests.unit.test_editing import OFFICE, logs_in

NEW_MAILBOX = {"address": "new@example.com", "app": "office", "send": "on", "sender": "automatic", "timeout": "30"}


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path / "data", OFFICE, background=False) as made:
        yield made


@pytest.fixture
async def person(office: House) -> AsyncIterator[Visitor]:
    async with administrator(office) as made:
        yield made


def fields(person: Visitor) -> dict[str, str]:
    """What the form on the last page would send as it stands."""
    page = person.shown[person.shown.find('class="settings"') :]
    found = dict(re.findall(r'<input type="(?:text|date)" id="(\w+)" name="\w+" value="([^"]*)"', page))
    found |= dict.fromkeys(re.findall(r'<input type="checkbox" id="(\w+)" [^>]*? checked', page), "on")
    found |= {name: text.strip() for name, text in re.findall(r'<textarea id="(\w+)"[^>]*>([^<]*)<', page)}
    for name, options in re.findall(r'<select id="(\w+)"[^>]*>(.*?)</select>', page, re.DOTALL):
        chosen = re.search(r'value="([^"]*)" selected', options) or re.search(r'value="([^"]*)"', options)
        found[name] = chosen[1] if chosen else ""
    version = re.search(r'name="version" value="(\d+)"', page)
    return found | ({"version": version[1]} if version else {})


def box_of(office: House, address: str = "support@example.com") -> str:
    return f"/mailboxes/{office.parts.directory.now.by_address[address].id}"


async def test_a_mailbox_is_added_and_its_token_is_the_next_step(office: House, person: Visitor) -> None:
    await person.look("/")
    assert 'href="/mailboxes/new"' in person.shown
    await person.look("/mailboxes/new?app=office")
    assert fields(person)["app"] == "office"
    answer = await person.press("/mailboxes/new", **NEW_MAILBOX, senders="a@example.com\nb@example.com")
    assert answer.status_code == 303
    await person.look(answer.headers["location"])
    assert "The next step is to get a token." in person.text()
    assert office.parts.directory.now.by_address["new@example.com"].settings.senders == (
        "a@example.com",
        "b@example.com",
    )


async def test_a_form_that_is_sent_as_it_stands_changes_nothing(office: House, person: Visitor) -> None:
    await office.apply(
        '[[mailbox]]\naddress = "support@example.com"\nreceive = "imap"\nafter_fetch = "move:Done"\n'
        'smtp = "mail.example.com:25 starttls"\nsmtp_user = "u"\nmethod = "link"\nsenders = ["x@example.com"]\n'
    )
    snapshot = office.parts.directory.now
    paths = [f"{box_of(office)}/edit", f"{box_of(office, 'old@example.net')}/edit", "/providers/example/edit"]
    paths += [f"/apps/{row_id}/edit" for row_id in snapshot.configuration.apps]
    paths += [f"/devices/{row_id}/edit" for row_id in snapshot.configuration.devices]
    for path in paths:
        await person.look(path)
        answer = await person.press(path, **fields(person))
        assert answer.status_code == 303, path
    await office.parts.directory.refresh()
    before, after = snapshot.configuration, office.parts.directory.now.configuration
    assert {row.id: row.settings for row in before.mailboxes.values()} == {
        row.id: row.settings for row in after.mailboxes.values()
    }
    assert before.devices == after.devices
    assert {name: row.document for name, row in before.providers.items()} == {
        name: row.document for name, row in after.providers.items()
    }


ELSEWHERE = {
    "mailbox": {"sending_token", "receiving_token", "notices_token", "destination"},
    "provider": {"ca_file"},
}
"""A setting gets a token of its own on the mailbox's page; files and destinations are for the command line."""


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.kind)
async def test_a_form_has_every_setting_that_the_command_line_has(person: Visitor, form: Form) -> None:
    await person.look(f"{form.path}/new")
    shown = re.findall(r'<(?:input|select|textarea)[^>]* id="\w+" name="(\w+)"', person.shown)
    filled = dict.fromkeys(shown, "1")
    asked = {key for receive in ("imap", "pop3") for key in form.read(filled | {"receive": receive})}
    by_command = {*editing.keys_of(form.kind), *editing.SECRETS[form.kind], *editing.FILES.get(form.kind, ())}
    assert asked == by_command - ELSEWHERE.get(form.kind, set())


async def test_a_device_has_a_deadline_and_an_order(office: House, person: Visitor) -> None:
    path = "/devices/" + next(iter(office.parts.directory.now.configuration.devices)) + "/edit"
    await person.look(path)
    assert fields(person)["deadline"] == "5d"
    await person.press(path, **fields(person) | {"deadline": "12 hours"})
    await person.press(path, **fields(person) | {"deadline": "12h", "ordered": "on"})
    await office.parts.directory.refresh()
    (device,) = office.parts.directory.now.configuration.devices.values()
    assert (device.settings.deadline, device.settings.ordered) == (12 * 3600, True)
    await person.look(path)
    assert fields(person)["deadline"] == "12h"
    await person.press(path, **fields(person) | {"deadline": ""})
    await office.parts.directory.refresh()
    (device,) = office.parts.directory.now.configuration.devices.values()
    assert device.settings.deadline == DeviceSettings().deadline


async def test_a_provider_has_every_limit_and_a_redirect_url_of_its_own(office: House, person: Visitor) -> None:
    await person.look("/providers/microsoft/edit")
    assert 'id="messages_per_minute" name="messages_per_minute" value="" placeholder="30"' in person.shown
    limits = {"size": "20 MB", "recipients_per_day": "500", "messages_per_connection": "7"}
    await person.press("/providers/microsoft/edit", **fields(person) | limits | {"own_redirect": "on", "version": "0"})
    await office.parts.directory.refresh()
    found = office.parts.directory.now.providers["microsoft"]
    assert (found.limits.size, found.limits.recipients_per_day, found.own_redirect) == (20 * 1024**2, 500, True)
    await person.look("/providers/microsoft/edit")
    assert (fields(person)["size"], fields(person)["own_redirect"]) == ("20 MB", "on")
    answer = await person.press("/providers/microsoft/edit", **fields(person) | {"size": "large"})
    person.shown = answer.text
    assert 'href="#size"' in person.shown, "the mistake is told at its field"


async def test_choosing_an_app_shows_what_it_sets(office: House, person: Visitor) -> None:
    """As the page itself asks when something is chosen that other fields depend on; nothing is saved by it."""
    await office.apply('[[app]]\nname = "ms"\nprovider = "microsoft"\nclient_id = "1"\n')
    await person.look("/mailboxes/new")
    assert "set by the provider" not in person.text()
    given = NEW_MAILBOX | {"app": "ms", "sender": "as-given"}
    answer = await person.press("/mailboxes/new", **given, redraw="app")
    person.shown = answer.text
    assert re.search(r'id="smtp_port" value="587" disabled', person.shown)
    assert re.search(r'id="smtp_tls" value="STARTTLS" disabled', person.shown)
    assert "not used with OAuth 2.0" in person.text()
    assert person.text().count("not used where the sender is as given") == 2, "name and address of the sender"
    assert fields(person)["address"] == "new@example.com"
    assert "new@example.com" not in office.parts.directory.now.by_address


async def test_choosing_another_protocol_shows_the_server_stored_for_it(office: House, person: Visitor) -> None:
    await office.apply(
        '[[mailbox]]\naddress = "old@example.net"\nreceive = "imap"\nimap = "imap.example.net:993 tls"\n'
        'pop3 = "pop.example.net:995 tls"\n'
    )
    path = f"{box_of(office, 'old@example.net')}/edit"
    await person.look(path)
    answer = await person.press(path, **fields(person) | {"receive": "pop3"}, redraw="receive")
    person.shown = answer.text
    assert (fields(person)["receiving_host"], fields(person)["receiving_port"]) == ("pop.example.net", "995")


async def test_mistakes_stand_at_their_fields_and_what_was_typed_stays(office: House, person: Visitor) -> None:
    await person.look("/mailboxes/new")
    typed = {**NEW_MAILBOX, "smtp_host": "mail", "smtp_port": "x", "timeout": "0", "sender_name": "Kept words"}
    answer = await person.press("/mailboxes/new", **typed, password="canary-password")
    assert answer.status_code == 422
    assert re.search(r'id="smtp_host"[^>]*aria-invalid="true"', answer.text)
    assert re.search(r'id="timeout"[^>]*aria-invalid="true"', answer.text)
    assert 'href="#timeout"' in answer.text
    assert 'value="Kept words"' in answer.text
    assert "canary" not in answer.text
    assert "new@example.com" not in office.parts.directory.now.by_address


async def test_the_second_of_two_people_reads_that_it_was_changed(office: House, person: Visitor) -> None:
    path = f"{box_of(office)}/edit"
    await person.look(path)
    form = fields(person)
    await person.press(path, **{**form, "sender_name": "First"})
    answer = await person.press(path, **{**form, "sender_name": "Second"})
    assert answer.status_code == 422
    assert "was changed by somebody else meanwhile." in answer.text
    assert office.parts.directory.now.by_address["support@example.com"].settings.sender_name == "First"
    again = await person.press(path, **{**form, "sender_name": "Third"})
    assert again.status_code == 422, "the form still has the version that it was made with"


async def test_a_device_shows_its_password_once(office: House, person: Visitor) -> None:
    await person.look("/devices/new")
    form = {"name": "scanner", "mailboxes": "support@example.com", "protocol_smtp": "on"}
    answer = await person.press("/devices/new", **form)
    shown = re.search(r'class="code"><code>(\w+)<', answer.text)
    assert shown is not None
    assert logs_in(office, "scanner", shown[1])
    await person.look("/devices")
    assert "scanner" in person.text()
    assert shown[1] not in person.shown


async def test_a_new_app_begins_with_the_provider_of_the_address(office: House, person: Visitor) -> None:
    await person.look("/apps/new?provider=google")
    assert fields(person)["provider"] == "google"
    form = {
        "name": "shop",
        "provider": "google",
        "client_id": "77",
        "client_secret": "s",
        "secret_expires": "2030-01-02",
    }
    assert (await person.press("/apps/new", **form)).headers["location"] == "/apps?said=added"
    await person.look("/apps")
    assert "2030-01-02" in person.text()


async def test_removing_asks_and_says_what_still_uses_it(office: House, person: Visitor) -> None:
    path = f"{box_of(office)}/remove"
    await person.look(path)
    version = re.search(r'name="version" value="(\d+)"', person.shown)
    assert version is not None
    answer = await person.press(path, version=version[1])
    assert answer.status_code == 409
    assert "the device Printer 2 still uses it." in answer.text
    await without_devices(office, person)
    assert (await person.press(path, version=version[1])).headers["location"] == "/?said=removed"


async def without_devices(office: House, person: Visitor) -> None:
    for device in office.parts.directory.now.configuration.devices.values():
        answer = await person.press(f"/devices/{device.id}/remove", version=str(device.version))
        assert answer.headers["location"] == "/devices?said=removed"


async def test_mail_that_waits_is_moved_or_thrown_away_as_chosen(office: House, person: Visitor) -> None:
    await without_devices(office, person)
    mailbox = office.parts.directory.now.by_address["support@example.com"]
    now = office.clock()
    await office.parts.store.database.write(
        lambda tx: messages.accept(tx, mail("q1", mailbox=mailbox.id), now, max(DEADLINE, now + 9))
    )
    path = f"/mailboxes/{mailbox.id}/remove"
    await person.look(path)
    assert "Throw 1 message away" in person.text()
    answer = await person.press(path, version=str(mailbox.version))
    assert "1 message waits for support@example.com" in answer.text
    moved = await person.press(path, version=str(mailbox.version), waiting="move", move_to="old@example.net")
    assert moved.status_code == 303
    old = office.parts.directory.now.by_address["old@example.net"]
    assert (await office.message("q1")).mailbox_id == old.id
    assert await person.press(f"/mailboxes/{old.id}/remove", version=str(old.version), waiting="discard", count="1")


async def test_microsofts_servers_are_set_and_shown_as_set(office: House, person: Visitor) -> None:
    await office.apply(
        '[[app]]\nname = "ms"\nprovider = "microsoft"\nclient_id = "11111111-2222-3333-4444-555555555555"\n'
        '[[mailbox]]\naddress = "m@example.com"\napp = "ms"\npassword = "p"\nsmtp = "smtp.old.example:465 tls"\n'
    )
    path = f"{box_of(office, 'm@example.com')}/edit"
    await person.look(path)
    assert re.search(r'id="smtp_host" value="smtp.office365.com" disabled', person.shown)
    assert re.search(r'id="smtp_port" value="587" disabled', person.shown)
    assert re.search(r'id="smtp_tls" value="STARTTLS" disabled', person.shown)
    assert "kept, not used: smtp.old.example" in person.text()
    assert "not used with OAuth 2.0, kept" in person.text()
    mailbox = office.parts.directory.now.by_address["m@example.com"]
    wanted = mailbox.switched
    assert str(office.parts.directory.now.endpoint(wanted, "smtp")) == "smtp.office365.com:587 starttls"
    await person.press(path, **fields(person))
    assert office.parts.directory.now.by_address["m@example.com"].settings.smtp == "smtp.old.example:465 tls"


async def test_a_password_serves_on_until_the_token_that_is_asked_for_has_proved_itself(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as home,
        administrator(home) as person,
    ):
        app = next(iter(home.parts.directory.now.apps_by_name))
        await home.apply('[[mailbox]]\naddress = "bob@example.com"\npassword = "p"\nsmtp = "127.0.0.1:9 plain"\n')
        path = box_of(home, "bob@example.com")
        await person.look(f"{path}/edit")
        form = {**fields(person), "app": app, "smtp_host": "", "smtp_port": "", "smtp_tls": ""}
        answer = await person.press(f"{path}/edit", **form)
        await person.look(answer.headers["location"])
        assert "It goes on as before until its new token has proved itself" in person.text()
        assert f'action="{path}/authorisations"' in person.shown
        begun = await person.press(f"{path}/authorisations", method="device")
        assert begun.headers["location"].startswith("/authorisations/")
        assert home.parts.directory.now.by_address["bob@example.com"].app_id is None


# Who may


async def test_a_limited_administrator_needs_the_permission(office: House) -> None:
    async with administrator(office, "limited", ["settings"]) as may, administrator(office, "limited", ["queue"]) as no:
        await may.look("/mailboxes/new")
        assert (await may.press("/mailboxes/new", **NEW_MAILBOX)).status_code == 303
        assert (await no.look("/mailboxes/new")).status_code == 403
        await no.look("/")
        assert "/mailboxes/new" not in no.shown
        assert (await no.press("/mailboxes/new", **{**NEW_MAILBOX, "address": "z@example.com"})).status_code == 403


async def test_only_a_full_administrator_sends_secrets_elsewhere(office: House) -> None:
    async with administrator(office, "limited", ["settings"]) as limited:
        path = "/providers/example/edit"
        await limited.look(path)
        answer = await limited.press(path, **{**fields(limited), "issuer": "https://evil.example"})
        assert answer.status_code == 422
        assert "would send stored secrets elsewhere" in answer.text
        assert 'name="confirmation"' not in answer.text


async def test_long_after_the_sign_in_the_own_password_is_asked_for(office: House) -> None:
    await add_person(office, "maria", password="a long password")
    async with visitor(office) as maria:
        await maria.press("/sign-in", name="maria", password="a long password", next="/")
        office.clock.forward(FRESH + 1)
        path = "/providers/example/edit"
        await maria.look(path)
        form = {**fields(maria), "issuer": "https://new.example"}
        answer = await maria.press(path, **form)
        assert 'name="confirmation"' in answer.text
        assert 'value="https://new.example"' in answer.text
        assert (await maria.press(path, **form, confirmation="wrong")).status_code == 422
        assert (await maria.press(path, **form, confirmation="a long password")).status_code == 303
    assert office.parts.directory.now.providers["example"].issuer == "https://new.example"


async def test_who_signs_in_by_link_is_told_how(office: House, person: Visitor) -> None:
    office.clock.forward(FRESH + 1)
    path = "/providers/example/edit"
    await person.look(path)
    answer = await person.press(path, **{**fields(person), "issuer": "https://new.example"})
    assert "posthouse admin link" in answer.text


async def test_a_fresh_session_is_one_that_was_just_opened(office: House) -> None:
    maria = await add_person(office, "maria")

    async def work(tx: object) -> None:
        await people.open_session(tx, fingerprint("s"), maria.id, 100.0, 10**12)  # type: ignore[arg-type]
        assert await people.opened_at(tx, fingerprint("s")) == 100.0  # type: ignore[arg-type]
        await people.renew_session(tx, fingerprint("s"), 200.0)  # type: ignore[arg-type]
        assert await people.opened_at(tx, fingerprint("s")) == 200.0  # type: ignore[arg-type]
        assert await people.opened_at(tx, fingerprint("other")) == 0.0  # type: ignore[arg-type]

    await office.parts.store.database.write(work)


# The connection test on save


@pytest.fixture
async def provider(tmp_path: Path) -> AsyncIterator[Box]:
    async with box(tmp_path / "box") as made:
        yield made


async def test_after_saving_what_was_changed_is_tried(tmp_path: Path, provider: Box) -> None:
    async with (
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as home,
        administrator(home) as person,
    ):
        await home.by_device(ALICE, provider.approve_as(ALICE))
        path = f"{box_of(home, ALICE)}/edit"
        await person.look(path)
        answer = await person.press(path, **{**fields(person), "sender_name": "Alice"})
        assert answer.headers["location"].endswith("?said=saved"), "a name needs no test"
        await person.look(path)
        answer = await person.press(path, **{**fields(person), "timeout": "20"})
        text = await followed(home, person, answer.headers["location"])
        assert "Saved. What was changed is being tried." in text
        assert "Token : good" in text
        assert "SMTP : good" in text
        assert "IMAP" not in text.partition("Connection test")[2]


@pytest.mark.parametrize(
    ("change", "blamed"),
    [
        ({"smtp_host": "nowhere.invalid"}, "Look at the server: the name nowhere.invalid is not known."),
        ({"smtp_port": "9"}, "Look at the port number, then at the server: nothing answers at localhost, port 9."),
        ({"smtp_tls": "tls"}, "Look at SSL/TLS and at the port number"),
    ],
)
async def test_the_sentence_names_what_it_was(
    tmp_path: Path, provider: Box, change: dict[str, str], blamed: str
) -> None:
    server = re.search(r'smtp = "([^"]+)"', provider.apply_file(ALICE))
    assert server is not None
    host, port = server[1].split()[0].rsplit(":", 1)
    text = f'[[mailbox]]\naddress = "{ALICE}"\npassword = "p"\nsmtp = "{host}:{port} starttls"\n'
    async with house(tmp_path / "data", text, background=False) as home, administrator(home) as person:
        path = f"{box_of(home, ALICE)}/edit"
        await person.look(path)
        answer = await person.press(path, **{**fields(person), "password": "p", **change})
        assert blamed.replace("localhost", host) in await followed(home, person, answer.headers["location"])


async def test_a_password_that_is_refused_is_named_with_its_user(tmp_path: Path) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers = {b"EHLO": b"250-me\r\n250 AUTH PLAIN\r\n", b"AUTH": b"535 5.7.8 no\r\n"}
        writer.write(b"220 me ESMTP\r\n")
        while line := await reader.readline():
            writer.write(answers.get(line.split()[0].upper(), b"221 bye\r\n"))
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    text = f'[[mailbox]]\naddress = "{ALICE}"\npassword = "p"\nsmtp = "127.0.0.1:{port} plain"\n'
    async with server, house(tmp_path / "data", text, background=False) as home, administrator(home) as person:
        path = f"{box_of(home, ALICE)}/edit"
        await person.look(path)
        answer = await person.press(path, **{**fields(person), "password": "wrong", "smtp_user": "al"})
        said = await followed(home, person, answer.headers["location"])
        assert "Look at the user name and the password: 127.0.0.1 does not take al with this password." in said


async def followed(home: House, person: Visitor, path: str) -> str:
    async def ended() -> bool:
        await person.look(path)
        return "being tried" not in person.text().replace("What was changed is being tried.", "")

    await until(ended, "the connection test")
    return person.text()
