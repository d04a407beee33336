"""Searches that are replayed in one snapshot, and their exact answers in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql

from vectuned.learning.model.arrays import Bools, Floats, Ints, Singles
from vectuned.learning.model.ladder import K_CLASSES, k_class
from vectuned.learning.model.trajectory import Trajectories
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.statements.guard import find_untrusted_condition
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import Truth, exact_among, exact_neighbors
from vectuned.sql.files import trusted
from vectuned.sql.rows import fetch_row, fetch_value

log = logging.getLogger(__name__)

MIN_DEPTH: Final = 100  # rows: every replay looks at the classes of k up to this one, whatever its own k is
_COMPLETE_EVERY: Final = 4  # replays; one of them is complete, so that the largest classes of k stay known


@dataclass(frozen=True)
class ReplayBatch:
    """Hold n searches that are replayed in one snapshot, and their exact answers in it.

    `ks` int64 (n,); `classes`, the classes of k that the exact answers reach; `conditions` and `shapes`, the
    compiled filters, None without a valid filter; `fractions`, the estimated share of the rows that match;
    `filtered` bool (n,), the searches with a valid filter;
    `truth`, the exact answers without filters; `filtered_truth`, those of the filtered searches, where search
    i is at `filtered_place[i]`, int64 (n,); `complete` bool (n,), the searches replayed at every rung.
    """

    tuned: TunedColumn
    searches: Trajectories
    ks: Ints
    classes: list[int]
    conditions: list[sql.Composable | None]
    shapes: list[str | None]
    fractions: list[float | None]
    filtered: Bools
    filtered_place: Ints
    truth: Truth
    filtered_truth: Truth | None
    complete: Bools

    @classmethod
    def prepare(
        cls,
        reader: psycopg.Connection[Any],
        tuned: TunedColumn,
        searches: Trajectories,
        complete: Bools,
        on_read: Callable[[int], None],
    ) -> ReplayBatch:
        """Compute the exact answers of `searches` in the snapshot of the transaction `reader` is in.

        `on_read` is called with the bytes that the server reads for them.
        """
        ks = np.array(searches.ks, dtype=np.int64)
        depth = max(MIN_DEPTH, k_class(int(ks.max())))
        # Reading a large table may take longer than any timeout; the stream of rows shows that it goes on.
        reader.execute("SET LOCAL statement_timeout = 0")
        # The budget is a share of one core.
        reader.execute("SET LOCAL max_parallel_workers_per_gather = 0")
        conditions, shapes = compile_filters(reader, tuned, searches.filters)
        fractions = list(searches.fractions)
        for i, call in _compile_conditions(reader, tuned, searches):
            conditions[i], shapes[i], fractions[i] = call
        truth = exact_neighbors(reader, tuned.column, searches.vectors, depth, on_read=on_read)
        try:
            with reader.transaction():
                filtered_truth = _filtered_truth(reader, tuned, searches.vectors, conditions, depth, on_read)
        except psycopg.errors.DataError:
            _drop_failing(reader, tuned, conditions, shapes)
            filtered_truth = _filtered_truth(reader, tuned, searches.vectors, conditions, depth, on_read)
        filtered = np.array([condition is not None for condition in conditions], dtype=np.bool_)
        reader.execute("SET LOCAL max_parallel_workers_per_gather TO DEFAULT")
        return cls(
            tuned=tuned,
            searches=searches,
            ks=ks,
            classes=[k for k in K_CLASSES if k <= depth],
            conditions=conditions,
            shapes=shapes,
            fractions=fractions,
            filtered=filtered,
            filtered_place=np.cumsum(filtered) - 1,
            truth=truth,
            filtered_truth=filtered_truth,
            complete=complete,
        )

    def __len__(self) -> int:
        return len(self.searches)

    @property
    def valid(self) -> Bools:
        """Return which searches (n,) have no filter, or a filter that still fits the table."""
        searches = self.searches
        has_filter = [
            filter_ is not None or shape is not None
            for filter_, shape in zip(searches.filters, searches.shapes, strict=True)
        ]
        return np.asarray(self.filtered == np.array(has_filter, dtype=np.bool_))

    def recall(self, distances: list[list[float]]) -> Floats:
        """Compute the recall (n,) of the answers with these distances, each at its own k and filter."""
        recall = _recall(distances, self.truth, self.ks)
        if self.filtered_truth is not None:
            answers = [d for d, filtered in zip(distances, self.filtered, strict=True) if filtered]
            recall[self.filtered] = _recall(answers, self.filtered_truth, self.ks[self.filtered])
        return recall


def compile_filters(
    conn: psycopg.Connection[Any], tuned: TunedColumn, filters: list[str | None]
) -> tuple[list[sql.Composable | None], list[str | None]]:
    """Compile filters, JSON texts, to SQL conditions and to shapes; None without a filter.

    A filter that no longer fits the table is logged and counts as none. Each distinct filter is compiled
    once.
    """
    compiled = {text: _compile_filter(conn, tuned, text) for text in set(filters) if text is not None}
    pairs = [(None, None) if text is None else compiled[text] for text in filters]
    return [condition for condition, _ in pairs], [shape for _, shape in pairs]


def _compile_filter(
    conn: psycopg.Connection[Any], tuned: TunedColumn, text: str
) -> tuple[sql.Composable | None, str | None]:
    """Compile one filter to a condition and a shape; both None if it does not fit the table."""
    try:
        with conn.transaction():
            row = fetch_row(conn, "compile_filter", {"column_id": tuned.column.id, "filter": text})
            if row is None or row.condition is None:
                return None, None
            condition = trusted(row.condition)
            # Planning shows whether the filter's values fit the types of the columns; LIMIT 0 runs nothing.
            check = sql.SQL("SELECT FROM {} AS t WHERE {} LIMIT 0").format(tuned.column.relation, condition)
            conn.execute(check, prepare=False)
            return condition, row.shape
    except (psycopg.errors.SerializationFailure, psycopg.errors.QueryCanceled):
        raise  # a standby or another session ended the work, which says nothing about the filter
    except psycopg.errors.Error as error:
        log.warning(
            "a filter on %s is passed over: %s",
            tuned.column,
            error.diag.message_primary,
            extra={"action": "replay"},
        )
        return None, None


def _compile_conditions(
    conn: psycopg.Connection[Any], tuned: TunedColumn, searches: Trajectories
) -> Iterator[tuple[int, tuple[sql.Composable, str, float]]]:
    """Yield the place, condition, shape and matching share of each call whose condition fits the table.

    The share is the planner's estimate. A condition that no longer fits, or that calls functions that are
    not trusted, is logged and counts as none.
    """
    checked: dict[str, float | None] = {}
    for i, (condition, shape) in enumerate(zip(searches.conditions, searches.shapes, strict=True)):
        if condition is None or shape is None:
            continue
        if condition not in checked:
            checked[condition] = _estimate_share(conn, tuned, condition)
        share = checked[condition]
        if share is not None:
            yield i, (trusted(condition), shape, share)


def _estimate_share(conn: psycopg.Connection[Any], tuned: TunedColumn, condition: str) -> float | None:
    """Estimate the share of rows that meet a condition; None if it cannot be run."""
    try:
        with conn.transaction():
            reason = find_untrusted_condition(conn, condition)
            if reason is None:
                # Planning shows whether the condition fits the table; nothing is run.
                plans = [
                    fetch_value(conn, _EXPLAIN.format(tuned.column.relation, trusted(text)))
                    for text in (condition, "true")
                ]
                matching, rows = (float(plan[0]["Plan"]["Plan Rows"]) for plan in plans)
                return min(matching / max(rows, 1.0), 1.0)
    except psycopg.errors.SerializationFailure:
        raise  # a standby ended the transaction, which says nothing about the condition
    except psycopg.errors.Error as error:
        if conn.closed:
            raise
        reason = error.diag.message_primary or str(error)
    log.warning("a condition on %s is passed over: %s", tuned.column, reason, extra={"action": "replay"})
    return None


def _drop_failing(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    conditions: list[sql.Composable | None],
    shapes: list[str | None],
) -> None:
    """Remove the conditions that fail on a row, as a cast of a text that is no number does.

    The application's statement may never have reached that row. Each condition is run over the whole table.
    """
    failing: dict[str, bool] = {}
    for i, condition in enumerate(conditions):
        if condition is None:
            continue
        text = condition.as_string(conn)
        if text not in failing:
            failing[text] = _fails(conn, tuned, condition)
        if failing[text]:
            conditions[i] = shapes[i] = None


def _fails(conn: psycopg.Connection[Any], tuned: TunedColumn, condition: sql.Composable) -> bool:
    try:
        with conn.transaction():
            fetch_value(conn, _COUNT.format(tuned.column.relation, condition))
    except psycopg.errors.DataError as error:
        log.warning(
            "a condition on %s is passed over: %s",
            tuned.column,
            error.diag.message_primary,
            extra={"action": "replay"},
        )
        return True
    return False


_COUNT: Final = sql.SQL("SELECT count(*) FILTER (WHERE {1}) FROM {0} AS t")
_EXPLAIN: Final = sql.SQL("EXPLAIN (FORMAT JSON) SELECT FROM {} AS t WHERE {}")


def _filtered_truth(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    vectors: Singles,
    conditions: list[sql.Composable | None],
    depth: int,
    on_read: Callable[[int], None],
) -> Truth | None:
    """Compute the exact answers of the filtered searches among `vectors`; None if there are none."""
    filtered = [i for i, condition in enumerate(conditions) if condition is not None]
    if not filtered:
        return None
    chosen = [conditions[i] for i in filtered]
    return exact_among(conn, tuned.column, vectors[filtered], depth, chosen, on_read)


def choose_complete(conn: psycopg.Connection[Any], tuned: TunedColumn, count: int) -> Bools:
    """Choose which of the next `count` replays go through every rung: bool (count,).

    All of them do until every index over all rows has twice `min_samples` complete replays; from then on one
    of four. The others end once the answer for their own class of k is complete, which takes a third of the
    time.
    """
    generations = [index.generation for index in tuned.indexes if index.requires is None]
    values = {"column_id": tuned.column.id, "generations": generations}
    missing = 2 * tuned.min_samples - (fetch_value(conn, "count_complete", values) or 0)
    number = np.arange(count)
    return np.asarray((number < missing) | (number % _COMPLETE_EVERY == 0))


def _recall(distances: list[list[float]], truth: Truth, ks: Ints) -> Floats:
    width = max((len(d) for d in distances), default=0)
    returned = np.full((len(distances), max(width, 1)), np.inf)
    for i, values in enumerate(distances):
        returned[i, : len(values)] = values
    return recall_at_k(returned, truth, ks)
