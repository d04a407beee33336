"""Installs the entity store, which is the schema `vectuned_entities`, and reads its named statements."""

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
MAX_DIMENSIONS = 2000  # the most that an HNSW index on the type vector takes
_VERSION = 1  # of entities/schema.sql; a store of another version is refused

# In dependency order, for functions that PostgreSQL checks when they are created.
FUNCTION_FILES = (
    "checks",
    "triggers",
    "models",
    "entities",
    "relationships",
    "hierarchy",
    "walks",
    "similarity_search",
    "hybrid_search",
    "candidates",
    "answer_feedback",
    "rankings",
    "resources",
    "lifecycle",
    "embeddings",
)


@dataclass(frozen=True)
class InstalledStore:
    """Result of `install_entities`: the length of the vectors, and whether the tables were created."""

    dimensions: int
    created: bool


@cache
def entity_queries() -> dict[str, sql.SQL]:
    """Return the statements of entities/queries/*.sql by name."""
    files = [f for f in folder().joinpath("entities", "queries").iterdir() if f.name.endswith(".sql")]
    return {name: statement for file in files for name, statement in named_statements(file).items()}


def install_entities(conn: psycopg.Connection, dimensions: int | None = None) -> InstalledStore:
    """Create the entity store, or bring its functions up to date, in one transaction.

    conn: an autocommit connection of a role that may create schemas, and extensions if they are missing.
    dimensions: the length of the vectors, 1 to 2000; for an existing store the same length or None.

    Raises UsageError for other dimensions, and MigrationError if the server is too old, a privilege is
    missing, or the store was made by another version.
    """
    check_server(conn)
    if dimensions is not None and not 1 <= dimensions <= MAX_DIMENSIONS:
        raise UsageError(
            f"Vectors of the entity store must have 1 to {MAX_DIMENSIONS} dimensions, not {dimensions}: "
            "an HNSW index takes no more."
        )
    try:
        with conn.transaction():
            conn.execute("SELECT pg_advisory_xact_lock(%s)", (MIGRATION_LOCK,))
            vector_schema, _ = ensure_pgvector(conn)
            # Loads pgvector, because functions that set its parameters can only be created after that.
            conn.execute(sql.SQL("SELECT '[1]'::{}").format(sql.Identifier(vector_schema, "vector")))
            ltree_schema, _ = ensure_extension(conn, "ltree", "install PostgreSQL's contrib modules first.")
            stored = stored_dimensions(conn)
            if stored is None:
                if dimensions is None:
                    raise UsageError("There is no entity store yet: give the dimensions of its vectors.")
                text = folder().joinpath("entities", "schema.sql").read_text("utf-8")
                run_script(conn, text.replace("@dimensions@", str(dimensions)), vector_schema, ltree_schema)
            elif dimensions is not None and dimensions != stored:
                raise UsageError(
                    f"The entity store has vectors of {stored} dimensions, not {dimensions}: "
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
    return InstalledStore(dimensions or stored or 0, stored is None)


def stored_dimensions(conn: psycopg.Connection) -> int | None:
    """Return the length of the vectors in the entity store of this database, None if there is no store."""
    dimensions = fetch_value(conn, entity_queries()["stored_dimensions"], {"schema": SCHEMA})
    return None if dimensions is None else int(dimensions)


def _check_version(conn: psycopg.Connection) -> None:
    version = fetch_value(conn, entity_queries()["store_version"])
    if version != _VERSION:
        raise MigrationError(
            f"the entity store was made by another version of vectuned (version {version or 'unknown'}, "
            f"this vectuned needs {_VERSION}); use that version of vectuned."
        )
