"""Watching what is served: what exact checks prove at any time, and an alarm when recall has dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from vectuned.config.errors import UsageError
from vectuned.learning.model.arrays import Bools, Floats

from .bounds import bounds_in_order, required_log_capital, validate_sample
from .demand import TAIL_RECALL

_WINDOWS: Final = (200, 400)  # checks that decide a stake
_CAUTION: Final = 20  # checks without a drop that every window is thought to begin with
_SPREAD: Final = 0.3  # their mean squared gap, in shares of what the target leaves to be lost
_SKEW: Final = 0.06  # share of the largest possible stake around which the best one is sought
_LARGEST_STAKE: Final = 0.75  # share of the capital that one bet may lose
_PATIENCE: Final = 500.0  # checks within which half of the restarts' capital is at work
_LEAST_SPARE: Final = 1e-3


@dataclass(frozen=True)
class RecallClaim:
    """What checks prove of the searches served, each bound with `confidence` by itself.

    `checks` with a known recall and `unknown` ones without; `mean` recall, NaN without checks, and its
    `lower` bound; `tail`, the share of searches with a recall under TAIL, NaN without checks, and its
    bound `tail_upper`.
    """

    checks: int
    unknown: int
    mean: float
    lower: float
    tail: float
    tail_upper: float
    confidence: float


@dataclass(frozen=True)
class Alarm:
    """Whether checks speak against a target.

    `raised` at check `first`, an index into the checks given, None if not; `e_value`, the evidence now:
    `raised` is for good, but the e-value falls again where recall recovers; `began`, the index of the check
    from which recall seems to have been too low when the alarm was raised, None if not.
    """

    raised: bool
    first: int | None
    e_value: float
    began: int | None


def claim_from_checks(recalls: npt.ArrayLike, confidence: float = 0.95) -> RecallClaim:
    """Say what the checks so far prove, valid at every time: look after each check, stop whenever you like.

    `recalls` (n,) in order of arrival, 0 to 1, NaN where a check timed out: that is unknown, counted and
    left out, which is fair as long as a timeout has nothing to do with the recall. The probability that
    a bound is ever wrong is at most 1 - confidence, over all n together, while the mean of a check given
    those before it stays what it is. The bounds never loosen, so after a drop they speak of the past;
    see `alarm`. Raises UsageError for anything that is no recall.

    Source: Waudby-Smith & Ramdas (2024), "Estimating means of bounded random variables by betting", JRSS B
    86(1): predictable plug-in bets for a confidence sequence, one-sided. On WordNet (mean recall 0.95) the
    lower bound is 0.022 below the mean after 400 checks, 0.007 after 5,000; for a fixed n it is 0.019, 0.005.
    """
    wealth = required_log_capital(confidence)
    checks, known = _checks(recalls)
    found = checks[known]
    good = (found >= TAIL_RECALL).astype(np.float64)
    return RecallClaim(
        checks=len(found),
        unknown=len(checks) - len(found),
        mean=float(found.mean()) if len(found) else float("nan"),
        lower=_lower(found, wealth),
        tail=float(1.0 - good.mean()) if len(found) else float("nan"),
        tail_upper=1.0 - _lower(good, wealth),
        confidence=confidence,
    )


def alarm(recalls: npt.ArrayLike, target: float, false_alarms: float = 0.05) -> Alarm:
    """Look for a drop of the mean recall below `target`, soon or late, however often you look.

    `recalls` as in `claim_from_checks`. While the mean of each check given those before it is at least
    `target`, the
    probability that an alarm is ever raised is at most `false_alarms`, over all checks to come. The checks
    given must go back to a time chosen without regard to them, such as when the setting came into use.
    Everything follows from the checks; 50,000 take about 20 ms. Raises UsageError for anything that is no
    recall, target or probability.

    A bettor stakes against the target what the last checks suggest: next to nothing while they reach it,
    so that good times cost little capital, and close to what lets capital grow fastest in a drop. Each of
    two windows has half of the capital; a half of that is at work from the first check, a half comes in
    bit by bit at every check, with shares 500 / ((500 + t) (501 + t)), which sum to 1, so that an early
    loss does not blind it to a late drop. All together it is a nonnegative supermartingale that starts at 1.

    On WordNet (benchmarks/promise.py, 300 deployments) the median delay of a drop to the target - 0.03 after
    1,000 good checks, for targets of 0.9, 0.95 and 0.98, is 567, 328 and 169 checks. It is 773, 425 and 168
    with constant stakes that restart the same way, 888, 473 and 183 with a Shiryaev-Roberts e-detector whose
    promise ends after 10,000 checks, 2101, 1270 and 671 without restarts. Where recall spreads widely nobody
    is much faster: at 0.9 the best bet gains 0.008 a check, so that to get from 1 to 20 takes it 360 checks
    even if it begins with the drop. Other windows (150 to 600) and shares differ by a few percent.

    Source: Ville (1939), "Etude critique de la notion de collectif", his inequality; Waudby-Smith & Ramdas
    (2024), as in `claim_from_checks`, bets; Shin, Ramdas & Rinaldo (2024), "E-detectors: a nonparametric
    framework for sequential change detection", New England Journal of Statistics in Data Science
    2(2), restarts.
    """
    if not 0.0 < target <= 1.0:
        raise UsageError(f"A target recall of {target} cannot be watched: give one above 0 and up to 1.")
    checks, known = _checks(recalls)
    return _alarm(checks[known], np.flatnonzero(known), target, false_alarms)


def tail_alarm(recalls: npt.ArrayLike, limit: float, false_alarms: float = 0.05) -> Alarm:
    """Look for a rise of the share of searches with a recall under TAIL above `limit`, 0 to under 1.

    The same as `alarm` of the searches that are not under it; see there.
    """
    if not 0.0 <= limit < 1.0:
        raise UsageError(f"A limit of {limit} cannot be watched: give a share from 0 to under 1.")
    checks, known = _checks(recalls)
    good = (checks[known] >= TAIL_RECALL).astype(np.float64)
    return _alarm(good, np.flatnonzero(known), 1.0 - limit, false_alarms)


def _lower(values: Floats, wealth: float) -> float:
    """Bound the mean from below at every time, the stakes falling so slowly that bets never run out."""
    number = np.arange(1, len(values) + 1, dtype=np.float64)[:, None]
    return float(bounds_in_order(values[:, None], wealth, number * np.log1p(number), _LARGEST_STAKE)[0])


def _alarm(values: Floats, positions: npt.NDArray[np.intp], target: float, false_alarms: float) -> Alarm:
    """Bet against a mean of at least `target`; `positions` say which checks the values are."""
    if not 0.0 < false_alarms < 1.0:
        raise UsageError(
            f"A probability of false alarms of {false_alarms} cannot be kept: give one between 0 and 1."
        )
    if not len(values):
        return Alarm(False, None, 1.0, None)
    gaps = target - values
    stakes = _stakes(gaps, target)
    capital = _log_capital(gaps, stakes)
    e_value = float(np.exp(min(capital[-1], 700.0)))
    over = capital >= -np.log(false_alarms)
    if not over.any():
        return Alarm(False, None, e_value, None)
    first = int(over.argmax())
    began = _most_capital(gaps[: first + 1], float(stakes[:, first].mean()))
    return Alarm(True, int(positions[first]), e_value, int(positions[began]))


def _stakes(gaps: Floats, target: float) -> Floats:
    """Size each bet on the gaps (n,) by the checks before it: (windows, n).

    The best constant stake s has mean(gap / (1 + s gap)) = 0: it is mean(gap) / mean(gap**2 / (1 + s gap)).
    A guess of s on the right makes up for most of what the skew of recall would cost without.
    """
    spare = max(1.0 - target, _LEAST_SPARE)
    squares = gaps**2 / (1.0 + _SKEW / spare * gaps)
    sums = np.concatenate([np.zeros((2, 1)), np.cumsum([gaps, squares], axis=1)], axis=1)
    end = np.arange(len(gaps))
    begin = np.maximum(end - np.asarray(_WINDOWS)[:, None], 0)
    gap, square = sums[:, None, :-1] - sums[:, begin]
    stakes: Floats = np.clip(gap / (square + _CAUTION * _SPREAD * spare), 0.0, _LARGEST_STAKE / spare)
    return stakes


def _log_capital(gaps: Floats, stakes: Floats) -> Floats:
    """Return the capital after each bet, as a logarithm, of all starts and windows together: (n,)."""
    number = np.arange(len(gaps), dtype=np.float64)
    shares = 0.5 * _PATIENCE / ((_PATIENCE + number) * (_PATIENCE + number + 1.0))
    shares[0] += 0.5
    idle = 0.5 * _PATIENCE / (_PATIENCE + number + 1.0)
    growth = np.log1p(stakes * gaps)
    after = np.cumsum(growth, axis=1)
    at_work = after + np.logaddexp.accumulate(np.log(shares) - (after - growth), axis=1)
    together = np.logaddexp.reduce(at_work, axis=0) - np.log(len(stakes))
    capital: Floats = np.logaddexp(together, np.log(idle))
    return capital


def _most_capital(gaps: Floats, stake: float) -> int:
    """Return from which start a bettor with a constant stake would now have most capital."""
    growth = np.log1p(stake * gaps)
    return int(np.cumsum(growth[::-1])[::-1].argmax())


def _checks(recalls: npt.ArrayLike) -> tuple[Floats, Bools]:
    """Return the checks as float64 and which of them are known, or refuse them."""
    checks = np.asarray(recalls, dtype=np.float64)
    if checks.ndim != 1:
        raise UsageError(f"Checks must have 1 dimension, not {checks.ndim}.")
    known = ~np.isnan(checks)
    validate_sample(checks[known], 1)
    return checks, known
