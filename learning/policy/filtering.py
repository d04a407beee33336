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
from vectuned.learning.model.scan_settings import CONTINUED_EFFORTS, CONTINUED_PROBES
from vectuned.learning.model.tuned_columns import TunedIndex
from vectuned.learning.replay.client_ms import bound_delays
from vectuned.learning.statistics.bounds import lower_bound
from vectuned.learning.statistics.demand import (
    AMPLE_FACTOR,
    Demand,
    above_tail,
    find_smallest_proven,
    guess_effort,
)
from vectuned.learning.statistics.dependence import block_length, block_means

FilteredPath = Literal["hnsw", "hnsw_continued", "ivfflat", "ivfflat_continued", "exact", "planner"]
_FilterKind = tuple[str, int]  # the shape and selectivity bucket that filters share

BUCKET_COUNT: Final = 40  # half-octaves: the last one holds all filters that match less than 1 row in 2**19.5
# The paths that have no rungs, by the method of the main index, in the order in which a replay tries them:
# plain SQL, planned by the database, and scans that go on until k rows match.
_OTHER_PATHS: Final[dict[str, tuple[tuple[FilteredPath, int | None], ...]]] = {
    "hnsw": (("planner", None), *(("hnsw_continued", ef) for ef in CONTINUED_EFFORTS)),
    "ivfflat": (("planner", None), *(("ivfflat_continued", probes) for probes in CONTINUED_PROBES)),
}
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
    `other_paths`, NaN where not tried; `shape` (n,) the filter's columns and operators; `own` bool (n,),
    which searches belong to the class itself, None if all do. Efforts above `max_effort` are not considered,
    except the lowest; None: no cap.
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
    own: Bools | None = None
    max_effort: int | None = None

    def __len__(self) -> int:
        return len(self.fraction)

    @property
    def pooled(self) -> bool:
        """Say whether searches of other classes of k are among them."""
        return self.own is not None and not bool(self.own.all())

    def prefer_own(self) -> FilteredReplaySample:
        """Return only the replays of searches of the class itself, if they are enough to choose a path by."""
        if self.own is None or np.count_nonzero(self.own) < _MIN_REPLAYS:
            return self
        return self.take(self.own)

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
            None if self.own is None else self.own[rows],
            self.max_effort,
        )

    def usable_rungs(self, index: TunedIndex) -> list[int]:
        """Return the positions of the rungs that may serve: of HNSW an ef_search of at least k."""
        usable = [at for at, rung in enumerate(index.rungs) if rung >= self.k or index.method != "hnsw"]
        capped = [at for at in usable if self.max_effort is None or index.rungs[at] <= self.max_effort]
        return capped or usable[:1]


_Cells = dict[_FilterKind, FilteredReplaySample]


def other_paths(method: str) -> tuple[tuple[FilteredPath, int | None], ...]:
    """Return the paths without rungs, with their efforts, that replays through an index of a method try."""
    return _OTHER_PATHS[method]


@dataclass(frozen=True)
class MeasuredPath:
    """What one access path was measured to give for filters of a shape and bucket.

    `effort` is the ef_search or the probes, None for paths without; `recall` and its lower `bound` are 1 for
    the exact path; `requires` is the filter of a partial index and `share` its share of the rows. A path is
    `proven` by the filters' own replays; a `pooled` one was chosen by those of similar filters or other
    classes of k, which proves nothing about these. One path `serves` a bucket.
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
    pooled: bool = False


def selectivity_buckets(fraction: Floats) -> Ints:
    """Return the buckets, 0 to 39, of shares of matching rows: half-octaves down from 1."""
    with np.errstate(divide="ignore"):
        depth = np.floor(-2.0 * np.log2(np.clip(fraction, 0.0, 1.0)))
    bounded: Floats = np.clip(np.nan_to_num(depth, posinf=BUCKET_COUNT - 1), 0, BUCKET_COUNT - 1)
    return bounded.astype(np.int64)


def choose_paths(
    samples: Sequence[tuple[TunedIndex, FilteredReplaySample]], demand: Demand, *, has_main: bool = True
) -> tuple[MeasuredPath, ...]:
    """Measure every path for each shape and bucket of filters with 30 replays, and choose which one serves.

    That is the cheapest path proven to meet the demand by the replays of the shape and bucket or, if those
    are few, the cheapest that a pool they belong to would prove. As the cheapest of several paths serves,
    each has its part of the probability of error. A partial index serves its filters if it is cheaper than
    exact search for the same replays. Without an index over all rows (`has_main` is false), exact search
    serves all other filters. `samples` by index, the main one first.

    Filters that match more than any that were replayed are served like the densest replayed, if that path is
    a scan of an index, which then finds even more of their rows. For filters that nothing is known about, the
    database chooses the path itself.
    """
    cells = [(index, _split_by_kind(sample)) for index, sample in samples]
    paths: list[MeasuredPath] = []
    for shape in sorted({shape for _, by_kind in cells for shape, _ in by_kind}):
        paths += _choose_for_shape(cells, shape, demand, has_main)
    return tuple(paths)


def _split_by_kind(sample: FilteredReplaySample) -> _Cells:
    """Divide replays by shape and bucket.

    Statements that something else delayed count no more here than they do among the times of scans.
    """
    buckets = selectivity_buckets(sample.fraction)
    cells = {
        (shape, bucket): sample.take((sample.shape == shape) & (buckets == bucket)).prefer_own()
        for shape, bucket in sorted(set(zip(sample.shape.tolist(), buckets.tolist(), strict=True)))
    }
    return {
        kind: replace(cell, exact_ms=bound_delays(cell.exact_ms), other_ms=bound_delays(cell.other_ms))
        for kind, cell in cells.items()
    }


def _choose_for_shape(
    cells: list[tuple[TunedIndex, _Cells]], shape: str, demand: Demand, has_main: bool
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
            each = demand.divide(_count_rivals(cells, kind))
            if not paths:
                paths += [_exact_path(sample, kind), *_measure_other_paths(index, by_kind, kind, each)]
            paths.append(_measure_index(index, by_kind, kind, each))
    chosen = [path for bucket in sorted(general) for path in _mark_cheapest(general[bucket])]
    densest = next((path for path in chosen if path.serves), None)
    if densest is not None and densest.access_path not in _COST_BY_MATCHES:
        # Nothing was measured about these; the same effort costs them no more, since more rows match.
        guess = replace(densest, samples=0, proven=False, bound=0.0)
        chosen += [replace(guess, bucket=denser) for denser in range(densest.bucket)]
    for (bucket, _), group in partial.items():
        chosen += _measure_partial_indexes(group, (shape, bucket), demand, has_main)
    return sorted(chosen, key=lambda path: (path.bucket, path.ms))


def _count_rivals(cells: list[tuple[TunedIndex, _Cells]], kind: _FilterKind) -> int:
    """Count the paths that may serve filters of a kind: those that are cheaper than exact search."""
    rivals: list[_Outcomes] = []
    for index, by_kind in cells:
        sample = by_kind.get(kind)
        if index.requires is not None or sample is None or len(sample) < _MIN_REPLAYS:
            continue
        if not rivals:
            rivals += [each for each in _Outcomes.of_other_paths(index, sample) if len(each) >= _MIN_REPLAYS]
        rivals.append(_Outcomes.of_index(index, sample))
    return max(sum(each.cheaper_efforts() > 0 for each in rivals), 1)


def _mark_cheapest(paths: list[MeasuredPath]) -> list[MeasuredPath]:
    """Let the cheapest path serve that is proven, or would be by a pool."""
    best = min((path for path in paths if path.proven or path.pooled), key=lambda path: path.ms)
    return [replace(path, serves=path is best) for path in paths]


def _measure_partial_indexes(
    group: list[tuple[TunedIndex, _Outcomes]], kind: _FilterKind, demand: Demand, has_main: bool
) -> list[MeasuredPath]:
    """Measure the partial indexes for filters of one kind; each serves if it is cheaper than exact search.

    Without a main index, exact search is returned as a path as well.
    """
    pooled = _Outcomes.pool(outcomes for _, outcomes in group)
    paths = []
    for index, own in group:
        path = _choose_effort(index, index.method, kind, own, [pooled], demand)
        exact_ms = float(own.exact_ms.mean())
        path = replace(path, serves=(path.proven or path.pooled) and path.ms < exact_ms)
        paths.append(path)
        if not has_main:
            exact = MeasuredPath(*kind, "exact", None, None, 1.0, 1.0, True, exact_ms, len(own))
            served = replace(exact, serves=not path.serves, requires=index.requires, share=index.share)
            paths.append(served)
    return paths


def _exact_path(sample: FilteredReplaySample, kind: _FilterKind) -> MeasuredPath:
    """Return the exact path, whose recall needs no proof."""
    mean_ms = float(sample.exact_ms.mean())
    return MeasuredPath(*kind, "exact", None, None, 1.0, 1.0, True, mean_ms, len(sample))


def _measure_other_paths(
    index: TunedIndex, by_kind: _Cells, kind: _FilterKind, demand: Demand
) -> list[MeasuredPath]:
    """Measure the paths without rungs that were tried on enough replays, continued scans at every effort.

    A statement of an application is sent with one effort for filters of every selectivity, so each is told.
    """
    paths = []
    families = _Outcomes.of_other_paths(index, by_kind[kind])
    for place, own in enumerate(families):
        if len(own) < _MIN_REPLAYS:
            continue
        pools = [
            _Outcomes.pool(
                outcomes for sample in pool if len(outcomes := _Outcomes.of_other_paths(index, sample)[place])
            )
            for pool in _pools(by_kind, kind)
        ]
        name = other_paths(index.method)[place][0]
        usable, pooled = _usable_efforts(own, pools, demand)
        for at in range(len(own.efforts)):
            paths.append(_path_at(index, name, kind, own, at, demand, found=bool(usable[at]), pooled=pooled))
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
    exact answer; `pooled`, whether other searches than those of the filters and the class are among them.
    """

    efforts: tuple[int | None, ...]
    recall: Floats
    ms: Floats
    exact_ms: Floats
    pooled: bool = False

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
        return cls(tuple(index.rungs[at] for at in usable), recall, ms, sample.exact_ms, sample.pooled)

    @classmethod
    def of_other_paths(cls, index: TunedIndex, sample: FilteredReplaySample) -> tuple[_Outcomes, _Outcomes]:
        """Return the outcomes of the planner's choice, and of continued scans at each of their efforts.

        The planner's path is tried first on every such replay. An effort that was left out, because a scan
        with less was slower than exact search, is credited with what that scan found, as it would have found
        no less, and charged its time.
        """
        tried = np.isfinite(sample.other_ms[:, 0])
        recall, ms, exact_ms = sample.other_recall[tried], sample.other_ms[tried], sample.exact_ms[tried]
        planner = cls((None,), recall[:, :1], ms[:, :1], exact_ms, sample.pooled)
        efforts = [effort for _, effort in other_paths(index.method) if effort is not None]
        allowed = [
            at
            for at, effort in enumerate(efforts, 1)
            if sample.max_effort is None or effort <= sample.max_effort
        ]
        last = np.isfinite(ms[:, 1:]).sum(axis=1)
        scanned = last > 0
        recall, ms, last = recall[scanned], ms[scanned], last[scanned]
        at = np.minimum(np.array(allowed, dtype=np.int64)[None, :], last[:, None])
        continued = cls(
            tuple(efforts[at - 1] for at in allowed),
            np.take_along_axis(recall, at, axis=1),
            np.take_along_axis(ms, at, axis=1),
            exact_ms[scanned],
            sample.pooled,
        )
        return planner, continued

    @classmethod
    def pool(cls, parts: Iterable[_Outcomes]) -> _Outcomes:
        """Pool the outcomes of the same efforts."""
        pooled = list(parts)
        recall, ms, exact_ms = (
            np.concatenate([getattr(part, name) for part in pooled]) for name in ("recall", "ms", "exact_ms")
        )
        return cls(pooled[0].efforts, recall, ms, exact_ms, len(pooled) > 1 or pooled[0].pooled)

    def cheaper_efforts(self) -> int:
        """Count the efforts up to the highest that is cheaper than exact search."""
        cheaper = np.flatnonzero(self.ms.mean(axis=0) < self.exact_ms.mean())
        return int(cheaper[-1]) + 1 if len(cheaper) else 0

    def proven(self, demand: Demand) -> Bools:
        """Say which efforts are proven to meet a demand, up to the highest cheaper than exact search.

        Replays of bursts count in blocks. A pool proves nothing about its parts: its replays count singly.
        """
        highest = self.cheaper_efforts()
        block = 1 if self.pooled else block_length(self.recall.mean(axis=1), demand.seed)
        recall, above = (
            block_means(values[:, :highest], block) for values in (self.recall, above_tail(self.recall))
        )
        safe = find_smallest_proven(recall, above, demand)
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
    """Choose the cheapest proven effort of a path; if none is, what its own means ask for, unproven."""
    usable, pooled = _usable_efforts(own, pools, demand)
    if usable.any():
        at = int(np.argmin(np.where(usable, own.ms.mean(axis=0), np.inf)))
    else:
        at = guess_effort(own.recall, above_tail(own.recall), demand)
    return _path_at(index, path, kind, own, at, demand, found=bool(usable.any()), pooled=pooled)


def _usable_efforts(own: _Outcomes, pools: Iterable[_Outcomes], demand: Demand) -> tuple[Bools, bool]:
    """Return which efforts of a path may serve, and whether that is only by a pool.

    If the `own` replays of the filters are few, what a pool that they belong to proves serves, unless their
    own means contradict it. That pool is the first of `pools` with enough replays, otherwise the largest,
    whatever its outcomes. It is called pooled and not proven: the pool is another population.
    """
    enough = AMPLE_FACTOR * demand.min_replays
    pool = max(pools, key=lambda pool: min(len(pool), enough)) if len(own) < enough else own
    usable, pooled = own.proven(demand), own.pooled
    if len(pool) > len(own) and not usable.any():
        usable = pool.proven(demand) & demand.is_met_by(own.recall, above_tail(own.recall))
        pooled = True
    return usable, pooled


def _path_at(
    index: TunedIndex,
    path: FilteredPath,
    kind: _FilterKind,
    own: _Outcomes,
    at: int,
    demand: Demand,
    *,
    found: bool,
    pooled: bool,
) -> MeasuredPath:
    """Return what a path gives at the effort at a place, which was found to be usable or not."""
    bound = 0.0
    if found and not pooled:
        block = block_length(own.recall.mean(axis=1), demand.seed)
        bound = lower_bound(block_means(own.recall[:, at], block), demand.confidence, demand.seed)
    return MeasuredPath(
        *kind,
        path,
        index.number,
        own.efforts[at],
        float(own.recall[:, at].mean()),
        bound,
        found and not pooled,
        float(own.ms[:, at].mean()),
        len(own),
        requires=index.requires,
        share=index.share,
        pooled=found and pooled,
    )
