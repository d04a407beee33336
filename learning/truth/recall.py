"""Recall of answers, judged by distance against the exact ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vectuned.config.errors import UsageError
from vectuned.learning.model.arrays import Bools, Floats, Ints

from .truth import Truth, broadcast_k


def recall_at_k(
    returned: npt.ArrayLike, truth: Truth, k: int | npt.ArrayLike, tolerance: npt.ArrayLike | None = None
) -> Floats:
    """Compute recall@k: the share of the k nearest rows that searches returned, judged by distance.

    `returned` (n, m) are the distances pgvector returned, padded with +inf, in any order; `k` one number or
    (n,), no more than the truth was computed for. A row counts if it is no farther than the true k-th, plus
    `tolerance` (one number or (n,); by default the truth's own). Any of several rows as far as the k-th will
    do for the places that nearer rows leave, but none of them stands in for a nearer row that was missed.
    Where fewer than k rows exist, returning all of them is recall 1, also where there are none.
    Returns float64 (n,).
    """
    distances = np.asarray(returned, dtype=np.float64)
    limits = _limits(truth, k, tolerance)
    within = np.count_nonzero(distances <= limits.within[:, None], axis=1)
    nearer = np.count_nonzero(distances <= limits.nearer[:, None], axis=1)
    return _share(within, nearer, limits)


def recall_curve(
    scanned: npt.ArrayLike,
    fetched: npt.ArrayLike,
    truth: Truth,
    k: int | npt.ArrayLike,
    tolerance: npt.ArrayLike | None = None,
) -> Floats:
    """Compute the recall of continued scans at every rung of effort, as `recall_at_k` does for each rung.

    `scanned` (n, m) are the distances in the order of the scan, padded with +inf; `fetched` int (r,) or
    (n, r), the number of rows fetched by each rung, where more than m means all. Returns float64 (n, r).
    """
    distances = np.asarray(scanned, dtype=np.float64)
    limits = _limits(truth, k, tolerance)
    rungs = np.clip(np.asarray(fetched, dtype=np.int64), 0, distances.shape[1])
    rungs = np.broadcast_to(rungs, (len(distances), rungs.shape[-1]))
    within, nearer = (
        _count_up_to(distances <= limit[:, None], rungs) for limit in (limits.within, limits.nearer)
    )
    return _share(within, nearer, limits)


def _count_up_to(hits: Bools, rungs: Ints) -> Ints:
    """Count the hits (n, m) among the first rows up to each rung (n, r): (n, r)."""
    counts = np.zeros((len(hits), hits.shape[1] + 1), dtype=np.int64)
    np.cumsum(hits, axis=1, out=counts[:, 1:])
    return np.take_along_axis(counts, rungs, axis=1)


@dataclass(frozen=True)
class _Limits:
    """Which returned rows count, for n queries.

    `within` and `nearer` float64 (n,), the largest distances of rows that count at all and of rows nearer
    than the k-th; `wanted` and `strict` int64 (n,), how many rows are to be found, and how many of them are
    nearer than the k-th.
    """

    within: Floats
    nearer: Floats
    wanted: Ints
    strict: Ints


def _limits(truth: Truth, k: int | npt.ArrayLike, tolerance: npt.ArrayLike | None) -> _Limits:
    """Return which rows count.

    True distances nearer than the k-th by more than twice the tolerance are strictly nearer. As a returned
    distance is off by at most the tolerance, all their rows are returned within the k-th less the tolerance.
    """
    ks = broadcast_k(k, len(truth.counts))
    if ks.max(initial=0) > truth.distances.shape[1]:
        raise UsageError(
            f"Recall at {ks.max()} was asked of a truth that holds {truth.distances.shape[1]} rows a query: "
            "compute the truth for the largest k wanted."
        )
    wanted = np.minimum(ks, truth.counts)
    if not truth.distances.shape[1]:
        return _Limits(np.zeros(len(wanted)), np.zeros(len(wanted)), wanted, wanted)
    kth = (np.arange(len(wanted)), np.maximum(wanted - 1, 0))
    allowance = truth.tolerances[kth] if tolerance is None else np.asarray(tolerance, dtype=np.float64)
    limit = np.where(wanted > 0, truth.distances[kth], -np.inf)
    strict = np.count_nonzero(truth.distances < (limit - 2.0 * allowance)[:, None], axis=1)
    return _Limits(limit + allowance, limit - allowance, wanted, strict)


def _share(within: Ints, nearer: Ints, limits: _Limits) -> Floats:
    """Divide the rows found, (n,) or (n, rungs), by the number wanted; if none are wanted the share is 1."""
    shape = (-1,) + (1,) * (within.ndim - 1)
    wanted, strict = limits.wanted.reshape(shape), limits.strict.reshape(shape)
    found = np.minimum(nearer, strict)
    hits = found + np.minimum(within - found, wanted - strict)
    return np.where(wanted > 0, hits / np.maximum(wanted, 1), 1.0)
