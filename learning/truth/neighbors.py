"""Exact nearest neighbours of many queries, updated with every block of a stream of rows.

One float32 matrix product per block bounds every score from below. Rows that this bound excludes from a
query's nearest are dropped; the others are scored again in float64. The bound is rigorous: for `s` a sum of n
products, |float32(s) - s| <= n * u * sum(|products|) with u = 2**-24 (Higham, "Accuracy and Stability of
Numerical Algorithms", 2002, section 3.1), whatever the order of summation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from vectuned.learning.model.arrays import Bools, Floats, Ints, Singles
from vectuned.learning.model.column import Metric

Number = TypeVar("Number", np.float64, np.int64)

_UNIT_ROUNDOFF: Final = 2.0**-24  # of float32
_SAFE_MAGNITUDE: Final = 1e37  # larger products may overflow float32: such blocks are scored in float64
_DENSE_SHARE: Final = 0.005  # above this share of pairs a float64 matrix product beats scoring each pair
_PAIR_BYTES: Final = 1 << 25  # bytes of float64 rows gathered at a time for scoring pairs; bounds memory
_DENSE_QUERIES: Final = 256  # queries in one float64 matrix product; bounds memory
_SORTED_QUERIES: Final = 128  # queries whose bounds are partially sorted at a time; bounds memory
_CANCELLATION: Final = (
    1e-6  # a squared distance below this share of its terms has lost digits to cancellation
)


@dataclass(frozen=True)
class Block:
    """Hold some rows of a table.

    `vectors` float32 (b, d); `tableoids` and `ctids` int64 (b,); `allowed` bool (f, b), which rows match each
    filter, None without filters.
    """

    vectors: Singles
    tableoids: Ints
    ctids: Ints
    allowed: Bools | None = None


@dataclass(frozen=True)
class Neighbors:
    """Hold the nearest rows of n queries, nearest first.

    `distances` float64 (n, k), padded with +inf; `norms` float64 (n, k), Euclidean, padded with 0;
    `tableoids` and `ctids` int64 (n, k), padded with -1.
    """

    distances: Floats
    norms: Floats
    tableoids: Ints
    ctids: Ints


class NeighborSearch:
    """Find the exact k nearest rows of every query among the blocks passed to `add`.

    `queries` float32 (n, d), finite; `k` int (n,), each at least 1; `filter_of` int (n,), the row of
    `Block.allowed` that applies to each query, -1 for none. Distances are those of pgvector's operators
    (the negative inner product for "ip") in float64, with a relative error below 1e-9. One exception:
    under "l2", among rows thousands of times nearer to a query than the queries are to their mean, a row may
    replace one that is nearer by less than float32 can resolve. Under "cosine", rows of zero length are left
    out, as HNSW indexes do, and a query of zero length has no neighbours. Of rows at the same distance any
    may be returned. Memory is bounded by block, `query_chunk` and the answers.
    """

    def __init__(
        self,
        metric: Metric,
        queries: Singles,
        k: Ints,
        filter_of: Ints | None = None,
        query_chunk: int = 1024,
    ) -> None:
        self._metric: Metric = metric
        self._k = k
        # Translation keeps L2 distances, and avoids cancellation among distant, tightly packed vectors.
        centred = metric == "l2" and len(queries) > 0
        self._centre = queries.mean(axis=0, dtype=np.float64).astype(np.float32) if centred else None
        if filter_of is None:
            filter_of = np.full(len(queries), -1, dtype=np.int64)
        # Queries of similar k share a chunk, so that a single k = 1000 does not widen all arrays.
        order = np.argsort(k, kind="stable")
        parts = [order[start : start + query_chunk] for start in range(0, len(order), query_chunk)]
        self._chunks = [
            (part, _Chunk(metric, queries[part], k[part], filter_of[part], self._centre)) for part in parts
        ]

    def add(self, block: Block) -> None:
        """Add the rows of `block` to those searched."""
        rows = _Rows(self._metric, block, self._centre)
        if rows.count:
            for _, chunk in self._chunks:
                chunk.add(rows)

    def result(self) -> Neighbors:
        """Return the nearest of all rows added so far; the width is the largest k of the queries."""
        shape = (len(self._k), int(self._k.max(initial=0)))
        distances, norms = np.full(shape, np.inf), np.zeros(shape)
        tableoids, ctids = np.full(shape, -1, dtype=np.int64), np.full(shape, -1, dtype=np.int64)
        for part, chunk in self._chunks:
            width = chunk.distances.shape[1]
            found = np.isfinite(chunk.distances)
            distances[part, :width] = chunk.distances
            norms[part, :width] = np.where(found, chunk.norms, 0.0)
            tableoids[part, :width] = np.where(found, chunk.tableoids, -1)
            ctids[part, :width] = np.where(found, chunk.ctids, -1)
        return Neighbors(distances, norms, tableoids, ctids)


class _Rows:
    """A block prepared for scoring: `terms` is the right-hand factor of the product that bounds scores.

    Let y be the row as compared (centred for L2, of length 1 for cosine), r the query, and c the relative
    rounding error of a product. The lower bounds of the scores, and their factors, query on the left, are:

        cosine  -r.y - c          [-r, -c]      . [y, 1]
        ip      -r.y - c|r||y|    [-r, -c|r|]   . [y, |y|]
        l2      |y|^2 - 2r.y - c(2|r||y| + |y|^2)
                                  [-2r, 1, -2c|r|] . [y, (1 - c)|y|^2, |y|]
    """

    def __init__(self, metric: Metric, block: Block, centre: Singles | None) -> None:
        vectors, tableoids, ctids, allowed = block.vectors, block.tableoids, block.ctids, block.allowed
        norms = _norms(vectors)
        if metric == "cosine" and not norms.all():
            nonzero = np.flatnonzero(norms)
            vectors, tableoids, ctids, norms = (
                vectors[nonzero],
                tableoids[nonzero],
                ctids[nonzero],
                norms[nonzero],
            )
            allowed = None if allowed is None else allowed[:, nonzero]
        self.vectors, self.norms, self.tableoids, self.ctids = vectors, norms, tableoids, ctids
        self.allowed = allowed
        self.count, dimensions = vectors.shape
        self.rounding = rounding = _rounding(dimensions)
        self.terms = np.empty((self.count, dimensions + (2 if metric == "l2" else 1)), dtype=np.float32)
        compared = self.terms[:, :dimensions]
        with np.errstate(over="ignore"):  # then `magnitude` is large, and the terms are not used
            if metric == "cosine":
                np.multiply(vectors, 1.0 / norms[:, None], out=compared, casting="same_kind")
                self.lengths = np.ones(self.count)
            elif centre is not None:
                np.subtract(vectors, centre, out=compared)
                self.lengths = _norms(compared)
                self.terms[:, dimensions] = (1.0 - rounding) * self.lengths**2
            else:
                compared[:] = vectors
                self.lengths = norms
            self.terms[:, -1] = self.lengths
        self.magnitude = float(self.lengths.max(initial=0.0))


class _Chunk:
    """Some of the queries and their nearest rows so far."""

    def __init__(
        self, metric: Metric, queries: Singles, k: Ints, filter_of: Ints, centre: Singles | None
    ) -> None:
        self.metric = metric
        self.queries = queries.astype(np.float64)
        self.norms_of_queries = np.sqrt(np.einsum("ij,ij->i", self.queries, self.queries))
        self.k = k
        self.filter_of = filter_of
        self.centre = None if centre is None else centre.astype(np.float64)
        count, dimensions = queries.shape
        rounding = _rounding(dimensions)
        self.floor = 2.0 * (dimensions + 16) * float(np.finfo(np.float32).tiny)  # products may underflow
        compared = self.queries
        if metric == "cosine":
            # A query of zero length has no neighbours: `answerable` masks it below.
            compared = compared / np.where(self.norms_of_queries > 0, self.norms_of_queries, 1.0)[:, None]
        elif self.centre is not None:
            compared = compared - self.centre
        self.lengths = np.sqrt(np.einsum("ij,ij->i", compared, compared))
        self.answerable = (self.norms_of_queries > 0) | (metric != "cosine")
        factor = 2.0 if metric == "l2" else 1.0
        self.compared = compared
        self.terms = np.empty((count, dimensions + (2 if metric == "l2" else 1)), dtype=np.float32)
        with np.errstate(over="ignore"):
            self.terms[:, :dimensions] = -factor * compared
            if metric == "l2":
                self.terms[:, dimensions] = 1.0
            self.slack_per_length = rounding * factor * self.lengths
            self.terms[:, -1] = -self.slack_per_length
        self.magnitude = float(self.lengths.max(initial=0.0))
        shape = (count, int(k.max()))
        self.distances = np.full(shape, np.inf)
        self.norms = np.zeros(shape)
        self.tableoids = np.full(shape, -1, dtype=np.int64)
        self.ctids = np.full(shape, -1, dtype=np.int64)
        self.kth = np.full(count, np.inf)

    def add(self, rows: _Rows) -> None:
        """Update the nearest rows with `rows`."""
        largest = 2.0 * self.magnitude * rows.magnitude + rows.magnitude**2
        if largest < _SAFE_MAGNITUDE:
            candidates = self._candidates(rows)
            pairs = int(np.count_nonzero(candidates))
            dense = pairs > _DENSE_SHARE * candidates.size
        else:
            candidates = self._permitted(np.ones((len(self.k), rows.count), dtype=np.bool_), rows)
            pairs, dense = candidates.size, True
        if not pairs:
            return
        if dense:
            self._add_dense(rows, candidates)
        else:
            self._add_pairs(rows, candidates)

    def _permitted(self, mask: Bools, rows: _Rows) -> Bools:
        """Clear in `mask` (n, b), in place, rows that a filter excludes and queries without neighbours."""
        if not self.answerable.all():
            mask &= self.answerable[:, None]
        if rows.allowed is not None:
            filtered = np.flatnonzero(self.filter_of >= 0)
            if len(filtered) == len(mask):
                mask &= rows.allowed[self.filter_of]
            elif len(filtered):
                mask[filtered] &= rows.allowed[self.filter_of[filtered]]
        return mask

    def _candidates(self, rows: _Rows) -> Bools:
        """Return which rows may be among each query's nearest: bool (n, b); False is certain."""
        lower = self.terms @ rows.terms.T
        mask = self._permitted(lower <= self._limits()[:, None], rows)
        # While few rows are known, the upper bounds of the block itself exclude further rows.
        crowded = np.flatnonzero(np.count_nonzero(mask, axis=1) > 2 * self.k + 16)
        for part in _slices(len(crowded), _SORTED_QUERIES):
            some = crowded[part]
            upper = np.outer(2.0 * self.slack_per_length[some], rows.lengths).astype(np.float32)
            upper += lower[some]
            if self.metric == "l2":
                upper += (2.0 * rows.rounding * rows.lengths**2).astype(np.float32)
            upper[~mask[some]] = np.inf
            kth = _kth_smallest(upper, self.k[some])
            mask[some] &= lower[some] <= _round_up(kth + self.floor)[:, None]
        return mask

    def _limits(self) -> Singles:
        """Return the k-th distances so far as scores, rounded up to float32."""
        if self.metric == "cosine":
            scores = self.kth - 1.0
        elif self.metric == "l2":
            squares = self.kth**2
            scores = squares - self.lengths**2 + 1e-12 * (squares + self.lengths**2)
        else:
            scores = self.kth
        return _round_up(scores + 1e-12 * np.abs(scores) + self.floor)

    def _add_pairs(self, rows: _Rows, candidates: Bools) -> None:
        """Score a few candidates one by one in float64."""
        flat = np.flatnonzero(candidates)
        query, row = np.divmod(flat, candidates.shape[1])
        distances = self._distances(rows, query, row)
        near = distances < self.kth[query]
        query, row, distances = query[near], row[near], distances[near]
        order = np.lexsort((distances, query))
        query, row, distances = query[order], row[order], distances[order]
        changed, starts, counts = np.unique(query, return_index=True, return_counts=True)
        rank = np.arange(len(query)) - np.repeat(starts, counts)
        within_k = rank < self.k[query]
        width = int(rank[within_k].max(initial=-1)) + 1
        place = (np.repeat(np.arange(len(changed)), counts)[within_k], rank[within_k])
        nearest = np.full((len(changed), width), np.inf)
        nearest[place] = distances[within_k]
        index = np.zeros(nearest.shape, dtype=np.int64)
        index[place] = row[within_k]
        self._merge(rows, changed, nearest, index)

    def _add_dense(self, rows: _Rows, candidates: Bools) -> None:
        """Score many candidates by float64 matrix products."""
        vectors = rows.vectors.astype(np.float64)
        if self.centre is not None:
            vectors -= self.centre
        squares = np.einsum("ij,ij->i", vectors, vectors) if self.metric == "l2" else None
        for start in range(0, len(self.k), _DENSE_QUERIES):
            part = slice(start, start + _DENSE_QUERIES)
            scores = self.compared[part] @ vectors.T
            if squares is not None:
                scores *= -2.0
                scores += squares
                scores += self.lengths[part, None] ** 2
                np.maximum(scores, 0.0, out=scores)
            elif self.metric == "cosine":
                scores /= -rows.norms
            else:
                np.negative(scores, out=scores)
            scores[~candidates[part]] = np.inf
            width = min(int(self.k[part].max()), rows.count)
            index = np.argpartition(scores, width - 1, axis=1)[:, :width]
            nearest = np.take_along_axis(scores, index, axis=1)
            queries = np.arange(start, start + len(nearest))
            if squares is not None:
                terms = self.lengths[part, None] ** 2 + squares[index]
                cancelled = np.nonzero(np.isfinite(nearest) & (nearest < _CANCELLATION * terms))
                nearest = np.sqrt(nearest)
                nearest[cancelled] = self._distances(rows, queries[cancelled[0]], index[cancelled])
            elif self.metric == "cosine":
                nearest = np.maximum(1.0 + nearest, 0.0)
            nearest[nearest >= self.kth[part, None]] = np.inf
            changed = np.flatnonzero(np.isfinite(nearest).any(axis=1))
            self._merge(rows, queries[changed], nearest[changed], index[changed])

    def _distances(self, rows: _Rows, query: Ints, row: Ints) -> Floats:
        """Compute the distances of the pairs of indices `query` and `row`, int (p,): float64 (p,)."""
        distances = np.empty(len(query))
        for part in _slices(len(query), max(1, _PAIR_BYTES // (8 * rows.vectors.shape[1]))):
            left = self.queries[query[part]]
            right = rows.vectors[row[part]].astype(np.float64)
            if self.metric == "l2":
                right -= left
                distances[part] = np.sqrt(np.einsum("ij,ij->i", right, right))
                continue
            products = np.einsum("ij,ij->i", left, right)
            if self.metric == "cosine":
                products /= self.norms_of_queries[query[part]] * rows.norms[row[part]]
                distances[part] = np.clip(1.0 - products, 0.0, 2.0)
            else:
                distances[part] = -products
        return distances

    def _merge(self, rows: _Rows, changed: Ints, nearest: Floats, index: Ints) -> None:
        """Merge distances `nearest` (c, w) of rows `index` (c, w) into the answers of `changed` (c,)."""
        if not nearest.size:
            return
        width = self.distances.shape[1]
        distances = np.concatenate([self.distances[changed], nearest], axis=1)
        order = np.argsort(distances, axis=1, kind="stable")[:, :width]
        distances = np.take_along_axis(distances, order, axis=1)
        distances[np.arange(width) >= self.k[changed, None]] = np.inf
        self.distances[changed] = distances
        self.kth[changed] = distances[np.arange(len(changed)), self.k[changed] - 1]
        self.norms[changed] = _pick(self.norms[changed], rows.norms[index], order)
        self.tableoids[changed] = _pick(self.tableoids[changed], rows.tableoids[index], order)
        self.ctids[changed] = _pick(self.ctids[changed], rows.ctids[index], order)


def _rounding(dimensions: int) -> float:
    """Bound the relative error of a float32 score: its products and their rounded operands."""
    return 1.01 * (dimensions + 16) * _UNIT_ROUNDOFF


def _norms(vectors: Singles) -> Floats:
    """Compute Euclidean norms in float64: float32 (b, d) in, float64 (b,) out."""
    norms = np.empty(len(vectors))
    for part in _slices(len(vectors), 512):
        wide = vectors[part].astype(np.float64)
        norms[part] = np.einsum("ij,ij->i", wide, wide)
    return np.sqrt(norms, out=norms)


def _round_up(values: Floats) -> Singles:
    """Round to float32, never down."""
    with np.errstate(over="ignore"):
        return np.nextafter(values.astype(np.float32), np.float32(np.inf))


def _kth_smallest(values: Singles, k: Ints) -> Floats:
    """Return the k-th smallest of each row, reordering `values` (n, b) in place; k (n,) is at most b."""
    values.partition(np.unique(k) - 1, axis=1)
    return values[np.arange(len(values)), k - 1].astype(np.float64)


def _pick(old: npt.NDArray[Number], new: npt.NDArray[Number], order: Ints) -> npt.NDArray[Number]:
    """Join two arrays side by side and reorder every row."""
    return np.take_along_axis(np.concatenate([old, new], axis=1), order, axis=1)


def _slices(length: int, step: int) -> Iterator[slice]:
    """Cut a length into slices of at most `step`."""
    return (slice(start, min(start + step, length)) for start in range(0, length, step))
