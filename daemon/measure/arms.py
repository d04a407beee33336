"""Comparing ways to search: arms side by side on held-out queries, as a client sees them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.learning.model.arrays import Floats, Ints, Singles
from vectuned.learning.model.column import VectorColumn
from vectuned.learning.statistics.demand import TAIL_RECALL
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import Truth, exact_among

BLOCK: Final = 50
_PARAMETER: Final = sql.Placeholder()


@dataclass(frozen=True)
class ArmResults:
    """What a client was given: distances float64 (n, width) padded with +inf, and milliseconds (n,)."""

    distances: Floats
    millis: Floats


@dataclass(frozen=True)
class Outcome:
    """What one arm gave: recall@k, share of queries under 0.8, latencies in ms, the ef_search it ran with."""

    recall: float
    below_08: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    ef_search: int

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name, rounded to what they are worth."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Arm:
    """A way to search: a connection of its own and the statement it runs with (query, k, filter's value)."""

    conn: psycopg.Connection[Any]
    statement: sql.Composed
    parameters: Callable[[Vector, int, str | None], tuple[Any, ...]]
    ef_search: int

    def search(self, query: Vector, k: int, value: str | None) -> list[float]:
        """Return the distances found."""
        parameters = self.parameters(query, k, value)
        rows = self.conn.execute(self.statement, parameters, prepare=True, binary=True).fetchall()
        return [row[-1] for row in rows]


def compose_nearest(
    column: VectorColumn,
    query: sql.Composable,
    k: sql.Composable,
    condition: sql.Composable | None = None,
    *,
    exact: bool = False,
) -> sql.Composed:
    """Write plain SQL for the k nearest rows of those that meet a condition: their keys and distances.

    `exact`: compare with every such row, else `query` is in it twice. A condition may call the table t.
    """
    keys, distance = map(sql.Identifier, column.key_columns), column.distance(query)
    rows = sql.SQL("SELECT {}, {} AS distance FROM {} AS t").format(
        sql.SQL(", ").join(keys), distance, column.relation
    )
    if condition is not None:
        rows += sql.SQL(" WHERE {}").format(condition)
    if exact:
        return sql.SQL("SELECT * FROM ({} OFFSET 0) m ORDER BY distance LIMIT {}").format(rows, k)
    return rows + sql.SQL(" ORDER BY {} LIMIT {}").format(distance, k)


def compose_plain(
    column: VectorColumn,
    attribute: str | None = None,
    value: sql.Composable = _PARAMETER,
    k: sql.Composable = _PARAMETER,
    *,
    exact: bool = False,
    advised: bool = False,
) -> sql.Composed:
    """Write plain SQL for the k nearest rows, where `attribute` is given of those with a value of it.

    `exact`: compare with every such row. `advised`: with the condition by which statements ask for the
    partial indexes that vectuned recommends.
    """
    conditions = []
    if attribute is not None:
        conditions.append(sql.SQL("{} = {}").format(sql.Identifier(attribute), value))
    if advised:
        dims = sql.Identifier(column.extension_schema, "vector_dims")
        conditions.append(sql.SQL("{}({}) > 0").format(dims, column.vector))
    condition = sql.SQL(" AND ").join(conditions) if conditions else None
    return compose_nearest(column, _PARAMETER, k, condition, exact=exact)


def prepare_plain_arm(conn: psycopg.Connection[Any], column: VectorColumn, ef: int, index: str) -> Arm:
    """Search as people do: plain SQL at a fixed ef_search. VectunedError if it would not use the index."""
    conn.execute("SELECT set_config('hnsw.ef_search', %s, false)", (str(ef),))
    statement = compose_plain(column)
    probe = Vector(np.ones(column.dimensions, dtype=np.float32))
    row = conn.execute(
        sql.SQL("EXPLAIN (FORMAT JSON) ") + statement, (probe, probe, 10), prepare=False
    ).fetchone()
    if row is None or f'"{index}"' not in str(row[0]).replace("'", '"'):
        raise VectunedError(
            f"PostgreSQL does not search {column} through the index {index}: run ANALYZE, or look at EXPLAIN."
        )
    return Arm(conn, statement, lambda vector, k, _: (vector, vector, k), ef)


def prepare_filtered_arm(
    conn: psycopg.Connection[Any],
    column: VectorColumn,
    attribute: str,
    ef: int,
    *,
    iterative: bool,
    advised: bool = False,
) -> Arm:
    """Search as people do with WHERE attribute = value: whatever plan PostgreSQL makes of that value."""
    conn.execute("SELECT set_config('hnsw.ef_search', %s, false)", (str(ef),))
    conn.execute("SET plan_cache_mode = force_custom_plan")
    if iterative:
        conn.execute("SET hnsw.iterative_scan = relaxed_order")
    statement = compose_plain(column, attribute, advised=advised)
    return Arm(conn, statement, lambda vector, k, value: (vector, value, vector, k), ef)


def prepare_exact_arm(conn: psycopg.Connection[Any], column: VectorColumn, attribute: str) -> Arm:
    """Compare with every row that matches, found by the filter's own index."""
    statement = compose_plain(column, attribute, exact=True)
    return Arm(conn, statement, lambda vector, k, value: (vector, value, k), 0)


def prepare_vectuned_arm(
    conn: psycopg.Connection[Any], column: VectorColumn, ef: int, *, attribute: str | None = None
) -> Arm:
    """Search through vectuned.search, where `attribute` is given with a filter on it."""
    relation = f"{sql.Identifier(column.schema, column.table).as_string(conn)}"
    if attribute is None:
        statement = sql.SQL("SELECT id, distance FROM vectuned.search({}::regclass, %s, %s)").format(
            sql.Literal(relation)
        )
        return Arm(conn, statement, lambda vector, k, _: (vector, k), ef)
    statement = sql.SQL("SELECT id, distance FROM vectuned.search({}::regclass, %s, %s, %s)").format(
        sql.Literal(relation)
    )
    return Arm(conn, statement, lambda vector, k, value: (vector, k, json.dumps({attribute: value})), ef)


def find_filtered_truth(
    conn: psycopg.Connection[Any],
    column: VectorColumn,
    vectors: Singles,
    k: int | Ints,
    attribute: str,
    values: Sequence[str | None],
) -> Truth:
    """Find the exact answers among the rows with each query's value of an attribute, of all rows for None."""
    name = sql.Identifier(attribute)
    conditions = [None if v is None else sql.SQL("{} = {}").format(name, sql.Literal(v)) for v in values]
    return exact_among(conn, column, vectors, k, conditions)


def race(
    ways: Mapping[str, Callable[..., list[float]]],
    searches: Sequence[tuple[Any, ...]],
    width: int,
    *,
    seed: int | np.random.Generator = 0,
    warm_up: int = 100,
    progress: Callable[[int], None] | None = None,
) -> dict[str, ArmResults]:
    """Do every search in every way, in blocks of 50 whose order of ways is drawn anew.

    A way takes what a search consists of and returns the distances found, at most `width`. Times are what the
    client waits for, rows fetched. Before that each way does the first `warm_up` searches unmeasured.
    """
    rng, names, count, done = np.random.default_rng(seed), list(ways), len(searches), 0
    seen = {name: ArmResults(np.full((count, width), np.inf), np.zeros(count)) for name in names}
    for way in ways.values():
        for search in searches[:warm_up]:
            way(*search)
    for start in range(0, count, BLOCK):
        block = range(start, min(start + BLOCK, count))
        for place in rng.permutation(len(names)):
            name = names[place]
            for i in block:
                began = perf_counter()
                found = ways[name](*searches[i])
                seen[name].millis[i] = (perf_counter() - began) * 1000
                seen[name].distances[i, : len(found)] = found
            done += len(block)
            if progress is not None:
                progress(done)
    return seen


def compare_arms(
    arms: dict[str, Arm],
    vectors: Singles,
    truth: Truth,
    k: int,
    *,
    values: Sequence[str] | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Outcome]:
    """Race every query through every arm; `values` are what each query filters by, if the arms filter."""
    ways = {name: arm.search for name, arm in arms.items()}
    searches = list(zip(map(Vector, vectors), repeat(k), values or repeat(None)))
    seen = race(ways, searches, k, seed=seed, progress=progress)
    return {name: _outcome(seen[name], truth, k, arm.ef_search) for name, arm in arms.items()}


def _outcome(seen: ArmResults, truth: Truth, k: int, ef: int) -> Outcome:
    recall, millis = recall_at_k(seen.distances, truth, k), seen.millis
    p50, p99 = np.quantile(millis, [0.5, 0.99])
    return Outcome(
        float(recall.mean()),
        float((recall < TAIL_RECALL).mean()),
        float(millis.mean()),
        float(p50),
        float(p99),
        ef,
    )
