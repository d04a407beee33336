"""Patterns from one pass of learning to the next: how much old replays count, and what patterns inherit.

Every pass draws again which replays are for training and which are for proof. Earlier patterns were trained
on some of the replays that are for proof now, so no curve and no centroid is carried over, only the age of a
pattern and how often it was looked up: neither says anything about recall. Instead, old replays count less in
training. On 10,000 replays of a workload that turned into its opposite, effort by query came within 10 % of
its final saving after about 2,000 new replays at a learning rate of 0.1, after 1,000 at 0.3, and not even
after 4,000 with equal weights. If the workload stays the same, the weights cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from vectuned.learning.model.arrays import Floats, Ints, Singles

from .optimizer import Policy
from .reasoning_bank import Patterns, ReasoningBank, confidence_from_samples

# Weight of a counter-example relative to a replay of the same age. A weight of 1 cost 0.5 to 4 % of the
# saving, since the successes of the same time have been deleted; 0.1 costs nothing, and gained 0.5 % where
# one search in a hundred was of a hard kind of its own.
COUNTER_EXAMPLE_WEIGHT: Final = 0.1
_FULL_WEIGHT: Final = 3  # multiples of min_samples: as many of the newest replays count in full
_MIN_CHANCES: Final = 5  # mean lookups per pattern, before a pattern without any can be called unused
_MIN_USAGE: Final = 1.0  # lookups: a pattern with fewer is hardly used
# A pattern of fewer than 3 replays is hardly supported.
_MIN_CONFIDENCE: Final = float(confidence_from_samples(np.array(3)))


@dataclass(frozen=True)
class PreviousPolicy:
    """What served a class of k: its policy, and its patterns with their usage since they were published."""

    policy: Policy
    patterns: Patterns


def training_weights(newer: Ints, learning_rate: float, min_samples: int) -> Floats:
    """Return how much replays count in training, float64 (n,) from 0 to 1, by how many are `newer`.

    The newest 3 * `min_samples` count in full, so that a high rate does not leave too few. The weight of the
    others falls by the share `learning_rate` with every `min_samples` newer ones.
    """
    old = np.maximum(newer - _FULL_WEIGHT * min_samples, 0) / min_samples
    return np.asarray((1.0 - learning_rate) ** old, dtype=np.float64)


def count_lookups(
    patterns: Patterns, signatures: Singles, learning_rate: float, min_samples: int
) -> Patterns:
    """Count the lookups of `signatures` (n, 4); earlier counts fade at the learning rate."""
    remaining = (1.0 - learning_rate) ** (len(signatures) / min_samples)
    bank = ReasoningBank(
        replace(patterns, usage=remaining * patterns.usage, chances=remaining * patterns.chances)
    )
    if len(bank):
        bank.count_usage(bank.lookup(signatures, 1)[0][:, 0])
    return bank.patterns


def inherit_usage(
    patterns: Patterns, nearest: Ints, probes: Mapping[int, Floats], past: PreviousPolicy
) -> Patterns:
    """Give patterns the age and the usage of the past patterns of the same searches.

    `nearest` int64 (n,) is the pattern nearest to each search, and `probes` by length (n, length) the
    distances that its probe saw. If more than half of a pattern's searches lie within reach of past patterns,
    the pattern is the heir of the one nearest to most of them and takes its date of birth; other patterns are
    new. The usage of a past pattern is divided among the patterns that are now nearest to its searches;
    chances are the mean of the past ones of a pattern's searches.
    """
    signature = past.policy.signature
    if signature is None or signature.probe_ef not in probes or not len(past.patterns):
        return patterns
    distances_seen = probes[signature.probe_ef]
    complete = np.flatnonzero(np.isfinite(distances_seen).all(axis=1))
    signatures = signature.transform(distances_seen[complete])
    past_nearest, distances = ReasoningBank(past.patterns).lookup(signatures, 1)
    within_reach = distances[:, 0] <= past.policy.reach
    pairs = nearest[complete[within_reach]] * len(past.patterns) + past_nearest[within_reach, 0]
    shape = (len(patterns), len(past.patterns))
    # Searches by (pattern, past pattern).
    shared = np.bincount(pairs, minlength=shape[0] * shape[1]).reshape(shape).astype(np.float64)
    members = np.maximum(np.bincount(nearest, minlength=len(patterns)), 1)
    heir = 2 * shared.sum(axis=1) > members
    old = past.patterns
    return replace(
        patterns,
        usage=shared @ (old.usage / np.maximum(shared.sum(axis=0), 1.0)),
        chances=shared @ old.chances / members,
        born=np.where(heir, old.born[shared.argmax(axis=1)], 0.0),
    )


def prune_unused(bank: ReasoningBank) -> int:
    """Delete patterns that are hardly used and hardly supported; return how many were deleted.

    A pattern stays until there were five lookups per pattern since its birth; so all stay if no lookups were
    recorded.
    """
    return bank.prune(_MIN_USAGE, _MIN_CONFIDENCE, chances=_MIN_CHANCES * len(bank))
