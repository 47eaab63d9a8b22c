"""The app registration assistant: what has to be registered, at every provider and for every way; scripts that run."""

import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from posthouse.problems import ProblemError
from posthouse.providers.guide import Guide, guide
from posthouse.providers.provider import Provider, built_in
from posthouse.providers.registration import WAYS, Credential, Way, Wish, credentials_of, redirect_problem, ways_of
from posthouse.services.apply_file import parse, read_wanted

LOCAL = "http://localhost:8480/oauth/callback"
PUBLIC = "https://mail.example.com/oauth/callback"
SCRIPTED = sorted(name for name, provider in built_in().items() if provider.registering.guide == "entra")
WISHES = [
    (name, way, credential)
    for name, provider in built_in().items()
    for way in ways_of(provider)
    for credential in credentials_of(provider, way)
]


def made(name: str, way: Way = "browser", redirect_url: str = PUBLIC, **more: object) -> Guide:
    return guide(built_in()[name], Wish(redirect_url, way, **more))  # type: ignore[arg-type]


def lines(found: Guide) -> list[str]:
    return [line for step in found.steps for line in step.lines]


def told(found: Guide) -> str:
    return " ".join(str(step.sentence) for step in found.steps)


def script(found: Guide, ending: str) -> str:
    return next(one.text for one in found.scripts if one.name.endswith(ending))


@pytest.mark.parametrize(("name", "way", "credential"), WISHES)
def test_every_open_way_has_steps_that_show_what_to_register(name: str, way: Way, credential: Credential) -> None:
    found = made(name, way, credential=credential, protocols=("smtp", "imap"))
    assert found.closed is None
    assert found.credential == credential
    assert found.redirect_url == (PUBLIC if way in ("browser", "paste", "link") else "")
    assert lines(found).count(PUBLIC) == (1 if found.redirect_url else 0)
    assert set(found.permissions) <= set(lines(found))
    assert "%(" not in told(found)
    assert found.steps[-1].lines[0] == "[[app]]"


@pytest.mark.parametrize(("name", "way", "credential"), WISHES)
def test_what_goes_into_an_apply_file_is_an_apply_file(name: str, way: Way, credential: Credential) -> None:
    found = made(name, way, credential=credential, client_id="cid", tenant="example.com")
    item = "\n".join(found.steps[-1].lines)
    known = tomllib.loads(item)["app"][0]
    assert known["provider"] == name
    assert (credential == "service_account") == ("client_id" not in known)
    problems = parse(item, "app.toml", {}).problems
    assert all("file" in problem.sentence or "secret" in problem.sentence for problem in problems), problems


@pytest.mark.parametrize("name", sorted(built_in()))
def test_a_closed_way_says_why_and_has_no_steps(name: str) -> None:
    for way in set(WAYS) - set(ways_of(built_in()[name])):
        found = made(name, way)
        assert found.closed is not None
        assert built_in()[name].title in str(found.closed)
        assert not found.steps
        assert not found.scripts


def test_which_ways_are_open() -> None:
    assert set(ways_of(built_in()["microsoft"])) == set(WAYS)
    assert "app" not in ways_of(built_in()["outlook"])
    assert "device" not in ways_of(built_in()["google"])
    assert "device" not in ways_of(built_in()["yahoo"])
    assert ways_of(built_in()["icloud"]) == ()
    discovered = Provider(name="own", title="own", issuer="https://id.example.com")
    assert set(ways_of(discovered)) == set(WAYS) - {"app"}


@pytest.mark.parametrize(
    ("name", "url", "fits"),
    [
        ("microsoft", LOCAL, True),
        ("microsoft", PUBLIC, True),
        ("microsoft", "https://10.0.0.5/oauth/callback", True),
        ("microsoft", "http://127.0.0.1:8480/oauth/callback", False),
        ("microsoft", "http://mail.example.com/oauth/callback", False),
        ("google", LOCAL, True),
        ("google", "http://127.0.0.1:8480/oauth/callback", True),
        ("google", PUBLIC, True),
        ("google", "https://10.0.0.5/oauth/callback", False),
        ("google", "https://posthouse/oauth/callback", False),
        ("google", "http://mail.example.com/oauth/callback", False),
        ("yahoo", PUBLIC, True),
        ("aol", LOCAL, False),
        ("yahoo", "https://localhost/oauth/callback", False),
        ("yandex", LOCAL, True),
    ],
)
def test_redirect_urls_that_a_provider_takes(name: str, url: str, fits: bool) -> None:
    assert (redirect_problem(built_in()[name], url) is None) == fits
    warned = any("external_url" in str(warning) for warning in made(name, "browser", url).warnings)
    assert warned != fits


def test_localhost_is_warned_of_where_the_browser_has_to_come_back() -> None:
    assert "localhost" in str(made("microsoft", "link", LOCAL).warnings[0])
    assert not made("microsoft", "paste", LOCAL).warnings
    assert not made("microsoft", "device", LOCAL).warnings
    assert not made("microsoft", "browser", PUBLIC).warnings


def test_microsoft_delegated_is_a_public_client_with_full_permissions() -> None:
    found = made("microsoft", "device", protocols=("smtp", "imap"))
    assert found.public_client
    assert "Allow public client flows" in told(found)
    assert found.permissions[:2] == ("SMTP.Send", "IMAP.AccessAsUser.All")
    assert found.scopes[:2] == (
        "https://outlook.office.com/SMTP.Send",
        "https://outlook.office.com/IMAP.AccessAsUser.All",
    )
    assert "POP.AccessAsUser.All" not in lines(found)


def test_microsoft_with_a_secret_is_a_web_platform() -> None:
    assert "Web, add exactly" in told(made("microsoft", credential="secret"))
    assert "Mobile and desktop" in told(made("microsoft", credential="none"))
    assert "Secret ID" in told(made("microsoft", credential="secret"))


def test_microsoft_as_the_app_itself() -> None:
    found = made("microsoft", "app", protocols=("smtp", "imap", "pop3"), mailboxes=("a@example.com",))
    assert found.permissions == ("SMTP.SendAsApp", "IMAP.AccessAsApp", "POP.AccessAsApp")
    assert found.credential == "secret"
    shell = script(found, ".ps1")
    assert "New-ServicePrincipal -AppId $AppId -ObjectId $ObjectId" in shell
    assert "$AppId, $ObjectId = $app.AppId, $service.Id" in shell
    assert "$service = Get-MgServicePrincipal -Filter" in shell
    assert "Add-MailboxPermission -Identity $mailbox -User $ObjectId -AccessRights FullAccess" in shell
    assert "-SmtpClientAuthenticationDisabled $false -ImapEnabled $true -PopEnabled $true" in shell
    assert "$mailboxes = @('a@example.com')" in shell


@pytest.mark.parametrize(
    ("name", "exchange", "graph", "cloud"),
    [
        ("microsoft", "O365Default", "Global", ""),
        ("microsoft-gcc-high", "O365USGovGCCHigh", "USGov", "AzureUSGovernment"),
        ("microsoft-dod", "O365USGovDoD", "USGovDoD", "AzureUSGovernment"),
        ("microsoft-21vianet", "O365China", "China", "AzureChinaCloud"),
    ],
)
def test_every_cloud_has_its_own_tools(name: str, exchange: str, graph: str, cloud: str) -> None:
    found = made(name, "app")
    assert f"-ExchangeEnvironmentName '{exchange}'" in script(found, ".ps1")
    assert f"-Environment '{graph}'" in script(found, ".ps1")
    assert ("az cloud set" in script(found, ".sh")) == bool(cloud)
    assert cloud in script(found, ".sh")


def test_google_as_a_service_account() -> None:
    found = made("google", "app", protocols=("smtp", "imap"))
    assert found.credential == "service_account"
    assert "Domain-wide delegation" in told(found)
    assert found.scopes == ("https://mail.google.com/",)
    assert "https://mail.google.com/" in lines(found)
    assert 'service_account = { file = "posthouse-key.json" }' in lines(found)


def test_what_nobody_has_is_refused_before_it_gets_into_a_script() -> None:
    for wrong in (
        {"mailboxes": ("a@example.com\nrm -rf /",)},
        {"mailboxes": ("\u2019; rm@example.com",)},
        {"mailboxes": tuple(f"{n}@example.com" for n in range(201))},
        {"tenant": "x' ; y"},
        {"client_id": "a'b"},
        {"name": "a\nb"},
    ):
        with pytest.raises(ProblemError):
            Wish(PUBLIC, **wrong)


@pytest.mark.parametrize(("name", "way", "credential"), [wish for wish in WISHES if wish[0] in SCRIPTED])
def test_powershell_scripts_are_whole(name: str, way: Way, credential: Credential) -> None:
    """No PowerShell here: at least every bracket and quote is closed, with a name that needs quoting in it."""
    found = made(name, way, credential=credential, mailboxes=("o'n{`$eil@example.com",))
    assert unclosed(script(found, ".ps1")) == ""


def unclosed(text: str) -> str:
    """What is still open at the end of a PowerShell script."""
    text = re.sub(r"(?m)^\s*#.*$", "", text)
    text = re.sub(r"'(?:[^']|'')*'", "", text)
    text = re.sub(r'"(?:[^"`]|`.)*"', "", text)
    stack: list[str] = []
    for letter in text:
        if letter in "({[":
            stack.append({"(": ")", "{": "}", "[": "]"}[letter])
        elif letter in ")}]":
            assert stack, f"{letter} without a beginning"
            assert stack.pop() == letter
        assert letter not in "'\"", "a quote is left"
    return "".join(stack)


AZ = """#!/bin/sh
printf '%s\\n' "$*" >> calls
case "$*" in
*"sp show --id 0000000"*"--query"*) echo "id-of-$(printf %s "$*" | sed "s/.*value=='//;s/'.*//")" ;;
*"app list"*) ;;
*"app create"*) echo the-client-id ;;
*"sp show --id the-client-id --query id"*) echo the-object-id ;;
*"sp show --id the-client-id"*) exit 1 ;;
*"account show --query tenantId"*) echo the-tenant ;;
*"--query password"*) echo s3cret ;;
*"endDateTime"*) echo 2027-11-24T12:00:00Z ;;
esac
"""
PWSH = '#!/bin/sh\nprintf "pwsh %s\\n" "$*" >> calls\n'


@pytest.mark.parametrize(
    ("name", "way", "credential"),
    [wish for wish in WISHES if wish[0] in ("microsoft", "outlook") and wish[1] in ("browser", "device", "app")],
)
def test_the_shell_script_runs_and_leaves_an_apply_file(
    tmp_path: Path, name: str, way: Way, credential: Credential
) -> None:
    found = made(name, way, credential=credential, mailboxes=("o'neil@example.com",), protocols=("smtp", "imap"))
    for program, text in (("az", AZ), ("pwsh", PWSH)):
        (tmp_path / program).write_text(text)
        (tmp_path / program).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    ran = subprocess.run(
        ["sh", "-c", script(found, ".sh")], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    calls = (tmp_path / "calls").read_text()
    access = re.search(r"--required-resource-accesses (\S+)", calls)
    assert access
    assert {entry["id"] for resource in json.loads(access[1]) for entry in resource["resourceAccess"]} == {
        f"id-of-{permission}" for permission in found.permissions
    }
    assert (PUBLIC in calls) == bool(found.redirect_url)
    assert ("--is-fallback-public-client true" in calls) == (credential == "none")
    wanted = read_wanted(tmp_path / "posthouse-app.toml", {})
    assert wanted.problems == ()
    item = wanted.of("app")[0]
    assert item.values["client_id"] == "the-client-id"
    if credential == "secret":
        assert item.secret is not None
        assert item.secret.reveal() == "s3cret"
        assert (tmp_path / "posthouse-secret.txt").stat().st_mode & 0o077 == 0
        assert item.values["secret_expires"] == "2027-11-24"
    if name != "outlook":
        assert item.values["tenant"] == "the-tenant"
        assert "pwsh -NoProfile -File posthouse-exchange.ps1 the-client-id the-object-id" in calls
        exchange = (tmp_path / "posthouse-exchange.ps1").read_text()
        assert "@('o''neil@example.com')" in exchange
        assert unclosed(exchange) == ""
        assert ("Add-MailboxPermission" in exchange) == (way == "app")
