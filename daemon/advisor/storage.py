"""What the advisor reads from the database and writes to it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import sql

from vectuned.learning.advisor import Definition
from vectuned.learning.model.column import VectorColumn
from vectuned.learning.model.tuned_columns import TunedColumn, read_tuned_columns
from vectuned.sql.files import queries
from vectuned.sql.rows import execute, fetch_dicts, fetch_row, fetch_rows, fetch_value, fetch_values

from .advice import ExistingIndex, TableFacts

Connection = psycopg.Connection[Any]


def read_table(conn: Connection, column: VectorColumn) -> TableFacts:
    """Read the table of a column; rows are counted where the planner has no estimate."""
    values = {"relation": column.relation.as_string(conn), "column_name": column.name}
    row = fetch_row(conn, "advised_table", values)
    rows = int(row.rows)
    if rows < 1 and not row.partitioned:
        rows = fetch_value(conn, queries()["count_table_rows"].format(relation=column.relation))
    return TableFacts(**{**row._asdict(), "rows": rows})


def read_existing_indexes(conn: Connection, tuned: TunedColumn) -> list[ExistingIndex]:
    """Read the indexes over all rows of a column."""
    return [
        ExistingIndex(
            Definition("hnsw", row.form, m=row.m, ef_construction=row.ef_construction)
            if row.method == "hnsw"
            else Definition("ivfflat", row.form, lists=row.lists),
            row.schema,
            row.name,
            row.index_no,
            row.marker,
            row.bytes,
        )
        for row in fetch_rows(conn, "existing_indexes", {"column_id": tuned.column.id})
    ]


def read_serving(conn: Connection, tuned: TunedColumn, k_class: int) -> list[dict[str, Any]]:
    """Read which index serves `k_class` and every class of k with replays, and whether that is proven."""
    return fetch_dicts(conn, "serving_indexes", {"column_id": tuned.column.id, "k_class": k_class})


def read_uses(conn: Connection, tuned: TunedColumn, index: ExistingIndex) -> list[str]:
    """Read the classes of searches that an index still serves, in words."""
    return fetch_values(conn, "uses_of_index", {"column_id": tuned.column.id, "index_no": index.number})


def read_size(conn: Connection, relation: str) -> int:
    """Return the bytes of a relation, named as SQL writes it."""
    return int(fetch_value(conn, "relation_size", {"relation": relation}))


def choose_index_name(conn: Connection, tuned: TunedColumn, definition: Definition) -> str:
    """Return an unused name that tells the table, the column, and how the index is built."""
    column = tuned.column
    options = (
        (definition.m, definition.ef_construction) if definition.method == "hnsw" else (definition.lists,)
    )
    tail = "_".join(["", definition.form, definition.method, *map(str, options)])
    # The statement appends up to five characters to 58; PostgreSQL cuts names after 63 bytes.
    stem = f"{column.table}_{column.name}".encode()[: 58 - len(tail)].decode(errors="ignore") + tail
    return str(fetch_value(conn, "unused_index_name", {"stem": stem, "schema": column.schema}))


def register_copy(conn: Connection, tuned: TunedColumn, relation: str, key: str) -> TunedColumn:
    """Register a copy as a tuned column, in a transaction that must be rolled back."""
    column = tuned.column
    values = {
        "relation": relation,
        "key": key,
        "column_name": column.name,
        "vector_type": column.vector_type,
        "dimensions": column.dimensions,
        "metric": column.metric,
        "default_ef": tuned.default_ef,
        "target_recall": tuned.target_recall,
        "max_tail": tuned.max_tail,
        "trajectory_window": tuned.trajectory_window,
        "learning_rate": tuned.learning_rate,
        "min_samples": tuned.min_samples,
    }
    return read_tuned_columns(conn, fetch_value(conn, "register_copy", values))[0]


def register_trial_index(conn: Connection, tuned: TunedColumn, index: str) -> tuple[TunedColumn, int]:
    """Register an index in a transaction that must be rolled back; return the column and the number."""
    number = fetch_value(conn, "register_trial_index", {"column_id": tuned.column.id, "index": index})
    return read_tuned_columns(conn, tuned.column.id)[0], int(number)


def drop_index(conn: Connection, schema: str, name: str) -> None:
    """Drop an index of a real table without blocking searches."""
    conn.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(sql.Identifier(schema, name)))


def drop_index_of_dead_run(conn: Connection, index: Mapping[str, Any]) -> None:
    """Drop an index that a run left on a real table: a trial, or one whose build did not finish."""
    with suppress(psycopg.errors.UndefinedObject):
        valid = fetch_value(conn, "index_is_valid", index)
        if valid is not None and (index["trial"] or not valid):
            drop_index(conn, index["schema"], index["name"])


def create_scratch_schema(conn: Connection, schema: str) -> None:
    """Create the scratch schema of a run."""
    conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))


def describe_scratch_schema(conn: Connection, schema: str, description: str) -> None:
    """Store the description of a run as the comment of its schema."""
    statement = queries()["describe_schema"].format(
        schema=sql.Identifier(schema), description=sql.Literal(description)
    )
    execute(conn, statement)


def drop_scratch_schema(conn: Connection, schema: str) -> None:
    """Drop the scratch schema of a run with everything in it."""
    conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))


def read_scratch_schemas(conn: Connection) -> dict[str, str]:
    """Read the scratch schemas of all runs, with the description of each."""
    return {row.schema: row.description for row in fetch_rows(conn, "advisor_schemas")}


def try_lock_run(conn: Connection, schema: str) -> bool:
    """Take the session lock of a run; False if another session holds it."""
    return bool(fetch_value(conn, "try_lock_run", {"schema": schema}))


def unlock_run(conn: Connection, schema: str) -> None:
    """Release the session lock of a run."""
    fetch_value(conn, "unlock_run", {"schema": schema})


def create_reference(conn: Connection, parts: Mapping[str, Any]) -> int:
    """Copy the first rows of a copy into a table without an index; return how many."""
    execute(conn, queries()["create_reference"].format(**parts))
    execute(conn, queries()["analyze_copy"].format(copy=parts["reference"]))
    return int(fetch_value(conn, queries()["count_table_rows"].format(relation=parts["reference"])))


def compose_exact_search(column: VectorColumn, relation: sql.Identifier, k: int) -> sql.Composed:
    """Compose an exact search with the query vector as $1, which returns the distances."""
    return queries()["exact_search"].format(
        distance=column.distance(sql.SQL("$1")), relation=relation, k=sql.Literal(k)
    )
