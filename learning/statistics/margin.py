"""The margin of effort on top of the learned effort: failures raise it at once, successes lower it slowly."""

from __future__ import annotations

from typing import Final

import numpy as np

from vectuned.config.errors import UsageError
from vectuned.learning.model.ladder import HIGHEST_POSITION

_BETS: Final = 16  # shares of failures bet on, on each side of the allowed one
_ODDS: Final = 2.0**0.5  # ratio of the odds of one of these shares to the next; 16 cover a factor of 256


def next_margin(
    margin: float,
    failures: int,
    successes: int,
    learning_rate: float,
    *,
    target: float,
    confidence: float = 0.95,
) -> float:
    """Return the margin of effort after some verdicts, in rungs of the ladder, 0 to 13.

    The margin rises by a rung if `compare_failures` finds failures more frequent than the target allows,
    falls by `learning_rate` of a rung if it finds them rarer, and otherwise stays. Verdicts that
    say nothing about effort are not counted. Raises UsageError for values out of range.
    """
    if not 0.0 < learning_rate <= 1.0:
        raise UsageError(f"The learning rate must be above 0 and at most 1, got {learning_rate}.")
    if not 0.0 <= margin <= HIGHEST_POSITION:
        raise UsageError(f"The margin must be between 0 and {HIGHEST_POSITION:g} rungs, got {margin}.")
    step = compare_failures(failures, successes, target=target, confidence=confidence)
    return min(max(margin + (1.0 if step > 0 else step * learning_rate), 0.0), HIGHEST_POSITION)


def compare_failures(failures: int, successes: int, *, target: float, confidence: float = 0.95) -> int:
    """Test whether the share of failures is above 1 - target (1), below it (-1), or undecided (0).

    `failures` and `successes` count the verdicts since the last decision: after acting on one, start counting
    from zero. In between the test may be repeated after every verdict: the probability of ever returning 1 is
    at most 1 - `confidence` if failures are no more frequent than allowed, and that of -1 likewise if they
    are no rarer. (1 - target is the share of failures that a target allows, by `allowed_misses` of
    learning/oversight/verdict.py.) Raises UsageError for values out of range.

    Source: Ville's inequality for the capital of bets on shares beyond the allowed one. Each bet is the
    likelihood ratio of its share to the allowed one; the capital is spread evenly over 16 of them.
    """
    if failures < 0 or successes < 0:
        raise UsageError(
            f"Counts of verdicts cannot be negative: {failures} failures, {successes} successes."
        )
    if not (0.0 < target < 1.0 and 0.0 < confidence < 1.0):
        raise UsageError(f"Target and confidence must be between 0 and 1, got {target} and {confidence}.")
    allowed = 1.0 - target
    required = -np.log1p(-confidence)
    for direction in (1, -1):
        odds = allowed / target * _ODDS ** (direction * np.arange(1.0, _BETS + 1))
        share = odds / (1.0 + odds)
        gains = failures * np.log(share / allowed) + successes * np.log1p((allowed - share) / target)
        capital = np.logaddexp.reduce(gains) - np.log(_BETS)
        if capital >= required:
            return direction
    return 0
