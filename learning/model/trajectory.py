"""Recorded searches: moved from the inbox to the table of trajectories, and read there for replays."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
import psycopg

from vectuned.sql.rows import execute, fetch_rows, fetch_value

from .arrays import Singles
from .column import VectorColumn
from .vectors import to_array


@dataclass(frozen=True)
class Trajectories:
    """Hold n sampled searches of one column that are still to be replayed.

    `vectors` float32 (n, d); `ks`, the LIMIT of each search; `distances`, those of its answer, ascending;
    `filters`, JSON texts, None without a filter; `fractions`, the estimated share of rows that match the
    filter; `fresh`, True for a search that was never replayed. A call, SQL of an application, is not
    `answered`: what it returned is not known. `conditions` are SQL over the table's row, with the table
    called t, and `shapes` the same without values; None without.
    """

    query_ids: list[UUID]
    recorded_at: list[datetime]
    vectors: Singles
    ks: list[int]
    distances: list[list[float]]
    filters: list[str | None]
    fractions: list[float | None]
    fresh: list[bool]
    answered: list[bool]
    conditions: list[str | None]
    shapes: list[str | None]

    def __len__(self) -> int:
        return len(self.query_ids)

    def take(self, part: slice) -> Trajectories:
        """Return the searches in `part`."""
        return Trajectories(
            self.query_ids[part],
            self.recorded_at[part],
            self.vectors[part],
            self.ks[part],
            self.distances[part],
            self.filters[part],
            self.fractions[part],
            self.fresh[part],
            self.answered[part],
            self.conditions[part],
            self.shapes[part],
        )


def drain(conn: psycopg.Connection[Any], batch: int = 5000) -> int:
    """Move all recorded searches from the inbox to the table of trajectories; return their number.

    If `conn` is in autocommit mode, each batch is a transaction: no search is lost or moved twice.
    """
    total = 0
    while True:
        moved = int(fetch_value(conn, "drain", {"batch": batch}))
        total += moved
        if moved < batch:
            return total


def claim_pending(conn: psycopg.Connection[Any], column: VectorColumn, count: int) -> Trajectories:
    """Claim and read up to `count` searches that were not replayed yet, the newest first.

    Other sessions then claim other searches, until this one has replayed or released them, or has ended.
    """
    rows = fetch_rows(conn, "claim_pending", {"column_id": column.id, "count": count})
    vectors = np.array([to_array(row.query) for row in rows], dtype=np.float32)
    return Trajectories(
        [row.query_id for row in rows],
        [row.recorded_at for row in rows],
        vectors.reshape(len(rows), column.dimensions),
        [row.k for row in rows],
        [row.distances for row in rows],
        [row.filter for row in rows],
        [row.fraction for row in rows],
        [row.fresh for row in rows],
        [row.is_answered for row in rows],
        [row.condition for row in rows],
        [row.shape for row in rows],
    )


def release_pending(conn: psycopg.Connection[Any], column: VectorColumn) -> None:
    """Let other sessions claim the searches that this session has claimed and not replayed."""
    execute(conn, "release_pending", {"column_id": column.id})
