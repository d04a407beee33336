"""The daemon's job that observes: every call once, across restarts, failures and rotations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.integration.daemon.observe.test_observe import PLAIN, SEARCH, calls, dsn_of, fill, log_of
from tests.integration.table_helpers import plain_role, raw, text

from vectuned.config.errors import VectunedError
from vectuned.config.sections import ObserveSettings
from vectuned.daemon.observe.job import ObserveJob

Connection = psycopg.Connection[Any]


class Interrupted(Exception):  # noqa: N818 - as Halt, it unwinds a job
    pass


@pytest.fixture
def conn(conn: Connection) -> Connection:
    fill(conn)
    conn.execute("SELECT vectuned.enable('docs', 'embedding', trajectory_window => 100000)")
    return conn


def job(conn: Connection, log: Path | str = "", **options: Any) -> ObserveJob:
    return ObserveJob(conn, ObserveSettings(log=str(log)), **options)


def stored(conn: Connection) -> list[str]:
    """Return the queries that were stored, sorted."""
    rows = conn.execute("SELECT query::text FROM vectuned.trajectory ORDER BY 1").fetchall()
    return [row[0] for row in rows]


def queries(conn: Connection, count: int, seed: int) -> tuple[bytes, list[str]]:
    found = calls(count, PLAIN, seed=seed)
    vectors = conn.execute("SELECT v::vector::text FROM unnest(%s::text[]) v", ([v for _, (v,) in found],))
    return log_of(conn.info.dbname, found), [row[0] for row in vectors]


def counts(conn: Connection, source: str = "log") -> tuple[Any, ...] | None:
    return conn.execute(
        "SELECT statements, searches, stored, left_out, other_databases, damaged FROM vectuned.observation "
        "WHERE source = %s",
        (source,),
    ).fetchone()


def test_job_goes_on_where_it_stopped_and_follows_rotation(conn: Connection, tmp_path: Path) -> None:
    path = tmp_path / "postgresql.json"
    first, expected = queries(conn, 30, 1)
    path.write_bytes(first[:-40])  # the last line is not complete
    one = job(conn, tmp_path)
    one.run()
    one.run()
    assert stored(conn) == sorted(expected[:-1])
    one.close()
    with path.open("ab") as file:
        file.write(first[-40:])
    # A restart, with more since; then a rotation by name while the job runs, with a rest in the old file.
    second, more = queries(conn, 20, 2)
    with path.open("ab") as file:
        file.write(second)
    again = job(conn, tmp_path)
    again.run()
    again.run()
    assert stored(conn) == sorted([*expected, *more])
    third, rest = queries(conn, 10, 3)
    fourth, newest = queries(conn, 10, 4)
    old = path.rename(tmp_path / "postgresql.1.json")
    with old.open("ab") as file:
        file.write(third)
    path.write_bytes(fourth)
    again.run()
    again.run()
    again.close()
    last = job(conn, tmp_path)
    last.run()
    assert last.run() == 0
    last.close()
    assert stored(conn) == sorted([*expected, *more, *rest, *newest])
    assert counts(conn) == (70, 70, 70, 0, 0, 0)


def test_job_that_is_interrupted_or_fails_stores_each_call_once(
    conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vectuned.daemon.observe.sources._CHUNK", 4000)
    path = tmp_path / "postgresql.json"
    written, expected = queries(conn, 60, 1)
    path.write_bytes(written)
    looks = 0

    def halt() -> None:
        nonlocal looks
        looks += 1
        if looks % 3 == 0:
            raise Interrupted

    interrupted = 0
    for _ in range(200):
        one = job(conn, path, check_halt=halt)
        try:
            if not one.run():
                break
        except Interrupted:
            interrupted += 1
        finally:
            one.close()
    assert interrupted > 2
    # The database refuses to store for a while.
    more, rest = queries(conn, 20, 2)
    with path.open("ab") as file:
        file.write(more)
    conn.execute("ALTER TABLE vectuned.trajectory RENAME TO away")
    one = job(conn, path)
    for _ in range(2):
        with pytest.raises(psycopg.errors.UndefinedTable):
            one.run()
    conn.execute("ALTER TABLE vectuned.away RENAME TO trajectory")
    one.run()
    one.run()
    one.close()
    assert stored(conn) == sorted([*expected, *rest])


def test_job_ends_a_long_run_and_goes_on(
    conn: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vectuned.daemon.observe.sources._CHUNK", 4000)
    path = tmp_path / "postgresql.json"
    written, expected = queries(conn, 60, 1)
    path.write_bytes(written)
    times: Iterator[float] = iter(range(0, 10**6, 15))
    one = job(conn, path, clock=lambda: next(times))
    runs = 0
    while one.run():
        runs += 1
    one.close()
    assert runs > 3
    assert stored(conn) == sorted(expected)


def test_job_names_a_log_that_cannot_be_read(conn: Connection, tmp_path: Path) -> None:
    with pytest.raises(
        VectunedError, match=r"nowhere to observe does not exist: see the setting observe.log"
    ):
        job(conn, tmp_path / "nowhere").run()
    everything = (
        "EXECUTE ON ALL FUNCTIONS IN SCHEMA vectuned",
        "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA vectuned",
    )
    with (
        plain_role(conn, dsn_of(conn), *everything) as reader,
        pytest.raises(VectunedError, match="GRANT pg_monitor to this role"),
    ):
        job(reader, "server").run()


def record(conn: Connection, count: int, seed: int = 2) -> int:
    found = calls(count, SEARCH, seed=seed)
    documents = [
        {"text": statement, "parameters": list(values), "latency_ms": 3.5, "age": 60.0}
        for statement, values in found
    ]
    row = conn.execute(
        "SELECT vectuned.record_statements(%s::jsonb, current_setting('search_path'))",
        (json.dumps(documents),),
    ).fetchone()
    assert row is not None
    return int(row[0])


def test_job_takes_what_the_client_recorded(conn: Connection) -> None:
    assert record(conn, 20) == 20
    one = job(conn)
    assert (one.run(), one.run()) == (20, 0)
    rows = conn.execute(
        "SELECT source, shape, latency_ms, recorded_at < now() - interval '50 s' FROM vectuned.trajectory"
    ).fetchall()
    assert rows == [("client", "(t.category = $1)", 3.5, True)] * 20
    assert counts(conn, "client") == (20, 20, 20, 0, 0, 0)


def test_job_loses_no_statement_of_the_client_when_it_fails(conn: Connection) -> None:
    record(conn, 5)
    conn.execute("ALTER TABLE vectuned.trajectory RENAME TO away")
    one = job(conn)
    with pytest.raises(psycopg.errors.UndefinedTable):
        one.run()
    conn.execute("ALTER TABLE vectuned.away RENAME TO trajectory")
    one.run()
    assert len(stored(conn)) == 5


def test_record_statements_is_bounded_and_only_for_readers_of_a_tuned_table(conn: Connection) -> None:
    assert [record(conn, 900, seed) for seed in (1, 2, 3)] == [900, 900, 200]
    conn.execute("DELETE FROM vectuned.statement_inbox")
    with plain_role(conn, dsn_of(conn)) as reader:
        assert record(reader, 5) == 0
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("SELECT text FROM vectuned.statement_inbox")
        conn.execute(raw(f"GRANT SELECT ON docs TO {reader.info.user}"))
        assert record(reader, 5) == 5
    with pytest.raises(psycopg.errors.InvalidParameterValue):
        conn.execute("SELECT vectuned.record_statements('{}', 'public')")
    # While the daemon's table is locked, an application does not wait.
    with psycopg.connect(dsn_of(conn)) as other:
        other.execute("LOCK TABLE vectuned.statement_inbox IN ACCESS EXCLUSIVE MODE")
        with conn.transaction(force_rollback=True):
            conn.execute("SET LOCAL statement_timeout = '60s'")
            assert record(conn, 1) == 0


FORGOTTEN = {
    "SELECT id FROM docs ORDER BY embedding <=> $1 LIMIT 10": True,
    'SELECT id FROM "docs" d JOIN kept k USING (id) ORDER BY k.embedding <=> $1 LIMIT 10': True,
    "SELECT id FROM KEPT k, DOCS ORDER BY k.embedding <=> $1 LIMIT 10": True,
    'SELECT id FROM kept, U&"d\\006fcs" ORDER BY embedding <=> $1 LIMIT 10': True,
    "SELECT id FROM view_of_it ORDER BY embedding <=> $1 LIMIT 10": True,
    "SELECT id FROM kept_part ORDER BY embedding <=> $1 LIMIT 10": True,
    "SELECT id FROM kept JOIN seen USING (id) ORDER BY seen.embedding <=> $1 LIMIT 10": True,
    'SELECT id FROM kept JOIN "Seen again" s USING (id) ORDER BY s.embedding <=> $1 LIMIT 10': True,
    "SELECT id FROM public.kept WHERE id > 31337 ORDER BY embedding <=> $1 LIMIT 10": False,
    'SELECT id FROM "kept" ORDER BY embedding <=> $1 LIMIT 10': False,
}


@pytest.mark.parametrize(("statement", "is_redacted"), FORGOTTEN.items())
def test_record_statements_stores_no_values_of_columns_that_keep_no_vectors(
    conn: Connection, statement: str, is_redacted: bool
) -> None:
    conn.execute("CREATE TABLE kept (LIKE docs INCLUDING ALL)")
    conn.execute("INSERT INTO kept SELECT * FROM docs LIMIT 100")
    conn.execute("CREATE VIEW seen AS SELECT * FROM docs")
    conn.execute('CREATE VIEW "Seen again" AS SELECT * FROM seen WHERE id > 0')
    conn.execute("SELECT vectuned.enable('kept', 'embedding')")
    vector = "[31337,1,1,1,1,1,1,1]"
    document = json.dumps([{"text": statement, "parameters": [vector], "latency_ms": 1, "age": 0}])
    holds = "SELECT i::text LIKE '%%31337%%' FROM vectuned.statement_inbox i"
    record = "SELECT vectuned.record_statements(%s::jsonb, 'public')"
    # What waits is redacted when the column is to forget, and what comes later before it is stored.
    assert conn.execute(record, (document,)).fetchone() == (1,)
    assert conn.execute(holds).fetchall() == [(True,)]
    conn.execute("SELECT vectuned.enable('docs', 'embedding', store_vectors => false)")
    assert conn.execute(record, (document,)).fetchone() == (1,)
    assert conn.execute(holds).fetchall() == [(not is_redacted,)] * 2
    assert job(conn).run() == 2
    left_out = 2 if is_redacted else 0
    assert counts(conn, "client") == (2, 2 - left_out, 2 - left_out, left_out, 0, 0)
    assert len(stored(conn)) == 2 - left_out


def test_texts_of_the_client_find_tables_by_its_search_path(conn: Connection) -> None:
    conn.execute("CREATE SCHEMA shop")
    conn.execute("ALTER TABLE docs SET SCHEMA shop")
    conn.execute("SELECT vectuned.refresh('shop.docs', 'embedding')")
    document = [{"text": PLAIN, "parameters": [text(range(1, 9))], "latency_ms": 1, "age": 0}]
    conn.execute("SELECT vectuned.record_statements(%s::jsonb, 'shop, public')", (json.dumps(document),))
    job(conn).run()
    assert len(stored(conn)) == 1
