"""No lock or snapshot of ours is held for long once another session waits for it."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from tests.integration.embedded_helpers import eventually
from tests.integration.table_helpers import Connection, clustered, enable, make, one, search, text

from vectuned.config.settings import Settings, load_settings
from vectuned.daemon.database.session import in_snapshot, open_session, snapshot
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.trajectory import claim_pending, release_pending
from vectuned.learning.oversight.promises import check_promises
from vectuned.learning.policy.choice import choose_candidate
from vectuned.learning.replay.lock_watch import LockWaitError, LockWatch

DIMENSIONS = 16
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"
DEADLINE = 300.0  # seconds after which a test gives up; it ends as soon as what it waits for has happened


def settings() -> Settings:
    return load_settings(None, {}, {})


def table(conn: Connection, searches: int) -> None:
    make(conn, clustered(800, DIMENSIONS, seed=1))
    enable(conn, sample_rate=1.0, min_samples=20)
    for query in clustered(searches, DIMENSIONS, seed=2):
        search(conn, query)


class Statement(threading.Thread):
    """A statement of another session; `ended` is set once it is done."""

    def __init__(self, dsn: str, statement: str) -> None:
        super().__init__(daemon=True)
        self.ended = threading.Event()
        self._dsn, self._statement = dsn, statement

    def run(self) -> None:
        with psycopg.connect(self._dsn, autocommit=True) as other:
            other.execute(self._statement.encode())
        self.ended.set()


class Waiters:
    """An ALTER TABLE that waits for a pass, and a search of the application that waits behind it.

    `progress` starts both after the first search of a pass, and lets the others take a second each until
    both are done; `done` is the number of searches replayed by then.
    """

    def __init__(self, dsn: str, statement: str = "ALTER TABLE items ADD COLUMN note text") -> None:
        query = text(clustered(1, DIMENSIONS, seed=3)[0])
        self.statements = [
            Statement(dsn, statement),
            Statement(dsn, f"SELECT id FROM items ORDER BY embedding <=> '{query}' LIMIT 5"),
        ]
        self.done: int | None = None
        self._looker = psycopg.connect(dsn, autocommit=True)

    def progress(self, done: int) -> None:
        if done == 1:
            for number, statement in enumerate(self.statements, start=1):
                statement.start()
                self._until(lambda waiting=number: one(self._looker, WAITING) >= waiting)
        elif self.done is None:
            time.sleep(1.0)
            if all(statement.ended.is_set() for statement in self.statements):
                self.done = done

    def join(self) -> None:
        for statement in self.statements:
            assert statement.ended.wait(DEADLINE)
        self._looker.close()

    def _until(self, condition: object) -> None:
        assert callable(condition)
        deadline = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_replay_gives_way_to_alter_table_and_goes_on(conn: Connection, database: str) -> None:
    table(conn, 25)
    worker = Worker(conn, settings())
    worker.drain()
    (tuned,) = worker.columns()
    waiters = Waiters(database)
    assert worker.replay(tuned, 25, waiters.progress) == 25
    waiters.join()
    # The first pass has 20 searches at most; the table was altered before it could end.
    assert waiters.done is not None
    assert waiters.done < 20
    # Nothing is lost, and nothing is counted twice.
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 25
    assert one(conn, "SELECT count(DISTINCT query_id) FROM vectuned.recall_check") == 25
    assert one(conn, "SELECT count(*) FROM vectuned.recall_check") == 25
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE replayed_at IS NULL") == 0


def test_replay_gives_way_to_create_index_concurrently(conn: Connection, database: str) -> None:
    table(conn, 20)
    worker = Worker(conn, settings())
    worker.drain()
    (tuned,) = worker.columns()
    waiters = Waiters(database, "CREATE INDEX CONCURRENTLY ON items ((id + 1))")
    waiters.statements.pop()  # a search does not wait behind it
    assert worker.replay(tuned, 20, waiters.progress) == 20
    waiters.join()
    assert waiters.done is not None
    assert waiters.done < 20


def test_snapshot_cancels_a_long_statement_for_a_session_that_waits(conn: Connection, database: str) -> None:
    table(conn, 0)
    alter = Statement(database, "ALTER TABLE items ADD COLUMN note text")

    def work() -> None:
        with snapshot(conn):
            conn.execute("SELECT count(*) FROM items")
            alter.start()
            conn.execute("SELECT pg_sleep(%s)", (DEADLINE,))

    with pytest.raises(LockWaitError, match="waits for a lock"):
        work()
    assert alter.ended.wait(DEADLINE)
    assert one(conn, "SELECT 1") == 1


def test_in_snapshot_starts_again_after_giving_way(conn: Connection, database: str) -> None:
    table(conn, 0)
    waiting = [Statement(database, f"ALTER TABLE items ADD COLUMN note_{n} text") for n in range(2)]
    begun = list(waiting)

    def work(_: LockWatch) -> int:
        count: int = one(conn, "SELECT count(*) FROM items")
        if begun:
            begun.pop().start()
            conn.execute("SELECT pg_sleep(%s)", (DEADLINE,))
        return count

    pauses: list[float] = []
    assert in_snapshot(conn, work, pauses.append) == 800
    assert pauses == [1.0, 2.0]
    assert all(each.ended.wait(DEADLINE) for each in waiting)


def test_snapshot_without_a_waiting_session_is_left_alone(conn: Connection, database: str) -> None:
    table(conn, 0)
    with snapshot(conn):
        conn.execute("SELECT count(*) FROM items")
        with psycopg.connect(database, autocommit=True) as other:
            other.execute("INSERT INTO items SELECT id + 1000, embedding FROM items")
            conn.execute("SELECT pg_sleep(2.5)")  # two looks
        assert one(conn, "SELECT count(*) FROM items") == 800


def test_two_workers_replay_different_searches(conn: Connection, database: str) -> None:
    table(conn, 40)
    worker = Worker(conn, settings())
    worker.drain()
    (tuned,) = worker.columns()
    beside: list[int] = []

    def progress(done: int) -> None:
        if done == 1:  # as auto_tune does beside the daemon's pass
            with open_session(database) as other:
                beside.append(Worker(other, settings()).replay(tuned, 15))

    assert worker.replay(tuned, 20, progress) == 20
    assert beside == [15]
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 35
    assert one(conn, "SELECT count(DISTINCT query_id) FROM vectuned.recall_check") == 35
    assert one(conn, "SELECT count(*) FROM vectuned.recall_check") == 35


def test_searches_claimed_by_a_session_that_has_ended_are_replayed(conn: Connection, database: str) -> None:
    table(conn, 12)
    worker = Worker(conn, settings())
    worker.drain()
    (tuned,) = worker.columns()
    with open_session(database) as other:
        assert len(claim_pending(other, tuned.column, 10)) == 10
        assert len(claim_pending(other, tuned.column, 12)) == 12  # its own ones again
        assert len(claim_pending(conn, tuned.column, 10)) == 0
        release_pending(other, tuned.column)
        assert len(claim_pending(conn, tuned.column, 5)) == 5
        assert len(claim_pending(other, tuned.column, 12)) == 7
    assert eventually(lambda: len(claim_pending(conn, tuned.column, 12)) == 12)
    assert worker.replay(tuned, 12) == 12


def test_alarm_and_enable_do_not_deadlock(conn: Connection, database: str) -> None:
    table(conn, 30)
    worker = Worker(conn, settings())
    worker.drain()
    worker.replay_all()
    assert worker.learn_all() == 1
    (tuned,) = worker.columns()
    conn.execute("DELETE FROM vectuned.recall_check")
    conn.execute(
        "INSERT INTO vectuned.recall_check "
        "(column_id, query_id, recorded_at, k_class, shape, version, recall) "
        "SELECT 1, gen_random_uuid(), clock_timestamp(), 10, '', 1, 0.1 FROM generate_series(1, 60)"
    )
    with psycopg.connect(database) as other, ThreadPoolExecutor(1) as pool:
        other.execute("SELECT pg_advisory_xact_lock(hashtextextended('vectuned.enable', 0))")
        checking = pool.submit(check_promises, conn, tuned, worker.limits)
        with psycopg.connect(database, autocommit=True) as looker:
            assert eventually(lambda: one(looker, WAITING) == 1)
        # What vectuned.enable does next, then vectuned.disable.
        other.execute("UPDATE vectuned.tuned_column SET sample_rate = 0.5")
        other.execute("DELETE FROM vectuned.promise")
        other.commit()
        assert checking.result(60) == 1


def test_publish_holds_no_lock_while_it_measures(
    conn: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(conn, 30)
    worker = Worker(conn, settings())
    worker.drain()
    worker.replay_all()
    enabled = Statement(database, "SELECT vectuned.enable('items', 'embedding', target_recall => 0.9)")

    def measure(*arguments: Any) -> Any:
        if not enabled.ended.is_set():
            enabled.start()
        assert enabled.ended.wait(DEADLINE)  # while searches are measured
        return choose_candidate(*arguments)

    monkeypatch.setattr("vectuned.learning.policy.publication.choose_candidate", measure)
    assert worker.learn_all() == 1
    assert one(conn, "SELECT target_recall FROM vectuned.tuned_column") == 0.9


def test_passes_that_give_way_again_and_again_become_a_failure_with_a_pause(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    table(conn, 5)
    worker = Worker(conn, settings())
    worker.drain()

    def give_way_at_once(*_: object, **__: object) -> int:
        raise LockWaitError("Another session waits for a lock that this work holds.")

    with monkeypatch.context() as patched:
        patched.setattr("vectuned.daemon.work.worker.replay", give_way_at_once)
        assert [worker.replay_all(), worker.replay_all()] == [0, 0]
        assert one(conn, "SELECT count(*) FROM vectuned.column_failure") == 0
        assert worker.replay_all() == 0
    failure = one(conn, "SELECT error FROM vectuned.column_failure WHERE job = 'replay'")
    assert "gave way 3 times in a row" in failure
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE claimed_by IS NOT NULL") == 0
    assert worker.column_jobs.run("replay", worker.columns()[0], lambda tuned: worker.replay(tuned, 5)) == 5
    assert one(conn, "SELECT count(*) FROM vectuned.column_failure") == 0
