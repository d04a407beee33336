"""The optimizer: interpolation between patterns, reach, limits, and the fixed fallback."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from vectuned.learning.model.ladder import position_of
from vectuned.learning.patterns.optimizer import Policy, SearchOptimizer, blend, effort_to_setting
from vectuned.learning.patterns.reasoning_bank import Patterns, ReasoningBank
from vectuned.learning.patterns.signature import COMPONENTS, FEATURES, Signature

Floats = npt.NDArray[np.float64]

# The signature of a probe is 100 times its first distance, and nothing else.
WAY = Signature(10, 28, np.zeros(FEATURES), np.pad([[100.0]], ((0, FEATURES - 1), (0, COMPONENTS - 1))))
POLICY = Policy(10, 90, 0.96, 0.951, True, 500, 0.95, "why", WAY, reach=20.0)
FIXED = replace(POLICY, signature=None, reach=0.0, reason="fixed")


def probe(first: float) -> Floats:
    """Make a probe whose signature is 100 times `first` in its first place and 0 in the others."""
    return np.concatenate([[first], np.zeros(27)])


def bank(places: list[float], efforts: list[float]) -> ReasoningBank:
    """Make patterns on a line, with efforts."""
    count = len(places)
    centroids = np.zeros((count, 4), np.float32)
    centroids[:, 0] = places
    samples = np.arange(1, count + 1, dtype=np.int64)
    return ReasoningBank(
        replace(
            Patterns.at_centroids(centroids),
            samples=samples,
            effort=np.array(efforts, dtype=np.float64),
            expected_recall=np.linspace(0.9, 0.99, count),
            confidence=samples / (samples + 10.0),
        )
    )


def test_optimizer_weights_three_neighbours_by_nearness() -> None:
    optimizer = SearchOptimizer(bank([0, 10, 20, 500], [4.0, 6.0, 10.0, 13.0]), POLICY)
    found, expected, confidence = optimizer.efforts(probe(0.02)[None, :])  # at 2
    weight = np.array([1 / 10, 1 / 16, 1 / 26])
    assert found[0] == pytest.approx(weight @ [4, 6, 10] / weight.sum())
    assert expected[0] == pytest.approx(weight @ [0.9, 0.93, 0.96] / weight.sum())
    assert confidence[0] == pytest.approx(weight @ [1 / 11, 2 / 12, 3 / 13] / weight.sum())


def test_optimizer_interpolates_between_its_neighbours() -> None:
    rng = np.random.default_rng(1)
    patterns = bank(rng.integers(-300, 300, 64).tolist(), rng.uniform(2, 13, 64).tolist())
    optimizer = SearchOptimizer(patterns, replace(POLICY, reach=1e9))
    probes = np.stack([probe(first) for first in rng.uniform(-4, 4, 500)])
    found, _, _ = optimizer.efforts(probes)
    numbers, _ = patterns.lookup(WAY.transform(probes))
    near = patterns.patterns.effort[numbers]
    assert (found >= near.min(axis=1) - 1e-9).all()
    assert (found <= near.max(axis=1) + 1e-9).all()


def test_optimizer_works_with_one_or_two_patterns() -> None:
    assert SearchOptimizer(bank([0], [5.0]), POLICY).efforts(probe(0.0)[None, :])[0] == [5.0]
    found = SearchOptimizer(bank([0, 10], [5.0, 7.0]), POLICY).efforts(probe(0.05)[None, :])[0]
    assert found[0] == pytest.approx(6.0)


def test_optimizer_decides_many_probes_as_it_decides_each() -> None:
    optimizer = SearchOptimizer(bank([0, 10, 20, 500], [4.0, 6.0, 10.0, 13.0]), POLICY)
    firsts = np.linspace(-0.5, 6, 100)
    many = optimizer.ef_search(np.stack([probe(f) for f in firsts]), 10)
    single = [optimizer.optimize(probe(f), 10) for f in firsts]
    assert many.tolist() == [params.ef_search for params in single]
    assert {params.access_path for params in single} == {"hnsw", "hnsw_adaptive"}


def test_optimizer_out_of_reach_uses_the_fixed_setting() -> None:
    optimizer = SearchOptimizer(bank([0, 10], [4.0, 6.0]), POLICY)
    inside, outside = optimizer.optimize(probe(0.30), 10), optimizer.optimize(probe(0.31), 10)
    assert inside.access_path == "hnsw_adaptive"  # at 30, 20 from the nearest: reach is included
    assert inside.reason == "why"
    assert outside.access_path == "hnsw"
    assert outside.ef_search == POLICY.fixed_ef
    assert outside.expected_recall == POLICY.expected_recall
    assert outside.confidence == 0.95
    assert outside.reason == "unlike anything learned: the fixed setting"


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_optimizer_with_an_incomplete_probe_uses_the_fixed_setting(broken: float) -> None:
    optimizer = SearchOptimizer(bank([0, 10], [4.0, 6.0]), POLICY)
    cut = probe(0.0)
    cut[20:] = broken
    whole = probe(0.0)
    found, _, _ = optimizer.efforts(np.stack([cut, whole]))
    assert np.isnan(found[0])
    assert np.isfinite(found[1])
    assert optimizer.optimize(cut, 10).ef_search == 90
    assert optimizer.optimize(whole[:20], 10).ef_search == 90
    assert optimizer.ef_search(np.zeros((3, 0)), 10).tolist() == [90, 90, 90]


def test_optimizer_without_bank_or_signature_uses_the_fixed_setting() -> None:
    for optimizer in (
        SearchOptimizer(ReasoningBank(), POLICY),
        SearchOptimizer(bank([0], [5.0]), FIXED),
        SearchOptimizer(ReasoningBank(), replace(FIXED, certified=False)),
    ):
        params = optimizer.optimize(probe(0.0), 10)
        assert (params.access_path, params.ef_search) == ("hnsw", 90)
        assert params.expected_recall == 0.96
        assert params.confidence == (0.95 if optimizer.policy.certified else 0.0)
    assert FIXED.access_path == "hnsw"
    assert POLICY.access_path == "hnsw_adaptive"


def test_optimizer_accepts_no_probes() -> None:
    optimizer = SearchOptimizer(bank([0], [5.0]), POLICY)
    assert optimizer.ef_search(np.zeros((0, 28)), 10).shape == (0,)


@pytest.mark.parametrize(
    ("policy", "found", "k", "ef"),
    [
        (FIXED, np.nan, 10, 90),
        (FIXED, np.nan, 200, 200),
        (replace(FIXED, fixed_ef=5000), np.nan, 10, 1000),
        (POLICY, np.nan, 10, 90),
        (replace(POLICY, fixed_ef=12), np.nan, 10, 28),  # the effort of the probe itself
        (POLICY, 0.0, 10, 28),
        (POLICY, 99.0, 10, 1000),
        (POLICY, -99.0, 10, 28),
        (POLICY, 5.5, 10, 68),
    ],
)
def test_effort_to_setting_stays_within_limits(policy: Policy, found: float, k: int, ef: int) -> None:
    assert effort_to_setting(found, policy, k) == ef


def test_effort_to_setting_keeps_shapes() -> None:
    wanted = np.array([[1.0, np.nan, 9.0], [5.0, 13.0, np.nan]])
    served = effort_to_setting(wanted, POLICY, 10)
    assert served.tolist() == [[28, 90, 224], [56, 1000, 90]]
    assert served.dtype == np.int64
    assert position_of(served).shape == (2, 3)


def test_blend_adds_in_order_of_nearness() -> None:
    values = np.array([[0.1], [0.2], [0.3]])
    distances = np.array([[1.0, 2.0, 3.0]])
    total = norm = 0.0
    for number, distance in zip((2, 0, 1), (1.0, 2.0, 3.0), strict=True):
        total, norm = total + 1 / (distance + 8) * float(values[number, 0]), norm + 1 / (distance + 8)
    got = blend(values, np.array([[2, 0, 1]]), distances, 100.0)
    assert got[0, 0] == total / norm  # to the last bit, added as in the database
