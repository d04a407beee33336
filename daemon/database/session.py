"""Open a session for vectuned's work: requirements checked, limits set, vector types registered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.rows import TupleRow

from vectuned.config.errors import UsageError
from vectuned.config.sections import DatabaseSettings
from vectuned.sql.requirements import unmet
from vectuned.sql.rows import execute, fetch_row

from .connect import connect

_DEFAULTS: Final = DatabaseSettings()
_LIMITS: Final = {
    "statement_timeout": "1h",  # replaying has limits of its own; this one ends what they miss
    "lock_timeout": "30s",
    "idle_in_transaction_session_timeout": "1h",
    "transaction_timeout": "0",  # off; snapshots of long measurements may last for hours
}
"""Limits of our sessions; those set for the database or the role are meant for applications."""


def open_session(
    conninfo: str,
    database: DatabaseSettings = _DEFAULTS,
    *,
    parameters: Mapping[str, int] | None = None,
    limits: Mapping[str, str] | None = None,
) -> psycopg.Connection[TupleRow]:
    """Connect in autocommit mode to a database with vectuned installed, and register the vector types.

    A statement may take an hour and wait half a minute for a lock, unless `limits` say otherwise.

    Raises UsageError if vectuned is not installed or pgvector does not meet the requirements,
    DatabaseUnavailableError if there is no connection.
    """
    conn = connect(conninfo, database, parameters=parameters)
    try:
        for name, limit in {**_LIMITS, **(limits or {})}.items():
            execute(conn, "session_limit", {"name": name, "limit": limit})
        _check_installation(conn)
        execute(conn, "add_pgvector_to_search_path")
        register_vector(conn)
    except BaseException:
        conn.close()
        raise
    return conn


@contextmanager
def snapshot(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Open a transaction on one snapshot, without a statement timeout; `conn` must be in no transaction."""
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        conn.execute("SET LOCAL statement_timeout = 0")
        yield


def _check_installation(conn: psycopg.Connection[Any]) -> None:
    """Raise UsageError unless the role may use an installed vectuned and pgvector meets the requirements."""
    database = conn.info.dbname
    found = fetch_row(conn, "installed")
    if found.installed is None:
        role = sql.Identifier(conn.info.user).as_string(conn)
        raise UsageError(
            f"The role {role} may not use the schema vectuned in database {database}: "
            f"GRANT vectuned_user TO {role}, or vectuned_admin or vectuned_daemon."
        )
    if not found.installed:
        raise UsageError(
            f"vectuned is not installed in database {database}: run `vectuned migrate` there first."
        )
    if problem := unmet(conn.info.server_version, found.pgvector):
        raise UsageError(f"On database {database}: {problem}")
    if found.moved_to is not None:
        raise UsageError(
            f"pgvector was moved to schema {found.moved_to} of database {database} since vectuned was "
            "installed there; searches fail until you run `vectuned migrate`."
        )
