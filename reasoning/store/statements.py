"""Run the named statements of sql/entities/queries/ and translate the errors that the functions raise."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import psycopg
from pgvector.psycopg import register_vector
from psycopg.rows import kwargs_row

from vectuned.config.errors import UsageError
from vectuned.reasoning.graph.connections import Connection
from vectuned.sql.entity_loader import entity_queries
from vectuned.sql.rows import fetch_rows, fetch_value

T = TypeVar("T")

# SQLSTATE classes data exception and integrity constraint violation: an argument is wrong.
_ARGUMENT_CLASSES = ("22", "23")
# P0002 no_data_found (no such entity), 55000 object_not_in_prerequisite_state (such as an archived entity),
# 42704 undefined_object (such as a text search configuration).
_ARGUMENT_STATES = ("P0002", "55000", "42704")


class EntityNotFoundError(UsageError):
    """No entity or resource has this id, or it was pruned."""


class Statements:
    """Run named statements over one connection; raises UsageError if the database has no entity store."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn
        if not self.value("installed"):
            raise UsageError(
                f"There is no entity store in database {conn.info.dbname}: "
                "run `vectuned entities create` first."
            )
        register_vector(conn)

    def rows(self, statement: str, /, **values: object) -> list[Any]:
        """Return every row of a statement as a named tuple."""
        with usage_errors():
            return fetch_rows(self.conn, entity_queries()[statement], values or None)

    def fetch(self, make: Callable[..., T], statement: str, /, **values: object) -> list[T]:
        """Return every row of a statement as `make` makes it from the columns, which it takes by name."""
        with usage_errors(), self.conn.cursor(row_factory=kwargs_row(make)) as cursor:
            return cursor.execute(entity_queries()[statement], values or None).fetchall()

    def value(self, statement: str, /, **values: object) -> Any:
        """Return the only value of a statement."""
        with usage_errors():
            return fetch_value(self.conn, entity_queries()[statement], values or None)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Raise errors about the arguments of the store's functions as UsageError, with message and hint."""
    try:
        yield
    except psycopg.Error as error:
        state, message, hint = error.sqlstate or "", error.diag.message_primary, error.diag.message_hint
        if not state.startswith(_ARGUMENT_CLASSES) and state not in _ARGUMENT_STATES:
            raise
        kind = EntityNotFoundError if state == "P0002" else UsageError
        raise kind(f"{message}{f' ({hint})' if hint else ''}") from error
