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
from .promise import Demand, lower_bound, smallest_safe

FilteredPath = Literal["hnsw", "hnsw_continued", "ivfflat", "exact", "planner"]
_Kind = tuple[str, int]  # of filters: their shape and bucket

BUCKETS: Final = 40
# What has no rungs, as sql/functions/replay.sql tries it: plain SQL, and scans that go on until k rows match.
OTHERS: Final[tuple[tuple[FilteredPath, int | None], ...]] = (
    ("planner", None),
    ("hnsw_continued", 200),
    ("hnsw_continued", 800),
)
_BY_MATCHES: Final = (
    "exact",
    "planner",
)  # what they cost grows with the matching rows: no promise for filters that match more
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
    evidence: Sequence[tuple[TunedIndex, FilteredEvidence]], demand: Demand
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
        found += _choose(own, shape, demand)
    return tuple(found)


def _choose(evidence: list[tuple[TunedIndex, FilteredEvidence]], shape: str, demand: Demand) -> list[Choice]:
    """Choose for filters of one shape."""
    general: dict[int, list[Choice]] = {}
    partial: dict[tuple[int, tuple[int, ...]], list[tuple[TunedIndex, _Curves]]] = {}
    for index, seen in evidence:
        own = buckets(seen.fraction)
        for bucket in (int(b) for b in np.unique(own)):
            part = seen.take(own == bucket)
            if len(part) < _FEWEST:
                continue
            kind, curves = (shape, bucket), _Curves.through(index, part)
            if index.requires is None:
                ways = general.setdefault(bucket, [])
                if not ways:
                    ways += [_exact(part, kind), *_others(index, part, kind, demand)]
                ways.append(_by_rungs(index, curves, kind, demand))
            else:
                partial.setdefault((bucket, index.rungs), []).append((index, curves))
    found = [way for bucket in sorted(general) for way in _served(general[bucket])]
    densest = next((way for way in found if way.serves), None)
    if densest is not None and densest.access_path not in _BY_MATCHES:
        found += [replace(densest, bucket=denser, samples=0) for denser in range(densest.bucket)]
    for (bucket, _), group in partial.items():
        found += _partial(group, (shape, bucket), demand)
    return sorted(found, key=lambda way: (way.bucket, way.ms))


def _served(ways: list[Choice]) -> list[Choice]:
    """Mark the cheapest proven way."""
    best = min((way for way in ways if way.proven), key=lambda way: way.ms)
    return [replace(way, serves=way is best) for way in ways]


def _partial(group: list[tuple[TunedIndex, _Curves]], kind: _Kind, demand: Demand) -> list[Choice]:
    """Choose for the partial indexes that answer filters of one kind, each against exact search.

    Where one has too few replays for a proof of its own, the effort that is proven for all of them together
    serves, unless its own replays speak against it.
    """
    pooled = _by_rungs(group[0][0], _Curves.of([curves for _, curves in group]), kind, demand)
    ways = []
    for index, own in group:
        way = _by_rungs(index, own, kind, demand)
        if not way.proven and pooled.proven:
            at = int(np.flatnonzero(own.efforts == pooled.effort)[0])
            mean = float(own.recall[:, at].mean())
            if mean >= demand.target:
                way = replace(
                    way, effort=pooled.effort, recall=mean, bound=pooled.bound, proven=True,
                    ms=float(own.ms[:, at].mean()),
                )  # fmt: skip
        ways.append(replace(way, serves=way.proven and way.ms < own.exact_ms.mean()))
    return ways


def _exact(seen: FilteredEvidence, kind: _Kind) -> Choice:
    return Choice(*kind, "exact", None, None, 1.0, 1.0, True, float(seen.exact_ms.mean()), len(seen))


def _others(index: TunedIndex, seen: FilteredEvidence, kind: _Kind, demand: Demand) -> list[Choice]:
    """Measure the ways that have no rungs, as far as they were tried."""
    # The planner's way is tried first; a scan left out after it would have been slower than exact search,
    # and what it would have found nobody knows.
    tried = np.isfinite(seen.other_ms[:, 0])
    ways = []
    for place, (path, effort) in enumerate(OTHERS):
        if np.isfinite(seen.other_ms[:, place]).sum() >= _FEWEST:
            there = np.isfinite(seen.other_ms[tried, place])
            recall = np.where(there, seen.other_recall[tried, place], 0.0)
            ms = float(np.where(there, seen.other_ms[tried, place], seen.exact_ms[tried]).mean())
            bound = lower_bound(recall, demand.confidence, demand.seed)
            proven = bound >= demand.target
            ways.append(
                Choice(
                    *kind, path, index.number, effort, float(recall.mean()), bound, proven, ms,
                    int(tried.sum()),
                )
            )  # fmt: skip
    return ways


@dataclass(frozen=True)
class _Curves:
    """What each effort of an index that can serve would have given n filtered searches.

    `efforts` int64 (m,); `recall` and `ms` float64 (n, m); `exact_ms` float64 (n,), of the exact answer.
    """

    efforts: Ints
    recall: Floats
    ms: Floats
    exact_ms: Floats

    @classmethod
    def through(cls, index: TunedIndex, seen: FilteredEvidence) -> _Curves:
        """Read the replays through an index.

        A search that finds too few rows within its effort goes on exactly, and is charged for both; so is one
        whose scan was given up, and it is not credited with the exact answer.
        """
        rungs = np.array(index.rungs, dtype=np.int64)
        usable = rungs >= seen.k if index.method == "hnsw" else np.ones(len(rungs), dtype=np.bool_)
        recall = np.where(seen.short & seen.known, 1.0, seen.recall)[:, usable]
        ms = (seen.scan_ms + (seen.short | ~seen.known) * seen.exact_ms[:, None])[:, usable]
        return cls(rungs[usable], recall, ms, seen.exact_ms)

    @classmethod
    def of(cls, parts: Sequence[_Curves]) -> _Curves:
        """Put together what was seen of the same efforts."""
        recall, ms, exact_ms = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("recall", "ms", "exact_ms")
        )
        return cls(parts[0].efforts, recall, ms, exact_ms)


def _by_rungs(index: TunedIndex, seen: _Curves, kind: _Kind, demand: Demand) -> Choice:
    """Choose the cheapest proven effort of an index; the most thorough, unproven, if there is none.

    An effort counts as proven if the lower bound on mean recall reaches the target (fixed-sequence testing
    downwards from the highest effort that is cheaper than exact search).
    """
    ms = seen.ms.mean(axis=0)
    cheaper = np.flatnonzero(ms < seen.exact_ms.mean())
    highest = int(cheaper[-1]) + 1 if len(cheaper) else 0
    safe = None
    if highest:
        safe = smallest_safe(seen.recall[:, :highest], demand.target, demand.confidence, demand.seed)
    at = len(ms) - 1 if safe is None else safe + int(np.argmin(ms[safe:highest]))
    return Choice(
        *kind, index.method, index.number, int(seen.efforts[at]), float(seen.recall[:, at].mean()),
        lower_bound(seen.recall[:, at], demand.confidence, demand.seed), safe is not None, float(ms[at]),
        len(seen.recall), requires=index.requires, share=index.share,
    )  # fmt: skip
