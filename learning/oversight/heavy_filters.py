"""Filter values that many searches ask for: each has a claim and an alarm of its own.

The mean over a filter shape could be good while one tenant with a tenth of the searches is served badly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from vectuned.learning.model.arrays import Floats, Ints
from vectuned.learning.statistics.claims import RecallClaim, claim_from_checks
from vectuned.learning.statistics.sequential import Alarm

from .alarms import OversightLimits, RecallPromise, detect_alarm

_LEAST_SHARE: Final = 0.05  # of the checks of a shape: a value asked for less often hardly moves anything
_LEAST_CHECKS: Final = 50  # with fewer a bound is of no use: about 0.15 below the mean
_MOST: Final = 8  # values of a shape, so that their part of the false alarms stays large enough for each
# Of the false alarms of a filter shape, the part that all of its heavy values share.
_FALSE_ALARM_SHARE: Final = 0.4


@dataclass(frozen=True)
class HeavyFilter:
    """One filter value: its `digest`, its share of the shape's checks, what these prove, and its alarm.

    `checks` (n,) are the positions of its checks among those of the shape.
    """

    digest: str
    share: float
    checks: Ints
    claim: RecallClaim
    alarm: Alarm


def check_heavy_filters(
    digests: Sequence[str | None],
    recalls: Floats,
    hardness: Floats,
    promise: RecallPromise | None,
    limits: OversightLimits,
) -> list[HeavyFilter]:
    """Return the filters with a large share of the checks of a shape, the most frequent first.

    `digests`, `recalls` and `hardness` (n,) of the checks, in order; without a `promise` no alarm is raised.
    All filters of a shape together raise a false alarm with at most two fifths of `limits.false_alarms`.
    """
    counts = Counter(digest for digest in digests if digest is not None)
    least = max(_LEAST_CHECKS, _LEAST_SHARE * len(digests))
    heavy = [digest for digest, count in counts.most_common(_MOST) if count >= least]
    own_limits = replace(limits, false_alarms=_FALSE_ALARM_SHARE * limits.false_alarms / _MOST)
    names = np.array([digest or "" for digest in digests])
    found = []
    for digest in heavy:
        checks = np.flatnonzero(names == digest)
        claim = claim_from_checks(recalls[checks], limits.confidence, hardness[checks])
        tested = recalls[checks] if promise is not None else recalls[:0]
        alarm = detect_alarm(tested, promise or RecallPromise(1.0, 1.0), own_limits, claim.block)
        found.append(HeavyFilter(digest, len(checks) / len(digests), checks, claim, alarm))
    return found


def limits_of_shape(limits: OversightLimits) -> OversightLimits:
    """Return the limits of the test of a whole shape, beside those of its heavy filters."""
    return replace(limits, false_alarms=(1.0 - _FALSE_ALARM_SHARE) * limits.false_alarms)
