"""What replays say: their curves through one index, read back from the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg

from vectuned.learning.model.arrays import Floats, Ints
from vectuned.learning.model.ladder import PROBE_WIDTH, PROBES
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.patterns.lineage import COUNTER_EXAMPLE_WEIGHT, training_weights
from vectuned.sql.files import queries

from .calibration import ReplaySample
from .filtering import OTHER_PATHS, FilteredReplaySample

_ENDS: Final = tuple(sum(PROBES[: place + 1]) for place in range(len(PROBES)))


@dataclass(frozen=True)
class Replays:
    """Hold n replays through one index, as it was built last.

    `search_classes` int64 (n,), the class of k each search belonged to; `k_classes` (c,) those with a recall;
    `probes` float64 (n, length) by length, the distances that a search with that ef_search sees, in order,
    padded with +inf, none of an index that is not probed; `recall` float64 (n, c, rungs), NaN where a class
    was not looked at; `blocks` and `ms` float64 (n, rungs), index buffers and milliseconds.

    Of filtered searches also: `fraction` float64 (n,) of the index's rows thought to match, NaN where there
    was no filter; `filtered_recall` (n, c, rungs) of the matching rows among the first of the scan; `matches`
    int64 (n, rungs), how many those were, -1 where the scan was given up before; `exact_ms` float64 (n,),
    of the exact answer through the filter; `other_recall` (n, c, others) and `other_ms` (n, others) of the
    ways that have no rungs, NaN where they were not tried; `shapes`, each filter's columns and operators.

    `weight` float64 (n,) says how much each counts in training, the older the less; None where all alike.
    """

    search_classes: Ints
    k_classes: tuple[int, ...]
    probes: dict[int, Floats]
    recall: Floats
    blocks: Floats
    ms: Floats
    fraction: Floats
    filtered_recall: Floats
    matches: Ints
    exact_ms: Floats
    other_recall: Floats
    other_ms: Floats
    shapes: tuple[str | None, ...]
    weight: Floats | None = None

    def __len__(self) -> int:
        return len(self.search_classes)

    def count_replays(self, k: int) -> int:
        """Count the replays that looked at class `k`."""
        if k not in self.k_classes:
            return 0
        return int(np.count_nonzero(np.isfinite(self.recall[:, self.k_classes.index(k), 0])))

    def sample(self, k: int, enough: int | None = None) -> ReplaySample:
        """Return what the replays that looked at class `k`, one of `k_classes`, say about it.

        Where `enough` searches of the class itself were replayed, only those: who asks for so many rows may
        ask for other things.
        """
        recall = self.recall[:, self.k_classes.index(k)]
        looked, own = np.isfinite(recall[:, 0]), self.search_classes == k
        alone = enough is not None and np.count_nonzero(looked & own) >= enough
        sample = ReplaySample(k, self.probes, recall, self.blocks, self.ms, own, self.weight)
        return sample.take(looked & own if alone else looked)

    def filtered_sample(self, k: int) -> FilteredReplaySample:
        """Return what the filtered replays that looked at class `k` say about it."""
        place = self.k_classes.index(k)
        recall = self.filtered_recall[:, place]
        own = np.isfinite(self.fraction) & np.isfinite(recall[:, 0])
        return FilteredReplaySample(
            k,
            self.fraction[own],
            recall[own],
            self.matches[own] < k,
            self.matches[own] >= 0,
            self.ms[own],
            self.exact_ms[own],
            self.other_recall[own, place],
            self.other_ms[own],
            np.array([shape or "" for shape in self.shapes])[own],
        )


def load_replays(
    conn: psycopg.Connection[Any], tuned: TunedColumn, index: TunedIndex, *, counter_examples: bool = False
) -> Replays:
    """Read the newest replays through an index as it is now, up to the column's trajectory window.

    Or the counter-examples that were kept when they left the window: these are no random sample.
    """
    values = {
        "column_id": tuned.column.id,
        "generation": index.generation,
        "count": tuned.trajectory_window,
        "width": PROBE_WIDTH,
        "learn_from": tuned.learn_from,
        "is_counter_example": counter_examples,
    }
    rows = conn.cursor(binary=True).execute(queries()["replays"], values).fetchall()
    # A search for many rows has its chunk looked at for classes that others were not.
    classes = sorted({k for row in rows for k in row[1]})
    rungs = len(index.rungs)
    recall = np.full((len(rows), len(classes), rungs), np.nan)
    filtered_recall = np.full(recall.shape, np.nan)
    other_recall = np.full((len(rows), len(classes), len(OTHER_PATHS)), np.nan)
    other_ms = np.full((len(rows), len(OTHER_PATHS)), np.nan)
    matches = np.zeros((len(rows), rungs), dtype=np.int64)
    probed = bool(rows) and all(len(row[2]) == PROBE_WIDTH for row in rows)
    for i, row in enumerate(rows):
        places = np.searchsorted(classes, row[1])
        if row[3] is not None:
            recall[i, places] = row[3]
        if row[6] is not None:
            filtered_recall[i, places], matches[i] = row[7], row[8]
        if row[10]:
            other_recall[i, places, : len(row[11])], other_ms[i, : len(row[11])] = row[10], row[11]
    newer = np.arange(len(rows)) + (tuned.trajectory_window if counter_examples else 0)
    weight = training_weights(newer, tuned.learning_rate, tuned.min_samples)
    seen = np.array([row[2] for row in rows] if probed else [], dtype=np.float64).reshape(-1, PROBE_WIDTH)
    return Replays(
        np.array([row[0] for row in rows], dtype=np.int64),
        tuple(classes),
        {length: seen[:, end - length : end] for length, end in zip(PROBES, _ENDS, strict=True)}
        if probed
        else {},
        recall,
        np.array([row[4] for row in rows], dtype=np.float64).reshape(len(rows), rungs),
        np.array([row[5] for row in rows], dtype=np.float64).reshape(len(rows), rungs),
        np.array([row[6] for row in rows], dtype=np.float64),  # None becomes NaN
        filtered_recall,
        matches,
        np.array([row[9] for row in rows], dtype=np.float64),
        other_recall,
        other_ms,
        tuple(row[12] for row in rows),
        COUNTER_EXAMPLE_WEIGHT * weight if counter_examples else weight,
    )
