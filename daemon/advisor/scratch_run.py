"""A run of the advisor: its scratch schema, whose comment lists what must be dropped if the run dies."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import Any, Final

import psycopg
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.learning.model.tuned_columns import TunedColumn

from . import storage

log = logging.getLogger(__name__)

_LOCK_SECONDS: Final = 3.0  # the server takes a moment to notice that the client of a lock was killed
_LOCK_POLL_SECONDS: Final = 0.1  # between two attempts: a person does not notice


@dataclass
class ScratchRun:
    """A run in progress: its own schema, and the indexes that it builds on the real table.

    Each of these indexes is entered into the schema's comment before its build begins. After the run, trial
    indexes are dropped in any case, others only if they did not become valid.
    """

    conn: psycopg.Connection[Any]
    schema: str
    tuned: TunedColumn
    indexes: list[dict[str, Any]] = field(default_factory=list)

    def relation(self, name: str) -> sql.Identifier:
        """Return the identifier of a relation in the scratch schema."""
        return sql.Identifier(self.schema, name)

    def register_index(self, name: str, *, trial: bool) -> None:
        """Record that an index is about to be built on the real table."""
        column = self.tuned.column
        self.indexes.append({"schema": column.schema, "table": column.table, "name": name, "trial": trial})
        self._describe()

    def _describe(self) -> None:
        description = {
            "what": "scratch of vectuned advise",
            "column": str(self.tuned.column),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "indexes": self.indexes,
        }
        storage.describe_scratch_schema(self.conn, self.schema, json.dumps(description))

    @classmethod
    @contextmanager
    def open(cls, conn: psycopg.Connection[Any], tuned: TunedColumn) -> Iterator[ScratchRun]:
        """Clean up after dead runs, create a scratch schema, and drop it at the end, also after an error.

        Raises VectunedError while another run works on the column.
        """
        drop_dead_runs(conn, tuned)
        run = cls(conn, f"vectuned_advise_{tuned.column.id}_{secrets.token_hex(4)}", tuned)
        storage.try_lock_run(conn, run.schema)
        with conn.transaction():
            storage.create_scratch_schema(conn, run.schema)
            run._describe()
        try:
            yield run
        finally:
            # After a lost connection the next run cleans up.
            if not conn.closed:
                drop_run(conn, run.schema, run.indexes)
                storage.unlock_run(conn, run.schema)


def drop_dead_runs(conn: psycopg.Connection[Any], tuned: TunedColumn) -> int:
    """Drop what killed runs left behind, and return the number of these runs.

    Raises VectunedError while another run works on the column.
    """
    dropped = 0
    for schema, description in storage.read_scratch_schemas(conn).items():
        same_column = schema.split("_")[2] == str(tuned.column.id)
        if not _lock_dead_run(conn, schema, _LOCK_SECONDS if same_column else 0.0):
            if same_column:
                raise VectunedError(
                    f"Another run of the advisor is at work on {tuned.column} (schema {schema}): "
                    "wait until it ends."
                )
            continue
        try:
            drop_run(conn, schema, json.loads(description).get("indexes", []))
            dropped += 1
            log.warning("cleaned up %s, left by a run that died", schema, extra={"action": "advise"})
        finally:
            storage.unlock_run(conn, schema)
    return dropped


def _lock_dead_run(conn: psycopg.Connection[Any], schema: str, wait_seconds: float) -> bool:
    """Take the lock of a run whose session is gone; False if its session still holds it."""
    end = monotonic() + wait_seconds
    while not storage.try_lock_run(conn, schema):
        if monotonic() > end:
            return False
        sleep(_LOCK_POLL_SECONDS)
    return True


def drop_run(conn: psycopg.Connection[Any], schema: str, indexes: list[dict[str, Any]]) -> None:
    """Drop the scratch schema of a run and its unneeded indexes on real tables."""
    for index in indexes:
        storage.drop_index_of_dead_run(conn, index)
    storage.drop_scratch_schema(conn, schema)
