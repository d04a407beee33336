"""Draw replays, and measure what a policy would have served them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vectuned.learning.model import ladder
from vectuned.learning.patterns.optimizer import SearchOptimizer
from vectuned.learning.patterns.reasoning_bank import ReasoningBank
from vectuned.learning.policy.calibration import Candidate
from vectuned.learning.statistics.replay_sample import ReplaySample

Floats = npt.NDArray[np.float64]
MS_PER_BLOCK = 0.002  # milliseconds, an index page in memory


def draw(population: ReplaySample, count: int, seed: int) -> ReplaySample:
    """Draw replays with replacement."""
    return population.take(np.random.default_rng(seed).integers(0, len(population), count))


def efforts(candidate: Candidate, sample: ReplaySample) -> Floats:
    """Return the position on the ladder that each replay is served with, (n, 1)."""
    signature = candidate.policy.signature
    if signature is None:
        efs = np.full(len(sample), candidate.policy.fixed_ef)
    else:
        optimizer = SearchOptimizer(ReasoningBank(candidate.patterns), candidate.policy)
        efs = optimizer.ef_search(sample.probes[signature.probe_ef], sample.k)
    return ladder.position_of(efs)[:, None]


def served(candidate: Candidate, sample: ReplaySample) -> tuple[Floats, Floats]:
    """Return recall and cost of each replay under a policy."""
    at = efforts(candidate, sample)
    return ladder.interpolate(sample.recall, at)[:, 0], ladder.interpolate(sample.cost, at)[:, 0]


def tail(candidate: Candidate, sample: ReplaySample) -> float:
    """Return the share of replays with a recall under 0.8 under a policy, interpolated between the rungs."""
    return 1 - float(sample.recall_at(efforts(candidate, sample))[1].mean())
