"""Signatures: what a probe saw, in whole numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from vectuned.learning.model.ladder import K_CLASSES, PROBES
from vectuned.learning.patterns.signature import (
    COMPONENTS,
    FEATURES,
    GRID_LIMIT,
    GRID_SCALE,
    Signature,
    feature_ranks,
    features,
    fit_signature,
)

Floats = npt.NDArray[np.float64]
DATA = Path(__file__).parents[3] / "data" / "replays.npz"


def real(length: int) -> tuple[Floats, Floats]:
    """Read probes and recall curves of real queries."""
    with np.load(DATA) as file:
        return file[f"probe_{length}"].astype(np.float64), file["recall"] / 10.0


@pytest.mark.parametrize(
    ("k", "length"), [(k, length) for k in K_CLASSES for length in PROBES if length >= k + 4]
)
def test_feature_ranks_rise_from_the_first_to_the_last(k: int, length: int) -> None:
    chosen = feature_ranks(k, length)
    assert chosen[:2] == (1, k)
    assert chosen[-1] == length
    assert list(chosen[1:]) == sorted(set(chosen[1:]))


def test_features_of_a_known_probe() -> None:
    probe = np.arange(1.0, 29.0)[None, :]  # the distance at rank r is r
    expected = [1, 10, 28, 5.5, 9 / 27, 4 / 27, 9 / 27, 13 / 27]
    np.testing.assert_allclose(features(probe, 10, 28)[0], expected)


def test_features_of_a_probe_without_spread_are_finite() -> None:
    assert np.isfinite(features(np.full((2, 28), 0.25), 10, 28)).all()


def test_transform_returns_whole_numbers_within_limits() -> None:
    probes, recall = real(56)
    signature = fit_signature(probes, 10, 56, recall)
    wild = np.vstack([probes, probes * 1e9, -probes * 1e9, np.zeros((1, 56))])
    signatures = signature.transform(wild)
    assert signatures.dtype == np.float32
    assert signatures.shape == (len(wild), COMPONENTS)
    np.testing.assert_array_equal(signatures, np.rint(signatures))
    assert np.abs(signatures).max() == GRID_LIMIT


def test_transform_adds_in_the_order_of_the_database() -> None:
    probes, recall = real(28)
    signature = fit_signature(probes, 10, 28, recall)
    shifted = features(probes, 10, 28) - signature.center
    for row, expected_row in zip(shifted.tolist(), signature.transform(probes).tolist(), strict=True):
        for component in range(COMPONENTS):
            total = row[0] * float(signature.weights[0, component])
            for feature in range(1, FEATURES):
                total = total + row[feature] * float(signature.weights[feature, component])
            assert expected_row[component] == max(min(round(total), 1000), -1000)


def test_transform_of_a_probe_does_not_depend_on_others() -> None:
    probes, recall = real(56)
    signature = fit_signature(probes, 10, 56, recall)
    together = signature.transform(probes)
    for i in range(0, len(probes), 50):
        np.testing.assert_array_equal(signature.transform(probes[i : i + 1])[0], together[i])


@pytest.mark.parametrize("length", PROBES)
def test_fit_signature_on_real_queries_predicts_need(length: int) -> None:
    probes, recall = real(length)
    need = (recall < 0.95).sum(axis=1)
    signature = fit_signature(probes[:250], 10, length, recall[:250])
    signatures = signature.transform(probes[250:])
    # The first direction explains most, so it has the widest scale; it must hold for other queries.
    assert np.argmax(signatures.std(axis=0)) == 0
    assert 0.5 * GRID_SCALE < signatures[:, 0].std() < 2 * GRID_SCALE
    assert abs(np.corrcoef(signatures[:, 0], need[250:])[0, 1]) > 0.3


def test_fit_signature_twice_gives_the_same_weights() -> None:
    probes, recall = real(56)
    one, two = fit_signature(probes, 10, 56, recall), fit_signature(probes, 10, 56, recall)
    np.testing.assert_array_equal(one.weights, two.weights)


def test_fit_signature_does_not_depend_on_the_scale_of_distances() -> None:
    probes, recall = real(56)
    scaled = probes * 2.0**20
    one = fit_signature(probes, 10, 56, recall).transform(probes)
    two = fit_signature(scaled, 10, 56, recall).transform(scaled)
    assert np.abs(one - two).max() <= 1


@pytest.mark.parametrize("k", [1, 3])
def test_fit_signature_for_small_k_with_repeated_features_predicts_need(k: int) -> None:
    probes, recall = real(28)
    signature = fit_signature(probes, k, 28, recall)
    assert_usable(signature, probes)
    need = (recall < 0.95).sum(axis=1)
    assert abs(np.corrcoef(signature.transform(probes)[:, 0], need)[0, 1]) > 0.3


def assert_usable(signature: Signature, probes: Floats) -> None:
    """Check that signatures are finite and spread enough for their distances to mean something."""
    assert np.isfinite(signature.weights).all()
    signatures = signature.transform(probes)
    assert np.isfinite(signatures).all()
    assert np.abs(signatures).max() < GRID_LIMIT
    assert signatures[:, 0].std() > 0.5 * GRID_SCALE


def test_fit_signature_with_nothing_to_learn_gives_zeros() -> None:
    probes, recall = real(56)
    same = np.tile(probes[:1], (100, 1))
    for signature, seen in (
        (fit_signature(same, 10, 56, recall[:100]), same),
        (fit_signature(probes, 10, 56, np.ones_like(recall)), probes),
        (fit_signature(probes[:1], 10, 56, recall[:1]), probes),
    ):
        assert (signature.transform(seen) == 0).all()


def test_fit_signature_finds_the_only_difference_of_probes() -> None:
    rng = np.random.default_rng(3)
    size = rng.uniform(1, 2, 200)
    probes = np.arange(1, 57) * size[:, None]
    recall = np.clip(np.linspace(0.5, 1, 14) * (3 - size[:, None]), 0, 1)
    signature = fit_signature(probes, 10, 56, recall)
    assert_usable(signature, probes)
    assert abs(np.corrcoef(signature.transform(probes)[:, 0], size)[0, 1]) > 0.99


def test_fit_signature_accepts_recall_that_varies_in_one_rung_or_row() -> None:
    probes, recall = real(56)
    one_rung = np.ones_like(recall)
    one_rung[:, 0] = recall[:, 0]
    assert_usable(fit_signature(probes, 10, 56, one_rung), probes)
    one_row = np.ones_like(recall)
    one_row[3, 0] = 0.9
    assert np.isfinite(fit_signature(probes, 10, 56, one_row).transform(probes)).all()
