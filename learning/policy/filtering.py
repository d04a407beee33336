"""The choice of access path for filtered searches: an index with how much effort, or exact by the filter.

Filters are told apart by the share of rows that the published statistics let them match, in half-octaves; of
a partial index, by the share of the rows in it. What an index scan finds for a filter depends on that share
and on how filter and query belong together, which only replays can tell; what exact search costs grows with
the matching rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from vectuned.learning.model.arrays import Bools, Floats, Ints
from vectuned.learning.model.tuned_columns import TunedIndex
from vectuned.learning.statistics.bounds import lower_bound
from vectuned.learning.statistics.demand import AMPLE_FACTOR, Demand, above_tail, find_smallest_proven

FilteredPath = Literal["hnsw", "hnsw_continued", "ivfflat", "exact", "planner"]
_Kind = tuple[str, int]  # of filters: their shape and bucket

BUCKET_COUNT: Final = 40
# What has no rungs, as sql/functions/replay.sql tries it: plain SQL, and scans that go on until k rows match.
OTHER_PATHS: Final[tuple[tuple[FilteredPath, int | None], ...]] = (
    ("planner", None),
    ("hnsw_continued", 200),
    ("hnsw_continued", 800),
)
# What they cost grows with the matching rows: that is no promise for filters that match more.
_BY_MATCHES: Final = ("exact", "planner")
_FEWEST: Final = 30


@dataclass(frozen=True)
class FilteredReplaySample:
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

    def take(self, rows: Bools) -> FilteredReplaySample:
        """Return the replays at `rows`."""
        return FilteredReplaySample(
            self.k,
            self.fraction[rows],
            self.recall[rows],
            self.short[rows],
            self.known[rows],
            self.scan_ms[rows],
            self.exact_ms[rows],
            self.other_recall[rows],
            self.other_ms[rows],
            self.shape[rows],
        )


_Cells = dict[_Kind, FilteredReplaySample]


@dataclass(frozen=True)
class MeasuredPath:
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


def selectivity_buckets(fraction: Floats) -> Ints:
    """Return the bucket, 0 to 39, of shares of matching rows: half-octaves down from 1."""
    with np.errstate(divide="ignore"):
        depth = np.floor(-2.0 * np.log2(np.clip(fraction, 0.0, 1.0)))
    bounded: Floats = np.clip(np.nan_to_num(depth, posinf=BUCKET_COUNT - 1), 0, BUCKET_COUNT - 1)
    return bounded.astype(np.int64)


def choose_paths(
    samples: Sequence[tuple[TunedIndex, FilteredReplaySample]], demand: Demand
) -> tuple[MeasuredPath, ...]:
    """Measure every way to answer filters, for every shape and bucket with 30 replays, and say which serves.

    That is the cheapest that is proven to meet the demand, by the replays of its shape and bucket or, where
    they are few, by a pool that they are part of. A partial index serves its filters where it is cheaper than
    exact search was for the same. `samples` by index, the main one first. Filters that match more than any
    that was seen are served like the densest seen, if that is a scan of an index: it finds more of their
    rows. Of others that nothing is known of, the database decides itself.
    """
    cells = [(index, _cells(seen)) for index, seen in samples]
    found: list[MeasuredPath] = []
    for shape in sorted({shape for _, own in cells for shape, _ in own}):
        found += _choose(cells, shape, demand)
    return tuple(found)


def _cells(seen: FilteredReplaySample) -> _Cells:
    """Tell replays apart by shape and bucket."""
    own = selectivity_buckets(seen.fraction)
    return {
        (shape, bucket): seen.take((seen.shape == shape) & (own == bucket))
        for shape, bucket in sorted(set(zip(seen.shape.tolist(), own.tolist(), strict=True)))
    }


def _choose(cells: list[tuple[TunedIndex, _Cells]], shape: str, demand: Demand) -> list[MeasuredPath]:
    """Choose for filters of one shape."""
    general: dict[int, list[MeasuredPath]] = {}
    partial: dict[tuple[int, tuple[int, ...]], list[tuple[TunedIndex, _Curves]]] = {}
    for index, every in cells:
        for kind, seen in every.items():
            if kind[0] != shape or len(seen) < _FEWEST:
                continue
            if index.requires is not None:
                curves = _Curves.through(index, seen)
                partial.setdefault((kind[1], index.rungs), []).append((index, curves))
                continue
            ways = general.setdefault(kind[1], [])
            if not ways:
                ways += [_exact(seen, kind), *_others(index, every, kind, demand)]
            ways.append(_by_rungs(index, every, kind, demand))
    found = [way for bucket in sorted(general) for way in _served(general[bucket])]
    densest = next((way for way in found if way.serves), None)
    if densest is not None and densest.access_path not in _BY_MATCHES:
        found += [replace(densest, bucket=denser, samples=0) for denser in range(densest.bucket)]
    for (bucket, _), group in partial.items():
        found += _partial(group, (shape, bucket), demand)
    return sorted(found, key=lambda way: (way.bucket, way.ms))


def _served(ways: list[MeasuredPath]) -> list[MeasuredPath]:
    """Mark the cheapest proven way."""
    best = min((way for way in ways if way.proven), key=lambda way: way.ms)
    return [replace(way, serves=way is best) for way in ways]


def _partial(group: list[tuple[TunedIndex, _Curves]], kind: _Kind, demand: Demand) -> list[MeasuredPath]:
    """Choose for the partial indexes that answer filters of one kind, each against exact search."""
    pooled = _Curves.of(curves for _, curves in group)
    ways = []
    for index, own in group:
        way = _choose_between(index, index.method, kind, own, [pooled], demand)
        ways.append(replace(way, serves=way.proven and way.ms < own.exact_ms.mean()))
    return ways


def _exact(seen: FilteredReplaySample, kind: _Kind) -> MeasuredPath:
    return MeasuredPath(*kind, "exact", None, None, 1.0, 1.0, True, float(seen.exact_ms.mean()), len(seen))


def _others(index: TunedIndex, every: _Cells, kind: _Kind, demand: Demand) -> list[MeasuredPath]:
    """Measure the ways that have no rungs, as far as they were tried."""
    ways = []
    for place, (path, _) in enumerate(OTHER_PATHS):
        if np.isfinite(every[kind].other_ms[:, place]).sum() >= _FEWEST:
            own = _Curves.tried(every[kind], place)
            pools = (
                _Curves.of(
                    _Curves.tried(seen, place) for seen in pool if np.isfinite(seen.other_ms[:, place]).any()
                )
                for pool in _pools(every, kind)
            )
            ways.append(_choose_between(index, path, kind, own, pools, demand))
    return ways


def _by_rungs(index: TunedIndex, every: _Cells, kind: _Kind, demand: Demand) -> MeasuredPath:
    """Measure the cheapest proven effort of an index; the most thorough, unproven, if there is none."""
    own = _Curves.through(index, every[kind])
    pools = (_Curves.of(_Curves.through(index, seen) for seen in pool) for pool in _pools(every, kind))
    return _choose_between(index, index.method, kind, own, pools, demand)


def _pools(every: _Cells, kind: _Kind) -> Iterator[list[FilteredReplaySample]]:
    """Yield what filters of a kind are pooled with: those of the neighbouring buckets, or of other shapes."""
    shape, bucket = kind
    yield [seen for (s, b), seen in every.items() if s == shape and abs(b - bucket) <= 1]
    yield [seen for (_, b), seen in every.items() if b == bucket]


@dataclass(frozen=True)
class _Curves:
    """What each effort that can serve would have given n filtered searches.

    `efforts` (m,), None where there is none to choose; `recall` and `ms` float64 (n, m); `exact_ms` float64
    (n,), of the exact answer.
    """

    efforts: tuple[int | None, ...]
    recall: Floats
    ms: Floats
    exact_ms: Floats

    def __len__(self) -> int:
        return len(self.recall)

    @classmethod
    def through(cls, index: TunedIndex, seen: FilteredReplaySample) -> _Curves:
        """Read the replays through an index.

        A search that finds too few rows within its effort goes on exactly, and is charged for both; so is one
        whose scan was given up, and it is not credited with the exact answer.
        """
        usable = [at for at, rung in enumerate(index.rungs) if rung >= seen.k or index.method != "hnsw"]
        recall = np.where(seen.short & seen.known, 1.0, seen.recall)[:, usable]
        ms = (seen.scan_ms + (seen.short | ~seen.known) * seen.exact_ms[:, None])[:, usable]
        return cls(tuple(index.rungs[at] for at in usable), recall, ms, seen.exact_ms)

    @classmethod
    def tried(cls, seen: FilteredReplaySample, place: int) -> _Curves:
        """Read the replays by a way that has no rungs.

        The planner's way is tried first; a scan left out after it would have been slower than exact search,
        and what it would have found nobody knows.
        """
        tried = np.isfinite(seen.other_ms[:, 0])
        there, exact_ms = np.isfinite(seen.other_ms[tried, place]), seen.exact_ms[tried]
        recall = np.where(there, seen.other_recall[tried, place], 0.0)
        ms = np.where(there, seen.other_ms[tried, place], exact_ms)
        return cls((OTHER_PATHS[place][1],), recall[:, None], ms[:, None], exact_ms)

    @classmethod
    def of(cls, parts: Iterable[_Curves]) -> _Curves:
        """Put together what was seen of the same efforts."""
        each = list(parts)
        recall, ms, exact_ms = (
            np.concatenate([getattr(part, name) for part in each]) for name in ("recall", "ms", "exact_ms")
        )
        return cls(each[0].efforts, recall, ms, exact_ms)

    def proven(self, demand: Demand) -> Bools:
        """Say which efforts are proven to meet a demand, down from the highest cheaper than exact search."""
        cheaper = np.flatnonzero(self.ms.mean(axis=0) < self.exact_ms.mean())
        highest = int(cheaper[-1]) + 1 if len(cheaper) else 0
        recall = self.recall[:, :highest]
        safe = find_smallest_proven(recall, above_tail(recall), demand)
        at = np.arange(len(self.efforts))
        proven: Bools = (at >= (highest if safe is None else safe)) & (at < highest)
        return proven


def _choose_between(
    index: TunedIndex,
    path: FilteredPath,
    kind: _Kind,
    own: _Curves,
    pools: Iterable[_Curves],
    demand: Demand,
) -> MeasuredPath:
    """Choose the cheapest proven effort of a way; the most thorough, unproven, if there is none.

    Where its own replays are few, what is proven for a pool that they are part of serves, unless their own
    means speak against it. That is the first of `pools` with enough replays, or the largest, whatever it
    holds: only one is tested, and it and the replays alone may err half as often each.
    """
    enough = AMPLE_FACTOR * demand.min_replays
    pool = max(pools, key=lambda pool: min(len(pool), enough)) if len(own) < enough else own
    pooled = len(pool) > len(own)
    each = replace(demand, confidence=(1.0 + demand.confidence) / 2.0) if pooled else demand
    ms = own.ms.mean(axis=0)
    tested, usable = own, own.proven(each)
    if pooled and not usable.any():
        tested, usable = pool, pool.proven(each) & demand.is_met_by(own.recall, above_tail(own.recall))
    proven = bool(usable.any())
    at = int(np.argmin(np.where(usable, ms, np.inf))) if proven else len(ms) - 1
    bound = lower_bound((tested if proven else own).recall[:, at], demand.confidence, demand.seed)
    return MeasuredPath(
        *kind,
        path,
        index.number,
        own.efforts[at],
        float(own.recall[:, at].mean()),
        bound,
        proven,
        float(ms[at]),
        len(own),
        requires=index.requires,
        share=index.share,
    )
