"""Reads the SQL files of this folder and brings a database up to date with them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Any, cast

import psycopg
from psycopg import sql

import vectuned
from vectuned.config.errors import VectunedError

MIGRATION_LOCK = 0x7665637475  # 'vectu'
MIN_SERVER = 150000
MIN_PGVECTOR = (0, 8)

_AS_OWNER = (
    "SELECT set_config('role', pg_get_userbyid(n.nspowner), true) FROM pg_namespace n "
    "WHERE n.nspname = 'vectuned' AND pg_get_userbyid(n.nspowner) <> current_user"
)

# Functions in the order in which they may refer to each other; the grants come after all of them.
FUNCTION_FILES = (
    "ladder", "decide", "record", "feedback", "filter", "search_template", "filtered_template", "indexes",
    "enable", "generate", "replay", "params", "recommend", "drift", "status", "request", "exchange",
    "exchange_check", "exchange_merge", "maintain",
)  # fmt: skip


class MigrationError(VectunedError):
    """The schema cannot be installed or brought up to date in this database."""


@dataclass(frozen=True)
class Migrated:
    """What `migrate` found and did: pgvector's schema and version, and the migrations applied."""

    extension_schema: str
    extension_version: str
    applied: tuple[str, ...]


def folder() -> Traversable:
    """Return the folder of the SQL files, wherever the package is installed."""
    return resources.files("vectuned.sql")


@cache
def queries() -> dict[str, sql.SQL]:
    """Return the statements of queries/*.sql by the name in the comment `-- name: ...` before each."""
    files = [file for file in folder().joinpath("queries").iterdir() if file.name.endswith(".sql")]
    return {name: statement for file in files for name, statement in named_statements(file).items()}


def trusted(text: str) -> sql.SQL:
    """Take a text that we made for SQL as it stands, which psycopg's types admit of literals only."""
    return sql.SQL(cast(Any, text))


def named_statements(file: Traversable) -> dict[str, sql.SQL]:
    """Return the statements of a file by the name in the comment before each."""
    parts = re.split(r"^-- name: *(\w+).*\n", file.read_text("utf-8"), flags=re.M)
    return {
        name: trusted(text.strip().rstrip(";")) for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def migrations() -> list[tuple[str, str]]:
    """Return (name, text) of every migration, oldest first."""
    files = sorted(
        (f for f in folder().joinpath("migrations").iterdir() if f.name.endswith(".sql")),
        key=lambda f: f.name,
    )
    return [(f.name.removesuffix(".sql"), f.read_text("utf-8")) for f in files]


def unmet(server_version: int, pgvector: str | None) -> str | None:
    """Say what is not good enough, a server (150004 is 15.4) or its pgvector (None: missing), if anything."""
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


def migrate(conn: psycopg.Connection, *, fresh_from_schema: bool = True) -> Migrated:
    """Bring the vectuned schema of a database up to date, in one transaction.

    conn: an autocommit connection of a role that may create schemas (and the extension, where it is missing);
    of one that may act as the schema's owner, where there is one.
    fresh_from_schema: install a fresh database from schema.sql; otherwise through every migration.

    Raises MigrationError when the server or pgvector is too old, or a right is missing.
    """
    if conn.info.server_version < MIN_SERVER:
        raise MigrationError(str(unmet(conn.info.server_version, None)))
    try:
        with conn.transaction():
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
            schema, version = ensure_pgvector(conn)
            # What a superuser adds must belong to the same role: functions run with their owner's rights.
            conn.execute(_AS_OWNER)
            applied = tuple(_apply_migrations(conn, schema, fresh_from_schema))
            for text in _function_texts():
                run_script(conn, text, schema)
            conn.execute("SELECT vectuned._generate_all()")
            run_script(conn, folder().joinpath("functions", "grants.sql").read_text("utf-8"), schema)
            conn.execute("SELECT vectuned._partition(7, interval '1000 years')")
            if roles_installed(conn):
                _grant_roles(conn)
    except psycopg.errors.InsufficientPrivilege as error:
        row = conn.execute(queries()["missing_right"]).fetchone()
        raise MigrationError(
            f"the role {conn.info.user} may not install vectuned ({error.diag.message_primary}): "
            + (str(row[0]) if row is not None and row[0] else "run `vectuned migrate` as a superuser")
            + ", or run `vectuned migrate` as the database's owner."
        ) from error
    except psycopg.ProgrammingError as error:
        if not _installed(conn):
            raise
        raise MigrationError(
            f"the schema vectuned of database {conn.info.dbname} cannot be brought up to date "
            f"({error.diag.message_primary}): it was changed by hand, or made before the first release. "
            "Nothing was changed. DROP SCHEMA vectuned CASCADE, which takes what was learned but none of "
            "your tables, and migrate again; an embedded server that holds nothing else can go with its "
            "folder."
        ) from error
    return Migrated(schema, version, applied)


def install_roles(conn: psycopg.Connection, *, public: bool | None = None) -> tuple[str, ...]:
    """Create vectuned's roles where the server lacks them, and give them their rights in this database.

    conn: an autocommit connection of who owns the schema. public: whether everybody may search, or only
    members of the roles; None leaves that as it is.

    Returns the names of the roles created. Raises MigrationError, with the statements for a DBA, where roles
    are missing and may not be created.
    """
    row = conn.execute(queries()["roles_missing"]).fetchone()
    missing = tuple(str(name) for name in row[0]) if row is not None else ()
    creating = [sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(name)) for name in missing]
    try:
        with conn.transaction():
            for statement in creating:
                conn.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        todo = "; ".join(statement.as_string(conn) for statement in creating)
        raise MigrationError(
            f"the role {conn.info.user} may not create roles: have somebody with CREATEROLE run {todo}; "
            "then repeat `vectuned migrate --roles`."
        ) from error
    with conn.transaction():
        conn.execute(_AS_OWNER)
        _grant_roles(conn)
        if public is not None:
            conn.execute(queries()["open_to_public" if public else "close_to_public"])
    return missing


def roles_installed(conn: psycopg.Connection) -> bool:
    """Say whether vectuned's roles have rights in this database."""
    row = conn.execute(queries()["roles_installed"]).fetchone()
    return row is not None and bool(row[0])


def _grant_roles(conn: psycopg.Connection) -> None:
    conn.execute(folder().joinpath("roles.sql").read_text("utf-8").encode())


def ensure_pgvector(conn: psycopg.Connection) -> tuple[str, str]:
    """Return pgvector's schema and version, after creating the extension where it is missing."""
    find = (
        "SELECT n.nspname, e.extversion FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace"
        " WHERE e.extname = 'vector'"
    )
    row = conn.execute(find).fetchone()
    if row is None:
        try:
            with conn.transaction():
                conn.execute("CREATE EXTENSION vector SCHEMA public")
        except psycopg.Error as error:
            names = (conn.info.dbname, conn.info.user)
            database, role = (sql.Identifier(name).as_string(conn) for name in names)
            raise MigrationError(
                f"the extension vector is not in database {conn.info.dbname} and could not be created "
                f"({error.diag.message_primary}); install pgvector 0.8 or later and have a superuser run "
                f"CREATE EXTENSION vector, or GRANT CREATE ON DATABASE {database} TO {role}."
            ) from error
        row = conn.execute(find).fetchone()
    assert row is not None
    schema, version = str(row[0]), str(row[1])
    if problem := unmet(conn.info.server_version, version):
        raise MigrationError(problem)
    return schema, version


def _apply_migrations(conn: psycopg.Connection, schema: str, fresh_from_schema: bool) -> Iterator[str]:
    known = [name for name, _ in migrations()]
    installed = _installed(conn)
    if not installed and fresh_from_schema:
        run_script(conn, folder().joinpath("schema.sql").read_text("utf-8"), schema)
        conn.execute("INSERT INTO vectuned.migration (name) SELECT unnest(%s::text[])", (known,))
        yield from known
        return
    done = (
        {str(r[0]) for r in conn.execute("SELECT name FROM vectuned.migration").fetchall()}
        if installed
        else set()
    )
    if newer := sorted(done - set(known)):
        raise MigrationError(
            f"the database was migrated by a newer vectuned (it knows {newer[-1]}); upgrade this one."
        )
    for name, text in migrations():
        if name not in done:
            run_script(conn, text, schema)
            conn.execute("INSERT INTO vectuned.migration (name) VALUES (%s)", (name,))
            yield name


def _installed(conn: psycopg.Connection) -> bool:
    row = conn.execute("SELECT to_regclass('vectuned.migration') IS NOT NULL").fetchone()
    return row is not None and bool(row[0])


def _function_texts() -> Iterator[str]:
    for name in FUNCTION_FILES:
        yield folder().joinpath("functions", f"{name}.sql").read_text("utf-8")


def run_script(conn: psycopg.Connection, text: str, schema: str, ltree_schema: str = "") -> None:
    """Run a file's statements with our version and pgvector's schema put in, and that of ltree if given."""
    for token, name in (("@extschema@", schema), ("@ltree@", ltree_schema)):
        if name:
            text = text.replace(token, sql.Identifier(name).as_string(conn))
    conn.execute(text.replace("@version@", vectuned.__version__.replace("'", "''")).encode())
