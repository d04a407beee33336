"""What the commands of the entity store share: connection, tuning and progress bars."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from pgvector.psycopg import register_vector

from vectuned.daemon.cli.command import Connection, Context
from vectuned.daemon.console import Console
from vectuned.daemon.database.connect import connect
from vectuned.daemon.database.index_build import read_index_progress
from vectuned.sql.entity_loader import entity_queries
from vectuned.sql.install import migrate
from vectuned.sql.rows import execute, fetch_value

# Seconds between two looks at a running index build: often enough for a bar that moves.
_POLL_SECONDS: Final = 0.25


@contextmanager
def connect_installed(context: Context) -> Iterator[Connection]:
    """Yield a connection to the chosen database, after installing vectuned there if it is missing."""
    with context.connection() as conn:
        if not fetch_value(conn, "installed"):
            migrate(conn)
            context.console.say(f"Installed vectuned in database {conn.info.dbname}.")
        register_vector(conn)
        yield conn


def enable_tuning(conn: psycopg.Connection[Any]) -> None:
    """Tune the store's embeddings, unless vectuned knows the column: it may have been disabled on purpose."""
    if not fetch_value(conn, entity_queries()["tuning_known"]):
        execute(conn, entity_queries()["enable_tuning"])


@contextmanager
def progress_stages(console: Console, conn: psycopg.Connection[Any]) -> Iterator[Callable[[str, int], Any]]:
    """Yield a function that opens the progress bar of a stage, given its label and total.

    The bar of a stage that builds an index moves by itself: a second connection reads the progress from the
    server, since `conn` is busy building.
    """
    with connect(conn.info.dsn) as watcher:

        @contextmanager
        def stage(label: str, total: int) -> Iterator[Callable[[int], None]]:
            with console.progress(label, total) as progress:
                finished = threading.Event()
                pid = conn.info.backend_pid

                def follow() -> None:
                    while not finished.wait(_POLL_SECONDS):
                        if done := read_index_progress(watcher, pid):
                            progress(done)

                thread = threading.Thread(target=follow, name="index-progress")
                try:
                    if label.startswith("indexing"):
                        thread.start()
                    yield progress
                finally:
                    finished.set()
                    if thread.is_alive():
                        thread.join()

        yield stage
