"""Ground truth: the exact nearest rows of a batch of queries, from one pass over the table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql

from vectuned.config.errors import UsageError, VectunedError
from vectuned.learning.model.arrays import Bools, Floats, Ints, Singles
from vectuned.learning.model.column import Metric, VectorColumn

from .neighbors import Block, Neighbors, NeighborSearch

Buffer = bytes | bytearray | memoryview

_COPY = "COPY (SELECT tableoid, ctid, {}{} FROM {} AS t WHERE {} IS NOT NULL{}) TO STDOUT (FORMAT BINARY)"
_SIGNATURE = b"PGCOPY\n\xff\r\n\0"
_TRAILER = b"\xff\xff"
_BLOCK_BYTES = 1 << 25
_BLOCK_ROWS = 16384
_FILTERS_PER_PASS = 64
_LARGEST_K = 1000
_UNIT_ROUNDOFF = 2.0**-24


@dataclass(frozen=True)
class Truth:
    """Hold the exact answers of n queries, nearest first, the widest asked for having k rows.

    `distances` float64 (n, k), as pgvector's operator defines them, padded with +inf; `tolerances` float64
    (n, k), what float32 arithmetic may add to each of them (see `epsilon`), padded with 0; `counts` int64
    (n,), rows found, less than k only where no more exist; `tableoids` and `ctids` int64 (n, k), padded
    with -1, a ctid being block * 65536 + offset; `scanned`, rows received from the server.
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
) -> Truth:
    """Find the exact k nearest rows of every query by streaming the table once, partitions included.

    `queries` (n, d) are taken as float32, and rounded to float16 for a halfvec column as PostgreSQL casts
    them; `k` is one number or (n,), each 1 to 1000. `filters` are boolean SQL expressions over the columns
    of the table, which is called t, without parameters (psycopg.sql.Literal is fine), None meaning all rows;
    `filter_of` int (n,) is the filter of each query. Rows whose vector is NULL are left out, and under cosine
    those of zero length.

    Runs in the transaction `conn` is in, and commits nothing: in REPEATABLE READ it sees what a replay there
    sees. More than 64 different filters take a pass each 64, and need such a transaction. `block_rows` and
    `query_chunk` bound the memory: about 20 bytes per cell of their product, and six blocks.

    Raise UsageError for arguments that do not fit, VectunedError for vectors of other dimensions in the
    table.
    """
    vectors = _checked_queries(column, queries)
    ks = _checked_k(k, len(vectors))
    groups = _passes(filters, filter_of, len(vectors))
    if len(groups) > 1:
        _require_snapshot(conn, column)
    width = int(ks.max(initial=0))
    found = Neighbors(
        np.full((len(vectors), width), np.inf),
        np.zeros((len(vectors), width)),
        np.full((len(vectors), width), -1, dtype=np.int64),
        np.full((len(vectors), width), -1, dtype=np.int64),
    )
    scanned = 0
    for group in groups:
        members = group.members
        search = NeighborSearch(column.metric, vectors[members], ks[members], group.filter_of, query_chunk)
        for block in _stream(conn, column, group, block_rows):
            search.add(block)
            scanned += len(block.vectors)
        part = search.result()
        columns = slice(0, part.distances.shape[1])
        found.distances[members, columns] = part.distances
        found.norms[members, columns] = part.norms
        found.tableoids[members, columns] = part.tableoids
        found.ctids[members, columns] = part.ctids
    counts = np.isfinite(found.distances).sum(axis=1, dtype=np.int64)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)[:, None]
    scale = lengths * np.maximum.accumulate(found.norms, axis=1)
    tolerances = np.where(
        np.isfinite(found.distances), epsilon(column.metric, column.dimensions, found.distances, scale), 0.0
    )
    return Truth(found.distances, tolerances, counts, found.tableoids, found.ctids, scanned)


def exact_among(
    conn: psycopg.Connection[Any],
    column: VectorColumn,
    queries: npt.ArrayLike,
    k: int | npt.ArrayLike,
    conditions: Sequence[sql.Composable | None],
) -> Truth:
    """Find the exact k nearest rows of every query among those that meet its own condition, None meaning all.

    See `exact_neighbors`; conditions that are the same SQL are looked at once.
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
    )


def epsilon(metric: Metric, dimensions: int, distances: npt.ArrayLike, scale: npt.ArrayLike = 1.0) -> Floats:
    """Say how far pgvector's float32 arithmetic may put a distance from its true value.

    pgvector adds up d products in float32, u = 2**-24 the error of each step, so that the error of the sum
    grows like sqrt(d) * u (Higham & Mary, 2019, "A new approach to probabilistic rounding error analysis");
    allowed is (8 + sqrt(d)) * u: of 1 for cosine (1.6e-6 at 384 dimensions), of the distance itself for l2,
    whose terms are all positive, and of `scale` = |query| * |row| for ip. Errors measured on pgvector 0.8.6
    were at most a sixth of that; only vectors whose elements are all equal went over it, and too small an
    allowance can only report too little recall. Returns float64 of the shape of `distances`.
    """
    relative = (8.0 + np.sqrt(dimensions)) * _UNIT_ROUNDOFF
    values = np.asarray(distances, dtype=np.float64)
    if metric == "cosine":
        return np.full(values.shape, relative)
    if metric == "l2":
        return np.asarray(relative * values)
    return np.broadcast_to(relative * np.asarray(scale, dtype=np.float64), values.shape)


def recall_at_k(
    returned: npt.ArrayLike, truth: Truth, k: int | npt.ArrayLike, epsilon: npt.ArrayLike | None = None
) -> Floats:
    """Score what searches returned: the share of the k nearest found, judged by distance.

    `returned` (n, m) are the distances pgvector gave, padded with +inf, in any order; `k` one number or
    (n,), no more than the truth was computed for. A row counts if it is no farther than the true k-th, plus
    `epsilon` (one number or (n,); by default the truth's own tolerance), so that of equally distant rows
    any will do. Where fewer than k rows exist, finding all of them is recall 1, also where there are none.
    Returns float64 (n,).
    """
    distances = np.asarray(returned, dtype=np.float64)
    bounds, wanted = _bounds(truth, k, epsilon)
    hits = np.count_nonzero(distances <= bounds[:, None], axis=1)
    return _share(hits.astype(np.int64), wanted)


def recall_curve(
    scanned: npt.ArrayLike,
    fetched: npt.ArrayLike,
    truth: Truth,
    k: int | npt.ArrayLike,
    epsilon: npt.ArrayLike | None = None,
) -> Floats:
    """Score continued scans at every rung of effort, as `recall_at_k` would score each rung's rows.

    `scanned` (n, m) are the distances in the order the scans gave them, padded with +inf; `fetched` int
    (r,) or (n, r), how many rows had been fetched at each rung, more than m meaning all. Returns float64
    (n, r).
    """
    distances = np.asarray(scanned, dtype=np.float64)
    bounds, wanted = _bounds(truth, k, epsilon)
    rungs = np.clip(np.asarray(fetched, dtype=np.int64), 0, distances.shape[1])
    rungs = np.broadcast_to(rungs, (len(distances), rungs.shape[-1]))
    hits = np.zeros((len(distances), distances.shape[1] + 1), dtype=np.int64)
    np.cumsum(distances <= bounds[:, None], axis=1, out=hits[:, 1:])
    return _share(np.take_along_axis(hits, rungs, axis=1), wanted[:, None])


def _bounds(truth: Truth, k: int | npt.ArrayLike, epsilon: npt.ArrayLike | None) -> tuple[Floats, Ints]:
    """Return how far a row may be to count, float64 (n,), and how many rows there are to find, int (n,)."""
    ks = _checked_k(k, len(truth.counts))
    if ks.max(initial=0) > truth.distances.shape[1]:
        raise UsageError(
            f"Recall at {ks.max()} was asked of a truth that holds {truth.distances.shape[1]} rows a query: "
            "compute the truth for the largest k wanted."
        )
    wanted = np.minimum(ks, truth.counts)
    if not truth.distances.shape[1]:
        return np.zeros(len(wanted)), wanted
    at = (np.arange(len(wanted)), np.maximum(wanted - 1, 0))
    allowance = truth.tolerances[at] if epsilon is None else np.asarray(epsilon, dtype=np.float64)
    bounds = np.where(wanted > 0, truth.distances[at] + allowance, -np.inf)
    return bounds, wanted


def _share(hits: Ints, wanted: Ints) -> Floats:
    """Divide the hits by what was wanted, at most 1; nothing wanted is 1."""
    shares: Floats = np.minimum(hits, wanted) / np.maximum(wanted, 1)
    return np.where(wanted > 0, shares, 1.0)


@dataclass(frozen=True)
class _Pass:
    """One pass over the table: the queries it answers, its filters, and which each query obeys (-1: none)."""

    members: Ints
    filters: tuple[sql.Composable, ...]
    filter_of: Ints


def _passes(
    filters: Sequence[sql.Composable | None] | None, filter_of: npt.ArrayLike | None, count: int
) -> list[_Pass]:
    """Share the queries out to as few passes as the number of different filters allows."""
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
    free = np.array([item is None for item in filters])[chosen]
    needed = np.unique(chosen[~free])
    rank = np.searchsorted(needed, chosen)
    passes = []
    for start in range(0, max(len(needed), 1), _FILTERS_PER_PASS):
        here = needed[start : start + _FILTERS_PER_PASS]
        # Queries without a filter need every row, and go along with the first pass.
        inside = ~free & (rank >= start) & (rank < start + _FILTERS_PER_PASS)
        members = np.flatnonzero(inside | free if start == 0 else inside)
        own = np.where(free[members], -1, rank[members] - start).astype(np.int64)
        expressions = tuple(item for index in here if (item := filters[index]) is not None)
        passes.append(_Pass(members, expressions, own))
    return passes


def _require_snapshot(conn: psycopg.Connection[Any], column: VectorColumn) -> None:
    """Refuse several passes in a transaction whose statements each see another state of the table."""
    row = conn.cursor(row_factory=psycopg.rows.tuple_row).execute("SHOW transaction_isolation").fetchone()
    inside = conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
    if not inside or row is None or row[0] not in ("repeatable read", "serializable"):
        raise UsageError(
            f"More than {_FILTERS_PER_PASS} filters on {column} take several passes: "
            "begin a REPEATABLE READ transaction for them, or give fewer filters at a time."
        )


def _stream(
    conn: psycopg.Connection[Any], column: VectorColumn, group: _Pass, block_rows: int | None
) -> Iterator[Block]:
    """Copy the rows that the queries of `group` need, in blocks."""
    layout = _row_layout(column, len(group.filters))
    if block_rows is None:
        block_rows = max(1, min(_BLOCK_ROWS, _BLOCK_BYTES // layout.itemsize))
    flags = [sql.SQL(", coalesce(({}), false)").format(item) for item in group.filters]
    condition: sql.Composable = sql.SQL("")
    if group.filters and (group.filter_of >= 0).all():
        either = sql.SQL(" OR ").join(sql.SQL("({})").format(item) for item in group.filters)
        condition = sql.SQL(" AND ({})").format(either)
    statement = sql.SQL(_COPY).format(
        column.vector, sql.Composed(flags), column.relation, column.vector, condition
    )
    with conn.cursor() as cursor, cursor.copy(statement) as copy:
        for rows in parse_rows(copy, layout, block_rows):
            yield _as_block(rows, column)


def _row_layout(column: VectorColumn, flags: int) -> np.dtype[np.void]:
    """Describe a row of the binary copy: every field is its length as int4 and its bytes, big-endian."""
    element = ">f4" if column.vector_type == "vector" else ">f2"
    return np.dtype(
        [
            ("fields", ">i2"),
            ("tableoid_length", ">i4"),
            ("tableoid", ">u4"),
            ("ctid_length", ">i4"),
            ("ctid_block", ">u4"),
            ("ctid_offset", ">u2"),
            ("vector_length", ">i4"),
            ("dimensions", ">i2"),
            ("unused", ">i2"),
            ("vector", element, (column.dimensions,)),
            ("flags", [("length", ">i4"), ("value", "u1")], (flags,)),
        ]
    )


def parse_rows(
    chunks: Iterable[Buffer], layout: np.dtype[np.void], block_rows: int
) -> Iterator[npt.NDArray[np.void]]:
    """Cut the bytes of a binary COPY into arrays of `block_rows` rows of dtype `layout`, the last shorter.

    `chunks` may be cut anywhere; psycopg gives about one row each. Rows of another width than `layout` end
    in arrays whose length fields are wrong, which the caller must check, or in VectunedError when the
    stream does not end where a row does. Format: PostgreSQL's manual, COPY, "Binary Format".
    """
    pieces = iter(chunks)
    pending = b""
    while len(pending) < 19 and (piece := next(pieces, None)) is not None:
        pending += piece
    if pending[:11] != _SIGNATURE or len(pending) < 19:
        raise VectunedError("The server's answer to COPY is not in binary format: check what stands between.")
    skip = 19 + int.from_bytes(pending[15:19], "big")
    while len(pending) < skip and (piece := next(pieces, None)) is not None:
        pending += piece
    pending = pending[skip:]
    width = layout.itemsize
    while True:
        # One row a piece: as many pieces as rows are missing is never too many, unless pieces are larger.
        more = list(islice(pieces, max(1, block_rows - len(pending) // width)))
        ended = not more
        pending = b"".join((pending, *more))
        del more
        while len(pending) >= block_rows * width or (ended and len(pending) >= width):
            count = min(block_rows, len(pending) // width)
            yield np.frombuffer(pending, dtype=layout, count=count)
            pending = pending[count * width :]
        if ended:
            break
    if pending != _TRAILER:
        raise VectunedError(
            f"The COPY stream ended within a row of {width} bytes: the column's vectors differ in dimensions."
        )


def _as_block(rows: npt.NDArray[np.void], column: VectorColumn) -> Block:
    """Check the widths of parsed rows and turn them into native arrays."""
    flags = rows["flags"]
    expected = {
        "fields": 3 + flags.shape[1],
        "tableoid_length": 4,
        "ctid_length": 6,
        "vector_length": 4 + rows["vector"].dtype.itemsize * column.dimensions,
        "dimensions": column.dimensions,
    }
    if not all((rows[name] == value).all() for name, value in expected.items()):
        raise VectunedError(
            f"{column} holds vectors that do not have {column.dimensions} dimensions: "
            "give the column a type with dimensions, or tune a column that has one."
        )
    ctids = rows["ctid_block"].astype(np.int64) << 16 | rows["ctid_offset"]
    allowed = np.ascontiguousarray(flags["value"].T, dtype=np.bool_) if flags.shape[1] else None
    return Block(rows["vector"].astype(np.float32), rows["tableoid"].astype(np.int64), ctids, allowed)


def _checked_queries(column: VectorColumn, queries: npt.ArrayLike) -> Singles:
    """Return the queries as the column's type would hold them, or refuse them."""
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


def _checked_k(k: int | npt.ArrayLike, count: int) -> Ints:
    """Return k as int64 (count,), or refuse it."""
    given = np.asarray(k)
    if given.dtype.kind not in "iu" and given.size:
        raise UsageError("k must be a whole number, or one for each query.")
    if given.ndim > 1 or (given.ndim == 1 and len(given) != count):
        raise UsageError(f"k must be one number, or one for each of the {count} queries.")
    ks = np.broadcast_to(given, (count,)).astype(np.int64)
    if count and (ks.min() < 1 or ks.max() > _LARGEST_K):
        raise UsageError(f"k must be between 1 and {_LARGEST_K}.")
    return ks
