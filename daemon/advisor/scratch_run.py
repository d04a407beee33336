"""A run of the advisor: its scratch schema, which says what must go when the run is dead."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import Any, Final

import psycopg
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.sql.files import queries

log = logging.getLogger(__name__)

_PATIENCE_SECONDS: Final = 3.0


@dataclass
class ScratchRun:
    """A run at work: the schema that is its own, and the indexes that it builds on the real table.

    What it builds there stands in the schema's comment before it is begun: `trial` ones go in any case,
    others only where they did not become valid.
    """

    conn: psycopg.Connection[Any]
    schema: str
    tuned: TunedColumn
    indexes: list[dict[str, Any]] = field(default_factory=list)

    def relation(self, name: str) -> sql.Identifier:
        """Name something in the scratch schema."""
        return sql.Identifier(self.schema, name)

    def register_index(self, name: str, *, trial: bool) -> None:
        """Write down that an index is about to be built on the real table."""
        column = self.tuned.column
        self.indexes.append({"schema": column.schema, "table": column.table, "name": name, "trial": trial})
        self._describe()

    def _describe(self) -> None:
        said = {
            "what": "scratch of vectuned advise",
            "column": str(self.tuned.column),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
            "indexes": self.indexes,
        }
        self.conn.execute(
            sql.SQL("COMMENT ON SCHEMA {} IS {}").format(
                sql.Identifier(self.schema), sql.Literal(json.dumps(said))
            )
        )

    @classmethod
    @contextmanager
    def open(cls, conn: psycopg.Connection[Any], tuned: TunedColumn) -> Iterator[ScratchRun]:
        """Clear away what dead runs left, make a scratch schema, and drop it in the end, come what may.

        Raises VectunedError while another run is at work on the column.
        """
        drop_dead_runs(conn, tuned)
        run = cls(conn, f"vectuned_advise_{tuned.column.id}_{secrets.token_hex(4)}", tuned)
        conn.execute(queries()["try_run"], {"name": run.schema})
        with conn.transaction():
            conn.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(run.schema)))
            run._describe()
        try:
            yield run
        finally:
            # A connection that is lost leaves it to the next run.
            if not conn.closed:
                drop_run(conn, run.schema, run.indexes)
                conn.execute(queries()["end_run"], {"name": run.schema})


def drop_dead_runs(conn: psycopg.Connection[Any], tuned: TunedColumn) -> int:
    """Drop what dead runs left behind, and return how many; refuse while one is at work on the column."""
    cleared = 0
    for schema, said in conn.execute(queries()["advise_runs"]).fetchall():
        ours = schema.split("_")[2] == str(tuned.column.id)
        if not _taken_over(conn, schema, _PATIENCE_SECONDS if ours else 0.0):
            if ours:
                raise VectunedError(
                    f"Another run of the advisor is at work on {tuned.column} (schema {schema}): "
                    "wait for its end."
                )
            continue
        try:
            drop_run(conn, schema, json.loads(said).get("indexes", []))
            cleared += 1
            log.warning("cleared away %s, left by a run that died", schema, extra={"action": "advise"})
        finally:
            conn.execute(queries()["end_run"], {"name": schema})
    return cleared


def _taken_over(conn: psycopg.Connection[Any], schema: str, patience: float) -> bool:
    """Take the lock of a run; it takes the server a moment to notice that somebody was killed."""
    end = monotonic() + patience
    while True:
        if conn.execute(queries()["try_run"], {"name": schema}).fetchall()[0][0]:
            return True
        if monotonic() > end:
            return False
        sleep(0.1)


def drop_run(conn: psycopg.Connection[Any], schema: str, indexes: list[dict[str, Any]]) -> None:
    """Drop a scratch schema and of the indexes that its run built on a table those nobody wants."""
    for index in indexes:
        with suppress(psycopg.errors.UndefinedObject):
            row = conn.execute(queries()["index_state"], index).fetchone()
            if row is not None and (index["trial"] or not row[0]):
                name = sql.Identifier(index["schema"], index["name"])
                conn.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(name))
    conn.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))
