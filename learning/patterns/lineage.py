"""The life of patterns from one pass of learning to the next: how much replays count, what is inherited.

Every pass draws anew which replays are learned from and which prove. What was learned before has seen some
of those that prove now, so no curve and no centroid is carried over: only how old a pattern is and how often
its part of the space was looked up, from which no recall follows. Old replays count less instead. On 10,000
replays of a world that turned into its opposite, effort by query was within 10 % of its final saving after
some 2,000 new replays at a learning rate of 0.1 and 1,000 at 0.3, and not after 4,000 where all counted
alike; in a world that stays the same the weights cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from vectuned.learning.model.arrays import Floats, Ints, Singles

from .optimizer import Policy
from .reasoning_bank import Patterns, ReasoningBank, confidence_from_samples

# How much a counter-example counts beside a replay of its age. As much would have taken 0.5 to 4 % of the
# saving, since the successes of its time are gone; so it takes nothing, and gave 0.5 % where one search in a
# hundred was of a hard kind of its own.
COUNTER_EXAMPLE_WEIGHT: Final = 0.1
_IN_FULL: Final = 3  # in shares of min_samples: so many of the newest replays count alike
_EXPECTED: Final = 5  # lookups a pattern: before, one without any is not said to be hardly used
_HARDLY_USED: Final = 1.0
_HARDLY_SUPPORTED: Final = float(confidence_from_samples(np.array(3)))


@dataclass(frozen=True)
class PreviousPolicy:
    """What served a class of k: its policy, and its patterns with what searches made of them since."""

    policy: Policy
    patterns: Patterns


def training_weights(newer: Ints, learning_rate: float, min_samples: int) -> Floats:
    """Return how much replays count in training, float64 (n,) from 0 to 1, by how many are `newer`.

    The newest 3 `min_samples` count in full, lest a high rate leave too few; of the others each
    `min_samples` newer ones take away a share of `learning_rate`.
    """
    old = np.maximum(newer - _IN_FULL * min_samples, 0) / min_samples
    return np.asarray((1.0 - learning_rate) ** old, dtype=np.float64)


def count_lookups(
    patterns: Patterns, signatures: Singles, learning_rate: float, min_samples: int
) -> Patterns:
    """Count the lookups of `signatures` (n, 4); what was counted before fades at the learning rate."""
    kept = (1.0 - learning_rate) ** (len(signatures) / min_samples)
    bank = ReasoningBank(replace(patterns, usage=kept * patterns.usage, chances=kept * patterns.chances))
    if len(bank):
        bank.count_usage(bank.lookup(signatures, 1)[0][:, 0])
    return bank.patterns


def inherit_usage(
    patterns: Patterns, met: Ints, probes: Mapping[int, Floats], past: PreviousPolicy
) -> Patterns:
    """Give patterns the age and the usage of those that the same searches met before.

    `met` int64 (n,) says which of `patterns` each search meets first, `probes` by length (n, length) what it
    saw. A pattern more than half of whose searches are like something in the past is the heir of the one that
    most of them met, and as old; the others are new. The usage of an old pattern is shared among those that
    its searches meet now; chances are the mean of what its searches bring.
    """
    way = past.policy.signature
    if way is None or way.probe_ef not in probes or not len(past.patterns):
        return patterns
    seen = probes[way.probe_ef]
    whole = np.flatnonzero(np.isfinite(seen).all(axis=1))
    numbers, distances = ReasoningBank(past.patterns).lookup(way.transform(seen[whole]), 1)
    alike = distances[:, 0] <= past.policy.reach
    pairs = met[whole[alike]] * len(past.patterns) + numbers[alike, 0]
    shape = (len(patterns), len(past.patterns))
    shared = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    members = np.maximum(np.bincount(met, minlength=len(patterns)), 1)
    heir = 2 * shared.sum(axis=1) > members
    old = past.patterns
    return replace(
        patterns,
        usage=shared @ (old.usage / np.maximum(shared.sum(axis=0), 1.0)),
        chances=shared @ old.chances / members,
        born=np.where(heir, old.born[shared.argmax(axis=1)], 0.0),
    )


def prune_unused(bank: ReasoningBank) -> int:
    """Drop patterns that were hardly looked up and are hardly supported; return how many went.

    None of them while each was to be met less than five times since it was born, so none at all where
    nothing is known of lookups.
    """
    return bank.prune(_HARDLY_USED, _HARDLY_SUPPORTED, chances=_EXPECTED * len(bank))
