"""The log of a running gateway."""

import errno
import io
import sys

import pytest
import structlog

from posthouse.cli.running import configure_log


class FullDisk:
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def isatty(self) -> bool:
        return False


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    stream.isatty = lambda: False  # type: ignore[method-assign]
    return stream


@pytest.mark.parametrize("stream", [FullDisk(), closed()], ids=["full disk", "closed"])
def test_a_log_that_cannot_be_written_ends_nothing(stream: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    before = structlog.get_config()
    try:
        configure_log("info")
        structlog.get_logger("test").info("something happened")
    finally:
        structlog.configure(**before)
