"""Small disks of a test's own, that can be filled and that refuse."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.support.needs import program


@cache
def why_none() -> str:
    """Why there can be none on this machine, or nothing."""
    if os.geteuid():
        return "only root can mount a disk of its own"
    try:
        with small_disk(1):
            return ""
    except (OSError, subprocess.SubprocessError) as cause:
        return f"this machine lets nobody mount a disk: {cause}"


@cache
def why_no_device() -> str:
    """The same for one that lies in a file."""
    if not program("mkfs.ext4"):
        return "mkfs.ext4 is not installed"
    try:
        with device():
            return ""
    except (OSError, subprocess.SubprocessError) as cause:
        return f"this machine lets nobody mount a disk that lies in a file: {cause}"


@contextlib.contextmanager
def _mounted(*words: str | Path) -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="posthouse-disk-"))
    try:
        run("mount", *words, place)
        try:
            yield place
        finally:
            subprocess.run(("umount", place), check=False, capture_output=True)
    finally:
        place.rmdir()


def small_disk(megabytes: int) -> contextlib.AbstractContextManager[Path]:
    return _mounted("-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs")


@contextlib.contextmanager
def device(megabytes: int = 256) -> Iterator[Path]:
    """One with a journal; see `break_down`."""
    with tempfile.NamedTemporaryFile(prefix="posthouse-image-") as image:
        image.truncate(megabytes * 1024 * 1024)
        run(program("mkfs.ext4") or "mkfs.ext4", "-q", image.name)
        with _mounted("-o", "loop,errors=remount-ro", image.name) as place:
            yield place


def break_down(place: Path) -> None:
    """As an ext4 does that has met an error: whatever is open cannot be written any more."""
    run("mount", "-o", "remount,abort", place)


def mend(place: Path) -> None:
    """Once nobody uses it any more; its journal brings back all that was synced."""
    [source] = [line.split()[0] for line in Path("/proc/mounts").read_text().splitlines() if f" {place} " in line]
    image = Path(f"/sys/block/{Path(source).name}/loop/backing_file").read_text().strip()
    run("umount", place)
    run("mount", "-o", "loop,errors=remount-ro", image, place)


def read_only(place: Path) -> None:
    run("mount", "-o", "remount,ro", place)


def run(*words: str | Path) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=60)


def fill(disk: Path) -> Path:
    """To the last octet; the file to remove afterwards."""
    filler = disk / "filler"
    with filler.open("ab", buffering=0) as file:
        for size in (1024 * 1024, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size):
                    pass
    return filler
