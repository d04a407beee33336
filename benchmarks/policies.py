"""Policies that choose ef_search: fitted on replays of training queries, evaluated on held-out queries.

Every policy is fitted on the same replays of training queries, and on those only, to reach a target mean
recall. The cost of deciding is not included here; only vectuned's own policy pays for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from sklearn.cluster import KMeans
from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
from sklearn.multioutput import MultiOutputRegressor

from benchmarks.arena import Arena
from vectuned.learning.model import ladder
from vectuned.learning.model.arrays import Floats, Ints, Singles
from vectuned.learning.model.vectors import Vector
from vectuned.learning.patterns import signature
from vectuned.learning.patterns.distillation import distil
from vectuned.learning.patterns.optimizer import blend
from vectuned.learning.patterns.reasoning_bank import ReasoningBank
from vectuned.learning.replay.scan import IndexScans, ScanGoal
from vectuned.learning.truth.truth import Truth, exact_neighbors

PROBE: Final = 56
CLUSTERS: Final = 64
_STEPS: Final = np.linspace(0.0, ladder.HIGHEST_POSITION, 4 * int(ladder.HIGHEST_POSITION) + 1)
_SHRINK: Final = 20.0
_GROUPS: Final = 20


@dataclass(frozen=True)
class Replays:
    """Replays of n queries, at every rung of effort.

    `vectors` float32 (n, d); `recall` and `blocks`, index buffers, float64 (n, rungs); `distances` float64
    (n, most) in the order of one relaxed scan, padded with +inf, of which `counts` int64 (n, rungs) had come
    by each rung; `probes` float64 (n, 56), the distances that a search with ef_search 56 returns.
    """

    vectors: Singles
    recall: Floats
    blocks: Floats
    distances: Floats
    counts: Ints
    probes: Floats

    def take(self, rows: Any) -> Replays:
        """Return the queries at `rows`, indices or a mask."""
        return Replays(
            self.vectors[rows],
            self.recall[rows],
            self.blocks[rows],
            self.distances[rows],
            self.counts[rows],
            self.probes[rows],
        )

    def __len__(self) -> int:
        return len(self.vectors)


def replays(arena: Arena, vectors: Singles, truth: Truth, label: str) -> Replays:
    """Replay queries on the main index, each up to the highest effort."""
    index, k = arena.tuned.indexes[0], arena.k
    scans = IndexScans(arena.tuned, index, len(vectors), k)
    probes = np.full((len(vectors), PROBE), np.inf)
    with arena.conn.transaction(), arena.console.progress(label, len(vectors)) as progress:
        for i, vector in enumerate(vectors):
            scans.search(arena.conn, i, vector, k, None, ScanGoal())
            row = arena.conn.execute(
                "SELECT vectuned._probe(c, %s, %s) FROM vectuned.tuned_column c WHERE c.id = %s",
                (Vector(vector), PROBE, arena.tuned.column.id),
            ).fetchone()
            assert row is not None
            probes[i, : len(row[0])] = row[0]
            progress(i + 1)
    every = np.ones(len(vectors), dtype=np.bool_)
    distances, counts = scans.distances()
    return Replays(vectors, scans.recall(every, truth, k), scans.blocks, distances, counts, probes)


def exact(arena: Arena, vectors: Singles) -> Truth:
    """Find the exact answers."""
    with arena.console.progress("exact answers", 1) as progress:
        truth = exact_neighbors(arena.conn, arena.tuned.column, vectors, arena.k)
        progress(1)
    return truth


class Policies:
    """Policies fitted on the first half of the training queries and calibrated for a target on the second."""

    def __init__(
        self, training: Replays, judged: Replays, rows: Singles, metric: str, k: int, seed: int
    ) -> None:
        half = len(training) // 2
        self.training, self.judged, self.k = training, judged, k
        self.learned, self.setting = training.take(slice(half)), training.take(slice(half, None))
        self._rows, self._metric, self._seed = rows, metric, seed
        self._cost = training.blocks.mean(axis=0)
        self._signed = [
            np.asarray(signature.features(each.probes, k, PROBE))
            for each in (self.learned, self.setting, judged)
        ]
        self._predicted: dict[str, tuple[Floats, Floats]] = {}

    def choose(self, name: str, target: float) -> Ints:
        """Return the ef_search of each held-out query: int64 (n,)."""
        return POLICIES[name](self, target)

    def query_clusters(self, target: float) -> Ints:
        """Cluster the query vectors; predict the mean curve of the cluster, shrunk towards that of all."""

        def fit() -> tuple[Floats, Floats]:
            model = KMeans(min(CLUSTERS, len(self.learned) // 8), n_init=3, random_state=self._seed)
            labels = model.fit_predict(self.learned.vectors)
            count = np.bincount(labels, minlength=model.n_clusters)[:, None]
            total = np.zeros((model.n_clusters, self.learned.recall.shape[1]))
            np.add.at(total, labels, self.learned.recall)
            curves = (total + _SHRINK * self.learned.recall.mean(axis=0)) / (count + _SHRINK)
            return curves[model.predict(self.setting.vectors)], curves[model.predict(self.judged.vectors)]

        return self._by_curves("query clusters", fit, target)

    def patterns(self, target: float) -> Ints:
        """Look up patterns as in vectuned's bank, but for curves instead of efforts."""

        def fit() -> tuple[Floats, Floats]:
            learned = self.learned
            fitted = signature.fit_signature(learned.probes, self.k, PROBE, learned.recall)
            signatures = fitted.transform(learned.probes)
            bank = ReasoningBank(distil(signatures, learned.recall, learned.blocks, seed=self._seed))
            curves = bank.patterns.recall.astype(np.float64)

            def predicted(probes: Floats) -> Floats:
                return blend(curves, *bank.lookup(fitted.transform(probes)), np.inf)

            return predicted(self.setting.probes), predicted(self.judged.probes)

        return self._by_curves("patterns", fit, target)

    def extra_trees(self, target: float) -> Ints:
        """Predict recall curves from the probe's distances by extremely randomised trees."""
        model = ExtraTreesRegressor(300, min_samples_leaf=10, random_state=self._seed, n_jobs=-1)
        return self._by_curves("extra trees", lambda: self._regressed(model), target)

    def boosted_trees(self, target: float) -> Ints:
        """Predict recall curves from the probe's distances by gradient boosting, one model per rung."""
        model = MultiOutputRegressor(
            HistGradientBoostingRegressor(
                max_iter=100, learning_rate=0.05, max_leaf_nodes=8, random_state=self._seed
            )
        )
        return self._by_curves("boosted trees", lambda: self._regressed(model), target)

    def slack_rule(self, target: float) -> Ints:
        """Continue while the median of the last batch of rows is within g times the k-th distance so far.

        g is the smallest that reaches the target on the training queries.
        """
        slack, need = self._slacks
        every = np.arange(len(self.training))
        low, high = 1.0, float(slack[np.isfinite(slack)].max())
        for _ in range(40):
            middle = (low + high) / 2
            reached = self.training.recall[every, _stops(slack, middle)].mean() >= target
            low, high = (low, middle) if reached else (middle, high)
        return ladder.setting_at(_stops(need, high), self.k)

    def ada_ef(self, target: float) -> Ints:
        """Choose by the score of Ada-ef (arXiv 2512.06636), adapted to the distances that a probe returns.

        The distances of a query to all rows are assumed to be normal, with moments from the mean and
        covariance of the rows. The score counts the probe's distances in bins, weighted more the farther
        below the mean; a table holds the least effort that reaches the target for each group of scores. The
        paper scores the distances that the scan visits. The returned ones are the nearest of all rows, so the
        bins here lie between their quantiles.
        """
        seen, judging = self._standardised
        edges = np.quantile(seen, np.linspace(0, 1, 11)[1:-1])
        weight = np.exp(-np.arange(10.0))

        def score(z: Floats) -> Floats:
            return np.asarray(weight[np.searchsorted(edges, z)].mean(axis=1) * 100)

        scores = score(seen)
        groups = np.quantile(scores, np.linspace(0, 1, _GROUPS + 1)[1:-1])
        of_training = np.searchsorted(groups, scores)
        table = np.array(
            [_least(self.training.recall[of_training == group], target) for group in range(_GROUPS)]
        )
        return ladder.setting_at(table[np.searchsorted(groups, score(judging))], self.k)

    def oracle(self, target: float) -> Ints:
        """Choose by the true curves of held-out queries: the least buffers that reach the target."""
        curves = self.judged.recall
        return ladder.setting_at(
            _priced(curves, curves, self.judged.blocks, target, curves, self.judged.blocks), self.k
        )

    @cached_property
    def _slacks(self) -> tuple[Floats, Floats]:
        return _slacks(self.training, self.k), _slacks(self.judged, self.k)

    @cached_property
    def _standardised(self) -> tuple[Floats, Floats]:
        moments = _Moments(self._rows, self._metric)
        return (
            moments.standardise(self.training.vectors, self.training.probes),
            moments.standardise(self.judged.vectors, self.judged.probes),
        )

    def _regressed(self, model: Any) -> tuple[Floats, Floats]:
        learned, setting, judged = self._signed
        model.fit(learned, self.learned.recall)
        return (
            np.maximum.accumulate(model.predict(setting), axis=1),
            np.maximum.accumulate(model.predict(judged), axis=1),
        )

    def _by_curves(self, name: str, fit: Callable[[], tuple[Floats, Floats]], target: float) -> Ints:
        if name not in self._predicted:
            self._predicted[name] = fit()
        setting, judged = self._predicted[name]
        cost = np.broadcast_to(self._cost, setting.shape)
        wanted = np.broadcast_to(self._cost, judged.shape)
        return ladder.setting_at(_priced(setting, self.setting.recall, cost, target, judged, wanted), self.k)


POLICIES: Final[dict[str, Callable[[Policies, float], Ints]]] = {
    "query clusters": Policies.query_clusters,
    "patterns of the bank": Policies.patterns,
    "slack rule": Policies.slack_rule,
    "boosted trees": Policies.boosted_trees,
    "extra trees": Policies.extra_trees,
    "Ada-ef score": Policies.ada_ef,
    "oracle": Policies.oracle,
}


def _priced(
    predicted: Floats, recall: Floats, cost: Floats, target: float, judged: Floats, judged_cost: Floats
) -> Floats:
    """Return argmax(recall - price * cost) by held-out query, at the highest price that reaches the target.

    The price is found on queries whose curves are `predicted` and whose true ones are `recall`, at their
    `cost`. Returns positions on the ladder (n,).
    """
    expected, costs = ladder.interpolate(predicted, _STEPS), ladder.interpolate(cost, _STEPS)
    truly = ladder.interpolate(recall, _STEPS)
    every = np.arange(len(expected))
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        chosen = np.argmax(expected - middle * costs, axis=1)
        low, high = (middle, high) if truly[every, chosen].mean() >= target else (low, middle)
    wanted = ladder.interpolate(judged, _STEPS) - low * ladder.interpolate(judged_cost, _STEPS)
    return np.asarray(_STEPS[np.argmax(wanted, axis=1)])


def _least(recall: Floats, target: float) -> float:
    """Return the least effort at which the mean of curves (n, rungs) reaches a target, or the highest."""
    if not len(recall):
        return ladder.HIGHEST_POSITION
    means = ladder.interpolate(recall.mean(axis=0)[None], _STEPS)[0]
    reached = np.flatnonzero(means >= target)
    return float(_STEPS[reached[0]]) if len(reached) else ladder.HIGHEST_POSITION


def _slacks(seen: Replays, k: int) -> Floats:
    """Return after each rung the median of its batch over the k-th distance so far: (n, rungs)."""
    found = np.full(seen.counts.shape, np.inf)
    for i, (distances, counts) in enumerate(zip(seen.distances, seen.counts, strict=True)):
        start = 0
        for rung, end in enumerate(counts):
            if end > start and end >= k:
                kth = np.partition(distances[:end], k - 1)[k - 1]
                found[i, rung] = np.median(distances[start:end]) / max(kth, 1e-12)
            start = max(start, int(end))
    return found


def _stops(slacks: Floats, slack: float) -> Ints:
    """Return the first rung whose batch is farther than the limit, or the last rung."""
    far = slacks > slack
    far[:, -1] = True
    return np.asarray(np.argmax(far, axis=1), dtype=np.int64)


class _Moments:
    """Mean and covariance of the rows, which give the distribution of distances from any query."""

    def __init__(self, rows: Singles, metric: str, sample: int = 50_000) -> None:
        rows = np.asarray(rows[:sample], dtype=np.float64)
        self._metric = metric
        if metric == "cosine":
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        squares = np.einsum("ij,ij->i", rows, rows)
        self._mean, self._cov = rows.mean(axis=0), np.cov(rows, rowvar=False)
        self._square, self._spread = squares.mean(), squares.var()
        self._with = ((rows - self._mean) * (squares - squares.mean())[:, None]).mean(axis=0)

    def standardise(self, queries: Singles, distances: Floats) -> Floats:
        """Return distances (n, m), squared for L2, in standard deviations from the mean."""
        q = np.asarray(queries, dtype=np.float64)
        variance = np.einsum("ij,jk,ik->i", q, self._cov, q)
        if self._metric == "cosine":
            length = np.linalg.norm(q, axis=1)
            mean, deviation = 1 - q @ self._mean / length, np.sqrt(variance) / length
            return np.asarray((distances - mean[:, None]) / deviation[:, None])
        own = np.einsum("ij,ij->i", q, q)
        mean = own + self._square - 2 * (q @ self._mean)
        deviation = np.sqrt(np.maximum(self._spread + 4 * variance - 4 * (q @ self._with), 1e-12))
        return np.asarray((distances**2 - mean[:, None]) / deviation[:, None])
