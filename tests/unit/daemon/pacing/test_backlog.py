"""When `Backlog` reports that replaying is behind, on a simulated clock."""

from __future__ import annotations

from vectuned.daemon.pacing.backlog import Backlog, Lag


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def observe_minutes(clock: Clock, backlog: Backlog, count: int, waiting: int, replayed: int) -> Lag | None:
    """Observe the same counts once a minute, `count` times; return the last lag."""
    lag = None
    for _ in range(count):
        clock.now += 60
        lag = backlog.observe(waiting, replayed)
    return lag


def test_observe_backlog_that_ends_soon_keeps_up() -> None:
    clock = Clock()
    backlog = Backlog(clock)
    assert observe_minutes(clock, backlog, 3, 1000, 200) is None
    assert observe_minutes(clock, backlog, 1, 0, 400) is None
    assert observe_minutes(clock, backlog, 14, 1000, 200) is None


def test_observe_backlog_too_long_for_the_rate_is_behind_at_once() -> None:
    clock = Clock()
    backlog = Backlog(clock)
    assert backlog.observe(5230, 100) is None  # the rate is not known yet
    lag = observe_minutes(clock, backlog, 9, 5230, 128)
    assert lag is not None
    assert round(lag.per_minute) == round((9 * 128 + 100) / 9)
    assert str(lag) == "5,230 searches wait, 38 minutes at the present rate"


def test_observe_rate_is_that_of_the_last_ten_minutes() -> None:
    clock = Clock()
    backlog = Backlog(clock)
    observe_minutes(clock, backlog, 100, 0, 1000)
    lag = observe_minutes(clock, backlog, 11, 5000, 10)
    assert lag is not None
    assert 10 <= lag.per_minute <= 11


def test_observe_backlog_never_empty_is_behind_after_15_minutes_and_due_once_an_hour() -> None:
    clock = Clock()
    backlog = Backlog(clock)
    assert observe_minutes(clock, backlog, 14, 100, 200) is None
    first = observe_minutes(clock, backlog, 1, 100, 200)
    assert first is not None
    assert first.due
    again = [observe_minutes(clock, backlog, 1, 100, 200) for _ in range(120)]
    assert [each.due for each in again if each is not None] == ([False] * 59 + [True]) * 2
    assert observe_minutes(clock, backlog, 1, 0, 200) is None
    assert observe_minutes(clock, backlog, 14, 100, 0) is None
    stuck = observe_minutes(clock, backlog, 1, 1, 0)
    assert stuck is not None
    assert stuck.due
    assert str(stuck) == "1 searches wait and none was replayed lately"


def test_lag_describes_long_durations_in_hours() -> None:
    assert str(Lag(60_000, 10, True)) == "60,000 searches wait, 100 hours at the present rate"
    assert str(Lag(1, 10, True)) == "1 searches wait, 1 minutes at the present rate"
