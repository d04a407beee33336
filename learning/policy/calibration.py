"""Choosing the operating point: the least effort that is proven to reach the target on held-out replays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from vectuned.learning.model import ladder
from vectuned.learning.model.arrays import Bools, Floats, Ints
from vectuned.learning.model.tuned_columns import TunedIndex
from vectuned.learning.patterns import signature
from vectuned.learning.patterns.distillation import (
    BANDWIDTH,
    MERGE_RADIUS,
    choose_efforts,
    distil,
    estimate_curves,
)
from vectuned.learning.patterns.lineage import PreviousPolicy, inherit_usage, prune_unused
from vectuned.learning.patterns.optimizer import Policy, effort_to_setting, predict
from vectuned.learning.patterns.reasoning_bank import Patterns, ReasoningBank
from vectuned.learning.statistics.bounds import lower_bound, upper_bound
from vectuned.learning.statistics.demand import Demand, above_tail, find_smallest_proven

_PRICES: Final = 120
_TRAINING_SHARE: Final = 1 / 3
_FEWEST: Final = 20
_GROWTH: Final = 0.9


@dataclass(frozen=True)
class ReplaySample:
    """What replays say about one class of k.

    `probes` by length, float64 (n, length) each: the distances that a search with that ef_search sees, in
    order, padded with +inf where there were fewer; `recall` float64 (n, rungs) at this k; `cost` float64
    (n, rungs), index buffers; `ms` float64 (n, rungs), milliseconds; `own` bool (n,), searches of the class
    itself, the others being pooled with them; None where all are. `weight` float64 (n,) from 0 to 1, how much
    each counts in training; None where all count alike. To prove something all always count alike.
    """

    k: int
    probes: dict[int, Floats]
    recall: Floats
    cost: Floats
    ms: Floats
    own: Bools | None = None
    weight: Floats | None = None

    def recall_at(self, efforts: Floats) -> tuple[Floats, Floats]:
        """Return recall at positions (m,) or (n, m) on the ladder, and if it is not in the tail, (n, m)."""
        return ladder.interpolate(self.recall, efforts), ladder.interpolate(above_tail(self.recall), efforts)

    def take(self, rows: Ints | Bools) -> ReplaySample:
        """Return the replays at `rows`, indices or a mask."""
        probes = {length: seen[rows] for length, seen in self.probes.items()}
        own = None if self.own is None else self.own[rows]
        weight = None if self.weight is None else self.weight[rows]
        return replace(
            self,
            probes=probes,
            recall=self.recall[rows],
            cost=self.cost[rows],
            ms=self.ms[rows],
            own=own,
            weight=weight,
        )

    def with_probe(self, probe_ef: int) -> ReplaySample:
        """Return the replays whose probe of that length saw as many rows."""
        return self.take(np.flatnonzero(np.isfinite(self.probes[probe_ef]).all(axis=1)))

    def concatenate(self, others: ReplaySample) -> ReplaySample:
        """Return these replays followed by others of the class, all counted as its own."""

        def both(name: str) -> Floats:
            return np.concatenate([getattr(self, name), getattr(others, name)])

        weight = [np.ones(len(e)) if e.weight is None else e.weight for e in (self, others)]
        probes = {
            length: np.concatenate([seen, others.probes[length]]) for length, seen in self.probes.items()
        }
        return ReplaySample(
            self.k, probes, both("recall"), both("cost"), both("ms"), weight=np.concatenate(weight)
        )

    def own_only(self) -> ReplaySample:
        """Return the replays of the class itself."""
        return self if self.own is None else self.take(self.own)

    def confirm_for_class(self, recall: Floats, above: Floats, safe: int, demand: Demand) -> int | None:
        """Return the smallest effort from `safe` on whose means over the class's own searches meet a demand.

        `recall` and `above` (n, m). What is proven for all of a pool together, from `safe` on, may not hold
        for a class that is a small part of it. Fewer than 20 searches say nothing against it.
        """
        if self.own is None or np.count_nonzero(self.own) < _FEWEST:
            return safe
        met = np.flatnonzero(demand.is_met_by(recall[self.own], above[self.own])[safe:])
        return safe + int(met[0]) if len(met) else None

    def __len__(self) -> int:
        return len(self.recall)


@dataclass(frozen=True)
class Candidate:
    """A policy and its patterns, with the mean cost it had on replays: index buffers and milliseconds."""

    policy: Policy
    patterns: Patterns
    cost: float
    ms: float


def find_fixed_policy(sample: ReplaySample, demand: Demand, *, index: TunedIndex | None = None) -> Candidate:
    """Find the smallest effort proven to meet the demand; the largest, uncertified, if none is.

    That is the ef_search of an HNSW index, which is never under k, or the probes of an IVFFlat `index`. Of
    what is proven for a pool, the smallest that the class's own searches agree to.
    """
    rungs = ladder.RUNGS if index is None else index.rungs
    method = "hnsw" if index is None else index.method
    least = max(rungs[0], sample.k if method == "hnsw" else 1)
    choices = np.unique(np.rint(np.geomspace(least, max(rungs[-1], least), 160)).astype(np.int64))
    efforts = ladder.position_of(choices, rungs)
    recall, above = sample.recall_at(efforts)
    safe = find_smallest_proven(recall, above, demand)
    if safe is not None:
        safe = sample.confirm_for_class(recall, above, safe, demand)
        if safe is None:
            return find_fixed_policy(sample.own_only(), demand, index=index)
    at = len(choices) - 1 if safe is None else safe
    policy = Policy(
        sample.k,
        int(choices[at]),
        float("nan"),
        0.0,
        safe is not None,
        len(sample),
        demand.target,
        "",
        index_no=None if index is None else index.number,
        method=method,
        rungs=rungs,
    )
    policy = _measured(policy, recall, above, safe, demand)
    chosen = efforts[at : at + 1]
    cost, ms = (float(ladder.interpolate(curve, chosen).mean()) for curve in (sample.cost, sample.ms))
    return Candidate(replace(policy, reason=_reason(policy, demand)), Patterns.empty(), cost, ms)


def _reason(policy: Policy, demand: Demand) -> str:
    """Say why a fixed setting was chosen."""
    if policy.certified:
        return f"{policy.setting} is the smallest proven to reach {demand}"
    few = f" (it takes at least {demand.min_replays})" if policy.samples < demand.min_replays else ""
    return (
        f"no {policy.effort_name} is proven to reach {demand} with {policy.samples} replays{few}: "
        "the largest serves"
    )


def extrapolate_policy(learned: Sequence[Policy], k: int) -> Policy:
    """Guess the ef_search of a class of k above all that were learned; nothing of it is proven.

    For so many rows it grows nearly in proportion to k: with the power 0.5 that smaller classes suggest,
    300 rows came at recall 0.937 where 0.95 was asked for.
    """
    largest = max(learned, key=lambda policy: policy.k_class)
    ef = round(largest.fixed_ef * (k / largest.k_class) ** _GROWTH)
    ef = min(max(ef, round(1.5 * k)), ladder.RUNGS[-1])
    return replace(
        largest,
        k_class=k,
        fixed_ef=ef,
        expected_recall=float("nan"),
        recall_bound=0.0,
        tail=None,
        tail_bound=None,
        certified=False,
        samples=0,
        reason=f"no search for so many rows was replayed: ef_search {ef} follows from what up to "
        f"{largest.k_class} rows take",
    )


def learn_adaptive_policy(
    sample: ReplaySample,
    fixed: Policy,
    demand: Demand,
    *,
    clusters: int = 64,
    counter_examples: ReplaySample | None = None,
    past: PreviousPolicy | None = None,
) -> Candidate | None:
    """Learn patterns on some of the replays, prove an operating point on the others.

    The probe is chosen on the training replays; the held-out ones decide the price of effort, from the
    dearest downwards by fixed-sequence testing. `counter_examples`, which are no random sample, are learned
    from and nothing else; patterns inherit from the `past`. Returns None where nothing proven is left: too
    few replays, or no probe shorter than the fixed setting.
    """
    order = np.random.default_rng(demand.seed).permutation(len(sample))
    cut = int(len(order) * _TRAINING_SHARE)
    training, heldout = sample.take(order[:cut]), sample.take(order[cut:])
    best: tuple[float, _Trial] | None = None
    for probe_ef in sorted(sample.probes):
        if probe_ef < sample.k + 4 or (fixed.method == "hnsw" and probe_ef >= fixed.fixed_ef):
            continue
        trial = _Trial.fit(training, counter_examples, fixed, probe_ef, clusters, demand.seed, past)
        if trial is not None:
            recall, above, cost = trial.outcomes(training)
            enough = np.flatnonzero(demand.is_met_by(recall, above))
            if len(enough) and (best is None or cost[:, enough[0]].mean() < best[0]):
                best = (float(cost[:, enough[0]].mean()), trial)
    if best is None:
        return None
    trial = best[1]
    recall, above, cost = trial.outcomes(heldout)
    safe = find_smallest_proven(recall, above, demand)
    if safe is not None:
        safe = heldout.confirm_for_class(recall, above, safe, demand)
    if safe is None:
        return None
    policy = replace(trial.policy, price=float(trial.prices[safe]), samples=len(heldout))
    policy = _measured(policy, recall, above, safe, demand)
    patterns = replace(
        trial.bank.patterns, effort=trial.effort[:, safe], expected_recall=trial.expected[:, safe]
    )
    return Candidate(policy, patterns, float(cost[:, safe].mean()), float("nan"))


def _measured(policy: Policy, recall: Floats, above: Floats, safe: int | None, demand: Demand) -> Policy:
    """Have a policy say what was measured at the chosen effort, and what of it is proven.

    `recall` and `above` (n, efforts). Proven is what was asked for: a bound computed at an effort that was
    chosen by the same sample would exceed the truth more often than promised (7 % instead of 5 % where it was
    counted). Only at an end of the efforts, where none smaller or none higher was to choose, does its own
    bound hold.
    """
    at = -1 if safe is None else safe
    recall_bound, tail_bound = demand.target, demand.max_tail
    if at <= 0:
        recall_bound = lower_bound(recall[:, at], demand.confidence, demand.seed)
        tail_bound = upper_bound(1.0 - above[:, at], demand.confidence, demand.seed)
    return replace(
        policy,
        expected_recall=float(recall[:, at].mean()),
        recall_bound=recall_bound,
        tail=float(1.0 - above[:, at].mean()),
        tail_bound=tail_bound,
    )


@dataclass(frozen=True)
class _Trial:
    """One probe length: its bank, and the efforts of its patterns (p, prices) from cheap to thorough."""

    policy: Policy
    bank: ReasoningBank
    prices: Floats
    effort: Floats
    expected: Floats

    @classmethod
    def fit(
        cls,
        training: ReplaySample,
        counter_examples: ReplaySample | None,
        fixed: Policy,
        probe_ef: int,
        clusters: int,
        seed: int,
        past: PreviousPolicy | None,
    ) -> _Trial | None:
        """Learn, merge, inherit, prune and only then estimate curves; None where too little is left."""
        training = training.with_probe(probe_ef)
        if len(training) < _FEWEST:
            return None
        way = signature.fit_signature(training.probes[probe_ef], training.k, probe_ef, training.recall)
        learned = training
        if counter_examples is not None:
            learned = training.concatenate(counter_examples.with_probe(probe_ef))
        signatures = way.transform(learned.probes[probe_ef])
        curves = (learned.recall, learned.cost)
        bank = ReasoningBank(distil(signatures, *curves, weight=learned.weight, clusters=clusters, seed=seed))
        bank.consolidate(MERGE_RADIUS)
        if past is not None:
            met = bank.lookup(signatures, 1)[0][:, 0]
            bank = ReasoningBank(inherit_usage(bank.patterns, met, learned.probes, past))
            prune_unused(bank)
        if not len(bank):
            return None
        bank = ReasoningBank(estimate_curves(bank.patterns, signatures, *curves, learned.weight))
        _, distances = bank.lookup(signatures, 1)
        policy = replace(
            fixed,
            signature=way,
            # Others lie farther off than what the clusters were made of; the curves tell of that much around.
            reach=float(np.quantile(distances[:, 0], 0.995)) + BANDWIDTH,
            certified=True,
            reason="effort by what a short probe sees",
        )
        # Recall gained per buffer, from where the mean curve is steepest to where it is all but flat.
        gain = np.diff(training.recall.mean(axis=0)) / np.maximum(np.diff(training.cost.mean(axis=0)), 1e-9)
        steepest = max(float(gain.max()), 1e-9)
        prices = np.geomspace(steepest, steepest * 1e-5, _PRICES)
        # Less than the probe's own effort gains nothing where the search goes on from there.
        lowest = float(ladder.position_of(probe_ef)) if fixed.method == "hnsw" else 0.0
        chosen = [choose_efforts(bank.patterns, float(p), lowest) for p in prices]
        effort, expected = (np.column_stack(part) for part in zip(*chosen, strict=True))
        return cls(policy, bank, prices, effort, expected)

    def outcomes(self, sample: ReplaySample) -> tuple[Floats, Floats, Floats]:
        """Return what each price would have given each replay, (n, prices): recall, not in the tail, cost."""
        way = self.policy.signature
        assert way is not None
        effort = predict(self.effort, self.bank, self.policy, sample.probes[way.probe_ef])
        efs = effort_to_setting(effort, self.policy, sample.k)
        efforts = ladder.position_of(efs, self.policy.rungs)
        cost = ladder.interpolate(sample.cost, efforts)
        if self.policy.method == "ivfflat":
            cost = cost + sample.cost[:, :1]  # the probe is a search of its own
        return *sample.recall_at(efforts), cost
