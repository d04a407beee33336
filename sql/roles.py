"""vectuned's roles: vectuned_user, vectuned_admin and vectuned_daemon, and their rights in a database."""

from __future__ import annotations

import psycopg
from psycopg import sql

from .files import folder
from .requirements import MigrationError
from .rows import execute, fetch_value, fetch_values


def install_roles(conn: psycopg.Connection, *, public: bool | None = None) -> tuple[str, ...]:
    """Create vectuned's roles where the server lacks them, and give them their rights in this database.

    conn: an autocommit connection of a member of the role that owns the schema. public: whether every role
    may search, or only members of the roles; None leaves that as it is.

    Returns the names of the roles created. Raises MigrationError, with the statements for a DBA, where roles
    are missing and may not be created.
    """
    missing = tuple(fetch_values(conn, "roles_missing"))
    creating = [sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)) for name in missing]
    try:
        with conn.transaction():
            for statement in creating:
                conn.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        todo = "; ".join(statement.as_string(conn) for statement in creating)
        raise MigrationError(
            f"the role {conn.info.user} may not create roles: have a role with CREATEROLE run {todo}; "
            "then repeat `vectuned migrate --roles`."
        ) from error
    with conn.transaction():
        execute(conn, "act_as_owner")
        grant_roles(conn)
        if public is not None:
            execute(conn, "open_to_public" if public else "close_to_public")
    return missing


def roles_installed(conn: psycopg.Connection) -> bool:
    """Say whether vectuned's roles have rights in this database."""
    return bool(fetch_value(conn, "roles_installed"))


def grant_roles(conn: psycopg.Connection) -> None:
    """Give the roles, which must exist, their rights in this database; see tuner/roles.sql."""
    conn.execute(folder().joinpath("tuner", "roles.sql").read_text("utf-8").encode())
