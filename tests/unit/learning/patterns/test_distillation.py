"""Distillation: from signatures and curves to patterns, and from patterns to efforts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from vectuned.learning.model.ladder import HIGHEST_POSITION, RUNGS
from vectuned.learning.patterns.distillation import BANDWIDTH, choose_efforts, distil, estimate_curves
from vectuned.learning.patterns.reasoning_bank import Patterns, check_patterns
from vectuned.learning.patterns.signature import fit_signature

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]


def drawn(count: int, seed: int) -> tuple[Singles, Floats, Floats]:
    """Draw signatures whose curves depend on the first coordinate: the larger, the harder."""
    rng = np.random.default_rng(seed)
    signatures = np.rint(rng.normal(0, 64, (count, 4))).astype(np.float32)
    hardness = 1 / (1 + np.exp(-signatures[:, :1] / 40))
    chance = 1 - hardness * np.exp(-np.arange(14) / 3)
    recall = np.sort(rng.binomial(10, chance) / 10, axis=1)
    return signatures, recall, np.cumsum(rng.uniform(50, 100, (count, 14)), axis=1)


def test_distil_returns_valid_patterns_that_account_for_every_replay() -> None:
    signatures, recall, cost = drawn(1000, 1)
    patterns = distil(signatures, recall, cost)
    check_patterns(patterns)
    assert len(patterns) == 64
    assert patterns.samples.sum() == 1000
    assert (np.diff(patterns.recall, axis=1) >= -1e-6).all()
    assert (np.diff(patterns.cost, axis=1) > 0).all()


def test_distil_with_the_same_seed_gives_the_same_patterns() -> None:
    one, two = distil(*drawn(400, 2), seed=7), distil(*drawn(400, 2), seed=7)
    for name in vars(one):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_estimate_curves_averages_replays_weighted_by_nearness() -> None:
    signatures, recall, cost = drawn(300, 3)
    patterns = distil(signatures, recall, cost, clusters=5)
    for centroid, got in zip(patterns.centroids.astype(float), patterns.recall, strict=True):
        weight = np.exp(-((signatures - centroid) ** 2).sum(axis=1) / (2 * BANDWIDTH**2))
        near = weight @ recall / weight.sum()
        effective = weight.sum() ** 2 / (weight**2).sum()
        expected = (effective * near + recall.mean(axis=0)) / (effective + 1)
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_estimate_curves_predicts_other_replays_better_than_cluster_means() -> None:
    with np.load(Path(__file__).parents[3] / "data" / "replays.npz") as file:
        probes, recall = file["probe_56"].astype(np.float64), file["recall"] / 10.0
        cost = file["blocks"].astype(np.float64)
    signature = fit_signature(probes[:300], 10, 56, recall[:300])
    signatures = signature.transform(probes)
    patterns = distil(signatures[:300], recall[:300], cost[:300])
    nearest = ((signatures[:, None] - patterns.centroids[None]) ** 2).sum(axis=2).argmin(axis=1)
    members = np.array([recall[:300][nearest[:300] == i].mean(axis=0) for i in range(len(patterns))])
    errors = [((curves[nearest[300:]] - recall[300:]) ** 2).mean() for curves in (patterns.recall, members)]
    general = ((recall[:300].mean(axis=0) - recall[300:]) ** 2).mean()
    assert errors[0] < 0.95 * errors[1]
    assert errors[0] < 0.95 * general


def test_distil_ignores_replays_of_weight_zero() -> None:
    signatures, recall, cost = drawn(600, 4)
    counted = np.arange(600) % 3 < 2
    weighted = distil(signatures, recall, cost, weight=np.where(counted, 0.5, 0.0), clusters=1)
    alone = distil(signatures[counted], recall[counted], cost[counted], clusters=1)
    np.testing.assert_array_equal(weighted.centroids, alone.centroids)
    np.testing.assert_allclose(weighted.recall, alone.recall, rtol=1e-6)
    np.testing.assert_allclose(weighted.cost, alone.cost, rtol=1e-6)
    assert weighted.samples.tolist() == [200]  # four hundred that count half
    assert weighted.confidence[0] < alone.confidence[0]
    assert len(distil(signatures, recall, cost, weight=np.where(np.arange(600) < 40, 1.0, 0.0))) == 10


def test_distil_follows_the_replays_with_weight() -> None:
    signatures, recall, cost = drawn(1000, 5)
    worse = np.maximum(recall - 0.2, 0.0)
    both = np.vstack([signatures, signatures]), np.vstack([recall, worse]), np.vstack([cost, cost])
    means = [
        float(distil(*both, weight=np.where(np.arange(2000) < 1000, 1.0, old)).recall.mean())
        for old in (1.0, 0.3, 0.0)
    ]
    assert means == sorted(means)
    assert means[2] == pytest.approx(distil(signatures, recall, cost).recall.mean(), abs=0.01)


def test_estimate_curves_of_moved_patterns_follows_their_new_place() -> None:
    signatures, recall, cost = drawn(500, 12)
    patterns = distil(signatures, recall, cost, clusters=8)
    moved = replace(patterns, centroids=patterns.centroids[::-1].copy(), usage=np.arange(8.0))
    again = estimate_curves(moved, signatures, recall, cost)
    np.testing.assert_allclose(again.recall, patterns.recall[::-1], rtol=1e-6)
    np.testing.assert_array_equal(again.samples, patterns.samples[::-1])
    np.testing.assert_array_equal(again.usage, np.arange(8.0))


def test_estimate_curves_shrinks_a_lone_replay_towards_the_mean() -> None:
    signatures, recall, cost = drawn(400, 6)
    signatures[:4] = 900.0
    recall[:4] = 0.0
    patterns = distil(signatures, recall, cost, clusters=20)
    lonely = patterns.centroids[:, 0] > 800
    assert lonely.sum() == 1
    np.testing.assert_allclose(patterns.recall[lonely][0], recall.mean(axis=0) / 5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5, 20])
def test_distil_accepts_few_replays(count: int) -> None:
    signatures, recall, cost = drawn(count, 7)
    patterns = distil(signatures, recall, cost)
    check_patterns(patterns)
    assert 1 <= len(patterns) <= max(1, count // 4)


def test_distil_with_one_signature_gives_one_pattern() -> None:
    signatures, recall, cost = drawn(200, 8)
    patterns = distil(np.zeros_like(signatures), recall, cost)
    assert len(patterns) == 1
    np.testing.assert_allclose(patterns.recall[0], recall.mean(axis=0), atol=1e-6)


def known() -> Patterns:
    """Make two patterns: an easy one, and one that needs the top of the ladder."""
    curves = np.array([np.ones(14), np.linspace(0, 1, 14)], dtype=np.float32)
    cost = np.tile(np.arange(1, 15, dtype=np.float32) * 100, (2, 1))
    return replace(Patterns.at_centroids(np.zeros((2, 4), np.float32)), recall=curves, cost=cost)


def test_choose_efforts_gives_easy_patterns_less_than_hard_ones() -> None:
    effort, expected = choose_efforts(known(), price=1e-5, lowest=2.0)
    assert effort.tolist() == [2.0, HIGHEST_POSITION]
    assert expected.tolist() == [1.0, 1.0]
    effort, expected = choose_efforts(known(), price=1.0, lowest=2.0)
    assert effort.tolist() == [2.0, 2.0]
    np.testing.assert_allclose(expected, [1.0, 2 / 13], atol=1e-6)


def test_choose_efforts_at_a_higher_price_never_gives_more() -> None:
    patterns = distil(*drawn(1000, 9))
    efforts = [choose_efforts(patterns, price, 3.0)[0] for price in np.geomspace(1e-2, 1e-9, 60)]
    assert (np.diff(np.array(efforts), axis=0) >= 0).all()
    assert (np.array(efforts) >= 3.0).all()
    assert (np.array(efforts) <= HIGHEST_POSITION).all()


def test_choose_efforts_expects_recall_between_0_and_1() -> None:
    patterns = distil(*drawn(500, 10))
    full = replace(patterns, recall=np.ones_like(patterns.recall))
    for price in (0.0, 1e-6, 1.0):
        _, expected = choose_efforts(full, price, 0.0)
        assert (expected == 1.0).all()
    assert len(RUNGS) == patterns.recall.shape[1]
