"""Creates the roles vectuned_user, vectuned_admin and vectuned_daemon, and grants them privileges."""

from __future__ import annotations

import psycopg
from psycopg import sql

from .files import folder
from .requirements import MigrationError
from .rows import execute, fetch_value, fetch_values


def install_roles(conn: psycopg.Connection, *, public: bool | None = None) -> tuple[str, ...]:
    """Create vectuned's roles if they do not exist, and grant them their privileges in this database.

    conn: an autocommit connection of a member of the role that owns the schema. public: whether every role
    may search, or only members of the roles; None changes nothing.

    Returns the names of the roles created. Raises MigrationError, with the statements for a DBA, if roles are
    missing and the connection's role may not create them.
    """
    missing = tuple(fetch_values(conn, "roles_missing"))
    statements = [sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)) for name in missing]
    try:
        with conn.transaction():
            for statement in statements:
                conn.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        todo = "; ".join(statement.as_string(conn) for statement in statements)
        raise MigrationError(
            f"the role {conn.info.user} may not create roles: as a role with CREATEROLE, run {todo}; "
            "then repeat `vectuned migrate --roles`."
        ) from error
    with conn.transaction():
        execute(conn, "act_as_owner")
        grant_roles(conn)
        if public is not None:
            execute(conn, "grant_to_public" if public else "revoke_from_public")
    return missing


def roles_installed(conn: psycopg.Connection) -> bool:
    """Return whether vectuned's roles have privileges in this database."""
    return bool(fetch_value(conn, "roles_installed"))


def grant_roles(conn: psycopg.Connection) -> None:
    """Grant the roles, which must exist, their privileges in this database; see tuner/roles.sql."""
    conn.execute(folder().joinpath("tuner", "roles.sql").read_text("utf-8").encode())
