"""From replays to patterns: clusters of signatures with what searching harder gained and cost there."""

from __future__ import annotations

from typing import Final

import numpy as np
from sklearn.cluster import KMeans

from .ladder import HIGHEST, at_efforts
from .neighbors import Floats, Ints, Singles
from .reasoning_bank import Patterns, support

SHRINKAGE: Final = 10.0
STEP: Final = 0.25


def distil(signatures: Singles, recall: Floats, cost: Floats, *, clusters: int = 64, seed: int = 0) -> Patterns:
    """Cluster signatures and learn each cluster's curves.

    `signatures` float32 (n, 4), `recall` and `cost` (n, rungs). The curves of a cluster of m replays are
    drawn towards the curves of all by 10 / (m + 10). Efforts are not chosen yet: see `choose_efforts`.
    """
    distinct = len(np.unique(signatures, axis=0))
    count = max(1, min(clusters, distinct, len(signatures) // 4))
    model = KMeans(count, n_init=2, random_state=seed).fit(signatures.astype(np.float64))
    labels: Ints = model.labels_.astype(np.int64)
    samples = np.bincount(labels, minlength=count).astype(np.int64)
    share = (samples / (samples + SHRINKAGE))[:, None]

    def curves(values: Floats) -> Floats:
        sums = np.zeros((count, values.shape[1]))
        np.add.at(sums, labels, values)
        means = sums / np.maximum(samples, 1)[:, None]
        return np.asarray(share * means + (1 - share) * values.mean(axis=0))

    zero = np.zeros(count)
    return Patterns(
        np.rint(model.cluster_centers_).astype(np.float32),
        np.clip(curves(recall), 0.0, 1.0), curves(cost), samples, zero, zero, support(samples),
        np.zeros(count, dtype=np.int64),
    )  # fmt: skip


def choose_efforts(patterns: Patterns, price: float, lowest: float) -> tuple[Floats, Floats]:
    """Choose each pattern's effort: the one with the highest recall - price * cost.

    `price` is recall per index buffer; `lowest` the position on the ladder under which nothing is gained
    because the probe went that far already. Returns efforts (p,) and the recall expected there (p,).
    """
    grid = np.append(np.arange(lowest, HIGHEST, STEP), HIGHEST)
    recall, cost = at_efforts(patterns.recall, grid), at_efforts(patterns.cost, grid)
    best = np.argmax(recall - price * cost, axis=1)
    rows = np.arange(len(patterns))
    return grid[best], recall[rows, best]
