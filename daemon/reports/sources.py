"""Connections to the databases that metrics and reports are read from, opened again when they are lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import psycopg

from vectuned.config.errors import VectunedError

log = logging.getLogger(__name__)
T = TypeVar("T")

Source = Callable[[], psycopg.Connection[Any]]


class Sources:
    """One connection to each database, by its name; `timeout_ms` bounds each statement.

    A database that cannot be read does not affect the others; the log says why it cannot.
    """

    def __init__(self, sources: Mapping[str, Source], timeout_ms: int, action: str) -> None:
        self._sources = sources
        self._timeout_ms = timeout_ms
        self._action = action
        self._conns: dict[str, psycopg.Connection[Any]] = {}
        self._lock = threading.Lock()  # requests may overlap, connections may not be shared

    def read(self, work: Callable[[psycopg.Connection[Any]], T]) -> Iterator[tuple[str, T | None]]:
        """Yield what `work` returns for each database, by name; None for one that cannot be read."""
        with self._lock:
            for name in self._sources:
                yield name, self._read(name, work)

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            for conn in self._conns.values():
                conn.close()
            self._conns.clear()

    def _read(self, name: str, work: Callable[[psycopg.Connection[Any]], T]) -> T | None:
        try:
            conn = self._conns.get(name)
            if conn is None or conn.closed:
                conn = self._conns[name] = self._sources[name]()
                conn.execute(f"SET statement_timeout = {self._timeout_ms}")
            return work(conn)
        except (psycopg.Error, VectunedError) as error:
            text = "%s of database %s cannot be read: %s"
            log.warning(text, self._action, name, error, extra={"action": self._action})
            if name in self._conns:
                with suppress(psycopg.Error):
                    self._conns.pop(name).close()
            return None
