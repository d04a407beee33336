"""A connection that is ready for vectuned's work."""

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
from vectuned.sql.files import queries
from vectuned.sql.requirements import unmet

from .connect import connect

_DEFAULTS: Final = DatabaseSettings()
_LIMITS: Final = {
    "statement_timeout": "1h",
    "lock_timeout": "30s",
    "idle_in_transaction_session_timeout": "1h",
    "transaction_timeout": "0",
}
"""Limits of our sessions; those set for a database or a role are meant for others. Work has its own."""


def open_session(
    conninfo: str,
    database: DatabaseSettings = _DEFAULTS,
    *,
    parameters: Mapping[str, int] | None = None,
    limits: Mapping[str, str] | None = None,
) -> psycopg.Connection[TupleRow]:
    """Connect in autocommit mode to a database in which vectuned is installed, knowing the vector types.

    Whatever limits were set for others, a statement may take an hour, and wait for a lock for half a minute,
    unless `limits` say otherwise.

    Raises UsageError where it is not installed or pgvector will not do, DatabaseUnavailableError where there
    is no connection.
    """
    conn = connect(conninfo, database, parameters=parameters)
    try:
        for name, limit in {**_LIMITS, **(limits or {})}.items():
            conn.execute(queries()["session_limit"], {"name": name, "limit": limit})
        row = conn.execute(queries()["installed"]).fetchone()
        assert row is not None
        installed, pgvector, moved_to = row
        if installed is None:
            role = sql.Identifier(conn.info.user).as_string(conn)
            raise UsageError(
                f"The role {role} may not use the schema vectuned in database {conn.info.dbname}: "
                f"GRANT vectuned_user TO {role}, or vectuned_admin or vectuned_daemon."
            )
        if not installed:
            raise UsageError(
                f"vectuned is not installed in database {conn.info.dbname}: "
                "run `vectuned migrate` there first."
            )
        if problem := unmet(conn.info.server_version, pgvector):
            raise UsageError(f"On database {conn.info.dbname}: {problem}")
        if moved_to is not None:
            raise UsageError(
                f"pgvector was moved to schema {moved_to} of database {conn.info.dbname} since vectuned was "
                "installed there; searches fail until you run `vectuned migrate`."
            )
        conn.execute(queries()["see_pgvector"])
        register_vector(conn)
    except BaseException:
        conn.close()
        raise
    return conn


@contextmanager
def snapshot(conn: psycopg.Connection[Any]) -> Iterator[None]:
    """Begin a transaction that sees one snapshot, for measuring that may take long; `conn` is in none yet."""
    with conn.transaction():
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        conn.execute("SET LOCAL statement_timeout = 0")
        yield
