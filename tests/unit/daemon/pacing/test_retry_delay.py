"""Delays between retries."""

from __future__ import annotations

import random

import pytest

from vectuned.daemon.pacing.retry_delay import retry_delay


@pytest.mark.parametrize("first", [0.1, 5.0])
def test_retry_delay_doubles_up_to_its_limit_with_jitter(first: float) -> None:
    rng = random.Random(1)
    for failures in (*range(1, 20), 10_000):
        plain = min(first * 2.0 ** min(failures - 1, 30), 300.0)
        drawn = {retry_delay(failures, first, 300.0, rng) for _ in range(50)}
        assert 0.8 * plain <= min(drawn) < max(drawn) <= 1.2 * plain
