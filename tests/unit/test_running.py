"""The log of a running gateway."""

import errno
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


def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    before = structlog.get_config()
    try:
        configure_log("info")
        structlog.get_logger("test").info("something happened")
    finally:
        structlog.configure(**before)
