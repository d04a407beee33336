"""Building indexes, with progress as the server tells it on a second connection."""

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
from vectuned.sql.files import queries, trusted

_POLL_SECONDS: Final = 0.1


def build(
    conn: psycopg.Connection[Any],
    conninfo: str,
    statement: sql.Composed,
    label: str,
    total: int,
    console: Console,
) -> float:
    """Build an index over about `total` rows through `conn`, and say how many seconds it took.

    Whatever interrupts it, Ctrl-C as well, cancels the statement first. Should this process die, the server
    notices within a second, where its system can tell, and gives up.
    """
    failed: list[BaseException] = []

    def run() -> None:
        try:
            conn.execute(statement)
        except BaseException as error:  # raised again by the thread that waits
            failed.append(error)

    with suppress(psycopg.Error):
        conn.execute("SET client_connection_check_interval = '1s'")
    worker = threading.Thread(target=run, name="create-index")
    with psycopg.connect(conninfo, autocommit=True) as watcher, console.progress(label, total) as progress:
        began = monotonic()
        worker.start()
        try:
            while worker.is_alive():
                worker.join(_POLL_SECONDS)
                row = watcher.execute(queries()["index_progress"], {"pid": conn.info.backend_pid}).fetchone()
                if row is not None and row[1]:
                    progress(int(row[1]))
        except BaseException:
            conn.cancel_safe()
            worker.join()
            raise
        seconds = monotonic() - began
    if failed:
        raise failed[0]
    return seconds


def create_statement(
    column: VectorColumn,
    definition: Definition,
    relation: sql.Identifier,
    name: str,
    *,
    concurrently: bool = False,
    marker: int | None = None,
) -> sql.Composed:
    """Write the statement that builds an index.

    With a `marker`, a number below the dimensions, only statements that ask for it by a condition on
    vector_dims, which every row meets, can take it.
    """
    schema, width = sql.Identifier(column.extension_schema), sql.Literal(column.dimensions)
    named = {"column": column.vector, "schema": schema, "width": width}
    expression = {
        "plain": "{column}",
        "halfvec": "({column}::{schema}.halfvec({width}))",
        "bits": "({schema}.binary_quantize({column})::bit({width}))",
    }[definition.form]
    kind = column.vector_type if definition.form == "plain" else "halfvec"
    operators = "bit_hamming_ops" if definition.form == "bits" else f"{kind}_{column.metric}_ops"
    statement = sql.SQL("CREATE INDEX {}{} ON {} USING {} ({} {}.{}) WITH ({})").format(
        sql.SQL("CONCURRENTLY " if concurrently else ""),
        sql.Identifier(name),
        relation,
        sql.SQL("hnsw" if definition.method == "hnsw" else "ivfflat"),
        trusted(expression).format(**named),
        schema,
        sql.Identifier(operators),
        _options(definition),
    )
    if marker is None:
        return statement
    return statement + sql.SQL(" WHERE {}.vector_dims({}) > {}").format(
        schema, column.vector, sql.Literal(marker)
    )


def _options(definition: Definition) -> sql.Composed:
    names = ("m", "ef_construction") if definition.method == "hnsw" else ("lists",)
    return sql.SQL(", ").join(
        sql.SQL("{} = {}").format(sql.Identifier(name), sql.Literal(getattr(definition, name)))
        for name in names
    )
