"""Recall of answers, judged by distance against the exact ones."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vectuned.config.errors import UsageError
from vectuned.learning.model.arrays import Floats, Ints

from .truth import Truth, broadcast_k


def recall_at_k(
    returned: npt.ArrayLike, truth: Truth, k: int | npt.ArrayLike, tolerance: npt.ArrayLike | None = None
) -> Floats:
    """Compute recall@k: the share of the k nearest rows that searches returned, judged by distance.

    `returned` (n, m) are the distances pgvector returned, padded with +inf, in any order; `k` one number or
    (n,), no more than the truth was computed for. A row counts if it is no farther than the true k-th, plus
    `tolerance` (one number or (n,); by default the truth's own), so that any of several equally distant rows
    will do. Where fewer than k rows exist, returning all of them is recall 1, also where there are none.
    Returns float64 (n,).
    """
    distances = np.asarray(returned, dtype=np.float64)
    limits, wanted = _limits(truth, k, tolerance)
    hits = np.count_nonzero(distances <= limits[:, None], axis=1)
    return _share(hits.astype(np.int64), wanted)


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
    limits, wanted = _limits(truth, k, tolerance)
    rungs = np.clip(np.asarray(fetched, dtype=np.int64), 0, distances.shape[1])
    rungs = np.broadcast_to(rungs, (len(distances), rungs.shape[-1]))
    hits = np.zeros((len(distances), distances.shape[1] + 1), dtype=np.int64)
    np.cumsum(distances <= limits[:, None], axis=1, out=hits[:, 1:])
    return _share(np.take_along_axis(hits, rungs, axis=1), wanted[:, None])


def _limits(truth: Truth, k: int | npt.ArrayLike, tolerance: npt.ArrayLike | None) -> tuple[Floats, Ints]:
    """Return the largest distance that counts, float64 (n,), and the number of rows to find, int (n,)."""
    ks = broadcast_k(k, len(truth.counts))
    if ks.max(initial=0) > truth.distances.shape[1]:
        raise UsageError(
            f"Recall at {ks.max()} was asked of a truth that holds {truth.distances.shape[1]} rows a query: "
            "compute the truth for the largest k wanted."
        )
    wanted = np.minimum(ks, truth.counts)
    if not truth.distances.shape[1]:
        return np.zeros(len(wanted)), wanted
    kth = (np.arange(len(wanted)), np.maximum(wanted - 1, 0))
    allowance = truth.tolerances[kth] if tolerance is None else np.asarray(tolerance, dtype=np.float64)
    return np.where(wanted > 0, truth.distances[kth] + allowance, -np.inf), wanted


def _share(hits: Ints, wanted: Ints) -> Floats:
    """Divide the hits by the number wanted, at most 1; if none are wanted the share is 1."""
    shares: Floats = np.minimum(hits, wanted) / np.maximum(wanted, 1)
    return np.where(wanted > 0, shares, 1.0)
