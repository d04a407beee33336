"""A connection that is ready for vectuned's work."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from pgvector.psycopg import register_vector
from psycopg.rows import TupleRow

from vectuned.config.errors import UsageError
from vectuned.sql.loader import queries, unmet

from .connection import connect


def open_session(
    conninfo: str,
    *,
    application_name: str = "vectuned",
    connect_timeout: int = 10,
    parameters: Mapping[str, int] | None = None,
) -> psycopg.Connection[TupleRow]:
    """Connect in autocommit mode to a database in which vectuned is installed, knowing the vector types.

    Raises UsageError where it is not installed or pgvector will not do, DatabaseUnavailableError where there
    is no connection.
    """
    conn = connect(
        conninfo, application_name=application_name, connect_timeout=connect_timeout, parameters=parameters
    )
    try:
        row = conn.execute(queries()["installed"]).fetchone()
        assert row is not None
        installed, pgvector = row
        if not installed:
            raise UsageError(
                f"vectuned is not installed in database {conn.info.dbname}: "
                "run `vectuned migrate` there first."
            )
        if problem := unmet(conn.info.server_version, pgvector):
            raise UsageError(f"On database {conn.info.dbname}: {problem}")
        register_vector(conn)
    except BaseException:
        conn.close()
        raise
    return conn
