"""Stories of people who sign in, rightly and wrongly, with the sandbox as the provider."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc.jwk import RSAKey

from posthouse.oauth.code import parameters_of
from posthouse.problems import ProblemError
from posthouse.secret import Secret
from posthouse.services import authorise
from posthouse.services.authorise import Redirect
from posthouse.services.sign_in import Registration
from posthouse.store import authorisations
from posthouse.store.authorisations import Authorisation
from posthouse.store.database import DatabaseUnavailable
from tests.faults.liars import liar
from tests.support.boxes import ALICE, BOB, PRINTER, SUPPORT, Box, box
from tests.support.house import House, house


async def start_page(gateway: House, address: str) -> Redirect:
    begun = await gateway.parts.authorise.begin(gateway.parts.directory.now.by_address[address], "browser")
    return await gateway.parts.authorise.open_start_page(Secret(begun.url.rpartition("/")[2]))


async def come_back(provider: Box, redirect: Redirect, person: str) -> dict[str, str]:
    """The parameters with which the browser comes back after `person` has consented."""
    answer = await provider.control("approve", url=redirect.url.reveal(), person=person)
    return parameters_of(answer["url"])


async def test_a_person_signs_in_with_a_browser(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        redirect = await start_page(gateway, ALICE)
        asked = parameters_of(redirect.url.reveal())
        assert asked["code_challenge_method"] == "S256"
        assert "select_account" in asked["prompt"]
        parameters = await come_back(provider, redirect, ALICE)
        attempt = await gateway.parts.authorise.callback(parameters, redirect.cookie)
        assert attempt.state == "done"
        token = await gateway.token(ALICE)
        assert token.state == "acquired"
        assert token.pinned is not None


async def test_the_wrong_person_is_refused_with_both_names_and_the_consent_is_given_back(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        redirect = await start_page(gateway, ALICE)
        attempt = await gateway.parts.authorise.callback(await come_back(provider, redirect, BOB), redirect.cookie)
        assert (attempt.state, attempt.reason) == ("refused", "wrong_person")
        assert ALICE in attempt.detail
        assert BOB in attempt.detail
        assert (await gateway.token(ALICE)).state == "not_acquired"
        state = await provider.control_state()
        assert [known["ended"] for known in state["grants"]] == ["revoked by the client"]


async def test_the_wrong_person_leaves_a_token_that_serves_as_it_was(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        assert (await gateway.by_device(ALICE, provider.approve_as(BOB))).state == "refused"
        assert (await gateway.token(ALICE)).state == "acquired"
        await gateway.until_message(await gateway.send(PRINTER, BOB, "Still"), "sent")


async def test_after_the_first_consent_the_person_is_pinned_and_the_name_no_longer_counts(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        pinned = (await gateway.token(ALICE)).pinned
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        assert (await gateway.token(ALICE)).pinned == pinned


@pytest.mark.parametrize("cookie", [None, Secret("of another browser")])
async def test_a_callback_in_another_browser_is_refused_and_the_right_one_still_works(
    tmp_path: Path, cookie: Secret | None
) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        redirect = await start_page(gateway, ALICE)
        parameters = await come_back(provider, redirect, ALICE)
        with pytest.raises(ProblemError, match="begun in this browser"):
            await gateway.parts.authorise.callback(parameters, cookie)
        assert (await gateway.parts.authorise.callback(parameters, redirect.cookie)).state == "done"


async def test_a_callback_works_once(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        redirect = await start_page(gateway, ALICE)
        parameters = await come_back(provider, redirect, ALICE)
        await gateway.parts.authorise.callback(parameters, redirect.cookie)
        with pytest.raises(ProblemError):
            await gateway.parts.authorise.callback(parameters, redirect.cookie)
        assert (await gateway.token(ALICE)).state == "acquired"


async def test_an_answer_of_another_provider_is_refused(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        redirect = await start_page(gateway, ALICE)
        parameters = await come_back(provider, redirect, ALICE)
        foreign = parameters | {"iss": "https://id.evil.example"}
        attempt = await gateway.parts.authorise.callback(foreign, redirect.cookie)
        assert attempt.state == "refused"
        assert "id.evil.example" in attempt.detail


async def test_a_person_who_denies_leaves_everything_as_it_was(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        redirect = await start_page(gateway, ALICE)
        assert (await gateway.token(ALICE)).state == "waiting_for_authentication"
        attempt = await gateway.parts.authorise.callback(await come_back(provider, redirect, ""), redirect.cookie)
        assert attempt.state == "refused"
        assert (await gateway.token(ALICE)).state == "not_acquired"


async def test_a_start_page_opens_once(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        authorise = gateway.parts.authorise
        begun = await authorise.begin(gateway.parts.directory.now.by_address[ALICE], "browser")
        start = Secret(begun.url.rpartition("/")[2])
        await authorise.open_start_page(start)
        with pytest.raises(ProblemError, match="used or has expired"):
            await authorise.open_start_page(start)


async def test_a_token_waits_while_the_provider_has_smtp_switched_off_and_serves_once_it_is_on(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await provider.control("protocols", protocol="smtp", on=False)
        begun = await gateway.parts.authorise.begin(gateway.parts.directory.now.by_address[ALICE], "device")
        await provider.approve_as(ALICE)(begun.authorisation)
        gateway.clock.forward(2)
        await gateway.parts.authorise.look_after()
        token = await gateway.token(ALICE)
        assert (token.state, token.reason) == ("waiting_for_authentication", "proving")
        assert "5.7.139" in token.detail
        assert (await gateway.authorisation(begun.authorisation.id)).state == "proving"

        await provider.control("protocols", protocol="smtp", on=True)
        assert (await gateway.followed(begun.authorisation)).state == "done"
        assert (await gateway.token(ALICE)).state == "acquired"


async def test_a_provider_that_does_not_tell_who_signed_in_needs_a_confirmation(tmp_path: Path) -> None:
    async with box(tmp_path / "box", openid=False) as provider:
        text = provider.apply_file(ALICE).replace("issuer =", "# issuer =")
        addresses = await fetch(f"{provider.described['issuer']}/.well-known/oauth-authorization-server")
        urls = "\n".join(
            f'{ours} = "{addresses[theirs]}"'
            for ours, theirs in (("token_url", "token_endpoint"), ("device_url", "device_authorization_endpoint"))
        )
        text = text.replace('name = "sandbox"\n', f'name = "sandbox"\n{urls}\n', 1)
        async with house(tmp_path / "data", text) as gateway:
            attempt = await gateway.by_device(ALICE, provider.approve_as(ALICE))
            assert (attempt.state, attempt.reason) == ("unverified", "person_not_verified")
            view = (await gateway.view(ALICE)).tokens[0]
            assert (view.state, view.reason) == ("waiting_for_authentication", "person_not_verified")
            assert view.next_step == "confirm"
            assert (await gateway.parts.authorise.confirm_person(attempt.id)).state == "done"
            assert (await gateway.token(ALICE)).state == "acquired"
            view = (await gateway.view(ALICE)).tokens[0]
            assert (view.state, view.reason, view.next_step) == ("acquired", "", "")


async def test_the_id_token_alone_tells_who_signed_in(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider:
        issuer = provider.described["issuer"]
        found = await fetch(f"{issuer}/.well-known/openid-configuration")
        doors = {"token_url": "token_endpoint", "device_url": "device_authorization_endpoint", "jwks_url": "jwks_uri"}
        urls = "\n".join(f'{ours} = "{found[theirs]}"' for ours, theirs in doors.items())
        text = provider.apply_file(ALICE).replace('name = "sandbox"\n', f'name = "sandbox"\n{urls}\n', 1)
        text = text.replace('["mail", "offline_access"]', '["mail", "offline_access", "openid", "profile"]')
        async with house(tmp_path / "data", text) as gateway:
            assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
            assert (await gateway.by_device(ALICE, provider.approve_as(BOB))).reason == "wrong_person"


async def test_names_that_stand_in_no_id_token_are_asked_for(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box", names_in_id_token=False) as provider,
        house(tmp_path / "data", provider.apply_file(ALICE)) as gateway,
    ):
        first = await gateway.by_device(ALICE, provider.approve_as(BOB))
        assert (first.reason, first.detail) == ("wrong_person", f"{BOB} signed in, expected was {ALICE}.")
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        pinned = await gateway.by_device(ALICE, provider.approve_as(BOB))
        assert (pinned.reason, pinned.detail) == ("wrong_person", f"{BOB} signed in, expected was {ALICE}.")
        for door in ("introspect", "userinfo"):
            await provider.control("faults", place=door, action="cut")
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"


async def test_without_names_nobody_is_let_in_while_the_provider_does_not_say_who_it_was(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box", names_in_id_token=False) as provider,
        house(tmp_path / "data", provider.apply_file(ALICE)) as gateway,
    ):
        for door in ("introspect", "userinfo"):
            await provider.control("faults", place=door, action="cut", times=1)
        assert (await gateway.by_device(ALICE, provider.approve_as(BOB))).reason == "wrong_person"
        assert (await provider.control_state())["faults"] == []


async def test_a_deleted_token_is_dead_at_the_provider_too(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        await gateway.by_device(ALICE, provider.approve_as(ALICE))
        token = await gateway.token(ALICE)
        assert await gateway.parts.authorise.delete_token(token.id)
        assert (await gateway.token(ALICE)).state == "not_acquired"
        assert [known["ended"] for known in (await provider.control_state())["grants"]] == ["revoked by the client"]


async def fetch(url: str) -> dict[str, str]:
    async with httpx2.AsyncClient(trust_env=False) as http:
        return dict((await http.get(url)).json())


async def test_a_mailbox_with_a_token_goes_over_to_another_account_once_that_has_proved_itself(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(SUPPORT)) as gateway:
        await gateway.apply(f'[[mailbox]]\naddress = "{SUPPORT}"\nsigns_in_as = "{BOB}"')
        await gateway.by_device(SUPPORT, provider.approve_as(BOB))
        before = await gateway.token(SUPPORT)
        await gateway.apply(f'[[mailbox]]\naddress = "{SUPPORT}"\nsigns_in_as = "{ALICE}"')
        assert (await gateway.token(SUPPORT)).id == before.id
        assert (await gateway.by_device(SUPPORT, provider.approve_as(ALICE))).state == "done"
        await gateway.parts.directory.refresh()
        after = await gateway.token(SUPPORT)
        assert (after.account, after.state) == (ALICE, "acquired")
        await gateway.until_message(await gateway.send(PRINTER, BOB, "From support"), "sent")


async def test_a_token_is_shown_to_no_server_but_the_providers(tmp_path: Path) -> None:
    """The server of the mailbox's password stays written down; the token that takes its place must not go there."""
    async with box(tmp_path / "box") as provider, liar(None) as foreign:
        password = f'[[mailbox]]\naddress = "{ALICE}"\npassword = "old"\nsmtp = "127.0.0.1:{foreign.port} plain"\n'
        async with house(tmp_path / "data", password) as gateway:
            await gateway.apply(provider.apply_file(ALICE))
            assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
            await gateway.parts.directory.refresh()
            await gateway.until_message(await gateway.send(PRINTER, BOB, "By token"), "sent")
            assert provider.subjects(BOB) == ["By token"]
        assert [line for line in foreign.heard if line.startswith(b"AUTH")] == []


@pytest.mark.parametrize("method", ["browser", "device"])
async def test_a_code_goes_nowhere_but_to_where_its_sign_in_was_begun(tmp_path: Path, method: str) -> None:
    """The registration is changed while the person is away: another client, or another provider under its name."""
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        change = provider.apply_file(ALICE).replace('client_id = "posthouse"', 'client_id = "another"')
        if method == "browser":
            redirect = await start_page(gateway, ALICE)
            back = await come_back(provider, redirect, ALICE)
            await gateway.apply(change)
            attempt = await gateway.parts.authorise.callback(back, redirect.cookie)
        else:
            begun = await gateway.parts.authorise.begin(gateway.parts.directory.now.by_address[ALICE], "device")
            await gateway.apply(change)
            attempt = await gateway.followed(begun.authorisation)
        assert (attempt.state, attempt.reason) == ("refused", "client_changed")
        assert "changed after this sign-in was begun" in attempt.detail
        assert (await provider.control_state())["grants"] == []


async def test_only_so_many_sign_ins_are_under_way_for_a_mailbox(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE, BOB), background=False) as gateway,
    ):
        mailboxes, authorise = gateway.parts.directory.now.by_address, gateway.parts.authorise
        begun = [await authorise.begin(mailboxes[ALICE], "browser") for _ in range(20)]
        with pytest.raises(ProblemError, match="20 sign-ins are under way for this mailbox"):
            await authorise.begin(mailboxes[ALICE], "browser")
        await authorise.begin(mailboxes[BOB], "browser")
        await authorise.cancel(begun[0].authorisation.id)
        await authorise.begin(mailboxes[ALICE], "browser")


async def test_a_redirect_url_that_is_refused_is_shown_as_it_has_to_be_registered(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider, house(tmp_path / "data", provider.apply_file(ALICE)) as gateway:
        redirect = await start_page(gateway, ALICE)
        parameters = await come_back(provider, redirect, ALICE)
        await provider.control("faults", place="token", action="answer", status=400, error="redirect_uri_mismatch")
        attempt = await gateway.parts.authorise.callback(parameters, redirect.cookie)
        assert (attempt.state, attempt.reason) == ("refused", "refused")
        assert attempt.detail.endswith("Register exactly this redirect URL: http://localhost:8480/oauth/callback")


# A provider that changes its keys


async def with_another_key(provider: Box) -> dict[str, object]:
    """The key set as it would be with another key under the same name."""
    known = await fetch(f"{provider.sandbox.issuer}/jwks")
    made = RSAKey.generate_key(2048, private=True).as_dict(private=False)
    return {"keys": [{**known["keys"][0], "n": made["n"]}]}  # type: ignore[dict-item]


async def test_a_key_that_was_replaced_under_its_name_is_fetched_again(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        sign_in, former = gateway.parts.authorise.sign_in, json.dumps(await with_another_key(provider))
        await provider.control("faults", place="jwks", action="alter", body=former, times=1)
        registration = await sign_in.registration((await gateway.token(ALICE)).app_id)
        assert isinstance(registration, Registration)
        assert await sign_in.keys(registration) == json.loads(former)
        gateway.clock.forward(10)
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"


async def test_keys_are_not_fetched_for_every_wrong_signature(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        switch = await provider.control("faults", place="jwks", action="pass")
        sign_in = gateway.parts.authorise.sign_in
        registration = await sign_in.registration((await gateway.token(ALICE)).app_id)
        assert isinstance(registration, Registration)
        for asked in (1, 2):
            for _ in range(5):
                assert await sign_in.keys(registration, fresh=True)
            assert (await provider.control_state())["hits"] == {str(switch["id"]): asked}
            gateway.clock.forward(10)
        provider.sandbox.faults.remove(switch["id"])
        wrong = json.dumps(await with_another_key(provider))
        await provider.control("faults", place="jwks", action="alter", body=wrong)
        gateway.clock.forward(3600)
        attempt = await gateway.by_device(ALICE, provider.approve_as(ALICE))
        assert (attempt.reason, attempt.detail) == (
            "id_token_not_trusted",
            "Not accepted: the signature of the ID token is wrong.",
        )


# A provider that is away when its permission is to be used


async def answered(gateway: House, provider: Box) -> Authorisation:
    """The attempt when Alice has come back from the provider."""
    redirect = await start_page(gateway, ALICE)
    parameters = await come_back(provider, redirect, ALICE)
    attempt = await gateway.parts.authorise.callback(parameters, redirect.cookie)
    with pytest.raises(ProblemError):
        await gateway.parts.authorise.callback(parameters, redirect.cookie)
    return attempt


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429, "retry_after": 30}, {"status": 500}])
async def test_a_provider_that_is_busy_is_asked_again_by_itself(tmp_path: Path, fault: dict[str, int]) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await provider.control("faults", place="token", action="answer", **fault, times=2)
        attempt = await answered(gateway, provider)
        assert (attempt.state, attempt.grant_id) == ("permitted", None)
        assert f"HTTP {fault['status']}" in attempt.detail
        assert attempt.detail.endswith("It is asked again by itself.")
        assert attempt.poll_at > gateway.clock() + fault.get("retry_after", 5) - 2
        token = await gateway.token(ALICE)
        assert (token.state, token.reason) == ("waiting_for_authentication", "acquiring")
        assert (await gateway.followed(attempt)).state == "done"
        assert (await gateway.token(ALICE)).state == "acquired"


async def test_a_sign_in_that_waits_for_the_provider_outlives_the_gateway(tmp_path: Path) -> None:
    async with box(tmp_path / "box") as provider:
        async with house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway:
            await provider.control("faults", place="token", action="answer", status=503, times=1)
            attempt = await answered(gateway, provider)
        async with house(tmp_path / "data", background=False) as gateway:
            assert (await gateway.followed(attempt)).state == "done"


async def test_two_nodes_do_not_use_the_permission_twice(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await provider.control("faults", place="token", action="answer", status=503, times=1)
        attempt = await answered(gateway, provider)
        gateway.clock.forward(6)
        await asyncio.gather(*(gateway.parts.authorise.look_after() for _ in range(2)))
        assert (await gateway.authorisation(attempt.id)).state == "done"
        assert len((await provider.control_state())["grants"]) == 1


async def test_a_permission_that_has_run_out_meanwhile_ends_in_one_sentence(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await provider.control("faults", place="token", action="answer", status=503)
        over = await gateway.followed(await answered(gateway, provider))
        assert (over.state, over.reason) == ("refused", "provider_away")
        assert over.detail.endswith("HTTP 503. Its permission has run out meanwhile: begin again.")
        token = await gateway.token(ALICE)
        assert (token.state, token.reason) == ("not_acquired", "provider_away")


async def test_a_lost_answer_is_said_and_the_permission_is_not_used_twice(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await provider.control("faults", place="token", action="lose", times=1)
        attempt = await answered(gateway, provider)
        assert (attempt.state, attempt.reason) == ("refused", "sign_in_lost")
        assert attempt.detail == authorise.LOST


async def test_a_device_code_is_asked_for_again_where_the_provider_is_busy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorise, "ASK_AGAIN", (0.01, 0.01))
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await provider.control("faults", place="device_authorization", action="answer", status=503, times=2)
        assert (await gateway.by_device(ALICE, provider.approve_as(ALICE))).state == "done"
        await provider.control("faults", place="device_authorization", action="answer", status=503, times=3)
        with pytest.raises(ProblemError, match="HTTP 503"):
            await gateway.by_device(ALICE, provider.approve_as(ALICE))


async def test_a_lost_answer_to_a_device_code_is_said(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await provider.control("faults", place="token", action="lose", times=1)
        over = await gateway.by_device(ALICE, provider.approve_as(ALICE))
        assert (over.state, over.reason, over.detail) == ("refused", "sign_in_lost", authorise.LOST)


async def test_a_lost_answer_to_a_device_code_is_not_forgotten_while_the_provider_is_away(tmp_path: Path) -> None:
    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await provider.control("faults", place="token", action="lose", times=1)
        await provider.control("faults", place="token", action="answer", status=503, times=1)
        over = await gateway.by_device(ALICE, provider.approve_as(ALICE))
        assert (over.state, over.reason, over.detail) == ("refused", "sign_in_lost", authorise.LOST)


async def test_a_permission_is_kept_also_where_the_database_is_away_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authorise, "WRITE_AGAIN", (0.01, 0.01))
    permit, failures = authorisations.permit, iter((True, True, False))

    async def away(*words: Any, **more: Any) -> bool:
        if next(failures, False):
            raise DatabaseUnavailable("it is away")
        return await permit(*words, **more)

    async with (
        box(tmp_path / "box") as provider,
        house(tmp_path / "data", provider.apply_file(ALICE), background=False) as gateway,
    ):
        await provider.control("faults", place="token", action="answer", status=503, times=1)
        monkeypatch.setattr(authorisations, "permit", away)
        attempt = await answered(gateway, provider)
        assert attempt.state == "permitted"
        assert (await gateway.followed(attempt)).state == "done"
