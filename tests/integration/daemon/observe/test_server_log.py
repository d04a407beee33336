"""The daemon's job with `observe.log = "server"`: the server's own log, read through the connection."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.integration.daemon.observe.test_observe import PLAIN, SEARCH, calls, fill
from tests.integration.embedded_helpers import FAST, copy_home, eventually, open_folder

from vectuned.config.errors import VectunedError
from vectuned.config.sections import ObserveSettings
from vectuned.daemon.observe.job import SERVER, ObserveJob
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.sql.install import migrate

Connection = psycopg.Connection[Any]

SETTINGS = {
    **FAST,
    "logging_collector": "on",
    "log_destination": "stderr,jsonlog",
    "log_directory": "log",
    "log_filename": "postgresql-%Y-%m-%d_%H%M%S.log",
    "log_min_duration_sample": "0",
    "log_statement_sample_rate": "1",
    "log_parameter_max_length": "-1",
}


@pytest.fixture
def server() -> Iterator[Connection]:
    """A server that logs every statement, with a tuned table; the connection is its owner's."""
    with (
        open_folder() as folder,
        EmbeddedServer(copy_home(folder), settings=SETTINGS) as running,
        psycopg.connect(running.dsn, autocommit=True) as conn,
    ):
        conn.execute("CREATE EXTENSION vector")
        migrate(conn)
        fill(conn)
        conn.execute("SELECT vectuned.enable('docs', 'embedding')")
        yield conn


def send(conn: Connection, count: int, statement: str, seed: int) -> None:
    """Send an application's searches, with their values bound by the server."""
    with (
        psycopg.connect(conn.info.dsn, autocommit=True) as application,
        psycopg.RawCursor(application) as cursor,
    ):
        for _, values in calls(count, statement, seed=seed):
            cursor.execute(statement.replace("$1", "$1::text::vector"), values)


def stored(conn: Connection) -> int:
    (row,) = conn.execute("SELECT count(*) FROM vectuned.trajectory WHERE source = 'log'").fetchall()
    return int(row[0])


def test_job_reads_the_log_of_the_server_across_rotation_and_restart(
    server: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="vectuned")
    job = ObserveJob(server, ObserveSettings(log=SERVER))

    def has_stored(count: int, job: ObserveJob = job) -> bool:
        job.run()
        return stored(server) >= count

    send(server, 20, SEARCH, seed=2)
    assert eventually(lambda: has_stored(20))
    server.execute("SELECT pg_sleep(1.1)")  # the name of a log has the second
    server.execute("SELECT pg_rotate_logfile()")
    send(server, 10, PLAIN, seed=3)
    assert eventually(lambda: has_stored(30))
    job.close()
    # After a restart of the daemon no call is read twice.
    send(server, 5, SEARCH, seed=4)
    again = ObserveJob(server, ObserveSettings(log=SERVER))
    assert eventually(lambda: has_stored(35, again))
    again.run()
    again.close()
    rows = server.execute(
        "SELECT shape, count(*) FROM vectuned.trajectory WHERE source = 'log' GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert rows == [("(t.category = $1)", 25), (None, 10)]
    assert "the server's log lacks" not in caplog.text


def test_job_reads_the_log_of_the_server_with_the_rights_it_names(server: Connection) -> None:
    server.execute("CREATE ROLE tuner LOGIN")
    server.execute("GRANT ALL ON ALL TABLES IN SCHEMA vectuned TO tuner")
    server.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA vectuned TO tuner")
    server.execute("GRANT USAGE ON SCHEMA vectuned TO tuner")
    server.execute("GRANT SELECT ON docs TO tuner")
    send(server, 5, SEARCH, seed=2)
    dsn = make_conninfo(server.info.dsn, user="tuner")
    with psycopg.connect(dsn, autocommit=True) as reader:
        with pytest.raises(VectunedError, match="GRANT pg_monitor to this role") as refused:
            ObserveJob(reader, ObserveSettings(log=SERVER)).run()
        assert "pg_stat_file(text, boolean)" in str(refused.value)
        server.execute("GRANT pg_monitor TO tuner")
        server.execute(
            "GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean), "
            "pg_stat_file(text, boolean) TO tuner"
        )
        job = ObserveJob(reader, ObserveSettings(log=SERVER))

        def has_stored() -> bool:
            job.run()
            return stored(server) == 5

        assert eventually(has_stored)
        job.close()
