"""Learn a ranking from confirmed answers, and prove it on questions that it was not learned from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from vectuned.learning.model.arrays import Floats

from .network import Network, Samples, fit_network

MIN_QUESTIONS: Final = 30  # questions of a kind: from fewer, no gain can be proven
_Z: Final = 1.645  # standard errors: a one-sided confidence of 95 %
_FOLDS: Final = 3  # of cross-validation: more gain little, and each costs one more fit of the network
_TOP: Final = 10  # the rank beyond which an answer counts as not found
_ROLE_MARGIN: Final = 0.02  # mean reciprocal rank: a smaller loss of a role's questions may be chance


@dataclass(frozen=True)
class Learned:
    """A network, the kinds of question for which it is proven, and the proof.

    For each kind, and for each role if there are several, `evidence` has the number of questions, the mean
    reciprocal ranks of the prior (`before`) and of the network (`after`), and a lower bound of the gain.
    """

    network: Network
    for_named: bool
    for_described: bool
    evidence: dict[str, Any]


def learn_ranking(samples: Samples, seed: int = 0) -> Learned:
    """Learn a ranking of at least one question and prove it by cross-validation.

    Each question is ranked by a network that was learned without it. The network is proven for a kind of
    question if its gain there is positive with 95 % confidence and no role with at least MIN_QUESTIONS
    questions of that kind loses more than _ROLE_MARGIN.
    """
    samples = replace(samples, weights=samples.weights * balance_roles(samples.roles, samples.weights))
    fold = np.random.default_rng(seed).permutation(len(samples)) % _FOLDS
    before, after = reciprocal_ranks(samples, samples.likelihood), np.zeros(len(samples))
    for number in range(_FOLDS):
        held = fold == number
        if held.any():
            network = fit_network(samples.take(~held), seed)
            rest = samples.take(held)
            after[held] = reciprocal_ranks(rest, network.score(rest))
    is_named = samples.names_answer >= 0.5  # the same threshold as in the statement find_candidates
    evidence: dict[str, Any] = {}
    proven = {}
    for kind, chosen in (("named", is_named), ("described", ~is_named)):
        evidence[kind] = _compare(before[chosen], after[chosen], samples.weights[chosen])
        by_role = {
            str(role): _compare(before[rows], after[rows], samples.weights[rows])
            for role in np.unique(samples.roles)
            if (rows := chosen & (samples.roles == role)).sum() >= MIN_QUESTIONS
        }
        if len(by_role) > 1:
            evidence[kind]["roles"] = by_role
        proven[kind] = (
            evidence[kind]["questions"] >= MIN_QUESTIONS
            and evidence[kind]["gain_at_least"] > 0
            and all(each["after"] >= each["before"] - _ROLE_MARGIN for each in by_role.values())
        )
    return Learned(fit_network(samples, seed), proven["named"], proven["described"], evidence)


def reciprocal_ranks(samples: Samples, scores: Floats) -> Floats:
    """Return 1 / rank of the best answer of each question (n,), 0 if it is not among the first ten."""
    best = np.full(len(samples), -np.inf)
    np.maximum.at(best, samples.question[samples.is_answer], scores[samples.is_answer])
    is_above = (scores >= best[samples.question]) & ~samples.is_answer  # ties count against the answer
    above = np.bincount(samples.question[is_above], minlength=len(samples))
    return np.where(np.isfinite(best) & (above < _TOP), 1.0 / (1 + above), 0.0)


def balance_roles(roles: npt.NDArray[np.str_], weights: Floats) -> Floats:
    """Return factors (n,) that keep one role from counting for more than all others together."""
    names, owner = np.unique(roles, return_inverse=True)
    total = np.bincount(owner, weights=weights)
    if len(names) < 2:
        return np.ones(len(roles))
    factor = np.ones(len(names))
    largest = int(total.argmax())
    factor[largest] = min(1.0, (total.sum() - total[largest]) / total[largest])
    return factor[owner]


def _compare(before: Floats, after: Floats, weights: Floats) -> dict[str, Any]:
    """Return the weighted means, and a lower bound of the gain with 95 % confidence (-1 without proof)."""
    if not len(before):
        return {"questions": 0, "before": 0.0, "after": 0.0, "gain_at_least": -1.0}
    share = weights / weights.sum()
    gain = after - before
    mean = float(share @ gain)
    error = float(np.sqrt((share**2) @ (gain - mean) ** 2))
    return {
        "questions": len(before),
        "before": round(float(share @ before), 4),
        "after": round(float(share @ after), 4),
        "gain_at_least": round(mean - _Z * error, 4) if len(before) > 1 else -1.0,
    }
