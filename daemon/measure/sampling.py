"""Samples of searches to measure with: recorded ones, and on request perturbed rows of the table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.model.vectors import to_array
from vectuned.learning.replay.batch import compile_filters
from vectuned.sql.files import queries
from vectuned.sql.rows import fetch_rows, fetch_values

MIN_SEARCHES: Final = 20  # with fewer no bound is worth reading
_PERTURBATION: Final = 0.5  # standard deviations by which a row is moved, so that it is not its own answer
_ROWS_READ: Final = 20  # rows sampled for each one needed: pages are sampled whole, and rows may lack vectors


@dataclass(frozen=True)
class SearchSample:
    """A sample of n searches: `vectors` float32 (n, d), and the filter of each as JSON and as SQL, or None.

    `requested` is the number asked for; the last `perturbed` searches are perturbed rows of the table.
    """

    vectors: Singles
    filters: list[str | None]
    conditions: list[sql.Composable | None]
    requested: int
    perturbed: int

    def __len__(self) -> int:
        return len(self.vectors)

    def describe(self) -> dict[str, Any]:
        """Return where the searches come from, and whether they represent the real searches."""
        note = None
        if self.perturbed:
            note = (
                f"{self.perturbed} of the {len(self)} searches are rows of the table, each moved by half the "
                "standard deviation: not a fair sample, recall of real searches may be much higher or lower"
            )
        elif len(self) < self.requested:
            note = (
                f"only {len(self)} different searches are recorded with their vectors, not {self.requested}"
            )
        return {
            "asked_for": self.requested,
            "recorded": len(self) - self.perturbed,
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
    alternative: str = "ask for perturbed rows (--perturbed, or perturbed => true), which are no fair sample",
    seed: int = 0,
) -> SearchSample:
    """Return the newest recorded searches, each different one once, up to `count`.

    `filtered`: those without a filter (False), with one (True), or both (None); a search whose filter no
    longer fits the table is left out. `perturbed`: fill up with rows of the table, without a filter, moved at
    random by half the standard deviation. Raises VectunedError where the sample has fewer than 20 searches.
    """
    values = {"column_id": tuned.column.id, "count": count, "filtered": filtered}
    rows = fetch_rows(conn, "recorded_searches", values)
    conditions, _ = compile_filters(conn, tuned, [row.filter for row in rows])
    usable = [
        (to_array(row.query), row.filter, condition)
        for row, condition in zip(rows, conditions, strict=True)
        if row.filter is None or condition is not None
    ]
    missing = count - len(usable) if perturbed and not filtered else 0
    moved = _draw_perturbed_rows(conn, tuned, missing, seed) if missing else _no_vectors(tuned)
    vectors = np.array([vector for vector, _, _ in usable], dtype=np.float32)
    sample = SearchSample(
        np.concatenate([vectors.reshape(len(usable), tuned.column.dimensions), moved]),
        [text for _, text, _ in usable] + [None] * len(moved),
        [condition for _, _, condition in usable] + [None] * len(moved),
        count,
        len(moved),
    )
    if len(sample) < MIN_SEARCHES:
        kind = {False: "without a filter", True: "with a filter", None: ""}[filtered]
        raise VectunedError(
            f"Only {len(usable)} different searches {kind} of {tuned.column} are recorded with their "
            f"vectors, and at least {MIN_SEARCHES} are needed: use vectuned.search for a while (it records a "
            f"share of the searches, sample_rate of vectuned.enable), or {alternative}."
        )
    return sample


def _draw_perturbed_rows(conn: psycopg.Connection[Any], tuned: TunedColumn, count: int, seed: int) -> Singles:
    """Draw rows of the table and perturb them; float32 (up to count, d)."""
    column = tuned.column
    pages = queries()["page_sample"].format(
        rows=sql.Literal(_ROWS_READ * count), relation=sql.Literal(column.relation.as_string(conn))
    )
    # The estimate of the rows may be wrong: where pages yield too few rows, the whole table is read.
    for sample in (pages, sql.SQL("")):
        statement = queries()["random_rows"].format(
            column=column.vector, relation=column.relation, sample=sample, count=sql.Literal(count)
        )
        rows = fetch_values(conn, statement)
        if len(rows) >= count:
            break
    if not rows:
        return _no_vectors(tuned)
    vectors = np.array([to_array(row) for row in rows], dtype=np.float32)
    noise = np.random.default_rng(seed).normal(size=vectors.shape)
    moved: Singles = (vectors + _PERTURBATION * vectors.std(axis=0) * noise).astype(np.float32)
    return moved


def _no_vectors(tuned: TunedColumn) -> Singles:
    return np.empty((0, tuned.column.dimensions), dtype=np.float32)
