"""Calibration: what is certified must hold, and what cannot be learned must not be served.

The population is 500 real replays; a repetition draws from it with replacement, so that the recall a policy
really has is known: its mean over the population.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from tests.unit.replays_helpers import draw, served, tail
from tests.unit.samples_helpers import hnsw, ivfflat

from vectuned.learning.model import ladder
from vectuned.learning.patterns.optimizer import Policy
from vectuned.learning.patterns.reasoning_bank import Patterns
from vectuned.learning.policy.calibration import (
    Candidate,
    extrapolate_policy,
    find_fixed_policy,
    learn_adaptive_policy,
)
from vectuned.learning.policy.limits import NO_CAPS, EffortCaps, EffortLimits
from vectuned.learning.statistics.demand import Demand
from vectuned.learning.statistics.replay_sample import ReplaySample

Floats = npt.NDArray[np.float64]


@pytest.mark.parametrize("target", [0.9, 0.95])
def test_find_fixed_policy_certified_meets_the_target(population: ReplaySample, target: float) -> None:
    # Each may fail with probability 0.05: of 200, more than 20 with probability 0.0015 at most.
    failures, certified = 0, 0
    for seed in range(200):
        candidate = find_fixed_policy(draw(population, 300, seed), Demand(target, seed=seed))
        if candidate.policy.certified:
            certified += 1
            failures += served(candidate, population)[0].mean() < target
            assert candidate.policy.recall_bound == target
    assert failures <= 20
    assert certified >= 190


@pytest.mark.parametrize("target", [0.9, 0.95])
def test_find_fixed_policy_with_a_proportional_tail_limit_changes_nothing(
    population: ReplaySample, target: float
) -> None:
    # vectuned.enable's default: of HNSW at a fixed effort the mean is what counts.
    for seed in range(10):
        sample = draw(population, 600, seed)
        plain = find_fixed_policy(sample, Demand(target)).policy
        limited = find_fixed_policy(sample, Demand(target, max_tail=2.5 * (1 - target))).policy
        assert limited.fixed_ef == plain.fixed_ef
        assert limited.tail == plain.tail
        assert limited.tail == pytest.approx(tail(Candidate(limited, Patterns.empty(), 0, 0), sample))
        assert (limited.tail_bound, plain.tail_bound) == (2.5 * (1 - target), 1.0)


def test_find_fixed_policy_certified_keeps_a_binding_tail_limit(population: ReplaySample) -> None:
    # Each may fail with probability 0.05: of 200, more than 20 with probability 0.0015 at most.
    failures, certified, dearer = 0, 0, 0
    for seed in range(200):
        sample = draw(population, 300, seed)
        demand = Demand(0.9, seed=seed, max_tail=0.06)
        candidate = find_fixed_policy(sample, demand)
        if candidate.policy.certified:
            certified += 1
            failures += tail(candidate, population) > 0.06
            dearer += (
                candidate.policy.fixed_ef
                > find_fixed_policy(sample, replace(demand, max_tail=1)).policy.fixed_ef
            )
            assert (candidate.policy.recall_bound, candidate.policy.tail_bound) == (0.9, 0.06)
            assert "proven to reach 0.9 and at most 6 % under 0.8" in candidate.policy.reason
    assert failures <= 20
    assert certified >= 190
    assert dearer == certified


def test_find_fixed_policy_with_too_few_replays_says_how_many_it_takes(population: ReplaySample) -> None:
    few = population.take(np.arange(60))
    reason = find_fixed_policy(few, Demand(0.99)).policy.reason
    assert reason.startswith(
        "no ef_search is proven to reach 0.99 with 60 replays (it takes at least 337): "
        "their mean with a margin of one standard error asks for "
    )
    reason = find_fixed_policy(few, Demand(0.5, max_tail=0.01)).policy.reason
    assert reason.startswith(
        "no ef_search is proven to reach 0.5 and at most 1 % under 0.8 with 60 replays "
        "(it takes at least 337): their mean"
    )
    capped = replace(population, recall=np.minimum(population.recall, 0.79))
    policy = find_fixed_policy(capped, Demand(0.5, max_tail=0.5)).policy
    assert policy.reason.startswith(
        "no ef_search is proven to reach 0.5 and at most 50 % under 0.8 with 500 replays: their mean"
    )
    assert (policy.certified, policy.tail, policy.tail_bound) == (False, 1.0, 1.0)


@pytest.mark.parametrize(("target", "count"), [(0.98, 200), (0.99, 200), (0.99, 400), (0.995, 1000)])
def test_find_fixed_policy_unproven_takes_what_the_mean_asks_for(
    population: ReplaySample, target: float, count: int
) -> None:
    settings = np.arange(10, 1001)
    means = population.recall_at(ladder.position_of(settings))[0].mean(axis=0)
    right = int(settings[np.argmax(means >= target)])
    found = [find_fixed_policy(draw(population, count, seed), Demand(target)) for seed in range(60)]
    unproven = [candidate.policy.fixed_ef for candidate in found if not candidate.policy.certified]
    assert len(unproven) > 10
    assert np.median(unproven) <= 1.3 * right
    # What is proven takes no more than that either: a proof that does has too few replays.
    assert np.quantile([candidate.policy.fixed_ef for candidate in found], 0.9) <= 2 * right
    # One standard error is a margin for five in six: 0.84, with sixty draws give or take 0.05.
    reached = [means[ef - 10] >= target for ef in unproven]
    assert np.mean(reached) > 0.7


def test_find_fixed_policy_unproven_moves_within_limits(population: ReplaySample) -> None:
    few = population.take(np.arange(60))
    guess = find_fixed_policy(few, Demand(0.99)).policy.fixed_ef
    assert guess > 80

    def serve(serving: int, default: int = 40, caps: EffortCaps = NO_CAPS) -> Policy:
        return find_fixed_policy(few, Demand(0.99), limits=EffortLimits(serving, default, caps)).policy

    assert serve(40).fixed_ef == 80
    assert serve(40).reason.endswith(f"asks for {guess}; 80 serves, at most 2 times what served before")
    assert serve(1000).fixed_ef == guess  # what served without a proof is not kept
    assert serve(guess).fixed_ef == guess
    assert serve(1000, default=800).fixed_ef == 800
    assert serve(1000, default=800).reason.endswith("800 serves until less is proven")
    assert serve(30, default=800).fixed_ef == 60
    assert 40 <= serve(1000, caps=EffortCaps(64)).fixed_ef <= 64
    assert serve(1000, default=800, caps=EffortCaps(64)).fixed_ef == 64
    assert "is proven to reach 0.99 within max_effort 64 with 60" in serve(1000, caps=EffortCaps(64)).reason
    assert not serve(1000).certified


def test_find_fixed_policy_proves_nothing_above_the_caps(population: ReplaySample) -> None:
    sample = draw(population, 1500, 2)
    free = find_fixed_policy(sample, Demand(0.95))
    assert free.policy.certified
    for caps in (EffortCaps(free.policy.fixed_ef // 2), EffortCaps(max_ms=free.ms / 2)):
        capped = find_fixed_policy(sample, Demand(0.95), limits=EffortLimits(caps=caps))
        assert (capped.policy.certified, capped.policy.recall_bound) == (False, 0)
        assert capped.policy.fixed_ef < free.policy.fixed_ef
        assert capped.ms < 0.6 * free.ms
        assert f"within {caps}" in capped.policy.reason
    roomy = EffortLimits(caps=EffortCaps(2 * free.policy.fixed_ef, 2 * free.ms))
    assert find_fixed_policy(sample, Demand(0.95), limits=roomy).policy.certified
    hundred = find_fixed_policy(
        replace(sample, k=100), Demand(0.95), limits=EffortLimits(caps=EffortCaps(10, 1e-6))
    )
    assert hundred.policy.fixed_ef == 100  # k rows take an ef_search of k


def test_find_fixed_policy_for_a_higher_target_never_takes_less_effort(population: ReplaySample) -> None:
    sample = draw(population, 1500, 2)
    efs = [
        find_fixed_policy(sample, Demand(target)).policy.fixed_ef for target in (0.5, 0.8, 0.9, 0.95, 0.97)
    ]
    assert efs == sorted(efs)
    assert efs[0] == 10


def test_find_fixed_policy_with_perfect_recall_finds_the_smallest_setting(population: ReplaySample) -> None:
    easy = replace(population, recall=np.ones_like(population.recall))
    fixed = find_fixed_policy(easy, Demand(0.95))
    assert (fixed.policy.fixed_ef, fixed.policy.certified) == (10, True)
    assert 0.98 < fixed.policy.recall_bound < 1.0  # more than the target is proven too
    assert fixed.policy.tail == 0
    assert fixed.policy.tail_bound == pytest.approx(1 - fixed.policy.recall_bound)
    assert learn_adaptive_policy(easy, fixed.policy, Demand(0.95)) is None  # no probe is shorter than that


def test_find_fixed_policy_ignores_training_weights(population: ReplaySample) -> None:
    sample = draw(population, 900, 13)
    weighted = replace(sample, weight=np.linspace(1, 0.01, 900))
    fixed, same = (find_fixed_policy(each, Demand(0.95)) for each in (sample, weighted))
    assert fixed.policy == same.policy
    adaptive = learn_adaptive_policy(weighted, fixed.policy, Demand(0.95))
    assert adaptive is not None
    heldout = sample.take(np.random.default_rng(0).permutation(900)[300:])
    assert served(adaptive, heldout)[0].mean() == pytest.approx(adaptive.policy.expected_recall, abs=1e-12)


def test_find_fixed_policy_says_that_a_target_is_out_of_reach(population: ReplaySample) -> None:
    capped = replace(population, recall=np.minimum(population.recall, 0.9))
    fixed = find_fixed_policy(capped, Demand(0.95))
    assert not fixed.policy.certified
    assert "no ef_search is proven to reach 0.95 with 500 replays" in fixed.policy.reason
    assert fixed.policy.recall_bound < 0.95
    assert learn_adaptive_policy(capped, fixed.policy, Demand(0.95)) is None


@pytest.mark.parametrize("count", [0, 1, 5, 30, 61])
def test_find_fixed_policy_with_few_replays_proves_nothing(population: ReplaySample, count: int) -> None:
    few = population.take(np.arange(count))
    if count:
        assert not find_fixed_policy(few, Demand(0.99)).policy.certified
    generous = find_fixed_policy(population, Demand(0.95)).policy
    assert learn_adaptive_policy(few, generous, Demand(0.95)) is None


def listed(at: int, *, lists: int = 100, k: int = 10, best: float = 1.0, count: int = 400) -> ReplaySample:
    """Make replays through an IVFFlat index with recall `best` from a number of probes on, 0.5 below."""
    rungs = np.array(ladder.probe_rungs(lists), dtype=np.float64)
    recall = np.tile(np.where(rungs >= at, best, 0.5), (count, 1))
    return ReplaySample(k, {}, recall, np.tile(3 * rungs, (count, 1)), np.tile(rungs / 10, (count, 1)))


@pytest.mark.parametrize("k", [1, 10, 1000])
def test_find_fixed_policy_for_ivfflat_sets_probes(k: int) -> None:
    index = ivfflat(4, lists=100)
    assert 12 in index.rungs
    fixed = find_fixed_policy(listed(12, k=k), Demand(0.95), index=index)
    policy = fixed.policy
    assert (policy.access_path, policy.method, policy.index_no) == ("ivfflat", "ivfflat", 4)
    # Between 8 and 12 probes recall is read between the rungs: 11 give 0.875.
    assert (policy.probes, policy.ef_search, policy.fixed_ef) == (12, None, 12)
    assert (policy.certified, policy.expected_recall, policy.recall_bound) == (True, 1.0, 0.95)
    assert policy.reason == "probes 12 is the smallest proven to reach 0.95"
    assert (policy.k_class, policy.samples, policy.target_recall) == (k, 400, 0.95)
    assert fixed.cost == pytest.approx(36)
    assert fixed.ms == pytest.approx(1.2)
    assert len(fixed.patterns) == 0


def test_find_fixed_policy_for_ivfflat_takes_one_or_all_probes() -> None:
    index = ivfflat(4, lists=100)
    easy = find_fixed_policy(listed(1), Demand(0.95), index=index)
    assert (easy.policy.probes, easy.policy.certified) == (1, True)
    assert 0.98 < easy.policy.recall_bound < 1
    never = find_fixed_policy(listed(12, best=0.94), Demand(0.95), index=index)
    assert (never.policy.probes, never.policy.certified) == (12, False)  # more bring nothing
    assert never.policy.reason == (
        "no probes is proven to reach 0.95 with 400 replays: "
        "their mean with a margin of one standard error asks for 12"
    )
    assert never.policy.recall_bound == 0
    assert never.policy.expected_recall == pytest.approx(0.94)
    assert never.cost == pytest.approx(36)
    assert never.ms == pytest.approx(1.2)
    for lists in (1, 2, 7, 128, 5000):
        fixed = find_fixed_policy(listed(1, lists=lists), Demand(0.95), index=ivfflat(1, lists=lists))
        assert (fixed.policy.probes, fixed.policy.certified) == (1, True)
        worse = find_fixed_policy(
            listed(1, lists=lists, best=0.9), Demand(0.95), index=ivfflat(1, lists=lists)
        )
        assert (worse.policy.probes, worse.policy.certified) == (1, False)


def test_find_fixed_policy_names_the_hnsw_index(population: ReplaySample) -> None:
    plain = find_fixed_policy(population, Demand(0.95))
    named = find_fixed_policy(population, Demand(0.95), index=hnsw(6, form="halfvec"))
    assert plain.policy.index_no is None
    assert named.policy == replace(plain.policy, index_no=6)
    assert (named.cost, named.ms) == (plain.cost, plain.ms)
    assert (named.policy.probes, named.policy.ef_search) == (None, plain.policy.fixed_ef)


def learned(**efs: int) -> list[Policy]:
    """Make the fixed settings of classes of k, k10=40 and the like."""
    return [
        Policy(int(name[1:]), ef, 0.97, 0.95, True, 300, 0.95, "why", index_no=2, tail=0.03, tail_bound=0.1)
        for name, ef in efs.items()
    ]


@pytest.mark.parametrize(
    ("known", "k", "ef"),
    [
        (learned(k10=40), 30, 108),
        (learned(k10=40, k100=200), 300, 538),
        (learned(k100=200, k10=40), 300, 538),  # in whatever order
        (learned(k10=100, k100=400), 1000, 1000),
        (learned(k1=10, k3=90), 10, 266),
        (learned(k1=10, k100=110), 300, 450),  # never fewer than 1.5 * k
        (learned(k30=900, k100=950), 300, 1000),
    ],
)
def test_extrapolate_policy_for_classes_above_all_learned(known: list[Policy], k: int, ef: int) -> None:
    guess = extrapolate_policy(known, k)
    assert (guess.k_class, guess.fixed_ef, guess.ef_search, guess.probes) == (k, ef, ef, None)
    assert np.isnan(guess.expected_recall)
    assert (guess.recall_bound, guess.certified, guess.samples) == (0.0, False, 0)
    assert (guess.tail, guess.tail_bound) == (None, None)
    assert (guess.target_recall, guess.index_no, guess.access_path) == (0.95, 2, "hnsw")
    largest = max(policy.k_class for policy in known)
    assert f"ef_search {ef} follows from what up to {largest} rows take" in guess.reason
    limited = extrapolate_policy(known, k, EffortLimits(50, 50))
    assert limited.fixed_ef == max(k, min(ef, 100))
    assert extrapolate_policy(known, k, EffortLimits(ef, 50, EffortCaps(20))).fixed_ef == max(k, 20)
