"""The choice of a column's target recall, by the price of each target that replays prove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex

from .calibration import Candidate
from .learner import LearningOptions, build_demand, find_fixed_settings
from .replays import Replays

Objective = Literal["recall", "latency", "balanced"]

TARGETS: Final = (0.9, 0.95, 0.98, 0.99, 0.995)  # that are offered, if above the current one
MAX_SLOWDOWN: Final = 2.0  # times the time of the current target that a higher one may take
# Gains over time, both as shares of the highest target's, that differ by less than this are equal.
_EQUAL_GAIN: Final = 1e-9


@dataclass(frozen=True)
class TargetPrice:
    """What it takes to reach a target with fixed settings.

    `settings` by class of k, the quickest proven on any index; `ms` of a search by its replays, the mean over
    the classes weighted by their searches; `proven`, whether every class is; `proofs`, how many were tried.
    """

    target: float
    settings: dict[int, Candidate]
    ms: float
    proven: bool
    proofs: int


def price_targets(
    replays: Sequence[tuple[TunedIndex, Replays]], tuned: TunedColumn, options: LearningOptions
) -> list[TargetPrice]:
    """Work out the price of the current target and of every higher one, in ascending order.

    `replays` by index, the main one first. Only classes of k with searches and with enough replays count;
    without any the list is empty. Every proof by itself has the confidence of `options`, as that of a publish
    will have, and includes the column's limit of the tail.
    """
    weights = _count_searches(replays, tuned)
    if not weights:
        return []
    higher = [target for target in TARGETS if target > tuned.target_recall]
    return [
        _price_target(replays, replace(tuned, target_recall=t), options, weights)
        for t in (tuned.target_recall, *higher)
    ]


def choose_target(offered: Sequence[TargetPrice], objective: Objective) -> tuple[TargetPrice, str]:
    """Choose a target and say why; it is never below the first, which is the current one.

    latency: the current target, at its quickest proven setting.
    recall: the highest proven target that takes at most twice the time of the current one.
    balanced: the knee of the curve of proven targets over their time, if it takes at most twice the time of
    the current target. Up to the knee a step costs less time for the recall it adds than the average of all
    steps. If the highest proven target costs no time, it is chosen; with only one higher target there is no
    knee, and the current one stays.
    """
    current = offered[0]
    if not current.proven:
        return current, f"not even the current target {current.target:g} is proven, so it stays"
    if objective == "latency":
        return current, f"the current target {current.target:g} stays, at its quickest proven setting"
    proven = [price for price in offered if price.proven]
    affordable = [price for price in proven if price.ms <= MAX_SLOWDOWN * current.ms]
    if objective == "recall":
        best = affordable[-1]
        return best, f"{best.target:g} is the highest proven target within {MAX_SLOWDOWN:g} times the time"
    if len(proven) == 1:
        return current, f"{current.target:g} stays: no higher target is proven"
    gain = np.array([price.target for price in proven]) - current.target
    extra_ms = np.array([price.ms for price in proven]) - current.ms
    if extra_ms[-1] <= 0:
        best = proven[-1]
        return best, f"{best.target:g} is proven at no more time"
    # The knee is the point farthest above the line from the first to the last point, the lowest of equal
    # ones.
    above = gain / gain[-1] - extra_ms / extra_ms[-1]
    knee = proven[int(np.argmax(above > above.max() - _EQUAL_GAIN))]
    best = min(knee, affordable[-1], key=lambda price: price.target)
    why = (
        "is the knee"
        if best is knee
        else f"is the highest below the knee within {MAX_SLOWDOWN:g} times the time"
    )
    return best, f"{best.target:g} {why} of time against recall"


def joint_confidence(offered: Sequence[TargetPrice], confidence: float) -> float:
    """Return the confidence that all the proofs tried hold at once, by the union bound."""
    return max(0.0, 1.0 - sum(price.proofs for price in offered) * (1.0 - confidence))


def _count_searches(replays: Sequence[tuple[TunedIndex, Replays]], tuned: TunedColumn) -> dict[int, int]:
    """Return the number of searches of each class of k that has enough replays through the main index."""
    if not replays:
        return {}
    main = replays[0][1]
    counts = {k: main.count_searches(k) for k in main.k_classes}
    return {k: n for k, n in counts.items() if n and main.count_replays(k) >= tuned.min_samples}


def _price_target(
    replays: Sequence[tuple[TunedIndex, Replays]],
    tuned: TunedColumn,
    options: LearningOptions,
    weights: dict[int, int],
) -> TargetPrice:
    """Find the quickest proven setting of each class of k for the target of `tuned`."""
    demand = build_demand(tuned, options)
    settings, proofs = {}, 0
    for k in weights:
        tried = find_fixed_settings(replays, k, tuned, demand)
        proven = [candidate for candidate in tried if candidate.policy.certified]
        settings[k] = min(proven, key=lambda candidate: candidate.ms) if proven else tried[0]
        proofs += len(tried)
    ms = np.average([settings[k].ms for k in weights], weights=list(weights.values()))
    proven_all = all(candidate.policy.certified for candidate in settings.values())
    return TargetPrice(tuned.target_recall, settings, float(ms), proven_all, proofs)
