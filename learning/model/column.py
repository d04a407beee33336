"""A vector column under vectuned's care, and the pieces of SQL that name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from psycopg import sql

Metric = Literal["cosine", "l2", "ip"]
VectorType = Literal["vector", "halfvec"]

_OPERATORS: Final[dict[Metric, sql.SQL]] = {
    "cosine": sql.SQL("<=>"),
    "l2": sql.SQL("<->"),
    "ip": sql.SQL("<#>"),
}


@dataclass(frozen=True)
class VectorColumn:
    """Describe a vector column: where it lives, how distance is measured, which columns name a row.

    `dimensions` is the number of elements of every vector in it; `extension_schema` is the schema that
    pgvector is installed in, written out in every operator and type so that no search_path matters.
    """

    id: int
    schema: str
    table: str
    name: str
    metric: Metric
    vector_type: VectorType
    dimensions: int
    key_columns: tuple[str, ...]
    extension_schema: str

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}.{self.name}"

    @property
    def relation(self) -> sql.Identifier:
        """Name the table, qualified by its schema."""
        return sql.Identifier(self.schema, self.table)

    @property
    def vector(self) -> sql.Identifier:
        """Name the vector column."""
        return sql.Identifier(self.name)

    @property
    def type_name(self) -> sql.Identifier:
        """Name the column's type, qualified by pgvector's schema."""
        return sql.Identifier(self.extension_schema, self.vector_type)

    @property
    def distance_operator(self) -> sql.Composed:
        """Write pgvector's operator of this metric, qualified by pgvector's schema."""
        schema = sql.Identifier(self.extension_schema)
        return sql.SQL("OPERATOR({}.{})").format(schema, _OPERATORS[self.metric])

    def distance(self, query: sql.Composable) -> sql.Composed:
        """Write the distance from the column to `query`, a placeholder or expression, cast to its type."""
        pieces = (self.vector, self.distance_operator, query, self.type_name)
        return sql.SQL("({} {} ({})::{})").format(*pieces)
