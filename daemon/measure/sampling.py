"""Searches to measure with: recorded ones, or where asked for rows of the table that were moved a little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.replay.batch import compile_filters
from vectuned.sql.files import queries

MIN_SEARCHES: Final = 20
_MOVED: Final = 0.5
_PAGES_FOR: Final = 20


@dataclass(frozen=True)
class SearchSample:
    """Hold n searches: `vectors` float32 (n, d), and what each filters by, as JSON and as SQL, or None.

    `asked` is how many were wanted; the last `perturbed` are rows of the table.
    """

    vectors: Singles
    filters: list[str | None]
    conditions: list[sql.Composable | None]
    asked: int
    perturbed: int

    def __len__(self) -> int:
        return len(self.vectors)

    def describe(self) -> dict[str, Any]:
        """Say where the searches come from, and if what they show holds for the searches that are asked."""
        recorded = len(self) - self.perturbed
        note = None
        if self.perturbed:
            note = (
                f"{self.perturbed} of the {len(self)} searches are rows of the table, each moved by half the "
                "standard deviation: not a fair sample, real searches may find much more or less"
            )
        elif len(self) < self.asked:
            note = f"only {len(self)} different searches are recorded with their vectors, not {self.asked}"
        return {
            "asked_for": self.asked,
            "recorded": recorded,
            "perturbed_rows": self.perturbed,
            "filtered": sum(condition is not None for condition in self.conditions),
            "fair": not self.perturbed,
            "note": note,
        }


def sample_searches(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    count: int,
    *,
    filtered: bool | None = False,
    perturbed: bool = False,
    seed: int = 0,
) -> SearchSample:
    """Take the newest recorded searches, of the same ones one, up to `count`.

    `filtered`: those without a filter (False), with one (True), or both (None); one whose filter no longer
    fits the table is left out. `perturbed`: fill up with rows of the table, without a filter, that are moved
    at random by half the standard deviation. Raises VectunedError where fewer than 20 are left.
    """
    values = {"column_id": tuned.column.id, "count": count, "filtered": filtered}
    rows = conn.execute(queries()["recorded_searches"], values).fetchall()
    conditions, _ = compile_filters(conn, tuned, [row[1] for row in rows])
    kept = [
        (row[0].to_numpy(), row[1], condition)
        for row, condition in zip(rows, conditions, strict=True)
        if row[1] is None or condition is not None
    ]
    missing = count - len(kept) if perturbed and not filtered else 0
    moved = _moved_rows(conn, tuned, missing, seed) if missing else _none(tuned)
    vectors = np.array([vector for vector, _, _ in kept], dtype=np.float32)
    sample = SearchSample(
        np.concatenate([vectors.reshape(len(kept), tuned.column.dimensions), moved]),
        [text for _, text, _ in kept] + [None] * len(moved),
        [condition for _, _, condition in kept] + [None] * len(moved),
        count,
        len(moved),
    )
    if len(sample) < MIN_SEARCHES:
        kind = {False: "without a filter", True: "with a filter", None: ""}[filtered]
        raise VectunedError(
            f"Only {len(kept)} different searches {kind} of {tuned.column} are recorded with their vectors, "
            f"and it takes {MIN_SEARCHES}: use vectuned.search for a while (its sample_rate is how many are "
            "kept), or ask for perturbed rows, which are not a fair sample."
        )
    return sample


def _moved_rows(conn: psycopg.Connection[Any], tuned: TunedColumn, count: int, seed: int) -> Singles:
    """Draw rows of the table and move them; float32 (up to count, d)."""
    column = tuned.column
    pages = sql.SQL("TABLESAMPLE SYSTEM (least(100, 100 * {} / greatest((vectuned._row_estimate({})), 1)))")
    some = pages.format(sql.Literal(_PAGES_FOR * count), sql.Literal(column.relation.as_string(conn)))
    for part in (some, sql.SQL("")):
        rows = conn.execute(
            sql.SQL("SELECT t.{} FROM {} AS t {} WHERE t.{} IS NOT NULL ORDER BY random() LIMIT {}").format(
                column.vector, column.relation, part, column.vector, sql.Literal(count)
            ),
            prepare=False,
        ).fetchall()
        if len(rows) >= count:
            break
    if not rows:
        return _none(tuned)
    vectors = np.array([row[0].to_numpy() for row in rows], dtype=np.float32)
    noise = np.random.default_rng(seed).normal(size=vectors.shape)
    moved: Singles = (vectors + _MOVED * vectors.std(axis=0) * noise).astype(np.float32)
    return moved


def _none(tuned: TunedColumn) -> Singles:
    return np.empty((0, tuned.column.dimensions), dtype=np.float32)
