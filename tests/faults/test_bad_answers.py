"""Wrong settings and bad answers at a sign-in: each is told in a plain sentence with one step, and nothing is lost.

Every line is a re-authorisation of a mailbox that has a token, by way of the page. Whatever comes of it, the token
serves on as it was and mail goes out; where the sign-in could not be finished the next one can.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from posthouse.providers.provider import Family
from posthouse.store import authorisations
from posthouse.store.authorisations import Authorisation
from tests.support.boxes import ALICE, BOB, PRINTER, box
from tests.support.house import House, house
from tests.support.visitors import administrator, visitor
from tests.unit.test_page_consent import Scene

DESCRIBED = "Nobody finished this sign-in in time."


@dataclass(slots=True)
class Play(Scene):
    """A person at the page who signs in again for a mailbox that works."""

    serving: str | None = None

    @property
    def mailbox_id(self) -> str:
        return self.home.parts.directory.now.by_address[ALICE].id

    async def fault(self, place: str, **how: Any) -> int:
        return int((await self.provider.control("faults", place=place, **how))["id"])

    async def under_way(self) -> Authorisation:
        store = self.home.parts.store
        of = self.mailbox_id
        found = await store.database.read(lambda tx: authorisations.of_mailbox(tx, store.sealer, of))
        return next(one for one in found if one.state in authorisations.OPEN)

    async def in_the_browser(self, person: str = ALICE, **put: str) -> str:
        """Press the button, sign in, come back; what the page then says."""
        callback = await self.consent(await self.go(await self.begin()), person)
        for name, value in put.items():
            callback += f"&{name}={value}"
        await self.come_back(callback)
        return self.person.text()

    async def with_a_code(self, person: str | None = ALICE) -> str:
        """Begin with a device code; `person` types it, None leaves it. What the page says once that is over."""
        await self.begin("device")
        begun = await self.under_way()
        if person is not None:
            await self.provider.approve_as(person)(begun)
        return await self.shown(await self.home.followed(begun))

    async def refused_at_once(self, method: str) -> str:
        """What the page says where a sign-in cannot even begin."""
        answer = await self.person.press(f"/mailboxes/{self.mailbox_id}/authorisations", method=method)
        self.person.shown = answer.text
        return self.person.text()

    async def shown(self, attempt: Authorisation) -> str:
        await self.person.look(f"/authorisations/{attempt.id}")
        return self.person.text()

    async def expired(self) -> str:
        """Nobody does anything any more until the sign-in is over."""
        begun = await self.under_way()
        self.home.clock.forward(begun.expires_at - self.home.clock() + 1)
        return await self.shown(await self.home.followed(begun))

    def forget_the_provider(self) -> None:
        """As an hour does: its addresses and keys are asked for again."""
        sign_in = self.home.parts.authorise.sign_in
        sign_in._endpoints.clear()
        sign_in._keys.clear()

    async def nothing_is_lost(self) -> None:
        token = await self.home.token(ALICE)
        assert (token.state, token.serving_grant) == ("acquired", self.serving)
        await self.home.until_message(await self.home.send(PRINTER, BOB, "Meanwhile"), "sent")
        self.provider.sandbox.faults.remove()
        assert (await self.home.by_device(ALICE, self.provider.approve_as(ALICE))).state == "done"


@contextlib.asynccontextmanager
async def play(tmp_path: Path, *, external_url: str = "http://localhost:8480", **rules: Any) -> AsyncIterator[Play]:
    async with (
        box(tmp_path / "box", **rules) as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), external_url=external_url) as home,
        administrator(home) as person,
    ):
        assert (await home.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        yield Play(provider, home, person, (await home.token(ALICE)).serving_grant)


def as_family(home: House, family: Family) -> None:
    """The sandbox passes for one of the great providers, as far as the catalogue is asked."""
    providers = home.parts.directory.now.providers
    providers["sandbox"] = msgspec.structs.replace(providers["sandbox"], family=family)


def oauth(error: str, description: str = "") -> str:
    return json.dumps({"error": error, "error_description": description})


# What was configured wrongly

WRONG_CLIENT = "Client authentication failed: unknown client, wrong or expired secret"
WRONG_REDIRECT = "The redirect URI in the request is not registered"
Line = tuple[str, dict[str, Any], Family, tuple[str, ...]]
CONFIGURED: dict[str, Line] = {
    "client id": ("device_authorization", {"status": 401, "body": oauth("invalid_client", "No such client.")}, "any",
                  (WRONG_CLIENT, "No such client.", "Check client id and secret")),
    "client id at Microsoft": ("device_authorization", {"status": 400, "body": oauth("unauthorized_client",
                               "AADSTS700016: Application with identifier 'x' was not found in the directory.")},
                               "microsoft", ("AADSTS700016", "client id")),
    "tenant": ("device_authorization", {"status": 400, "body": oauth("invalid_request",
               "AADSTS90002: Tenant 'nowhere.example' not found.")}, "microsoft", ("AADSTS90002", "tenant")),
    "scope": ("device_authorization", {"status": 400, "body": oauth("invalid_scope", "Unknown scope.")}, "any",
              ("Scope unknown, malformed or wider than granted.", "Correct the scope list.")),
}  # fmt: skip


@pytest.mark.parametrize("what", CONFIGURED)
async def test_a_wrong_setting_is_named_before_a_person_is_sent_away(tmp_path: Path, what: str) -> None:
    place, answer, family, words = CONFIGURED[what]
    async with play(tmp_path) as scene:
        as_family(scene.home, family)
        await scene.fault(place, action="answer", **answer)
        told = await scene.refused_at_once("device")
        assert all(word in told for word in words), told
        await scene.nothing_is_lost()


async def test_a_tenant_that_discovery_does_not_know_is_named_in_the_words_for_that_provider(tmp_path: Path) -> None:
    async with play(tmp_path) as scene:
        as_family(scene.home, "microsoft")
        scene.forget_the_provider()
        body = oauth("invalid_tenant", "AADSTS90002: Tenant 'nowhere.example' not found.")
        await scene.fault("discovery", action="answer", status=400, body=body)
        told = await scene.refused_at_once("device")
        assert "AADSTS90002" in told
        assert "tenant" in told
        scene.provider.sandbox.faults.remove()
        await scene.nothing_is_lost()


EXCHANGED: dict[str, Line] = {
    "secret": ("token", {"status": 401, "body": oauth("invalid_client", "Wrong secret.")}, "any",
               (WRONG_CLIENT, "Wrong secret.", "create a new secret")),
    "secret at Microsoft": ("token", {"status": 401, "body": oauth("invalid_client",
                            "AADSTS7000215: Invalid client secret provided.")}, "microsoft",
                            ("AADSTS7000215", "secret")),
    "redirect": ("token", {"status": 400, "body": oauth("invalid_request",
                 "AADSTS50011: The redirect URI does not match.")}, "microsoft",
                 (WRONG_REDIRECT, "Add exactly the shown redirect URI")),
    "something that nobody knows": ("token", {"status": 400, "body": oauth("mystery", "No idea.")}, "any",
                                    ("The provider refused: mystery No idea.", "Compare client id, secret, tenant")),
}  # fmt: skip


@pytest.mark.parametrize("what", EXCHANGED)
async def test_a_wrong_setting_that_only_the_exchange_shows_is_named(tmp_path: Path, what: str) -> None:
    place, answer, family, words = EXCHANGED[what]
    async with play(tmp_path) as scene:
        as_family(scene.home, family)
        await scene.fault(place, action="answer", **answer)
        told = await scene.in_the_browser()
        assert all(word in told for word in words), told
        await scene.nothing_is_lost()


async def test_a_redirect_that_is_not_registered_is_told_exactly_as_it_has_to_be(tmp_path: Path) -> None:
    """The provider tells it to the person only, on a page of its own; we hear nothing."""
    async with play(tmp_path, external_url="https://mail.example.com:8443") as scene:
        authorise = scene.home.parts.authorise
        begun = await authorise.begin(scene.home.parts.directory.now.by_address[ALICE], "paste")
        with pytest.raises(AssertionError, match="redirect"):
            await scene.provider.control("approve", url=begun.url, person=ALICE)
        current = begun.authorisation
        scene.home.clock.forward(current.expires_at - scene.home.clock() + 1)
        detail = (await scene.home.followed(current)).detail
        assert detail == (
            f"{DESCRIBED} After an error page: compare the client id, and register the redirect URL "
            "https://mail.example.com:8443/oauth/callback"
        )
        await scene.nothing_is_lost()


async def test_the_wrong_person_is_told_both_names(tmp_path: Path) -> None:
    async with play(tmp_path) as scene:
        told = await scene.in_the_browser(BOB)
        assert f"{BOB} signed in, expected was {ALICE}." in told
        await scene.nothing_is_lost()


# Clocks


@pytest.mark.parametrize("wrong_by", [-600.0, 600.0])
async def test_a_clock_that_is_ten_minutes_wrong_keeps_nobody_out(tmp_path: Path, wrong_by: float) -> None:
    async with play(tmp_path) as scene:
        scene.home.clock.forward(wrong_by)
        assert "authenticated" in await scene.in_the_browser()
        token = await scene.home.token(ALICE)
        assert token.state == "acquired"
        assert token.serving_grant != scene.serving
        assert "authenticated" in await scene.with_a_code()
        scene.serving = (await scene.home.token(ALICE)).serving_grant
        await scene.nothing_is_lost()


@pytest.mark.parametrize(("wrong_by", "words"), [(-3600.0, "comes from the future"), (7200.0, "has expired")])
async def test_a_clock_that_is_an_hour_wrong_is_named_as_what_has_to_be_set(
    tmp_path: Path, wrong_by: float, words: str
) -> None:
    async with play(tmp_path) as scene:
        scene.home.clock.forward(wrong_by)
        attempt = await scene.home.by_device(ALICE, scene.provider.approve_as(ALICE))
        assert attempt.state == "refused"
        assert words in attempt.detail
        assert "this machine's clock" in attempt.detail
        assert (await scene.home.token(ALICE)).serving_grant == scene.serving


# What the token endpoint says

UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "HTML": ({"status": 200, "body": "html"}, "HTTP 200 without the expected JSON"),
    "HTML with 503": ({"status": 503, "body": "html"}, "HTTP 503"),
    "a megabyte of JSON": ({"status": 200, "body": "large", "error": ""}, "an answer of more than "),
    "nothing": ({"status": 200, "body": " "}, "HTTP 200 without the expected JSON"),
    "too many requests": ({"status": 429, "retry_after": 60}, "HTTP 429"),
}


@pytest.mark.parametrize("what", UNUSABLE)
async def test_an_unusable_answer_to_the_exchange_is_told_as_that(tmp_path: Path, what: str) -> None:
    answer, words = UNUSABLE[what]
    async with play(tmp_path) as scene:
        await scene.fault("token", action="answer", **answer)
        told = await scene.in_the_browser()
        assert f"The provider's sign-in gave no usable answer: {words}" in told, told
        await scene.nothing_is_lost()


@pytest.mark.parametrize("what", UNUSABLE)
@pytest.mark.parametrize("place", ["device_authorization", "discovery"])
async def test_an_unusable_answer_before_a_person_is_sent_away_is_told_as_that(
    tmp_path: Path, what: str, place: str
) -> None:
    answer, words = UNUSABLE[what]
    async with play(tmp_path) as scene:
        scene.forget_the_provider()
        await scene.fault(place, action="answer", **answer)
        told = await scene.refused_at_once("device")
        assert f"The provider's sign-in gave no usable answer: {words}" in told, told
        await scene.nothing_is_lost()


@pytest.mark.parametrize("what", UNUSABLE)
async def test_an_unusable_answer_to_a_device_code_is_asked_again(tmp_path: Path, what: str) -> None:
    async with play(tmp_path) as scene:
        await scene.fault("token", action="answer", times=2, **UNUSABLE[what][0])
        assert "authenticated" in await scene.with_a_code()


async def test_unusable_answers_for_ever_are_told_when_the_device_code_ends(tmp_path: Path) -> None:
    async with play(tmp_path) as scene:
        await scene.fault("token", action="answer", status=503, body="html")
        await scene.begin("device")
        await scene.home.followed(await scene.under_way())
        told = await scene.expired()
        assert (
            f"{DESCRIBED} The provider's last answer: The provider's sign-in gave no usable answer: HTTP 503." in told
        )
        await scene.nothing_is_lost()


@pytest.mark.parametrize("place", ["jwks", "userinfo"])
async def test_who_signed_in_is_asked_again_where_the_answer_cannot_be_used(tmp_path: Path, place: str) -> None:
    async with play(tmp_path) as scene:
        scene.forget_the_provider()
        await scene.fault(place, action="answer", times=1, status=200, body="html")
        assert "authenticated" in await scene.with_a_code()


ODD: dict[str, tuple[dict[str, Any], Callable[[float], bool]]] = {
    "no expires_in": ({"expires_in": None}, lambda lives: 3500 < lives <= 3600),
    "expires_in as text": ({"expires_in": "1800"}, lambda lives: 1700 < lives <= 1800),
    "a new refresh token": ({}, lambda lives: lives > 0),
}


@pytest.mark.parametrize("odd", ODD)
async def test_an_odd_answer_to_the_exchange_serves(tmp_path: Path, odd: str) -> None:
    members, fits = ODD[odd]
    async with play(tmp_path) as scene:
        await scene.fault("token", action="alter", times=1, body=json.dumps(members))
        assert "authenticated" in await scene.in_the_browser()
        token = await scene.home.token(ALICE)
        assert token.serving_grant != scene.serving
        access = await scene.home.parts.keeper.access_token(token.id)
        assert fits(access.expires_at - scene.home.clock())
        await scene.home.until_message(await scene.home.send(PRINTER, BOB, "With it"), "sent")


async def test_without_a_refresh_token_the_page_says_that_the_next_hour_is_the_last(tmp_path: Path) -> None:
    async with play(tmp_path) as scene:
        await scene.fault("token", action="alter", times=1, body=json.dumps({"refresh_token": None}))
        assert "authenticated" in await scene.in_the_browser()
        await scene.person.look(f"/mailboxes/{scene.mailbox_id}")
        assert "The provider gave nothing to renew it with: then somebody has to sign in again." in scene.person.text()


async def test_slow_down_for_ever_is_obeyed_and_told_when_the_code_ends(tmp_path: Path) -> None:
    async with play(tmp_path) as scene:
        switch = await scene.fault("token", action="answer", status=400, error="slow_down")
        await scene.begin("device")
        begun = await scene.under_way()
        for _ in range(60):
            current = await scene.home.followed(begun)
            if current.state != "started":
                break
        assert current.state == "expired"
        asked = (await scene.provider.control_state())["hits"][str(switch)]
        assert asked < 25  # 5 s more each time: 15 minutes are over after some twenty questions
        assert f"{DESCRIBED} The provider's last answer: slow_down" in await scene.shown(current)
        await scene.nothing_is_lost()


# Callbacks


async def test_a_callback_that_is_replayed_does_nothing_and_says_so(tmp_path: Path) -> None:
    async with play(tmp_path) as scene:
        callback = await scene.consent(await scene.go(await scene.begin()))
        await scene.come_back(callback)
        scene.serving = (await scene.home.token(ALICE)).serving_grant
        answer = await scene.come_back(callback)
        assert answer.status_code == 409
        told = scene.person.text()
        assert "does not belong to a sign-in" in told or "This sign-in is over already." in told
        assert "Begin" in told
        await scene.nothing_is_lost()


async def test_of_two_identical_callbacks_at_once_one_is_taken(tmp_path: Path) -> None:
    async with play(tmp_path) as scene:
        callback = await scene.consent(await scene.go(await scene.begin()))
        answers = await asyncio.gather(scene.come_back(callback), scene.come_back(callback))
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        assert (await scene.home.token(ALICE)).serving_grant != scene.serving
        assert (await scene.provider.control_state())["token_requests"]["authorization_code"] == 1


async def test_a_callback_for_somebody_elses_session_is_refused_and_the_right_one_still_works(tmp_path: Path) -> None:
    async with play(tmp_path) as scene, visitor(scene.home) as stranger:
        callback = await scene.consent(await scene.go(await scene.begin()))
        answer = await scene.come_back(callback, browser=stranger)
        assert answer.status_code == 409
        assert "This answer does not belong to a sign-in that was begun in this browser." in stranger.text()
        assert "Begin the sign-in again, and finish it in the same browser." in stranger.text()
        assert (await scene.home.token(ALICE)).serving_grant == scene.serving
        assert (await scene.come_back(callback)).status_code == 200
        assert (await scene.home.token(ALICE)).serving_grant != scene.serving


async def test_an_answer_of_another_provider_is_refused_before_its_code_goes_anywhere(tmp_path: Path) -> None:
    """Mix-up (RFC 9207): the code of an honest provider must not be shown to another one, nor the reverse."""
    async with play(tmp_path) as scene:
        callback = await scene.consent(await scene.go(await scene.begin()))
        issuer = scene.provider.described["issuer"]
        quoted = issuer.replace(":", "%3A").replace("/", "%2F")
        assert quoted in callback
        await scene.come_back(callback.replace(quoted, "https%3A%2F%2Fid.evil.example"))
        told = scene.person.text()
        assert f"The answer comes from https://id.evil.example, not from {issuer}." in told
        assert "possible mix-up attack" in told
        assert "Stop this sign-in" in told
        assert (await scene.provider.control_state())["token_requests"].get("authorization_code", 0) == 0
        await scene.nothing_is_lost()


async def test_a_person_who_refuses_is_told_in_words_and_not_in_codes(tmp_path: Path) -> None:
    async with play(tmp_path) as scene:
        told = await scene.in_the_browser("")
        assert "The user or the server refused." in told
        assert "Authorise again and accept" in told
        await scene.nothing_is_lost()


# A renewal that is refused


async def test_a_refused_renewal_is_explained_where_the_token_is_shown(tmp_path: Path) -> None:
    async with play(tmp_path) as scene:
        as_family(scene.home, "microsoft")
        body = oauth("invalid_grant", "AADSTS50173: The provided grant has expired due to it being revoked.")
        await scene.fault("token", action="answer", status=400, body=body)
        token_id = (await scene.home.token(ALICE)).id
        with contextlib.suppress(Exception):
            await scene.home.parts.keeper.access_token(token_id, newer_than=0)
        assert (await scene.home.token(ALICE)).state == "invalid"
        await scene.person.look(f"/mailboxes/{scene.mailbox_id}")
        assert "password" in scene.person.text()
        assert "authorise" in scene.person.text().lower()
