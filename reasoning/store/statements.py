"""Run the named statements of the entity store, and raise what its functions say of their arguments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from pgvector.psycopg import register_vector

from vectuned.config.errors import UsageError
from vectuned.sql.entity_loader import entity_queries


class EntityNotFoundError(UsageError):
    """There is no such entity or resource, or it was pruned."""


class Statements:
    """Run the statements of sql/entities/queries.sql over one connection; UsageError if there is no store."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self.conn = conn
        if not self.value("installed"):
            raise UsageError(
                f"There is no entity store in database {conn.info.dbname}: "
                "run `vectuned entities create` first."
            )
        register_vector(conn)

    def rows(self, statement: str, /, **values: object) -> list[tuple[Any, ...]]:
        """Run a statement."""
        with usage_errors():
            return self.conn.execute(entity_queries()[statement], values or None).fetchall()

    def value(self, statement: str, /, **values: object) -> Any:
        """Run a statement that returns one value."""
        return self.rows(statement, **values)[0][0]


@contextmanager
def usage_errors() -> Iterator[None]:
    """Raise what the store's functions say of their arguments as UsageError, with the hint."""
    try:
        yield
    except psycopg.Error as error:
        state, said, hint = error.sqlstate or "", error.diag.message_primary, error.diag.message_hint
        if state[:2] not in ("22", "23") and state not in ("P0002", "55000", "42704"):
            raise
        kind = EntityNotFoundError if state == "P0002" else UsageError
        raise kind(f"{said}{f' ({hint})' if hint else ''}") from error
