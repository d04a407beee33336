"""Give way to sessions that wait for a lock: end long work on a table soon after another session waits."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from vectuned.config.errors import VectunedError
from vectuned.sql.rows import fetch_value

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 1.0  # between two looks at the locks; work that is done sooner needs none
_PATIENCE_SECONDS: Final = (
    0.3  # for the work to end between two statements, before its statement is cancelled
)
_CANCEL_SECONDS: Final = 5.0  # to wait for a cancel request to reach the server
_LIMITS: Final = "-c statement_timeout=10s"  # the looks take milliseconds; libpq options of their session


class LockWaitError(VectunedError):
    """Another session waits for a lock that this work holds, and the work has ended for it."""


class LockWatch:
    """Watch from a connection of its own whether other sessions wait for locks of `conn`.

    Waiting for a snapshot counts too, as CREATE INDEX CONCURRENTLY does. Use `give_way`.
    """

    def __init__(self, conn: psycopg.Connection[Any], look_seconds: float = _LOOK_SECONDS) -> None:
        self._conn = conn
        self._pid = conn.info.backend_pid
        self._look_seconds = look_seconds
        self._wanted, self._ended = threading.Event(), threading.Event()
        self._cancelling = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="lock watch", daemon=True)

    @property
    def wanted(self) -> bool:
        """Whether another session waits, so that the work has to end."""
        return self._wanted.is_set()

    def check(self) -> None:
        """Raise LockWaitError if another session waits; call it between two statements of the work."""
        if self.wanted:
            raise LockWaitError(
                "Another session waits for a lock that this work holds, so the work was ended: run it again."
            )

    def start(self) -> None:
        """Start to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Stop to watch; no statement is cancelled afterwards."""
        self._ended.set()
        with self._cancelling:
            pass

    def _watch(self) -> None:
        if self._ended.wait(self._look_seconds):
            return
        try:
            with _connect_like(self._conn) as watcher:
                while not fetch_value(watcher, "others_wait", {"pid": self._pid}):
                    if self._ended.wait(self._look_seconds):
                        return
            self._wanted.set()
            patience = _PATIENCE_SECONDS
            while not self._ended.wait(patience):
                self._cancel()
                patience = _LOOK_SECONDS  # time to roll back
        except psycopg.Error as error:
            log.warning("locks cannot be watched: %s", error, extra={"action": "locks"})

    def _cancel(self) -> None:
        with self._cancelling:
            if not self._ended.is_set():
                self._conn.cancel_safe(timeout=_CANCEL_SECONDS)


@contextmanager
def give_way(conn: psycopg.Connection[Any], look_seconds: float = _LOOK_SECONDS) -> Iterator[LockWatch]:
    """Watch the locks of `conn` during the block, and end the block when another session waits for one.

    The running statement of `conn` is then cancelled, which leaves the block by LockWaitError, as `check`
    does. The caller ends the transaction. A look is taken every `look_seconds`.
    """
    watch = LockWatch(conn, look_seconds)
    watch.start()
    try:
        yield watch
    except psycopg.errors.QueryCanceled as error:
        if not watch.wanted:
            raise
        try:
            watch.check()
        except LockWaitError as ended:
            raise ended from error
    finally:
        watch.stop()


def _connect_like(conn: psycopg.Connection[Any]) -> psycopg.Connection[Any]:
    """Open a connection to the server and as the role of another one, in autocommit mode."""
    info = conn.info
    options = f"{info.options} {_LIMITS}".strip()
    return psycopg.connect(info.dsn, password=info.password, options=options, autocommit=True)
