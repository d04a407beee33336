"""Build an HNSW or IVFFlat index, with the progress that the server reports to a second connection."""

from __future__ import annotations

import logging
import threading
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg import errors, sql

from vectuned.daemon.console import Console
from vectuned.learning.advisor import Definition
from vectuned.learning.index_build import BuildPlan, build_session, drop_unfinished_index
from vectuned.learning.model.column import VectorColumn
from vectuned.sql.files import trusted
from vectuned.sql.rows import fetch_row

log = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.1  # between two looks at the progress, or two requests to cancel; each is cheap
_CANCEL_SECONDS: Final = 5.0  # until a cancel request that does not reach the server is given up
_EXPRESSIONS: Final = {
    "plain": "{column}",
    "cast": "({column}::{type}({width}))",
    "halfvec": "({column}::{schema}.halfvec({width}))",
    "bits": "({schema}.binary_quantize({column})::bit({width}))",
}
"""What is indexed, by the form of an index definition."""


def build_with_progress(
    conn: psycopg.Connection[Any],
    conninfo: str,
    statement: sql.Composed,
    index: sql.Identifier,
    plan: BuildPlan,
    label: str,
    console: Console,
) -> float:
    """Build an index as planned through `conn`, in autocommit mode, and return the seconds it took.

    Any interruption, such as Ctrl-C, cancels the statement first. What a failed build leaves behind is
    dropped, with a word in the log. Where the machine has too little shared memory for parallel workers, the
    build begins again without them. Raises VectunedError where the server would refuse to build.
    """
    plan.check()
    try:
        return _build(conn, conninfo, statement, index, plan, label, console)
    except psycopg.Error as error:
        if not (plan.workers and _lacks_shared_memory(error)):
            raise
        log.warning(
            "the server has too little shared memory for parallel workers (%s): building without them",
            error.diag.message_primary,
            extra={"action": "index_build"},
        )
        return _build(conn, conninfo, statement, index, replace(plan, workers=0), label, console)


def announce(plan: BuildPlan, console: Console) -> None:
    """Say what a build will take, and warn where it does not get the memory that it needs."""
    console.say(f"Building {plan.describe()}.")
    if found := plan.warning():
        console.say(f"Warning: {found}.")


def _build(
    conn: psycopg.Connection[Any],
    conninfo: str,
    statement: sql.Composed,
    index: sql.Identifier,
    plan: BuildPlan,
    label: str,
    console: Console,
) -> float:
    with build_session(conn, plan):
        try:
            return _run_and_watch(conn, conninfo, statement, plan.rows, label, console)
        except BaseException:
            drop_unfinished_index(conn, index)
            raise


def _run_and_watch(
    conn: psycopg.Connection[Any],
    conninfo: str,
    statement: sql.Composed,
    total: int,
    label: str,
    console: Console,
) -> float:
    build = _Build(conn, statement)
    with psycopg.connect(conninfo, autocommit=True) as watcher, console.progress(label, total) as progress:
        started = monotonic()
        try:
            build.start()
            while not build.ended.wait(_POLL_SECONDS):
                if done := read_index_progress(watcher, conn.info.backend_pid):
                    progress(done)
        except BaseException:
            build.stop()
            raise
        seconds = monotonic() - started
    if build.failure is not None:
        raise build.failure
    return seconds


class _Build(threading.Thread):
    """A thread that runs one statement, and that can be stopped at any time.

    A signal may interrupt `start` itself, before the thread has begun or while the statement is already
    running. `is_alive` is not reliable then, so the thread keeps its state in events of its own.
    """

    def __init__(self, conn: psycopg.Connection[Any], statement: sql.Composed) -> None:
        super().__init__(name="create-index")
        self.ended = threading.Event()
        self.failure: BaseException | None = None
        self._conn = conn
        self._statement = statement
        self._begun = threading.Event()
        self._unwanted = threading.Event()

    def run(self) -> None:
        """Run the statement, and keep the exception that it raises."""
        self._begun.set()
        try:
            if not self._unwanted.is_set():
                self._conn.execute(self._statement)
        except BaseException as error:  # the waiting thread raises it again
            self.failure = error
        finally:
            self.ended.set()

    def stop(self) -> None:
        """Cancel the statement and wait for its end; a thread that has not begun will not run it."""
        self._unwanted.set()
        # More than once: a request that arrives before the server has read the statement cancels nothing.
        while self._begun.is_set() and not self.ended.is_set():
            with suppress(psycopg.Error):
                self._conn.cancel_safe(timeout=_CANCEL_SECONDS)
            self.ended.wait(_POLL_SECONDS)


def _lacks_shared_memory(error: psycopg.Error) -> bool:
    message = error.diag.message_primary or ""
    return isinstance(error, (errors.DiskFull, errors.OutOfMemory)) and "shared memory" in message


def read_index_progress(conn: psycopg.Connection[Any], backend_pid: int) -> int:
    """Return the rows that another session's index build has added so far; 0 if it reports none."""
    row = fetch_row(conn, "index_progress", {"pid": backend_pid})
    return int(row.tuples_done or 0) if row is not None else 0


def compose_create_index(
    column: VectorColumn,
    definition: Definition,
    relation: sql.Identifier,
    name: str,
    *,
    concurrently: bool = False,
    marker: int | None = None,
) -> sql.Composed:
    """Compose the CREATE INDEX statement of a definition.

    With a `marker`, a number below the dimensions, the index is partial on `vector_dims(...) > marker`. Every
    row meets that, but the planner uses the index only for statements with the same condition.
    Where the column is untyped, the index is over its cast.
    """
    schema, width = sql.Identifier(column.extension_schema), sql.Literal(column.dimensions)
    element_type = column.vector_type if definition.form == "plain" else "halfvec"
    bits = definition.form == "bits"
    operator_class = "bit_hamming_ops" if bits else f"{element_type}_{column.metric}_ops"
    expression = "cast" if column.untyped and definition.form == "plain" else definition.form
    statement = sql.SQL("CREATE INDEX {}{} ON {} USING {} ({} {}.{}) WITH ({})").format(
        sql.SQL("CONCURRENTLY " if concurrently else ""),
        sql.Identifier(name),
        relation,
        sql.SQL("hnsw" if definition.method == "hnsw" else "ivfflat"),
        trusted(_EXPRESSIONS[expression]).format(
            column=column.vector, schema=schema, width=width, type=column.type_name
        ),
        schema,
        sql.Identifier(operator_class),
        _compose_parameters(definition),
    )
    if marker is None:
        return statement
    return statement + sql.SQL(" WHERE {}.vector_dims({}) > {}").format(
        schema, column.vector, sql.Literal(marker)
    )


def _compose_parameters(definition: Definition) -> sql.Composed:
    names = ("m", "ef_construction") if definition.method == "hnsw" else ("lists",)
    return sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(getattr(definition, name)))
        for name in names
    )
