"""The choice of access path for filtered searches: HNSW with how much effort, or exact through the filter.

Filters are told apart by the share of rows that the published statistics let them match, in half-octaves.
What an index scan finds for a filter depends on that share and on how filter and query belong together, which
only replays can tell; what exact search costs grows with the matching rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from . import ladder
from .neighbors import Floats, Ints
from .promise import lower_bound, smallest_safe

BUCKETS: Final = 40
EXACT: Final = 0
_FEWEST: Final = 30


@dataclass(frozen=True)
class FilteredEvidence:
    """What filtered replays say about one class of k.

    `fraction` float64 (n,), the share of rows estimated to match; `recall` float64 (n, rungs) of the matching
    rows among the first of an index scan; `short` bool (n, rungs), fewer of them than asked for; `known`
    bool (n, rungs), False where the scan was given up before, and recall is what it had come to by then;
    `scan_ms` (n, rungs) and `exact_ms` (n,) milliseconds.
    """

    k: int
    fraction: Floats
    recall: Floats
    short: np.ndarray
    known: np.ndarray
    scan_ms: Floats
    exact_ms: Floats


@dataclass(frozen=True)
class Choice:
    """What a bucket of filters is served with and what that was measured to give.

    `ef_search` is EXACT (0) for the exact path; `recall` and its lower `bound` are 1 there.
    """

    bucket: int
    ef_search: int
    recall: float
    bound: float
    ms: float
    exact_ms: float
    samples: int


def buckets(fraction: Floats) -> Ints:
    """Return the bucket, 0 to 39, of shares of matching rows: half-octaves down from 1."""
    with np.errstate(divide="ignore"):
        depth = np.floor(-2.0 * np.log2(np.clip(fraction, 0.0, 1.0)))
    bounded: Floats = np.clip(np.nan_to_num(depth, posinf=BUCKETS - 1), 0, BUCKETS - 1)
    return bounded.astype(np.int64)


def choose_paths(
    evidence: FilteredEvidence, target: float, confidence: float = 0.95, seed: int = 0
) -> tuple[Choice, ...]:
    """Choose the cheapest proven path for every bucket with at least 30 replays, densest filters first.

    A search that finds too few rows within its effort goes on exactly, and is charged for both; so is one
    whose scan was given up, and it is not credited with the exact answer. An effort counts as proven if the
    lower bound on mean recall reaches the target (fixed-sequence testing downwards from the highest effort
    that is cheaper than exact search); exact search needs no proof.
    """
    own = buckets(evidence.fraction)
    choices = []
    for bucket in np.unique(own):
        rows = own == bucket
        if rows.sum() < _FEWEST:
            continue
        choices.append(_choose(evidence, rows, int(bucket), target, confidence, seed))
    return tuple(choices)


def _choose(
    evidence: FilteredEvidence, rows: np.ndarray, bucket: int, target: float, confidence: float, seed: int
) -> Choice:
    short, known, exact_ms = evidence.short[rows], evidence.known[rows], evidence.exact_ms[rows]
    usable = np.array(ladder.RUNGS) >= evidence.k
    recall = np.where(short & known, 1.0, evidence.recall[rows])[:, usable]
    cost = (evidence.scan_ms[rows] + (short | ~known) * exact_ms[:, None])[:, usable].mean(axis=0)
    exact = float(exact_ms.mean())
    cheaper = np.flatnonzero(cost < exact)
    highest = int(cheaper[-1]) + 1 if len(cheaper) else 0
    safe = smallest_safe(recall[:, :highest], target, confidence, seed) if highest else None
    if safe is not None:
        at = safe + int(np.argmin(cost[safe:highest]))
        ef = int(np.array(ladder.RUNGS)[usable][at])
        bound = lower_bound(recall[:, at], confidence, seed)
        mean = float(recall[:, at].mean())
        return Choice(bucket, ef, mean, bound, float(cost[at]), exact, int(rows.sum()))
    return Choice(bucket, EXACT, 1.0, 1.0, exact, exact, int(rows.sum()))


def efforts(choices: Sequence[Choice]) -> list[int]:
    """Spread choices over all 40 buckets: ef_search, 0 for exact.

    Filters that match more than any that was seen are served like the densest seen: the same scan finds
    more of their rows. Filters that match less, and those in between that nothing is known of, exactly.
    """
    spread = [EXACT] * BUCKETS
    for choice in choices:
        spread[choice.bucket] = choice.ef_search
    if choices:
        densest = min(choices, key=lambda choice: choice.bucket)
        spread[: densest.bucket] = [densest.ef_search] * densest.bucket
    return spread
