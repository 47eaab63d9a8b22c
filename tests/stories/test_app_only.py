"""Stories without a person: an app with a secret or a certificate, and a service account."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import NameOID

from posthouse.problems import ProblemError
from posthouse.sandbox.settings import CLIENTS, Client, ServiceAccount
from posthouse.store.authorisations import Authorisation
from tests.support.boxes import ALICE, BOB, PRINTER, SUPPORT, Box, box
from tests.support.house import Hands, House, house

HOUR = 3600.0
KEY = generate_private_key(65537, 2048)
OTHER_KEY = generate_private_key(65537, 2048)
ROBOT = "robot@project.iam.gserviceaccount.com"


def private(key: RSAPrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public(key: RSAPrivateKey) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def certificate(key: RSAPrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "posthouse")])
    begins = datetime(2026, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begins)
        .not_valid_after(begins + timedelta(days=3650))
    )
    return made.sign(key, SHA256()).public_bytes(Encoding.PEM).decode()


CLIENTS_OF_ALL_KINDS = (*CLIENTS, Client("posthouse-key", public_key=public(KEY)))


def app_file(provider: Box, credential: str, *mailboxes: str) -> str:
    """The sandbox's apply file with another app registration."""
    plain = provider.apply_file(*mailboxes)
    return plain.replace('client_id = "posthouse"', credential)


async def authorised(home: House, address: str) -> Authorisation:
    begun = await home.parts.authorise.begin(home.parts.directory.now.by_address[address], "app")
    await home.parts.directory.refresh()
    return await home.authorisation(begun.authorisation.id)


SECRET = 'client_id = "posthouse-office"\nclient_secret = "a secret for trying out"'


async def test_mail_leaves_with_the_token_of_an_app_for_each_of_its_mailboxes(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", app_file(provider, SECRET, ALICE, SUPPORT)) as home,
    ):
        for address in (ALICE, SUPPORT):
            assert (await authorised(home, address)).state == "done"
        token = await home.token(SUPPORT)
        assert (token.state, token.pinned) == ("acquired", None)
        await home.until_message(await home.send(PRINTER, BOB, "By the app"), "sent")
        assert provider.subjects(BOB) == ["By the app"]


@pytest.mark.parametrize("fault", [{"action": "answer", "status": 503}, {"action": "lose"}])
async def test_a_provider_that_is_away_is_asked_again_by_itself(tmp_path: Path, fault: dict[str, object]) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", app_file(provider, SECRET, ALICE), background=False) as home,
    ):
        await provider.control("faults", place="token", **fault, times=2)
        waiting = await authorised(home, ALICE)
        assert (waiting.state, waiting.detail[-28:]) == ("permitted", "It is asked again by itself.")
        assert (await home.followed(waiting)).state == "done"
        await provider.control("faults", place="token", **fault)
        over = await home.followed(await authorised(home, ALICE))
        assert (over.reason, over.detail[-28:]) == ("provider_away", "Begin again when it is back.")
        assert (await home.token(ALICE)).state == "acquired"


async def test_it_is_renewed_without_anybody_and_without_a_refresh_token(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", app_file(provider, SECRET, ALICE), background=False) as home,
    ):
        await authorised(home, ALICE)
        token_id = (await home.token(ALICE)).id
        first = await home.parts.keeper.access_token(token_id)
        home.clock.forward(2 * HOUR)
        second = await home.parts.keeper.access_token(token_id)
        assert second.serial == first.serial + 1
        assert second.secret != first.secret
        assert second.app_only


async def test_a_secret_that_is_withdrawn_makes_it_invalid_and_a_new_one_makes_it_good(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", app_file(provider, SECRET, ALICE), background=False) as home,
    ):
        await authorised(home, ALICE)
        await home.apply('[[app]]\nname = "demo"\nclient_secret = "wrong"')
        home.clock.forward(2 * HOUR)
        steps = [
            step
            async for step in home.parts.connection_test.steps(home.parts.directory.now.by_address[ALICE], ["token"])
        ]
        assert "invalid_client" in steps[0].answer
        token = await home.token(ALICE)
        assert (token.state, token.reason) == ("invalid", "client_changed")
        await home.apply('[[app]]\nname = "demo"\nclient_secret = "a secret for trying out"')
        assert (await authorised(home, ALICE)).state == "done"
        assert (await home.token(ALICE)).state == "acquired"


async def test_a_wrong_secret_ends_the_attempt_with_the_providers_words(tmp_path: Path) -> None:
    wrong = SECRET.replace("a secret for trying out", "wrong")
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", app_file(provider, wrong, ALICE), background=False) as home,
    ):
        attempt = await authorised(home, ALICE)
        assert attempt.state == "refused"
        assert "invalid_client" in attempt.detail
        assert (await home.token(ALICE)).state == "not_acquired"


async def test_an_app_shows_itself_with_its_key_and_certificate(tmp_path: Path) -> None:
    (tmp_path / "app.key").write_text(private(KEY))
    (tmp_path / "app.pem").write_text(certificate(KEY))
    files = f'private_key = {{ file = "{tmp_path}/app.key" }}\ncertificate = {{ file = "{tmp_path}/app.pem" }}'
    async with (
        box(tmp_path / "box", clients=CLIENTS_OF_ALL_KINDS) as provider,
        house(
            tmp_path / "data", app_file(provider, f'client_id = "posthouse-key"\n{files}', ALICE), background=False
        ) as home,
    ):
        (app,) = home.parts.directory.now.configuration.apps.values()
        assert app.document["certificate_expires"] == "2035-12-30"
        assert (await authorised(home, ALICE)).state == "done"
        (tmp_path / "app.key").write_text(private(OTHER_KEY))
        with pytest.raises(ProblemError, match="does not belong to the private key"):
            await home.apply(f'[[app]]\nname = "demo"\n{files}')
        (tmp_path / "app.pem").write_text(certificate(OTHER_KEY))
        await home.apply(f'[[app]]\nname = "demo"\n{files}')
        attempt = await authorised(home, ALICE)
        assert attempt.state == "refused"
        assert "invalid_client" in attempt.detail


async def test_a_person_may_sign_in_to_an_app_with_a_certificate_as_well(tmp_path: Path) -> None:
    (tmp_path / "app.pem").write_text(private(KEY) + certificate(KEY))
    credential = f'client_id = "posthouse-key"\nprivate_key = {{ file = "{tmp_path}/app.pem" }}'
    clock = Hands()
    async with (
        box(tmp_path / "box", clients=CLIENTS_OF_ALL_KINDS, clock=clock) as provider,
        house(tmp_path / "data", app_file(provider, credential, ALICE), background=False, clock=clock) as home,
    ):
        assert (await home.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        home.clock.forward(2 * HOUR)
        token = await home.parts.keeper.access_token((await home.token(ALICE)).id)
        assert (token.serial, token.app_only) == (1, False)


def key_file(place: Path, issuer: str, key: RSAPrivateKey = KEY) -> Path:
    file = place / "robot.json"
    members = {
        "type": "service_account",
        "client_email": ROBOT,
        "private_key": private(key),
        "private_key_id": "1",
        "client_id": "123456789012345678901",
        "token_uri": f"{issuer}/token",
    }
    file.write_text(json.dumps(members, indent=2))
    return file


async def test_a_service_account_sends_in_the_name_of_each_mailbox(tmp_path: Path) -> None:
    robots = (ServiceAccount(ROBOT, public(KEY)),)
    async with box(tmp_path / "box", service_accounts=robots) as provider:
        file = key_file(tmp_path, provider.described["issuer"])
        credential = f'service_account = {{ file = "{file}" }}'
        async with house(tmp_path / "data", app_file(provider, credential, ALICE, BOB)) as home:
            (app,) = home.parts.directory.now.configuration.apps.values()
            assert app.client_id == "123456789012345678901"
            for address in (ALICE, BOB):
                assert (await authorised(home, address)).state == "done"
            assert (await home.token(ALICE)).id != (await home.token(BOB)).id
            await home.until_message(await home.send(PRINTER, BOB, "By the robot"), "sent")
            with pytest.raises(ProblemError, match="nobody signs in"):
                await home.parts.authorise.begin(home.parts.directory.now.by_address[ALICE], "browser")


async def test_a_service_account_that_nobody_allowed_is_told_so(tmp_path: Path) -> None:
    async with box(tmp_path / "box", service_accounts=(ServiceAccount(ROBOT, public(OTHER_KEY)),)) as provider:
        file = key_file(tmp_path, provider.described["issuer"])
        credential = f'service_account = {{ file = "{file}" }}'
        async with house(tmp_path / "data", app_file(provider, credential, ALICE), background=False) as home:
            attempt = await authorised(home, ALICE)
            assert (attempt.state, "unauthorized_client" in attempt.detail) == ("refused", True)


async def test_a_public_client_has_no_rights_of_its_own(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as home,
    ):
        with pytest.raises(ProblemError, match="public client"):
            await authorised(home, ALICE)


async def test_at_microsoft_an_app_needs_a_tenant_of_its_own(tmp_path: Path) -> None:
    text = (
        '[[app]]\nname = "office"\nprovider = "microsoft"\nclient_id = "x"\nclient_secret = "s"\n'
        '[[mailbox]]\naddress = "scans@example.com"\napp = "office"\n'
    )
    async with house(tmp_path / "data", text, background=False) as home:
        with pytest.raises(ProblemError, match="names no tenant of its own"):
            await authorised(home, "scans@example.com")


@pytest.mark.parametrize(
    ("credential", "sentence"),
    [
        ('client_secret = "x"\nprivate_key = "y"', "client_secret and private_key cannot both be given"),
        ('certificate = "x"', "A certificate needs its private_key"),
        ('private_key = "no key"', "This is not a private key"),
        ('service_account = "{}"', "This is not the key file of a service account"),
        ('private_key = { file = "nowhere.pem" }', "the file nowhere.pem cannot be read"),
        (
            'client_secret = "6c0e1f9a-1b7b-4b0e-9d2f-0a4b5c6d7e8f"',
            "This is the ID of a client secret, not the secret.",
        ),
    ],
)
async def test_what_cannot_be_is_refused_before_anything_is_written(
    tmp_path: Path, credential: str, sentence: str
) -> None:
    async with house(tmp_path / "data", background=False) as home:
        with pytest.raises(ProblemError, match=sentence):
            await home.apply(f'[[app]]\nname = "office"\nprovider = "microsoft"\nclient_id = "x"\n{credential}')
        assert home.parts.directory.now.configuration.apps == {}
