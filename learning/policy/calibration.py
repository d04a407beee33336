"""Calibration: the least effort that is proven to reach the target, fixed or by query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from vectuned.config.wording import counted
from vectuned.learning.model import ladder
from vectuned.learning.model.arrays import Floats, Ints
from vectuned.learning.model.tuned_columns import TunedIndex
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
from vectuned.learning.patterns.signature import fit_signature
from vectuned.learning.statistics.bounds import lower_bound, upper_bound
from vectuned.learning.statistics.demand import (
    Demand,
    Shortfall,
    above_tail,
    find_shortfall,
    find_smallest_proven,
)
from vectuned.learning.statistics.dependence import block_means
from vectuned.learning.statistics.replay_sample import FEW_REPLAYS, ReplaySample

from .limits import MAX_RISE, NO_LIMITS, EffortCaps, EffortLimits

_PRICES: Final = 120  # operating points between thorough and cheap that the held-out replays decide between
_PRICE_RANGE: Final = (
    1e-5  # of the steepest gain: at this price recall is bought where its curve is almost flat
)
_TRAINING_SHARE: Final = 1 / 3  # of the replays; a proof needs more of them than training does
# A day sees most of what is asked. Evidence from less is proof for its own time, and the reason says so.
_ENOUGH_SECONDS: Final = 86_400.0
_SETTINGS: Final = 160  # fixed settings to choose from, in geometric steps of 3 %
_PROBE_MARGIN: Final = 4  # a probe sees this many rows beyond k at least: the features need ranks there
_REACH_QUANTILE: Final = 0.995  # of the distances from training signatures to their nearest pattern
# Power of k by which ef_search grows above the classes that were learned. The 0.5 that smaller classes
# suggest gave 300 rows at recall 0.937 for a target of 0.95.
_GROWTH: Final = 0.9
_LEAST_EF_PER_ROW: Final = 1.5  # ef_search over k, for extrapolated classes
# A proof that takes more than this multiple of what the replays' mean asks for rests on too few of them: with
# 210 replays, 0.98 was proven at 3.4 times the effort that reaches it. Ample replays prove it at 1.1 to 1.3.
_MAX_EXCESS: Final = 1.5


@dataclass(frozen=True)
class Candidate:
    """A policy and its patterns, with its mean cost on replays: index buffers and milliseconds.

    A `pooled` one is what searches of other classes prove; its policy is not certified. The `shortfall` is
    that of the highest effort of its index, None unless that is shown to miss the demand. `exact_ms` is the
    mean time of an exact search, in milliseconds, where that was measured.
    """

    policy: Policy
    patterns: Patterns
    cost: float
    ms: float
    pooled: bool = False
    shortfall: Shortfall | None = None
    exact_ms: float | None = None


def find_fixed_policy(
    sample: ReplaySample,
    demand: Demand,
    *,
    index: TunedIndex | None = None,
    limits: EffortLimits = NO_LIMITS,
) -> Candidate:
    """Find the smallest fixed setting proven to meet the demand, or an uncertified one if none is proven.

    A setting is an ef_search of at least k for HNSW, and a number of probes for an IVFFlat `index`. Only the
    class's own searches prove a setting. If they do not, the setting that all pooled would prove serves,
    unless the mean of its own contradicts it; it is called pooled and is not certified. Replays of bursts
    count in blocks. Without a proof, or with one that takes over 1.5 times as much, the setting is what the
    replays' own means ask for, plus one standard error, within the `limits`; nothing is claimed about it.
    """
    if sample.pooled:
        own = sample.own_only()
        if len(own) >= demand.min_replays:
            candidate = find_fixed_policy(own, demand, index=index, limits=limits)
            if candidate.policy.certified:
                return candidate
    rungs = ladder.RUNGS if index is None else index.rungs
    method = "hnsw" if index is None else index.method
    least = max(rungs[0], sample.k if method == "hnsw" else 1)
    settings = _settings(sample, rungs, least, limits.caps)
    efforts = ladder.position_of(settings, rungs)
    recall, above = sample.recall_at(efforts)
    block = sample.block_length(demand.seed)
    safe = None
    if len(sample) // block >= demand.min_replays:
        safe = find_smallest_proven(block_means(recall, block), block_means(above, block), demand)
    if safe is not None:
        safe = sample.confirm_for_class(recall, above, safe, demand)
        if safe is None:
            return find_fixed_policy(sample.own_only(), demand, index=index, limits=limits)
    guess = sample.guess_for_class(recall, above, demand)
    proof = None if safe is None else int(settings[safe])
    if proof is not None and proof > _MAX_EXCESS * settings[guess]:
        safe = None
    pooled = sample.pooled and safe is not None
    if safe is None or pooled:
        asked = int(settings[guess if safe is None else safe])
        setting = limits.limit_unproven(asked, sample.k if method == "hnsw" else 1)
    else:
        setting = int(settings[safe])
    policy = Policy(
        sample.k,
        setting,
        float("nan"),
        0.0,
        safe is not None and not pooled,
        len(sample),
        demand.target,
        "",
        index_no=None if index is None else index.number,
        method=method,
        rungs=rungs,
        asked_effort=int(settings[guess]) if len(sample) else None,
    )
    effort = np.atleast_1d(ladder.position_of(setting, rungs))
    if policy.certified and safe is not None:
        policy = _with_measurements(policy, recall, above, safe, demand, block)
    else:
        policy = _with_means(policy, *sample.recall_at(effort))
    cost, ms = (float(ladder.interpolate(curve, effort).mean()) for curve in (sample.cost, sample.ms))
    if policy.certified:
        evidence = _describe_evidence(sample, block)
        reason = f"{policy.setting} is the smallest proven to reach {demand}{evidence}"
    elif pooled:
        reason = _reason_pooled(policy, demand, sample, int(settings[safe or 0]))
    else:
        within = f" within {limits.caps}" if settings[-1] < rungs[-1] else ""
        reason = _reason_unproven(
            policy, f"{demand}{within}", demand.min_replays, int(settings[guess]), proof, block
        )
    shortfall = None if policy.certified else _find_shortfall(sample.own_only(), demand)
    return Candidate(replace(policy, reason=reason), Patterns.empty(), cost, ms, pooled, shortfall)


def _find_shortfall(sample: ReplaySample, demand: Demand) -> Shortfall | None:
    """Return by how much the highest effort that is replayed misses the demand, if it does."""
    if not len(sample):
        return None
    block, recall = sample.block_length(demand.seed), sample.recall[:, -1]
    return find_shortfall(block_means(recall, block), block_means(above_tail(recall), block), demand)


def _settings(sample: ReplaySample, rungs: Sequence[int], least: int, caps: EffortCaps) -> Ints:
    """Return the fixed settings to choose from, ascending, int64 (m,): at least one, none above the caps."""
    highest = caps.cap(max(rungs[-1], least), least)
    settings = np.unique(np.rint(np.geomspace(least, highest, _SETTINGS)).astype(np.int64))
    if caps.max_ms is not None and len(sample):
        ms = ladder.interpolate(sample.ms, ladder.position_of(settings, rungs)).mean(axis=0)
        settings = settings[: max(1, int(np.count_nonzero(np.maximum.accumulate(ms) <= caps.max_ms)))]
    return settings


def _reason_unproven(policy: Policy, goal: str, least: int, guess: int, proof: int | None, block: int) -> str:
    """Say why an unproven setting serves.

    The `goal` takes at least `least` replays, or blocks of `block` replays, to prove; their means ask for
    `guess`, a proof for `proof`.
    """
    few = f" (it takes at least {least})" if policy.samples // block < least else ""
    bursts = f" in blocks of {block}, because searches come in bursts" if block > 1 else ""
    reason = f"no {policy.effort_name} is proven to reach {goal} with {policy.samples} replays{bursts}{few}"
    if proof is not None:
        reason = (
            f"{policy.samples} replays{bursts} are too few to prove {goal} below {policy.effort_name} "
            f"{proof}, over {_MAX_EXCESS:g} times what they ask for"
        )
    reason = f"{reason}: their mean with a margin of one standard error asks for {guess}"
    return f"{reason}{_describe_limit(policy, guess)}"


def _reason_pooled(policy: Policy, demand: Demand, sample: ReplaySample, asked: int) -> str:
    """Say that other searches too ask for an effort, which proves nothing about those of the class."""
    own = 0 if sample.own is None else np.count_nonzero(sample.own)
    replays = counted(policy.samples, "replayed search")
    return (
        f"only {own} of {replays} were for up to {counted(policy.k_class, 'row')} without a filter, where "
        f"a proof takes at least {demand.min_replays}: {policy.effort_name} {asked} reaches {demand} for all "
        f"together, which is not proven for these{_describe_limit(policy, asked)}"
    )


def _describe_limit(policy: Policy, asked: int) -> str:
    """Say why an unproven policy has another effort than was `asked` for."""
    if policy.fixed_ef < asked:
        return f"; {policy.fixed_ef} serves, at most {MAX_RISE} times what served before"
    if policy.fixed_ef > asked:
        return f"; {policy.fixed_ef} serves until less is proven"
    return ""


def _describe_evidence(sample: ReplaySample, block: int) -> str:
    """Say what limits the evidence behind a proof: bursts, and a time too short to know all that is asked."""
    limits = ""
    if block > 1:
        limits = f", where {block} consecutive replays count as one because searches come in bursts"
    if sample.seconds is not None and sample.seconds < _ENOUGH_SECONDS:
        limits += f", by searches of {_format_seconds(sample.seconds)}: other times may ask for other things"
    return limits


def _format_seconds(seconds: float) -> str:
    """Return a time in the largest unit of which it has two: "40 seconds", "90 minutes", "5 hours"."""
    for unit, length in (("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds" if seconds >= 1.5 else "one second"


def extrapolate_policy(learned: Sequence[Policy], k: int, limits: EffortLimits = NO_LIMITS) -> Policy:
    """Extrapolate the ef_search of a class of k above all that were learned; nothing is proven about it.

    For hundreds of rows ef_search grows almost in proportion to k. The `limits` hold as for any setting that
    is not proven.
    """
    largest = max(learned, key=lambda policy: policy.k_class)
    ef = round(largest.fixed_ef * (k / largest.k_class) ** _GROWTH)
    ef = min(max(ef, round(_LEAST_EF_PER_ROW * k)), ladder.RUNGS[-1])
    served = limits.limit_unproven(ef, k)
    limited = "" if served == ef else f"; {served} serves within the limits of what is not proven"
    return replace(
        largest,
        k_class=k,
        fixed_ef=served,
        expected_recall=float("nan"),
        recall_bound=0.0,
        tail=None,
        tail_bound=None,
        certified=False,
        samples=0,
        asked_effort=None,
        reason=f"no search for so many rows was replayed: ef_search {ef} follows from what up to "
        f"{largest.k_class} rows take{limited}",
    )


def learn_adaptive_policy(
    sample: ReplaySample,
    fixed: Policy,
    demand: Demand,
    *,
    clusters: int = 64,
    counter_examples: ReplaySample | None = None,
    past: PreviousPolicy | None = None,
    max_effort: int | None = None,
) -> Candidate | None:
    """Learn patterns on some of the replays and prove an operating point on the others.

    The training replays decide the length of the probe; the held-out replays decide the price of effort, from
    the most thorough operating point downwards by fixed-sequence testing. `counter_examples` are no random
    sample, so they are only trained on; patterns inherit from the `past`. No pattern gets more than
    `max_effort`, an ef_search or probes. Returns None if nothing is proven: too few replays, or no probe
    shorter than the fixed setting.
    """
    block = sample.block_length(demand.seed)
    blocks = np.random.default_rng(demand.seed).permutation(len(sample) // block)
    # Whole blocks are trained on or held out: the searches of a burst are too much alike to be divided.
    order = (blocks[:, None] * block + np.arange(block)).ravel()
    cut = int(len(blocks) * _TRAINING_SHARE) * block
    heldout = sample.take(order[cut:])
    highest = ladder.HIGHEST_POSITION
    if max_effort is not None:
        highest = float(ladder.position_of(max_effort, fixed.rungs))
    training = _Training(sample.take(order[:cut]), counter_examples, past, clusters, demand.seed, highest)
    trial = _choose_trial(training, fixed, demand)
    if trial is None:
        return None
    recall, above, cost = trial.outcomes(heldout)
    safe = find_smallest_proven(block_means(recall, block), block_means(above, block), demand)
    if safe is not None:
        safe = heldout.confirm_for_class(recall, above, safe, demand)
    if safe is None:
        return None
    policy = replace(trial.policy, price=float(trial.prices[safe]), samples=len(heldout))
    policy = _with_measurements(policy, recall, above, safe, demand, block)
    patterns = replace(
        trial.bank.patterns, effort=trial.effort[:, safe], expected_recall=trial.expected[:, safe]
    )
    return Candidate(policy, patterns, float(cost[:, safe].mean()), float("nan"))


@dataclass(frozen=True)
class _Training:
    """What patterns are learned from, replays, counter-examples and the past, and with which parameters."""

    sample: ReplaySample
    counter_examples: ReplaySample | None
    past: PreviousPolicy | None
    clusters: int
    seed: int
    highest: float  # position on the ladder that no pattern's effort exceeds


def _choose_trial(training: _Training, fixed: Policy, demand: Demand) -> _Trial | None:
    """Return the trial that meets the demand at the least cost on the training replays."""
    best: tuple[float, _Trial] | None = None
    sample = training.sample
    for probe_ef in sorted(sample.probes):
        if probe_ef < sample.k + _PROBE_MARGIN or (fixed.method == "hnsw" and probe_ef >= fixed.fixed_ef):
            continue
        trial = _Trial.fit(training, fixed, probe_ef)
        if trial is None:
            continue
        recall, above, cost = trial.outcomes(sample)
        enough = np.flatnonzero(demand.is_met_by(recall, above))
        if len(enough):
            least_cost = float(cost[:, enough[0]].mean())
            if best is None or least_cost < best[0]:
                best = (least_cost, trial)
    return None if best is None else best[1]


def _with_measurements(
    policy: Policy, recall: Floats, above: Floats, safe: int, demand: Demand, block: int
) -> Policy:
    """Return the policy with what was measured and what is proven at the effort chosen, number `safe`.

    `recall` and `above` are (n, efforts). What is proven is the demand itself: a bound computed at an effort
    that the same sample has chosen would exceed the true mean too often (in 7 % instead of 5 % of the cases
    counted). Only at the first effort, below which there is no other, the sample's own bound is valid, by
    means of each `block` of consecutive replays.
    """
    recall_bound, tail_bound = demand.target, demand.max_tail
    if safe == 0:
        means, tails = block_means(recall[:, 0], block), block_means(1.0 - above[:, 0], block)
        recall_bound = lower_bound(means, demand.confidence, demand.seed)
        tail_bound = upper_bound(tails, demand.confidence, demand.seed)
    measured = _with_means(policy, recall[:, [safe]], above[:, [safe]])
    return replace(measured, recall_bound=recall_bound, tail_bound=tail_bound)


def _with_means(policy: Policy, recall: Floats, above: Floats) -> Policy:
    """Return the policy with what was measured at its effort, (n, 1) each, and nothing proven."""
    return replace(
        policy,
        expected_recall=float(recall.mean()) if len(recall) else float("nan"),
        recall_bound=0.0,
        tail=float(1.0 - above.mean()) if len(above) else None,
        tail_bound=1.0,
    )


@dataclass(frozen=True)
class _Trial:
    """The bank learned with one probe length, and the efforts of its patterns at each price of effort.

    `prices` float64 (m,), from high to low, so from cheap to thorough; `effort` and `expected` recall (p, m).
    """

    policy: Policy
    bank: ReasoningBank
    prices: Floats
    effort: Floats
    expected: Floats

    @classmethod
    def fit(cls, training: _Training, fixed: Policy, probe_ef: int) -> _Trial | None:
        """Learn, merge and prune patterns, then estimate their curves; None if too little is left."""
        sample = training.sample.with_probe(probe_ef)
        if len(sample) < FEW_REPLAYS:
            return None
        signature = fit_signature(sample.probes[probe_ef], sample.k, probe_ef, sample.recall)
        learned = sample
        if training.counter_examples is not None:
            learned = sample.concatenate(training.counter_examples.with_probe(probe_ef))
        signatures = signature.transform(learned.probes[probe_ef])
        curves = (learned.recall, learned.cost)
        patterns = distil(
            signatures, *curves, weight=learned.weight, clusters=training.clusters, seed=training.seed
        )
        bank = ReasoningBank(patterns)
        bank.consolidate(MERGE_RADIUS)
        if training.past is not None:
            nearest = bank.lookup(signatures, 1)[0][:, 0]
            bank = ReasoningBank(inherit_usage(bank.patterns, nearest, learned.probes, training.past))
            prune_unused(bank)
        if not len(bank):
            return None
        bank = ReasoningBank(estimate_curves(bank.patterns, signatures, *curves, learned.weight))
        _, distances = bank.lookup(signatures, 1)
        policy = replace(
            fixed,
            signature=signature,
            # New searches lie farther off than those the clusters were made of; the curves hold a bandwidth
            # around.
            reach=float(np.quantile(distances[:, 0], _REACH_QUANTILE)) + BANDWIDTH,
            certified=True,
            reason="effort by what a short probe sees",
        )
        # Recall gained per buffer, from where the mean curve is steepest to where it is almost flat.
        gain = np.diff(sample.recall.mean(axis=0)) / np.maximum(np.diff(sample.cost.mean(axis=0)), 1e-9)
        steepest = max(float(gain.max()), 1e-9)
        prices = np.geomspace(steepest, steepest * _PRICE_RANGE, _PRICES)
        # Less than the probe's own effort saves nothing if the search goes on from there.
        lowest = float(ladder.position_of(probe_ef)) if fixed.method == "hnsw" else 0.0
        chosen = [choose_efforts(bank.patterns, float(p), lowest) for p in prices]
        effort, expected = (np.column_stack(part) for part in zip(*chosen, strict=True))
        return cls(policy, bank, prices, np.minimum(effort, training.highest), expected)

    def outcomes(self, sample: ReplaySample) -> tuple[Floats, Floats, Floats]:
        """Return recall, whether it is above the tail, and cost of each replay at each price, (n, prices)."""
        signature = self.policy.signature
        assert signature is not None
        effort = predict(self.effort, self.bank, self.policy, sample.probes[signature.probe_ef])
        settings = effort_to_setting(effort, self.policy, sample.k)
        efforts = ladder.position_of(settings, self.policy.rungs)
        cost = ladder.interpolate(sample.cost, efforts)
        if self.policy.method == "ivfflat":
            cost = cost + sample.cost[:, :1]  # the probe is a search of its own
        return *sample.recall_at(efforts), cost
