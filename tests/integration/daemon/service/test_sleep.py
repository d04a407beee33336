"""Sleep: an idle daemon makes no statement, and whatever happens wakes it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from pgvector.psycopg import register_vector
from tests.integration.daemon_helpers import Daemon
from tests.integration.embedded_helpers import FAST, copy_home, eventually, open_folder
from tests.integration.table_helpers import Connection, clustered, enable, make, one, search

from vectuned.config.settings import Settings, load_settings
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.daemon.service import sleep
from vectuned.daemon.service.leader import Leader
from vectuned.sql.install import migrate

DIMENSIONS = 8  # few, so that the searches take no time
# Intervals at which an awake daemon makes many statements a second.
EAGER: dict[str, Any] = {
    "schedule__drain_seconds": 0.1,
    "schedule__replay_seconds": 0.2,
    "schedule__learn_seconds": 0.3,
    "schedule__request_seconds": 0.1,
    "schedule__refresh_seconds": 0.2,
}
SESSIONS = """
    SELECT pid, query_start, state_change, state FROM pg_stat_activity
    WHERE datname = %s AND application_name = 'vectuned' ORDER BY pid"""


@pytest.fixture
def daemon(conn: Connection, database: str) -> Iterator[Daemon]:
    """A daemon that sleeps, with one tuned column."""
    make(conn, clustered(200, DIMENSIONS, seed=1))
    enable(conn, sample_rate=1.0)
    with Daemon("--dsn", database, **EAGER, schedule__idle_seconds=1) as running:
        running.logs("asleep: nothing to do")
        yield running


def transactions(admin: Connection, database: str) -> int:
    counted = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = %s"
    return int(one(admin, counted, database))


def test_idle_daemon_makes_no_statement(server: EmbeddedServer, conn: Connection, daemon: Daemon) -> None:
    database = conn.info.dbname
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        before = admin.execute(SESSIONS, (database,)).fetchall()
        assert len(before) >= 3
        assert {state for *_, state in before} == {"idle"}
        # What the sessions did last is counted up to 10 s later.
        time.sleep(12)
        counted = transactions(admin, database)
        time.sleep(4)
        # Forty rounds of an awake daemon.
        assert admin.execute(SESSIONS, (database,)).fetchall() == before
        assert transactions(admin, database) - counted <= 5
    assert "awake" not in daemon.log


def test_a_recorded_search_wakes_the_daemon(conn: Connection, daemon: Daemon) -> None:
    for seed in (2, 3):
        slept = daemon.log.count("asleep")
        search(conn, clustered(1, DIMENSIONS, seed=seed)[0])
        assert eventually(lambda: one(conn, "SELECT count(*) = 0 FROM vectuned.inbox"))
        daemon.logs("asleep", count=slept + 1)
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 2
    daemon.stop()


def test_requests_and_new_columns_and_feedback_wake_the_daemon(conn: Connection, daemon: Daemon) -> None:
    make(conn, clustered(100, DIMENSIONS, seed=2), table="others")
    enable(conn, "others", sample_rate=1.0)
    daemon.logs("awake")
    daemon.logs("asleep", count=2)
    search(conn, clustered(1, DIMENSIONS, seed=2)[0])
    daemon.logs("asleep", count=3)
    conn.execute("SELECT vectuned.record_feedback(query_id, result_ids[1:1]) FROM vectuned.trajectory")
    daemon.logs("asleep", count=4)
    conn.execute("SELECT vectuned.benchmark_recall('items', sample_queries => 20)")
    assert eventually(lambda: one(conn, "SELECT state <> 'queued' FROM vectuned.requests"))


def test_a_search_that_is_not_committed_wakes_nothing_and_is_not_lost(
    database: str, conn: Connection, daemon: Daemon
) -> None:
    with psycopg.connect(database) as other:
        search(other, clustered(1, DIMENSIONS, seed=2)[0])
        time.sleep(1)
        assert "awake" not in daemon.log
        other.commit()
    daemon.logs("awake")
    assert eventually(lambda: one(conn, "SELECT count(*) = 1 FROM vectuned.replay"))


def test_a_session_that_ends_during_sleep_is_opened_again(conn: Connection, daemon: Daemon) -> None:
    conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'vectuned'"
    )
    daemon.logs("lock is lost")
    search(conn, clustered(1, DIMENSIONS, seed=2)[0])
    daemon.logs("watching 1 column", count=2, seconds=120)
    assert eventually(lambda: one(conn, "SELECT count(*) = 1 FROM vectuned.replay"))
    daemon.logs("asleep", count=2)
    daemon.stop()


def test_an_awake_daemon_wants_no_notifications(conn: Connection, database: str) -> None:
    make(conn, clustered(200, DIMENSIONS, seed=1))
    enable(conn, sample_rate=1.0)
    conn.execute("SELECT vectuned._want_wake(true)")  # as a daemon that was killed asleep left it
    conn.execute("LISTEN vectuned_wake")
    with Daemon("--dsn", database, **EAGER, schedule__idle_seconds=0) as running:
        running.logs("watching 1 column")
        assert eventually(lambda: one(conn, "SELECT last_value = 1 FROM vectuned.wake_wanted"))
        search(conn, clustered(1, DIMENSIONS, seed=2)[0])
        assert list(conn.notifies(timeout=0.5)) == []
        running.stop()


def test_recording_never_fails_a_transaction_that_is_prepared() -> None:
    with (
        open_folder() as folder,
        EmbeddedServer(copy_home(folder), settings={**FAST, "max_prepared_transactions": "2"}) as server,
        psycopg.connect(server.dsn, autocommit=True) as conn,
    ):
        conn.execute("CREATE EXTENSION vector")
        register_vector(conn)
        migrate(conn)
        make(conn, clustered(200, DIMENSIONS, seed=1))
        enable(conn, sample_rate=1.0)
        conn.execute("SELECT vectuned._want_wake(true)")
        conn.execute("BEGIN")
        search(conn, clustered(1, DIMENSIONS, seed=2)[0])
        conn.execute("PREPARE TRANSACTION 'one'")
        conn.execute("COMMIT PREPARED 'one'")
        assert one(conn, "SELECT count(*) FROM vectuned.inbox") == 1
        # There the daemon looks by itself, every five minutes.
        jobs, now = FakeJobs(), [0.0]
        leader, dozing = sleeper(server.dsn, jobs, now)
        jobs.quiet = 301.0
        dozing.step(SETTINGS)
        assert not dozing.asleep  # the search above waits
        conn.execute("DELETE FROM vectuned.inbox")
        dozing.step(SETTINGS)
        assert dozing.asleep
        now[0] = sleep.LONGEST_DEAF_SLEEP
        dozing.step(SETTINGS)
        assert not dozing.asleep
        leader.close()


SETTINGS = load_settings(None, {"schedule.idle_seconds": 300}, {})


@dataclass
class FakeJobs:
    """Jobs that were quiet for as long as a test says."""

    quiet: float = 0.0
    paused: bool = False

    def quiet_seconds(self) -> float:
        return self.quiet

    def note_work(self) -> None:
        self.quiet = 1.0

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False


def sleeper(dsn: str, jobs: FakeJobs, now: list[float], settings: Settings = SETTINGS) -> Any:
    leader = Leader(dsn, settings)
    assert leader.acquire()
    made = sleep.Sleep(leader, jobs, clock=lambda: now[0])
    made.begin()
    return leader, made


def test_step_arms_before_it_sleeps_and_looks_once_a_day(conn: Connection, database: str) -> None:
    make(conn, clustered(200, DIMENSIONS, seed=1))
    enable(conn, sample_rate=1.0)
    jobs, now = FakeJobs(), [0.0]
    leader, daemon = sleeper(database, jobs, now)
    try:
        for quiet, wanted, asleep in ((149, 1, False), (151, 2, False), (299, 2, False), (300, 2, True)):
            jobs.quiet = quiet
            daemon.step(SETTINGS)
            assert one(conn, "SELECT last_value FROM vectuned.wake_wanted") == wanted
            assert (daemon.asleep, jobs.paused) == (asleep, asleep)
        now[0] = sleep.LONGEST_SLEEP - 1
        daemon.step(SETTINGS)
        assert daemon.asleep
        now[0] = sleep.LONGEST_SLEEP
        daemon.step(SETTINGS)
        assert (daemon.asleep, jobs.paused) == (False, False)
        # The clock woke it: a minute of quiet is enough, counted from the end of the latest work.
        jobs.quiet = sleep.CHECK_SECONDS
        daemon.step(SETTINGS)
        assert daemon.asleep
        search(conn, clustered(1, DIMENSIONS, seed=2)[0])
        assert eventually(lambda: (daemon.step(SETTINGS), not daemon.asleep)[1])
        conn.execute("DELETE FROM vectuned.inbox")
        jobs.quiet = 299
        daemon.step(SETTINGS)
        assert not daemon.asleep
        daemon.step(load_settings(None, {"schedule.idle_seconds": 0}, {}))
        assert one(conn, "SELECT last_value FROM vectuned.wake_wanted") == 1
    finally:
        leader.close()


@pytest.mark.parametrize("watched", ["observe.log", "export.import_folder"])
def test_a_daemon_that_watches_files_does_not_sleep(conn: Connection, database: str, watched: str) -> None:
    chosen = load_settings(None, {"schedule.idle_seconds": 300, watched: "/var/log/any"}, {})
    jobs = FakeJobs(quiet=1000)
    leader, daemon = sleeper(database, jobs, [0.0], chosen)
    daemon.step(chosen)
    assert not daemon.asleep
    daemon.step(SETTINGS)  # files are not watched any more
    assert daemon.asleep
    leader.close()


def test_absence_grows_until_something_happens(conn: Connection, database: str) -> None:
    jobs, now = FakeJobs(quiet=300), [0.0]
    away = []
    leader, daemon = sleeper(database, jobs, now)
    assert daemon.absence() == 0  # a session that ends while awake is opened again at once
    for _ in range(6):
        jobs.quiet = 300
        daemon.step(SETTINGS)
        assert daemon.asleep
        conn.execute("SELECT pg_terminate_backend(%s)", (leader.lock_session.info.backend_pid,))
        assert eventually(lambda: lost(daemon))
        away.append(daemon.absence())
        leader.close()
        assert leader.acquire()
        daemon.begin()
    assert away == [10, 40, 160, 640, 900, 900]
    conn.execute("NOTIFY vectuned_wake")
    assert eventually(lambda: (daemon.step(SETTINGS), jobs.quiet == 1)[1])
    jobs.quiet = 300
    daemon.step(SETTINGS)
    assert (daemon.asleep, daemon.absence()) == (True, 10)
    leader.close()


def lost(daemon: sleep.Sleep) -> bool:
    try:
        daemon.step(SETTINGS)
    except psycopg.OperationalError:
        return True
    return False
