"""`Pace`: waiting for the budget and for a busy server, and charging work to the budget."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import psycopg
import pytest

from vectuned.config.sections import BudgetSettings
from vectuned.daemon.pacing.pace import Halt, Pace

MB = 1024 * 1024  # bytes


class Server:
    """A connection to a server on which others run statements, one fewer at each look."""

    def __init__(self, others: int) -> None:
        self.others = others

    @contextmanager
    def cursor(self, **_: object) -> Iterator[Server]:
        yield self

    def execute(self, *_: object) -> Server:
        self.others -= 1
        return self

    def fetchone(self) -> int:
        return self.others


class Time:
    """A clock that waiting advances at once."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waited: list[float] = []

    def clock(self) -> float:
        return self.now

    def idle(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds


def make_pace(time: Time, **settings: Any) -> Pace:
    return Pace(BudgetSettings(**settings), time.idle, time.clock)


def server(others: int) -> psycopg.Connection[Any]:
    return cast(psycopg.Connection[Any], Server(others))


def test_wait_for_budget_after_overspending_waits_until_it_is_paid() -> None:
    time = Time()
    pace = make_pace(time, core_share=0.5)
    pace.wait_for_budget()
    assert time.waited == []
    pace.budget.spend(5 + 10)
    pace.wait_for_budget()
    assert time.waited == [20]


def test_wait_for_budget_ends_when_the_service_stops() -> None:
    def stop(_: float) -> None:
        raise Halt

    pace = Pace(BudgetSettings(), stop)
    pace.budget.spend(1000)
    with pytest.raises(Halt):
        pace.wait_for_budget()


def test_wait_for_server_busy_for_a_minute_returns_false() -> None:
    time = Time()
    pace = make_pace(time, pause_above=4)
    assert pace.wait_for_server(server(8))
    assert not pace.busy
    assert time.waited == [5, 5, 5]
    assert not pace.wait_for_server(server(1000))
    assert pace.busy
    assert pace.wait_for_server(server(5))
    assert not pace.busy


def test_wait_for_server_waits_a_minute_at_most_for_bytes() -> None:
    time = Time()
    pace = make_pace(time, mb_per_hour=3600 / MB)  # a byte a second
    pace.reading.spend(600 + 60)  # what was saved up in ten minutes, and a minute's
    assert pace.wait_for_server(server(0))
    assert (time.waited, pace.read_bound) == ([60], False)
    pace.reading.spend(61)
    assert not pace.wait_for_server(server(0))
    assert (time.waited, pace.read_bound) == ([60], True)
    pace.adapt(BudgetSettings(mb_per_hour=2 * 3600 / MB))
    assert pace.wait_for_server(server(0))
    assert time.waited == [60, 30.5]


def test_wait_for_server_without_mb_per_hour_reads_without_limit() -> None:
    time = Time()
    pace = make_pace(time, mb_per_hour=0)
    for _ in range(3):
        pace.reading.spend(1e15)
        assert pace.wait_for_server(server(0))
    assert time.waited == []


def test_wait_for_server_without_pause_above_does_not_look() -> None:
    assert make_pace(Time()).wait_for_server(server(1000))


def test_work_that_fails_is_charged_to_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    pace = make_pace(time, core_share=0.5, mb_per_hour=3600)
    monkeypatch.setattr("vectuned.learning.replay.work_timer.perf_counter", time.clock)
    monkeypatch.setattr("vectuned.learning.replay.work_timer.process_time", lambda: 0.0)

    def fail() -> None:
        with pace.work() as timer:
            time.now += 100
            timer.count_read(500 * MB)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert pace.budget.wait_seconds() == pytest.approx((100 - 5) / 0.5)
    # Of the 3600 MB an hour 600 were saved up, but 100 s have filled nothing.
    assert pace.reading.wait_seconds() == 0
    pace.reading.spend(101 * MB)
    assert pace.reading.wait_seconds() == pytest.approx(1)
