"""Patterns from one pass of learning to the next: weights by age, usage, inheritance, pruning."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from vectuned.learning.model.ladder import PROBES
from vectuned.learning.patterns.lineage import (
    PreviousPolicy,
    count_lookups,
    inherit_usage,
    prune_unused,
    training_weights,
)
from vectuned.learning.patterns.optimizer import Policy
from vectuned.learning.patterns.reasoning_bank import Patterns, ReasoningBank, confidence_from_samples
from vectuned.learning.patterns.signature import Signature, fit_signature

Floats = npt.NDArray[np.float64]
DATA = Path(__file__).parents[3] / "data" / "replays.npz"


@pytest.fixture(scope="module")
def probes() -> dict[int, Floats]:
    """The distances that the probes of 500 real searches saw."""
    with np.load(DATA) as file:
        return {length: file[f"probe_{length}"].astype(np.float64) for length in PROBES}


@pytest.fixture(scope="module")
def signature(probes: dict[int, Floats]) -> Signature:
    """A projection from probes to signatures."""
    with np.load(DATA) as file:
        return fit_signature(probes[56], 10, 56, file["recall"] / 10.0)


def policy(signature: Signature | None, reach: float = 1000.0) -> Policy:
    return Policy(10, 100, 0.95, 0.95, True, 500, 0.95, "", signature=signature, reach=reach)


def scattered(probes: dict[int, Floats], signature: Signature, count: int, seed: int) -> Patterns:
    """Make patterns at the signatures of some of the searches."""
    signatures = np.unique(signature.transform(probes[56]), axis=0)
    return Patterns.at_centroids(np.random.default_rng(seed).permutation(signatures)[:count])


def met(patterns: Patterns, probes: dict[int, Floats], signature: Signature) -> npt.NDArray[np.int64]:
    return ReasoningBank(patterns).lookup(signature.transform(probes[56]), 1)[0][:, 0]


def test_training_weights_fall_with_age() -> None:
    counted = training_weights(np.arange(10_000), 0.1, 200)
    assert (counted[:601] == 1.0).all()
    assert (np.diff(counted[600:]) < 0).all()
    assert counted[800] == pytest.approx(0.9)
    assert counted[4600] == pytest.approx(0.9**20)
    assert (training_weights(np.arange(1000), 1.0, 200) == (np.arange(1000) <= 600)).all()
    assert training_weights(np.arange(0), 0.1, 200).shape == (0,)


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 1.0])
def test_training_weights_leave_enough_replays_at_any_rate(rate: float) -> None:
    counted = training_weights(np.arange(10_000), rate, 200)
    assert counted.sum() ** 2 / (counted**2).sum() >= 600
    assert ((counted >= 0) & (counted <= 1)).all()


def test_count_lookups_adds_new_and_fades_old_ones() -> None:
    two = replace(
        Patterns.at_centroids(np.array([[0, 0, 0, 0], [100, 0, 0, 0]], np.float32)),
        usage=np.array([50.0, 0.0]),
        chances=np.array([50.0, 10.0]),
    )
    seen = np.array([[1, 0, 0, 0]] * 20 + [[90, 5, 0, 0]] * 180, np.float32)
    after = count_lookups(two, seen, 0.1, 200)
    np.testing.assert_allclose(after.usage, [0.9 * 50 + 20, 180])
    np.testing.assert_allclose(after.chances, [0.9 * 50 + 200, 0.9 * 10 + 200])
    for rate in (0.1, 1.0):
        same = count_lookups(two, seen[:0], rate, 200)
        assert (same.usage.tolist(), same.chances.tolist()) == ([50, 0], [50, 10])
    assert count_lookups(two, seen, 1.0, 200).usage.tolist() == [20, 180]
    assert len(count_lookups(Patterns.empty(), seen, 0.1, 200)) == 0


def test_inherit_usage_by_the_same_patterns_changes_nothing(
    probes: dict[int, Floats], signature: Signature
) -> None:
    old = scattered(probes, signature, 20, 1)
    old = replace(old, usage=np.arange(20.0), chances=np.full(20, 300.0), born=1.8e9 + np.arange(20.0))
    own = met(old, probes, signature)
    heirs = inherit_usage(
        Patterns.at_centroids(old.centroids), own, probes, PreviousPolicy(policy(signature), old)
    )
    np.testing.assert_allclose(heirs.usage, old.usage)
    np.testing.assert_allclose(heirs.chances, old.chances)
    np.testing.assert_array_equal(heirs.born, old.born)


def test_inherit_usage_keeps_total_usage_and_the_oldest_age(
    probes: dict[int, Floats], signature: Signature
) -> None:
    old = scattered(probes, signature, 30, 2)
    rng = np.random.default_rng(3)
    old = replace(
        old, usage=rng.uniform(0, 9, 30), chances=rng.uniform(0, 99, 30), born=rng.uniform(1e9, 2e9, 30)
    )
    # Another projection of the same searches: inheritance goes by searches, not by coordinates.
    turned = replace(signature, weights=-signature.weights[:, ::-1])
    new = scattered(probes, turned, 25, 4)
    heirs = inherit_usage(new, met(new, probes, turned), probes, PreviousPolicy(policy(signature), old))
    asked = np.unique(met(old, probes, signature))
    assert heirs.usage.sum() == pytest.approx(old.usage[asked].sum())
    assert set(heirs.born) <= set(old.born)
    assert (heirs.chances <= old.chances.max()).all()
    np.testing.assert_array_equal(heirs.centroids, new.centroids)


def test_inherit_usage_out_of_reach_of_past_patterns_gives_new_ones(
    probes: dict[int, Floats], signature: Signature
) -> None:
    old = replace(
        Patterns.at_centroids(np.full((1, 4), 900, np.float32)), usage=np.ones(1), born=np.full(1, 1.8e9)
    )
    new = scattered(probes, signature, 10, 5)
    own = met(new, probes, signature)
    for past in (
        PreviousPolicy(policy(signature, 1.0), old),
        PreviousPolicy(policy(None), old),
        PreviousPolicy(policy(signature), Patterns.empty()),
    ):
        heirs = inherit_usage(new, own, probes, past)
        assert not np.column_stack([heirs.born, heirs.usage, heirs.chances]).any()
    cut = {length: np.where(np.arange(length) < 20, seen, np.inf) for length, seen in probes.items()}
    assert not inherit_usage(new, own, cut, PreviousPolicy(policy(signature), old)).born.any()


def test_prune_unused_keeps_patterns_that_are_too_new() -> None:
    rng = np.random.default_rng(6)
    for _ in range(50):
        count = int(rng.integers(1, 80))
        samples = rng.integers(0, 6, count)
        drawn = replace(
            Patterns.at_centroids(np.arange(4 * count, dtype=np.float32).reshape(-1, 4)),
            samples=samples,
            confidence=confidence_from_samples(samples),
            usage=rng.choice([0.0, 0.5, 1.0, 20.0], count),
            chances=rng.uniform(0, 10 * count, count),
        )
        bank = ReasoningBank(drawn)
        dropped = prune_unused(bank)
        gone = (drawn.usage < 1) & (samples < 3) & (drawn.chances >= 5 * count)
        assert dropped == gone.sum()
        np.testing.assert_array_equal(bank.patterns.centroids, drawn.centroids[~gone])


def test_prune_unused_without_lookups_deletes_nothing() -> None:
    bank = ReasoningBank(Patterns.at_centroids(np.arange(40, dtype=np.float32).reshape(-1, 4)))
    assert prune_unused(bank) == 0
    assert len(bank) == 10
