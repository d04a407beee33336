"""The ladder of efforts: positions, settings, and curves between the rungs."""

from __future__ import annotations

import numpy as np
import pytest

from vectuned.config.errors import UsageError
from vectuned.learning.model.ladder import (
    HIGHEST_POSITION,
    K_CLASSES,
    PROBES,
    RUNGS,
    interpolate,
    k_class,
    position_of,
    probe_rungs,
    setting_at,
)


def test_k_class_is_the_smallest_class_not_below_k() -> None:
    for k in range(1, 1001):
        below = [bound for bound in K_CLASSES if bound < k]
        assert k <= k_class(k)
        assert all(bound < k_class(k) for bound in below)
        assert k_class(k) in K_CLASSES
    assert [k_class(k) for k in (1, 2, 3, 4, 10, 11, 1000)] == [1, 3, 3, 10, 10, 30, 1000]


@pytest.mark.parametrize("k", [0, -1, 1001])
def test_k_class_refuses_a_k_out_of_range(k: int) -> None:
    with pytest.raises(UsageError, match=f"k must be between 1 and 1000, got {k}"):
        k_class(k)


def test_setting_at_and_position_of_map_rungs_to_positions() -> None:
    positions = np.arange(len(RUNGS))
    np.testing.assert_array_equal(setting_at(positions, 1), RUNGS)
    np.testing.assert_array_equal(position_of(RUNGS), positions)
    assert positions[-1] == HIGHEST_POSITION
    assert set(PROBES) <= set(RUNGS)


def test_setting_at_inverts_position_of_for_every_ef_search() -> None:
    efs = np.arange(RUNGS[0], RUNGS[-1] + 1)
    np.testing.assert_array_equal(setting_at(position_of(efs), 1), efs)


def test_setting_at_is_linear_between_rungs_and_never_falls() -> None:
    assert setting_at(0.5, 1) == 12
    assert setting_at(12.5, 1) == 820
    assert (np.diff(setting_at(np.linspace(0, HIGHEST_POSITION, 5001), 1)) >= 0).all()


def test_setting_at_is_at_least_k_and_at_most_what_pgvector_accepts() -> None:
    assert setting_at(0.0, 300) == 300
    assert setting_at(-5.0, 1) == 10
    assert setting_at(99.0, 1) == 1000
    assert setting_at(HIGHEST_POSITION, 1000) == 1000
    assert setting_at([0.0, 9.0], 200).tolist() == [200, 224]


def test_interpolate_is_linear_between_rungs() -> None:
    curves = np.stack([np.arange(14.0), np.arange(14.0) ** 2])
    np.testing.assert_allclose(interpolate(curves, [0.0, 2.5, 13.0]), [[0, 2.5, 13], [0, 6.5, 169]])
    np.testing.assert_allclose(interpolate(curves, [[1.5], [1.5]]), [[1.5], [2.5]])
    np.testing.assert_allclose(interpolate(curves, [-3.0, 99.0]), [[0, 13], [0, 169]])
    assert interpolate(np.zeros((0, 14)), [1.0, 2.0]).shape == (0, 2)


def test_interpolate_keeps_recall_within_0_and_1() -> None:
    rng = np.random.default_rng(1)
    curves = np.sort(rng.random((2000, 14)), axis=1)
    curves[:, -1] = 1.0
    curves[:, 0] = 0.0
    read = interpolate(curves, rng.uniform(0, HIGHEST_POSITION, (2000, 20)))
    assert read.min() >= 0.0
    assert read.max() <= 1.0


def test_interpolate_returns_float64_for_float32_curves() -> None:
    curve = np.linspace(0, 1, 14, dtype=np.float32)[None, :]
    assert interpolate(curve, [0.3]).dtype == np.float64


@pytest.mark.parametrize(
    ("lists", "highest"),
    [(1, 1), (2, 2), (100, 100), (128, 128), (200, 128), (1000, 253), (10_000, 800), (32_768, 1448)],
)
def test_probe_rungs_are_as_many_as_those_of_ef_search(lists: int, highest: int) -> None:
    rungs = probe_rungs(lists)
    assert len(rungs) == len(RUNGS)
    assert (rungs[0], rungs[-1]) == (1, highest)
    assert list(rungs) == sorted(rungs)
    assert all(isinstance(rung, int) for rung in rungs)
    steps = np.array(rungs[1:]) / np.array(rungs[:-1])
    assert steps.max() <= 2


@pytest.mark.parametrize("lists", [2, 100, 1000, 10_000])
def test_position_of_and_setting_at_cover_every_number_of_probes(lists: int) -> None:
    rungs = probe_rungs(lists)
    every = np.arange(1, rungs[-1] + 1)
    positions = position_of(every, rungs)
    assert positions[-1] == HIGHEST_POSITION
    assert (np.diff(positions) > 0).all()
    # The curve of the number of probes itself is recovered at each of them, also where rungs repeat.
    curve = np.array(rungs, dtype=np.float64)[None, :]
    np.testing.assert_allclose(interpolate(curve, positions)[0], every)
    np.testing.assert_array_equal(setting_at(positions, 1, rungs), every)
