"""Milliseconds of searches by themselves, by a line through some that were run by themselves."""

from __future__ import annotations

import numpy as np

from vectuned.learning.model.arrays import Floats, Ints
from vectuned.learning.model.ladder import RUNGS
from vectuned.learning.replay.client_ms import MIN_TIMED, bound_delays, convert_ms

EFFORTS = np.array(RUNGS, dtype=np.float64)
LINE = 0.3 + 0.002 * EFFORTS


def timed(count: int, seed: int = 0) -> tuple[Ints, Floats]:
    """Return searches by themselves: places in the ladder, and milliseconds."""
    rng = np.random.default_rng(seed)
    place = rng.integers(0, len(RUNGS), count)
    return place, LINE[place] * rng.lognormal(0.0, 0.2, count)


def scans(count: int, seed: int = 1) -> Floats:
    """Return milliseconds of continued scans, which jump at the 11th rung."""
    rng = np.random.default_rng(seed)
    factor = rng.lognormal(0.0, 0.2, (count, 1))
    return np.asarray(factor * (LINE + 0.003 * EFFORTS + 4.0 * (EFFORTS > 320)))


def test_convert_ms_gives_the_mean_of_searches_by_themselves() -> None:
    ms = scans(300)
    converted = convert_ms(ms, EFFORTS, *timed(300))
    np.testing.assert_allclose(converted.mean(axis=0), LINE, rtol=0.1)
    # The proportions of the searches stay.
    np.testing.assert_allclose(converted[:, 3] / converted[0, 3], ms[:, 3] / ms[0, 3])


def test_convert_ms_without_enough_timed_searches_changes_nothing() -> None:
    ms = scans(50)
    assert convert_ms(ms, EFFORTS, *timed(MIN_TIMED - 1)) is ms
    assert convert_ms(ms[:0], EFFORTS, *timed(50)).shape == (0, len(RUNGS))


def test_convert_ms_ignores_delayed_searches() -> None:
    ms, (place, fresh) = scans(300), timed(300)
    delayed = fresh.copy()
    delayed[:15] += 1000.0
    np.testing.assert_allclose(
        convert_ms(ms, EFFORTS, place, delayed), convert_ms(ms, EFFORTS, place, fresh), rtol=0.06
    )


def test_convert_ms_never_falls_with_the_effort_and_is_positive() -> None:
    rng = np.random.default_rng(3)
    for _ in range(50):
        place, fresh = rng.integers(0, len(RUNGS), 25), rng.lognormal(0, 1, 25)
        mean = convert_ms(scans(40), EFFORTS, place, fresh).mean(axis=0)
        assert (mean > 0).all()
        assert (np.diff(mean) >= -1e-12).all()


def test_bound_delays_bounds_each_column_by_its_own_median() -> None:
    ms = np.array([[1.0, 10.0, np.nan], [2.0, 20.0, np.nan], [900.0, np.nan, np.nan]])
    np.testing.assert_array_equal(
        bound_delays(ms), np.array([[1.0, 10.0, np.nan], [2.0, 20.0, np.nan], [10.0, np.nan, np.nan]])
    )
    np.testing.assert_array_equal(bound_delays(np.array([1.0, 1.0, 7.0])), [1.0, 1.0, 5.0])
    assert np.isnan(bound_delays(np.full(3, np.nan))).all()
