"""The choice of access path for filtered searches: an index with how much effort, or exact by the filter.

Filters are told apart by the share of rows that the published statistics let them match, in half-octaves; of
a partial index, by the share of the rows in it. What an index scan finds for a filter depends on that share
and on how filter and query belong together, which only replays can tell; what exact search costs grows with
the matching rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
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
_BY_MATCHES: Final = ("exact", "planner")  # what they cost grows with the matching rows
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

    @classmethod
    def of(cls, parts: Sequence[FilteredEvidence]) -> FilteredEvidence:
        """Put together what was seen through several indexes with the same rungs."""
        names = [field.name for field in fields(cls) if field.name != "k"]
        return cls(parts[0].k, *(np.concatenate([getattr(part, name) for part in parts]) for name in names))

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

    That is the cheapest that is proven to reach the target; a partial index serves its filters where it is
    cheaper than exact search was for the same. `evidence` by index, the main one first. Filters
    that match more than any that was seen are served like the densest seen, if that is a scan of an index: it
    finds more of their rows. Of others that nothing is known of, the database decides itself.
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
    general: dict[int, list[Choice]] = {}
    partial: dict[tuple[int, tuple[int, ...]], list[tuple[TunedIndex, FilteredEvidence]]] = {}
    for index, seen in evidence:
        own = buckets(seen.fraction)
        for bucket in (int(b) for b in np.unique(own)):
            part = seen.take(own == bucket)
            if len(part) < _FEWEST:
                continue
            if index.requires is None:
                ways = general.setdefault(bucket, [])
                if not ways:
                    ways.append(_exact(index, part, shape, bucket))
                    ways += _others(index, part, shape, bucket, target, confidence, seed)
                ways.append(_by_rungs(index, part, shape, bucket, target, confidence, seed))
            else:
                partial.setdefault((bucket, index.rungs), []).append((index, part))
    found: list[Choice] = []
    for bucket, ways in general.items():
        found += _served(ways)
        if bucket == min(general):
            densest = next(way for way in _served(ways) if way.serves)
            # What grows with the matching rows is no promise for filters that match more.
            denser_too = () if densest.access_path in ("exact", "planner") else range(bucket)
            found += [replace(densest, bucket=denser, samples=0) for denser in denser_too]
    for (bucket, _), group in partial.items():
        found += _partial(group, shape, bucket, target, confidence, seed)
    return sorted(found, key=lambda way: (way.bucket, way.ms))


def _partial(
    group: list[tuple[TunedIndex, FilteredEvidence]],
    shape: str,
    bucket: int,
    target: float,
    confidence: float,
    seed: int,
) -> list[Choice]:
    """Choose for the partial indexes that answer filters of one kind, each against exact search.

    Where one has too few replays for a proof of its own, the effort that is proven for all of them together
    serves, unless its own replays speak against it.
    """
    pooled = _by_rungs(
        group[0][0], FilteredEvidence.of([seen for _, seen in group]), shape, bucket, target, confidence, seed
    )
    ways = []
    for index, seen in group:
        way = _by_rungs(index, seen, shape, bucket, target, confidence, seed)
        if not way.proven and pooled.proven:
            rungs, recall, cost = _curves(index, seen)
            at = int(np.flatnonzero(rungs == pooled.effort)[0])
            mean = float(recall[:, at].mean())
            if mean >= target:
                way = replace(
                    way, effort=pooled.effort, recall=mean, bound=pooled.bound, proven=True,
                    ms=float(cost[:, at].mean()),
                )  # fmt: skip
        ways.append(replace(way, serves=way.proven and way.ms < seen.exact_ms.mean()))
    return ways


def _served(ways: list[Choice]) -> list[Choice]:
    """Mark the cheapest proven way."""
    best = min((way for way in ways if way.proven), key=lambda way: way.ms)
    return [replace(way, serves=way is best) for way in ways]


def _exact(index: TunedIndex, seen: FilteredEvidence, shape: str, bucket: int) -> Choice:
    return Choice(shape, bucket, "exact", None, None, 1.0, 1.0, True, float(seen.exact_ms.mean()), len(seen))


def _others(
    index: TunedIndex,
    seen: FilteredEvidence,
    shape: str,
    bucket: int,
    target: float,
    confidence: float,
    seed: int,
) -> list[Choice]:
    """Measure the ways that have no rungs, as far as they were tried."""
    ways = []
    for place, (path, effort) in enumerate(OTHERS):
        # The planner's way is tried first; a scan left out after it would have been slower than exact search,
        # and what it would have found nobody knows.
        tried = np.isfinite(seen.other_ms[:, 0])
        if np.isfinite(seen.other_ms[:, place]).sum() >= _FEWEST:
            there = np.isfinite(seen.other_ms[tried, place])
            recall = np.where(there, seen.other_recall[tried, place], 0.0)
            ms = float(np.where(there, seen.other_ms[tried, place], seen.exact_ms[tried]).mean())
            bound = lower_bound(recall, confidence, seed)
            ways.append(
                Choice(
                    shape, bucket, path, index.number, effort, float(recall.mean()), bound, bound >= target,
                    ms, int(tried.sum()),
                )
            )  # fmt: skip
    return ways


def _curves(index: TunedIndex, seen: FilteredEvidence) -> tuple[Ints, Floats, Floats]:
    """Return the efforts that can serve (m,), and recall and milliseconds at each, (n, m).

    A search that finds too few rows within its effort goes on exactly, and is charged for both; so is one
    whose scan was given up, and it is not credited with the exact answer.
    """
    rungs = np.array(index.rungs, dtype=np.int64)
    usable = rungs >= seen.k if index.method == "hnsw" else np.ones(len(rungs), dtype=np.bool_)
    recall = np.where(seen.short & seen.known, 1.0, seen.recall)[:, usable]
    cost = (seen.scan_ms + (seen.short | ~seen.known) * seen.exact_ms[:, None])[:, usable]
    return rungs[usable], recall, cost


def _by_rungs(
    index: TunedIndex,
    seen: FilteredEvidence,
    shape: str,
    bucket: int,
    target: float,
    confidence: float,
    seed: int,
) -> Choice:
    """Choose the cheapest proven effort of an index; the most thorough, unproven, if there is none.

    An effort counts as proven if the lower bound on mean recall reaches the target (fixed-sequence testing
    downwards from the highest effort that is cheaper than exact search).
    """
    rungs, recall, costs = _curves(index, seen)
    cost = costs.mean(axis=0)
    cheaper = np.flatnonzero(cost < seen.exact_ms.mean())
    highest = int(cheaper[-1]) + 1 if len(cheaper) else 0
    safe = smallest_safe(recall[:, :highest], target, confidence, seed) if highest else None
    at = len(rungs) - 1 if safe is None else safe + int(np.argmin(cost[safe:highest]))
    return Choice(
        shape, bucket, index.method, index.number, int(rungs[at]), float(recall[:, at].mean()),
        lower_bound(recall[:, at], confidence, seed), safe is not None, float(cost[at]), len(seen),
        requires=index.requires, share=index.share,
    )  # fmt: skip
