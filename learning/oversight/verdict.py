"""Verdicts on searches: success, failure or unknown, with a confidence and a recommendation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal, cast

import numpy as np
import numpy.typing as npt

from vectuned.learning.model.arrays import Bools, Floats, Ints
from vectuned.learning.model.ladder import HIGHEST_POSITION

Outcome = Literal["success", "failure", "unknown"]
Recommendation = Literal["raise_effort", "change_path", "reindex", "add_filter_index", "nothing"]
Strings = npt.NDArray[np.str_]

SIGNALS: Final = ("recall", "feedback", "latency", "diversity")
WEIGHTS: Final = (0.5, 0.3, 0.1, 0.1)  # of the confidence: measured recall says most, then people

_CROWDED: Final = 0.5  # diversity up to which results are mostly copies of each other
_SLOW: Final = 2.0  # times the usual latency, from which a search above the 95th percentile is slow
_ROUNDING: Final = 0.01  # rows: recall is stored in single precision

_CAUSES: Final = {
    "unknown": "neither its recall nor any feedback on it is known",
    "divided": "its feedback is divided, and its recall is unknown",
    "irrelevant": "its rows are the nearest, yet users call them irrelevant, which no effort can change",
    "missed": "it missed more of the nearest rows than chance explains at the target",
    "short": "it returned fewer rows than there are",
    "disliked": "users call its rows irrelevant",
    "good": "it found as many of the nearest rows as the target promises",
    "liked": "users call its rows relevant",
    "slow": "it reached the target, but took much longer than similar searches",
}
_ADVICE: Final[dict[Recommendation, str]] = {
    "raise_effort": "search with more effort",
    "change_path": "use another access path",
    "reindex": "rebuild the index, which no longer reaches its proven recall at any effort",
    "add_filter_index": "create an index for the filter",
    "nothing": "",
}


@dataclass(frozen=True)
class Signals:
    """Hold what is known about n searches, each an array of shape (n,); NaN means unknown.

    `recall` as checked against the exact answer; the numbers of rows requested (`k`), `returned`, and in the
    table to find (`matching`); `diversity` as the function of that name returns it; `latency_ms` of the
    search, `usual_ms` and `slow_ms` the median and the 95th percentile of similar searches; `relevant` and
    `irrelevant`, the number of rows that users marked so; `effort`, a position on the ladder; whether it was
    an `exact` search, was served with a `certified` setting, has a filter without an index
    (`index_missing`).
    """

    recall: Floats
    k: Ints
    returned: Ints
    matching: Floats
    diversity: Floats
    latency_ms: Floats
    usual_ms: Floats
    slow_ms: Floats
    relevant: Ints
    irrelevant: Ints
    effort: Floats
    exact: Bools
    certified: Bools
    index_missing: Bools

    def __len__(self) -> int:
        return len(self.recall)


@dataclass(frozen=True)
class Verdict:
    """A verdict on one search: `signals` are those that were known, `reason` is a sentence for people."""

    outcome: Outcome
    confidence: float
    signals: tuple[str, ...]
    recommendation: Recommendation
    reason: str


@dataclass(frozen=True)
class Verdicts:
    """Hold the verdicts on n searches, arrays of shape (n,).

    `known` bool (n, 4) says which of SIGNALS were known; `confidence` float64 from 0 to 1, 0 where the
    outcome is unknown.
    """

    outcome: Strings
    confidence: Floats
    known: Bools
    recommendation: Strings
    cause: Strings

    def __len__(self) -> int:
        return len(self.outcome)

    def __getitem__(self, i: int) -> Verdict:
        recommendation = cast(Recommendation, str(self.recommendation[i]))
        return Verdict(
            cast(Outcome, str(self.outcome[i])),
            float(self.confidence[i]),
            tuple(name for name, known in zip(SIGNALS, self.known[i], strict=True) if known),
            recommendation,
            ": ".join(part for part in (_CAUSES[str(self.cause[i])], _ADVICE[recommendation]) if part),
        )


def judge_signals(signals: Signals, target: float) -> Verdicts:
    """Judge n searches by their signals; `target` is the mean recall that was promised.

    Only recall and feedback decide the outcome. A search fails if it missed more rows than `allowed_misses`,
    or missed a row and returned fewer than there are. Feedback is about the rows returned and cannot make up
    for missed rows. If users call the nearest rows irrelevant, the search has not failed: its outcome is
    unknown. An exact search misses nothing: a check that says otherwise shows that the table has changed
    since, and is ignored. A search is slow above `slow_ms` and above twice `usual_ms`; its results are
    crowded if at most half of their distances are different.

    The confidence is the total weight of the signals that agree with the outcome. An unknown or disagreeing
    signal lowers it and counts for nothing else.
    """
    votes, known, short = _votes(signals, target)
    recall, feedback = votes[:, 0], votes[:, 1]
    undecided = recall == 0
    failed = (recall < 0) | (undecided & ~signals.exact & (feedback < 0))
    succeeded = ((recall > 0) & (feedback >= 0)) | (undecided & (feedback > 0))
    outcome = np.select([failed, succeeded], ["failure", "success"], "unknown")
    agreeing = known & (votes == np.where(failed, -1, 1)[:, None]) & (failed | succeeded)[:, None]
    slow = votes[:, 2] < 0
    exhausted = signals.effort >= HIGHEST_POSITION
    recommendation = np.select(
        [
            (failed | (succeeded & slow)) & signals.index_missing,
            failed & exhausted & signals.certified,
            (failed & exhausted) | (succeeded & slow),
            failed,
        ],
        ["add_filter_index", "reindex", "change_path", "raise_effort"],
        "nothing",
    )
    irrelevant = (feedback < 0) & ~failed
    cause = np.select(
        [
            failed & short,
            recall < 0,
            failed,
            irrelevant,
            succeeded & slow,
            recall > 0,
            succeeded,
            known[:, 1],
        ],
        ["short", "missed", "disliked", "irrelevant", "slow", "good", "liked", "divided"],
        "unknown",
    )
    confidence = np.where(agreeing, WEIGHTS, 0.0).sum(axis=1)
    return Verdicts(outcome, confidence, known, recommendation, cause)


def diversity(distances: Floats) -> Floats:
    """Return the number of different distances in each result divided by its number of rows.

    `distances` (n, m), in any order, padded with NaN. Copies of one vector have the same distance to the last
    bit. Other vectors may have it by chance, and vectors of whole numbers often do. Returns float64 (n,), NaN
    where there are fewer than two rows.
    """
    ordered = np.sort(distances, axis=1)
    present = ~np.isnan(ordered)
    rows = np.count_nonzero(present, axis=1)
    different = np.count_nonzero((ordered[:, 1:] != ordered[:, :-1]) & present[:, 1:], axis=1) + 1
    return np.where(rows > 1, different / np.maximum(rows, 1), np.nan)


@cache
def allowed_misses(rows: int, target: float) -> int:
    """Return how many of the `rows` nearest rows a search may miss without failing.

    That is the smallest number exceeded with a probability of at most 1 - target, if each row is missed with
    probability 1 - target, independently: at 0.95 none of 1, 1 of 3, 2 of 10, 9 of 100.
    """
    probability = target**rows
    missed, total = 0, probability
    while total < target and missed < rows:
        probability *= (rows - missed) / (missed + 1) * (1.0 - target) / target
        missed += 1
        total += probability
    return missed


def _votes(signals: Signals, target: float) -> tuple[Ints, Bools, Bools]:
    """Return each signal as 1, -1 or 0 (n, 4), which are known (n, 4), and which results are short (n,)."""
    wanted = np.where(np.isfinite(signals.matching), np.minimum(signals.k, signals.matching), signals.k)
    checked = (signals.recall >= 0) & (signals.recall <= 1) & ~(signals.exact & (signals.recall < 1))
    recall = np.where(checked, signals.recall, 1.0)
    distinct, place = np.unique(wanted.astype(np.int64), return_inverse=True)
    allowed = np.array([allowed_misses(int(rows), target) for rows in distinct], dtype=np.float64)[place]
    short = checked & (signals.returned < wanted) & (recall < 1)
    missed = short | ((1.0 - recall) * wanted > allowed + _ROUNDING)
    timed = (signals.latency_ms >= 0) & (signals.usual_ms >= 0) & (signals.slow_ms >= 0)
    slow = (signals.latency_ms > signals.slow_ms) & (signals.latency_ms > _SLOW * signals.usual_ms)
    has_feedback = signals.relevant + signals.irrelevant > 0
    known = np.column_stack([checked, has_feedback, timed, ~np.isnan(signals.diversity)])
    votes = np.column_stack(
        [
            np.where(missed, -1, 1),
            np.sign(signals.relevant - signals.irrelevant),
            np.where(slow, -1, 1),
            np.where(signals.diversity <= _CROWDED, -1, 1),
        ]
    )
    return np.where(known, votes, 0).astype(np.int64), known, short
