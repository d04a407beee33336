"""Bounds of the figures of searches."""

from __future__ import annotations

import numpy as np
import pytest

from vectuned.daemon.measure.intervals import bootstrap_interval, summarize_searches, time_ratios


def test_bootstrap_interval_of_a_mean_covers_it_as_often_as_promised() -> None:
    # 95 % of 200 intervals are 190; 178 or fewer have a probability under 1e-3 at 95 % coverage.
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        interval = bootstrap_interval(lambda x: x.mean(axis=-1), (rng.exponential(size=200),), seed)
        covered += interval["at_least"] <= 1.0 <= interval["at_most"]
    assert covered > 178


def test_time_ratios_of_the_same_times_scaled_are_the_scale() -> None:
    millis = np.random.default_rng(1).exponential(size=300) + 1.0
    for ratio in time_ratios(2 * millis, millis, seed=1).values():
        assert ratio == {"value": 2.0, "at_least": 2.0, "at_most": 2.0}


def test_summarize_searches_returns_the_means_between_their_bounds() -> None:
    recall = np.repeat([1.0, 0.9, 0.5], [70, 20, 10])
    figures = summarize_searches(np.arange(100.0), recall, seed=1)
    assert figures["queries"] == 100
    assert figures["recall"]["value"] == pytest.approx(recall.mean())
    assert figures["below_08"]["value"] == pytest.approx(0.1)
    assert (figures["mean_ms"]["value"], figures["p50_ms"]["value"]) == (49.5, 49.5)
    for name in ("recall", "below_08", "mean_ms", "p50_ms", "p99_ms"):
        assert figures[name]["at_least"] <= figures[name]["value"] <= figures[name]["at_most"]
