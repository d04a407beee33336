"""`WorkTimer` on simulated clocks."""

from __future__ import annotations

import pytest

from vectuned.learning.replay.work_timer import WorkTimer


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_work_timer_counts_server_and_daemon_while_both_work(monkeypatch: pytest.MonkeyPatch) -> None:
    wall, cpu = Clock(), Clock()
    monkeypatch.setattr("vectuned.learning.replay.work_timer.perf_counter", wall)
    monkeypatch.setattr("vectuned.learning.replay.work_timer.process_time", cpu)
    timer = WorkTimer()
    with timer.work():
        with timer.read():
            wall.now, cpu.now = 3.0, 4.0  # with two threads of its own
        wall.now, cpu.now = 13.0, 5.0
        timer.count_scans(10.0, 7)
    assert (timer.wall, timer.cpu, timer.scanning, timer.searches) == (13, 5, 10, 7)
    assert timer.core_seconds == 3 + 4 + 10
    with timer.work():
        cpu.now += 20  # only computing
        wall.now += 5
    assert timer.core_seconds == 3 + 4 + 21
