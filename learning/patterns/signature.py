"""Signatures: what a probe saw, as four whole numbers.

A probe is the beginning of a search: its first `probe_ef` rows, in order of distance. Eight features of these
distances are centred, projected on the directions that best predict how recall grows with effort (partial
least squares), and rounded to a grid of integers, so that the database and Python agree to the last bit
(sql/tuner/functions/search/choose_effort.sql computes the same).

The k of a signature is a class of k. A search for fewer rows than that looks at the same ranks, because it is
compared with what other searches of the class saw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from vectuned.learning.model.arrays import Floats, Singles

FEATURES: Final = 8  # columns of `features`
COMPONENTS: Final = 4  # elements of a signature, the directions of the partial least squares
# Grid steps per standard deviation of the first direction: rounding moves a signature by less than 1 % of
# that.
GRID_SCALE: Final = 64.0
# Signatures are clipped to this: squared distances of whole numbers this small are exact in float32.
GRID_LIMIT: Final = 1000.0
# A feature or direction varies if its standard deviation is above this share of its magnitude, or of 1: below
# that it is rounding.
_LEAST_FEATURE_SPREAD: Final = 1e-12
_LEAST_SCORE_SPREAD: Final = 1e-6  # share; scores add up rounding errors of the features


def feature_ranks(k: int, probe_ef: int) -> tuple[int, int, int, int, int, int]:
    """Return the ranks, from 1, that features are made of: the first, the k-th, the quarters beyond it."""
    rest = probe_ef - k
    return (1, k, k + rest // 4, k + rest // 2, k + rest * 3 // 4, probe_ef)


def features(probes: Floats, k: int, probe_ef: int) -> Floats:
    """Return the features (n, 8) of probes (n, probe_ef), the distances of a search with that ef_search."""
    first, kth, q1, q2, q3, last = (probes[:, rank - 1] for rank in feature_ranks(k, probe_ef))
    # cumsum adds in order, as the database does; sum would add in pairs and round differently.
    mean = np.cumsum(probes[:, :k], axis=1)[:, -1] / k
    spread = last - first
    spread = np.where(spread <= 0, 1.0, spread)
    return np.column_stack(
        [
            first,
            kth,
            last,
            mean,
            (kth - first) / spread,
            (q1 - kth) / spread,
            (q2 - kth) / spread,
            (q3 - kth) / spread,
        ]
    )


@dataclass(frozen=True)
class Signature:
    """The projection from features to a signature: `center` float64 (8,), `weights` float64 (8, 4)."""

    k: int
    probe_ef: int
    center: Floats
    weights: Floats

    def transform(self, probes: Floats) -> Singles:
        """Return the signatures float32 (n, 4), whole numbers from -1000 to 1000, of probes (n, probe_ef)."""
        shifted = features(probes, self.k, self.probe_ef) - self.center
        total = shifted[:, :1] * self.weights[0]
        for feature in range(1, FEATURES):
            total = total + shifted[:, feature : feature + 1] * self.weights[feature]
        signatures: Singles = np.clip(np.rint(total), -GRID_LIMIT, GRID_LIMIT).astype(np.float32)
        return signatures


def fit_signature(probes: Floats, k: int, probe_ef: int, recall: Floats) -> Signature:
    """Learn the projection that best predicts recall curves.

    `probes` (n, probe_ef) are distances, `recall` (n, rungs) is the recall at every rung. Each direction is
    scaled by the share of the curves' variance that it explains, so that the distance between signatures
    measures how different the needed efforts are.
    """
    # Imported here, because it takes a second and only learning needs it.
    from sklearn.cross_decomposition import PLSRegression

    x = features(probes, k, probe_ef)
    center, scale = x.mean(axis=0), x.std(axis=0)
    useful = scale > _LEAST_FEATURE_SPREAD * np.maximum(1.0, np.abs(center))
    z = np.where(useful, (x - center) / np.where(useful, scale, 1.0), 0.0)
    weights = np.zeros((FEATURES, COMPONENTS))
    varying = recall.std(axis=0) > 0
    components = min(COMPONENTS, int(useful.sum()), len(x) - 1)
    if components > 0 and varying.any():
        y = recall[:, varying]
        y = y - y.mean(axis=0)
        model = PLSRegression(components, scale=False).fit(z[:, useful], y)
        scores = z[:, useful] @ model.x_rotations_
        deviation = scores.std(axis=0)
        # If features are linearly dependent, only rounding is left for the last directions.
        deviation = np.where(deviation > _LEAST_SCORE_SPREAD, deviation, np.inf)
        explained = ((scores / deviation).T @ y / len(y)) ** 2
        importance = np.sqrt(explained.sum(axis=1) / max(explained.sum(axis=1).max(), 1e-300))
        weights[useful, :components] = (
            model.x_rotations_ * (GRID_SCALE * importance / deviation) / scale[useful, None]
        )
    return Signature(k, probe_ef, center, weights)
