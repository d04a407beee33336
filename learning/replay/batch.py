"""Searches that are replayed in one snapshot, and their exact answers there."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final, LiteralString, cast

import numpy as np
import psycopg
from psycopg import sql

from vectuned.learning.model.arrays import Bools, Floats, Ints, Singles
from vectuned.learning.model.ladder import K_CLASSES, k_class
from vectuned.learning.model.trajectory import Trajectories
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.truth.truth import Truth, exact_among, exact_neighbors, recall_at_k
from vectuned.sql.files import queries

log = logging.getLogger(__name__)

LEAST_K: Final = 100


@dataclass(frozen=True)
class ReplayBatch:
    """Hold n searches that are replayed in one snapshot, and their exact answers there.

    `filtered` bool (n,); `truth` is of all, `filtered_truth` of the filtered ones, whose place in it is
    `place` (n,); `complete` bool (n,), those that go through every rung.
    """

    tuned: TunedColumn
    searches: Trajectories
    ks: Ints
    classes: list[int]
    conditions: list[sql.Composable | None]
    shapes: list[str | None]
    filtered: Bools
    place: Ints
    truth: Truth
    filtered_truth: Truth | None
    complete: Bools

    @classmethod
    def of(
        cls, reader: psycopg.Connection[Any], tuned: TunedColumn, searches: Trajectories, complete: Bools
    ) -> ReplayBatch:
        """Find the exact answers of searches in the snapshot that `reader` is in."""
        ks = np.array(searches.ks, dtype=np.int64)
        deepest = max(LEAST_K, k_class(int(ks.max())))
        reader.execute("SET LOCAL statement_timeout = 0")  # the table may be large; the stream shows progress
        # One core is what the budget is a share of.
        reader.execute("SET LOCAL max_parallel_workers_per_gather = 0")
        conditions, shapes = compile_filters(reader, tuned, searches.filters)
        filtered = np.array([condition is not None for condition in conditions], dtype=np.bool_)
        truth = exact_neighbors(reader, tuned.column, searches.vectors, deepest)
        filtered_truth = _filtered_truth(reader, tuned, searches.vectors, conditions, deepest)
        reader.execute("SET LOCAL max_parallel_workers_per_gather TO DEFAULT")
        classes = [k for k in K_CLASSES if k <= deepest]
        return cls(
            tuned,
            searches,
            ks,
            classes,
            conditions,
            shapes,
            filtered,
            np.cumsum(filtered) - 1,
            truth,
            filtered_truth,
            complete,
        )

    def __len__(self) -> int:
        return len(self.searches)

    @property
    def understood(self) -> Bools:
        """Return which searches (n,) have no filter or one that still fits the table."""
        given = [text is not None for text in self.searches.filters]
        return np.asarray(self.filtered == np.array(given, dtype=np.bool_))

    def recall(self, distances: list[list[float]]) -> Floats:
        """Compute the recall (n,) of answers, each to its own k and filter."""
        recall = _recall(distances, self.truth, self.ks)
        if self.filtered_truth is not None:
            answers = [d for d, own in zip(distances, self.filtered, strict=True) if own]
            recall[self.filtered] = _recall(answers, self.filtered_truth, self.ks[self.filtered])
        return recall


def compile_filters(
    conn: psycopg.Connection[Any], tuned: TunedColumn, filters: list[str | None]
) -> tuple[list[sql.Composable | None], list[str | None]]:
    """Compile filters to SQL and shapes, each different one once; one that no longer fits counts as none.

    Whether its values still fit is seen when the statement is planned, here for no rows.
    """
    compiled: dict[str | None, tuple[sql.Composable | None, str | None]] = {None: (None, None)}
    for text in {text for text in filters if text is not None}:
        try:
            with conn.transaction():
                values = {"column_id": tuned.column.id, "filter": text}
                row = conn.execute(queries()["compile_filter"], values).fetchone()
                compiled[text] = (None, None)
                if row is not None and row[0] is not None:
                    condition = sql.SQL(cast(LiteralString, row[0]))
                    check = sql.SQL("SELECT FROM {} AS t WHERE {} LIMIT 0").format(
                        tuned.column.relation, condition
                    )
                    conn.execute(check, prepare=False)
                    compiled[text] = (condition, row[1])
        except psycopg.errors.SerializationFailure:
            raise  # a standby ended it, which says nothing about the filter
        except psycopg.errors.Error as error:
            log.warning(
                "a filter on %s is passed over: %s",
                tuned.column,
                error.diag.message_primary,
                extra={"action": "replay"},
            )
            compiled[text] = (None, None)
    return [compiled[text][0] for text in filters], [compiled[text][1] for text in filters]


def _filtered_truth(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    vectors: Singles,
    conditions: list[sql.Composable | None],
    deepest: int,
) -> Truth | None:
    """Compute the exact answers of the filtered searches among `vectors`; None if there are none."""
    own = [i for i, condition in enumerate(conditions) if condition is not None]
    if not own:
        return None
    return exact_among(conn, tuned.column, vectors[own], deepest, [conditions[i] for i in own])


def choose_complete(conn: psycopg.Connection[Any], tuned: TunedColumn, count: int) -> Bools:
    """Say which of `count` replays are to go through every rung: the first ones, then one of four.

    The others end where the answers of their own class of k are complete, which takes a third of the time.
    """
    generations = [index.generation for index in tuned.indexes if index.requires is None]
    values = {"column_id": tuned.column.id, "generations": generations}
    row = conn.execute(queries()["count_complete"], values).fetchone()
    missing = 2 * tuned.min_samples - (int(row[0]) if row is not None else 0)
    number = np.arange(count)
    return np.asarray((number < missing) | (number % 4 == 0))


def _recall(distances: list[list[float]], truth: Truth, ks: Ints) -> Floats:
    width = max((len(d) for d in distances), default=0)
    returned = np.full((len(distances), max(width, 1)), np.inf)
    for i, values in enumerate(distances):
        returned[i, : len(values)] = values
    return recall_at_k(returned, truth, ks)
