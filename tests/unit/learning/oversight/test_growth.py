"""How effort grows with a table, by the replays at two sizes of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.learning.policy.test_replays import replays as make_replays
from tests.unit.samples_helpers import hnsw, ivfflat, tuned_column

from vectuned.learning.model.ladder import RUNGS
from vectuned.learning.oversight.growth import USUAL_POWER, estimate_power
from vectuned.learning.policy.replays import Replays

INDEX = hnsw()


def grown(sizes: dict[float, int], counts: int = 150) -> Replays:
    """Make replays at the class 10, with recall 1 from the ef_search given for each size of the table on."""
    seen = make_replays(0, counts * len(sizes))
    rows = np.repeat(list(sizes), counts)
    at = np.repeat(list(sizes.values()), counts)[:, None]
    recall = seen.recall.copy()
    recall[:, 0] = np.where(np.array(RUNGS) >= at, 1.0, 0.5)
    return replace(seen, recall=recall, rows=rows)


def test_estimate_power_compares_the_smallest_and_the_largest_size() -> None:
    power = estimate_power(grown({10_000: 40, 20_000: 56, 160_000: 160}), INDEX, tuned_column(INDEX))
    assert power == pytest.approx(0.5, abs=0.02)  # four times the effort for sixteen times the rows


@pytest.mark.parametrize(
    "sizes", [{10_000: 40}, {10_000: 40, 11_000: 160}, {0: 40, 10_000: 160}, {float("nan"): 40, 10_000: 160}]
)
def test_estimate_power_without_two_sizes_is_the_usual_one(sizes: dict[float, int]) -> None:
    assert estimate_power(grown(sizes), INDEX, tuned_column(INDEX)) == USUAL_POWER


def test_estimate_power_takes_min_samples_at_each_size() -> None:
    few = grown({10_000: 40, 160_000: 160}, counts=90)
    assert estimate_power(few, INDEX, tuned_column(INDEX, min_samples=100)) == USUAL_POWER
    assert estimate_power(few, INDEX, tuned_column(INDEX, min_samples=90)) == pytest.approx(0.5, abs=0.02)


def test_estimate_power_stays_between_0_and_1() -> None:
    tuned = tuned_column(INDEX)
    assert estimate_power(grown({10_000: 160, 160_000: 40}), INDEX, tuned) == 0
    assert estimate_power(grown({10_000: 10, 20_000: 640}), INDEX, tuned) == 1


def test_estimate_power_by_probes() -> None:
    index = ivfflat(3, lists=1000)
    # Positions on the ladder decide: 40 and 160 are its fifth and ninth rung.
    expected = np.log(index.rungs[8] / index.rungs[4]) / np.log(16)
    power = estimate_power(grown({10_000: 40, 160_000: 160}), index, tuned_column(index))
    assert power == pytest.approx(expected, abs=0.03)
