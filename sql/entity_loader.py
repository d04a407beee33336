"""Installs the entity store, the schema `vectuned_entities`, and names the statements run there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import psycopg
from psycopg import sql

from vectuned.config.errors import UsageError

from .files import folder, named_statements, run_script
from .install import MIGRATION_LOCK
from .requirements import MigrationError, check_server, ensure_extension, ensure_pgvector
from .rows import fetch_value

SCHEMA = "vectuned_entities"
MAX_DIMENSIONS = 2000
_VERSION = 1

# In the order in which they refer to each other where PostgreSQL looks at once.
FUNCTION_FILES = (
    "checks",
    "triggers",
    "models",
    "entities",
    "relationships",
    "hierarchy",
    "walks",
    "search",
    "resources",
    "lifecycle",
    "embeddings",
)


@dataclass(frozen=True)
class Installed:
    """What `install_entities` found or made: the length of the vectors, and whether the tables are new."""

    dimensions: int
    created: bool


@cache
def entity_queries() -> dict[str, sql.SQL]:
    """Return the statements of entities/queries.sql by name."""
    return named_statements(folder().joinpath("entities", "queries.sql"))


def install_entities(conn: psycopg.Connection, dimensions: int | None = None) -> Installed:
    """Create the entity store, or bring its functions up to date, in one transaction.

    conn: an autocommit connection of a role that may create schemas (and the extensions that are missing).
    dimensions: the length of the vectors, 1 to 2000; of a store that is there it must be the same or None.

    Raises UsageError for other dimensions, MigrationError when the server is too old or a right is missing.
    """
    check_server(conn)
    if dimensions is not None and not 1 <= dimensions <= MAX_DIMENSIONS:
        raise UsageError(
            f"Vectors of the entity store have 1 to {MAX_DIMENSIONS} dimensions, not {dimensions}: "
            "more has no HNSW index."
        )
    try:
        with conn.transaction():
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
            vector_schema, _ = ensure_pgvector(conn)
            # Functions name pgvector's settings, which are known once it is loaded.
            conn.execute(sql.SQL("SELECT '[1]'::{}").format(sql.Identifier(vector_schema, "vector")))
            ltree_schema, _ = ensure_extension(conn, "ltree", "install PostgreSQL's contrib modules first.")
            found = stored_dimensions(conn)
            if found is None:
                if dimensions is None:
                    raise UsageError("The entity store is not there yet: say how many dimensions it takes.")
                text = folder().joinpath("entities", "schema.sql").read_text("utf-8")
                run_script(conn, text.replace("@dimensions@", str(dimensions)), vector_schema, ltree_schema)
            elif dimensions is not None and dimensions != found:
                raise UsageError(
                    f"The entity store has vectors of {found} dimensions, not {dimensions}: "
                    "move it to another model with `vectuned entities rebase --model`."
                )
            _check_version(conn)
            for name in FUNCTION_FILES:
                text = folder().joinpath("entities", "functions", f"{name}.sql").read_text("utf-8")
                run_script(conn, text, vector_schema, ltree_schema)
    except psycopg.errors.InsufficientPrivilege as error:
        raise MigrationError(
            f"the role {conn.info.user} may not install the entity store ({error.diag.message_primary}); "
            "run `vectuned entities create` as the database's owner or a superuser."
        ) from error
    return Installed(dimensions or found or 0, found is None)


def stored_dimensions(conn: psycopg.Connection) -> int | None:
    """Return the length of the vectors in this database's entity store, None where there is no store."""
    dimensions = fetch_value(conn, entity_queries()["stored_dimensions"], {"schema": SCHEMA})
    return None if dimensions is None else int(dimensions)


def _check_version(conn: psycopg.Connection) -> None:
    row = conn.execute(sql.SQL("SELECT version FROM {}").format(sql.Identifier(SCHEMA, "store"))).fetchone()
    if row is None or row[0] != _VERSION:
        raise MigrationError(
            f"the entity store was made by another version of vectuned ({row[0] if row else 'unknown'}, "
            f"this one knows {_VERSION}); use that one."
        )
