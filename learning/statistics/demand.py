"""What is demanded of a setting, a mean recall and a tail, and the smallest effort proven to meet it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from vectuned.learning.model.arrays import Bools, Floats

from .bounds import find_smallest_safe, lower_bound, upper_bound

# A search with a recall below this is in the tail: users notice when a fifth of the rows is missing.
TAIL_RECALL: Final = 0.8
# A sample of this multiple of `Demand.min_replays` is ample: some of its replays may miss rows.
AMPLE_FACTOR: Final = 3


@dataclass(frozen=True)
class Demand:
    """What must be proven about an effort, with `confidence`: a mean recall of at least `target`, and a tail.

    The tail is the share of searches with a recall under TAIL_RECALL; it must be at most `max_tail`. `seed`
    decides in which order the proof bets on the replays.
    """

    target: float
    confidence: float = 0.95
    seed: int = 0
    max_tail: float = 1.0

    def __str__(self) -> str:
        tail = f" and at most {100 * self.max_tail:g} % under {TAIL_RECALL}" if self.max_tail < 1.0 else ""
        return f"{self.target:g}{tail}"

    def divide(self, parts: float) -> Demand:
        """Return the demand on one of several proofs, of which one may serve: each errs less often."""
        return replace(self, confidence=1.0 - (1.0 - self.confidence) / parts)

    @property
    def min_replays(self) -> int:
        """Return the fewest replays that can prove the demand: all of them flawless."""
        tail = min_flawless_replays(1.0 - self.max_tail, self.confidence) if self.max_tail < 1.0 else 0
        return max(min_flawless_replays(self.target, self.confidence), tail)

    def is_met_by(self, recall: Floats, above: Floats) -> Bools:
        """Return at which efforts the sample means meet the demand: (n, m) each in, bool (m,) out.

        Meeting it in the sample proves nothing.
        """
        met: Bools = (recall.mean(axis=0) >= self.target) & (above.mean(axis=0) >= 1.0 - self.max_tail)
        return met


@dataclass(frozen=True)
class Shortfall:
    """What the highest effort of an index gives where that is shown to miss a demand.

    `recall` is the mean of the sample, and `recall_bound` at least the true mean with the demand's
    confidence; `tail` and `tail_bound`, from below, likewise.
    """

    recall: float
    recall_bound: float
    tail: float
    tail_bound: float

    def __str__(self) -> str:
        tail = f" and {100 * self.tail:.2g} % under {TAIL_RECALL}, at least {100 * self.tail_bound:.2g} %"
        bound = f"recall {self.recall:.3f}, at most {self.recall_bound:.3f}"
        return bound + (tail if self.tail_bound > 0.0 else "")


def find_shortfall(recall: Floats, above: Floats, demand: Demand) -> Shortfall | None:
    """Return by how much an effort misses `demand`; None unless it is shown to, in its mean or its tail.

    `recall` and `above` (n,), the latter from `above_tail`, are independent draws. The probability of a
    shortfall where there is none is at most 1 - confidence: each of the two bounds has half of it.
    """
    half = demand.divide(2)
    found = Shortfall(
        float(recall.mean()) if len(recall) else float("nan"),
        upper_bound(recall, half.confidence, demand.seed),
        float(1.0 - above.mean()) if len(above) else float("nan"),
        lower_bound(1.0 - above, half.confidence, demand.seed),
    )
    missed = found.recall_bound < demand.target or found.tail_bound > demand.max_tail
    return found if missed else None


def above_tail(recall: npt.ArrayLike) -> Floats:
    """Return 1 where a recall is not in the tail and 0 where it is, in the same shape.

    To get values between the rungs of a curve, interpolate these indicators. Do not interpolate the recalls
    and compare afterwards.
    """
    return np.asarray(np.asarray(recall) >= TAIL_RECALL, dtype=np.float64)


def find_smallest_proven(recall: Floats, above: Floats, demand: Demand) -> int | None:
    """Find the smallest effort that is proven to meet `demand` in both its mean recall and its tail.

    `recall` and `above` (n, m), the latter from `above_tail`, in the layout of `find_smallest_safe`. Returns
    the index of the effort, None if not even the highest is proven. The probability that its mean recall is
    below the target or its tail above the limit is at most 1 - confidence: an effort passes only if both
    hypotheses are rejected separately, so neither test needs a correction, and if all higher efforts passed.
    The bound of conformal risk control on the expected loss of the next search, n / (n + 1) of the mean loss
    plus 1 / (n + 1), must lie within both limits too. It nearly always does. It fails where the bets were won
    early and the rest of the sample contradicted them.

    Source: Berger (1982), "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24(4),
    the intersection-union test; `find_smallest_safe` for the sequence; Angelopoulos, Bates, Fisch, Lei &
    Schuster (2024), "Conformal risk control", ICLR.
    """
    limits = [(recall, demand.target)]
    if demand.max_tail < 1.0:
        limits.append((above, 1.0 - demand.max_tail))
    first = 0
    for values, least in limits:
        safe = find_smallest_safe(values, least, demand.confidence, demand.seed)
        if safe is None:
            return None
        failing = np.flatnonzero(values.sum(axis=0) < (len(values) + 1) * least)
        first = max(first, safe, int(failing[-1]) + 1 if len(failing) else 0)
    return first if first < recall.shape[1] else None


@cache
def min_flawless_replays(target: float, confidence: float = 0.95) -> int:
    """Return the fewest replays that prove a mean of `target` if every one of them is flawless.

    The number follows from the bounds of `find_smallest_proven`. A tail of at most t takes as many as a mean
    of 1 - t. With 95 % confidence:

        target     0.9   0.95   0.98   0.99   0.995
        replays     32     66    167    337     676

    A bet never stakes more than nine tenths of the capital, so that a few losses do not ruin it. A bet that
    knew beforehand that there are no losses would need 29, 59, 149, 299 and 598.
    """
    demand = Demand(target, confidence)

    def proves(count: int) -> bool:
        ones = np.ones((count, 1))
        return find_smallest_proven(ones, ones, demand) is not None

    enough = 1
    while not proves(enough):
        enough *= 2
    too_few = enough // 2
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if proves(middle) else (middle, enough)
    return enough


def guess_effort(recall: Floats, above: Floats, demand: Demand) -> int:
    """Return which effort the replays ask for on average, the smallest that does, without any proof.

    `recall` and `above` (the tail, as of `above_tail`) are (n, m), by effort. That is the smallest effort
    whose means meet the demand with a margin of one standard error: about five of six such guesses meet it.
    If none does, it is the smallest whose mean is within one standard error of the highest effort's: more
    effort would gain nothing that these replays can show.
    """
    if not len(recall):
        return 0
    error, tail_error = (values.std(axis=0) / np.sqrt(len(values)) for values in (recall, above))
    means, kept = recall.mean(axis=0), above.mean(axis=0)
    met = (means - error >= demand.target) & (kept - tail_error >= 1.0 - demand.max_tail)
    if not met.any():
        met = (means >= means[-1] - error[-1]) & (kept >= kept[-1] - tail_error[-1])
    return int(np.flatnonzero(met)[0])
