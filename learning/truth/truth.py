"""Ground truth: the exact nearest rows of a batch of queries, from one pass over the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from vectuned.config.errors import UsageError
from vectuned.learning.model.arrays import Bools, Floats, Ints, Singles
from vectuned.learning.model.column import Metric, VectorColumn
from vectuned.sql.rows import fetch_value

from .neighbors import Neighbors, NeighborSearch
from .table_stream import row_bytes, stream_blocks

_FILTERS_PER_PASS: Final = 64  # filters evaluated in one pass; each adds 5 bytes to every row of the stream
_LARGEST_K: Final = 1000  # the largest ef_search of pgvector, and so the most rows a search can return
_UNIT_ROUNDOFF: Final = 2.0**-24  # of float32


@dataclass(frozen=True)
class Truth:
    """Hold the exact answers of n queries, nearest first; k is the largest k of the queries.

    `distances` float64 (n, k), as pgvector's operator defines them, padded with +inf; `tolerances` float64
    (n, k), the float32 error allowed to each of them (see `float32_tolerance`), padded with 0; `counts` int64
    (n,), rows found, less than the query's k only where no more exist; `tableoids` and `ctids` int64 (n, k),
    padded with -1, a ctid being block * 65536 + offset; `scanned`, the number of rows the server sent.
    """

    distances: Floats
    tolerances: Floats
    counts: Ints
    tableoids: Ints
    ctids: Ints
    scanned: int

    def take(self, rows: Bools | Ints) -> Truth:
        """Return the answers of the queries at `rows`, a mask or indices."""
        return Truth(
            self.distances[rows],
            self.tolerances[rows],
            self.counts[rows],
            self.tableoids[rows],
            self.ctids[rows],
            self.scanned,
        )


def exact_neighbors(
    conn: psycopg.Connection[Any],
    column: VectorColumn,
    queries: npt.ArrayLike,
    k: int | npt.ArrayLike,
    *,
    filters: Sequence[sql.Composable | None] | None = None,
    filter_of: npt.ArrayLike | None = None,
    block_rows: int | None = None,
    query_chunk: int = 1024,
    on_read: Callable[[int], None] = lambda _: None,
) -> Truth:
    """Find the exact k nearest rows of every query by streaming the table once, partitions included.

    `queries` (n, d) are converted to float32, and rounded to float16 for a halfvec column, as PostgreSQL
    casts them; `k` is one number or (n,), each 1 to 1000. `filters` are boolean SQL expressions over the
    columns of the table, which is called t, without parameters (psycopg.sql.Literal is fine); None means all
    rows. `filter_of` int (n,) is the index of each query's filter. Rows whose vector is NULL are left out,
    and under cosine those of zero length.

    Runs in the transaction `conn` is in, and commits nothing: in REPEATABLE READ it sees the same rows as a
    replay there. More than 64 distinct filters take one pass for each 64, and need such a transaction.
    `block_rows` and `query_chunk` bound the memory: about 20 bytes per cell of their product, and six blocks.
    `on_read` is called with the bytes that the server has read, in parts, while it goes on: those of the rows
    that it sends, or of all blocks of the table if these are more, as where a filter leaves most rows out.

    Raises UsageError for arguments that do not fit, VectunedError for vectors of other dimensions in the
    table.
    """
    vectors = _checked_queries(column, queries)
    ks = broadcast_k(k, len(vectors))
    passes = _plan_passes(filters, filter_of, len(vectors))
    if len(passes) > 1:
        _require_snapshot(conn, column)
    nearest = _no_neighbors(len(vectors), int(ks.max(initial=0)))
    scanned = 0
    for each in passes:
        members = each.members
        search = NeighborSearch(column.metric, vectors[members], ks[members], each.filter_of, query_chunk)
        only_matching = bool((each.filter_of >= 0).all())
        width = row_bytes(column, len(each.filters))
        relation = column.relation.as_string(conn)
        read, counted = 0, int(fetch_value(conn, "table_bytes", {"relation": relation}))
        on_read(counted)
        for block in stream_blocks(
            conn, column, each.filters, only_matching=only_matching, block_rows=block_rows
        ):
            search.add(block)
            scanned += len(block.vectors)
            read += len(block.vectors) * width
            if read > counted:
                on_read(read - counted)
                counted = read
        _assign(nearest, members, search.result())
    found = np.isfinite(nearest.distances)
    tolerances = np.where(found, _tolerances(column, vectors, nearest), 0.0)
    counts = found.sum(axis=1, dtype=np.int64)
    return Truth(nearest.distances, tolerances, counts, nearest.tableoids, nearest.ctids, scanned)


def _no_neighbors(count: int, k: int) -> Neighbors:
    """Return room for the k nearest rows of `count` queries: padding only."""
    shape = (count, k)
    return Neighbors(
        np.full(shape, np.inf),
        np.zeros(shape),
        np.full(shape, -1, dtype=np.int64),
        np.full(shape, -1, dtype=np.int64),
    )


def _assign(nearest: Neighbors, members: Ints, part: Neighbors) -> None:
    """Write the answers of the queries at `members` into those of all, in place."""
    columns = slice(0, part.distances.shape[1])
    nearest.distances[members, columns] = part.distances
    nearest.norms[members, columns] = part.norms
    nearest.tableoids[members, columns] = part.tableoids
    nearest.ctids[members, columns] = part.ctids


def _tolerances(column: VectorColumn, vectors: Singles, nearest: Neighbors) -> Floats:
    """Return the tolerance of every distance; under ip the largest among the rows up to it."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]
    scale = lengths * np.maximum.accumulate(nearest.norms, axis=1)
    return float32_tolerance(column.metric, column.dimensions, nearest.distances, scale)


def exact_among(
    conn: psycopg.Connection[Any],
    column: VectorColumn,
    queries: npt.ArrayLike,
    k: int | npt.ArrayLike,
    conditions: Sequence[sql.Composable | None],
    on_read: Callable[[int], None] = lambda _: None,
) -> Truth:
    """Find the exact k nearest rows of every query among those that meet its condition; None means all rows.

    See `exact_neighbors`. Conditions with the same SQL are evaluated once.
    """
    texts = [None if condition is None else condition.as_string(conn) for condition in conditions]
    distinct = dict(zip(texts, conditions, strict=True))
    places = {text: place for place, text in enumerate(distinct)}
    return exact_neighbors(
        conn,
        column,
        queries,
        k,
        filters=list(distinct.values()),
        filter_of=np.array([places[text] for text in texts]),
        on_read=on_read,
    )


def float32_tolerance(
    metric: Metric, dimensions: int, distances: npt.ArrayLike, scale: npt.ArrayLike = 1.0
) -> Floats:
    """Return how far pgvector's float32 arithmetic may put a distance from its true value.

    pgvector adds up d products in float32. Each step has an error of u = 2**-24, and the error of the sum
    grows like sqrt(d) * u (Higham & Mary, 2019, "A new approach to probabilistic rounding error analysis").
    The tolerance is (8 + sqrt(d)) * u: of 1 for cosine (1.6e-6 at 384 dimensions), of the distance itself for
    l2, whose terms are all positive, and of `scale` = |query| * |row| for ip. Errors measured on pgvector
    0.8.6 were at most a sixth of that. Only vectors whose elements are all equal exceeded it; too small a
    tolerance can only report too little recall. Returns float64 of the shape of `distances`.
    """
    relative = (8.0 + np.sqrt(dimensions)) * _UNIT_ROUNDOFF
    values = np.asarray(distances, dtype=np.float64)
    if metric == "cosine":
        return np.full(values.shape, relative)
    if metric == "l2":
        return np.asarray(relative * values)
    return np.broadcast_to(relative * np.asarray(scale, dtype=np.float64), values.shape)


@dataclass(frozen=True)
class _Pass:
    """Describe one pass over the table.

    `members`, the queries that it answers; `filters`, those it evaluates; `filter_of` (m,), the index of each
    query's filter, -1 for none.
    """

    members: Ints
    filters: tuple[sql.Composable, ...]
    filter_of: Ints


def _plan_passes(
    filters: Sequence[sql.Composable | None] | None, filter_of: npt.ArrayLike | None, count: int
) -> list[_Pass]:
    """Distribute the queries over as few passes as the number of distinct filters allows."""
    if count == 0:
        return []
    if filters is None:
        if filter_of is not None:
            raise UsageError("filter_of was given without filters: give the filters it points to.")
        return [_Pass(np.arange(count), (), np.full(count, -1, dtype=np.int64))]
    chosen = np.asarray(filter_of)
    if filter_of is None or chosen.shape != (count,) or chosen.dtype.kind not in "iu":
        raise UsageError(f"filter_of must hold the index of a filter for each of the {count} queries.")
    if chosen.min() < 0 or chosen.max() >= len(filters):
        raise UsageError(f"filter_of points outside the {len(filters)} filters: use 0 to {len(filters) - 1}.")
    unfiltered = np.array([item is None for item in filters])[chosen]
    needed = np.unique(chosen[~unfiltered])
    rank = np.searchsorted(needed, chosen)
    passes = []
    for start in range(0, max(len(needed), 1), _FILTERS_PER_PASS):
        here = needed[start : start + _FILTERS_PER_PASS]
        inside = ~unfiltered & (rank >= start) & (rank < start + _FILTERS_PER_PASS)
        # Queries without a filter need every row; the first pass answers them too.
        members = np.flatnonzero(inside | unfiltered if start == 0 else inside)
        places = np.where(unfiltered[members], -1, rank[members] - start).astype(np.int64)
        expressions = tuple(item for index in here if (item := filters[index]) is not None)
        passes.append(_Pass(members, expressions, places))
    return passes


def _require_snapshot(conn: psycopg.Connection[Any], column: VectorColumn) -> None:
    """Raise UsageError unless all statements of the transaction see the same state of the table."""
    isolation = fetch_value(conn, sql.SQL("SHOW transaction_isolation"))
    inside = conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    if not inside or isolation not in ("repeatable read", "serializable"):
        raise UsageError(
            f"More than {_FILTERS_PER_PASS} filters on {column} take several passes: "
            "begin a REPEATABLE READ transaction for them, or give fewer filters at a time."
        )


def _checked_queries(column: VectorColumn, queries: npt.ArrayLike) -> Singles:
    """Return the queries as the column's type would store them; UsageError if it cannot."""
    vectors = np.asarray(queries, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != column.dimensions:
        raise UsageError(
            f"Queries against {column} must be n x {column.dimensions}, not of shape {vectors.shape}."
        )
    if column.vector_type == "halfvec":
        with np.errstate(over="ignore"):
            vectors = vectors.astype(np.float16).astype(np.float32)
    if not np.isfinite(vectors).all():
        raise UsageError(
            f"Queries against {column} must be finite numbers in the range of {column.vector_type}."
        )
    return np.ascontiguousarray(vectors)


def broadcast_k(k: int | npt.ArrayLike, count: int) -> Ints:
    """Return k, one number or (count,), as int64 (count,); UsageError if it does not fit."""
    values = np.asarray(k)
    if values.dtype.kind not in "iu" and values.size:
        raise UsageError("k must be a whole number, or one for each query.")
    if values.ndim > 1 or (values.ndim == 1 and len(values) != count):
        raise UsageError(f"k must be one number, or one for each of the {count} queries.")
    ks = np.broadcast_to(values, (count,)).astype(np.int64)
    if count and (ks.min() < 1 or ks.max() > _LARGEST_K):
        raise UsageError(f"k must be between 1 and {_LARGEST_K}.")
    return ks
