"""What the advisor is asked, what it finds, and the indexes that are there."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from vectuned.learning.advisor import Definition, Forecast
from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.sql.files import queries


@dataclass(frozen=True)
class AdvisorOptions:
    """What is asked of the advisor: `vectors` float32 (n, d) to search for, k rows each, and its limits."""

    vectors: Singles
    k: int
    target: float
    budget_seconds: float = 600.0
    sample_rows: int = 50_000
    on_table: bool = False
    max_mb: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class ExistingIndex:
    """An index that is there, over all rows of the column."""

    definition: Definition
    schema: str
    name: str
    number: int | None
    marker: str
    bytes: int


@dataclass
class Advice:
    """What the advisor found: the index in use as measured over all rows, and what the others promise.

    `skipped` says why some candidates have no
    forecast, `dropped` after how many rows others were, and what they took of the time of one like the
    current; `reference_ms` is a search through the current index at `reference_effort`.
    """

    rows: int
    current: ExistingIndex
    now: Forecast
    reference_ms: float
    reference_effort: int
    forecasts: list[Forecast] = field(default_factory=list)
    skipped: dict[Definition, str] = field(default_factory=dict)
    dropped: dict[Definition, tuple[int, float | None]] = field(default_factory=dict)
    sizes: list[int] = field(default_factory=list)
    winner: Forecast | None = None
    seconds: float = 0.0
    memory: dict[str, int] = field(default_factory=dict)


def read_existing_indexes(conn: psycopg.Connection[Any], tuned: TunedColumn) -> list[ExistingIndex]:
    """Read the indexes over all rows of a column."""
    cursor: psycopg.Cursor[Any] = conn.cursor(row_factory=namedtuple_row)
    rows = cursor.execute(queries()["advised_indexes"], {"column_id": tuned.column.id}).fetchall()
    return [
        ExistingIndex(
            Definition("hnsw", r.form, m=r.m, ef_construction=r.ef_construction)
            if r.method == "hnsw"
            else Definition("ivfflat", r.form, lists=r.lists),
            r.schema,
            r.name,
            r.index_no,
            r.marker,
            r.bytes,
        )
        for r in rows
    ]
