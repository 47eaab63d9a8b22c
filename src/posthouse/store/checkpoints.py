"""Moves SQLite's write-ahead log into the database on a thread of its own, so that commits need not wait for it."""

import contextlib
import sqlite3
import threading

REST = 0.25
"""Seconds between two checkpoints, at least."""


class Checkpoints:
    """Owns the connection it is given."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._wanted = threading.Event()
        self._moved = threading.Event()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="posthouse-checkpoint", daemon=True)
        self._thread.start()

    def want(self) -> None:
        """There is enough in the log to be worth it."""
        self._wanted.set()

    def has_moved(self) -> bool:
        """Whether nearly all of the log is in the database; said once each time."""
        moved = self._moved.is_set()
        if moved:
            self._moved.clear()
        return moved

    def _work(self) -> None:
        while not self._stopped.is_set():
            self._wanted.wait()
            self._wanted.clear()
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self._moved.set()
            self._stopped.wait(REST)
        self._connection.close()

    def close(self) -> None:
        self._stopped.set()
        self._wanted.set()
        self._thread.join()
