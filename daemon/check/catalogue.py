"""A database's vector columns and their indexes, read from the catalogue, without vectuned's schema."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Final

import psycopg
from psycopg import sql

from vectuned.learning.model.column import Metric, VectorColumn, VectorType
from vectuned.sql.rows import fetch_row, fetch_rows

from .partitions import ForeignPartition

# Operator classes by the start of their name up to `_ops`; the metrics that VectorColumn can measure.
_METRICS: Final[dict[str, Metric]] = {"cosine": "cosine", "l2": "l2", "ip": "ip"}
_OPERATORS: Final[dict[str, str]] = {"cosine": "<=>", "l2": "<->", "ip": "<#>", "l1": "<+>"}


@dataclass(frozen=True)
class Server:
    """A server and its database; sizes are in bytes."""

    database: str
    role: str
    version: str
    is_standby: bool
    shared_buffers: int
    pgvector: str | None
    extension_schema: str | None
    statements_schema: str | None
    reads_all_statistics: bool
    statistics_age: timedelta

    @property
    def pgvector_number(self) -> tuple[int, ...]:
        """Return pgvector's version as numbers, () where it is missing."""
        return tuple(int(part) for part in re.findall(r"\d+", self.pgvector or "")[:3])


@dataclass(frozen=True)
class VectorIndex:
    """An HNSW or IVFFlat index; `key` is the number of the column it is over, 0 for an expression."""

    relation: int
    oid: int
    schema: str
    name: str
    method: str
    key: int
    expression: str
    operator_class: str
    m: int | None
    ef_construction: int | None
    lists: int | None
    predicate: str | None
    is_valid: bool
    is_ready: bool
    is_building: bool
    definition: str
    bytes: int
    scans: int
    rows: float

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def quoted(self) -> str:
        """Name the index as SQL does."""
        return sql.Identifier(self.schema, self.name).as_string(None)

    @property
    def metric(self) -> str:
        """Return the distance it is ordered by: cosine, l2, ip, l1, hamming or jaccard."""
        parts = self.operator_class.split("_")
        return parts[1] if len(parts) > 2 else parts[0]

    @property
    def operator(self) -> str:
        """Return the operator that it serves, "" for one of bits."""
        return _OPERATORS.get(self.metric, "")

    @property
    def build(self) -> str:
        """Say how it was built, with pgvector's defaults where nothing was given."""
        if self.method == "hnsw":
            return f"m {self.m or 16}, ef_construction {self.ef_construction or 64}"
        return f"lists {self.lists or 100}"


@dataclass(frozen=True)
class VectorTable:
    """A table's vector column with its indexes; `rows` is the planner's estimate, -1 if there is none.

    For a partitioned table, `parts` are the indexes over the column of its partitions on this server, and
    `foreign` the partitions on other servers. `rows` includes their rows, but `bytes` not their bytes.
    """

    relation: int
    schema: str
    table: str
    column: str
    number: int
    type: VectorType
    dimensions: int | None
    is_partitioned: bool
    rows: float
    bytes: int
    is_readable: bool
    dead_rows: int | None
    live_rows: int | None
    analyzed_at: datetime | None
    vacuums: int
    indexes: tuple[VectorIndex, ...] = ()
    parts: tuple[VectorIndex, ...] = ()
    foreign: tuple[ForeignPartition, ...] = ()

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}.{self.column}"

    @property
    def quoted(self) -> str:
        """Name the table as SQL does."""
        return sql.Identifier(self.schema, self.table).as_string(None)

    @cached_property
    def serving(self) -> tuple[VectorIndex, ...]:
        """Return the valid indexes over all rows by a distance that can be measured here."""
        return tuple(i for i in self.indexes if i.is_valid and i.predicate is None and i.metric in _METRICS)

    @cached_property
    def searched(self) -> tuple[VectorIndex, ...]:
        """Return the indexes that searches may use: `serving` or, if there are none, those of partitions."""
        return self.serving or tuple(
            i for i in self.parts if i.is_valid and i.predicate is None and i.metric in _METRICS
        )

    @property
    def partitions(self) -> int:
        """Return the number of partitions that have a vector index or are on other servers, at least 1."""
        return max(len({i.relation for i in self.parts}) + len(self.foreign), 1)

    @property
    def index_names(self) -> set[str]:
        """Return the names of the vector indexes that a plan may show, including those of partitions."""
        return {index.name for index in (*self.indexes, *self.parts)}

    def measured_by(self, index: VectorIndex, extension_schema: str) -> VectorColumn:
        """Describe the column as exact search takes it, by the metric of an index of known metric."""
        dimensions = self.dimensions or index_dimensions(index) or 0
        return VectorColumn(
            0,
            self.schema,
            self.table,
            self.column,
            _METRICS[index.metric],
            self.type,
            dimensions,
            (),
            extension_schema,
        )


def index_dimensions(index: VectorIndex) -> int | None:
    """Return the n of a cast such as `embedding::vector(n)` in an index's expression, None without one."""
    cast = re.search(r"::\S*(?:vector|halfvec)\((\d+)\)", index.expression)
    return int(cast.group(1)) if cast else None


def read_server(conn: psycopg.Connection[Any]) -> Server:
    """Read what server this is."""
    return Server(**fetch_row(conn, "check_server")._asdict())


def read_tables(conn: psycopg.Connection[Any]) -> list[VectorTable]:
    """Read the vector columns of the database, the largest tables first, with the indexes over each."""
    rows = fetch_rows(conn, "check_tables")
    relations = sorted({row.relation for row in rows})
    partitions = list(fetch_rows(conn, "check_partitions", {"relations": relations}))
    relations += sorted({row.relation for row in partitions if row.server is None})
    indexes = [
        VectorIndex(**row._asdict()) for row in fetch_rows(conn, "check_indexes", {"relations": relations})
    ]
    tables = [VectorTable(**row._asdict()) for row in rows]
    return [_with_indexes(table, indexes, partitions) for table in tables]


def _with_indexes(table: VectorTable, indexes: list[VectorIndex], partitions: list[Any]) -> VectorTable:
    mine = [row for row in partitions if row.parent == table.relation]
    local = {row.relation for row in mine if row.server is None}
    return replace(
        table,
        indexes=tuple(i for i in indexes if i.relation == table.relation and _is_over(i, table)),
        # A partition may number its columns differently, so its indexes are matched by the column's name.
        parts=tuple(i for i in indexes if i.relation in local and _is_over(replace(i, key=0), table)),
        foreign=tuple(
            ForeignPartition(row.relation, row.schema, row.name, row.server, row.extensions, row.rows)
            for row in mine
            if row.server is not None
        ),
    )


def _is_over(index: VectorIndex, table: VectorTable) -> bool:
    """Say whether an index is over the column, or over an expression that names it."""
    if index.key:
        return index.key == table.number
    name = sql.Identifier(table.column).as_string(None)
    plain = re.escape(table.column)
    return re.search(rf'(?<![\w"]){plain}(?![\w"])|{re.escape(name)}', index.expression) is not None
