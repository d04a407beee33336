"""Arms of a comparison: plain SQL, exact search and vectuned, raced on the same queries as a client."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import repeat
from operator import itemgetter
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.learning.model.arrays import Floats, Ints, Singles
from vectuned.learning.model.column import VectorColumn
from vectuned.learning.model.vectors import Vector
from vectuned.learning.statistics.demand import TAIL_RECALL
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import Truth, exact_among
from vectuned.sql.files import queries

BLOCK: Final = 50  # queries that an arm does in a row: short against drifts of the machine's load
_PARAMETER: Final = sql.Placeholder()


@dataclass(frozen=True)
class ArmResults:
    """What a client received: distances float64 (n, width) padded with +inf, and milliseconds (n,)."""

    distances: Floats
    millis: Floats


@dataclass(frozen=True)
class Outcome:
    """Figures of one arm: recall@k, share of queries under 0.8, latencies in ms, ef_search if any."""

    recall: float
    below_08: float
    mean_ms: float
    p50_ms: float
    p99_ms: float
    ef_search: int | None

    def as_dict(self) -> dict[str, float]:
        """Return the figures that there are by name, rounded to four decimals."""
        return {name: round(value, 4) for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Arm:
    """A connection of its own, and a statement with parameters made of (query, k, value of the filter)."""

    conn: psycopg.Connection[Any]
    statement: sql.Composed
    parameters: Callable[[Vector, int, str | None], tuple[Any, ...]]
    ef_search: int | None

    def search(self, query: Vector, k: int, value: str | None) -> list[float]:
        """Return the distances of the rows found."""
        parameters = self.parameters(query, k, value)
        with self.conn.cursor(row_factory=distance_row) as cursor:
            return cursor.execute(self.statement, parameters, prepare=True, binary=True).fetchall()


def distance_row(_: psycopg.Cursor[Any]) -> Callable[[Sequence[Any]], Any]:
    """Row factory: a row becomes its distance, which is the last column of every statement here."""
    return itemgetter(-1)


def compose_nearest(
    column: VectorColumn,
    query: sql.Composable,
    k: sql.Composable,
    condition: sql.Composable | None = None,
    *,
    exact: bool = False,
) -> sql.Composed:
    """Compose plain SQL for the keys and distances of the k nearest rows that meet a condition.

    With `exact` every such row is compared, otherwise `query` appears twice. In the condition the table is t.
    """
    keys, distance = map(sql.Identifier, column.key_columns), column.distance(query)
    rows = sql.SQL("SELECT {}, {} AS distance FROM {} AS t").format(
        sql.SQL(", ").join(keys), distance, column.relation
    )
    if condition is not None:
        rows += sql.SQL(" WHERE {}").format(condition)
    if exact:
        return queries()["nearest_exactly"].format(rows=rows, k=k)
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
    """Compose plain SQL for the k nearest rows, or those of them whose `attribute` has a value.

    With `exact` every such row is compared. With `advised` the statement has the condition that selects the
    partial indexes which vectuned recommends.
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
    """Prepare plain SQL at a fixed ef_search. Raises VectunedError if it would not use the index."""
    _set_ef_search(conn, ef)
    statement = compose_plain(column)
    probe = Vector(np.ones(column.dimensions, dtype=np.float32))
    plan = conn.execute(
        sql.SQL("EXPLAIN (FORMAT JSON) ") + statement, (probe, probe, 10), prepare=False
    ).fetchone()
    if plan is None or f'"{index}"' not in str(plan).replace("'", '"'):
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
    """Prepare plain SQL with WHERE attribute = value, planned for each value.

    With `iterative` the index is scanned further until k rows match (relaxed_order).
    """
    _set_ef_search(conn, ef)
    conn.execute("SET plan_cache_mode = force_custom_plan")
    if iterative:
        conn.execute("SET hnsw.iterative_scan = relaxed_order")
    statement = compose_plain(column, attribute, advised=advised)
    return Arm(conn, statement, lambda vector, k, value: (vector, value, vector, k), ef)


def prepare_exact_arm(conn: psycopg.Connection[Any], column: VectorColumn, attribute: str) -> Arm:
    """Prepare exact search over all rows that match, found through the filter's own index."""
    statement = compose_plain(column, attribute, exact=True)
    return Arm(conn, statement, lambda vector, k, value: (vector, value, k), None)


def prepare_vectuned_arm(
    conn: psycopg.Connection[Any], column: VectorColumn, ef: int | None, *, attribute: str | None = None
) -> Arm:
    """Prepare vectuned.search, with a filter on `attribute` if there is one."""
    relation = sql.Literal(sql.Identifier(column.schema, column.table).as_string(conn))
    if attribute is None:
        statement = queries()["vectuned_arm"].format(relation=relation)
        return Arm(conn, statement, lambda vector, k, _: (vector, k), ef)
    statement = queries()["vectuned_filtered_arm"].format(relation=relation)
    return Arm(conn, statement, lambda vector, k, value: (vector, k, json.dumps({attribute: value})), ef)


def _set_ef_search(conn: psycopg.Connection[Any], ef: int) -> None:
    conn.execute("SELECT set_config('hnsw.ef_search', %s, false)", (str(ef),))


def find_filtered_truth(
    conn: psycopg.Connection[Any],
    column: VectorColumn,
    vectors: Singles,
    k: int | Ints,
    attribute: str,
    values: Sequence[str | None],
) -> Truth:
    """Find the exact answers among the rows with each query's value of an attribute, among all for None."""
    name = sql.Identifier(attribute)
    conditions = [None if v is None else sql.SQL("{} = {}").format(name, sql.Literal(v)) for v in values]
    return exact_among(conn, column, vectors, k, conditions)


def race(
    arms: Mapping[str, Callable[..., list[float]]],
    searches: Sequence[tuple[Any, ...]],
    width: int,
    *,
    seed: int | np.random.Generator = 0,
    warm_up: int = 100,
    progress: Callable[[int], None] | None = None,
) -> dict[str, ArmResults]:
    """Do every search in every arm, in blocks of 50; the order of the arms is drawn for each block.

    An arm is a function that takes the parts of a search and returns the distances found, at most `width`.
    Times are those that the client waits for, fetching included. First each arm does the first `warm_up`
    searches untimed.
    """
    rng, names, count, done = np.random.default_rng(seed), list(arms), len(searches), 0
    results = {name: ArmResults(np.full((count, width), np.inf), np.zeros(count)) for name in names}
    for search in arms.values():
        for parts in searches[:warm_up]:
            search(*parts)
    for start in range(0, count, BLOCK):
        block = range(start, min(start + BLOCK, count))
        for place in rng.permutation(len(names)):
            name = names[place]
            search, result = arms[name], results[name]
            for i in block:
                began = perf_counter()
                distances = search(*searches[i])
                result.millis[i] = (perf_counter() - began) * 1000
                result.distances[i, : len(distances)] = distances
            done += len(block)
            if progress is not None:
                progress(done)
    return results


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
    """Race every query in every arm; `values` are the filter values of the queries, if the arms filter."""
    functions = {name: arm.search for name, arm in arms.items()}
    searches = list(zip(map(Vector, vectors), repeat(k), values or repeat(None)))
    results = race(functions, searches, k, seed=seed, progress=progress)
    return {name: _summarize(results[name], truth, k, arm.ef_search) for name, arm in arms.items()}


def _summarize(results: ArmResults, truth: Truth, k: int, ef: int | None) -> Outcome:
    recall, millis = recall_at_k(results.distances, truth, k), results.millis
    p50, p99 = np.quantile(millis, [0.5, 0.99])
    return Outcome(
        float(recall.mean()),
        float((recall < TAIL_RECALL).mean()),
        float(millis.mean()),
        float(p50),
        float(p99),
        ef,
    )
