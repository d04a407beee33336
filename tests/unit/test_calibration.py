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

from vectuned.learning import ladder
from vectuned.learning.calibration import Candidate, Evidence, adaptive_policy, fixed_policy
from vectuned.learning.optimizer import SearchOptimizer
from vectuned.learning.reasoning_bank import ReasoningBank

Floats = npt.NDArray[np.float64]
DATA = Path(__file__).parents[1] / "data" / "replays.npz"


@pytest.fixture(scope="module")
def population() -> Evidence:
    """Replays of real queries at k = 10."""
    with np.load(DATA) as file:
        probes = {length: file[f"probe_{length}"].astype(np.float64) for length in ladder.PROBES}
        return Evidence(10, probes, file["recall"] / 10.0, file["blocks"].astype(np.float64))


def draw(population: Evidence, count: int, seed: int) -> Evidence:
    """Draw replays with replacement."""
    return population.take(np.random.default_rng(seed).integers(0, len(population), count))


def served(candidate: Candidate, evidence: Evidence) -> tuple[Floats, Floats]:
    """Return recall and cost of each replay under a policy."""
    way = candidate.policy.signature
    if way is None:
        efs = np.full(len(evidence), candidate.policy.fixed_ef)
    else:
        optimizer = SearchOptimizer(ReasoningBank(candidate.patterns), candidate.policy)
        efs = optimizer.ef_search(evidence.probes[way.probe_ef], evidence.k)
    efforts = ladder.effort(efs)[:, None]
    recall = ladder.at_efforts(evidence.recall, efforts)[:, 0]
    return recall, ladder.at_efforts(evidence.cost, efforts)[:, 0]


@pytest.mark.parametrize("target", [0.9, 0.95])
def test_a_certified_fixed_setting_meets_the_target(population: Evidence, target: float) -> None:
    # Each may fail with probability 0.05: of 200, more than 20 with probability 0.0015 at most.
    failures, certified = 0, 0
    for seed in range(200):
        candidate = fixed_policy(draw(population, 300, seed), target, seed=seed)
        if candidate.policy.certified:
            certified += 1
            failures += served(candidate, population)[0].mean() < target
            assert candidate.policy.recall_bound == target
    assert failures <= 20
    assert certified >= 190


def test_a_certified_adaptive_policy_meets_the_target(population: Evidence) -> None:
    # Each may fail with probability 0.05: of 60, more than 9 with probability 0.002 at most.
    failures, found, savings = 0, 0, list[float]()
    for seed in range(60):
        evidence = draw(population, 900, 1000 + seed)
        fixed = fixed_policy(evidence, 0.95, seed=seed)
        adaptive = adaptive_policy(evidence, fixed.policy, seed=seed)
        if adaptive is not None:
            found += 1
            recall, cost = served(adaptive, population)
            failures += recall.mean() < 0.95
            savings.append(served(fixed, population)[1].mean() / cost.mean())
            assert adaptive.policy.recall_bound == 0.95
    assert failures <= 9
    assert found >= 50
    assert np.median(savings) > 1.1


def test_what_was_proven_is_what_is_served(population: Evidence) -> None:
    evidence = draw(population, 900, 7)
    fixed = fixed_policy(evidence, 0.95)
    adaptive = adaptive_policy(evidence, fixed.policy, seed=3)
    assert adaptive is not None
    order = np.random.default_rng(3).permutation(900)
    heldout = evidence.take(order[300:])
    assert adaptive.policy.samples == len(heldout) == 600
    recall, cost = served(adaptive, heldout)
    assert recall.mean() == pytest.approx(adaptive.policy.expected_recall, abs=1e-12)
    assert cost.mean() == pytest.approx(adaptive.cost, rel=1e-12)
    recall, cost = served(fixed, evidence)
    assert recall.mean() == pytest.approx(fixed.policy.expected_recall, abs=1e-12)
    assert cost.mean() == pytest.approx(fixed.cost, rel=1e-12)


def test_the_same_seed_gives_the_same_policy(population: Evidence) -> None:
    evidence = draw(population, 600, 1)
    fixed = fixed_policy(evidence, 0.95)
    one, two = (adaptive_policy(evidence, fixed.policy, seed=5) for _ in range(2))
    assert one is not None
    assert two is not None
    np.testing.assert_array_equal(one.patterns.effort, two.patterns.effort)
    assert one.policy.price == two.policy.price


def test_a_higher_target_never_takes_less_effort(population: Evidence) -> None:
    evidence = draw(population, 1500, 2)
    efs = [fixed_policy(evidence, target).policy.fixed_ef for target in (0.5, 0.8, 0.9, 0.95, 0.97)]
    assert efs == sorted(efs)
    assert efs[0] == 10


def test_the_smallest_setting_is_found_where_all_recall_is_one(population: Evidence) -> None:
    easy = replace(population, recall=np.ones_like(population.recall))
    fixed = fixed_policy(easy, 0.95)
    assert (fixed.policy.fixed_ef, fixed.policy.certified) == (10, True)
    assert 0.98 < fixed.policy.recall_bound < 1.0  # more than was asked for is proven too
    assert adaptive_policy(easy, fixed.policy) is None  # no probe is shorter than that


def test_a_target_out_of_reach_is_said_to_be(population: Evidence) -> None:
    capped = replace(population, recall=np.minimum(population.recall, 0.9))
    fixed = fixed_policy(capped, 0.95)
    assert (fixed.policy.fixed_ef, fixed.policy.certified) == (1000, False)
    assert "no ef_search is proven to reach 0.95 with 500 replays" in fixed.policy.reason
    assert fixed.policy.recall_bound < 0.95
    assert adaptive_policy(capped, fixed.policy) is None


@pytest.mark.parametrize("count", [0, 1, 5, 30, 61])
def test_few_replays_prove_nothing(population: Evidence, count: int) -> None:
    few = population.take(np.arange(count))
    if count:
        assert not fixed_policy(few, 0.99).policy.certified
    generous = fixed_policy(population, 0.95).policy
    assert adaptive_policy(few, generous) is None


def test_probes_that_tell_nothing_do_no_harm(population: Evidence) -> None:
    evidence = draw(population, 900, 3)
    blind = replace(evidence, probes={n: np.tile(p[:1], (900, 1)) for n, p in evidence.probes.items()})
    fixed = fixed_policy(blind, 0.95)
    adaptive = adaptive_policy(blind, fixed.policy)
    assert adaptive is not None
    assert len(adaptive.patterns) == 1
    assert adaptive.cost > 0.95 * fixed.cost  # nothing to gain, and less to prove it with
    assert adaptive.policy.recall_bound == 0.95


def test_probes_shorter_than_asked_get_the_fixed_setting(population: Evidence) -> None:
    evidence = draw(population, 900, 4)
    probes = {length: seen.copy() for length, seen in evidence.probes.items()}
    for seen in probes.values():
        seen[::3, 25:] = np.inf
    short = replace(evidence, probes=probes)
    fixed = fixed_policy(short, 0.95)
    adaptive = adaptive_policy(short, fixed.policy)
    assert adaptive is not None
    optimizer = SearchOptimizer(ReasoningBank(adaptive.patterns), adaptive.policy)
    assert adaptive.policy.signature is not None
    efs = optimizer.ef_search(probes[adaptive.policy.signature.probe_ef], 10)
    assert (efs[::3] == fixed.policy.fixed_ef).all()
    assert (efs[1::3] != fixed.policy.fixed_ef).mean() > 0.5
    every = replace(evidence, probes={n: np.full_like(p, np.inf) for n, p in probes.items()})
    assert adaptive_policy(every, fixed.policy) is None


def test_large_k_takes_long_probes_or_none(population: Evidence) -> None:
    evidence = draw(population, 900, 5)
    hundred = fixed_policy(replace(evidence, k=100), 0.95)
    assert hundred.policy.fixed_ef >= 100
    found = adaptive_policy(replace(evidence, k=100), replace(hundred.policy, fixed_ef=400))
    assert found is not None
    assert found.policy.signature is not None
    assert found.policy.signature.probe_ef == 112
    thousand = fixed_policy(replace(evidence, k=1000), 0.95)
    assert thousand.policy.fixed_ef == 1000
    assert adaptive_policy(replace(evidence, k=1000), thousand.policy) is None


def test_patterns_too_near_to_tell_apart_are_merged(population: Evidence) -> None:
    evidence = draw(population, 900, 6)
    coarse = replace(evidence, probes={n: np.round(p, 1) for n, p in evidence.probes.items()})
    adaptive = adaptive_policy(coarse, fixed_policy(coarse, 0.95).policy)
    assert adaptive is not None
    bank = ReasoningBank(adaptive.patterns)
    assert len(bank) <= 64
    assert bank.consolidate(0.0) == 0
