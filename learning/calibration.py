"""Choosing the operating point: the least effort that is proven to reach the target on held-out replays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from . import ladder, signature
from .catalogue import TunedIndex
from .distillation import MERGED, choose_efforts, distil
from .neighbors import Floats, Ints
from .optimizer import Policy, decide, serve
from .promise import Bools, Demand, lower_bound, smallest_safe
from .reasoning_bank import Patterns, ReasoningBank

_PRICES: Final = 120
_TRAINING_SHARE: Final = 1 / 3
_FEWEST: Final = 20
_GROWTH: Final = 0.9


@dataclass(frozen=True)
class Evidence:
    """What replays say about one class of k.

    `probes` by length, float64 (n, length) each: the distances that a search with that ef_search sees, in
    order, padded with +inf where there were fewer; `recall` float64 (n, rungs) at this k; `cost` float64
    (n, rungs), index buffers; `ms` float64 (n, rungs), milliseconds.
    """

    k: int
    probes: dict[int, Floats]
    recall: Floats
    cost: Floats
    ms: Floats

    def take(self, rows: Ints | Bools) -> Evidence:
        """Return the replays at `rows`, indices or a mask."""
        probes = {length: seen[rows] for length, seen in self.probes.items()}
        return replace(self, probes=probes, recall=self.recall[rows], cost=self.cost[rows], ms=self.ms[rows])

    def __len__(self) -> int:
        return len(self.recall)


@dataclass(frozen=True)
class Candidate:
    """A policy and its patterns, with the mean cost it had on replays: index buffers and milliseconds."""

    policy: Policy
    patterns: Patterns
    cost: float
    ms: float


def fixed_policy(evidence: Evidence, demand: Demand, *, index: TunedIndex | None = None) -> Candidate:
    """Find the smallest effort proven to reach the target; the largest, uncertified, if none is.

    That is the ef_search of an HNSW index, which is never under k, or the probes of an IVFFlat `index`.
    """
    rungs = ladder.RUNGS if index is None else index.rungs
    method = "hnsw" if index is None else index.method
    least = max(rungs[0], evidence.k if method == "hnsw" else 1)
    choices = np.unique(np.rint(np.geomspace(least, max(rungs[-1], least), 160)).astype(np.int64))
    efforts = ladder.effort(choices, rungs)
    recall = ladder.at_efforts(evidence.recall, efforts)
    safe = smallest_safe(recall, demand.target, demand.confidence, demand.seed)
    at = len(choices) - 1 if safe is None else safe
    policy = Policy(
        evidence.k,
        int(choices[at]),
        float(recall[:, at].mean()),
        _bound(recall, safe, demand),
        safe is not None,
        len(evidence),
        demand.target,
        "",
        index_no=None if index is None else index.number,
        method=method,
        rungs=rungs,
    )
    chosen = efforts[at : at + 1]
    cost, ms = (float(ladder.at_efforts(curve, chosen).mean()) for curve in (evidence.cost, evidence.ms))
    why = (
        f"{policy.setting} is the smallest proven to reach {demand.target:g}"
        if policy.certified
        else f"no {policy.effort_name} is proven to reach {demand.target:g} with {len(evidence)} replays: "
        "the largest serves"
    )
    return Candidate(replace(policy, reason=why), Patterns.none(), cost, ms)


def extrapolated_policy(learned: Sequence[Policy], k: int) -> Policy:
    """Guess the ef_search of a class of k above all that were learned; nothing of it is proven.

    For so many rows it grows nearly in proportion to k: with the power 0.5 that smaller classes suggest,
    300 rows came at recall 0.937 where 0.95 was asked for.
    """
    largest = max(learned, key=lambda policy: policy.k_class)
    ef = round(largest.fixed_ef * (k / largest.k_class) ** _GROWTH)
    ef = min(max(ef, round(1.5 * k)), ladder.RUNGS[-1])
    return replace(
        largest, k_class=k, fixed_ef=ef, expected_recall=float("nan"), recall_bound=0.0, certified=False,
        samples=0, reason=f"no search for so many rows was replayed: ef_search {ef} follows from what up to "
        f"{largest.k_class} rows take",
    )  # fmt: skip


def adaptive_policy(
    evidence: Evidence, fixed: Policy, demand: Demand, *, clusters: int = 64
) -> Candidate | None:
    """Learn patterns on some of the replays, prove an operating point on the others.

    The probe is chosen on the training replays; the held-out ones decide the price of effort, from the
    dearest downwards by fixed-sequence testing. Returns None where nothing proven is left: too few
    replays, or no probe shorter than the fixed setting.
    """
    order = np.random.default_rng(demand.seed).permutation(len(evidence))
    cut = int(len(order) * _TRAINING_SHARE)
    training, heldout = evidence.take(order[:cut]), evidence.take(order[cut:])
    best: tuple[float, _Trial] | None = None
    for probe_ef in sorted(evidence.probes):
        if probe_ef < evidence.k + 4 or (fixed.method == "hnsw" and probe_ef >= fixed.fixed_ef):
            continue
        trial = _Trial.fit(training, fixed, probe_ef, clusters, demand.seed)
        if trial is not None:
            recall, cost = trial.outcomes(training)
            enough = np.flatnonzero(recall.mean(axis=0) >= demand.target)
            if len(enough) and (best is None or cost[:, enough[0]].mean() < best[0]):
                best = (float(cost[:, enough[0]].mean()), trial)
    if best is None:
        return None
    trial = best[1]
    recall, cost = trial.outcomes(heldout)
    safe = smallest_safe(recall, demand.target, demand.confidence, demand.seed)
    if safe is None:
        return None
    policy = replace(
        trial.policy,
        price=float(trial.prices[safe]),
        expected_recall=float(recall[:, safe].mean()),
        recall_bound=_bound(recall, safe, demand),
        samples=len(heldout),
    )
    patterns = replace(
        trial.bank.patterns, effort=trial.effort[:, safe], expected_recall=trial.expected[:, safe]
    )
    return Candidate(policy, patterns, float(cost[:, safe].mean()), float("nan"))


def _bound(recall: Floats, safe: int | None, demand: Demand) -> float:
    """Say what is proven of the mean recall at the chosen effort, `recall` being (n, efforts).

    That is the target: a bound computed at an effort that was chosen by the same sample would exceed the
    truth more often than promised (7 % instead of 5 % where it was counted). Only at an end of the
    efforts, where none smaller or none higher was to choose, does its own bound hold.
    """
    if safe is None or safe == 0:
        return lower_bound(recall[:, -1 if safe is None else 0], demand.confidence, demand.seed)
    return demand.target


@dataclass(frozen=True)
class _Trial:
    """One probe length: its bank, and the efforts of its patterns (p, prices) from cheap to thorough."""

    policy: Policy
    bank: ReasoningBank
    prices: Floats
    effort: Floats
    expected: Floats

    @classmethod
    def fit(cls, training: Evidence, fixed: Policy, probe_ef: int, clusters: int, seed: int) -> _Trial | None:
        usable = np.flatnonzero(np.isfinite(training.probes[probe_ef]).all(axis=1))
        if len(usable) < _FEWEST:
            return None
        training = training.take(usable)
        seen = training.probes[probe_ef]
        way = signature.fit(seen, training.k, probe_ef, training.recall)
        signatures = way.transform(seen)
        bank = ReasoningBank(distil(signatures, training.recall, training.cost, clusters=clusters, seed=seed))
        bank.consolidate(MERGED)
        _, distances = bank.lookup(signatures, 1)
        policy = replace(
            fixed,
            signature=way,
            reach=float(np.quantile(distances[:, 0], 0.995)) + 1.0,
            certified=True,
            reason="effort by what a short probe sees",
        )
        # Recall gained per buffer, from where the mean curve is steepest to where it is all but flat.
        gain = np.diff(training.recall.mean(axis=0)) / np.maximum(np.diff(training.cost.mean(axis=0)), 1e-9)
        steepest = max(float(gain.max()), 1e-9)
        prices = np.geomspace(steepest, steepest * 1e-5, _PRICES)
        # Less than the probe's own effort gains nothing where the search goes on from there.
        lowest = float(ladder.effort(probe_ef)) if fixed.method == "hnsw" else 0.0
        chosen = [choose_efforts(bank.patterns, float(p), lowest) for p in prices]
        effort, expected = (np.column_stack(part) for part in zip(*chosen, strict=True))
        return cls(policy, bank, prices, effort, expected)

    def outcomes(self, evidence: Evidence) -> tuple[Floats, Floats]:
        """Return what each price would have given each replay: recall and cost, (n, prices)."""
        way = self.policy.signature
        assert way is not None
        effort = decide(self.effort, self.bank, self.policy, evidence.probes[way.probe_ef])
        efs = serve(effort, self.policy, evidence.k)
        efforts = ladder.effort(efs, self.policy.rungs)
        cost = ladder.at_efforts(evidence.cost, efforts)
        if self.policy.method == "ivfflat":
            cost = cost + evidence.cost[:, :1]  # the probe is a search of its own
        return ladder.at_efforts(evidence.recall, efforts), cost
