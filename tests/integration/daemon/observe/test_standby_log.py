"""Searches served by a hot standby are observed in its log, and learned from on the primary."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.integration.daemon.observe.test_observe import PLAIN, SEARCH, calls, fill
from tests.integration.embedded_helpers import eventually
from tests.integration.standby_helpers import fresh_database, primary_and_standby
from tests.integration.table_helpers import enable, one

from vectuned.daemon.cli.main import main

LOGGING = {
    "logging_collector": "on",
    "log_destination": "jsonlog",
    "log_directory": "log",
    "log_min_duration_sample": "0",
    "log_statement_sample_rate": "1",
    "log_parameter_max_length": "-1",
}
CALLS = 60  # searches sent to the standby


def test_searches_of_a_standby_are_observed_by_its_log(capsys: pytest.CaptureFixture[str]) -> None:
    with primary_and_standby() as (primary, standby), fresh_database(primary) as name:
        dsn = make_conninfo(primary.dsn, dbname=name)
        standby.stop()
        standby.start(LOGGING)

        def observe() -> Any:
            capsys.readouterr()
            assert main(["observe", "--dsn", dsn, "--json", str(standby.log_folder)]) == 0
            return json.loads(capsys.readouterr().out)

        def is_there() -> bool:
            with psycopg.connect(standby.dsn(name), autocommit=True) as conn:
                return bool(one(conn, "SELECT count(*) FROM vectuned.tuned_column"))

        with psycopg.connect(dsn, autocommit=True) as conn:
            fill(conn)
            enable(conn, "docs", min_samples=20)
            assert eventually(is_there)
            with (
                psycopg.connect(standby.dsn(name), autocommit=True) as application,
                psycopg.RawCursor(application) as cursor,
            ):
                assert one(application, "SELECT pg_is_in_recovery()")
                for statement in (SEARCH, PLAIN):
                    for _, values in calls(CALLS, statement):
                        cursor.execute(statement.replace("$1", "$1::text::vector"), values)
            report = observe()
            assert report["stored"] == 2 * CALLS
            assert observe()["stored"] == 0  # no call is read twice
            stored = conn.execute(
                "SELECT source, count(*), count(DISTINCT shape) FROM vectuned.trajectory GROUP BY source"
            ).fetchall()
            assert stored == [("log", 2 * CALLS, 1)]
            assert main(["learn", "--once", "--dsn", dsn]) == 0
            assert one(conn, "SELECT count(*) FROM vectuned.replay") == 2 * CALLS
            counted = conn.execute("SELECT calls FROM vectuned.statement").fetchall()
            assert counted == [(CALLS,), (CALLS,)]
            # Their answers are not known, so nothing is promised from them.
            assert one(conn, "SELECT count(*) FROM vectuned.recall_check") == 0
