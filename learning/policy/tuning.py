"""What a column's target recall should be: the price of each one that replays prove, and which is chosen."""

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

TARGETS: Final = (0.9, 0.95, 0.98, 0.99, 0.995)
MAX_SLOWDOWN: Final = 2.0
"""How many times the time of the current target a higher one may take."""


@dataclass(frozen=True)
class TargetPrice:
    """What it takes to reach a target with fixed settings.

    `settings` by class of k, the quickest proven on any index; `ms` a search by its replays, the mean over
    the classes as they are asked for. `proven`: for every class; `proofs`, how many were tried for it.
    """

    target: float
    settings: dict[int, Candidate]
    ms: float
    proven: bool
    proofs: int


def price_targets(
    replays: Sequence[tuple[TunedIndex, Replays]], tuned: TunedColumn, options: LearningOptions
) -> list[TargetPrice]:
    """Work out the price of the current target, the first, and of every higher one, in ascending order.

    `replays` by index, the main one first. Classes of k count that searches belong to and that enough
    replays looked at; without any the list is empty. Every proof is at the confidence of `options` by
    itself, as that of a publish will be, and includes the column's limit of the tail.
    """
    weights = _asked(replays, tuned)
    if not weights:
        return []
    higher = [target for target in TARGETS if target > tuned.target_recall]
    return [
        _price(replays, replace(tuned, target_recall=t), options, weights)
        for t in (tuned.target_recall, *higher)
    ]


def choose_target(offered: Sequence[TargetPrice], objective: Objective) -> tuple[TargetPrice, str]:
    """Choose a target, never below the first, which is the current one; say why.

    latency: the current one, at its quickest proven setting.
    recall: the highest that is proven and takes at most twice the time of the current one.
    balanced: the knee of the curve of proven targets over their time. From the current target upwards a step
    is worth it while it costs less time for the recall it adds than the whole way to the highest proven one
    does on average, and the time is at most twice that of the current one. Where higher costs nothing, it is
    taken; where there is only one higher, it has no knee and the current one stays.
    """
    current = offered[0]
    if not current.proven:
        return current, f"not even the current target {current.target:g} is proven, so it stays"
    if objective == "latency":
        return current, f"the current target {current.target:g} stays, at its quickest proven setting"
    proven = [price for price in offered if price.proven]
    within = [price for price in proven if price.ms <= MAX_SLOWDOWN * current.ms]
    if objective == "recall":
        best = within[-1]
        return best, f"{best.target:g} is the highest proven target within {MAX_SLOWDOWN:g} times the time"
    if len(proven) == 1:
        return current, f"{current.target:g} stays: no higher target is proven"
    gain = np.array([price.target for price in proven]) - current.target
    spent = np.array([price.ms for price in proven]) - current.ms
    if spent[-1] <= 0:
        best = proven[-1]
        return best, f"{best.target:g} is proven at no more time"
    # How far above the straight line from the first to the last point of the curve; the lower one of equals.
    above = gain / gain[-1] - spent / spent[-1]
    knee = proven[int(np.argmax(above > above.max() - 1e-9))]
    best = min(knee, within[-1], key=lambda price: price.target)
    why = (
        "is the knee"
        if best is knee
        else f"is the highest below the knee within {MAX_SLOWDOWN:g} times the time"
    )
    return best, f"{best.target:g} {why} of time against recall"


def joint_confidence(offered: Sequence[TargetPrice], confidence: float) -> float:
    """Return the confidence that all proofs that were tried hold together, by the union bound."""
    return max(0.0, 1.0 - sum(price.proofs for price in offered) * (1.0 - confidence))


def _asked(replays: Sequence[tuple[TunedIndex, Replays]], tuned: TunedColumn) -> dict[int, int]:
    """Return how many searches belong to each class of k that can be learned about."""
    if not replays:
        return {}
    seen = replays[0][1]
    counts = {k: int(np.count_nonzero(seen.search_classes == k)) for k in seen.k_classes}
    return {k: n for k, n in counts.items() if n and seen.count_replays(k) >= tuned.min_samples}


def _price(
    replays: Sequence[tuple[TunedIndex, Replays]],
    tuned: TunedColumn,
    options: LearningOptions,
    weights: dict[int, int],
) -> TargetPrice:
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
