"""What may be claimed about recall: bounds that hold at every sample size, and choices built on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vectuned.config.errors import UsageError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_LARGEST_STAKE = 0.75  # share of the capital that one bet may lose; Waudby-Smith & Ramdas use 1/2 or 3/4
_HALVINGS = 24  # candidate means are told apart down to 2**-24


def lower_bound(values: npt.ArrayLike, confidence: float = 0.95, seed: int = 0) -> float:
    """Bound the mean of a distribution on [0, 1] from below, given a sample of it.

    `values` (n,) independent or drawn without replacement, n fixed beforehand. The bound exceeds the true
    mean with probability at most 1 - confidence, for every n and every distribution. It depends on the
    order in which the values are bet on, so they are shuffled, by `seed`. No values give 0. For one look at
    the data: a bound computed again and again while the data grow loses its promise.

    Source: Waudby-Smith & Ramdas (2024), "Estimating means of bounded random variables by betting", JRSS B
    86(1): the capital process of predictable plug-in bets for a fixed n, its upward half, which is the one
    a lower bound needs, and Ville's inequality. Each bet loses no more by a smaller candidate mean, so the
    means that are rejected form an interval and halving finds its end.
    """
    return float(lower_bounds(_sample(values, 1)[:, None], confidence, seed)[0])


def upper_bound(values: npt.ArrayLike, confidence: float = 0.95, seed: int = 0) -> float:
    """Bound the mean of a distribution on [0, 1] from above; see `lower_bound`. No values give 1."""
    return 1.0 - lower_bound(1.0 - _sample(values, 1), confidence, seed)


def lower_bounds(values: npt.ArrayLike, confidence: float = 0.95, seed: int = 0) -> Floats:
    """Bound the mean of each column from below: `values` (n, m) in, float64 (m,) out; see `lower_bound`.

    Each bound holds with the given confidence by itself, not all of them together.
    """
    sample = _shuffled(_sample(values, 2), seed)
    wealth = _wealth_needed(confidence)
    stakes = _stakes(sample, wealth)
    low, high = np.zeros(sample.shape[1]), np.ones(sample.shape[1])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        rejected = _largest_log_capital(sample, stakes, middle) >= wealth
        low, high = np.where(rejected, middle, low), np.where(rejected, high, middle)
    return low


def smallest_safe(
    curves: npt.ArrayLike, target: float, confidence: float = 0.95, seed: int = 0
) -> int | None:
    """Find the smallest effort whose mean recall is at least `target` with the given confidence.

    `curves` (n, m) hold the recall of n sampled queries at each of m efforts, in ascending order of effort,
    n fixed beforehand and the queries independent of whatever the efforts were learned from. Returns the
    index of the effort, or None if not even the highest is proven. The probability of returning an effort
    whose true mean recall is below `target` is at most 1 - confidence, however many efforts there are.

    Source: Angelopoulos, Bates, Candes, Jordan & Lei (2025), "Learn then test: calibrating predictive
    algorithms to achieve risk control", Annals of Applied Statistics 19(2), fixed-sequence testing: from
    the highest effort downwards, until `lower_bound` first falls short of the target.
    """
    sample = _shuffled(_sample(curves, 2), seed)
    if not 0.0 < target <= 1.0:
        raise UsageError(f"A target recall of {target} cannot be certified: give one above 0 and up to 1.")
    wealth = _wealth_needed(confidence)
    candidate = np.full(sample.shape[1], target)
    proven = _largest_log_capital(sample, _stakes(sample, wealth), candidate) >= wealth
    unproven = np.flatnonzero(~proven)
    first = int(unproven[-1]) + 1 if len(unproven) else 0
    return first if first < len(proven) else None


def _stakes(sample: Floats, wealth: float) -> Floats:
    """Size each bet by the variance seen before it: (n, m), the `wealth` wanted being a logarithm."""
    count = len(sample)
    seen = np.arange(1, count + 1, dtype=np.float64)[:, None] + 1.0
    means = (0.5 + np.cumsum(sample, axis=0)) / seen
    variances = (0.25 + np.cumsum((sample - means) ** 2, axis=0)) / seen
    before = np.concatenate([np.full((1, sample.shape[1]), 0.25), variances[:-1]])[:count]
    stakes: Floats = np.sqrt(2.0 * wealth / (max(count, 1) * before))
    return stakes


def _largest_log_capital(sample: Floats, stakes: Floats, means: Floats) -> Floats:
    """Return the largest capital, as a logarithm, of betting on a mean above `means` (m,): (m,)."""
    bets = np.minimum(stakes, _LARGEST_STAKE / means)
    growth = np.log1p(bets * (sample - means))
    largest: Floats = np.cumsum(growth, axis=0).max(axis=0, initial=0.0)
    return largest


def _wealth_needed(confidence: float) -> float:
    """Return the logarithm of the capital that by Ville's inequality is too much to be chance."""
    if not 0.0 < confidence < 1.0:
        raise UsageError(
            f"A confidence of {confidence} cannot be had: give one between 0 and 1, such as 0.95."
        )
    return float(-np.log1p(-confidence))


def _shuffled(sample: Floats, seed: int) -> Floats:
    """Bring the rows into a random order, the same for every column."""
    return sample[np.random.default_rng(seed).permutation(len(sample))]


def _sample(values: npt.ArrayLike, dimensions: int) -> Floats:
    """Return the values as float64, or refuse them."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != dimensions:
        raise UsageError(f"A sample must have {dimensions} dimensions, not {sample.ndim}.")
    if not ((sample >= 0.0) & (sample <= 1.0)).all():
        raise UsageError("A sample must lie within 0 and 1 throughout: leave out what is unknown.")
    return sample


@dataclass(frozen=True)
class Demand:
    """What an effort must be proven to give: a mean recall of `target`, with `confidence`.

    `seed` is of the order in which the proof bets on the replays.
    """

    target: float
    confidence: float = 0.95
    seed: int = 0
