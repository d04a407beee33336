"""Sequential tests of exact checks: alarms when recall drops below what was promised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from vectuned.config.errors import UsageError
from vectuned.learning.model.arrays import Floats

from .claims import validate_checks
from .demand import TAIL_RECALL
from .dependence import block_means

# `alarm` gives the reasons for these values; others change the delay of an alarm by a few percent.
_WINDOWS: Final = (200, 400)  # number of the last checks that decide a stake
_LEAST_WINDOW: Final = 25  # draws; fewer block means do not show how high a stake may be
_CAUTION: Final = 20  # checks without a drop assumed at the start of each window: first stakes are low
_SPREAD: Final = 0.3  # mean squared gap of those checks, as a share of 1 - target
_SKEW: Final = 0.06  # first guess of the best stake, as a share of the largest possible one
_LARGEST_STAKE: Final = 0.75  # share of the capital that one bet may lose, as in Waudby-Smith & Ramdas
_PATIENCE: Final = 500.0  # checks after which half of the capital kept for restarts is at work
_LEAST_SPARE: Final = 1e-3  # lower limit of 1 - target, which stakes are divided by
_LARGEST_LOG: Final = 700.0  # the exponential of more overflows float64


@dataclass(frozen=True)
class Alarm:
    """The result of testing checks against a target.

    `raised`, whether there was an alarm, and `first`, the index of the check that raised it; `e_value`, the
    evidence after the last check: it falls again where recall recovers, while `raised` stays True; `began`,
    the index of the check from which recall seemed too low when the alarm was raised. Both indices are None
    without an alarm.
    """

    raised: bool
    first: int | None
    e_value: float
    began: int | None


def alarm(recalls: npt.ArrayLike, target: float, false_alarms: float = 0.05, block: int = 1) -> Alarm:
    """Test for a drop of the mean recall below `target`, early or late; valid after every check.

    `recalls` as in `claim_from_checks`. As long as the mean of each check given those before it is at least
    `target`, the probability that an alarm is ever raised is at most `false_alarms`, over all checks to come.
    In bursts of like searches the mean given those before is that of the burst: the test then bets on means
    of `block` checks (see `block_length`), since a burst of hard queries is no drop. The checks must begin at
    a time that was chosen without regard to them, such as when the setting came into use. The result depends
    on the checks only; 50,000 take about 20 ms. Raises UsageError for values that are not a recall, target or
    probability.

    A bettor stakes against the target as the last checks suggest: almost nothing while they reach it, so that
    good times cost little capital, and in a drop close to the stake that makes capital grow fastest. Each of
    two windows has half of the capital. Half of that is at work from the first check; the other half is added
    with every check, in shares 500 / ((500 + t) (501 + t)), which sum to 1, so that an early loss does not
    blind the test to a late drop. Together this is a nonnegative supermartingale that starts at 1.

    On WordNet (benchmarks/promise.py, 300 deployments) the median delay of a drop to the target - 0.03 after
    1,000 good checks, for targets of 0.9, 0.95 and 0.98, is 567, 328 and 169 checks. It is 773, 425 and 168
    with constant stakes that restart the same way, 888, 473 and 183 with a Shiryaev-Roberts e-detector whose
    guarantee ends after 10,000 checks, and 2101, 1270 and 671 without restarts. Where recall varies widely no
    test is much faster: at 0.9 the best bet gains 0.008 a check, so that it takes 360 checks to get from 1 to
    20 even if it begins with the drop. Other windows (150 to 600) and shares differ by a few percent.

    Source: Ville (1939), "Etude critique de la notion de collectif", his inequality; Waudby-Smith & Ramdas
    (2024), "Estimating means of bounded random variables by betting", JRSS B 86(1), bets; Shin, Ramdas &
    Rinaldo (2024), "E-detectors: a nonparametric framework for sequential change detection", New England
    Journal of Statistics in Data Science 2(2), restarts.
    """
    if not 0.0 < target <= 1.0:
        raise UsageError(f"A target recall of {target} cannot be watched: give one above 0 and up to 1.")
    checks, known = validate_checks(recalls)
    return _alarm(checks[known], np.flatnonzero(known), target, false_alarms, block)


def tail_alarm(recalls: npt.ArrayLike, limit: float, false_alarms: float = 0.05, block: int = 1) -> Alarm:
    """Test for a rise of the share of searches with a recall under TAIL_RECALL above `limit`, 0 to under 1.

    It is `alarm` for the share of searches that are not under TAIL_RECALL; see there.
    """
    if not 0.0 <= limit < 1.0:
        raise UsageError(f"A limit of {limit} cannot be watched: give a share from 0 to under 1.")
    checks, known = validate_checks(recalls)
    above = (checks[known] >= TAIL_RECALL).astype(np.float64)
    return _alarm(above, np.flatnonzero(known), 1.0 - limit, false_alarms, block)


def _alarm(
    values: Floats, positions: npt.NDArray[np.intp], target: float, false_alarms: float, block: int
) -> Alarm:
    """Bet against a mean of at least `target`; `positions` are the indices of the values among the checks."""
    if not 0.0 < false_alarms < 1.0:
        raise UsageError(
            f"A probability of false alarms of {false_alarms} is out of range: give one between 0 and 1."
        )
    draws = block_means(values, block)
    if not len(draws):
        return Alarm(False, None, 1.0, None)
    gaps = target - draws
    stakes = _stakes(gaps, target, block)
    capital = _log_capital(gaps, stakes, _PATIENCE / block)
    e_value = float(np.exp(min(capital[-1], _LARGEST_LOG)))
    reached = capital >= -np.log(false_alarms)
    if not reached.any():
        return Alarm(False, None, e_value, None)
    first = int(reached.argmax())
    began = _best_start(gaps[: first + 1], float(stakes[:, first].mean()))
    last = (first + 1) * block - 1
    return Alarm(True, int(positions[last]), e_value, int(positions[began * block]))


def _stakes(gaps: Floats, target: float, block: int) -> Floats:
    """Size each bet on the gaps (n,), means of `block` checks, by those before it: (windows, n).

    The best constant stake s has mean(gap / (1 + s gap)) = 0, so s = mean(gap) / mean(gap**2 / (1 + s gap)).
    A first guess of s on the right-hand side makes up for most of the loss from ignoring the skew of recall.
    """
    spare = max(1.0 - target, _LEAST_SPARE)
    squares = gaps**2 / (1.0 + _SKEW / spare * gaps)
    sums = np.concatenate([np.zeros((2, 1)), np.cumsum([gaps, squares], axis=1)], axis=1)
    end = np.arange(len(gaps))
    windows = np.maximum(np.asarray(_WINDOWS) // block, _LEAST_WINDOW)
    begin = np.maximum(end - windows[:, None], 0)
    gap, square = sums[:, None, :-1] - sums[:, begin]
    stakes: Floats = np.clip(gap / (square + _CAUTION * _SPREAD * spare), 0.0, _LARGEST_STAKE / spare)
    return stakes


def _log_capital(gaps: Floats, stakes: Floats, patience: float) -> Floats:
    """Return the logarithm of the capital of all starts and windows together after each bet: (n,).

    After `patience` bets half of the capital kept for restarts is at work.
    """
    number = np.arange(len(gaps), dtype=np.float64)
    shares = 0.5 * patience / ((patience + number) * (patience + number + 1.0))
    shares[0] += 0.5
    idle = 0.5 * patience / (patience + number + 1.0)
    growth = np.log1p(stakes * gaps)
    after = np.cumsum(growth, axis=1)
    # The share that starts with bet s has grown by after[t] - before[s] at bet t; this adds up all s <= t.
    at_work = after + np.logaddexp.accumulate(np.log(shares) - (after - growth), axis=1)
    together = np.logaddexp.reduce(at_work, axis=0) - np.log(len(stakes))
    capital: Floats = np.logaddexp(together, np.log(idle))
    return capital


def _best_start(gaps: Floats, stake: float) -> int:
    """Return the first bet of the bettor, with a constant stake, that has most capital after the last."""
    growth = np.log1p(stake * gaps)
    return int(np.cumsum(growth[::-1])[::-1].argmax())
