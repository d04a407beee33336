"""The number of searches to replay in one pass over a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_TARGET_SECONDS: Final = 4.0  # duration of a pass; it holds a snapshot, which holds back vacuum
_FIRST_SIZE: Final = 20  # searches of the first pass, whose cost is unknown
_MIN_SIZE: Final = 5  # searches; with fewer, reading the table would be nearly all of the work
_NEWEST_WEIGHT: Final = 0.5  # weight of the latest pass in the running averages
_MIN_SEARCH_SECONDS: Final = 1e-6  # avoids a division by zero where the clock is too coarse


@dataclass
class PassSize:
    """Estimate from the cost of past passes how many searches fit into the next one.

    A pass holds a snapshot, so it should end after a few seconds. Reading the table costs the same for few
    searches as for many, so the searches get at least as much time as the reading. `fixed` is the cost in
    seconds of a pass without searches, `each` that of one search.
    """

    fixed: float = 0.0
    each: float | None = None

    def size(self, most: int) -> int:
        """Return the number of searches for the next pass, at most `most`."""
        if self.each is None:
            return min(_FIRST_SIZE, most)
        seconds = max(_TARGET_SECONDS - self.fixed, self.fixed)
        return max(min(int(seconds / max(self.each, _MIN_SEARCH_SECONDS)), most), min(_MIN_SIZE, most))

    def record(self, fixed: float, searching: float, searches: int) -> None:
        """Record a pass: seconds without the searches, seconds for the searches, number of searches."""
        if searches <= 0:
            return
        each = searching / searches
        if self.each is None:
            self.fixed, self.each = fixed, each
            return
        self.fixed += _NEWEST_WEIGHT * (fixed - self.fixed)
        self.each += _NEWEST_WEIGHT * (each - self.each)

    def record_failure(self) -> None:
        """Record a pass that the server cancelled: the next one takes half as many searches."""
        self.each = 2 * (self.each if self.each is not None else _TARGET_SECONDS / _FIRST_SIZE)
