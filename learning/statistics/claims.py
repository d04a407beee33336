"""Claims about the recall of served searches, from exact checks: valid at any time, whatever recall does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from vectuned.config.errors import UsageError
from vectuned.learning.model.arrays import Bools, Floats

from .bounds import required_log_capital, validate_sample
from .demand import TAIL_RECALL
from .dependence import block_length, block_means

EPOCH: Final = 500  # checks: enough for a bound about 0.02 below the mean, few enough to follow a drift
# Stakes of the bets behind a bound, in steps of sqrt(2). The best one is about sqrt(6 / n) over the standard
# deviation of recall, 0.05 to 0.3: these are the best from 100 to 10,000
# checks. More stakes cost more at few checks.
_STAKES: Final = 0.9 * 2.0 ** (-np.arange(7) / 2.0)
_NEWTON_STEPS: Final = 20  # of a convex function from the right-hand side: it converges in about 6


@dataclass(frozen=True)
class EpochClaim:
    """What the last closed epoch of EPOCH checks proves: their `mean` recall, and its `lower` bound.

    `last` is the index of the epoch's last check among all checks, unknown ones included.
    """

    last: int
    mean: float
    lower: float


@dataclass(frozen=True)
class RecallClaim:
    """What checks prove about the searches served; each bound holds with `confidence` separately.

    `checks`, the number with a known recall, and `unknown`, the number without; `mean` recall, NaN without
    checks, and its `lower` bound; `tail`, the share of searches with a recall under TAIL_RECALL, NaN without
    checks, and its upper bound `tail_upper`; `block`, the number of consecutive checks that counted as one
    draw, because recall came in bursts; `epoch`, None before the first one is closed.
    """

    checks: int
    unknown: int
    mean: float
    lower: float
    tail: float
    tail_upper: float
    confidence: float
    block: int = 1
    epoch: EpochClaim | None = None


def claim_from_checks(
    recalls: npt.ArrayLike, confidence: float = 0.95, hardness: npt.ArrayLike | None = None
) -> RecallClaim:
    """Make the claim that the checks so far prove; valid after every check and with any stopping rule.

    `recalls` (n,) in order of arrival, 0 to 1, NaN where a check timed out. Such a check counts as unknown
    and is left out, which is valid as long as timeouts do not depend on the recall. The claim is about the
    running mean: the mean, over the checks so far, of the recall to be expected of each given those before.
    Recall may drift as it likes. The probability that a bound is ever wrong, over all n together, is at
    most 1 - confidence. No bound exceeds the mean of its checks. Bounds of earlier times are not kept, so the
    bound falls after a drop.

    Where checks come in bursts (see `block_length`), each block of them counts as one draw, so that the claim
    holds for the searches that might have come, too. This step is approximate. `hardness` (n,) is any
    property of the queries that like queries share, such as the distance of the k-th row, NaN if unknown: it
    shows bursts also where every recall is 1. Each closed epoch of EPOCH
    checks has a bound of its own, which holds for that epoch with `confidence`. Raises UsageError for values
    that are not recalls.

    On WordNet (mean recall 0.95) the lower bound is 0.030 below the mean after 400 checks, 0.007 after 5,000.
    """
    required = required_log_capital(confidence)
    checks, known = validate_checks(recalls)
    values = checks[known]
    above = (values >= TAIL_RECALL).astype(np.float64)
    block = _block_length(values, known, hardness)
    return RecallClaim(
        checks=len(values),
        unknown=len(checks) - len(values),
        mean=float(values.mean()) if len(values) else float("nan"),
        lower=_last_bound(values, required, block),
        tail=float(1.0 - above.mean()) if len(values) else float("nan"),
        tail_upper=1.0 - _last_bound(above, required, block),
        confidence=confidence,
        block=block,
        epoch=_last_epoch(values, np.flatnonzero(known), required, block),
    )


def claim_curve(
    recalls: npt.ArrayLike, confidence: float = 0.95, hardness: npt.ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """Return mean recall and its lower bound after every check, as `claim_from_checks` claims them.

    Float64 (n,) each; the mean is NaN before the first known check. Blocks are as long as all checks together
    show.
    """
    checks, known = validate_checks(recalls)
    values = checks[known]
    number = np.arange(1, len(values) + 1)
    block = _block_length(values, known, hardness)
    bounds = running_bounds(block_means(values, block), required_log_capital(confidence))
    closed = number // block
    lower = np.concatenate([[0.0], bounds])[closed] * closed * block / number
    counted = np.cumsum(known)
    means = np.concatenate([[np.nan], np.cumsum(values) / number])
    return means[counted], np.concatenate([[0.0], lower])[counted]


def running_bounds(values: Floats, log_capital: float) -> Floats:
    """Bound the running mean from below after each value: (n,) in, (n,) out.

    `values` lie within 0 and 1; `log_capital` is the logarithm of the capital that rejects a mean. The
    probability that a bound ever exceeds the running mean of conditional means is at most exp(-log_capital),
    whatever their dependence and drift. Each bound is below the mean of the values so far.

    Source: Howard, Ramdas, McAuliffe & Sekhon (2021), "Time-uniform, nonparametric, nonasymptotic confidence
    sequences", Annals of Statistics 49(2), theorem 4: for a predictable guess g of each value,
    exp(stake * (sum of x - E x) - (-log(1 - stake) - stake) * sum of (x - g)**2) is a supermartingale. The
    boundary is that of an even mixture of seven stakes.
    """
    if not len(values):
        return np.empty(0)
    number = np.arange(1, len(values) + 1, dtype=np.float64)
    # As if one value of 1 had come before: recalls lie near 1.
    guesses = (1.0 + np.cumsum(values) - values) / number
    variance = np.cumsum((values - guesses) ** 2)[:, None]
    price = -np.log1p(-_STAKES) - _STAKES
    needed = log_capital + np.log(len(_STAKES))
    # The least sum at which one stake alone reaches the capital: the mixture reaches it no later.
    sums = ((needed + price * variance) / _STAKES).min(axis=1)
    for _ in range(_NEWTON_STEPS):
        capital = _STAKES * sums[:, None] - price * variance
        total = np.logaddexp.reduce(capital, axis=1)
        slope = np.exp(capital - total[:, None]) @ _STAKES
        sums -= (total - needed) / slope
    bounds: Floats = np.maximum((np.cumsum(values) - sums) / number, 0.0)
    return bounds


def validate_checks(recalls: npt.ArrayLike) -> tuple[Floats, Bools]:
    """Return the checks as float64 and which of them are known; UsageError unless they are recalls or NaN."""
    checks = np.asarray(recalls, dtype=np.float64)
    if checks.ndim != 1:
        raise UsageError(f"Checks must have 1 dimension, not {checks.ndim}.")
    known = ~np.isnan(checks)
    validate_sample(checks[known], 1)
    return checks, known


def _block_length(values: Floats, known: Bools, hardness: npt.ArrayLike | None) -> int:
    """Return how many checks count as one draw, by their recalls or by the hardness of their queries."""
    block = block_length(values)
    if hardness is None:
        return block
    queries = np.asarray(hardness, dtype=np.float64)[known]
    return max(block, block_length(queries)) if np.isfinite(queries).all() else block


def _last_bound(values: Floats, log_capital: float, block: int) -> float:
    """Return the bound after the last value; values after the last whole block count as 0 in it."""
    blocks = block_means(values, block)
    if not len(blocks):
        return 0.0
    return float(running_bounds(blocks, log_capital)[-1]) * len(blocks) * block / len(values)


def _last_epoch(
    values: Floats, positions: npt.NDArray[np.intp], log_capital: float, block: int
) -> EpochClaim | None:
    """Return the claim of the last closed epoch; `positions` are the values' indices among the checks."""
    end = len(values) // EPOCH * EPOCH
    if not end:
        return None
    epoch = values[end - EPOCH : end]
    return EpochClaim(int(positions[end - 1]), float(epoch.mean()), _last_bound(epoch, log_capital, block))
