"""When replaying is said to be behind, on a clock of its own."""

from __future__ import annotations

from vectuned.daemon.pacing.backlog import Backlog, Lag


class Clock:
    """A clock that is told what time it is."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def minutes(clock: Clock, backlog: Backlog, count: int, waiting: int, replayed: int) -> Lag | None:
    """Look once a minute at so many waiting, so many replayed in between; return what is said last."""
    seen = None
    for _ in range(count):
        clock.now += 60
        seen = backlog.saw(waiting, replayed)
    return seen


def test_what_is_worked_off_soon_is_not_behind() -> None:
    clock = Clock()
    backlog = Backlog(clock)
    assert minutes(clock, backlog, 3, 1000, 200) is None
    assert minutes(clock, backlog, 1, 0, 400) is None
    assert minutes(clock, backlog, 14, 1000, 200) is None


def test_what_takes_long_at_the_present_rate_is_behind_at_once() -> None:
    clock = Clock()
    backlog = Backlog(clock)
    assert backlog.saw(5230, 100) is None  # no rate is known yet
    behind = minutes(clock, backlog, 9, 5230, 128)
    assert behind is not None
    assert round(behind.per_minute) == round((9 * 128 + 100) / 9)
    assert str(behind) == "5,230 searches wait, 38 minutes at the present rate"


def test_the_rate_is_that_of_the_last_minutes() -> None:
    clock = Clock()
    backlog = Backlog(clock)
    minutes(clock, backlog, 100, 0, 1000)
    behind = minutes(clock, backlog, 11, 5000, 10)
    assert behind is not None
    assert 10 <= behind.per_minute <= 11


def test_what_never_ends_is_behind_after_a_while_and_said_once_an_hour() -> None:
    clock = Clock()
    backlog = Backlog(clock)
    assert minutes(clock, backlog, 14, 100, 200) is None
    first = minutes(clock, backlog, 1, 100, 200)
    assert first is not None
    assert first.due
    again = [minutes(clock, backlog, 1, 100, 200) for _ in range(120)]
    assert [each.due for each in again if each is not None] == ([False] * 59 + [True]) * 2
    assert minutes(clock, backlog, 1, 0, 200) is None
    assert minutes(clock, backlog, 14, 100, 0) is None
    stuck = minutes(clock, backlog, 1, 1, 0)
    assert stuck is not None
    assert stuck.due
    assert str(stuck) == "1 searches wait and none was replayed lately"


def test_long_times_are_told_in_hours() -> None:
    assert str(Lag(60_000, 10, True)) == "60,000 searches wait, 100 hours at the present rate"
    assert str(Lag(1, 10, True)) == "1 searches wait, 1 minutes at the present rate"
