"""Replays through one index, read from the database as arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

import numpy as np
import psycopg
from psycopg.rows import namedtuple_row

from vectuned.learning.model.arrays import Bools, Floats, Ints
from vectuned.learning.model.ladder import PROBE_WIDTH, PROBES
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.patterns.lineage import COUNTER_EXAMPLE_WEIGHT, training_weights
from vectuned.learning.replay.client_ms import MIN_TIMED, convert_ms
from vectuned.learning.statistics.replay_sample import ReplaySample
from vectuned.sql.files import queries
from vectuned.sql.rows import fetch_row, fetch_rows

from .filtering import FilteredReplaySample, other_paths

# Where each length of probe ends among the distances stored for a search, which hold all lengths in a row.
_ENDS: Final = tuple(accumulate(PROBES))


@dataclass(frozen=True)
class AskedRecall:
    """Recall of n replays at the k that each search asked for, where `Replays` has that of classes of k.

    `ks` int64 (n,); `recall` and `filtered_recall` float64 (n, rungs).
    """

    ks: Ints
    recall: Floats
    filtered_recall: Floats


@dataclass(frozen=True)
class Replays:
    """Hold n replays through one index, as it was built last.

    `search_classes` int64 (n,), the class of k of each search; `k_classes` (c,), the classes that a recall is
    known for; `probes` float64 (n, length) by length, the distances that a search with that ef_search sees,
    in order, padded with +inf, empty for an index that is not probed; `recall` float64 (n, c, rungs), NaN
    where a class was not replayed; `blocks` and `ms` float64 (n, rungs), index buffers and milliseconds.

    For filtered searches also: `fraction` float64 (n,) of the index's rows estimated to match, NaN without a
    filter; `filtered_recall` (n, c, rungs) of the matching rows among the first of the scan; `matches` int64
    (n, rungs), the number of those, -1 where the scan was given up before; `exact_ms` float64 (n,), of the
    exact answer through the filter; `other_recall`, at each search's own k, and `other_ms` (n, others) of
    `other_paths`, the paths without rungs, NaN where they were not tried; `shapes`, each filter's columns and
    operators.

    `weight` float64 (n,) says how much each replay counts in training: the less, the older it is and the more
    the table's size has changed since; None if all count alike. `numbers` int64 (n,) are those of the
    replays, `rows` float64 (n,) the sizes of the table then, NaN if unknown. Replays below `first`, or below
    `starts` for their class of k and shape, '' without a filter, are trained on but are no evidence: they
    were on another table, or before an alarm.
    `asked`, the recall at the k that was asked; None if that is k_class itself. `recorded_at` float64 (n,),
    when each search was recorded, in seconds since 1970; None if unknown: then they are in that order.
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
    numbers: Ints | None = None
    rows: Floats | None = None
    first: int = 0
    starts: Mapping[tuple[int, str], int] = field(default_factory=dict)
    asked: AskedRecall | None = None
    recorded_at: Floats | None = None

    def __len__(self) -> int:
        return len(self.search_classes)

    @property
    def current(self) -> Bools:
        """Return which replays (n,) were on the table as it is now."""
        return self._since(self.first)

    def count_replays(self, k: int) -> int:
        """Count the replays that are evidence about class `k`."""
        return int(np.count_nonzero(self._evidence(k))) if k in self.k_classes else 0

    def count_searches(self, k: int) -> int:
        """Count the replays of searches of class `k` itself that are on the table as it is now."""
        return int(np.count_nonzero((self.search_classes == k) & self.current))

    def _since(self, number: int) -> Bools:
        """Return which replays (n,) have at least a number."""
        numbers = np.full(len(self), number) if self.numbers is None else self.numbers
        return np.asarray(numbers >= number)

    def _evidence(self, k: int) -> Bools:
        """Return which replays (n,) are evidence about searches without a filter of class `k`."""
        known = np.isfinite(self.recall[:, self.k_classes.index(k), 0])
        return np.asarray(known & self._since(max(self.first, self.starts.get((k, ""), 0))))

    def sample(self, k: int, enough: int | None = None) -> ReplaySample:
        """Return the replays that are evidence about class `k`, one of `k_classes`, in order of time.

        Those of unfiltered searches of the class itself are its own, with the recall at the k that they asked
        for. With at least `enough` of them, return only those: searches with another k or with a filter may
        be another kind of query.
        """
        recall = self.recall[:, self.k_classes.index(k)]
        own = (self.search_classes == k) & ~np.isfinite(self.fraction)
        if self.asked is not None:
            recall = np.where(own[:, None], self.asked.recall, recall)
        known = self._evidence(k)
        own_suffice = enough is not None and np.count_nonzero(known & own) >= enough
        sample = ReplaySample(
            k, self.probes, recall, self.blocks, self.ms, own, self.weight, recorded_at=self.recorded_at
        )
        return sample.take(self._in_order_of_time(known & own if own_suffice else known))

    def earlier_sample(self, k: int) -> ReplaySample:
        """Return the replays of searches of class `k` that are trained on, but are no evidence any more."""
        recall = self.recall[:, self.k_classes.index(k)]
        earlier = np.isfinite(recall[:, 0]) & (self.search_classes == k) & ~self._evidence(k)
        return ReplaySample(k, self.probes, recall, self.blocks, self.ms, weight=self.weight).take(earlier)

    def filtered_sample(self, k: int, max_effort: int | None = None) -> FilteredReplaySample:
        """Return the replays of filtered searches that are evidence about class `k`, in order of time.

        Those of searches of the class itself are its own, scored at the k that they asked for. `max_effort`
        caps.
        """
        column = self.k_classes.index(k)
        own, recall = self.search_classes == k, self.filtered_recall[:, column]
        ks = np.full(len(self), k)
        if self.asked is not None:
            ks = np.where(own, self.asked.ks, k)
            recall = np.where(own[:, None], self.asked.filtered_recall, recall)
        evidence = np.isfinite(self.fraction) & np.isfinite(recall[:, 0]) & self.current
        for (k_class, shape), start in self.starts.items():
            if k_class == k and shape:
                evidence &= self._since(start) | (np.array(self.shapes) != shape)
        filtered = self._in_order_of_time(evidence)
        return FilteredReplaySample(
            k,
            self.fraction[filtered],
            recall[filtered],
            self.matches[filtered] < ks[filtered, None],
            self.matches[filtered] >= 0,
            self.ms[filtered],
            self.exact_ms[filtered],
            # Paths without rungs return as many rows as the search: other classes learn nothing from them.
            np.where(own[:, None], self.other_recall, np.nan)[filtered],
            np.where(own[:, None], self.other_ms, np.nan)[filtered],
            np.array([shape or "" for shape in self.shapes])[filtered],
            own[filtered],
            max_effort,
        )

    def _in_order_of_time(self, chosen: Bools) -> Ints:
        """Return the indices of the chosen replays (n,), the oldest search first."""
        places = np.flatnonzero(chosen)
        if self.recorded_at is None:
            return places
        return places[np.argsort(self.recorded_at[places], kind="stable")]


def load_replays(
    conn: psycopg.Connection[Any], tuned: TunedColumn, index: TunedIndex, *, counter_examples: bool = False
) -> Replays:
    """Read the newest replays through the present build of an index, up to the column's trajectory window.

    With `counter_examples`, read instead those that outlived the window; they are no random sample.
    """
    values = {
        "column_id": tuned.column.id,
        "generation": index.generation,
        "count": tuned.trajectory_window,
        "width": PROBE_WIDTH,
        "is_counter_example": counter_examples,
    }
    # In binary: arrays of numbers are slow to parse from text.
    with conn.cursor(binary=True, row_factory=namedtuple_row) as cursor:
        rows: list[Any] = cursor.execute(queries()["recent_replays"], values).fetchall()
    # A search for many rows is replayed at classes of k that other searches are not.
    k_classes = sorted({k for row in rows for k in row.k_classes})
    recall, filtered_recall = _recall_by_class(rows, k_classes, len(index.rungs))
    newer = np.arange(len(rows)) + (tuned.trajectory_window if counter_examples else 0)
    limits = fetch_row(conn, "evidence_limits", {"column_id": tuned.column.id})
    sizes = _floats([row.rows for row in rows])
    weight = training_weights(newer, tuned.learning_rate, tuned.min_samples)
    weight = weight * _size_weights(sizes, None if limits is None else limits.rows)
    return Replays(
        search_classes=np.array([row.k_class for row in rows], dtype=np.int64),
        k_classes=tuple(k_classes),
        probes=_probes(rows),
        recall=recall,
        blocks=_by_rung([row.blocks for row in rows], len(index.rungs)),
        ms=_client_ms(rows, index.rungs),
        fraction=_floats([row.fraction for row in rows]),
        filtered_recall=filtered_recall,
        matches=_matches(rows, len(index.rungs)),
        exact_ms=_floats([row.exact_ms for row in rows]),
        other_recall=_by_other_path([row.other_recall for row in rows], index.method),
        other_ms=_by_other_path([row.other_ms for row in rows], index.method),
        shapes=tuple(row.shape for row in rows),
        weight=COUNTER_EXAMPLE_WEIGHT * weight if counter_examples else weight,
        numbers=np.array([row.replay_no for row in rows], dtype=np.int64),
        rows=sizes,
        first=0 if limits is None else limits.first_replay,
        starts={
            (row.k_class, row.shape): row.learn_from
            for row in fetch_rows(conn, "evidence_starts", {"column_id": tuned.column.id})
        },
        asked=_asked_recall(rows, len(index.rungs)),
        recorded_at=_floats([row.recorded_at.timestamp() for row in rows]),
    )


def _asked_recall(rows: Sequence[Any], rungs: int) -> AskedRecall:
    """Return the recall of each search at its own k, NaN where nothing is known."""
    recall, filtered_recall = (np.full((len(rows), rungs), np.nan) for _ in range(2))
    for i, row in enumerate(rows):
        if row.asked_recall is not None:
            recall[i] = row.asked_recall
        if row.asked_filtered_recall is not None:
            filtered_recall[i] = row.asked_filtered_recall
    return AskedRecall(np.array([row.k for row in rows], dtype=np.int64), recall, filtered_recall)


def _size_weights(rows: Floats, rows_now: float | None) -> Floats:
    """Return how much replays on tables of some sizes count on the present one: the ratio of the sizes."""
    if not rows_now:
        return np.ones(len(rows))
    ratio = rows / rows_now
    with np.errstate(divide="ignore"):
        return np.where(ratio > 0, np.minimum(ratio, 1.0 / ratio), 1.0)


def _recall_by_class(rows: Sequence[Any], k_classes: Sequence[int], rungs: int) -> tuple[Floats, Floats]:
    """Return recall and recall of filtered searches, (n, c, rungs), NaN where nothing is known."""
    recall = np.full((len(rows), len(k_classes), rungs), np.nan)
    filtered_recall = np.full(recall.shape, np.nan)
    for i, row in enumerate(rows):
        columns = np.searchsorted(k_classes, row.k_classes)
        if row.recall is not None:
            recall[i, columns] = row.recall
        if row.fraction is not None:
            filtered_recall[i, columns] = row.filtered_recall
    return recall, filtered_recall


def _probes(rows: Sequence[Any]) -> dict[int, Floats]:
    """Return what each length of probe saw, (n, length); empty unless every search was probed."""
    if not rows or any(len(row.probe) != PROBE_WIDTH for row in rows):
        return {}
    distances = _floats([row.probe for row in rows])
    return {length: distances[:, end - length : end] for length, end in zip(PROBES, _ENDS, strict=True)}


def _matches(rows: Sequence[Any], rungs: int) -> Ints:
    """Return the matching rows among the first of each scan, (n, rungs), 0 for unfiltered searches."""
    matches = np.zeros((len(rows), rungs), dtype=np.int64)
    for i, row in enumerate(rows):
        if row.fraction is not None:
            matches[i] = row.matches
    return matches


def _by_other_path(figures: Sequence[Any], method: str) -> Floats:
    """Return figures of the paths without rungs, (n, others), NaN where these were not tried."""
    table = np.full((len(figures), len(other_paths(method))), np.nan)
    for i, row in enumerate(figures):
        if row:
            table[i, : len(row)] = row
    return table


def _client_ms(rows: Sequence[Any], rungs: Sequence[int]) -> Floats:
    """Return the milliseconds of searches by themselves at every rung, (n, rungs).

    A continued scan takes longer than the searches that it stands for, one of which was also run by itself.
    Those convert all, filtered searches apart from the others.
    """
    ms = _by_rung([row.ms for row in rows], len(rungs))
    place = np.array([-1 if row.fresh_place is None else row.fresh_place for row in rows], dtype=np.int64)
    fresh = _floats([row.fresh_ms for row in rows])
    filtered = np.array([row.fraction is not None for row in rows], dtype=np.bool_)
    for group in (filtered, ~filtered):
        timed = group & (place >= 0)
        # If few of one kind were timed, those of both kinds are a better guide than none.
        timed = timed if np.count_nonzero(timed) >= MIN_TIMED else place >= 0
        ms[group] = convert_ms(ms[group], rungs, place[timed], fresh[timed])
    return ms


def _by_rung(curves: Sequence[Any], rungs: int) -> Floats:
    """Return curves as an array (n, rungs), also where there are none."""
    return _floats(curves).reshape(len(curves), rungs)


def _floats(values: Sequence[Any]) -> Floats:
    """Return values as float64, None as NaN."""
    return np.array(values, dtype=np.float64)
