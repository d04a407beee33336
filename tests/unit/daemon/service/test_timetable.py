"""The schedule of the jobs when the system clock is set."""

from __future__ import annotations

import time

import pytest

from vectuned.config.settings import Settings
from vectuned.daemon.service.jobs import Job
from vectuned.daemon.service.timetable import FIRST_RUN, Timetable

INTERVAL = 50_000.0  # seconds; so long that no delay of the machine comes near it


@pytest.mark.parametrize("jump", [-86_400.0, 3600.0])
def test_watch_clock_after_the_clock_was_set_restarts_the_interval(jump: float) -> None:
    shift = 0.0
    job = Job("slow", lambda s: INTERVAL, lambda c: None)
    timetable = Timetable([job], lambda job: None, Settings(), lambda: time.time() + shift)
    first = timetable.seconds_until(job)
    assert first is not None
    assert first <= FIRST_RUN
    timetable.start()
    try:
        for moved in (jump, 0.0):
            shift += moved
            timetable.watch_clock()
            seconds = timetable.seconds_until(job)
            assert seconds is not None
            assert INTERVAL / 2 < seconds <= INTERVAL
    finally:
        timetable.shutdown()
