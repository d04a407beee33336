"""A growing copy of a sample of the rows, over which candidates are built."""

from __future__ import annotations

from typing import Any, Final

import psycopg
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.daemon.console import Console
from vectuned.daemon.database.session import in_snapshot
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.sql.files import queries, trusted
from vectuned.sql.rows import execute

from . import storage
from .advice import TableFacts
from .scratch_run import ScratchRun

_PLACES: Final = 1 << 30  # values of the hash that orders the rows, as in copy_rows of advisor.sql
_STORAGE: Final = {"p": "PLAIN", "e": "EXTERNAL", "m": "MAIN", "x": "EXTENDED"}  # pg_attribute.attstorage


class SampleCopy:
    """A table in the scratch schema with a share of the rows, drawn by `seed`; a larger share keeps them.

    `rows` is the number of rows copied so far, `share` their share of the table as requested.
    """

    def __init__(self, run: ScratchRun, facts: TableFacts, table_rows: int, seed: int) -> None:
        self.relation: Final = run.relation("copy")
        self.rows, self.share = 0, 0.0
        self._conn, self._tuned = run.conn, run.tuned
        self._table_rows, self._seed = table_rows, seed
        self._key = "id" if run.tuned.column.name != "id" else "key"
        self._create(facts.storage)

    def _create(self, column_storage: str) -> None:
        column = self._tuned.column
        create = queries()["create_copy"].format(
            copy=self.relation,
            key=sql.Identifier(self._key),
            column=column.vector,
            type=column.type_name,
            dimensions=sql.Literal(column.dimensions),
        )
        execute(self._conn, create)
        set_storage = queries()["set_copy_storage"].format(
            copy=self.relation, column=column.vector, storage=trusted(_STORAGE[column_storage])
        )
        execute(self._conn, set_storage)

    def grow(self, share: float, console: Console) -> int:
        """Copy further rows, up to a share of the table; return how many the copy holds.

        Raises VectunedError where none of them has a vector.
        """
        column = self._tuned.column
        statement = queries()["copy_rows"].format(
            copy=self.relation,
            column=column.vector,
            relation=column.relation,
            key_start=sql.Literal(self.rows),
            seed=sql.Literal(self._seed),
            schema=sql.Identifier(column.extension_schema),
            dimensions=sql.Literal(column.dimensions),
            from_place=sql.Literal(round(self.share * _PLACES)),
            to_place=sql.Literal(_PLACES if share >= 1 else round(share * _PLACES)),
        )
        with console.progress("copying a sample of the rows", round(min(share, 1.0) * self._table_rows)):
            self.rows += in_snapshot(self._conn, lambda _: execute(self._conn, statement))
        self.share = share
        execute(self._conn, queries()["analyze_copy"].format(copy=self.relation))
        if self.rows < 1:
            raise VectunedError(f"The sample of {column} has no rows with a vector: increase --sample-rows.")
        return self.rows

    def register(self, conn: psycopg.Connection[Any]) -> TunedColumn:
        """Register the copy as a tuned column, in a transaction that must be rolled back."""
        return storage.register_copy(conn, self._tuned, self.relation.as_string(conn), self._key)
