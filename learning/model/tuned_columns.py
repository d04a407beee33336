"""The tuned columns of a database, their settings and their indexes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import psycopg

from vectuned.sql.rows import execute, fetch_rows

from .column import VectorColumn
from .ladder import RUNGS, probe_rungs


@dataclass(frozen=True)
class TunedIndex:
    """An index that can answer searches of a tuned column.

    `number` identifies it in published settings; `form` is what it stores (plain, halfvec, bits); `requires`
    is the filter, as JSON, of a partial index, and `share` the share of the rows in it; `generation` changes
    with a REINDEX. A scan of a `resumable` index is continued from rung to rung; others are searched once for
    each rung. A `probed` index supports probes, whose first rows tell how hard a query is.
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
        """Return the efforts at which it is measured: ef_search, or probes of IVFFlat."""
        return RUNGS if self.lists is None else probe_rungs(self.lists)

    @property
    def effort_name(self) -> str:
        """Return the name of its effort."""
        return "ef_search" if self.method == "hnsw" else "probes"


@dataclass(frozen=True)
class TunedColumn:
    """A tuned column with the settings given to `vectuned.enable`, and its indexes.

    `max_tail` is the largest acceptable share of searches with a recall under 0.8. `max_effort` (ef_search or
    probes) and `max_ms` cap what serves; None: no cap. With `exact_if_unreachable` exact search
    serves where no setting of an index reaches the target. On `alert` more searches are recorded and checked.
    The first of `indexes` is the `main` index, used until something has been learned. If no index is over all
    rows, there is no main index: all of them are partial, and searches without a filter are exact. The tuple
    is empty if all were dropped.
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
    max_effort: int | None = None
    max_ms: float | None = None
    exact_if_unreachable: bool = False
    alert: bool = False

    @property
    def main(self) -> TunedIndex | None:
        """Return the main index, None if no index is over all rows."""
        return self.indexes[0] if self.indexes and self.indexes[0].requires is None else None

    @property
    def generation(self) -> int | None:
        """Return the generation of the main index, None without one."""
        return self.main.generation if self.main is not None else None

    @property
    def generations(self) -> list[int]:
        """Return the generations of all indexes."""
        return [index.generation for index in self.indexes]

    def find_index(self, number: int | None) -> TunedIndex | None:
        """Return the index with a number, the main index for None; None if it is gone."""
        if number is None:
            return self.main
        return next((index for index in self.indexes if index.number == number), None)

    def default_effort(self, index: TunedIndex, k: int) -> int:
        """Return the effort of a search for k rows through an index until something has been learned."""
        return max(k, self.default_ef) if index.method == "hnsw" else self.default_probes


def lock_tuning(conn: psycopg.Connection[Any]) -> None:
    """Take the lock of vectuned.enable and vectuned.disable until the transaction ends.

    A transaction that changes what serves a column takes it before it locks any row.
    """
    execute(conn, "lock_tuning")


def read_tuned_columns(conn: psycopg.Connection[Any], column_id: int | None = None) -> list[TunedColumn]:
    """Read every tuned column whose table still exists, or only one, in the order they were enabled."""
    return [
        TunedColumn(
            column=VectorColumn(
                id=row.id,
                schema=row.nspname,
                table=row.relname,
                name=row.column_name,
                metric=row.metric,
                vector_type=row.vector_type,
                dimensions=row.dimensions,
                key_columns=tuple(row.key_columns),
                extension_schema=row.extension_schema,
                untyped=row.untyped,
            ),
            enabled=row.enabled,
            target_recall=row.target_recall,
            max_tail=row.max_tail,
            sample_rate=row.sample_rate,
            trajectory_window=row.trajectory_window,
            learning_rate=row.learning_rate,
            min_samples=row.min_samples,
            store_vectors=row.store_vectors,
            default_ef=row.default_ef,
            default_probes=row.default_probes,
            indexes=_read_indexes(conn, row.id, row.partitioned),
            max_effort=row.max_effort,
            max_ms=row.max_ms,
            exact_if_unreachable=row.exact_if_unreachable,
            alert=row.alert,
        )
        for row in fetch_rows(conn, "tuned_columns", {"column_id": column_id})
    ]


def _read_indexes(conn: psycopg.Connection[Any], column_id: int, partitioned: bool) -> tuple[TunedIndex, ...]:
    return tuple(
        TunedIndex(
            number=row.index_no,
            name=row.name,
            method=row.method,
            form=row.form,
            requires=row.requires,
            share=row.share,
            lists=row.lists,
            generation=row.generation,
            resumable=not partitioned and row.method == "hnsw",
            probed=row.form == "plain" and not partitioned,
        )
        for row in fetch_rows(conn, "tuned_indexes", {"column_id": column_id})
    )
