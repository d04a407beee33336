"""Replays of filtered searches, and the access paths chosen from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
from tests.unit.samples_helpers import hnsw

from vectuned.learning.model.ladder import RUNGS
from vectuned.learning.model.tuned_columns import TunedIndex
from vectuned.learning.policy.filtering import FilteredReplaySample, MeasuredPath, choose_paths, other_paths
from vectuned.learning.statistics.demand import Demand

SHAPE = np.array(RUNGS, dtype=np.float64)
MAIN = hnsw(1)
OTHER_PATHS = other_paths("hnsw")
NONE = np.full(len(OTHER_PATHS), np.nan)


def filtered_replays(
    count: int,
    *,
    fraction: float = 0.3,
    k: int = 10,
    at: int = 56,
    exact_ms: float = 5.0,
    effort_ms: float = 0.01,
    rungs: Sequence[int] = RUNGS,
    shape: str = "kind =",
    seed: int = 0,
) -> FilteredReplaySample:
    """Build replays whose recall is 1 from the rung `at` on and 0.5 below.

    Effort takes `effort_ms` for each row or list.
    """
    rng = np.random.default_rng(seed)
    efforts = np.array(rungs, dtype=np.float64)
    recall = np.tile(np.where(at <= efforts, 1.0, 0.5), (count, 1))
    scan_ms = effort_ms * efforts * rng.uniform(0.9, 1.1, (count, 1))
    everything = np.ones(recall.shape, dtype=np.bool_)
    return FilteredReplaySample(
        k,
        np.full(count, fraction),
        recall,
        ~everything,
        everything,
        scan_ms,
        np.full(count, exact_ms),
        np.tile(NONE, (count, 1)),
        np.tile(NONE, (count, 1)),
        np.full(count, shape),
        np.ones(count, dtype=np.bool_),
    )


def order(count: int) -> Any:
    """Return the numbers of the replays in a random order: what is alike must not come in bursts."""
    return np.random.default_rng(99).permutation(count)


def joined(parts: Iterable[FilteredReplaySample]) -> FilteredReplaySample:
    """Concatenate several samples."""
    each = list(parts)
    names = [field.name for field in fields(FilteredReplaySample) if field.name not in ("k", "max_effort")]
    arrays: dict[str, Any] = {name: np.concatenate([getattr(e, name) for e in each]) for name in names}
    return replace(each[0], **arrays)


def others(
    given: FilteredReplaySample, place: int, tried: int, *, recall: float, ms: float
) -> FilteredReplaySample:
    """Let the first `tried` replays try a path without rungs."""
    other_recall, other_ms = given.other_recall.copy(), given.other_ms.copy()
    other_recall[:tried, place], other_ms[:tried, place] = recall, ms
    return replace(given, other_recall=other_recall, other_ms=other_ms)


def chosen(given: FilteredReplaySample, target: float) -> MeasuredPath:
    """Return the path that serves the only bucket of the replays, through one index."""
    return only(choose_paths([(MAIN, given)], Demand(target)))


def only(found: tuple[MeasuredPath, ...]) -> MeasuredPath:
    """Return the only path that serves and was measured itself."""
    (choice,) = (path for path in found if path.serves and path.samples)
    return choice


def only_path(
    found: tuple[MeasuredPath, ...], index: int | None, access_path: str, bucket: int = 3
) -> MeasuredPath:
    """Return the only measured path of a kind in a bucket."""
    (choice,) = (w for w in found if (w.index_no, w.access_path, w.bucket) == (index, access_path, bucket))
    return choice


def in_part(
    index: TunedIndex, fraction: float = 0.9, **how: float
) -> tuple[TunedIndex, FilteredReplaySample]:
    return index, filtered_replays(100, fraction=fraction, at=20, effort_ms=how.get("effort_ms", 0.002))
