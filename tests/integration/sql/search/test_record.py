"""Recording: the share of searches, the path from inbox to trajectory, and that recording fails no search."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psycopg
import pytest
from tests.integration.table_helpers import (
    clustered,
    drop_day_partitions,
    enable,
    exact,
    make,
    one,
    raw,
    search,
    search_often,
    text,
)

from vectuned.learning.model.trajectory import drain
from vectuned.sql.files import queries

Connection = psycopg.Connection[Any]

VECTORS = clustered(300, 4, seed=1)
QUERY = [1.0, -1.0, 0.5, 2.0]


@pytest.fixture
def column(conn: Connection) -> int:
    """A tuned column whose searches are all recorded."""
    make(conn, VECTORS)
    return enable(conn, sample_rate=1.0)


def count(conn: Connection, table: str) -> int:
    return int(one(conn, f"SELECT count(*) FROM vectuned.{table}"))


@pytest.mark.parametrize(
    ("rate", "searches", "low", "high"),
    [(0.0, 500, 0, 0), (1.0, 500, 500, 500), (0.5, 2000, 888, 1112), (0.02, 2000, 8, 72)],
)
def test_sample_rate_is_the_share_of_searches_recorded(
    conn: Connection, rate: float, searches: int, low: int, high: int
) -> None:
    # The bounds are 5 standard deviations away: by chance this fails once in a million runs.
    make(conn, VECTORS)
    enable(conn, sample_rate=rate)
    digits = [each[-1] for each in search_often(conn, searches)]
    recorded = count(conn, "inbox")
    assert low <= recorded <= high
    assert digits.count("1") == recorded
    assert digits.count("0") == searches - recorded
    assert (
        one(conn, "SELECT count(DISTINCT query_id) FROM vectuned.inbox WHERE query_id::text LIKE '%1'")
        == recorded
    )


def test_record_holds_the_search_as_it_ran(conn: Connection, column: int) -> None:
    started = one(conn, "SELECT clock_timestamp()")
    rows = conn.execute(
        "SELECT id, distance, query_id FROM vectuned.search('items', %s, 7)", (text(QUERY),)
    ).fetchall()
    recorded = conn.execute(
        "SELECT query_id, column_id, query::text, k, access_path, ef_search, bank_version, signature, "
        "result_ids, distances, recorded_at > %s AND recorded_at < clock_timestamp(), latency_ms "
        "FROM vectuned.inbox",
        (started,),
    ).fetchone()
    assert recorded is not None
    assert recorded[:-1] == (
        rows[0][2],
        column,
        "[1,-1,0.5,2]",
        7,
        "hnsw",
        40,
        None,
        None,
        [r[0] for r in rows],
        [r[1] for r in rows],
        True,
    )
    assert 0 < recorded[-1] < 1000


def test_record_is_off_for_sessions_that_opt_out(conn: Connection, column: int) -> None:
    for value in ("off", "OFF", "false", "no", "0"):
        conn.execute(raw(f"SET vectuned.record = '{value}'"))
        search(conn, QUERY)
    assert count(conn, "inbox") == 0
    conn.execute("SET vectuned.record = 'on'")
    search(conn, QUERY)
    conn.execute("RESET vectuned.record")
    search(conn, QUERY)
    assert count(conn, "inbox") == 2


def test_record_stops_at_a_full_inbox_until_drained_and_vacuumed(conn: Connection, column: int) -> None:
    conn.execute(
        "CREATE OR REPLACE FUNCTION vectuned._inbox_bytes() RETURNS bigint LANGUAGE sql IMMUTABLE "
        "SET search_path = pg_catalog, pg_temp RETURN 60000"
    )
    digits = [each[-1] for each in search_often(conn, 2000)]
    assert digits.count("1") == count(conn, "inbox") < 2000
    assert digits[-1] == "0"
    assert search(conn, QUERY) == exact(conn, QUERY)
    assert one(conn, "SELECT pg_table_size('vectuned.inbox')") < 60000 + 3 * 8192
    recorded = digits.count("1")
    assert drain(conn) == recorded == count(conn, "trajectory")
    conn.execute(queries()["vacuum_inbox"])
    search(conn, QUERY)
    assert count(conn, "inbox") == 1


def bound(conn: Connection, size: int) -> None:
    """Set the limit of the inbox in bytes, below what the settings allow."""
    conn.execute(
        "CREATE OR REPLACE FUNCTION vectuned._inbox_bytes() RETURNS bigint LANGUAGE sql IMMUTABLE "
        f"SET search_path = pg_catalog, pg_temp RETURN {size}".encode()
    )


def test_record_goes_on_while_another_session_holds_a_snapshot(
    conn: Connection, column: int, database: str
) -> None:
    bound(conn, 150_000)
    with psycopg.connect(database) as other:
        other.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert one(other, "SELECT count(*) FROM items") == 300
        for _ in range(10):
            assert {each[-1] for each in search_often(conn, 100)} == {"1"}
            assert drain(conn) == 100
        # Rows that were drained take no space for long, although vacuum may not remove them.
        assert one(conn, "SELECT pg_table_size('vectuned.inbox')") < 150_000
    assert one(conn, "SELECT refused FROM vectuned.stats('items')") == 0


def test_searches_that_were_not_recorded_are_counted(conn: Connection, column: int, database: str) -> None:
    bound(conn, 60_000)
    digits = [each[-1] for each in search_often(conn, 500)]
    refused = digits.count("0")
    assert 0 < refused < 500
    assert one(conn, "SELECT refused FROM vectuned.stats('items')") == refused
    drain(conn)
    assert search_often(conn, 1)[0][-1] == "1"
    with psycopg.connect(database) as other:
        other.execute("LOCK TABLE vectuned.inbox IN ACCESS EXCLUSIVE MODE")
        search(conn, QUERY)
    with conn.transaction():
        for _ in range(34):
            search(conn, QUERY)
        written = one(conn, "SELECT pg_current_xact_id_if_assigned()::xid::text")
        assert one(conn, f"SELECT count(*) FROM vectuned.inbox WHERE xmin::text = '{written}'") == 32
    assert one(conn, "SELECT refused FROM vectuned.stats('items')") == refused + 3


def test_record_counts_rolled_back_searches_until_the_next_drain(conn: Connection, column: int) -> None:
    bound(conn, 60_000)
    for _ in range(20):
        with conn.transaction(force_rollback=True):
            for _ in range(32):
                search(conn, QUERY)
    assert drain(conn) == 0
    assert search_often(conn, 1)[0][-1] == "1"


def test_record_does_not_wait_for_a_locked_inbox(conn: Connection, column: int, database: str) -> None:
    with psycopg.connect(database) as other:
        other.execute("LOCK TABLE vectuned.inbox IN ACCESS EXCLUSIVE MODE")
        started = time.perf_counter()
        assert search(conn, QUERY) == exact(conn, QUERY)
        assert (
            one(conn, "SELECT right(query_id::text, 1) FROM vectuned.search('items', %s, 1)", text(QUERY))
            == "0"
        )
        assert time.perf_counter() - started < 5
    search(conn, QUERY)
    assert count(conn, "inbox") == 1


@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE vectuned.inbox CASCADE",
        "ALTER TABLE vectuned.inbox DROP COLUMN k",
        "ALTER TABLE vectuned.inbox ADD CHECK (k > 1000) NOT VALID",
        "ALTER TABLE vectuned.inbox ALTER latency_ms TYPE uuid USING gen_random_uuid()",
        "DROP FUNCTION vectuned._inbox_bytes",
    ],
)
def test_record_errors_fail_no_search(conn: Connection, column: int, damage: str) -> None:
    search(conn, QUERY)
    conn.execute(raw(damage))
    assert search(conn, QUERY) == exact(conn, QUERY)
    with conn.transaction():
        conn.execute("INSERT INTO items VALUES (1000, '[1,1,1,1]')")
        digit = one(conn, "SELECT right(query_id::text, 1) FROM vectuned.search('items', %s, 1)", text(QUERY))
        assert digit == "0"
    assert one(conn, "SELECT count(*) FROM items") == 301


def test_record_writes_with_the_transactions_own_id(conn: Connection, column: int) -> None:
    for _ in range(3):
        with conn.transaction():
            search(conn, QUERY)
            search(conn, QUERY)
            own = one(conn, "SELECT pg_current_xact_id_if_assigned()::xid::text")
            written = [row[0] for row in conn.execute("SELECT xmin::text FROM vectuned.inbox").fetchall()]
            assert written.count(own) == 2  # a subtransaction would have taken an id of its own
    assert count(conn, "inbox") == 6


def test_record_stops_after_32_searches_of_a_transaction(conn: Connection, column: int) -> None:
    with conn.transaction():
        digits = [
            one(conn, "SELECT right(query_id::text, 1) FROM vectuned.search('items', %s, 1)", text(QUERY))
            for _ in range(100)
        ]
        if conn.info.server_version >= 160000:
            subtransactions = conn.execute(
                "SELECT s.subxact_count, s.subxact_overflowed FROM pg_stat_get_backend_idset() i "
                "JOIN pg_stat_get_backend_subxact(i) s ON true WHERE pg_stat_get_backend_pid(i) = %s",
                (conn.info.backend_pid,),
            ).fetchone()
            assert subtransactions == (0, False)
    assert digits == ["1"] * 32 + ["0"] * 68
    assert count(conn, "inbox") == 32
    search(conn, QUERY)
    assert count(conn, "inbox") == 33


def test_setseed_fixes_neither_the_sample_nor_the_ids(conn: Connection) -> None:
    make(conn, VECTORS)
    enable(conn, sample_rate=0.5)
    ids = set()
    for _ in range(60):
        conn.execute("SELECT setseed(0.5)")
        ids.add(one(conn, "SELECT query_id FROM vectuned.search('items', %s, 1)", text(QUERY)))
    assert len(ids) == 60
    assert 0 < count(conn, "inbox") < 60  # by chance this fails once in 10^17 runs


def test_search_leaves_the_callers_random_numbers_alone(conn: Connection, column: int) -> None:
    conn.execute("SELECT setseed(0.5)")
    expected = [one(conn, "SELECT random()") for _ in range(3)]
    conn.execute("SELECT setseed(0.5)")
    drawn = []
    for filter_text in (None, '{"id": {"<": 50}}', None):
        drawn.append(one(conn, "SELECT random()"))
        conn.execute(
            "SELECT count(*) FROM vectuned.search('items', %s, 5, %s::jsonb)", (text(QUERY), filter_text)
        )
    assert drawn == expected


def test_record_is_rolled_back_with_its_transaction(conn: Connection, column: int) -> None:
    with conn.transaction(force_rollback=True):
        search(conn, QUERY)
    assert count(conn, "inbox") == 0


def test_drain_by_two_sessions_moves_every_row_once(conn: Connection, column: int, database: str) -> None:
    search_often(conn, 3000)
    ids = {row[0] for row in conn.execute("SELECT query_id FROM vectuned.inbox").fetchall()}

    def work() -> int:
        with psycopg.connect(database, autocommit=True) as session:
            taken = 0
            while count(session, "inbox"):
                taken += drain(session, 100)
            return taken

    def ask() -> None:
        with psycopg.connect(database, autocommit=True) as session:
            for _ in range(200):
                search(session, QUERY)

    with ThreadPoolExecutor(4) as pool:
        asking = pool.submit(ask)
        drained = [pool.submit(work) for _ in range(3)]
        asking.result()
        taken = sum(future.result() for future in drained)
    taken += drain(conn)
    assert taken == 3200 == count(conn, "trajectory")
    moved = {row[0] for row in conn.execute("SELECT query_id FROM vectuned.trajectory").fetchall()}
    assert len(moved) == 3200
    assert moved > ids


def test_drain_rolled_back_loses_nothing(conn: Connection, column: int) -> None:
    search(conn, QUERY)
    with conn.transaction(force_rollback=True):
        assert one(conn, "SELECT vectuned._drain(10)") == 1
    assert (count(conn, "inbox"), count(conn, "trajectory")) == (1, 0)


def test_drain_drops_searches_of_forgotten_columns(conn: Connection, column: int) -> None:
    make(conn, VECTORS, table="others")
    enable(conn, "others", sample_rate=1.0)
    search(conn, QUERY)
    search(conn, QUERY, relation="others")
    conn.execute("ALTER TABLE vectuned.inbox DISABLE TRIGGER ALL")
    conn.execute("CREATE TABLE public.saved AS SELECT * FROM vectuned.inbox")
    conn.execute("SELECT vectuned.disable('items', 'embedding', forget => true)")
    conn.execute("INSERT INTO vectuned.inbox SELECT * FROM saved WHERE column_id = %s", (column,))
    assert one(conn, "SELECT vectuned._drain(10)") == 2
    assert conn.execute(
        "SELECT relation::text, trajectories FROM vectuned.tuned_column c, vectuned.stats(c.relation)"
    ).fetchall() == [("others", 1)]
    assert (count(conn, "inbox"), count(conn, "trajectory")) == (0, 1)


def test_drain_drops_rows_that_no_search_recorded(conn: Connection, column: int) -> None:
    forged = (
        "SELECT vectuned._record(gen_random_uuid(), %s, %s, %s, 'hnsw', 40, NULL, NULL, '{1}', '{0.5}', 1)"
    )
    for query, k in (("[1,2,3]", 10), ("[1,2,3,4]", 0), ("[1,2,3,4]", 1001), ("[1,2,3,4]", 10)):
        assert one(conn, forged, column, query, k)
    assert one(conn, forged, 12345, "[1,2,3,4]", 10)
    assert one(conn, "SELECT vectuned._drain(10)") == 5
    assert conn.execute("SELECT query::text, k FROM vectuned.trajectory").fetchall() == [("[1,2,3,4]", 10)]


def test_partition_makes_days_ahead_and_drops_old_days(conn: Connection, column: int) -> None:
    parts = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'vectuned.trajectory'::regclass"
    assert one(conn, parts) >= 1 + 8
    drop_day_partitions(conn)
    with conn.transaction():  # in one transaction now() stands still, so midnight cannot come in between
        assert one(conn, "SELECT vectuned._partition(7, interval '30 days')") == 8
        assert one(conn, parts) == 1 + 8
        assert one(conn, "SELECT vectuned._partition(7, interval '30 days')") == 0
        assert one(conn, "SELECT vectuned._partition(9, interval '30 days')") == 2
        search(conn, QUERY)
        conn.execute("UPDATE vectuned.inbox SET recorded_at = now() - interval '40 days'")
        search(conn, QUERY)
        assert one(conn, "SELECT vectuned._drain(10)") == 2
        assert count(conn, "trajectory_default") == 1  # a day without a partition
        conn.execute(
            "CREATE TABLE vectuned.trajectory_20200101 PARTITION OF vectuned.trajectory "
            "FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')"
        )
        assert one(conn, "SELECT vectuned._partition(9, interval '30 days')") == 1
    assert one(conn, "SELECT to_regclass('vectuned.trajectory_20200101')") is None
    assert (count(conn, "trajectory_default"), count(conn, "trajectory")) == (0, 1)


@pytest.mark.parametrize("zone", ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_partition_uses_days_of_utc_in_every_time_zone(conn: Connection, column: int, zone: str) -> None:
    conn.execute(raw(f"SET timezone = '{zone}'"))
    conn.execute("SELECT vectuned._partition(20, interval '30 days')")
    search(conn, QUERY)
    conn.execute("SELECT vectuned._drain(10)")
    row = conn.execute(
        "SELECT tableoid::regclass::text, to_char(recorded_at AT TIME ZONE 'UTC', 'YYYYMMDD') "
        "FROM vectuned.trajectory"
    ).fetchone()
    assert row is not None
    partition, day = row
    assert partition.endswith(f"trajectory_{day}")


def test_partition_leaves_a_day_that_is_in_the_default_partition(conn: Connection, column: int) -> None:
    drop_day_partitions(conn)
    search(conn, QUERY)
    with conn.transaction():  # in one transaction now() stands still
        assert one(conn, "SELECT vectuned._partition(7, interval '30 days')") == 8
        conn.execute("UPDATE vectuned.inbox SET recorded_at = now() + interval '9 days'")
        conn.execute("SELECT vectuned._drain(10)")
        assert one(conn, "SELECT vectuned._partition(10, interval '30 days')") == 2
    assert count(conn, "trajectory_default") == count(conn, "trajectory") == 1


def test_stats_count_recorded_searches(conn: Connection, column: int) -> None:
    for query in clustered(6, 4, seed=3):
        search(conn, query)
    conn.execute("SELECT vectuned._drain(4)")
    conn.execute(
        "UPDATE vectuned.trajectory t SET replayed_at = now(), recall = n.place * 0.5 "
        "FROM (SELECT query_id, row_number() OVER () AS place FROM vectuned.trajectory) n "
        "WHERE n.query_id = t.query_id AND place <= 2"
    )
    row = conn.execute(
        "SELECT trajectories, awaiting_replay, in_inbox, replays, patterns, bank_version, recent_recall, "
        "recent_below_08, recent_latency_ms > 0, "
        "last_search = (SELECT max(recorded_at) FROM vectuned.inbox), last_published "
        "FROM vectuned.stats('items', 'embedding')"
    ).fetchone()
    assert row == (4, 2, 2, 0, 0, None, 0.75, 0.5, True, True, None)
    assert np.isclose(one(conn, "SELECT target_recall FROM vectuned.status"), 0.95)
