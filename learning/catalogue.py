"""The tuned columns of a database and how each is cared for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row

from vectuned.sql.loader import queries

from .column import TunedColumn


@dataclass(frozen=True)
class Care:
    """A tuned column with the settings that `vectuned.enable` gave it.

    `generation` is the filenode of its index, new after a REINDEX; None where the index is gone.
    """

    column: TunedColumn
    enabled: bool
    target_recall: float
    sample_rate: float
    trajectory_window: int
    learning_rate: float
    min_samples: int
    store_vectors: bool
    default_ef: int
    generation: int | None


def tuned_columns(conn: psycopg.Connection[Any]) -> list[Care]:
    """Read every tuned column whose table still exists, in the order they were enabled."""
    cursor: psycopg.Cursor[Any] = conn.cursor(row_factory=namedtuple_row)
    rows = cursor.execute(queries()["tuned_columns"]).fetchall()
    return [
        Care(
            TunedColumn(
                r.id, r.nspname, r.relname, r.column_name, r.metric, r.vector_type, r.dimensions,
                tuple(r.key_columns), r.extension_schema,
            ),
            r.enabled, r.target_recall, r.sample_rate, r.trajectory_window, r.learning_rate, r.min_samples,
            r.store_vectors, r.default_ef, r.generation,
        )
        for r in rows
    ]  # fmt: skip
