"""The choice of access path for filtered searches: an index with some effort, or exact through the filter.

Filters are distinguished by their shape, the columns and operators, and by their selectivity bucket: the
estimated share of matching rows (in a partial index, of the rows in it), in half-octaves. What an index scan
finds for a filter depends on that share and on the correlation of filter and query, which only replays can
tell. The cost of exact search grows with the matching rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from vectuned.learning.model.arrays import Bools, Floats, Ints
from vectuned.learning.model.tuned_columns import TunedIndex
from vectuned.learning.replay.client_ms import bound_delays
from vectuned.learning.statistics.bounds import lower_bound
from vectuned.learning.statistics.demand import AMPLE_FACTOR, Demand, above_tail, find_smallest_proven

from .limits import guess_effort

FilteredPath = Literal["hnsw", "hnsw_continued", "ivfflat", "exact", "planner"]
_FilterKind = tuple[str, int]  # the shape and selectivity bucket that filters share

BUCKET_COUNT: Final = 40  # half-octaves: the last one holds all filters that match less than 1 row in 2**19.5
# The paths that have no rungs, in the order in which a replay in the database tries them: plain SQL, planned
# by the database, and scans that go on until k rows match.
OTHER_PATHS: Final[tuple[tuple[FilteredPath, int | None], ...]] = (
    ("planner", None),
    ("hnsw_continued", 200),
    ("hnsw_continued", 800),
)
# Paths whose cost grows with the matching rows, so that it says nothing about filters that match more.
_COST_BY_MATCHES: Final = ("exact", "planner")
_MIN_REPLAYS: Final = 30  # of a shape and bucket, before a path is chosen for it


@dataclass(frozen=True)
class FilteredReplaySample:
    """Hold n filtered replays through one index that say something about one class of k.

    `fraction` float64 (n,), the share of the index's rows estimated to match; `recall` float64 (n, rungs) of
    the matching rows among the first of the scan; `short` bool (n, rungs), whether those are fewer than k;
    `known` bool (n, rungs), False where the scan was given up before, and `recall` is what it had reached by
    then; `scan_ms` (n, rungs) and `exact_ms` (n,) milliseconds; `other_recall` and `other_ms` (n, others) of
    OTHER_PATHS, NaN where not tried; `shape` (n,) the filter's columns and operators. Efforts above
    `max_effort` are not considered, except the lowest; None: no cap.
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
    max_effort: int | None = None

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
            self.max_effort,
        )

    def usable_rungs(self, index: TunedIndex) -> list[int]:
        """Return the positions of the rungs that may serve: of HNSW an ef_search of at least k."""
        usable = [at for at, rung in enumerate(index.rungs) if rung >= self.k or index.method != "hnsw"]
        capped = [at for at in usable if self.max_effort is None or index.rungs[at] <= self.max_effort]
        return capped or usable[:1]


_Cells = dict[_FilterKind, FilteredReplaySample]


@dataclass(frozen=True)
class MeasuredPath:
    """What one access path was measured to give for filters of a shape and bucket.

    `effort` is the ef_search or the probes, None for paths without; `recall` and its lower `bound` are 1 for
    the exact path; `requires` is the filter of a partial index and `share` its share of the rows. One path
    `serves` a bucket.
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
    """Return the buckets, 0 to 39, of shares of matching rows: half-octaves down from 1."""
    with np.errstate(divide="ignore"):
        depth = np.floor(-2.0 * np.log2(np.clip(fraction, 0.0, 1.0)))
    bounded: Floats = np.clip(np.nan_to_num(depth, posinf=BUCKET_COUNT - 1), 0, BUCKET_COUNT - 1)
    return bounded.astype(np.int64)


def choose_paths(
    samples: Sequence[tuple[TunedIndex, FilteredReplaySample]], demand: Demand
) -> tuple[MeasuredPath, ...]:
    """Measure every path for each shape and bucket of filters with 30 replays, and choose which one serves.

    That is the cheapest path proven to meet the demand, by the replays of the shape and bucket or, if those
    are few, by a pool that they belong to. A partial index serves its filters if it is cheaper than exact
    search for the same replays. `samples` by index, the main one first.

    Filters that match more than any that were replayed are served like the densest replayed, if that path is
    a scan of an index, which then finds even more of their rows. For filters that nothing is known about, the
    database chooses the path itself.
    """
    cells = [(index, _split_by_kind(sample)) for index, sample in samples]
    paths: list[MeasuredPath] = []
    for shape in sorted({shape for _, by_kind in cells for shape, _ in by_kind}):
        paths += _choose_for_shape(cells, shape, demand)
    return tuple(paths)


def _split_by_kind(sample: FilteredReplaySample) -> _Cells:
    """Divide replays by shape and bucket.

    Statements that something else delayed count no more here than they do among the times of scans.
    """
    buckets = selectivity_buckets(sample.fraction)
    cells = {
        (shape, bucket): sample.take((sample.shape == shape) & (buckets == bucket))
        for shape, bucket in sorted(set(zip(sample.shape.tolist(), buckets.tolist(), strict=True)))
    }
    return {
        kind: replace(cell, exact_ms=bound_delays(cell.exact_ms), other_ms=bound_delays(cell.other_ms))
        for kind, cell in cells.items()
    }


def _choose_for_shape(
    cells: list[tuple[TunedIndex, _Cells]], shape: str, demand: Demand
) -> list[MeasuredPath]:
    """Measure and choose paths for filters of one shape."""
    general: dict[int, list[MeasuredPath]] = {}
    partial: dict[tuple[int, tuple[int, ...]], list[tuple[TunedIndex, _Outcomes]]] = {}
    for index, by_kind in cells:
        for kind, sample in by_kind.items():
            bucket = kind[1]
            if kind[0] != shape or len(sample) < _MIN_REPLAYS:
                continue
            if index.requires is not None:
                outcomes = _Outcomes.of_index(index, sample)
                partial.setdefault((bucket, index.rungs), []).append((index, outcomes))
                continue
            paths = general.setdefault(bucket, [])
            if not paths:
                paths += [_exact_path(sample, kind), *_measure_other_paths(index, by_kind, kind, demand)]
            paths.append(_measure_index(index, by_kind, kind, demand))
    chosen = [path for bucket in sorted(general) for path in _mark_cheapest(general[bucket])]
    densest = next((path for path in chosen if path.serves), None)
    if densest is not None and densest.access_path not in _COST_BY_MATCHES:
        # Nothing was measured about these; the same effort costs them no more, since more rows match.
        guess = replace(densest, samples=0, proven=False, bound=0.0)
        chosen += [replace(guess, bucket=denser) for denser in range(densest.bucket)]
    for (bucket, _), group in partial.items():
        chosen += _measure_partial_indexes(group, (shape, bucket), demand)
    return sorted(chosen, key=lambda path: (path.bucket, path.ms))


def _mark_cheapest(paths: list[MeasuredPath]) -> list[MeasuredPath]:
    """Let the cheapest proven path serve."""
    best = min((path for path in paths if path.proven), key=lambda path: path.ms)
    return [replace(path, serves=path is best) for path in paths]


def _measure_partial_indexes(
    group: list[tuple[TunedIndex, _Outcomes]], kind: _FilterKind, demand: Demand
) -> list[MeasuredPath]:
    """Measure the partial indexes for filters of one kind; each serves if it is cheaper than exact search."""
    pooled = _Outcomes.pool(outcomes for _, outcomes in group)
    paths = []
    for index, own in group:
        path = _choose_effort(index, index.method, kind, own, [pooled], demand)
        paths.append(replace(path, serves=path.proven and path.ms < own.exact_ms.mean()))
    return paths


def _exact_path(sample: FilteredReplaySample, kind: _FilterKind) -> MeasuredPath:
    """Return the exact path, whose recall needs no proof."""
    mean_ms = float(sample.exact_ms.mean())
    return MeasuredPath(*kind, "exact", None, None, 1.0, 1.0, True, mean_ms, len(sample))


def _measure_other_paths(
    index: TunedIndex, by_kind: _Cells, kind: _FilterKind, demand: Demand
) -> list[MeasuredPath]:
    """Measure the paths without rungs that were tried on enough replays."""
    paths = []
    cap = by_kind[kind].max_effort
    for number, (path, effort) in enumerate(OTHER_PATHS):
        if cap is not None and effort is not None and effort > cap:
            continue
        if np.isfinite(by_kind[kind].other_ms[:, number]).sum() >= _MIN_REPLAYS:
            own = _Outcomes.of_other_path(by_kind[kind], number)
            pools = (
                _Outcomes.pool(
                    _Outcomes.of_other_path(sample, number)
                    for sample in pool
                    if np.isfinite(sample.other_ms[:, number]).any()
                )
                for pool in _pools(by_kind, kind)
            )
            paths.append(_choose_effort(index, path, kind, own, pools, demand))
    return paths


def _measure_index(index: TunedIndex, by_kind: _Cells, kind: _FilterKind, demand: Demand) -> MeasuredPath:
    """Measure the cheapest proven effort of an index; a guess that does not serve, if none is proven."""
    own = _Outcomes.of_index(index, by_kind[kind])
    pools = (
        _Outcomes.pool(_Outcomes.of_index(index, sample) for sample in pool) for pool in _pools(by_kind, kind)
    )
    return _choose_effort(index, index.method, kind, own, pools, demand)


def _pools(by_kind: _Cells, kind: _FilterKind) -> Iterator[list[FilteredReplaySample]]:
    """Yield the pools for filters of a kind: with the neighbouring buckets, and with other shapes."""
    shape, bucket = kind
    yield [sample for (s, b), sample in by_kind.items() if s == shape and abs(b - bucket) <= 1]
    yield [sample for (_, b), sample in by_kind.items() if b == bucket]


@dataclass(frozen=True)
class _Outcomes:
    """What each effort that can serve would have given n filtered searches.

    `efforts` (m,), None for a path without; `recall` and `ms` float64 (n, m); `exact_ms` float64 (n,), of the
    exact answer.
    """

    efforts: tuple[int | None, ...]
    recall: Floats
    ms: Floats
    exact_ms: Floats

    def __len__(self) -> int:
        return len(self.recall)

    @classmethod
    def of_index(cls, index: TunedIndex, sample: FilteredReplaySample) -> _Outcomes:
        """Return the outcomes of scans of an index.

        A search that finds too few rows within its effort continues with exact search and is charged for
        both. A search whose scan was given up is charged for both too, but not credited with the exact
        answer.
        """
        usable = sample.usable_rungs(index)
        recall = np.where(sample.short & sample.known, 1.0, sample.recall)[:, usable]
        ms = (sample.scan_ms + (sample.short | ~sample.known) * sample.exact_ms[:, None])[:, usable]
        return cls(tuple(index.rungs[at] for at in usable), recall, ms, sample.exact_ms)

    @classmethod
    def of_other_path(cls, sample: FilteredReplaySample, number: int) -> _Outcomes:
        """Return the outcomes of a path without rungs, the `number`-th of OTHER_PATHS.

        The planner's path is tried first on every such replay. A path left out after it would have been
        slower than exact search: it is charged the time of exact search, and its recall, which is unknown,
        counts as 0.
        """
        tried = np.isfinite(sample.other_ms[:, 0])
        measured, exact_ms = np.isfinite(sample.other_ms[tried, number]), sample.exact_ms[tried]
        recall = np.where(measured, sample.other_recall[tried, number], 0.0)
        ms = np.where(measured, sample.other_ms[tried, number], exact_ms)
        return cls((OTHER_PATHS[number][1],), recall[:, None], ms[:, None], exact_ms)

    @classmethod
    def pool(cls, parts: Iterable[_Outcomes]) -> _Outcomes:
        """Pool the outcomes of the same efforts."""
        pooled = list(parts)
        recall, ms, exact_ms = (
            np.concatenate([getattr(part, name) for part in pooled]) for name in ("recall", "ms", "exact_ms")
        )
        return cls(pooled[0].efforts, recall, ms, exact_ms)

    def proven(self, demand: Demand) -> Bools:
        """Say which efforts are proven to meet a demand, up to the highest cheaper than exact search."""
        cheaper = np.flatnonzero(self.ms.mean(axis=0) < self.exact_ms.mean())
        highest = int(cheaper[-1]) + 1 if len(cheaper) else 0
        recall = self.recall[:, :highest]
        safe = find_smallest_proven(recall, above_tail(recall), demand)
        at = np.arange(len(self.efforts))
        proven: Bools = (at >= (highest if safe is None else safe)) & (at < highest)
        return proven


def _choose_effort(
    index: TunedIndex,
    path: FilteredPath,
    kind: _FilterKind,
    own: _Outcomes,
    pools: Iterable[_Outcomes],
    demand: Demand,
) -> MeasuredPath:
    """Choose the cheapest proven effort of a path; what its own means ask for, unproven, if none is proven.

    If the `own` replays of the filters are few, what is proven for a pool that they belong to serves, unless
    their own means contradict it. That pool is the first of `pools` with enough replays, otherwise the
    largest, whatever its outcomes. Only one pool is tested, besides the replays alone; each of the two tests
    may err half as often.
    """
    enough = AMPLE_FACTOR * demand.min_replays
    pool = max(pools, key=lambda pool: min(len(pool), enough)) if len(own) < enough else own
    pooled = len(pool) > len(own)
    each_test = replace(demand, confidence=(1.0 + demand.confidence) / 2.0) if pooled else demand
    ms = own.ms.mean(axis=0)
    tested, usable = own, own.proven(each_test)
    if pooled and not usable.any():
        tested = pool
        usable = pool.proven(each_test) & demand.is_met_by(own.recall, above_tail(own.recall))
    proven = bool(usable.any())
    if proven:
        at = int(np.argmin(np.where(usable, ms, np.inf)))
        bound = lower_bound(tested.recall[:, at], demand.confidence, demand.seed)
    else:
        at, bound = guess_effort(own.recall, above_tail(own.recall), demand), 0.0
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
