"""Recall by distance, of answers and of scans."""

from __future__ import annotations

import numpy as np
import pytest

from vectuned.config.errors import UsageError
from vectuned.learning.truth.recall import recall_at_k, recall_curve
from vectuned.learning.truth.truth import Truth


def truth_of(distances: list[list[float]], tolerance: float = 0.0) -> Truth:
    """Build a truth from sorted distances, padding included."""
    values = np.array(distances)
    none = np.full(values.shape, -1, dtype=np.int64)
    counts = np.isfinite(values).sum(axis=1)
    return Truth(values, np.where(np.isfinite(values), tolerance, 0.0), counts, none, none, 0)


def test_recall_at_k_counts_rows_no_farther_than_the_kth() -> None:
    truth = truth_of([[0.1, 0.2, 0.3, 0.4]] * 4)
    returned = [[0.1, 0.2, 0.3], [0.3, 0.1, 0.5], [0.4, 0.5, np.inf], [np.inf] * 3]
    np.testing.assert_allclose(recall_at_k(returned, truth, 3), [1, 2 / 3, 0, 0])
    np.testing.assert_allclose(recall_at_k(returned, truth, [3, 2, 4, 1]), [1, 1 / 2, 1 / 4, 0])


def test_recall_at_k_accepts_any_of_equally_distant_rows() -> None:
    truth = truth_of([[0.1, 0.2, 0.2]], tolerance=1e-6)
    assert recall_at_k([[0.1, 0.2 + 5e-7, 0.2, 0.2]], truth, 2) == [1.0]
    assert recall_at_k([[0.2 + 5e-7, 0.2 + 5e-7]], truth, 3, tolerance=0.0) == [0.0]
    assert recall_at_k([[0.2 + 5e-7, 0.3, 0.3]], truth, 3) == [1 / 3]


def test_recall_at_k_does_not_let_ties_stand_in_for_nearer_rows() -> None:
    # Five nearer rows were missed, and ten rows as far as the tenth returned: not a recall of 1.
    nearer, tied = [0.1, 0.11, 0.12, 0.13, 0.14], [0.2] * 5
    truth = truth_of([nearer + tied], tolerance=1e-6)
    assert recall_at_k([[0.2] * 10], truth, 10) == [0.5]
    assert recall_at_k([[*nearer[:2], *[0.2 + 9e-7] * 8]], truth, 10) == [0.7]
    assert recall_at_k([[*nearer, *[0.2 - 9e-7] * 20]], truth, 10) == [1.0]
    curve = recall_curve([[*[0.2] * 10, *nearer]], [5, 10, 12, 15], truth, 10)
    assert curve.tolist() == [[0.5, 0.5, 0.7, 1.0]]


def test_recall_at_k_allows_for_rounding_of_distances_near_the_kth() -> None:
    # A row nearer by less than twice the tolerance may be returned with the distance of the k-th, or the
    # other way round.
    truth = truth_of([[0.1, 0.2 - 1.5e-6, 0.2, 0.3]], tolerance=1e-6)
    for returned in (
        [0.1, 0.2 - 0.6e-6, 0.2],
        [0.1, 0.2 - 2.4e-6, 0.2 + 0.9e-6],
        [0.1, 0.2 - 1.5e-6, 0.2 - 0.9e-6],
    ):
        assert recall_at_k([returned], truth, 3) == [1.0]


def test_recall_at_k_is_1_where_fewer_rows_exist_and_all_are_returned() -> None:
    truth = truth_of([[0.1, 0.2, np.inf], [np.inf, np.inf, np.inf]])
    np.testing.assert_allclose(recall_at_k([[0.2, np.inf], [np.inf, np.inf]], truth, 3), [0.5, 1.0])
    np.testing.assert_allclose(recall_at_k(np.empty((2, 0)), truth, 3), [0.0, 1.0])


def test_recall_at_k_refuses_a_k_above_that_of_the_truth() -> None:
    with pytest.raises(UsageError, match="Recall at 5 was asked of a truth that holds 2"):
        recall_at_k([[0.1]], truth_of([[0.1, 0.2]]), 5)


def test_recall_curve_is_the_recall_of_every_prefix() -> None:
    rng = np.random.default_rng(11)
    k = rng.integers(1, 21, 30)
    everything = rng.random((30, 200))
    truth = truth_of(np.sort(everything, axis=1)[:, :20].tolist())
    scanned = np.where(rng.random((30, 200)) < 0.9, everything, np.inf)
    rungs = np.array([0, 1, 10, 40, 160, 200, 1000])
    curve = recall_curve(scanned, rungs, truth, k)
    assert curve.shape == (30, 7)
    for column, rung in enumerate(rungs):
        np.testing.assert_allclose(curve[:, column], recall_at_k(scanned[:, :rung], truth, k))
    assert (np.diff(curve, axis=1) >= 0).all()
    own = rng.integers(0, 200, (30, 3))
    each = recall_curve(scanned, own, truth, k)
    for query in range(30):
        alone = recall_curve(scanned, own[query], truth, k)
        np.testing.assert_allclose(each[query], alone[query])
