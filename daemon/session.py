"""A connection that is ready for vectuned's work."""

from __future__ import annotations

from collections.abc import Mapping

import psycopg
from pgvector.psycopg import register_vector
from psycopg.rows import TupleRow

from vectuned.config.errors import UsageError
from vectuned.sql.loader import queries

from .connection import connect


def open_session(
    conninfo: str,
    *,
    application_name: str = "vectuned",
    connect_timeout: int = 10,
    parameters: Mapping[str, int] | None = None,
) -> psycopg.Connection[TupleRow]:
    """Connect in autocommit mode to a database in which vectuned is installed, knowing the vector types.

    Raises UsageError where it is not installed, DatabaseUnavailableError where there is no connection.
    """
    conn = connect(
        conninfo, application_name=application_name, connect_timeout=connect_timeout, parameters=parameters
    )
    try:
        row = conn.execute(queries()["installed"]).fetchone()
        if row is None or not row[0]:
            raise UsageError(
                f"vectuned is not installed in database {conn.info.dbname}: "
                "run `vectuned migrate` there first."
            )
        register_vector(conn)
    except BaseException:
        conn.close()
        raise
    return conn
