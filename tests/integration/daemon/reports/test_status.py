"""The status as it is watched; its figures are tested with the SQL that computes them."""

from __future__ import annotations

import json

import pytest
from tests.integration.table_helpers import Connection

from vectuned.config.errors import DatabaseUnavailableError
from vectuned.daemon.console import Console
from vectuned.daemon.database.session import open_session
from vectuned.daemon.reports import status


def test_watch_shows_the_status_and_survives_a_lost_connection(
    learned: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[Connection | None] = []

    def open_conn() -> Connection:
        if len(opened) == 1:
            opened.append(None)
            raise DatabaseUnavailableError("The database is starting.")
        conn = open_session(learned.info.dsn)
        opened.append(conn)
        if len(opened) == 1:
            learned.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))
        return conn

    status.watch(Console(as_json=True), open_conn, 0.01, times=3)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    fields = ["columns", "daemon", "jobs", "observed", "adopted"]
    assert [list(line)[1:] for line in lines] == [["error"], ["error"], fields]
    assert lines[2]["columns"][0]["relation"] == "items"
    status.watch(Console(), lambda: open_session(learned.info.dsn), 0.01, times=2)
    assert capsys.readouterr().out.count("items.embedding: serving") == 2
