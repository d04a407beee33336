"""Effort by query is proven on replays that its patterns were not learned from, or it does not serve."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from tests.unit.replays_helpers import MS_PER_BLOCK, draw, served, tail

from vectuned.learning.model import ladder
from vectuned.learning.patterns.lineage import PreviousPolicy, count_lookups
from vectuned.learning.patterns.optimizer import SearchOptimizer
from vectuned.learning.patterns.reasoning_bank import ReasoningBank
from vectuned.learning.policy.calibration import find_fixed_policy, learn_adaptive_policy
from vectuned.learning.statistics.demand import Demand
from vectuned.learning.statistics.replay_sample import ReplaySample

Floats = npt.NDArray[np.float64]


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
