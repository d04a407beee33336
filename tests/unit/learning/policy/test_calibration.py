"""Calibration: what is certified must hold, and what cannot be learned must not be served.

The population is 500 real replays; a repetition draws from it with replacement, so that the recall a policy
really has is known: its mean over the population.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tests.unit.samples_helpers import hnsw, ivfflat

from vectuned.learning.model import ladder
from vectuned.learning.patterns.lineage import PreviousPolicy, count_lookups
from vectuned.learning.patterns.optimizer import Policy, SearchOptimizer
from vectuned.learning.patterns.reasoning_bank import Patterns, ReasoningBank
from vectuned.learning.policy.calibration import (
    Candidate,
    ReplaySample,
    extrapolate_policy,
    find_fixed_policy,
    learn_adaptive_policy,
)
from vectuned.learning.policy.limits import NO_CAPS, EffortCaps, EffortLimits
from vectuned.learning.statistics.demand import Demand

Floats = npt.NDArray[np.float64]
MS_PER_BLOCK = 0.002
DATA = Path(__file__).parents[3] / "data" / "replays.npz"


@pytest.fixture(scope="module")
def population() -> ReplaySample:
    """Read replays of real queries at k = 10."""
    with np.load(DATA) as file:
        probes = {length: file[f"probe_{length}"].astype(np.float64) for length in ladder.PROBES}
        blocks = file["blocks"].astype(np.float64)
        return ReplaySample(10, probes, file["recall"] / 10.0, blocks, MS_PER_BLOCK * blocks)


def draw(population: ReplaySample, count: int, seed: int) -> ReplaySample:
    """Draw replays with replacement."""
    return population.take(np.random.default_rng(seed).integers(0, len(population), count))


def efforts(candidate: Candidate, sample: ReplaySample) -> Floats:
    """Return the position on the ladder that each replay is served with, (n, 1)."""
    signature = candidate.policy.signature
    if signature is None:
        efs = np.full(len(sample), candidate.policy.fixed_ef)
    else:
        optimizer = SearchOptimizer(ReasoningBank(candidate.patterns), candidate.policy)
        efs = optimizer.ef_search(sample.probes[signature.probe_ef], sample.k)
    return ladder.position_of(efs)[:, None]


def served(candidate: Candidate, sample: ReplaySample) -> tuple[Floats, Floats]:
    """Return recall and cost of each replay under a policy."""
    at = efforts(candidate, sample)
    return ladder.interpolate(sample.recall, at)[:, 0], ladder.interpolate(sample.cost, at)[:, 0]


def tail(candidate: Candidate, sample: ReplaySample) -> float:
    """Return the share of replays with a recall under 0.8 under a policy, interpolated between the rungs."""
    return 1 - float(sample.recall_at(efforts(candidate, sample))[1].mean())


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


def test_learn_adaptive_policy_certified_meets_the_target(population: ReplaySample) -> None:
    # Each may fail with probability 0.05: of 60, more than 9 with probability 0.002 at most.
    failures, found, savings = 0, 0, list[float]()
    for seed in range(60):
        sample = draw(population, 900, 1000 + seed)
        fixed = find_fixed_policy(sample, Demand(0.95, seed=seed))
        adaptive = learn_adaptive_policy(sample, fixed.policy, Demand(0.95, seed=seed))
        if adaptive is not None:
            found += 1
            recall, cost = served(adaptive, population)
            failures += recall.mean() < 0.95
            savings.append(served(fixed, population)[1].mean() / cost.mean())
            assert adaptive.policy.recall_bound == 0.95
    assert failures <= 9
    assert found >= 50
    assert np.median(savings) > 1.1


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


def test_learn_adaptive_policy_certified_keeps_a_binding_tail_limit(population: ReplaySample) -> None:
    # Each may fail with probability 0.05: of 20, more than 4 with probability 0.003 at most.
    failures, found = 0, 0
    for seed in range(20):
        sample = draw(population, 900, 1000 + seed)
        demand = Demand(0.9, seed=seed, max_tail=0.07)
        adaptive = learn_adaptive_policy(sample, find_fixed_policy(sample, demand).policy, demand)
        if adaptive is not None:
            found += 1
            failures += tail(adaptive, population) > 0.07
            assert adaptive.policy.tail_bound == 0.07
            assert adaptive.policy.tail is not None
            assert adaptive.policy.tail < 0.07
    assert failures <= 4
    assert found >= 15


def test_learn_adaptive_policy_does_not_trade_the_tail_for_the_mean(population: ReplaySample) -> None:
    # A quarter of the searches, which their probes show, finds three rows of four with little effort and the
    # fourth only with all; the others find everything from 160 on. The mean is cheap, the tail is not.
    spread = population.probes[56][:, -1] - population.probes[56][:, 0]
    hard = (spread < np.quantile(spread, 0.25))[:, None]
    efs = np.array(ladder.RUNGS)
    recall = np.where(hard, np.where(efs < 1000, 0.75, 1.0), np.where(efs < 160, 0.5, 1.0))
    sample = draw(replace(population, recall=recall), 900, 8)
    free, bound = Demand(0.9), Demand(0.9, max_tail=0.15)
    tails = {}
    for demand in (free, bound):
        fixed = find_fixed_policy(sample, demand)
        assert fixed.policy.certified
        adaptive = learn_adaptive_policy(sample, fixed.policy, demand)
        assert adaptive is not None
        assert adaptive.cost < 0.9 * fixed.cost
        tails[demand] = tail(adaptive, sample)
    assert tails[free] > 0.2
    assert tails[bound] < 0.15


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


def test_learn_adaptive_policy_gives_no_pattern_more_than_the_cap(population: ReplaySample) -> None:
    sample = draw(population, 900, 7)
    fixed = find_fixed_policy(sample, Demand(0.9))
    cap = fixed.policy.fixed_ef
    free = learn_adaptive_policy(sample, fixed.policy, Demand(0.9))
    capped = learn_adaptive_policy(sample, fixed.policy, Demand(0.9), max_effort=cap)
    assert free is not None
    assert free.patterns.effort.max() > ladder.position_of(cap)
    assert capped is None or capped.patterns.effort.max() <= ladder.position_of(cap)


def test_learn_adaptive_policy_serves_what_was_proven(population: ReplaySample) -> None:
    sample = draw(population, 900, 7)
    fixed = find_fixed_policy(sample, Demand(0.95))
    adaptive = learn_adaptive_policy(sample, fixed.policy, Demand(0.95, seed=3))
    assert adaptive is not None
    order = np.random.default_rng(3).permutation(900)
    heldout = sample.take(order[300:])
    assert adaptive.policy.samples == len(heldout) == 600
    recall, cost = served(adaptive, heldout)
    assert recall.mean() == pytest.approx(adaptive.policy.expected_recall, abs=1e-12)
    assert cost.mean() == pytest.approx(adaptive.cost, rel=1e-12)
    recall, cost = served(fixed, sample)
    assert recall.mean() == pytest.approx(fixed.policy.expected_recall, abs=1e-12)
    assert cost.mean() == pytest.approx(fixed.cost, rel=1e-12)
    assert fixed.ms == pytest.approx(MS_PER_BLOCK * fixed.cost)
    assert np.isnan(adaptive.ms)  # only a measurement end to end tells the time of probe and lookup


def test_learn_adaptive_policy_with_the_same_seed_gives_the_same_policy(population: ReplaySample) -> None:
    sample = draw(population, 600, 1)
    fixed = find_fixed_policy(sample, Demand(0.95))
    one, two = (learn_adaptive_policy(sample, fixed.policy, Demand(0.95, seed=5)) for _ in range(2))
    assert one is not None
    assert two is not None
    np.testing.assert_array_equal(one.patterns.effort, two.patterns.effort)
    assert one.policy.price == two.policy.price


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


def failures_of(population: ReplaySample, count: int) -> ReplaySample:
    """Draw searches that the default setting failed, as counter-examples are stored."""
    failed = np.flatnonzero(ladder.interpolate(population.recall, [4.0])[:, 0] < 0.8)
    counter_examples = population.take(np.random.default_rng(11).choice(failed, count))
    return replace(counter_examples, weight=np.full(count, 0.1))


def test_learn_adaptive_policy_uses_counter_examples_only_in_training(population: ReplaySample) -> None:
    sample = draw(population, 900, 12)
    fixed = find_fixed_policy(sample, Demand(0.95)).policy
    plain = learn_adaptive_policy(sample, fixed, Demand(0.95))
    counter_examples = failures_of(population, 90)
    taught = learn_adaptive_policy(sample, fixed, Demand(0.95), counter_examples=counter_examples)
    assert plain is not None
    assert taught is not None
    assert taught.policy.samples == plain.policy.samples == 600
    assert not np.array_equal(taught.patterns.centroids, plain.patterns.centroids)
    heldout = sample.take(np.random.default_rng(0).permutation(900)[300:])
    recall, cost = served(taught, heldout)
    assert recall.mean() == pytest.approx(taught.policy.expected_recall, abs=1e-12)
    assert cost.mean() == pytest.approx(taught.cost, rel=1e-12)
    # An empty sample of counter-examples changes nothing.
    none = learn_adaptive_policy(
        sample, fixed, Demand(0.95), counter_examples=counter_examples.take(np.arange(0))
    )
    assert none is not None
    np.testing.assert_array_equal(none.patterns.effort, plain.patterns.effort)


def test_find_fixed_policy_ignores_training_weights(population: ReplaySample) -> None:
    sample = draw(population, 900, 13)
    weighted = replace(sample, weight=np.linspace(1, 0.01, 900))
    fixed, same = (find_fixed_policy(each, Demand(0.95)) for each in (sample, weighted))
    assert fixed.policy == same.policy
    adaptive = learn_adaptive_policy(weighted, fixed.policy, Demand(0.95))
    assert adaptive is not None
    heldout = sample.take(np.random.default_rng(0).permutation(900)[300:])
    assert served(adaptive, heldout)[0].mean() == pytest.approx(adaptive.policy.expected_recall, abs=1e-12)


def test_learn_adaptive_policy_over_several_passes_meets_the_target(population: ReplaySample) -> None:
    # Each may fail with probability 0.05: of 40, more than 7 with probability 0.002 at most.
    failures, found, past = 0, 0, None
    counter_examples, demand = failures_of(population, 60), Demand(0.95)
    for seed in range(40):
        sample = replace(draw(population, 900, 3000 + seed), weight=np.linspace(1, 0.3, 900))
        fixed = find_fixed_policy(sample, demand).policy
        adaptive = learn_adaptive_policy(sample, fixed, demand, counter_examples=counter_examples, past=past)
        if adaptive is None:
            continue
        found += 1
        failures += served(adaptive, population)[0].mean() < 0.95
        signature = adaptive.policy.signature
        assert signature is not None
        # Held-out searches are looked up too, as in service.
        asked = signature.transform(sample.probes[signature.probe_ef])
        born = np.where(adaptive.patterns.born > 0, adaptive.patterns.born, 1.0 + seed)
        past = PreviousPolicy(
            adaptive.policy, count_lookups(replace(adaptive.patterns, born=born), asked, 0.1, 200)
        )
    assert failures <= 7
    assert found >= 34
    assert past is not None
    assert (past.patterns.born == 1.0).mean() > 0.9  # forty passes later they still descend from the first


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


def test_learn_adaptive_policy_with_uninformative_probes_does_no_harm(population: ReplaySample) -> None:
    sample = draw(population, 900, 3)
    blind = replace(sample, probes={n: np.tile(p[:1], (900, 1)) for n, p in sample.probes.items()})
    fixed = find_fixed_policy(blind, Demand(0.95))
    adaptive = learn_adaptive_policy(blind, fixed.policy, Demand(0.95))
    assert adaptive is not None
    assert len(adaptive.patterns) == 1
    assert adaptive.cost > 0.95 * fixed.cost  # nothing to gain, and less to prove it with
    assert adaptive.policy.recall_bound == 0.95


def test_learn_adaptive_policy_with_incomplete_probes_uses_the_fixed_setting(
    population: ReplaySample,
) -> None:
    sample = draw(population, 900, 4)
    probes = {length: seen.copy() for length, seen in sample.probes.items()}
    for seen in probes.values():
        seen[::3, 25:] = np.inf
    short = replace(sample, probes=probes)
    fixed = find_fixed_policy(short, Demand(0.95))
    adaptive = learn_adaptive_policy(short, fixed.policy, Demand(0.95))
    assert adaptive is not None
    optimizer = SearchOptimizer(ReasoningBank(adaptive.patterns), adaptive.policy)
    assert adaptive.policy.signature is not None
    efs = optimizer.ef_search(probes[adaptive.policy.signature.probe_ef], 10)
    assert (efs[::3] == fixed.policy.fixed_ef).all()
    assert (efs[1::3] != fixed.policy.fixed_ef).mean() > 0.5
    every = replace(sample, probes={n: np.full_like(p, np.inf) for n, p in probes.items()})
    assert learn_adaptive_policy(every, fixed.policy, Demand(0.95)) is None


def test_learn_adaptive_policy_for_large_k_takes_long_probes_or_none(population: ReplaySample) -> None:
    sample = draw(population, 900, 5)
    hundred = find_fixed_policy(replace(sample, k=100), Demand(0.95))
    assert hundred.policy.fixed_ef >= 100
    found = learn_adaptive_policy(replace(sample, k=100), replace(hundred.policy, fixed_ef=400), Demand(0.95))
    assert found is not None
    assert found.policy.signature is not None
    assert found.policy.signature.probe_ef == 112
    thousand = find_fixed_policy(replace(sample, k=1000), Demand(0.95))
    assert thousand.policy.fixed_ef == 1000
    assert learn_adaptive_policy(replace(sample, k=1000), thousand.policy, Demand(0.95)) is None


def test_learn_adaptive_policy_merges_near_patterns(population: ReplaySample) -> None:
    sample = draw(population, 900, 6)
    coarse = replace(sample, probes={n: np.round(p, 1) for n, p in sample.probes.items()})
    adaptive = learn_adaptive_policy(coarse, find_fixed_policy(coarse, Demand(0.95)).policy, Demand(0.95))
    assert adaptive is not None
    bank = ReasoningBank(adaptive.patterns)
    assert len(bank) <= 64
    assert bank.consolidate(0.0) == 0


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
