"""Confidence bounds on mean recall that hold at every sample size, and the choice of an effort by them."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from vectuned.config.errors import UsageError
from vectuned.learning.model.arrays import Floats

# Share of the capital that one bet may lose. Waudby-Smith & Ramdas use 1/2 or 3/4. Recalls lie near 1 and
# losses are small: 1,000 replays of real queries proved 0.995 in 98 % of 60 draws, with 3/4 in 63 %.
_LARGEST_STAKE: Final = 0.9
_HALVINGS: Final = 24  # of the interval that holds the bound, which is found to within 2**-24


def lower_bound(values: npt.ArrayLike, confidence: float = 0.95, seed: int = 0) -> float:
    """Bound the mean of a distribution on [0, 1] from below by a sample of it.

    `values` (n,) are independent or drawn without replacement, with n fixed beforehand. The bound exceeds the
    true mean with probability at most 1 - confidence, for every n and every distribution. It depends on the
    order of the bets, so the values are shuffled by `seed`. Without values it is 0. It is valid for one look
    at the data: a bound that is computed repeatedly while the data grow loses its confidence.

    Source: Waudby-Smith & Ramdas (2024), "Estimating means of bounded random variables by betting", JRSS B
    86(1): the capital process of predictable plug-in bets for a fixed n, only its upward half, which a lower
    bound needs, and Ville's inequality. No bet loses more at a smaller candidate mean, so the rejected means
    form an interval, and halving finds its end.
    """
    return float(lower_bounds(validate_sample(values, 1)[:, None], confidence, seed)[0])


def upper_bound(values: npt.ArrayLike, confidence: float = 0.95, seed: int = 0) -> float:
    """Bound the mean of a distribution on [0, 1] from above; see `lower_bound`. Without values it is 1."""
    return 1.0 - lower_bound(1.0 - validate_sample(values, 1), confidence, seed)


def lower_bounds(values: npt.ArrayLike, confidence: float = 0.95, seed: int = 0) -> Floats:
    """Bound the mean of each column from below: `values` (n, m) in, float64 (m,) out; see `lower_bound`.

    The confidence holds for each bound separately, not for all of them together.
    """
    sample = _shuffled(validate_sample(values, 2), seed)
    required = required_log_capital(confidence)
    stakes = _stakes(sample, required)
    low, high = np.zeros(sample.shape[1]), np.ones(sample.shape[1])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        rejected = _largest_log_capital(sample, stakes, middle) >= required
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return low


def find_smallest_safe(
    curves: npt.ArrayLike, target: float, confidence: float = 0.95, seed: int = 0
) -> int | None:
    """Find the smallest effort whose mean recall is at least `target` with the given confidence.

    `curves` (n, m) hold the recall of n sampled queries at each of m efforts, in ascending order of effort; n
    is fixed beforehand, and the queries are independent of those that the efforts were learned from. Returns
    the index of the effort, or None if not even the highest is proven. The probability of returning an effort
    whose true mean recall is below `target` is at most 1 - confidence, however many efforts there are.

    Source: Angelopoulos, Bates, Candes, Jordan & Lei (2025), "Learn then test: calibrating predictive
    algorithms to achieve risk control", Annals of Applied Statistics 19(2), fixed-sequence testing: from
    the highest effort downwards, until `lower_bound` falls short of the target for the first time.
    """
    sample = _shuffled(validate_sample(curves, 2), seed)
    if not 0.0 < target <= 1.0:
        raise UsageError(f"A target recall of {target} cannot be certified: give one above 0 and up to 1.")
    required = required_log_capital(confidence)
    candidate = np.full(sample.shape[1], target)
    stakes = _stakes(sample, required)
    proven = _largest_log_capital(sample, stakes, candidate) >= required
    unproven = np.flatnonzero(~proven)
    first = int(unproven[-1]) + 1 if len(unproven) else 0
    return first if first < len(proven) else None


def _stakes(sample: Floats, log_capital: float) -> Floats:
    """Size each bet on the rows of `sample` (n, m) by the variance of the rows before it: (n, m)."""
    count = len(sample)
    # As if one value of 1/2 and a variance of 1/4, the largest possible, had come before.
    number = np.arange(1, count + 1, dtype=np.float64)[:, None] + 1.0
    means = (0.5 + np.cumsum(sample, axis=0)) / number
    variances = (0.25 + np.cumsum((sample - means) ** 2, axis=0)) / number
    before = np.concatenate([np.full((1, sample.shape[1]), 0.25), variances[:-1]])[:count]
    stakes: Floats = np.sqrt(2.0 * log_capital / (max(count, 1) * before))
    return stakes


def _largest_log_capital(sample: Floats, stakes: Floats, means: Floats) -> Floats:
    """Return the logarithm of the largest capital reached by betting on a mean above `means` (m,): (m,)."""
    bets = np.minimum(stakes, _LARGEST_STAKE / means)
    growth = np.log1p(bets * (sample - means))
    largest: Floats = np.cumsum(growth, axis=0).max(axis=0, initial=0.0)
    return largest


def required_log_capital(confidence: float) -> float:
    """Return the logarithm of the capital that rejects a hypothesis with this confidence.

    By Ville's inequality a fair game reaches it with probability at most 1 - confidence.

    Source: Ville (1939), "Etude critique de la notion de collectif".
    """
    if not 0.0 < confidence < 1.0:
        raise UsageError(
            f"A confidence of {confidence} is out of range: give one between 0 and 1, such as 0.95."
        )
    return float(-np.log1p(-confidence))


def _shuffled(sample: Floats, seed: int) -> Floats:
    """Shuffle the rows, the same for every column."""
    return sample[np.random.default_rng(seed).permutation(len(sample))]


def validate_sample(values: npt.ArrayLike, dimensions: int) -> Floats:
    """Return the values as float64; UsageError unless all lie within 0 and 1."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != dimensions:
        raise UsageError(f"A sample must have {dimensions} dimensions, not {sample.ndim}.")
    if not ((sample >= 0.0) & (sample <= 1.0)).all():
        raise UsageError("A sample must lie within 0 and 1 throughout: leave out what is unknown.")
    return sample
