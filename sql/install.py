"""Installs the schema `vectuned` in a database and migrates it to the current version."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable

import psycopg

from .files import folder, run_script
from .requirements import MigrationError, check_server, ensure_pgvector
from .roles import grant_roles, roles_installed
from .rows import execute, fetch_value, fetch_values

MIGRATION_LOCK = 0x7665637475  # key of the advisory lock that serialises installations: 'vectu' in ASCII

# In dependency order; the grants come after all of them.
FUNCTION_FILES = (
    "search/ladder",
    "search/choose_effort",
    "search/record",
    "search/feedback",
    "search/selectivity",
    "search/filter",
    "search/filtered_path",
    "search/search_template",
    "search/filtered_template",
    "columns/fragments",
    "columns/follow",
    "columns/indexes",
    "columns/enable",
    "columns/generate",
    "search/dispatch",
    "search/search",
    "search/typed_search",
    "daemon/replay",
    "search/params",
    "search/apply",
    "search/kept_efforts",
    "columns/health",
    "columns/recommend",
    "daemon/drift",
    "daemon/request",
    "columns/status",
    "exchange/exchange",
    "exchange/check",
    "exchange/merge",
    "exchange/statements",
    "daemon/drain",
    "daemon/retention",
    "daemon/calls",
    "daemon/identities",
)


@dataclass(frozen=True)
class MigrationResult:
    """Result of `migrate`: pgvector's schema and version, and the migrations applied."""

    extension_schema: str
    extension_version: str
    applied: tuple[str, ...]


def migrations() -> list[tuple[str, str]]:
    """Return (name, text) of every migration, oldest first.

    Until the first release, schema.sql itself is the first migration.
    """
    later = sorted(
        (f for f in _tuner().joinpath("migrations").iterdir() if f.name.endswith(".sql")),
        key=lambda f: f.name,
    )
    first = ("0001-initial", _tuner().joinpath("schema.sql").read_text("utf-8"))
    return [first, *((f.name.removesuffix(".sql"), f.read_text("utf-8")) for f in later)]


def migrate(conn: psycopg.Connection, *, fresh_from_schema: bool = True) -> MigrationResult:
    """Bring the vectuned schema of a database up to date, in one transaction.

    conn: an autocommit connection. For a first installation its role must be able to create schemas, and the
    extension if it is missing; later it must be a member of the role that owns the schema.
    fresh_from_schema: install a new database from schema.sql; otherwise by every migration.

    Raises MigrationError if the server or pgvector is too old, a privilege is missing, or the schema is of a
    newer version or was changed by hand.
    """
    check_server(conn)
    try:
        with conn.transaction():
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
            schema, version = ensure_pgvector(conn)
            # Functions run with their owner's rights, so objects added by a superuser need the same owner.
            execute(conn, "act_as_owner")
            applied = tuple(_apply_migrations(conn, schema, fresh_from_schema))
            for name in FUNCTION_FILES:
                run_script(conn, _tuner().joinpath("functions", f"{name}.sql").read_text("utf-8"), schema)
            # First: what follows records events, which have numbers.
            conn.execute("SELECT vectuned._advance_identities()")
            conn.execute("SELECT vectuned._generate_all()")
            run_script(conn, _tuner().joinpath("grants.sql").read_text("utf-8"), schema)
            # Partitions for a week, so that searches are recorded before a daemon runs. The retention of 1000
            # years drops none.
            conn.execute("SELECT vectuned._partition(7, interval '1000 years')")
            if roles_installed(conn):
                grant_roles(conn)
    except psycopg.errors.InsufficientPrivilege as error:
        advice = fetch_value(conn, "missing_right") or "run `vectuned migrate` as a superuser"
        raise MigrationError(
            f"the role {conn.info.user} may not install vectuned ({error.diag.message_primary}): {advice}, "
            "or run `vectuned migrate` as the database's owner."
        ) from error
    except psycopg.ProgrammingError as error:
        if not _installed(conn):
            raise
        raise MigrationError(
            f"the schema vectuned of database {conn.info.dbname} cannot be brought up to date "
            f"({error.diag.message_primary}): it was changed by hand, or made before the first release. "
            "Nothing was changed. DROP SCHEMA vectuned CASCADE, which deletes what was learned but none of "
            "your tables, and migrate again; if an embedded server holds nothing else, you can also delete "
            "its folder."
        ) from error
    return MigrationResult(schema, version, applied)


def _apply_migrations(conn: psycopg.Connection, schema: str, fresh_from_schema: bool) -> Iterator[str]:
    known = [name for name, _ in migrations()]
    installed = _installed(conn)
    if not installed and fresh_from_schema:
        run_script(conn, _tuner().joinpath("schema.sql").read_text("utf-8"), schema)
        execute(conn, "record_migrations", {"names": known})
        yield from known
        return
    done = set(fetch_values(conn, "migrations_done")) if installed else set()
    if newer := sorted(done - set(known)):
        raise MigrationError(
            f"the database was migrated by a newer vectuned (it knows {newer[-1]}); upgrade this one."
        )
    for name, text in migrations():
        if name not in done:
            run_script(conn, text, schema)
            execute(conn, "record_migrations", {"names": [name]})
            yield name


def _installed(conn: psycopg.Connection) -> bool:
    return bool(fetch_value(conn, "migration_table"))


def _tuner() -> Traversable:
    return folder().joinpath("tuner")
