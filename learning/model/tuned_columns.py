"""The tuned columns of a database and how each is cared for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import psycopg
from psycopg.rows import namedtuple_row

from vectuned.sql.files import queries

from .column import VectorColumn
from .ladder import RUNGS, probe_rungs


@dataclass(frozen=True)
class TunedIndex:
    """An index that searches of a column may be answered through.

    `number` names it in what is published; `form` says what it holds (plain, halfvec, bits); `requires` is
    the filter, as JSON, that a partial index answers, and `share` of the rows are in it; `generation` is new
    after a REINDEX. A scan of a `resumable` one goes on from rung to rung; others are
    searched once for each rung. A `probed` one shows by its first rows how hard a query is.
    """

    number: int
    name: str
    method: Literal["hnsw", "ivfflat"]
    form: str
    requires: str | None
    share: float
    lists: int | None
    generation: int
    resumable: bool
    probed: bool

    @property
    def rungs(self) -> tuple[int, ...]:
        """Return the efforts it is measured at: ef_search, or probes of IVFFlat."""
        return RUNGS if self.lists is None else probe_rungs(self.lists)

    @property
    def effort_name(self) -> str:
        """Name what its effort is set by."""
        return "ef_search" if self.method == "hnsw" else "probes"


@dataclass(frozen=True)
class TunedColumn:
    """A tuned column with the settings that `vectuned.enable` gave it, and its indexes.

    `max_tail` is the share of searches with a recall under 0.8 that is tolerated. On `alert` more searches
    are recorded and checked; replays before number `learn_from` no longer count. The first of `indexes` is
    the one that searches until something was learned; none are left where all were dropped.
    """

    column: VectorColumn
    enabled: bool
    target_recall: float
    max_tail: float
    sample_rate: float
    trajectory_window: int
    learning_rate: float
    min_samples: int
    store_vectors: bool
    default_ef: int
    default_probes: int
    indexes: tuple[TunedIndex, ...]
    alert: bool = False
    learn_from: int = 0

    @property
    def generation(self) -> int | None:
        """Return the generation of the main index; None where it is gone."""
        return self.indexes[0].generation if self.indexes else None

    @property
    def generations(self) -> list[int]:
        """Return the generations of all indexes."""
        return [index.generation for index in self.indexes]

    def default_effort(self, index: TunedIndex, k: int) -> int:
        """Return what k rows are searched for with through an index until something was learned."""
        return max(k, self.default_ef) if index.method == "hnsw" else self.default_probes


def read_tuned_columns(conn: psycopg.Connection[Any], column_id: int | None = None) -> list[TunedColumn]:
    """Read every tuned column, or one, whose table still exists, in the order they were enabled."""
    cursor: psycopg.Cursor[Any] = conn.cursor(row_factory=namedtuple_row)
    rows = cursor.execute(queries()["tuned_columns"], {"column_id": column_id}).fetchall()
    return [
        TunedColumn(
            VectorColumn(
                r.id,
                r.nspname,
                r.relname,
                r.column_name,
                r.metric,
                r.vector_type,
                r.dimensions,
                tuple(r.key_columns),
                r.extension_schema,
            ),
            r.enabled,
            r.target_recall,
            r.max_tail,
            r.sample_rate,
            r.trajectory_window,
            r.learning_rate,
            r.min_samples,
            r.store_vectors,
            r.default_ef,
            r.default_probes,
            _indexes(conn, r.id, r.partitioned),
            r.alert,
            r.learn_from,
        )
        for r in rows
    ]


def _indexes(conn: psycopg.Connection[Any], column_id: int, partitioned: bool) -> tuple[TunedIndex, ...]:
    cursor: psycopg.Cursor[Any] = conn.cursor(row_factory=namedtuple_row)
    rows = cursor.execute(queries()["tuned_indexes"], {"column_id": column_id}).fetchall()
    return tuple(
        TunedIndex(
            r.index_no,
            r.name,
            r.method,
            r.form,
            r.requires,
            r.share,
            r.lists,
            r.generation,
            not partitioned and r.method == "hnsw",
            r.form == "plain" and not partitioned,
        )
        for r in rows
    )
