"""What vectuned requires of a server: its version and the extension pgvector."""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg import sql

from vectuned.config.errors import VectunedError

from .rows import fetch_row

MIN_SERVER = 150000  # PostgreSQL 15, as server_version_num
MIN_PGVECTOR = (0, 8)  # the first version with iterative scans


class MigrationError(VectunedError):
    """The schema cannot be installed or brought up to date in this database."""


def unmet(server_version: int, pgvector: str | None) -> str | None:
    """Return a sentence about the first unmet requirement, or None.

    server_version: as libpq reports it (150004 is 15.4). pgvector: its version, None if not installed.
    """
    if server_version < MIN_SERVER:
        return f"PostgreSQL {server_version // 10000} is too old; vectuned needs 15 or later."
    if pgvector is None:
        return (
            "the extension vector is missing; vectuned needs pgvector 0.8 or later: CREATE EXTENSION vector."
        )
    if tuple(int(part) for part in re.findall(r"\d+", pgvector)[:2]) < MIN_PGVECTOR:
        return (
            f"pgvector {pgvector} is too old; vectuned needs 0.8 or later: "
            "install it on the server, then ALTER EXTENSION vector UPDATE."
        )
    return None


def check_server(conn: psycopg.Connection[Any]) -> None:
    """Raise MigrationError if the server is too old."""
    if conn.info.server_version < MIN_SERVER:
        raise MigrationError(str(unmet(conn.info.server_version, None)))


def ensure_pgvector(conn: psycopg.Connection[Any]) -> tuple[str, str]:
    """Return pgvector's schema and version, creating the extension if it is missing.

    Raises MigrationError if it cannot be created or is too old.
    """
    database, role = (sql.Identifier(n).as_string(conn) for n in (conn.info.dbname, conn.info.user))
    schema, version = ensure_extension(
        conn,
        "vector",
        "install pgvector 0.8 or later, then run CREATE EXTENSION vector as a superuser, "
        f"or GRANT CREATE ON DATABASE {database} TO {role}.",
    )
    if problem := unmet(conn.info.server_version, version):
        raise MigrationError(problem)
    return schema, version


def ensure_extension(conn: psycopg.Connection[Any], name: str, advice: str) -> tuple[str, str]:
    """Return the schema and version of an extension, creating it if it is missing.

    Raises MigrationError if it cannot be created; the message ends with `advice`.
    """
    extension = fetch_row(conn, "extension", {"name": name})
    if extension is None:
        try:
            with conn.transaction():
                conn.execute(sql.SQL("CREATE EXTENSION {} SCHEMA public").format(sql.Identifier(name)))
        except psycopg.Error as error:
            raise MigrationError(
                f"the extension {name} is not installed in database {conn.info.dbname} and could not "
                f"be created ({error.diag.message_primary}); {advice}"
            ) from error
        extension = fetch_row(conn, "extension", {"name": name})
    return str(extension.schema), str(extension.version)
