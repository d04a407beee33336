"""Connections that runs borrow: each has its own while it works, and opening one is paid for once."""

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
    """Lend at most `most` connections made by `connect`, the one given back last first.

    Its server has planned the searches already. One that is given back in the middle of a transaction is
    closed; where one was lost the idle ones are not trusted either.
    """

    def __init__(self, connect: Callable[[], Connection], most: int = 8) -> None:
        self._connect = connect
        self._most = most
        self._free = threading.Semaphore(most)
        self._lock = threading.Lock()
        self._idle: list[Connection] = []
        self._closed = False

    @contextmanager
    def lend(self, seconds: float | None = None) -> Iterator[Connection]:
        """Lend a connection for the block; StoreBusyError if none is to be had within the time."""
        if not self._free.acquire(timeout=seconds):
            raise StoreBusyError(count=self._most)
        try:
            conn = self._take() or self._connect()
            try:
                yield conn
            finally:
                self._give_back(conn)
        finally:
            self._free.release()

    def close(self) -> None:
        """Close what is idle now, and what is lent as soon as it comes back."""
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
