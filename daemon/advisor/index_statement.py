"""The statement that builds a candidate on the real table, beside the indexes that exist."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from vectuned.daemon.database.index_build import compose_create_index
from vectuned.learning.advisor import Definition
from vectuned.learning.model.tuned_columns import TunedColumn

from .advice import ExistingIndex


def compose_index_statement(
    tuned: TunedColumn,
    definition: Definition,
    existing: Sequence[ExistingIndex],
    name: str,
    *,
    mixed: bool = False,
) -> sql.Composed:
    """Compose the statement that builds an index on the real table.

    With `mixed` the rows have vectors of different dimensions, and it is over those of the column's alone.
    """
    column = tuned.column
    statement = compose_create_index(
        column,
        definition,
        column.relation,
        name,
        concurrently=True,
        marker=choose_marker(definition, existing),
    )
    if not mixed:
        return statement
    return statement + sql.SQL(" WHERE {}.vector_dims({}) = {}").format(
        sql.Identifier(column.extension_schema), column.vector, sql.Literal(column.dimensions)
    )


def choose_marker(definition: Definition, existing: Sequence[ExistingIndex]) -> int | None:
    """Return an unused marker, by which a statement selects this index; None if no other index is like it.

    All indexes over the same expression, of either method, can answer the same statements.
    """
    alike = [index for index in existing if index.definition.form == definition.form]
    if not alike:
        return None
    used = {index.marker.rsplit(" ", 1)[-1] for index in alike}
    return next(number for number in range(len(alike) + 1) if str(number) not in used)


def find_rival_index(definition: Definition, existing: Sequence[ExistingIndex]) -> ExistingIndex | None:
    """Return the index that the planner would use instead, even for statements that ask for this one.

    Of two indexes that can answer a statement the planner takes the one that looks cheaper: for HNSW the one
    with the smaller m. An index without a marker can answer every statement.
    """
    for index in existing:
        other = index.definition
        if (
            other != definition
            and (other.method, other.form) == (definition.method, definition.form)
            and index.marker == "true"
            and (other.m, other.lists) < (definition.m, definition.lists)
        ):
            return index
    return None
