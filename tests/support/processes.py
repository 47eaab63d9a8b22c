"""Programs that tests start: in a directory of their own, on ports of their own, ended by process id."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STARTS = 5
SECONDS = 10.0
PAUSE = 0.02


class DidNotStart(Exception):
    """A program ended, or was not ready in time; holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Running:
    """A program that was started, the head of a process group, and the file it writes to."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def alive(self) -> bool:
        return self.process.poll() is None


@contextlib.contextmanager
def private_directory(name: str) -> Iterator[Path]:
    """A fresh directory that server users can pass through, with a path short enough for Unix sockets.

    Not below pytest's own directory: that is closed to other users each time pytest starts.
    """
    path = Path(tempfile.mkdtemp(prefix=f"posthouse-{name}-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Ports on 127.0.0.1 that were free a moment ago, all different."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


def start(
    name: str,
    words: Sequence[str | Path],
    log: Path,
    *,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    new_session: bool = True,
) -> Running:
    """Start a program as the head of a process group; it ends with us where the system can see to that.

    Without `new_session` the program has to make itself the head of one.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*ends_with_us(), *words],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={**os.environ, **(environment or {})},
            user=user,
            group=user and group_of(user),
            extra_groups=[] if user else None,
            pass_fds=pass_fds,
            start_new_session=new_session,
        )
    return Running(name, process, log)


def ends_with_us() -> tuple[str, ...]:
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "TERM") if setpriv else ()


def group_of(user: str) -> int:
    import pwd

    return pwd.getpwnam(user).pw_gid


def stop(running: Running) -> None:
    """Ask the program to end, wait, then end what is left of its process group."""
    process = running.process
    if process.stdin:
        process.stdin.close()
    if running.alive():
        process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_until(ready: Callable[[], bool], running: Running, seconds: float = SECONDS) -> None:
    """Ask until it is ready. Raises DidNotStart when the program has ended or the time is over."""
    deadline = time.monotonic() + seconds
    while not ready():
        if not running.alive() or time.monotonic() > deadline:
            raise DidNotStart(f"{running.name} was not ready; its log ends:\n{tail(running.log)}")
        time.sleep(PAUSE)


def until_ready(running: Running, ready: Callable[[], bool]) -> Running:
    """The program once it is ready; stopped before DidNotStart is raised."""
    try:
        wait_until(ready, running)
    except BaseException:
        stop(running)
        raise
    return running


def answers(port: int, *, greeting: bool = False) -> bool:
    """Whether something accepts on 127.0.0.1:port, and says something if it is known to greet."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            return not greeting or bool(connection.recv(1))
    except OSError:
        return False


def tail(log: Path, size: int = 4000) -> str:
    return log.read_text(errors="replace")[-size:] if log.exists() else "(no log)"


@contextlib.contextmanager
def kept_running(launch: Callable[[], Running]) -> Iterator[Running]:
    """Launch until it stays up (a port may have been taken in between), stop it at the end."""
    for left in reversed(range(STARTS)):
        try:
            running = launch()
            break
        except DidNotStart:
            if not left:
                raise
    try:
        yield running
    finally:
        stop(running)
