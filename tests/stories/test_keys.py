"""Keys as administrators meet them: `posthouse key`, beside a gateway and without one."""

import base64
import os
from pathlib import Path

import pytest

from tests.stories.test_cli import Shell, serving, shell
from tests.support.boxes import ALICE, BOB, PRINTER
from tests.support.house import house

__all__ = ["serving", "shell"]


def key_text() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


async def test_the_status_says_where_the_key_comes_from_and_what_lies_under_it_and_never_the_key(
    serving: Shell,
) -> None:
    assert (await serving.authorise(ALICE, ALICE)).status == 0
    key = (serving.place / "data" / "key").read_text().strip()
    ended = await serving.run("key", "status")
    assert ended.status == 0, ended.err
    assert f"comes from  {serving.place}/data/key" in ended.out
    assert "tokens: 1" in ended.out
    assert "sign-ins: 1" in ended.out
    document = await serving.run("key", "status", "--json")
    assert document.data["master"]["kind"] == "file"
    assert key not in ended.out + document.out


async def test_the_data_key_is_changed_beside_a_running_gateway_which_goes_on(serving: Shell) -> None:
    assert (await serving.authorise(ALICE, ALICE)).status == 0
    before = (await serving.run("key", "status", "--json")).data["keys"][0]["id"]
    ended = await serving.run("key", "rotate")
    assert ended.status == 0, ended.err
    assert "the new key is made known to every gateway" in ended.err
    assert ended.out.startswith("Everything is encrypted with the data key ")
    assert "The gateway removes the former key in some minutes" in ended.out
    keys = {one["state"]: one for one in (await serving.run("key", "status", "--json")).data["keys"]}
    assert keys["old"]["id"] == before
    assert keys["old"]["values"] == {}
    assert keys["current"]["values"]["tokens"] == 1
    assert (await serving.run("token", "print", ALICE)).status == 0
    assert (await serving.run("test", ALICE, "--only", "smtp")).status == 0


async def test_without_a_gateway_the_command_does_it_all(shell: Shell) -> None:
    assert (await shell.run("apply", "mail.toml")).status == 0
    assert (await shell.authorise(ALICE, ALICE)).status == 0
    ended = await shell.run("key", "rotate")
    assert ended.status == 0, ended.err
    assert "The former key is removed." in ended.out
    status = await shell.run("key", "status", "--json")
    assert [one["state"] for one in status.data["keys"]] == ["current"]
    assert (await shell.run("token", "print", ALICE)).status == 0


async def test_a_device_keeps_its_password_when_the_keys_are_changed(shell: Shell) -> None:
    data = shell.place / "data"
    async with house(data, shell.box.apply_file(ALICE), background=False) as running:
        assert (await running.by_device(ALICE, shell.box.approve_as(ALICE))).state == "done"
        passwords = running.passwords
    assert (await shell.run("key", "rotate")).status == 0
    assert (await shell.run("key", "rotate", "--master", "--yes")).status == 0
    async with house(data) as running:
        running.passwords = passwords
        queue_id = await running.send(PRINTER, BOB, "Afterwards")
        await running.until_message(queue_id, "sent")
    assert shell.box.subjects(BOB) == ["Afterwards"]


async def test_a_new_master_key_takes_the_old_ones_place_beside_a_running_gateway(serving: Shell) -> None:
    former = (serving.place / "data" / "key").read_text()
    refused = await serving.run("key", "rotate", "--master")
    assert refused.status == 64
    assert "Say --yes if you are sure" in refused.err
    ended = await serving.run("key", "rotate", "--master", "--yes")
    assert ended.status == 0, ended.err
    assert "the former one opens nothing any more" in ended.out
    assert (serving.place / "data" / "key").read_text() != former
    assert (await serving.run("key", "rotate")).status == 0
    assert (await serving.run("key", "rotate", "--finish")).out == "There was nothing to finish.\n"


async def test_a_master_key_from_the_environment_is_changed_by_giving_the_new_one(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTHOUSE_KEY", key_text())
    assert (await shell.run("apply", "mail.toml")).status == 0
    refused = await shell.run("key", "rotate", "--master", "--yes")
    assert refused.status == 64
    assert "--new-key new.key" in refused.err
    new = key_text()
    (shell.place / "new.key").write_text(new + "\n")
    begun = await shell.run("key", "rotate", "--new-key", "new.key", "--yes")
    assert begun.status == 1
    assert "Put it where the old one is, in POSTHOUSE_KEY" in begun.out
    status = await shell.run("key", "status")
    assert status.status == 1
    assert "A change of the master key is not finished" in status.err
    early = await shell.run("key", "rotate")
    assert early.status == 1
    assert "posthouse key rotate --finish" in early.err
    monkeypatch.setenv("POSTHOUSE_KEY", new)
    finished = await shell.run("key", "rotate", "--finish")
    assert finished.out == "The former master key opens nothing any more.\n"
    assert (await shell.run("key", "status")).status == 0
    piped = await shell.run("key", "rotate", "--new-key", "-", "--yes", text=key_text().encode())
    assert piped.status == 1
    for told in (begun, status, early, finished, piped):
        assert new not in told.out + told.err


async def test_what_is_no_key_is_refused_and_not_repeated(shell: Shell) -> None:
    assert (await shell.run("apply", "mail.toml")).status == 0
    before = (shell.place / "data" / "key").read_text()
    for text in (b"almost-a-key\n", b"\n", b""):
        ended = await shell.run("key", "rotate", "--new-key", "-", "--yes", text=text)
        assert ended.status in (1, 64)
        assert "43 letters of base64" in ended.err
        assert "almost" not in ended.err
    missing = await shell.run("key", "rotate", "--new-key", "nowhere", "--yes")
    assert missing.status == 64
    assert missing.err == "nowhere cannot be read: No such file or directory.\n"
    assert (shell.place / "data" / "key").read_text() == before


async def test_a_key_in_the_keyring_serves(tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "drawer.py").write_text(FILE_KEYRING.format(path=str(tmp_path / "drawer.json")))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "drawer.Drawer")
    config = shell.place / "posthouse.toml"
    config.write_text(f'key = "keyring"\n{config.read_text()}')
    assert (await shell.run("apply", "mail.toml")).status == 0
    assert not (shell.place / "data" / "key").exists()
    status = await shell.run("key", "status")
    assert f"the keyring (posthouse, {shell.place}/data)" in status.out
    changed = await shell.run("key", "rotate", "--master", "--yes")
    assert changed.status == 0, changed.err
    assert (await shell.run("key", "status")).status == 0


FILE_KEYRING = """
import json
import pathlib
from keyring.backend import KeyringBackend

PLACE = pathlib.Path({path!r})


class Drawer(KeyringBackend):
    priority = 1

    def all(self):
        return json.loads(PLACE.read_text()) if PLACE.exists() else {{}}

    def get_password(self, service, username):
        return self.all().get(f"{{service}}/{{username}}")

    def set_password(self, service, username, password):
        PLACE.write_text(json.dumps({{**self.all(), f"{{service}}/{{username}}": password}}))

    def delete_password(self, service, username):
        PLACE.write_text(json.dumps({{k: v for k, v in self.all().items() if k != f"{{service}}/{{username}}"}}))
"""
