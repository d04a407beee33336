"""The length of blocks that count as independent draws; comments state how improbable chance failures are."""

from __future__ import annotations

import numpy as np
import pytest

from vectuned.learning.statistics.bounds import find_smallest_safe
from vectuned.learning.statistics.dependence import block_length, block_means


def test_block_length_of_independent_values_is_one() -> None:
    # It is not 1 with probability 1 / 1000: more than 3 of 300 with probability 0.0003.
    rng = np.random.default_rng(1)
    samples = [np.where(rng.random(400) < 0.1, rng.random(400), 1.0) for _ in range(300)]
    assert sum(block_length(sample) != 1 for sample in samples) <= 3


@pytest.mark.parametrize("burst", [3, 5, 10])
def test_block_length_of_bursts_covers_most_of_a_burst(burst: int) -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        lengths = rng.geometric(1.0 / burst, size=1000)
        values = np.repeat(rng.random(1000), lengths)[:1000]
        assert burst / 2 < block_length(values) <= 16 * burst


def test_block_length_ignores_a_change_of_level_and_constant_values() -> None:
    rng = np.random.default_rng(3)
    values = np.where(rng.random(800) < 0.1, 0.5, 1.0)
    values[600:] -= 0.05
    assert block_length(values) == 1
    assert block_length(np.ones(500)) == block_length(np.empty(0)) == block_length(rng.random(31)) == 1


def test_block_means_drop_the_rows_after_the_last_whole_block() -> None:
    values = np.arange(14.0).reshape(7, 2)
    assert block_means(values, 1) is values
    assert block_means(values, 3).tolist() == [[2.0, 3.0], [8.0, 9.0]]
    assert block_means(values, 8).shape == (0, 2)


@pytest.mark.parametrize("burst", [1, 5, 25])
def test_proofs_from_block_means_err_no_more_often_than_promised(burst: int) -> None:
    # 95 % proofs from single replays were wrong in 30 % of the runs with bursts of 5, in 39 % with 25. At a
    # true error rate of 5 %, 200 runs have 20 errors or more with probability 0.003.
    rng = np.random.default_rng(4)
    means = np.array([0.90, 0.92, 0.94, 0.949, 0.96, 0.99])
    wrong = 0
    for seed in range(200):
        hardness = np.repeat(rng.random(-(-1000 // burst)), burst)[:1000, None]
        curves = (hardness < means).astype(np.float64)
        safe = find_smallest_safe(block_means(curves, block_length(curves.mean(axis=1))), 0.95, seed=seed)
        wrong += safe is not None and means[safe] < 0.95
    assert wrong < 20
