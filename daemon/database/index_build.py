"""Build an HNSW or IVFFlat index, with the progress that the server reports to a second connection."""

from __future__ import annotations

import threading
from contextlib import suppress
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg import sql

from vectuned.daemon.console import Console
from vectuned.learning.advisor import Definition
from vectuned.learning.model.column import VectorColumn
from vectuned.sql.files import trusted
from vectuned.sql.rows import fetch_row

_POLL_SECONDS: Final = 0.1  # between two looks at the progress
_EXPRESSIONS: Final = {
    "plain": "{column}",
    "halfvec": "({column}::{schema}.halfvec({width}))",
    "bits": "({schema}.binary_quantize({column})::bit({width}))",
}
"""What is indexed, by the form of an index definition."""


def build_with_progress(
    conn: psycopg.Connection[Any],
    conninfo: str,
    statement: sql.Composed,
    label: str,
    total: int,
    console: Console,
) -> float:
    """Build an index over about `total` rows through `conn`, and return the seconds it took.

    Any interruption, such as Ctrl-C, cancels the statement first. If this process dies, the server notices
    within a second, where its operating system allows that check, and stops building.
    """
    errors: list[BaseException] = []

    def run() -> None:
        try:
            conn.execute(statement)
        except BaseException as error:  # the waiting thread raises it again
            errors.append(error)

    with suppress(psycopg.Error):
        conn.execute("SET client_connection_check_interval = '1s'")
    worker = threading.Thread(target=run, name="create-index")
    with psycopg.connect(conninfo, autocommit=True) as watcher, console.progress(label, total) as progress:
        started = monotonic()
        worker.start()
        try:
            while worker.is_alive():
                worker.join(_POLL_SECONDS)
                if done := read_index_progress(watcher, conn.info.backend_pid):
                    progress(done)
        except BaseException:
            conn.cancel_safe()
            worker.join()
            raise
        seconds = monotonic() - started
    if errors:
        raise errors[0]
    return seconds


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
    """
    schema, width = sql.Identifier(column.extension_schema), sql.Literal(column.dimensions)
    element_type = column.vector_type if definition.form == "plain" else "halfvec"
    bits = definition.form == "bits"
    operator_class = "bit_hamming_ops" if bits else f"{element_type}_{column.metric}_ops"
    statement = sql.SQL("CREATE INDEX {}{} ON {} USING {} ({} {}.{}) WITH ({})").format(
        sql.SQL("CONCURRENTLY " if concurrently else ""),
        sql.Identifier(name),
        relation,
        sql.SQL("hnsw" if definition.method == "hnsw" else "ivfflat"),
        trusted(_EXPRESSIONS[definition.form]).format(column=column.vector, schema=schema, width=width),
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
