"""`Watchdog` on a simulated clock."""

from __future__ import annotations

import threading

from vectuned.daemon.service.watchdog import Watchdog


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_find_stuck_work_without_progress_and_computing_is_stuck() -> None:
    clock, computed = Clock(), Clock()
    watchdog = Watchdog(clock, lambda _thread: computed.now)
    with watchdog.watch("replay", 10):
        clock.now += 10
        assert watchdog.find_stuck() is None
        watchdog.beat()
        clock.now += 10
        assert watchdog.find_stuck() is None
        with watchdog.suspend():
            clock.now += 1000
            assert watchdog.find_stuck() is None
        clock.now += 9
        assert watchdog.find_stuck() is None
        for _ in range(12):  # a thread that computes has twelve times its patience
            clock.now += 9
            computed.now += 1
            assert watchdog.find_stuck() is None
        clock.now += 9
        computed.now += 1
        assert watchdog.find_stuck() == ("replay", 126)
        watchdog.beat()
        assert watchdog.find_stuck() is None
        for _ in range(3):  # waking up briefly is not computing
            clock.now += 6
            computed.now += 0.01
            stuck = watchdog.find_stuck()
        assert stuck == ("replay", 18)
    assert watchdog.find_stuck() is None


def test_find_stuck_names_the_thread_that_waits() -> None:
    clock, hold, started = Clock(), threading.Event(), threading.Event()
    watchdog = Watchdog(clock)

    def wait() -> None:
        with watchdog.watch("drain", 5):
            started.set()
            hold.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    with watchdog.watch("learn", 50):
        started.wait()
        watchdog.find_stuck()
        clock.now += 6
        assert watchdog.find_stuck() == ("drain", 6)
        hold.set()
        thread.join()
        assert watchdog.find_stuck() is None
