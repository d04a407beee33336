"""record_feedback: every answer it gives, concurrent and repeated calls, rights, and size limits."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import errors
from tests.integration.table_helpers import (
    Connection,
    clustered,
    counted,
    enable,
    make,
    one,
    plain_role,
    raw,
    search_often,
    text,
)

from vectuned.config.settings import load_settings
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.trajectory import drain

VECTORS = clustered(300, 4, seed=1)
QUERY = [1.0, -1.0, 0.5, 2.0]


@pytest.fixture
def column(conn: Connection) -> int:
    """A tuned column whose searches are all recorded."""
    make(conn, VECTORS)
    return enable(conn, sample_rate=1.0)


def ask(conn: Connection, k: int = 10) -> tuple[UUID, list[str]]:
    """Search and return the query_id and the ids of the result."""
    rows = conn.execute(
        "SELECT query_id, id FROM vectuned.search('items', %s, %s)", (text(QUERY), k)
    ).fetchall()
    return rows[0][0], [row[1] for row in rows]


def give_feedback(
    conn: Connection,
    query_id: UUID | None,
    relevant: Sequence[str | None] | None = (),
    irrelevant: Sequence[str | None] | None = (),
) -> str:
    """Give feedback; return the answer."""
    lists = [None if ids is None else list(ids) for ids in (relevant, irrelevant)]
    return str(
        one(conn, "SELECT vectuned.record_feedback(%s::uuid, %s::text[], %s::text[])", query_id, *lists)
    )


def stored(conn: Connection, query_id: UUID) -> tuple[list[str], list[str]] | None:
    row = conn.execute(
        "SELECT relevant, irrelevant FROM vectuned.feedback WHERE query_id = %s", (query_id,)
    ).fetchone()
    return None if row is None else (row[0], row[1])


def rows(conn: Connection) -> list[tuple[Any, ...]]:
    return conn.execute("SELECT f.*, f.xmin FROM vectuned.feedback f ORDER BY query_id").fetchall()


@pytest.mark.parametrize("drained", [False, True])
def test_record_feedback_before_and_after_the_drain(conn: Connection, column: int, drained: bool) -> None:
    query_id, ids = ask(conn)
    if drained:
        assert drain(conn) == 1
    assert give_feedback(conn, query_id, [ids[2], ids[0]], [ids[5]]) == "recorded"
    assert stored(conn, query_id) == (sorted([ids[0], ids[2]]), [ids[5]])
    drain(conn)
    assert (
        one(
            conn,
            "SELECT count(*) FROM vectuned.feedback f "
            "JOIN vectuned.trajectory t USING (query_id, recorded_at) "
            "WHERE f.column_id = t.column_id AND f.given_at >= t.recorded_at AND f.column_id = %s",
            column,
        )
        == 1
    )
    assert one(conn, "SELECT feedback FROM vectuned.stats('items')") == 1


def test_feedback_tables_are_logged_and_the_inbox_is_not(conn: Connection, column: int) -> None:
    kinds = "SELECT DISTINCT relpersistence FROM pg_class WHERE relname LIKE %s AND relkind IN ('r', 'p')"
    assert conn.execute(kinds, ("feedback%",)).fetchall() == [("p",)]
    query_id, ids = ask(conn)
    assert give_feedback(conn, query_id, ids[:1]) == "recorded"
    conn.execute("DELETE FROM vectuned.inbox")
    assert stored(conn, query_id) == (ids[:1], [])
    assert give_feedback(conn, query_id, ids[:2]) == "unknown"


def test_record_feedback_on_unrecorded_searches_stores_nothing(conn: Connection, column: int) -> None:
    conn.execute("SET vectuned.record = off")
    query_id, ids = ask(conn)
    assert give_feedback(conn, query_id, ids[:1]) == "unsampled"
    conn.execute("RESET vectuned.record")
    assert give_feedback(conn, UUID("00000000-0000-4000-8000-000000000001"), ids[:1]) == "unknown"
    assert give_feedback(conn, UUID("00000000-0000-4000-8000-000000000005"), ids[:1]) == "unknown"
    assert give_feedback(conn, UUID("00000000-0000-4000-8000-000000000000"), ids[:1]) == "unsampled"
    undone: list[UUID] = []
    with conn.transaction(force_rollback=True):
        undone.append(ask(conn)[0])
        assert give_feedback(conn, undone[0], ids[:1]) == "recorded"
    assert give_feedback(conn, undone[0], ids[:1]) == "unknown"
    assert rows(conn) == []


def test_record_feedback_on_an_expired_search_is_unknown(conn: Connection, column: int) -> None:
    conn.execute(
        "CREATE TABLE vectuned.trajectory_20200101 PARTITION OF vectuned.trajectory "
        "FOR VALUES FROM ('2020-01-01') TO ('2020-01-02'); "
        "CREATE TABLE vectuned.feedback_20200101 PARTITION OF vectuned.feedback "
        "FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')"
    )
    old, ids = ask(conn)
    conn.execute("UPDATE vectuned.inbox SET recorded_at = '2020-01-01 12:00Z'")
    older, _ = ask(conn)
    conn.execute("UPDATE vectuned.inbox SET recorded_at = '2019-01-01' WHERE query_id = %s", (older,))
    fresh, _ = ask(conn)
    drain(conn)
    for query_id in (old, older, fresh):
        assert give_feedback(conn, query_id, ids[:1]) == "recorded"
    assert one(conn, "SELECT count(*) FROM vectuned.feedback_20200101") == 1
    assert one(conn, "SELECT count(*) FROM vectuned.feedback_default") == 1
    Worker(conn, load_settings(None, {}, {})).maintain()
    assert one(conn, "SELECT to_regclass('vectuned.feedback_20200101')") is None
    assert [row[0] for row in rows(conn)] == [fresh]
    assert give_feedback(conn, old, ids[:1]) == give_feedback(conn, older, ids[:1]) == "unknown"
    assert give_feedback(conn, fresh, ids[:2]) == "recorded"


def test_record_feedback_counts_and_ignores_ids_outside_the_result(conn: Connection, column: int) -> None:
    query_id, ids = ask(conn)
    assert give_feedback(conn, query_id, ["no", "such"], ["row"]) == "empty, 3 ignored"
    assert give_feedback(conn, query_id, ["no", None, "no"], []) == "empty, 2 ignored"
    assert stored(conn, query_id) is None
    assert give_feedback(conn, query_id, [ids[0], "no"], [ids[1], None]) == "recorded, 2 ignored"
    assert give_feedback(conn, query_id, [ids[0], "no"], [ids[1], None]) == "recorded, 2 ignored"
    assert stored(conn, query_id) == ([ids[0]], [ids[1]])


@pytest.mark.parametrize("nothing", [None, []])
def test_record_feedback_with_empty_lists(conn: Connection, column: int, nothing: list[str] | None) -> None:
    query_id, ids = ask(conn)
    assert give_feedback(conn, query_id, nothing, nothing) == "empty"
    assert one(conn, "SELECT vectuned.record_feedback(%s)", query_id) == "empty"
    assert stored(conn, query_id) is None
    assert give_feedback(conn, query_id, nothing, ids[:1]) == "recorded"
    assert give_feedback(conn, query_id, nothing, nothing) == "empty"
    assert stored(conn, query_id) == ([], ids[:1])


def test_record_feedback_refuses_invalid_arguments(conn: Connection, column: int) -> None:
    query_id, ids = ask(conn)
    for any_id in (query_id, UUID(int=0), UUID(int=1)):
        with pytest.raises(errors.InvalidParameterValue, match=f"the id {ids[3]} is given as rel") as both:
            give_feedback(conn, any_id, ids[:4], ids[3:5])
        assert "one of the two lists" in str(both.value.diag.message_hint)
        with pytest.raises(errors.InvalidParameterValue, match="feedback on 1001 ids"):
            give_feedback(conn, any_id, [str(n) for n in range(501)], [str(n) for n in range(501, 1001)])
    with pytest.raises(errors.NullValueNotAllowed, match="needs a query_id"):
        give_feedback(conn, None, ids)
    with pytest.raises(errors.InvalidTextRepresentation):
        conn.execute("SELECT vectuned.record_feedback('no uuid')")
    assert rows(conn) == []


def test_record_feedback_takes_as_many_ids_as_a_search_returns(conn: Connection) -> None:
    make(conn, clustered(1100, 4, seed=1))
    enable(conn, sample_rate=1.0)
    query_id, ids = ask(conn, 1000)
    assert give_feedback(conn, query_id, ids[:600], ids[600:]) == "recorded"
    assert stored(conn, query_id) == (sorted(ids[:600]), sorted(ids[600:]))


def test_record_feedback_repeated_changes_nothing(conn: Connection, column: int) -> None:
    query_id, ids = ask(conn)
    assert give_feedback(conn, query_id, ids[:3], ids[3:5]) == "recorded"
    before = rows(conn)
    assert give_feedback(conn, query_id, ids[:3], ids[3:5]) == "recorded"
    assert give_feedback(conn, query_id, [ids[2], ids[0], ids[0]]) == "recorded"
    drain(conn)
    assert give_feedback(conn, query_id, ids[:3], ids[3:5]) == "recorded"
    assert rows(conn) == before


def test_record_feedback_replaces_earlier_feedback_on_an_id(conn: Connection, column: int) -> None:
    query_id, ids = ask(conn)
    a, b, c = sorted(ids[:3])
    for said, known in (
        (([a], [b]), ([a], [b])),
        (([c], []), ([a, c], [b])),
        (([], [a]), ([c], [a, b])),
        (([a, b], []), ([a, b, c], [])),
        (([], [c, b]), ([a], [b, c])),
    ):
        assert give_feedback(conn, query_id, *said) == "recorded"
        assert stored(conn, query_id) == known
    assert one(conn, "SELECT revision FROM vectuned.feedback") == 5


def test_record_feedback_from_two_sessions_at_once(conn: Connection, column: int, database: str) -> None:
    query_id, ids = ask(conn)
    with psycopg.connect(database) as first, ThreadPoolExecutor(1) as pool:
        assert give_feedback(first, query_id, [ids[0]], [ids[1]]) == "recorded"
        second = pool.submit(give_feedback, conn, query_id, [ids[1]], [ids[2]])
        time.sleep(0.3)
        assert not second.done()  # the second waits for the first, so that no feedback is lost
        first.commit()
        assert second.result(timeout=300) == "recorded"
    assert stored(conn, query_id) == (sorted(ids[:2]), [ids[2]])


def test_record_feedback_during_a_drain(conn: Connection, column: int, database: str) -> None:
    searches = [ask(conn) for _ in range(40)]

    def speak(place: int) -> set[str]:
        with psycopg.connect(database, autocommit=True) as session:
            return {
                give_feedback(session, query_id, [ids[place]]) for query_id, ids in searches for _ in range(3)
            }

    def move() -> int:
        with psycopg.connect(database, autocommit=True) as session:
            return drain(session, 3)

    with ThreadPoolExecutor(5) as pool:
        speaking = [pool.submit(speak, place) for place in range(4)]
        moved = pool.submit(move)
        assert [future.result() for future in speaking] == [{"recorded"}] * 4
        assert moved.result() == 40
    for query_id, ids in searches:
        assert stored(conn, query_id) == (sorted(ids[:4]), [])


def test_record_feedback_needs_only_the_query_id(conn: Connection, column: int, database: str) -> None:
    with plain_role(conn, database, "SELECT ON items") as reader:
        query_id, ids = ask(reader)
        assert give_feedback(reader, query_id, ids[:1]) == "recorded"
        assert give_feedback(reader, uuid4(), ids[:1]) in ("unknown", "unsampled")
        for statement in (
            "SELECT * FROM vectuned.feedback",
            "DELETE FROM vectuned.feedback",
            "SELECT * FROM vectuned.feedback_default",
            "SELECT vectuned._feedback_bytes()",
            "SELECT vectuned._partition_table('feedback', 1, '1 day')",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                reader.execute(raw(statement))
        reader.execute("SET search_path = pg_temp")
        reader.execute("CREATE TEMP TABLE feedback (query_id uuid)")
        reader.execute("CREATE TEMP TABLE inbox (query_id uuid)")
        assert give_feedback(reader, query_id, ids[:2]) == "recorded"
    assert stored(conn, query_id) == (sorted(ids[:2]), [])


def test_record_feedback_in_a_read_only_transaction(conn: Connection, column: int) -> None:
    query_id, ids = ask(conn)
    drain(conn)
    conn.execute("SET default_transaction_read_only = on")
    with pytest.raises(errors.ReadOnlySqlTransaction, match="read-only transaction") as refused:
        give_feedback(conn, query_id, ids[:1])
    assert "that may write" in str(refused.value.diag.message_hint)
    silent, ids = ask(conn)  # not recorded, so there is nothing to write
    assert give_feedback(conn, silent, ids[:1]) == "unsampled"
    conn.execute("SET default_transaction_read_only = off")
    assert give_feedback(conn, query_id, ids[:1]) == "recorded"


def test_disable_with_forget_deletes_feedback(conn: Connection, column: int) -> None:
    query_id, ids = ask(conn)
    assert give_feedback(conn, query_id, ids[:1]) == "recorded"
    drain(conn)
    conn.execute("SELECT vectuned.disable('items', 'embedding')")
    assert give_feedback(conn, query_id, ids[:2]) == "recorded"
    conn.execute("SELECT vectuned.disable('items', 'embedding', forget => true)")
    assert rows(conn) == []
    assert give_feedback(conn, query_id, ids[:1]) == "unknown"


def test_record_feedback_is_limited_by_day(conn: Connection, column: int) -> None:
    conn.execute(
        "CREATE OR REPLACE FUNCTION vectuned._feedback_bytes() RETURNS bigint LANGUAGE sql IMMUTABLE "
        "SET search_path = pg_catalog, pg_temp RETURN 60000"
    )
    search_often(conn, 1500)
    one_day = "UPDATE vectuned.inbox SET recorded_at = (SELECT min(recorded_at) FROM vectuned.inbox)"
    conn.execute(one_day)  # even if midnight passed between the searches
    answers = conn.execute(
        "SELECT vectuned.record_feedback(query_id, result_ids) FROM vectuned.inbox"
    ).fetchall()
    outcomes = [row[0] for row in answers]
    count = outcomes.count("recorded")
    assert outcomes == ["recorded"] * count + ["full"] * (1500 - count)
    assert 100 < count < 1500
    assert one(conn, "SELECT count(*) FROM vectuned.feedback") == count
    size = "SELECT max(pg_table_size(relid)) FROM pg_partition_tree('vectuned.feedback') WHERE isleaf"
    assert one(conn, size) < 60000 + 3 * 8192
    known = conn.execute("SELECT query_id, relevant FROM vectuned.feedback LIMIT 1").fetchone()
    assert known is not None
    assert give_feedback(conn, *known) == "recorded"  # repeated feedback takes no space
    # Each day has its own limit.
    query_id, ids = ask(conn)
    conn.execute(one_day)
    assert give_feedback(conn, query_id, ids) == "full"
    conn.execute(
        "UPDATE vectuned.inbox SET recorded_at = recorded_at + interval '1 day' WHERE query_id = %s",
        (query_id,),
    )
    assert give_feedback(conn, query_id, ids) == "recorded"


def test_feedback_of_seven_busy_days_stays_within_limits(conn: Connection, column: int) -> None:
    conn.execute(
        "CREATE OR REPLACE FUNCTION vectuned._feedback_bytes() RETURNS bigint LANGUAGE sql IMMUTABLE "
        "SET search_path = pg_catalog, pg_temp RETURN 40000"
    )
    size = "SELECT sum(pg_table_size(relid)) FROM pg_partition_tree('vectuned.feedback') WHERE isleaf"
    sizes = []
    for day in range(9):
        # The next day, with its own partition.
        for table in ("trajectory", "feedback"):
            conn.execute(
                f"CREATE TABLE IF NOT EXISTS vectuned.{table}_{20200101 + day} PARTITION OF vectuned.{table} "
                f"FOR VALUES FROM ('2020-01-{day + 1:02} 00:00Z') TO ('2020-01-{day + 2:02} 00:00Z')".encode()
            )
        search_often(conn, 600)
        conn.execute(
            "UPDATE vectuned.inbox SET recorded_at = make_timestamptz(2020, 1, %s, 12, 0, 0, 'UTC')",
            (day + 1,),
        )
        drain(conn)
        answers = conn.execute(
            "SELECT vectuned.record_feedback(t.query_id, t.result_ids) FROM vectuned.trajectory t "
            "WHERE t.recorded_at >= make_timestamptz(2020, 1, %s, 0, 0, 0, 'UTC')",
            (day + 1,),
        ).fetchall()
        assert {row[0] for row in answers} == {"recorded", "full"}
        retain = (
            "SELECT vectuned._partition(0, make_interval(days => "
            f"(now() AT TIME ZONE 'UTC')::date - '2020-01-{day + 1:02}'::date + 7))"
        )
        conn.execute(retain.encode())
        sizes.append(int(one(conn, size)))
    assert max(sizes) < 8 * (40000 + 3 * 8192)
    assert sizes[-1] == pytest.approx(sizes[-2], rel=0.1)


def test_record_feedback_finds_a_search_by_index(conn: Connection, column: int) -> None:
    search_often(conn, 3000, 5)
    query_id, ids = ask(conn)
    conn.execute("ANALYZE vectuned.inbox")
    with counted(conn, "vectuned.inbox") as scanned:
        assert give_feedback(conn, query_id, ids[:1]) == "recorded"
    assert scanned["scans"] == 0  # no scan of the table: it uses the index
    drain(conn)
    conn.execute("VACUUM vectuned.inbox")
    partition = one(
        conn, "SELECT tableoid::regclass::text FROM vectuned.trajectory WHERE query_id = %s", query_id
    )
    with counted(conn, partition) as scanned:
        assert give_feedback(conn, query_id, ids[:2]) == "recorded"
    assert scanned["scans"] == 0
    assert scanned["blocks"] < 10


def test_maintain_does_not_wait_for_idle_feedback_transactions(
    conn: Connection, column: int, database: str
) -> None:
    query_id, ids = ask(conn)
    last = one(
        conn,
        "SELECT max(right(inhrelid::regclass::text, 8)) FROM pg_inherits "
        "WHERE inhparent = 'vectuned.trajectory'::regclass AND inhrelid::regclass::text ~ '_[0-9]{8}$'",
    )
    for table in ("trajectory", "feedback"):
        conn.execute(raw(f"DROP TABLE vectuned.{table}_{last}"))
    worker = Worker(conn, load_settings(None, {}, {}))
    with psycopg.connect(database) as idle:
        assert give_feedback(idle, query_id, ids[:1]) == "recorded"
        # A session that waited for this lock would block every session after it.
        with pytest.raises(errors.LockNotAvailable):
            worker.maintain()
        assert give_feedback(conn, ask(conn)[0], ids[:1]) == "recorded"
        idle.commit()
        worker.maintain()
    for table in ("trajectory", "feedback"):
        assert one(conn, "SELECT to_regclass(%s)", f"vectuned.{table}_{last}") is not None
    assert one(conn, "SHOW lock_timeout") == "0"
