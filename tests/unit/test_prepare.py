"""What ./dev test installs, when, and that it leaves the machine as it was; scripts play apt-get and its kin."""

import os
from pathlib import Path

import pytest

from tests import prepare

RECORD = """#!/bin/sh
echo "$(basename "$0") $*" >> {log}
"""


class Machine:
    """A machine whose programs write down how they were called; apt-get does what `apt` says."""

    def __init__(self, directory: Path, apt: str = "exit 0") -> None:
        self.log = directory / "called"
        self.policy = directory / "policy-rc.d"
        self.programs = directory / "bin"
        self.programs.mkdir()
        for name in ("apt-get", "debconf-set-selections"):
            self.program(name, apt if name == "apt-get" else "exit 0")

    def program(self, name: str, ending: str) -> None:
        path = self.programs / name
        path.write_text(f"{RECORD.format(log=self.log)}{ending}\n")
        path.chmod(0o755)

    def calls(self, name: str) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if line.startswith(name)]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine(tmp_path)
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "some_Packages").touch()
    monkeypatch.setattr(prepare, "LISTS", lists)
    monkeypatch.setenv("PATH", f"{made.programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CI", raising=False)
    return made


def test_nothing_is_installed_that_nobody_asked_for(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare.may_install(["postfix"], wanted=False) is False
    assert "--install" in capsys.readouterr().err
    assert prepare.may_install(["postfix"], wanted=True) is True


def test_ci_is_a_yes(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert prepare.may_install(["postfix"], wanted=False) is True


def test_all_packages_at_once_and_none_removed(machine: Machine) -> None:
    prepare.install((), ["postfix", "chromium"])
    (call,) = machine.calls("apt-get")
    assert call.endswith("install --no-install-recommends --no-remove postfix chromium")
    assert machine.calls("debconf-set-selections")


def test_without_lists_they_are_read_first(machine: Machine) -> None:
    (prepare.LISTS / "some_Packages").unlink()
    prepare.install((), ["chromium"])
    assert ["update" in call for call in machine.calls("apt-get")] == [True, False]


def test_one_bad_package_does_not_take_the_others_along(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    machine.program("apt-get", 'case "$*" in *swaks*) echo "no such package"; exit 100;; esac')
    prepare.install((), ["postfix", "swaks"])
    assert machine.calls("apt-get")[-2].endswith(" postfix")
    assert "could not install swaks:\nno such package" in capsys.readouterr().err


def test_daemons_are_held_back_only_meanwhile(machine: Machine) -> None:
    with prepare.no_daemon((), machine.policy):
        assert os.system(str(machine.policy)) >> 8 == 101
    assert not machine.policy.exists()


def test_the_machine_keeps_a_policy_of_its_own(machine: Machine) -> None:
    machine.policy.write_text("#!/bin/sh\nexit 0\n")
    with prepare.no_daemon((), machine.policy):
        pass
    assert machine.policy.read_text() == "#!/bin/sh\nexit 0\n"


def test_the_policy_goes_also_when_installing_fails(machine: Machine) -> None:
    with pytest.raises(prepare.Failed), prepare.no_daemon((), machine.policy):
        raise prepare.Failed
    assert not machine.policy.exists()
