"""A sample of replays of one class of k: what each search would have found, and paid, by effort."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from vectuned.learning.model import ladder
from vectuned.learning.model.arrays import Bools, Floats, Ints

from .demand import Demand, above_tail, guess_effort
from .dependence import block_length

FEW_REPLAYS: Final = 20  # with fewer, means are too noisy to contradict a proof or to learn patterns from


@dataclass(frozen=True)
class ReplaySample:
    """Hold n replays that say something about one class of k.

    `probes` by length, float64 (n, length) each: the distances that a search with that ef_search sees, in
    order, padded with +inf if there are fewer; `recall` float64 (n, rungs) at this k; `cost` float64
    (n, rungs), index buffers; `ms` float64 (n, rungs), milliseconds; `own` bool (n,), whether the search
    belongs to the class itself or is pooled with it, None if all belong to it; `weight` float64 (n,) from 0
    to 1, how much each counts in training, None if all count alike. In proofs all always count alike.
    `recorded_at` float64 (n,), seconds since 1970, None if unknown. The replays are in order of time.
    """

    k: int
    probes: dict[int, Floats]
    recall: Floats
    cost: Floats
    ms: Floats
    own: Bools | None = None
    weight: Floats | None = None
    recorded_at: Floats | None = None

    @property
    def pooled(self) -> bool:
        """Say whether searches of another class of k, or with a filter, are among them."""
        return self.own is not None and not bool(self.own.all())

    @property
    def seconds(self) -> float | None:
        """Return the time between the first and the last search, None if unknown."""
        return float(np.ptp(self.recorded_at)) if self.recorded_at is not None and len(self) else None

    def block_length(self, seed: int) -> int:
        """Return how many consecutive replays count as one draw, because searches come in bursts.

        The mean recall over all rungs shows how hard a query is also where most efforts find everything.
        Pooled searches prove nothing, and classes that follow each other are no bursts: they count singly.
        """
        return 1 if self.pooled else block_length(self.recall.mean(axis=1), seed)

    def recall_at(self, efforts: Floats) -> tuple[Floats, Floats]:
        """Return recall at positions (m,) or (n, m) on the ladder, and if it is above the tail, (n, m)."""
        return ladder.interpolate(self.recall, efforts), ladder.interpolate(above_tail(self.recall), efforts)

    def take(self, rows: Ints | Bools) -> ReplaySample:
        """Return the replays at `rows`, indices or a mask."""
        probes = {length: distances[rows] for length, distances in self.probes.items()}
        own = None if self.own is None else self.own[rows]
        weight = None if self.weight is None else self.weight[rows]
        recorded_at = None if self.recorded_at is None else self.recorded_at[rows]
        return replace(
            self,
            probes=probes,
            recall=self.recall[rows],
            cost=self.cost[rows],
            ms=self.ms[rows],
            own=own,
            weight=weight,
            recorded_at=recorded_at,
        )

    def with_probe(self, probe_ef: int) -> ReplaySample:
        """Return the replays whose probe of that length is complete."""
        return self.take(np.flatnonzero(np.isfinite(self.probes[probe_ef]).all(axis=1)))

    def concatenate(self, others: ReplaySample) -> ReplaySample:
        """Return these replays followed by others, all taken as searches of the class itself."""

        def both(name: str) -> Floats:
            return np.concatenate([getattr(self, name), getattr(others, name)])

        weight = [np.ones(len(part)) if part.weight is None else part.weight for part in (self, others)]
        probes = {
            length: np.concatenate([distances, others.probes[length]])
            for length, distances in self.probes.items()
        }
        return ReplaySample(
            self.k, probes, both("recall"), both("cost"), both("ms"), weight=np.concatenate(weight)
        )

    def own_only(self) -> ReplaySample:
        """Return only the replays of searches of the class itself."""
        return self if self.own is None else self.take(self.own)

    def confirm_for_class(self, recall: Floats, above: Floats, safe: int, demand: Demand) -> int | None:
        """Return the smallest proven effort that the class's own searches meet a demand with, on average.

        `recall` and `above` are (n, m), and efforts from number `safe` on are proven for the whole pool. That
        may not hold for a class that is a small part of the pool. Fewer than 20 searches of its own cannot
        contradict the proof. Returns None if no effort meets the demand.
        """
        if self.own is None or np.count_nonzero(self.own) < FEW_REPLAYS:
            return safe
        met = np.flatnonzero(demand.is_met_by(recall[self.own], above[self.own])[safe:])
        return safe + int(met[0]) if len(met) else None

    def guess_for_class(self, recall: Floats, above: Floats, demand: Demand) -> int:
        """Return the effort that the replays ask for, by `guess_effort`.

        With 20 searches of the class itself, these decide. `recall` and `above` are (n, m).
        """
        if self.own is not None and np.count_nonzero(self.own) >= FEW_REPLAYS:
            recall, above = recall[self.own], above[self.own]
        return guess_effort(recall, above, demand)

    def __len__(self) -> int:
        return len(self.recall)
