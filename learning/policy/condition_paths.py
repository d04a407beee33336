"""What settings give statements with a condition, by the replays of their calls.

Applications send a statement with one group of settings whatever its values, so a group is proven for the
calls of a statement on the whole. Settings cannot force every path: the planner is free within them. With
enough effort it finds an index scan too costly for a condition that matches few rows, and ranks these rows
instead. So each replayed call counts as the planner answers it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from vectuned.learning.model.arrays import Bools, Floats, Ints
from vectuned.learning.model.scan_settings import (
    EXACT,
    Settings,
    continued_hnsw_settings,
    continued_ivfflat_settings,
    hnsw_settings,
    ivfflat_settings,
)
from vectuned.learning.replay.client_ms import bound_delays
from vectuned.learning.statistics.bounds import lower_bound
from vectuned.learning.statistics.demand import Demand, above_tail, find_smallest_proven
from vectuned.learning.statistics.dependence import block_length, block_means

from .filtering import other_paths
from .path_option import PathOption

_MIN_CALLS: Final = 30  # replayed calls of a statement, or of a share, before their mean says something


@dataclass(frozen=True)
class ConditionCalls:
    """Replayed calls of a statement with a condition, in order of time.

    `bucket` int64 (n,) of the share of rows that match; `exact_ms` float64 (n,), milliseconds of exact
    search; `paths`, what can be set beside it, in ascending effort; `recall` and `ms` float64 (n, m) of each.
    """

    k_class: int
    bucket: Ints
    exact_ms: Floats
    paths: tuple[tuple[str, int | None], ...]
    recall: Floats
    ms: Floats

    def __len__(self) -> int:
        return len(self.bucket)


def read_calls(rows: Sequence[Any], method: str, max_effort: int | None = None) -> ConditionCalls:
    """Return the calls that tried the paths beside exact search, from rows of replays in order of time.

    A path that was left out, since a scan with less effort was slower than exact search, counts as that scan.
    Where the planner takes no vector index it ranks what matches, as exact search does. Efforts above
    `max_effort` are left out.
    """
    tried = [row for row in rows if row.other_ms is not None and len(row.other_ms) > 1]
    paths = other_paths(method)
    recall, ms = np.empty((len(tried), len(paths))), np.empty((len(tried), len(paths)))
    exact_ms = np.array([row.exact_ms for row in tried], dtype=np.float64)
    for i, row in enumerate(tried):
        last = len(row.other_ms) - 1
        place = np.minimum(np.arange(len(paths)), last)
        takes_index = np.array(row.takes_index or [True] * (last + 1), dtype=np.bool_)[place]
        recall[i] = np.where(takes_index, np.array(row.other_recall, dtype=np.float64)[place], 1.0)
        ms[i] = np.where(takes_index, np.array(row.other_ms, dtype=np.float64)[place], exact_ms[i])
    bucket = np.array([row.bucket for row in tried], dtype=np.int64)
    for each in set(bucket.tolist()):
        # Within a bucket calls are alike, so that one which takes much longer was delayed by something else.
        like = bucket == each
        ms[like], exact_ms[like] = bound_delays(ms[like]), bound_delays(exact_ms[like])
    allowed = [at for at, (_, effort) in enumerate(paths) if not max_effort or (effort or 0) <= max_effort]
    return ConditionCalls(
        int(tried[0].k_class) if tried else 0,
        bucket,
        exact_ms,
        tuple(paths[at] for at in allowed),
        recall[:, allowed],
        ms[:, allowed],
    )


def condition_options(calls: ConditionCalls, column: Any) -> list[PathOption]:
    """Return what each path gives the calls of a statement; none with fewer than 30 calls.

    Exact search needs no proof. Of the others those are proven that are above a proven one.
    """
    if len(calls) < _MIN_CALLS:
        return []
    demand = _demand(column)
    first, samples = _prove(calls.recall, demand)
    options = [PathOption("exact", EXACT, 1.0, 1.0, float(calls.exact_ms.mean()), proven=True)]
    for at, (name, effort) in enumerate(calls.paths):
        proven = first is not None and at >= first
        bound = lower_bound(samples[:, at], demand.confidence, demand.seed)
        options.append(
            PathOption(
                name,
                path_settings(name, effort, calls.k_class, column),
                float(calls.recall[:, at].mean()),
                bound,
                float(calls.ms[:, at].mean()),
                proven,
                effort,
            )
        )
    return options


def options_by_share(calls: ConditionCalls, column: Any) -> dict[int, PathOption]:
    """Return the path for each bucket with replayed calls, which together are proven for the statement.

    Each bucket takes exact search or a scan, whichever is quicker there. Proven is the least effort of these
    scans, from the highest effort downwards. More effort, or exact search, takes its place in buckets whose
    own calls contradict it; that only raises recall. Empty if no effort is proven.
    """
    if len(calls) < _MIN_CALLS:
        return {}
    buckets, place = np.unique(calls.bucket, return_inverse=True)
    exact_ms, ms = _means(calls.exact_ms[:, None], place)[:, 0], _means(calls.ms, place)
    ms = np.minimum.accumulate(ms[:, ::-1], axis=1)[:, ::-1]  # less effort takes no longer, but for noise
    exact = exact_ms[:, None] <= ms
    demand = _demand(column)
    first, _ = _prove(np.where(exact[place], 1.0, calls.recall), demand)
    if first is None:
        return {}
    chosen: dict[int, PathOption] = {}
    for at, bucket in enumerate(buckets.tolist()):
        own = calls.recall[place == at]
        usable = np.arange(len(calls.paths)) >= first
        if len(own) >= _MIN_CALLS:
            usable &= demand.is_met_by(own, above_tail(own))
        best = int(np.argmin(np.where(usable, ms[at], np.inf)))
        if exact[at, first] or not usable.any() or exact_ms[at] <= ms[at, best]:
            chosen[bucket] = PathOption("exact", EXACT, 1.0, 1.0, float(exact_ms[at]), proven=True)
            continue
        name, effort = calls.paths[best]
        settings = path_settings(name, effort, calls.k_class, column)
        mean = float(own[:, best].mean())
        chosen[bucket] = PathOption(
            name, settings, mean, 0.0, float(ms[at, best]), proven=True, effort=effort
        )
    return chosen


def path_settings(path: str, effort: int | None, k_class: int, column: Any) -> Settings:
    """Return the settings by which a statement with a condition takes a path, as replays measure it."""
    if path == "exact":
        return EXACT
    if path == "hnsw_continued":
        return continued_hnsw_settings(effort or 0, k_class)
    if path == "ivfflat_continued":
        return continued_ivfflat_settings(effort or 1)
    if column.method == "ivfflat":
        return ivfflat_settings(column.default_probes)
    return hnsw_settings(column.default_ef, k_class)


def _demand(column: Any) -> Demand:
    """Return the demand on the settings for all values, and on those by share: both may serve."""
    return Demand(column.target_recall, max_tail=column.max_tail).divide(2)


def _prove(recall: Floats, demand: Demand) -> tuple[int | None, Floats]:
    """Return the first proven path of recall (n, m), None if none is, and the independent draws."""
    block = block_length(recall.mean(axis=1), demand.seed)
    samples = block_means(recall, block)
    return find_smallest_proven(samples, block_means(above_tail(recall), block), demand), samples


def _means(values: Floats, place: Ints) -> Floats:
    """Return the means of values (n, m) by place int64 (n,): (places, m)."""
    member: Bools = place[None, :] == np.arange(place.max() + 1)[:, None]
    means: Floats = member @ values / member.sum(axis=1, keepdims=True)
    return means
