"""The margin of effort on top of what was learned: failures raise it at once, successes lower it slowly."""

from __future__ import annotations

from typing import Final

import numpy as np

from vectuned.config.errors import UsageError
from vectuned.learning.model.ladder import HIGHEST_POSITION

_BETS: Final = 16  # shares that are bet on, on each side of the one that is allowed
_ODDS: Final = 2.0**0.5  # from one of them to the next


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

    A rung more where `compare_failures` says that failures are more frequent than the target allows,
    `learning_rate` of a rung less where it says that they are rarer, unchanged where it cannot tell. Verdicts
    that are unknown are not among the counts. Raises UsageError for values out of range.
    """
    if not 0.0 < learning_rate <= 1.0:
        raise UsageError(f"The learning rate must be above 0 and at most 1, got {learning_rate}.")
    if not 0.0 <= margin <= HIGHEST_POSITION:
        raise UsageError(f"The margin must be between 0 and {HIGHEST_POSITION:g} rungs, got {margin}.")
    step = compare_failures(failures, successes, target=target, confidence=confidence)
    return min(max(margin + (1.0 if step > 0 else step * learning_rate), 0.0), HIGHEST_POSITION)


def compare_failures(failures: int, successes: int, *, target: float, confidence: float = 0.95) -> int:
    """Say whether the share of failures is beyond 1 - target (1), below it (-1), or cannot be told (0).

    `failures` and `successes` count the verdicts since the last conclusion: whoever acts on one starts to
    count anew. In between it may be asked after every verdict: 1 is ever said with probability at most
    1 - `confidence` where failures are no more frequent than allowed, -1 likewise where they are no rarer.
    (By `allowed_misses` of learning/verdict.py, 1 - target is the share of failures that a target allows.)
    Raises UsageError for values out of range.

    Source: Ville's inequality for the capital of bets on shares beyond the allowed one, each the likelihood
    ratio of that share to the allowed one, the capital spread evenly over 16 of them.
    """
    if failures < 0 or successes < 0:
        raise UsageError(f"Verdicts cannot be fewer than none: {failures} failures, {successes} successes.")
    if not (0.0 < target < 1.0 and 0.0 < confidence < 1.0):
        raise UsageError(f"Target and confidence lie between 0 and 1, got {target} and {confidence}.")
    allowed = 1.0 - target
    needed = -np.log1p(-confidence)
    for direction in (1, -1):
        odds = allowed / target * _ODDS ** (direction * np.arange(1.0, _BETS + 1))
        share = odds / (1.0 + odds)
        gains = failures * np.log(share / allowed) + successes * np.log1p((allowed - share) / target)
        capital = np.logaddexp.reduce(gains) - np.log(_BETS)
        if capital >= needed:
            return direction
    return 0
