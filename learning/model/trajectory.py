"""Recorded searches: from the inbox to the durable table, and from there to the replay."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
from psycopg.rows import namedtuple_row

from vectuned.sql.files import queries

from .arrays import Singles
from .column import VectorColumn


@dataclass(frozen=True)
class Trajectories:
    """Hold n sampled searches of one column that are still to be replayed.

    `vectors` float32 (n, d); `ks` how many rows each asked for; `distances` what each returned, ascending;
    `filters` as JSON text, None where there was none, and `fractions`, the share of rows each was thought to
    match; `fresh`, those never replayed before.
    """

    query_ids: list[UUID]
    recorded_at: list[datetime]
    vectors: Singles
    ks: list[int]
    distances: list[list[float]]
    filters: list[str | None]
    fractions: list[float | None]
    fresh: list[bool]

    def __len__(self) -> int:
        return len(self.query_ids)

    def take(self, part: slice) -> Trajectories:
        """Return a part of the searches."""
        return Trajectories(
            self.query_ids[part],
            self.recorded_at[part],
            self.vectors[part],
            self.ks[part],
            self.distances[part],
            self.filters[part],
            self.fractions[part],
            self.fresh[part],
        )


def drain(conn: psycopg.Connection[Any], batch: int = 5000) -> int:
    """Move recorded searches from the inbox into the durable table; return how many were taken.

    Each batch is a transaction of its own if `conn` is in autocommit mode: what was taken is either in the
    inbox or in the durable table.
    """
    total = 0
    while True:
        row = conn.execute(queries()["drain"], {"batch": batch}).fetchone()
        taken = int(row[0]) if row else 0
        total += taken
        if taken < batch:
            return total


def read_pending(conn: psycopg.Connection[Any], column: VectorColumn, count: int) -> Trajectories:
    """Read up to `count` searches that were not replayed yet, the newest first."""
    cursor: psycopg.Cursor[Any] = conn.cursor(row_factory=namedtuple_row)
    rows = cursor.execute(queries()["pending"], {"column_id": column.id, "count": count}).fetchall()
    vectors = np.array([row.query.to_numpy() for row in rows], dtype=np.float32)
    return Trajectories(
        [row.query_id for row in rows],
        [row.recorded_at for row in rows],
        vectors.reshape(len(rows), column.dimensions),
        [row.k for row in rows],
        [row.distances for row in rows],
        [row.filter for row in rows],
        [row.fraction for row in rows],
        [row.fresh for row in rows],
    )
