"""A pool of connections that runs borrow.

Not psycopg_pool: it opens connections in threads of its own and does not pass their errors on, so that a
database that refuses connections, or has no entity store, would lead to a timeout without a cause.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import psycopg
from psycopg.pq import TransactionStatus

from vectuned.reasoning.errors import StoreBusyError

Connection = psycopg.Connection[Any]


class ConnectionPool:
    """Lends up to `max_connections` connections opened by `connect`, the last returned first. Thread-safe.

    That one's server process has the plans of the searches cached. A connection returned in the middle of a
    transaction is closed. If one was lost, the idle ones are closed too, since they may be lost as well.
    """

    def __init__(self, connect: Callable[[], Connection], max_connections: int = 8) -> None:
        self._connect = connect
        self._max = max_connections
        self._free = threading.Semaphore(max_connections)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False

    @contextmanager
    def lend(self, seconds: float | None = None) -> Iterator[Connection]:
        """Lend a connection for the block; raises StoreBusyError if none is free within `seconds`."""
        if not self._free.acquire(timeout=seconds):
            raise StoreBusyError(count=self._max)
        try:
            conn = self._take() or self._connect()
            try:
                yield conn
            finally:
                self._give_back(conn)
        finally:
            self._free.release()

    def close(self) -> None:
        """Close the idle connections now, and the others when they are returned."""
        with self._lock:
            self._closed = True
        self._close_idle()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _take(self) -> Connection | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _close_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for conn in idle:
            conn.close()

    def _give_back(self, conn: Connection) -> None:
        if conn.closed:
            self._close_idle()
            return
        if conn.info.transaction_status == TransactionStatus.IDLE:
            with self._lock:
                if not self._closed:
                    self._idle.append(conn)
                    return
        conn.close()
