"""A connection that is ready for vectuned's work."""

from __future__ import annotations

import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.rows import TupleRow

from vectuned.config.errors import UsageError
from vectuned.sql.loader import queries

from .connection import connect


def open_session(
    conninfo: str, *, application_name: str = "vectuned", connect_timeout: int = 10
) -> psycopg.Connection[TupleRow]:
    """Connect in autocommit mode to a database in which vectuned is installed, knowing the vector types.

    Raises UsageError where it is not installed, DatabaseUnavailableError where there is no connection.
    """
    conn = connect(conninfo, application_name=application_name, connect_timeout=connect_timeout)
    try:
        row = conn.execute(queries()["installed"]).fetchone()
        if row is not None and row[0] is None:
            role = sql.Identifier(conn.info.user).as_string(conn)
            raise UsageError(
                f"The role {role} may not use the schema vectuned in database {conn.info.dbname}: "
                f"GRANT vectuned_user TO {role}, or vectuned_admin or vectuned_daemon."
            )
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
