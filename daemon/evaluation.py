"""Comparing ways to search: arms side by side on held-out queries, as a client sees them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.learning.column import TunedColumn
from vectuned.learning.ladder import at_efforts, effort
from vectuned.learning.neighbors import Floats, Singles
from vectuned.learning.truth import Truth, recall_at_k

GRID: Final = (
    10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 120, 140, 160, 180, 200, 240, 280, 320, 360, 400, 450, 500, 600,
    700, 800, 900, 1000,
)  # fmt: skip
_BLOCK: Final = 50
_WARM_UP: Final = 100


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


def bare_arm(conn: psycopg.Connection[Any], column: TunedColumn, ef: int, index: str) -> Arm:
    """Search as people do: plain SQL at a fixed ef_search. VectunedError if it would not use the index."""
    conn.execute("SELECT set_config('hnsw.ef_search', %s, false)", (str(ef),))
    statement = sql.SQL("SELECT {}, {} AS distance FROM {} ORDER BY {} LIMIT %s").format(
        sql.SQL(", ").join(map(sql.Identifier, column.key_columns)),
        column.distance(sql.Placeholder()),
        column.relation,
        column.distance(sql.Placeholder()),
    )
    probe = Vector(np.ones(column.dimensions, dtype=np.float32))
    row = conn.execute(
        sql.SQL("EXPLAIN (FORMAT JSON) ") + statement, (probe, probe, 10), prepare=False
    ).fetchone()
    if row is None or f'"{index}"' not in str(row[0]).replace("'", '"'):
        raise VectunedError(
            f"PostgreSQL does not search {column} through the index {index}: run ANALYZE, or look at EXPLAIN."
        )
    return Arm(conn, statement, lambda vector, k, _: (vector, vector, k), ef)


def bare_filtered_arm(
    conn: psycopg.Connection[Any],
    column: TunedColumn,
    attribute: str,
    ef: int,
    *,
    iterative: bool,
    advised: bool = False,
) -> Arm:
    """Search as people do with WHERE attribute = value: whatever plan PostgreSQL makes of that value.

    `advised`: with the condition by which statements ask for the partial indexes that vectuned recommends.
    """
    conn.execute("SELECT set_config('hnsw.ef_search', %s, false)", (str(ef),))
    conn.execute("SET plan_cache_mode = force_custom_plan")
    if iterative:
        conn.execute("SET hnsw.iterative_scan = relaxed_order")
    marker = sql.SQL(" AND {}({}) > 0").format(
        sql.Identifier(column.extension_schema, "vector_dims"), column.vector
    )
    statement = sql.SQL("SELECT {}, {} AS distance FROM {} WHERE {} = %s{} ORDER BY {} LIMIT %s").format(
        sql.SQL(", ").join(map(sql.Identifier, column.key_columns)),
        column.distance(sql.Placeholder()),
        column.relation,
        sql.Identifier(attribute),
        marker if advised else sql.SQL(""),
        column.distance(sql.Placeholder()),
    )
    return Arm(conn, statement, lambda vector, k, value: (vector, value, vector, k), ef)


def exact_filtered_arm(conn: psycopg.Connection[Any], column: TunedColumn, attribute: str) -> Arm:
    """Compare with every row that matches, found by the filter's own index."""
    statement = sql.SQL(
        "SELECT * FROM (SELECT {}, {} AS distance FROM {} WHERE {} = %s OFFSET 0) m"
        " ORDER BY distance LIMIT %s"
    ).format(
        sql.SQL(", ").join(map(sql.Identifier, column.key_columns)),
        column.distance(sql.Placeholder()),
        column.relation,
        sql.Identifier(attribute),
    )
    return Arm(conn, statement, lambda vector, k, value: (vector, value, k), 0)


def tuned_arm(
    conn: psycopg.Connection[Any], column: TunedColumn, ef: int, *, attribute: str | None = None
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


def compare(
    arms: dict[str, Arm],
    vectors: Singles,
    truth: Truth,
    k: int,
    *,
    values: Sequence[str] | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Outcome]:
    """Run every query through every arm, in blocks of 50 whose order of arms is drawn anew.

    `values` are what each query filters by, if the arms filter.

    Times are what the client waits for, rows fetched. Before that each arm searches 100 times unmeasured.
    """
    rng = np.random.default_rng(seed)
    names = list(arms)
    millis = {name: np.zeros(len(vectors)) for name in names}
    distances = {name: np.full((len(vectors), k), np.inf) for name in names}
    queries = [Vector(vector) for vector in vectors]
    filters = values if values is not None else [None] * len(queries)
    for name in names:
        for query, value in zip(queries[:_WARM_UP], filters, strict=False):
            _search(arms[name], query, k, value)
    done = 0
    for start in range(0, len(vectors), _BLOCK):
        block = range(start, min(start + _BLOCK, len(vectors)))
        for place in rng.permutation(len(names)):
            name = names[place]
            for i in block:
                began = perf_counter()
                found = _search(arms[name], queries[i], k, filters[i])
                millis[name][i] = (perf_counter() - began) * 1000
                distances[name][i, : len(found)] = found
                done += 1
            if progress is not None:
                progress(done)
    return {name: _outcome(distances[name], millis[name], truth, k, arms[name].ef_search) for name in names}


def best_fixed(recall: Floats, target: float, grid: Sequence[int] = GRID) -> int:
    """Return the smallest ef_search of a grid whose mean recall reaches the target; the largest if none.

    `recall` (n, rungs): replays, as anyone who measured could have them.
    """
    means = at_efforts(recall, effort(grid)).mean(axis=0)
    reached = np.flatnonzero(means >= target)
    return grid[int(reached[0])] if len(reached) else grid[-1]


def _search(arm: Arm, query: Vector, k: int, value: str | None) -> list[float]:
    parameters = arm.parameters(query, k, value)
    rows = arm.conn.execute(arm.statement, parameters, prepare=True, binary=True).fetchall()
    return [row[-1] for row in rows]


def _outcome(distances: Floats, millis: Floats, truth: Truth, k: int, ef: int) -> Outcome:
    recall = recall_at_k(distances, truth, k)
    p50, p99 = np.quantile(millis, [0.5, 0.99])
    return Outcome(
        float(recall.mean()), float((recall < 0.8).mean()), float(millis.mean()), float(p50), float(p99), ef
    )
