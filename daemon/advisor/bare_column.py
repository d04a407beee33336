"""A column that has no index yet, described as the advisor needs it, with rows of the table as queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import psycopg
from psycopg import sql

from vectuned.config.errors import UsageError, VectunedError
from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.column import Metric, VectorColumn
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.model.vectors import to_array
from vectuned.sql.files import queries
from vectuned.sql.rows import fetch_rows, fetch_value, fetch_values

Connection = psycopg.Connection[Any]

METRICS: Final = ("cosine", "l2", "ip")
DEFAULT_TARGET: Final = 0.95  # that of vectuned.enable
_PLACES: Final = 1 << 30  # values of the hash that orders the rows, as in copy_rows of advisor.sql
_HELD_OUT_MARGIN: Final = 1.5  # rows held out for each query: the hash draws about as many as expected


@dataclass(frozen=True)
class BareColumn:
    """A vector column without an index over all rows.

    `tuned` describes it like a tuned one, with the relation's oid as its id; vectuned does not know it. Of an
    untyped column `mixed` says that there are vectors of other lengths too. `metric_source` says why the
    metric was chosen.
    """

    tuned: TunedColumn
    mixed: bool
    metric_source: str

    @property
    def column(self) -> VectorColumn:
        """Return the description of the column."""
        return self.tuned.column


def describe_bare_column(
    conn: Connection, relation: str, column: str | None, metric: str | None, target: float | None
) -> BareColumn:
    """Describe a column by the catalogues and, where its type has no dimensions, by its rows.

    The metric is that of an index over it, such as an invalid one, unless it is given; without either cosine
    distance. Raises UsageError where the relation has no such column, or several and none is named.
    """
    rows = fetch_rows(conn, "bare_columns", {"relation": relation, "column_name": column})
    if not rows:
        what = f"column {column} of type vector or halfvec" if column else "column of type vector or halfvec"
        raise UsageError(f"{relation} has no {what}.")
    if len(rows) > 1:
        names = ", ".join(row.name for row in rows)
        raise UsageError(f"{relation} has several vector columns: name one of {names}.")
    row = rows[0]
    chosen, source = metric or row.index_metric, "as asked" if metric else "as its index has it"
    if chosen is None:
        chosen, source = "cosine", "the usual one; --metric chooses another"
    name = sql.Identifier(row.name)
    table = sql.Identifier(row.schema, row.table)
    dimensions, mixed = row.dimensions, False
    if dimensions is None:
        lengths = fetch_values(
            conn,
            queries()["vector_lengths"].format(
                column=name, relation=table, schema=sql.Identifier(row.extension)
            ),
        )
        if not lengths:
            raise VectunedError(f"{relation}.{row.name} holds no vectors: there is nothing to advise about.")
        dimensions, mixed = int(lengths[0]), len(lengths) > 1
    described = VectorColumn(
        int(row.relation),
        row.schema,
        row.table,
        row.name,
        cast(Metric, chosen),
        row.type,
        int(dimensions),
        (),
        row.extension,
        row.dimensions is None,
    )
    tuned = TunedColumn(
        described, False, DEFAULT_TARGET if target is None else target, 1.0, 0.0, 1, 0.1, 1, False, 40, 1, ()
    )
    return BareColumn(tuned, mixed, source)


def explain_cast(bare: BareColumn) -> str:
    """Say how statements must order by a column whose type has no dimensions."""
    column = bare.column
    others = f", and add WHERE vector_dims({column.name}) = {column.dimensions}" if bare.mixed else ""
    return (
        f"Its type says no dimensions, so its cast is indexed: statements must order by "
        f"{column.name}::{column.vector_type}({column.dimensions}){others}, or the index is not used."
    )


def is_tuned(conn: Connection, relation: str, column: str | None) -> bool:
    """Say whether a column (without a name: any column) is tuned and has an index over all rows."""
    return bool(fetch_value(conn, "is_tuned", {"relation": relation, "column_name": column}))


def hold_out_rows(
    conn: Connection, bare: BareColumn, count: int, rows: int, seed: int
) -> tuple[Singles, float]:
    """Draw rows as queries, float32 (n, d), from the end of the order in which samples are copied.

    Returns them with the share of the rows that a sample may take without containing them.
    """
    column = bare.column
    share = 1.0 - min(_HELD_OUT_MARGIN * count / max(rows, 1), 0.3)
    statement = queries()["held_out_rows"].format(
        column=column.vector,
        relation=column.relation,
        schema=sql.Identifier(column.extension_schema),
        dimensions=sql.Literal(column.dimensions),
        seed=sql.Literal(seed),
        from_place=sql.Literal(round(share * _PLACES)),
        count=sql.Literal(count),
    )
    found = [to_array(value) for value in fetch_values(conn, statement)]
    vectors = np.array(found, dtype=np.float32).reshape(len(found), column.dimensions)
    return vectors[vectors.any(axis=1)], share
