"""Partitions on other servers, and foreign servers that send all their rows to every search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from psycopg import sql

from .findings import Finding


@dataclass(frozen=True)
class ForeignPartition:
    """A partition on another server; `rows` is the planner's estimate, -1 if there is none.

    `extensions` is the foreign server's option of that name: postgres_fdw sends it the operators of these
    extensions. None if the server is not of postgres_fdw.
    """

    relation: int
    schema: str
    table: str
    server: str
    extensions: str | None
    rows: float

    @property
    def quoted(self) -> str:
        """Return the quoted name of the partition, for SQL."""
        return sql.Identifier(self.schema, self.table).as_string(None)

    @property
    def sends_order(self) -> bool:
        """Say whether an ORDER BY of pgvector's operators is computed on the other server."""
        return "vector" in (name.strip() for name in (self.extensions or "").split(","))


def check_servers(subject: str, partitions: tuple[ForeignPartition, ...]) -> Iterator[Finding]:
    """Find foreign servers that send all rows of their partitions to each search."""
    servers: dict[str, list[ForeignPartition]] = {}
    for partition in partitions:
        if partition.extensions is not None and not partition.sends_order:
            servers.setdefault(partition.server, []).append(partition)
    for server, its in servers.items():
        named = its[0].extensions
        value = sql.Literal(f"{named},vector" if named else "vector")
        statement = sql.SQL("ALTER SERVER {} OPTIONS ({} extensions {})").format(
            sql.Identifier(server), sql.SQL("SET" if named else "ADD"), value
        )
        yield Finding(
            "problem",
            "foreign-rows-fetched",
            subject,
            f"gets all rows of {', '.join(part.quoted for part in its)} from the server {server} for every "
            "search: pgvector is not in the option extensions of that server, so ORDER BY is not sent to it",
            "if the server has pgvector, run",
            statement.as_string(None),
        )
