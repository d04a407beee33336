"""A vector column and the SQL fragments that refer to it."""

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
    """Describe a vector column: its relation, its metric, and the columns that identify a row.

    `dimensions` is the number of elements of every vector; where the column is `untyped`, its type does not
    say them, and its cast to them is what is indexed and compared. `extension_schema` is pgvector's schema,
    which qualifies every operator and type so that the search_path does not matter.
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
    untyped: bool = False

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}.{self.name}"

    @property
    def relation(self) -> sql.Identifier:
        """Return the table as an identifier, qualified by its schema."""
        return sql.Identifier(self.schema, self.table)

    @property
    def vector(self) -> sql.Identifier:
        """Return the vector column as an identifier."""
        return sql.Identifier(self.name)

    @property
    def type_name(self) -> sql.Identifier:
        """Return the type of the column as an identifier, qualified by pgvector's schema."""
        return sql.Identifier(self.extension_schema, self.vector_type)

    @property
    def distance_operator(self) -> sql.Composed:
        """Return pgvector's operator for the metric, qualified by pgvector's schema."""
        schema = sql.Identifier(self.extension_schema)
        return sql.SQL("OPERATOR({}.{})").format(schema, _OPERATORS[self.metric])

    def distance(self, query: sql.Composable) -> sql.Composed:
        """Return the distance from the column to `query`, a placeholder or expression, cast to its type.

        A comment marks it, so that `vectuned observe` ignores vectuned's own statements in the server's log.
        """
        vector: sql.Composable = self.vector
        if self.untyped:
            vector = sql.SQL("({}::{}({}))").format(vector, self.type_name, sql.Literal(self.dimensions))
        pieces = (vector, self.distance_operator, query, self.type_name)
        return sql.SQL("({} {} ({})::{}) /* vectuned */").format(*pieces)
