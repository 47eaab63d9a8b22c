"""The ledger by itself: what HTTP cannot show is that it stays small and that its secrets stay hidden."""

import pytest

from posthouse.sandbox import grants
from posthouse.sandbox.grants import Consent, GrantError, Ledger, Rules, challenge_of, plain_user_code

SCOPES = ("mail", "offline_access")


def consent(person: str = "alice@sandbox.example") -> Consent:
    return Consent("posthouse", person, SCOPES, 0)


def test_tables_stay_small_and_lose_the_expired_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "MOST_KEPT", 3)
    ledger = Ledger()
    old = [ledger.grant(consent(), 0).access_token.reveal() for _ in range(3)]
    fresh = [ledger.grant(consent(), 3600).access_token.reveal() for _ in range(2)]
    assert [ledger.look_up(token, 3600) is not None for token in (*old, *fresh)] == [False] * 3 + [True] * 2
    for _ in range(10):
        ledger.begin_device("posthouse", SCOPES, 0)
        ledger.authorise(consent(), "http://localhost/", challenge_of("v"), 0)
    newest = ledger.begin_device("posthouse", SCOPES, 0)
    assert ledger.device(newest.user_code, 0) == newest
    sizes = [len(t) for t in (ledger.grants, ledger._access, ledger._codes, ledger._devices, ledger._user_codes)]
    assert max(sizes) <= 3


def test_the_oldest_grant_goes_and_its_refresh_token_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grants, "MOST_KEPT", 1)
    ledger = Ledger()
    first, second = ledger.grant(consent(), 0), ledger.grant(consent(), 0)
    assert first.refresh_token is not None
    assert second.refresh_token is not None
    with pytest.raises(GrantError, match="unknown"):
        ledger.refresh(first.refresh_token.reveal(), "posthouse", (), 0)
    assert ledger.refresh(second.refresh_token.reveal(), "posthouse", (), 0).refresh_token is not None


def test_a_consent_for_a_time_says_how_much_is_left_and_ends() -> None:
    ledger = Ledger(rules=Rules(consent_lifetime=1000))
    given = ledger.grant(consent(), 0)
    assert given.refresh_token is not None
    later = ledger.refresh(given.refresh_token.reveal(), "posthouse", (), 400)
    assert (given.refresh_lifetime, later.refresh_lifetime) == (1000, 600)
    assert later.refresh_token is not None
    with pytest.raises(GrantError, match="its time is over"):
        ledger.refresh(later.refresh_token.reveal(), "posthouse", (), 1000)


def test_no_secret_stands_in_a_repr() -> None:
    ledger = Ledger()
    issued, device = ledger.grant(consent(), 0), ledger.begin_device("posthouse", SCOPES, 0)
    assert issued.refresh_token is not None
    shown = f"{issued!r} {device!r}"
    for secret in (issued.access_token, issued.refresh_token, device.code):
        assert secret.reveal() not in shown


def test_revoking_a_person_ends_each_of_their_grants_once() -> None:
    ledger = Ledger()
    for person in ("a@x.example", "a@x.example", "b@x.example"):
        ledger.grant(consent(person), 0)
    assert [ledger.revoke_person(who) for who in ("a@x.example", "a@x.example", "")] == [2, 0, 1]


@pytest.mark.parametrize("typed", ["BCDF-GHJK", "bcdfghjk", " bcdf ghjk ", "b c d f-g h j k"])
def test_a_user_code_may_be_typed_in_any_way(typed: str) -> None:
    assert plain_user_code(typed) == "BCDF-GHJK"
