import os
import subprocess
import sys
from pathlib import Path

import pytest

from posthouse.problems import ProblemError
from posthouse.store.lock import DataLock, file_system_of, refuse_network_file_system

MOUNTS = r"""sysfs /sys sysfs rw 0 0
/dev/sda1 / ext4 rw 0 0
server:/mail /srv/mail nfs4 rw 0 0
/dev/sdb1 /srv/mail/local ext4 rw 0 0
//server/share /mnt/two\040words cifs rw 0 0
"""


def test_a_second_one_is_refused_with_the_first_ones_number(tmp_path: Path) -> None:
    first = DataLock(tmp_path)
    with pytest.raises(ProblemError, match=rf"process {os.getpid()}\b") as raised:
        DataLock(tmp_path)
    assert (raised.value.problems[0].id, raised.value.status) == ("data.in-use", 75)
    first.release()
    DataLock(tmp_path).release()


def test_being_refused_does_not_disturb_the_holder(tmp_path: Path) -> None:
    first = DataLock(tmp_path)
    for _ in range(3):
        with pytest.raises(ProblemError):
            DataLock(tmp_path)
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    first.release()


def test_the_lock_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    take = (
        "import os, signal, sys, pathlib; from posthouse.store.lock import DataLock;"
        "lock = DataLock(pathlib.Path(sys.argv[1])); os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", take, str(tmp_path)], check=False, timeout=30)
    assert ended.returncode == -9
    assert (tmp_path / "lock").exists()
    DataLock(tmp_path).release()


def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    lock = DataLock(tmp_path)
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    lock.release()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/posthouse", "ext4"),
        ("/srv/mail", "nfs4"),
        ("/srv/mail/posthouse", "nfs4"),
        ("/srv/mailbox", "ext4"),
        ("/srv/mail/local/posthouse", "ext4"),
        ("/mnt/two words/posthouse", "cifs"),
    ],
)
def test_the_file_system_is_that_of_the_longest_mount_point(path: str, kind: str) -> None:
    assert file_system_of(Path(path), MOUNTS) == kind


def test_an_unknown_file_system_is_not_held_against_anybody() -> None:
    assert file_system_of(Path("/x"), "") == ""
    assert file_system_of(Path("/x"), "\n\nrubbish\n/dev/sda1\n") == ""


def test_the_data_directory_may_not_lie_on_a_network_file_system(tmp_path: Path) -> None:
    refuse_network_file_system(tmp_path, f"/dev/sda1 {tmp_path} ext4 rw 0 0\n")
    with pytest.raises(ProblemError, match="nfs4") as raised:
        refuse_network_file_system(tmp_path, f"server:/mail {tmp_path} nfs4 rw 0 0\n")
    assert raised.value.problems[0].id == "data.network-file-system"


def test_a_link_to_a_network_file_system_counts_as_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    with pytest.raises(ProblemError):
        refuse_network_file_system(tmp_path / "near", f"server:/mail {tmp_path / 'far'} nfs4 rw 0 0\n")
