"""Work goes on within the budget, and not while others are busy; what it took is measured."""

from __future__ import annotations

from typing import Any, cast

import psycopg
import pytest

from vectuned.config.sections import BudgetSettings
from vectuned.daemon.pacing.pace import Pace, Stopped
from vectuned.learning.replay.work_timer import WorkTimer


class Server:
    """Stands for a connection to a server on which others run statements, fewer each time one looks."""

    def __init__(self, others: int) -> None:
        self.others = others

    def execute(self, _: object) -> Server:
        self.others -= 1
        return self

    def fetchone(self) -> tuple[int]:
        return (self.others,)


class Time:
    """A clock, and a way to wait that only turns it on."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waited: list[float] = []

    def clock(self) -> float:
        return self.now

    def idle(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds


def paced(time: Time, **settings: Any) -> Pace:
    return Pace(BudgetSettings(**settings), time.idle, time.clock)


def server(others: int) -> psycopg.Connection[Any]:
    return cast(psycopg.Connection[Any], Server(others))


def test_what_was_spent_is_waited_for() -> None:
    time = Time()
    pace = paced(time, core_share=0.5)
    pace.wait()
    assert time.waited == []
    pace.budget.spend(5 + 10)
    pace.wait()
    assert time.waited == [20]


def test_waiting_ends_when_the_service_stops() -> None:
    def stop(_: float) -> None:
        raise Stopped

    pace = Pace(BudgetSettings(), stop)
    pace.budget.spend(1000)
    with pytest.raises(Stopped):
        pace.wait()


def test_a_busy_server_is_waited_for_but_not_for_ever() -> None:
    time = Time()
    pace = paced(time, pause_above=4)
    assert pace.wait_for(server(8))
    assert not pace.busy
    assert time.waited == [5, 5, 5]
    assert not pace.wait_for(server(1000))
    assert pace.busy
    assert pace.wait_for(server(5))
    assert not pace.busy


def test_unless_told_nobody_looks_for_others() -> None:
    assert paced(Time()).wait_for(server(1000))


def test_what_fails_is_spent_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    time = Time()
    pace = paced(time, core_share=0.5)
    monkeypatch.setattr("vectuned.learning.replay.work_timer.perf_counter", time.clock)
    monkeypatch.setattr("vectuned.learning.replay.work_timer.process_time", lambda: 0.0)

    def fail() -> None:
        with pace.work():
            time.now += 100
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert pace.budget.wait_seconds() == pytest.approx((100 - 5) / 0.5)


def test_server_and_daemon_count_both_while_both_work(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, cpu = Time(), Time()
    monkeypatch.setattr("vectuned.learning.replay.work_timer.perf_counter", wall.clock)
    monkeypatch.setattr("vectuned.learning.replay.work_timer.process_time", cpu.clock)
    spent = WorkTimer()
    with spent.work():
        with spent.read():
            wall.now, cpu.now = 3.0, 4.0  # with two threads of its own
        with spent.scan(7):
            wall.now, cpu.now = 13.0, 5.0
    assert (spent.wall, spent.cpu, spent.scanning, spent.searches) == (13, 5, 10, 7)
    assert spent.core_seconds == 3 + 4 + 10
    with spent.work():
        cpu.now += 20  # only computing
        wall.now += 5
    assert spent.core_seconds == 3 + 4 + 21
