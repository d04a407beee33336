"""Databases for tests: copies of a template database, dropped after use."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.conninfo import make_conninfo

_SESSION_END: Final = 0.05  # seconds for closed sessions to end: DROP DATABASE that meets one waits for 0.1 s


@contextmanager
def database_copy(dsn: str, template: str, name: str) -> Iterator[str]:
    """Copy an unused database; yield the copy's connection string, and drop it after the block."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        # STRATEGY file_copy takes half the time of wal_log on a server without fsync.
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        admin.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
        try:
            yield make_conninfo(dsn, dbname=name)
        finally:
            _wait_for_sessions(admin, name)
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@contextmanager
def connected(conninfo: str) -> Iterator[psycopg.Connection[Any]]:
    """Yield an autocommit connection that knows the vector types."""
    with psycopg.connect(conninfo, autocommit=True) as connection:
        register_vector(connection)
        yield connection


def _wait_for_sessions(admin: psycopg.Connection[Any], name: str) -> None:
    """Wait until no session is connected to a database, but no longer than closed sessions take to end."""
    until = time.monotonic() + _SESSION_END
    sessions = "SELECT FROM pg_stat_activity WHERE datname = %s"
    while admin.execute(sessions, (name,)).rowcount and time.monotonic() < until:
        time.sleep(0.001)
