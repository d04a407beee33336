"""The choice of a target by objective, and the prices of targets."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.samples_helpers import hnsw, partial, tuned_column

from vectuned.learning.model.ladder import RUNGS
from vectuned.learning.patterns.optimizer import Policy
from vectuned.learning.patterns.reasoning_bank import Patterns
from vectuned.learning.policy.calibration import Candidate
from vectuned.learning.policy.learner import LearningOptions
from vectuned.learning.policy.replays import Replays
from vectuned.learning.policy.tuning import (
    MAX_SLOWDOWN,
    TARGETS,
    Objective,
    TargetPrice,
    choose_target,
    joint_confidence,
    price_targets,
)

N = 14
OBJECTIVES: tuple[Objective, ...] = ("recall", "latency", "balanced")


def price(target: float, ms: float, *, proven: bool = True) -> TargetPrice:
    policy = Policy(10, 100, target, target, proven, 500, target, "")
    return TargetPrice(target, {10: Candidate(policy, Patterns.empty(), 1.0, ms)}, ms, proven, 1)


def offered(*curve: tuple[float, float], proven_up_to: float = 1.0) -> list[TargetPrice]:
    return [price(target, ms, proven=target <= proven_up_to) for target, ms in curve]


# As measured on WordNet's glosses: the higher the recall, the more each step costs.
GLOSSES = ((0.9, 2.0), (0.95, 3.2), (0.98, 5.0), (0.99, 7.2), (0.995, 11.0))


@pytest.mark.parametrize(
    ("objective", "start", "target"),
    [
        ("latency", 0, 0.9),
        ("latency", 2, 0.98),
        ("recall", 0, 0.95),  # 0.98 takes 2.5 times as long
        ("recall", 1, 0.98),
        ("recall", 2, 0.99),
        ("recall", 4, 0.995),
        ("balanced", 0, 0.95),  # the knee is at 0.98, which takes too long
        ("balanced", 1, 0.98),
        ("balanced", 2, 0.99),
        ("balanced", 3, 0.99),  # one higher target alone has no knee
        ("balanced", 4, 0.995),
    ],
)
def test_choose_target_by_the_rule_of_each_objective(objective: Objective, start: int, target: float) -> None:
    chosen, why = choose_target(offered(*GLOSSES[start:]), objective)
    assert chosen.target == target
    assert f"{target:g}" in why


def test_choose_target_takes_only_proven_targets() -> None:
    curve = offered(*GLOSSES[1:], proven_up_to=0.95)
    for objective in OBJECTIVES:
        chosen, _ = choose_target(curve, objective)
        assert chosen.target == 0.95
    assert choose_target(curve, "balanced")[1] == "0.95 stays: no higher target is proven"
    curve = offered(*GLOSSES[1:], proven_up_to=0.5)
    for objective in OBJECTIVES:
        chosen, why = choose_target(curve, objective)
        assert chosen.target == 0.95
        assert why == "not even the current target 0.95 is proven, so it stays"


def test_choose_target_takes_higher_targets_that_cost_nothing() -> None:
    chosen, why = choose_target(offered((0.95, 1.0), (0.98, 1.0), (0.99, 1.0)), "balanced")
    assert (chosen.target, why) == (0.99, "0.99 is proven at no more time")
    # Here 0.98 costs nothing, and 0.99 does.
    assert choose_target(offered((0.95, 1.0), (0.98, 1.0), (0.99, 1.5)), "balanced")[0].target == 0.98


def test_choose_target_finds_the_knee_as_a_naive_search_does() -> None:
    """Find the knee step by step: a step pays if it costs less for its recall than all steps on average."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        targets = np.sort(rng.choice(np.arange(0.5, 0.999, 0.003), size=6, replace=False))
        slopes = np.sort(rng.exponential(size=5))
        ms = 1.0 + np.concatenate([[0.0], np.cumsum(slopes * np.diff(targets))])
        ms = 1.0 + 0.9 * (ms - 1.0) / (ms[-1] - 1.0)  # all within twice the time
        average = (ms[-1] - ms[0]) / (targets[-1] - targets[0])
        expected = 0
        while (ms[expected + 1] - ms[expected]) / (targets[expected + 1] - targets[expected]) < average:
            expected += 1
        chosen, _ = choose_target(offered(*zip(targets, ms, strict=True)), "balanced")
        assert chosen.target == targets[expected]
        highest, _ = choose_target(offered(*zip(targets, ms * [1, 1, 1, 1, 1, 9], strict=True)), "recall")
        assert highest.target == targets[4]
        assert highest.ms <= MAX_SLOWDOWN * ms[0]


def replays(ks: tuple[int, ...], recall: float, ms: float, *, seed: int = 0, count: int = 1000) -> Replays:
    """Make replays whose mean recall rises to 1 with the effort; time is proportional to effort."""
    rng = np.random.default_rng(seed)
    steps = np.linspace(0, 1, N)
    mean = recall + (1.0 - recall) * np.minimum(1.0, 1.3 * steps)
    curves = np.clip(mean + 0.02 * rng.normal(size=(count, len(ks), 1)) * (1 - mean), 0, 1)
    times = np.tile(ms * np.array(RUNGS) / RUNGS[0], (count, 1))
    nothing = np.full((count, len(ks), N), np.nan)
    return Replays(
        search_classes=rng.choice(ks, size=count).astype(np.int64),
        k_classes=ks,
        probes={},
        recall=curves,
        blocks=times,
        ms=times,
        fraction=np.full(count, np.nan),
        filtered_recall=nothing,
        matches=np.zeros((count, N), dtype=np.int64),
        exact_ms=np.full(count, np.nan),
        other_recall=np.full((count, N), np.nan),
        other_ms=np.full((count, N), np.nan),
        shapes=(None,) * count,
    )


def test_price_targets_from_the_current_one_upwards() -> None:
    main = hnsw()
    seen = replays((10,), 0.8, 1.0)
    found = price_targets([(main, seen)], tuned_column(main, target_recall=0.95), LearningOptions())
    assert [each.target for each in found] == [0.95, 0.98, 0.99, 0.995]
    assert all(each.proven and each.proofs == 1 for each in found)
    efforts = [each.settings[10].policy.fixed_ef for each in found]
    assert efforts == sorted(efforts)
    assert all(each.ms == each.settings[10].ms for each in found)
    assert [
        each.target
        for each in price_targets([(main, seen)], tuned_column(main, target_recall=0.7), LearningOptions())
    ] == [
        0.7,
        *TARGETS,
    ]
    assert joint_confidence(found, 0.95) == pytest.approx(0.8)
    assert joint_confidence(found * 10, 0.95) == 0.0


def test_price_targets_by_the_quickest_proven_index() -> None:
    main, halved, part = hnsw(1), hnsw(2, form="halfvec"), partial(3, '{"kind": 1}', 0.1)
    slow, quick, tiny = replays((10,), 0.8, 1.0), replays((10,), 0.8, 0.5), replays((10,), 1.0, 0.01)
    found = price_targets(
        [(main, slow), (halved, quick), (part, tiny)], tuned_column(main, halved, part), LearningOptions()
    )
    assert all(each.settings[10].policy.index_no == 2 for each in found)
    assert all(each.proofs == 2 for each in found)
    # A quick index that never reaches the target does not count.
    poor = replays((10,), 0.3, 0.001)
    poor.recall[:] = np.minimum(poor.recall, 0.9)
    found = price_targets([(main, slow), (halved, poor)], tuned_column(main, halved), LearningOptions())
    assert all(each.settings[10].policy.index_no == 1 for each in found)


def test_price_targets_weights_classes_by_their_searches() -> None:
    main = hnsw()
    seen = replays((10, 100), 0.8, 1.0)
    found = price_targets([(main, seen)], tuned_column(main), LearningOptions())[0]
    shares = [(seen.search_classes == k).mean() for k in (10, 100)]
    ms = [found.settings[k].ms for k in (10, 100)]
    assert found.ms == pytest.approx(np.dot(shares, ms))
    assert found.proofs == 2
    # One class that cannot be proven leaves the target unproven.
    seen.recall[:, 1] = np.minimum(seen.recall[:, 1], 0.9)
    found = price_targets([(main, seen)], tuned_column(main), LearningOptions())[0]
    assert (found.settings[10].policy.certified, found.proven) == (True, False)
    # A class without searches does not count.
    seen.search_classes[:] = 10
    assert price_targets([(main, seen)], tuned_column(main), LearningOptions())[0].proven


def test_price_targets_without_enough_replays_is_empty() -> None:
    main = hnsw()
    assert price_targets([], tuned_column(main), LearningOptions()) == []
    assert (
        price_targets(
            [(main, replays((10,), 0.8, 1.0, count=99))],
            tuned_column(main, min_samples=100),
            LearningOptions(),
        )
        == []
    )
