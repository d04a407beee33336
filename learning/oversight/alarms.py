"""Alarms: when the checked recall of a class of searches breaks its promise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.policy.limits import NO_CAPS, EffortCaps
from vectuned.learning.statistics.demand import TAIL_RECALL
from vectuned.learning.statistics.sequential import Alarm, alarm, tail_alarm

# Share of the probability of a false alarm that the test of the tail may spend; the mean, which matters more,
# gets the rest.
_TAIL_SHARE: Final = 0.2
# Blocks that one bet of an alarm spans where checks come in bursts: neighbouring blocks are still a little
# alike, and bets that go on for thousands of checks profit from that. (Bets on single blocks raised false
# alarms in 13 to 20 % of simulated windows, on two blocks in 0 to 7 %.)
_BLOCKS_PER_BET: Final = 2


@dataclass(frozen=True)
class OversightLimits:
    """What is tolerated.

    `confidence` of claims about recall; `false_alarms`, their probability for a class of searches within a
    window of checks; `drift`, the share of rows that may come, go or change before what was learned no longer
    counts; `caps` of the effort that serves, beside those of the column.
    """

    confidence: float = 0.95
    false_alarms: float = 0.05
    drift: float = 0.2
    caps: EffortCaps = NO_CAPS


@dataclass(frozen=True)
class RecallPromise:
    """The recall that was promised for a class of searches: mean recall, and largest share in the tail.

    `max_tail` is 1 where nothing was promised about the tail.
    """

    target_recall: float
    max_tail: float


def promise_of(tuned: TunedColumn, published_target: float | None) -> RecallPromise:
    """Return what was promised when the policy that serves was published.

    If the column's target has changed since, the limit of the tail that applied then is not known.
    """
    if published_target is None or published_target == tuned.target_recall:
        return RecallPromise(tuned.target_recall, tuned.max_tail)
    return RecallPromise(published_target, 1.0)


def detect_alarm(recalls: Floats, promise: RecallPromise, limits: OversightLimits, block: int = 1) -> Alarm:
    """Test checks, in order, against a promise: raise an alarm about the mean recall or about the tail.

    Both tests together raise a false alarm with at most the probability `limits.false_alarms`. `block` is the
    number of consecutive checks that count as one, because they come in bursts.
    """
    if block > 1:
        block *= _BLOCKS_PER_BET
    mean_share = (1.0 - _TAIL_SHARE) * limits.false_alarms
    mean = alarm(recalls, promise.target_recall, mean_share, block)
    if mean.raised or promise.max_tail >= 1.0:
        return mean
    tail = tail_alarm(recalls, promise.max_tail, _TAIL_SHARE * limits.false_alarms, block)
    return tail if tail.raised else mean


def describe_alarm(recent: Floats, promise: RecallPromise) -> str:
    """Say what the `recent` checks found beside what was promised."""
    return (
        f"the last {len(recent)} checks found a recall of {recent.mean():.3f}, and under {TAIL_RECALL:g} in "
        f"{(recent < TAIL_RECALL).mean():.1%}, "
        f"where {promise.target_recall:g} and at most {promise.max_tail:.1%} were promised"
    )
