"""Means and quantiles of searches with confidence bounds."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np

from vectuned.learning.model.arrays import Floats
from vectuned.learning.statistics.bounds import lower_bound, upper_bound
from vectuned.learning.statistics.demand import TAIL_RECALL

CONFIDENCE: Final = 0.95  # of each bound by itself; the customary level
_RESAMPLES: Final = 1000  # bootstrap resamples: enough for a 2.5 % quantile of them to be stable
_CHUNK: Final = 100  # resamples drawn at once: limits the array to 100 x n floats

TIME_STATISTICS: Final[dict[str, Callable[[Floats], Floats]]] = {
    "mean_ms": lambda ms: ms.mean(axis=-1),
    "p50_ms": lambda ms: np.asarray(np.quantile(ms, 0.5, axis=-1)),
    "p99_ms": lambda ms: np.asarray(np.quantile(ms, 0.99, axis=-1)),
}
"""Statistics of milliseconds (..., n) along the last axis."""


def summarize_searches(millis: Floats, recall: Floats, seed: int) -> dict[str, Any]:
    """Return the recall and the times of n searches, float64 (n,) each, every figure with its 95 % bounds."""

    def bounded(values: Floats) -> dict[str, float]:
        return {
            "value": round(float(values.mean()), 4),
            "at_least": round(lower_bound(values, CONFIDENCE, seed), 4),
            "at_most": round(upper_bound(values, CONFIDENCE, seed), 4),
        }

    times = {
        name: bootstrap_interval(statistic, (millis,), seed) for name, statistic in TIME_STATISTICS.items()
    }
    tail = (recall < TAIL_RECALL).astype(np.float64)
    return {"queries": len(millis), "recall": bounded(recall), "below_08": bounded(tail), **times}


def time_ratios(millis: Floats, other: Floats, seed: int) -> dict[str, dict[str, float]]:
    """Return the times of n searches over the times of the same searches in another arm, with 95 % bounds.

    Both arms are resampled together, so that a query that is hard for both does not widen the interval.
    """

    def ratio(statistic: Callable[[Floats], Floats], own: Floats, others: Floats) -> Floats:
        return np.asarray(statistic(own) / statistic(others))

    return {
        name: bootstrap_interval(partial(ratio, statistic), (millis, other), seed)
        for name, statistic in TIME_STATISTICS.items()
    }


def bootstrap_interval(
    statistic: Callable[..., Floats], arrays: tuple[Floats, ...], seed: int
) -> dict[str, float]:
    """Return a statistic of arrays (n,) and its 95 % bounds.

    The bounds are percentiles of resamples of the n places (Efron & Tibshirani, 1993, chapter 13).
    `statistic` takes the arrays with further axes in front.
    """
    rng, count = np.random.default_rng(seed), len(arrays[0])

    def resample() -> Floats:
        rows = rng.integers(count, size=(_CHUNK, count))
        return statistic(*(array[rows] for array in arrays))

    resampled = np.concatenate([resample() for _ in range(_RESAMPLES // _CHUNK)])
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(resampled, [tail, 1.0 - tail])
    return {
        "value": round(float(statistic(*arrays)), 4),
        "at_least": round(float(low), 4),
        "at_most": round(float(high), 4),
    }
