"""The choice of access path for filtered searches: an index with how much effort, or exact by the filter.

Filters are told apart by the share of rows that the published statistics let them match, in half-octaves; of
a partial index, by the share of the rows in it. What an index scan finds for a filter depends on that share
and on how filter and query belong together, which only replays can tell; what exact search costs grows with
the matching rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from .catalogue import TunedIndex
from .neighbors import Bools, Floats, Ints
from .promise import lower_bound, smallest_safe

FilteredPath = Literal["hnsw", "hnsw_continued", "ivfflat", "exact", "planner"]

BUCKETS: Final = 40
# What has no rungs, as sql/functions/replay.sql tries it: plain SQL, and scans that go on until k rows match.
OTHERS: Final[tuple[tuple[FilteredPath, int | None], ...]] = (
    ("planner", None),
    ("hnsw_continued", 200),
    ("hnsw_continued", 800),
)
_FEWEST: Final = 30


@dataclass(frozen=True)
class FilteredEvidence:
    """What filtered replays through one index say about one class of k.

    `fraction` float64 (n,), the share of its rows estimated to match; `recall` float64 (n, rungs) of the
    matching rows among those seen; `short` bool (n, rungs), fewer of them than asked for; `known` bool
    (n, rungs), False where the scan was given up before, and recall is what it had come to by then;
    `scan_ms` (n, rungs) and `exact_ms` (n,) milliseconds; `other_recall` and `other_ms` (n, others), NaN
    where not tried; `shape` (n,) the filter's columns and operators.
    """

    k: int
    fraction: Floats
    recall: Floats
    short: Bools
    known: Bools
    scan_ms: Floats
    exact_ms: Floats
    other_recall: Floats
    other_ms: Floats
    shape: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.fraction)

    def take(self, rows: Bools) -> FilteredEvidence:
        """Return the replays at `rows`."""
        return FilteredEvidence(
            self.k, self.fraction[rows], self.recall[rows], self.short[rows], self.known[rows],
            self.scan_ms[rows], self.exact_ms[rows], self.other_recall[rows], self.other_ms[rows],
            self.shape[rows],
        )  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """What one way to answer filters of a shape and bucket was measured to give.

    `effort` is the ef_search or the probes, None where there is none to choose; `recall` and its lower
    `bound` are 1 of the exact path; `requires` is the filter of a partial index and `share` its share of the
    rows. One `serves` a bucket.
    """

    shape: str
    bucket: int
    access_path: FilteredPath
    index_no: int | None
    effort: int | None
    recall: float
    bound: float
    proven: bool
    ms: float
    samples: int
    serves: bool = False
    requires: str | None = None
    share: float = 1.0


def buckets(fraction: Floats) -> Ints:
    """Return the bucket, 0 to 39, of shares of matching rows: half-octaves down from 1."""
    with np.errstate(divide="ignore"):
        depth = np.floor(-2.0 * np.log2(np.clip(fraction, 0.0, 1.0)))
    bounded: Floats = np.clip(np.nan_to_num(depth, posinf=BUCKETS - 1), 0, BUCKETS - 1)
    return bounded.astype(np.int64)


def choose_paths(
    evidence: Sequence[tuple[TunedIndex, FilteredEvidence]],
    target: float,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[Choice, ...]:
    """Measure every way to answer filters, for every shape and bucket with 30 replays, and say which serves.

    That is the cheapest that is proven to reach the target. `evidence` by index, the main one first. Filters
    that match more than any that was seen are served like the densest seen: the same scan finds more of their
    rows. Of others that nothing is known of, the database decides itself.
    """
    shapes = sorted({str(shape) for _, seen in evidence for shape in np.unique(seen.shape)})
    found: list[Choice] = []
    for shape in shapes:
        own = [(index, seen.take(seen.shape == shape)) for index, seen in evidence]
        found += _choose(own, shape, target, confidence, seed)
    return tuple(found)


def _choose(
    evidence: list[tuple[TunedIndex, FilteredEvidence]],
    shape: str,
    target: float,
    confidence: float,
    seed: int,
) -> list[Choice]:
    """Choose for filters of one shape."""
    found: list[Choice] = []
    general: dict[int, list[Choice]] = {}
    for index, seen in evidence:
        own = buckets(seen.fraction)
        for bucket in (int(b) for b in np.unique(own)):
            part = seen.take(own == bucket)
            if len(part) < _FEWEST:
                continue
            ways = [
                replace(way, shape=shape)
                for way in _ways(index, part, bucket, target, confidence, seed, first=bucket not in general)
            ]
            if index.requires is None:
                general.setdefault(bucket, []).extend(ways)
            else:
                found += _served(ways)
    for bucket, ways in general.items():
        found += _served(ways)
        if bucket == min(general):
            densest = next(way for way in _served(ways) if way.serves)
            found += [replace(densest, bucket=denser, samples=0) for denser in range(bucket)]
    return sorted(found, key=lambda way: (way.bucket, way.ms))


def _served(ways: list[Choice]) -> list[Choice]:
    """Mark the cheapest proven way; of a partial index none where exact search is the cheapest."""
    best = min((way for way in ways if way.proven), key=lambda way: way.ms, default=None)
    return [
        replace(way, serves=way is best and (way.requires is None or way.access_path != "exact"))
        for way in ways
        if way.requires is None or way.access_path != "exact"
    ]


def _ways(
    index: TunedIndex,
    seen: FilteredEvidence,
    bucket: int,
    target: float,
    confidence: float,
    seed: int,
    *,
    first: bool,
) -> list[Choice]:
    """Measure the ways through one index, and beside the first one those that need none."""
    exact = float(seen.exact_ms.mean())
    partial = index.requires is not None
    ways = []
    if first or partial:
        ways.append(
            Choice(
                "", bucket, "exact", None, None, 1.0, 1.0, True, exact, len(seen),
                requires=index.requires, share=index.share,
            )
        )  # fmt: skip
    ways.append(_by_rungs(index, seen, bucket, target, confidence, seed))
    if first:
        for place, (path, effort) in enumerate(OTHERS):
            tried = np.isfinite(seen.other_ms[:, place])
            if tried.sum() < _FEWEST:
                continue
            # What was left out where it would have been slow is not known by where it was quick.
            asked = np.isfinite(seen.other_ms[:, 0])
            recall = np.where(tried, seen.other_recall[:, place], 0.0)[asked]
            ms = np.where(tried, seen.other_ms[:, place], seen.exact_ms)[asked]
            bound = lower_bound(recall, confidence, seed)
            ways.append(
                Choice(
                    "", bucket, path, index.number, effort, float(recall.mean()), bound, bound >= target,
                    float(ms.mean()), len(recall),
                )
            )  # fmt: skip
    return ways


def _by_rungs(
    index: TunedIndex, seen: FilteredEvidence, bucket: int, target: float, confidence: float, seed: int
) -> Choice:
    """Choose the cheapest proven effort of an index; the most thorough, unproven, if there is none.

    A search that finds too few rows within its effort goes on exactly, and is charged for both; so is one
    whose scan was given up, and it is not credited with the exact answer. An effort counts as proven if the
    lower bound on mean recall reaches the target (fixed-sequence testing downwards from the highest effort
    that is cheaper than exact search).
    """
    rungs = np.array(index.rungs)
    usable = rungs >= seen.k if index.method == "hnsw" else np.ones(len(rungs), dtype=np.bool_)
    rungs = rungs[usable]
    recall = np.where(seen.short & seen.known, 1.0, seen.recall)[:, usable]
    cost = (seen.scan_ms + (seen.short | ~seen.known) * seen.exact_ms[:, None])[:, usable].mean(axis=0)
    cheaper = np.flatnonzero(cost < seen.exact_ms.mean())
    highest = int(cheaper[-1]) + 1 if len(cheaper) else 0
    safe = smallest_safe(recall[:, :highest], target, confidence, seed) if highest else None
    at = len(rungs) - 1 if safe is None else safe + int(np.argmin(cost[safe:highest]))
    return Choice(
        "", bucket, index.method, index.number, int(rungs[at]), float(recall[:, at].mean()),
        lower_bound(recall[:, at], confidence, seed), safe is not None, float(cost[at]), len(seen),
        requires=index.requires, share=index.share,
    )  # fmt: skip
