"""What may be claimed about recall: bounds that hold at every sample size, and choices built on them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from vectuned.config.errors import UsageError
from vectuned.learning.model.arrays import Bools, Floats

TAIL: Final = 0.8  # a search with less recall is in the tail
ENOUGH: Final = 3  # times as many replays as a proof takes at least are not few: some may miss rows
# The share of the capital that one bet may lose. Waudby-Smith & Ramdas use 1/2 or 3/4; recalls lie near 1,
# and losses are small: 1,000 replays of real queries proved 0.995 in 98 % of 60 draws, with 3/4 in 63 %.
_LARGEST_STAKE: Final = 0.9
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
    return float(lower_bounds(sample_of(values, 1)[:, None], confidence, seed)[0])


def upper_bound(values: npt.ArrayLike, confidence: float = 0.95, seed: int = 0) -> float:
    """Bound the mean of a distribution on [0, 1] from above; see `lower_bound`. No values give 1."""
    return 1.0 - lower_bound(1.0 - sample_of(values, 1), confidence, seed)


def lower_bounds(values: npt.ArrayLike, confidence: float = 0.95, seed: int = 0) -> Floats:
    """Bound the mean of each column from below: `values` (n, m) in, float64 (m,) out; see `lower_bound`.

    Each bound holds with the given confidence by itself, not all of them together.
    """
    sample = _shuffled(sample_of(values, 2), seed)
    return bounds_in_order(sample, wealth_needed(confidence), max(len(sample), 1), _LARGEST_STAKE)


def bounds_in_order(sample: Floats, wealth: float, bets: float | Floats, most: float) -> Floats:
    """Bound the mean of each column from below by betting on the rows in the order given.

    `sample` (n, m) within 0 and 1, `wealth` the logarithm of the capital that rejects a mean, `bets` a number
    or (n, 1): over how many bets each stake spreads its risk, which nothing after its row may decide; `most`
    the share of the capital that one bet may lose. Returns (m,); the source is that of `lower_bound`.
    """
    stakes = _stakes(sample, wealth, bets)
    low, high = np.zeros(sample.shape[1]), np.ones(sample.shape[1])
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        rejected = _largest_log_capital(sample, stakes, middle, most) >= wealth
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
    sample = _shuffled(sample_of(curves, 2), seed)
    if not 0.0 < target <= 1.0:
        raise UsageError(f"A target recall of {target} cannot be certified: give one above 0 and up to 1.")
    wealth = wealth_needed(confidence)
    candidate = np.full(sample.shape[1], target)
    stakes = _stakes(sample, wealth, max(len(sample), 1))
    proven = _largest_log_capital(sample, stakes, candidate, _LARGEST_STAKE) >= wealth
    unproven = np.flatnonzero(~proven)
    first = int(unproven[-1]) + 1 if len(unproven) else 0
    return first if first < len(proven) else None


def _stakes(sample: Floats, wealth: float, bets: float | Floats) -> Floats:
    """Size each bet by the variance seen before it: (n, m); see `bounds_in_order`."""
    count = len(sample)
    seen = np.arange(1, count + 1, dtype=np.float64)[:, None] + 1.0
    means = (0.5 + np.cumsum(sample, axis=0)) / seen
    variances = (0.25 + np.cumsum((sample - means) ** 2, axis=0)) / seen
    before = np.concatenate([np.full((1, sample.shape[1]), 0.25), variances[:-1]])[:count]
    stakes: Floats = np.sqrt(2.0 * wealth / (bets * before))
    return stakes


def _largest_log_capital(sample: Floats, stakes: Floats, means: Floats, most: float) -> Floats:
    """Return the largest capital, as a logarithm, of betting on a mean above `means` (m,): (m,).

    No bet loses more than the share `most` of it.
    """
    bets = np.minimum(stakes, most / means)
    growth = np.log1p(bets * (sample - means))
    largest: Floats = np.cumsum(growth, axis=0).max(axis=0, initial=0.0)
    return largest


def wealth_needed(confidence: float) -> float:
    """Return the logarithm of the capital that by Ville's inequality is too much to be chance.

    Source: Ville (1939), "Etude critique de la notion de collectif".
    """
    if not 0.0 < confidence < 1.0:
        raise UsageError(
            f"A confidence of {confidence} cannot be had: give one between 0 and 1, such as 0.95."
        )
    return float(-np.log1p(-confidence))


def _shuffled(sample: Floats, seed: int) -> Floats:
    """Bring the rows into a random order, the same for every column."""
    return sample[np.random.default_rng(seed).permutation(len(sample))]


def sample_of(values: npt.ArrayLike, dimensions: int) -> Floats:
    """Return the values as float64, or refuse them."""
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != dimensions:
        raise UsageError(f"A sample must have {dimensions} dimensions, not {sample.ndim}.")
    if not ((sample >= 0.0) & (sample <= 1.0)).all():
        raise UsageError("A sample must lie within 0 and 1 throughout: leave out what is unknown.")
    return sample


@dataclass(frozen=True)
class Demand:
    """What an effort must be proven to give, both with `confidence`: a mean recall of `target`, and a tail.

    The tail is the share of searches with a recall under 0.8, at most `max_tail`. `seed` is of the order in
    which the proof bets on the replays.
    """

    target: float
    confidence: float = 0.95
    seed: int = 0
    max_tail: float = 1.0

    def __str__(self) -> str:
        tail = f" and at most {100 * self.max_tail:g} % under {TAIL}" if self.max_tail < 1.0 else ""
        return f"{self.target:g}{tail}"

    @property
    def flawless(self) -> int:
        """Return the fewest replays that can prove it, if each finds everything."""
        tail = flawless_needed(1.0 - self.max_tail, self.confidence) if self.max_tail < 1.0 else 0
        return max(flawless_needed(self.target, self.confidence), tail)

    def met(self, recall: Floats, above: Floats) -> Bools:
        """Say at which efforts a sample's own means meet it, no proof: (n, m) each in, bool (m,) out."""
        met: Bools = (recall.mean(axis=0) >= self.target) & (above.mean(axis=0) >= 1.0 - self.max_tail)
        return met


def above_tail(recall: npt.ArrayLike) -> Floats:
    """Return 1 where a recall is not in the tail, 0 where it is, of the same shape.

    Between the rungs of a curve these are to be interpolated as recalls are, not recalls compared after that.
    """
    return np.asarray(np.asarray(recall) >= TAIL, dtype=np.float64)


def smallest_proven(recall: Floats, above: Floats, demand: Demand) -> int | None:
    """Find the smallest effort that is proven to meet a demand, by its mean recall and by its tail.

    `recall` and `above` (n, m), the latter from `above_tail`, as `smallest_safe` takes them. Returns the
    index of the effort, None if not even the highest is proven. The probability that its mean recall is
    below the target or its tail above the limit is at most 1 - confidence: an effort passes only if both
    are rejected by themselves, so neither needs a correction, and all higher ones must have passed.
    Conformal risk control's bound on what the next search is expected to lose, n / (n + 1) of the mean loss
    plus 1 / (n + 1), must be within either limit, too. It nearly always is; not where the bets were won
    early and what came after spoke against it.

    Source: Berger (1982), "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24(4),
    the intersection-union test; `smallest_safe` for the sequence; Angelopoulos, Bates, Fisch, Lei & Schuster
    (2024), "Conformal risk control", ICLR.
    """
    demanded = [(recall, demand.target)]
    if demand.max_tail < 1.0:
        demanded.append((above, 1.0 - demand.max_tail))
    first = 0
    for values, least in demanded:
        safe = smallest_safe(values, least, demand.confidence, demand.seed)
        if safe is None:
            return None
        failing = np.flatnonzero(values.sum(axis=0) < (len(values) + 1) * least)
        first = max(first, safe, int(failing[-1]) + 1 if len(failing) else 0)
    return first if first < recall.shape[1] else None


@cache
def flawless_needed(target: float, confidence: float = 0.95) -> int:
    """Return the fewest replays that prove a mean of `target`, if every one of them is flawless.

    By `smallest_proven`'s own bounds, so that of a tail of at most t it is what a mean of 1 - t takes. With
    95 % confidence:

        target     0.9   0.95   0.98   0.99   0.995
        replays     32     66    167    337     676

    A bet never stakes more than nine tenths of the capital, so that few losses do not ruin it; one that knew
    beforehand that there are none would need 29, 59, 149, 299 and 598.
    """
    demand = Demand(target, confidence)

    def proves(count: int) -> bool:
        ones = np.ones((count, 1))
        return smallest_proven(ones, ones, demand) is not None

    enough = 1
    while not proves(enough):
        enough *= 2
    few = enough // 2
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if proves(middle) else (middle, enough)
    return enough
