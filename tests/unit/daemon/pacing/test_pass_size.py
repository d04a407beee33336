"""`PassSize`: how many searches the next pass takes."""

from __future__ import annotations

import pytest

from vectuned.daemon.pacing.pass_size import PassSize


def test_size_without_history_is_small() -> None:
    assert PassSize().size(200) == 20
    assert PassSize().size(3) == 3


@pytest.mark.parametrize(
    ("fixed", "each", "expected"),
    [
        (1.0, 0.01, 200),  # the limit
        (1.0, 0.03, 100),
        (0.0, 0.04, 100),
        (1.0, 60.0, 5),
        (30.0, 0.5, 60),  # reading takes half a minute, so the searches may take as long
        (2.0, 0.0, 200),
    ],
)
def test_size_fills_four_seconds_or_as_long_as_reading_the_table(
    fixed: float, each: float, expected: int
) -> None:
    size = PassSize()
    size.record(fixed, 20 * each, 20)
    assert size.size(200) == expected


def test_size_follows_recorded_passes_and_halves_after_a_failure() -> None:
    size = PassSize()
    size.record(1.0, 2.0, 20)
    size.record(9.0, 9.0, 0)  # no search was replayed, so nothing is learned
    assert size.size(1000) == 30
    for _ in range(10):
        size.record(1.0, 6.0, 20)
    assert size.size(1000) == 10
    size.record_failure()
    assert size.size(1000) == 5
    unknown = PassSize()
    unknown.record_failure()
    assert unknown.size(200) == 10
