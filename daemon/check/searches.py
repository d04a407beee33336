"""Searches that a check runs: rows of the table as queries, sent as an application would send them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql
from psycopg.rows import scalar_row

from vectuned.learning.model.arrays import Floats, Singles
from vectuned.sql.files import trusted
from vectuned.sql.rows import fetch_rows, fetch_value

from .catalogue import VectorIndex, VectorTable

# Milliseconds one search may take: longer ones are given up, and the measurement with them.
SEARCH_TIMEOUT_MS: Final = 5_000
# Rows drawn for each one wanted: pages hold several rows, and rows of one page may be alike.
_DRAWN_PER_ROW: Final = 20


@dataclass(frozen=True)
class Drawn:
    """Rows drawn from a table: `vectors` float32 (n, d) and the values of a column to filter by, as text."""

    vectors: Singles
    values: tuple[str | None, ...]


@dataclass(frozen=True)
class Answers:
    """What n searches returned: `distances` float64 (n, width) padded with +inf, and milliseconds (n,)."""

    distances: Floats
    ms: Floats

    @property
    def returned(self) -> Floats:
        """Return how many rows each search returned."""
        return np.asarray(np.isfinite(self.distances).sum(axis=1), dtype=np.float64)


def draw_rows(
    conn: psycopg.Connection[Any], table: VectorTable, count: int, column: str | None = None
) -> Drawn:
    """Draw up to `count` rows of a table at random, from random pages where it is large.

    column: a column whose values are wanted too.
    """
    share = 100.0 * _DRAWN_PER_ROW * count / max(table.rows, 1.0)
    vector = sql.Identifier("t", table.column)
    value = sql.SQL("NULL") if column is None else sql.Identifier("t", column)
    relation = sql.Identifier(table.schema, table.table)
    rows: list[Any] = []
    # TABLESAMPLE reads no sample of foreign partitions.
    for percent in (share, 100.0) if share < 50.0 and not table.foreign else (100.0,):
        sample = (
            sql.SQL("")
            if percent == 100.0
            else sql.SQL("TABLESAMPLE SYSTEM ({})").format(sql.Literal(percent))
        )
        statement = sql.SQL(
            "SELECT {}::text AS vector, {}::text AS value FROM {} AS t {} WHERE {} IS NOT NULL "
            "ORDER BY random() LIMIT {}"
        ).format(vector, value, relation, sample, vector, sql.Literal(count))
        rows = fetch_rows(conn, statement)
        if len(rows) >= count:
            break
    vectors = [np.fromstring(row.vector[1:-1], dtype=np.float32, sep=",") for row in rows]
    return Drawn(
        np.array(vectors, dtype=np.float32).reshape(len(rows), -1) if rows else np.empty((0, 0), np.float32),
        tuple(row.value for row in rows),
    )


def as_text(vector: Singles) -> str:
    """Write a vector as pgvector reads it."""
    return "[" + ",".join(repr(float(x)) for x in vector) + "]"


def nearest(
    table: VectorTable, index: VectorIndex, extension: str, k: int, condition: sql.Composable | None
) -> sql.Composed:
    """Write the statement that an application sends: the k nearest rows, by the index's own expression.

    extension: pgvector's schema. condition: over the columns of the table, which is called t. The statement's
    parameters are the query, twice; it returns the distance on the column itself.
    """
    where = sql.SQL("") if condition is None else sql.SQL(" WHERE {}").format(condition)
    if index.key:
        ordered: sql.Composable = sql.Identifier("t", table.column)
        cast = table.type
    else:
        # The catalogue's own text, in which columns stand by their bare names.
        ordered = sql.SQL("({})").format(trusted(index.expression))
        cast = "halfvec" if index.operator_class.startswith("halfvec") else "vector"
    return sql.SQL(
        "SELECT /* vectuned check */ {column} {operator} %s::{type} AS distance FROM {relation} AS t{where} "
        "ORDER BY {ordered} {operator} %s::{cast} LIMIT {k}"
    ).format(
        column=sql.Identifier("t", table.column),
        operator=sql.SQL("OPERATOR({}.{})").format(sql.Identifier(extension), trusted(index.operator)),
        type=sql.Identifier(extension, table.type),
        relation=sql.Identifier(table.schema, table.table),
        where=where,
        ordered=ordered,
        cast=sql.Identifier(extension, cast),
        k=sql.Literal(k),
    )


@contextmanager
def settings(conn: psycopg.Connection[Any], values: Mapping[str, str]) -> Iterator[None]:
    """Run what is inside with parameters set, and put them back by rolling back to a savepoint."""
    with conn.transaction(force_rollback=True):
        for name, value in values.items():
            fetch_value(conn, "check_setting", {"name": name, "value": value})
        yield


def run_searches(
    conn: psycopg.Connection[Any],
    vectors: Singles,
    width: int,
    statements: Sequence[sql.Composed],
) -> Answers:
    """Run one statement for each query and return what came back, timed as a client sees it.

    Statements are planned each time, as those of most applications are. Raises psycopg's error if one takes
    longer than SEARCH_TIMEOUT_MS.
    """
    distances = np.full((len(vectors), width), np.inf)
    ms = np.zeros(len(vectors))
    with conn.cursor(row_factory=scalar_row) as cursor:
        for i, statement in enumerate(statements):
            text = as_text(vectors[i])
            began = perf_counter()
            values = cursor.execute(statement, (text, text), prepare=False).fetchall()
            ms[i] = 1000.0 * (perf_counter() - began)
            distances[i, : len(values)] = values[:width]
    return Answers(distances, ms)
