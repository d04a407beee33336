"""What settings give statements that are replayed as text, with the same proofs as other statements."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from vectuned.learning.model.arrays import Floats
from vectuned.learning.statistics.bounds import lower_bound
from vectuned.learning.statistics.demand import Demand, above_tail, find_smallest_proven
from vectuned.learning.statistics.dependence import block_length, block_means

from .path_option import PathOption

_MIN_REPLAYS: Final = 30  # of a statement, before anything is said about it
_Outcomes = Sequence[Mapping[str, Any]]


def text_options(calls: Sequence[_Outcomes], demand: Demand) -> list[PathOption]:
    """Return what each path gives a statement, by the outcomes of its replayed calls.

    Of a family of paths, which differ in effort alone, those are proven that are above a proven one. As the
    cheapest of several families serves, each has its part of the probability of error. Exact search needs no
    proof, but one replay.
    """
    if not calls:
        return []
    families = _families(calls)
    rivals = max(sum(name != "exact" for name in families), 1)
    options = []
    for name, (settings, recall, ms) in families.items():
        if name == "exact":
            options.append(PathOption(name, settings[0], 1.0, 1.0, float(ms[:, 0].mean()), proven=True))
            continue
        each = demand.divide(rivals)
        block = block_length(recall.mean(axis=1), each.seed)
        samples = block_means(recall, block), block_means(above_tail(recall), block)
        smallest = find_smallest_proven(*samples, each) if len(recall) >= _MIN_REPLAYS else None
        for at, group in enumerate(settings):
            bound = lower_bound(samples[0][:, at], each.confidence, each.seed)
            proven = smallest is not None and at >= smallest
            mean = float(recall[:, at].mean())
            options.append(PathOption(name, group, mean, bound, float(ms[:, at].mean()), proven))
    return options


def _families(calls: Sequence[_Outcomes]) -> dict[str, tuple[list[dict[str, str]], Floats, Floats]]:
    """Return the settings of each family in ascending effort, recall and milliseconds (n, m).

    Only calls that were replayed with the same groups of settings as the newest count.
    """
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for outcome in calls[0]:
        groups[outcome["path"]].append(outcome["settings"])
    keys = [_key(outcome) for outcome in calls[0]]
    alike = [call for call in calls if [_key(outcome) for outcome in call] == keys]
    recall, ms = (
        np.array([[outcome[figure] for outcome in call] for call in alike], dtype=np.float64)
        for figure in ("recall", "ms")
    )
    names = np.array([outcome["path"] for outcome in calls[0]])
    return {
        name: (settings, recall[:, names == name], ms[:, names == name]) for name, settings in groups.items()
    }


def _key(outcome: Mapping[str, Any]) -> str:
    return json.dumps([outcome["path"], outcome["settings"]], sort_keys=True)
