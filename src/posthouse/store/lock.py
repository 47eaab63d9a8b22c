"""One process a data directory: a lock that the system releases when the process ends, however it ends."""

import fcntl
import os
from pathlib import Path

from posthouse.problems import problem

NETWORK_FILE_SYSTEMS = {
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "fuse.sshfs",
}


class DataLock:
    """Held while the object is open. The file holds the process id, for people to read."""

    def __init__(self, data: Path) -> None:
        self._file = os.open(data / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(self._file, 20).decode(errors="replace").strip()
            os.close(self._file)
            raise problem(
                "data.in-use",
                f"{data} is in use by another Posthouse (process {holder or 'unknown'}).",
                "Stop that one first, or give this one a data directory of its own.",
                status=75,
            ) from None
        os.ftruncate(self._file, 0)
        os.write(self._file, f"{os.getpid()}\n".encode())

    def release(self) -> None:
        os.close(self._file)


def refuse_network_file_system(data: Path, mounts: str) -> None:
    """SQLite cannot lock safely there. `mounts` is the text of /proc/mounts. Raises ProblemError."""
    kind = file_system_of(data.resolve(), mounts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise problem(
            "data.network-file-system",
            f"{data} lies on a network file system ({kind}), where the embedded database can lose mail.",
            'Move it to a local disk, or set database = "postgresql://…".',
        )


def file_system_of(path: Path, mounts: str) -> str:
    """The file system type of the longest mount point that holds `path`; "" when unknown."""
    best, kind = "", ""
    for line in mounts.splitlines():
        _, place, type_, *_ = [*line.split(" "), "", "", ""]
        place = place.replace("\\040", " ")
        inside = place == "/" or path == Path(place) or Path(place) in path.parents
        if inside and len(place) >= len(best):
            best, kind = place, type_
    return kind
