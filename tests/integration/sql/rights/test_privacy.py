"""What is stored of searches, for how long, and who may read it; and row security on every access path."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import errors, sql
from tests.integration.role_helpers import database_with_roles, member
from tests.integration.table_helpers import (
    Connection,
    clustered,
    enable,
    exact,
    make,
    one,
    publish,
    raw,
    search,
    text,
)

from vectuned.config.settings import Settings, load_settings
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.daemon.service.requests import run_next_request
from vectuned.daemon.work.worker import Worker
from vectuned.learning.policy.statement_settings import StatementCalls, count_calls

VECTORS = clustered(600, 8, seed=1)


def settings(**values: object) -> Settings:
    return load_settings(None, {key.replace("__", "."): value for key, value in values.items()}, {})


def places(conn: Connection, needle: str) -> list[str]:
    """Name the tables of the schema in which a row, written as text, holds something."""
    tables = conn.execute(
        "SELECT c.oid::regclass::text FROM pg_class c "
        "WHERE c.relnamespace = 'vectuned'::regnamespace AND c.relkind IN ('r', 'v') ORDER BY 1"
    ).fetchall()
    assert len(tables) > 20
    return [
        name
        for (name,) in tables
        if one(conn, f"SELECT EXISTS (SELECT FROM {name} t WHERE position(%s IN t::text) > 0)", needle)
    ]


def learn_all(conn: Connection, queries: np.ndarray[Any, Any]) -> Worker:
    """Search with and without a filter, and do all the daemon's work."""
    worker = Worker(conn, settings(learning__batch_min=1))
    for query in queries:
        (query_id,) = set(
            conn.execute("SELECT query_id FROM vectuned.search('items', %s, 5)", (text(query),)).fetchall()
        )
        conn.execute("SELECT vectuned.search('items', %s, 5, '{\"kind\": 1}')", (text(query),))
        conn.execute("SELECT vectuned.record_feedback(%s, '{1,2,3}')", query_id)
    worker.drain()
    worker.replay_all()
    worker.judge()
    worker.learn_all()
    worker.replay_all()
    worker.maintain()
    return worker


def with_kind(conn: Connection) -> None:
    make(conn, VECTORS)
    conn.execute("ALTER TABLE items ADD COLUMN kind int")
    conn.execute("UPDATE items SET kind = id % 3")
    conn.execute("VACUUM ANALYZE items")


@pytest.mark.parametrize("stored", [True, False])
def test_replay_deletes_vectors_without_store_vectors(conn: Connection, stored: bool) -> None:
    with_kind(conn)
    enable(conn, sample_rate=1.0, min_samples=20, store_vectors=stored)
    queries = clustered(30, 8, seed=7)
    worker = learn_all(conn, queries)
    for call in (
        ()
        if stored
        else ("auto_tune('items', sample_queries => 50)", "benchmark_recall('items', perturbed => true)")
    ):
        number = one(conn, f"SELECT vectuned.{call}")
        assert run_next_request(conn.info.dsn, worker.settings)
        assert one(conn, "SELECT error FROM vectuned.request_result(%s)", number) is None
    conn.execute("SELECT vectuned.disable('items', 'embedding')")
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE recall IS NOT NULL") == 60
    assert one(conn, "SELECT count(*) FROM vectuned.replay") > 0
    for query in queries[:5]:
        # As PostgreSQL writes vectors, whole and in part; arrays of numbers look the same.
        written = one(conn, "SELECT %s::vector::text", text(query)).strip("[]")
        for needle in (written, ",".join(written.split(",")[2:5])):
            found = places(conn, needle)
            assert all("trajectory" in name for name in found)
            assert bool(found) == stored


def test_enable_without_store_vectors_deletes_stored_vectors(conn: Connection) -> None:
    with_kind(conn)
    enable(conn, sample_rate=1.0, min_samples=20)
    learn_all(conn, clustered(25, 8, seed=7))
    search(conn, VECTORS[0])
    kept = "SELECT count(*) FROM vectuned.trajectory WHERE query IS NOT NULL"
    assert one(conn, kept) == 50
    enable(conn, sample_rate=1.0, min_samples=20, store_vectors=False)
    assert one(conn, kept) == 0
    Worker(conn, settings()).drain()
    search(conn, VECTORS[1])
    assert one(conn, kept) == 1  # it waits for a replay that no longer comes:
    conn.execute("SELECT vectuned.disable('items', 'embedding')")
    assert (one(conn, kept), one(conn, "SELECT count(*) FROM vectuned.inbox")) == (0, 0)


def test_disable_with_forget_leaves_no_row(conn: Connection) -> None:
    with_kind(conn)
    make(conn, VECTORS, table="others")
    column = enable(conn, sample_rate=1.0, min_samples=20)
    enable(conn, "others", sample_rate=1.0)
    worker = learn_all(conn, clustered(25, 8, seed=7))
    conn.execute("SELECT vectuned.auto_tune('items')")
    assert run_next_request(conn.info.dsn, worker.settings)
    conn.execute("CREATE TABLE learned AS SELECT vectuned.export_patterns('items') AS document")
    conn.execute("DELETE FROM vectuned.bank WHERE k_class = 1")
    conn.execute("SELECT vectuned.import_patterns('items', 'embedding', document) FROM learned")
    publish(conn, column, [5.0], k_class=30)
    search(conn, VECTORS[0])
    search(conn, VECTORS[0], relation="others")
    now = datetime.now(UTC)
    call = "SELECT id FROM items WHERE kind = 'secret' ORDER BY embedding <=> '[1]' LIMIT 10"
    count_calls(conn, [StatementCalls(call, column, 10, "(kind = $1)", 1, now, now)])
    assert places(conn, "secret") == []
    conn.execute("INSERT INTO vectuned.condition_share VALUES (%s, 'key', 4, 1)", (column,))
    conn.execute(
        "INSERT INTO vectuned.text_call (column_id, fingerprint, k_class, shape, recorded_at, source) "
        "VALUES (%s, '0', 10, 'a join', now(), 'log')",
        (column,),
    )
    conn.execute(
        "INSERT INTO vectuned.column_failure (column_id, job, error) VALUES (%s, 'learn', 'no')", (column,)
    )
    tables = conn.execute(
        "SELECT c.oid::regclass::text, min(a.attname) FROM pg_class c JOIN pg_attribute a ON a.attrelid = "
        "c.oid "
        "WHERE c.relnamespace = 'vectuned'::regnamespace AND c.relkind = 'r' "
        "AND (a.attname = 'column_id' OR c.relname = 'tuned_column' AND a.attname = 'id') GROUP BY 1"
    ).fetchall()

    def rows(column: int) -> dict[str, int]:
        return {
            name: count
            for name, attribute in tables
            if (count := one(conn, f"SELECT count(*) FROM {name} WHERE {attribute} = %s", column))
        }

    before = {name.partition("_20")[0] for name in rows(column)}
    wanted = (
        "tuned_column",
        "tuned_index",
        "inbox",
        "trajectory",
        "feedback",
        "replay",
        "bank",
        "pattern",
        "measured_path",
        "filter_statistics",
        "recall_check",
        "promise",
        "baseline",
        "column_failure",
        "event",
        "request",
        "imported",
        "statement",
        "text_call",
        "condition_share",
    )
    assert before >= {f"vectuned.{name}" for name in wanted}
    assert len(before) == len({name.partition("_20")[0].removesuffix("_default") for name, _ in tables})
    conn.execute("SELECT vectuned.disable('items', 'embedding', forget => true)")
    assert rows(column) == {}
    assert {name.partition("_20")[0] for name in rows(column + 1)} >= {
        "vectuned.tuned_column",
        "vectuned.inbox",
    }
    generated = "SELECT count(*) FROM pg_proc WHERE proname IN ('_search_1', '_filtered_1')"
    assert one(conn, generated) == 0
    assert exact(conn, VECTORS[0], relation="others") == search(conn, VECTORS[0], relation="others")


def test_maintain_deletes_what_is_past_its_retention(conn: Connection) -> None:
    with_kind(conn)
    column = enable(conn, sample_rate=1.0, min_samples=20, trajectory_window=100)
    worker = learn_all(conn, clustered(110, 8, seed=7))
    for table in ("replay WHERE NOT is_counter_example", "recall_check"):
        # Limited by the column's window at any time: learning and the checks trim them on each run.
        assert (
            0
            < one(conn, f"SELECT count(*) FROM vectuned.{table}")
            <= 100 * (2 if table == "recall_check" else 1)
        )
    for table in ("trajectory", "feedback"):
        day = f"vectuned.{table}_20200101"
        conn.execute(
            f"CREATE TABLE {day} PARTITION OF vectuned.{table} FOR VALUES FROM ('2020-01-01') TO "
            f"('2020-01-02')".encode()
        )
    conn.execute("UPDATE vectuned.trajectory SET recorded_at = '2020-01-01 10:00Z' WHERE filter IS NULL")
    conn.execute("UPDATE vectuned.feedback SET recorded_at = '2020-01-01 10:00Z'")
    for age in (40, 5):
        conn.execute(
            "INSERT INTO vectuned.request (column_id, kind, arguments, state, error, requested_by, "
            "finished_at) "
            "VALUES (%s, 'auto_tune', '{}', 'failed', 'x', 'me', now() - make_interval(days => %s))",
            (column, age),
        )
        conn.execute(
            "INSERT INTO vectuned.event (column_id, action, happened_at) SELECT %s, 'behind', "
            "now() - make_interval(days => %s) FROM generate_series(1, 5)",
            (column, age),
        )
    conn.execute(
        "UPDATE vectuned.event SET happened_at = now() - interval '90 days' WHERE action = 'publish'"
    )
    worker.maintain()
    assert one(conn, "SELECT max(recorded_at) - min(recorded_at) < '1 day' FROM vectuned.trajectory")
    assert one(conn, "SELECT count(*) FROM vectuned.feedback") == 0
    assert one(conn, "SELECT count(*) FROM vectuned.request") == 1
    events = (
        "SELECT action, count(*) FROM vectuned.event WHERE action IN ('behind', 'publish') GROUP BY 1 "
        "ORDER BY 1"
    )
    # The newest event of a kind describes the present state, so it is kept however old it is.
    assert conn.execute(events.encode()).fetchall() == [("behind", 5), ("publish", 1)]


def test_maintain_limits_replays_without_learning(conn: Connection) -> None:
    with_kind(conn)
    enable(conn, sample_rate=1.0, trajectory_window=100)
    worker = Worker(conn, settings(learning__enabled=False))
    for seed in (7, 8):
        for query in clustered(80, 8, seed=seed):
            search(conn, query)
        worker.drain()
        assert worker.replay_all() == 80
    worker.learn_all()
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 160
    worker.maintain()
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 100


@pytest.fixture(scope="module")
def policed(server: EmbeddedServer, template: str) -> Iterator[Connection]:
    """A tuned table where each role sees only the rows with its name."""
    with database_with_roles(server.dsn, template, "test_privacy") as conn:
        make(conn, VECTORS)
        conn.execute("ALTER TABLE items ADD COLUMN kind int, ADD COLUMN tenant text, ADD COLUMN secret text")
        conn.execute(
            "UPDATE items SET kind = id % 3, tenant = CASE WHEN id % 10 = 0 THEN 'test_privacy_guest' ELSE "
            "'x' END, "
            "secret = CASE WHEN id % 10 = 1 THEN 'often' ELSE 'n' || id END"
        )
        conn.execute("CREATE INDEX ON items (kind)")
        conn.execute("VACUUM ANALYZE items")
        conn.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
        conn.execute("CREATE POLICY own ON items USING (tenant = current_user)")
        conn.execute("CREATE POLICY vectuned ON items TO vectuned_daemon USING (true)")
        conn.execute("GRANT SELECT (id, embedding, kind, tenant, secret) ON items TO vectuned_user")
        enable(conn, sample_rate=1.0, min_samples=20)
        yield conn


SEARCHES = {
    "hnsw": "SELECT id FROM vectuned.search('items', %(q)s, %(k)s)",
    "filtered": "SELECT id FROM vectuned.search('items', %(q)s, %(k)s, '{\"kind\": 0}')",
    "no row of the caller's": "SELECT id FROM vectuned.search('items', %(q)s, %(k)s, '{\"tenant\": \"x\"}')",
    "rows": "SELECT id FROM vectuned.search_rows(NULL::items, %(q)s, %(k)s)",
    "rows, filtered": "SELECT id FROM vectuned.search_rows(NULL::items, %(q)s, %(k)s, '{\"kind\": [0, 1]}')",
    "apply": "SELECT id FROM items ORDER BY embedding <=> (SELECT vectuned.apply('items', %(q)s, %(k)s)) "
    "LIMIT %(k)s",
    "fallback": "SELECT id FROM vectuned._search_fallback('items', %(q)s, %(k)s, NULL, NULL)",
}
# The most of its 60 rows that the caller gets through each function; apply does not complete a short scan.
MOST_ROWS = {"filtered": 20, "no row of the caller's": 0, "rows, filtered": 40}


@pytest.mark.parametrize("kind", SEARCHES)
@pytest.mark.parametrize("adaptive", [False, True])
def test_row_security_holds_on_every_access_path(policed: Connection, kind: str, adaptive: bool) -> None:
    if adaptive:
        publish(policed, 1, [9.0])
    else:
        policed.execute("DELETE FROM vectuned.bank")
    policed.execute("DELETE FROM vectuned.inbox")
    with member(policed, "vectuned_user", name="guest") as guest:
        for k in (1, 10, 60, 1000):
            found = guest.execute(raw(SEARCHES[kind]), {"q": text(VECTORS[3]), "k": k}).fetchall()
            assert all(int(row[0]) % 10 == 0 for row in found)
            assert kind == "apply" or len(found) == min(k, MOST_ROWS.get(kind, 60))
            everything = policed.execute(raw(SEARCHES[kind]), {"q": text(VECTORS[3]), "k": k}).fetchall()
            assert any(int(row[0]) % 10 for row in everything)
    # The guest's searches were not recorded, only the owner's, one for each k.
    assert one(policed, "SELECT count(*) FROM vectuned.inbox") == (0 if kind == "apply" else 4)


def test_readable_statistics_hide_rows_under_row_security(policed: Connection) -> None:
    shares = (
        "SELECT m.fraction FROM vectuned.tuned_column c, vectuned._compile_filter(c.id, c.relation, "
        "%s::jsonb) m"
    )
    filters = (
        '{"secret": "often"}',
        '{"secret": ["often", "n7"]}',
        '{"secret": {"<": "o"}}',
        '{"kind": {"<": 1}}',
    )
    known = [one(policed, shares, f) for f in filters]
    assert known[0] == pytest.approx(0.1, abs=0.001)
    policed.execute("UPDATE items SET secret = 'rare' || id WHERE id % 10 = 1 AND id > 200")
    policed.execute("ANALYZE items")
    policed.execute("SELECT vectuned._refresh_statistics(1)")
    assert one(policed, shares, filters[0]) < 0.05
    with member(policed, "vectuned_user", name="guest") as guest:
        # The same error whatever the rows hold.
        assert {one(guest, shares, f) for f in filters} == {0.1}
        assert "about 10.0 %" in one(
            guest,
            "SELECT reason FROM vectuned.params('items', %s, 10, '{\"secret\": \"often\"}')",
            text(VECTORS[0]),
        )
        assert guest.execute("SELECT * FROM vectuned.readable_statistics").fetchall() == []
    with member(policed, "vectuned_daemon", name="daemon") as daemon:
        assert daemon.execute("SELECT * FROM vectuned.readable_statistics").fetchall() == []
    policed.execute("ALTER TABLE items DISABLE ROW LEVEL SECURITY")
    try:
        with member(policed, "vectuned_user", name="guest") as guest:
            assert one(guest, shares, filters[0]) < 0.05
            policed.execute("REVOKE SELECT (secret) ON items FROM vectuned_user")
            assert one(guest, shares, filters[0]) == 0.1
            assert one(guest, shares, filters[3]) != 0.1
    finally:
        policed.execute("GRANT SELECT (secret) ON items TO vectuned_user")
        policed.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")


def test_users_cannot_read_recorded_searches(policed: Connection) -> None:
    """Users cannot read any table with vectors, ids or keys, even if PUBLIC may search."""
    policed.execute("GRANT USAGE ON SCHEMA vectuned TO PUBLIC")
    search(policed, VECTORS[5])
    needle = one(policed, "SELECT query::text FROM vectuned.inbox ORDER BY recorded_at DESC LIMIT 1")
    holding = {*places(policed, needle), "vectuned.inbox", "vectuned.trajectory", "vectuned.feedback"}
    try:
        for groups in ((), ("vectuned_user",), ("vectuned_admin",)):
            with member(policed, *groups, name="guest") as guest:
                for table in sorted(holding):
                    with pytest.raises(errors.InsufficientPrivilege):
                        guest.execute(sql.SQL("SELECT * FROM {}").format(raw(table)))
                    if table == "vectuned.trajectory":
                        with pytest.raises(errors.InsufficientPrivilege):
                            guest.execute("SELECT query FROM vectuned.trajectory")
                readable = [
                    name
                    for (name,) in policed.execute(
                        "SELECT oid::regclass::text FROM pg_class WHERE relnamespace = "
                        "'vectuned'::regnamespace "
                        "AND relkind IN ('r', 'p', 'v') AND has_table_privilege(%s, oid, 'SELECT')",
                        (guest.info.user,),
                    ).fetchall()
                ]
                for name in readable:
                    assert not one(
                        guest,
                        f"SELECT EXISTS (SELECT FROM {name} t WHERE position(%s IN t::text) > 0)",
                        needle,
                    )
                assert "vectuned.bank" in readable
    finally:
        policed.execute("REVOKE USAGE ON SCHEMA vectuned FROM PUBLIC")


def test_errors_show_no_rows_to_other_roles(policed: Connection) -> None:
    policed.execute(
        "REVOKE SELECT ON items FROM vectuned_user; REVOKE SELECT (id, embedding, kind, "
        "tenant, secret) "
        "ON items FROM vectuned_user"
    )
    try:
        with member(policed, "vectuned_user", name="guest") as guest:
            for statement in (
                "SELECT vectuned.search('items', %s)",
                "SELECT vectuned.search_rows(NULL::items, %s)",
                "SELECT vectuned.search('items', %s, 5, '{\"secret\": \"often\"}')",
                "SELECT vectuned._search_1(%s, 3)",
                "SELECT vectuned._filtered_1(%s, 3, '{\"kind\": 1}')",
                "SELECT vectuned._search_fallback('items', %s, 5, NULL, NULL)",
            ):
                with pytest.raises(
                    psycopg.errors.InsufficientPrivilege, match="permission denied for table items"
                ):
                    guest.execute(raw(statement), (text(VECTORS[0]),))
    finally:
        policed.execute("GRANT SELECT (id, embedding, kind, tenant, secret) ON items TO vectuned_user")
