"""`apply` in statements with conditions and joins: never fewer rows than match, whatever was learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import errors
from tests.integration.table_helpers import (
    build,
    counted,
    enable,
    exact,
    make,
    one,
    plain_role,
    publish,
    raw,
    text,
)

Connection = psycopg.Connection[Any]

INDEX = "items_embedding_idx"
ROWS = 4000
VECTORS = np.random.default_rng(1).normal(size=(ROWS, 24)).astype(np.float32)
QUERIES = np.random.default_rng(2).normal(size=(20, 24)).astype(np.float32)
CALLS = {
    "unknown": "",
    "filtered": ", filtered => true",
    "a filter": ", filter => '{\"part\": 4}'",
}


def parted(conn: Connection, *, kind: str = "vector", options: str = "") -> int:
    """Make a tuned table with a filter column, with ef 10 proven for searches without a filter."""
    make(conn, VECTORS, kind=kind, index=False)
    conn.execute("ALTER TABLE items ADD part int GENERATED ALWAYS AS (id / 100 % 5) STORED")
    build(conn, kind=kind, options=options)
    conn.execute("ANALYZE items")
    column = enable(conn)
    publish(conn, column, [0.0], fixed_ef=10)
    conn.execute("UPDATE vectuned.bank SET access_path = 'hnsw'")
    # The planner must not avoid the index, of which these tests are.
    conn.execute("SET enable_seqscan = off")
    conn.execute("SET enable_sort = off")
    return column


def searched(conn: Connection, query: Any, k: int, *, call: str, source: str, where: str) -> list[str]:
    """Run a statement with `apply`, which must scan the vector index."""
    statement = (
        f"SELECT i.id::text FROM {source} WHERE {where} "
        f"ORDER BY i.embedding <=> (SELECT vectuned.apply('items', %s, {k}{call})) LIMIT {k}"
    )
    statement = statement.replace("%", "%%").replace("%%s", "%s")
    with counted(conn, INDEX) as index:
        found = conn.execute(raw(statement), (text(query),)).fetchall()
    assert index["scans"] == 1
    return [row[0] for row in found]


@pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))
@pytest.mark.parametrize("where", ["i.part = 4", "i.part = 4 AND i.id % 10 = 3"])
def test_apply_with_where_never_gives_fewer_rows_than_match(conn: Connection, call: str, where: str) -> None:
    parted(conn)
    for query in QUERIES:
        for k in (1, 10, 20):
            found = searched(conn, query, k, call=call, source="items i", where=where)
            assert len(set(found)) == len(found) == k


def test_apply_with_a_join_never_gives_fewer_rows_than_match(conn: Connection) -> None:
    parted(conn)
    conn.execute("CREATE TABLE owners (part int PRIMARY KEY, live boolean)")
    conn.execute("INSERT INTO owners SELECT part, part = 3 FROM generate_series(0, 4) part")
    source = "items i JOIN owners o ON o.part = i.part AND o.live"
    conn.execute("SET enable_hashjoin = off; SET enable_mergejoin = off")
    for query in QUERIES:
        assert len(searched(conn, query, 10, call="", source=source, where="true")) == 10


@pytest.mark.parametrize("call", [CALLS["unknown"], CALLS["filtered"]])
def test_apply_finds_matching_rows_that_are_the_farthest(conn: Connection, call: str) -> None:
    parted(conn)
    query = QUERIES[0]
    far = ", ".join(key for key, _ in exact(conn, query, ROWS)[-100:])
    assert len(searched(conn, query, 10, call=call, source="items i", where=f"i.id IN ({far})")) == 10


def test_apply_with_where_reaches_the_recall_of_the_default_effort(conn: Connection) -> None:
    parted(conn)
    hits = 0
    for query in QUERIES:
        found = searched(conn, query, 10, call="", source="items i", where="i.part = 4")
        wanted = [key for key, _ in exact(conn, query, ROWS) if int(key) // 100 % 5 == 4][:10]
        hits += len(set(wanted) & set(found))
    # By effort 10 alone 0.2 of them are found; by the default effort and a scan that goes on nearly all.
    assert hits > 0.6 * 10 * len(QUERIES)


def test_apply_sets_less_than_the_default_effort_only_without_a_filter(conn: Connection) -> None:
    parted(conn)
    for call, ef, scan in (
        (", filtered => false", "10", "off"),
        ("", "40", "relaxed_order"),
        (", filtered => true", "40", "relaxed_order"),
        (", filter => '{\"part\": 4}'", "150", "relaxed_order"),
        (", filter => '{}'", "40", "relaxed_order"),
    ):
        with conn.transaction():
            conn.execute(raw(f"SELECT vectuned.apply('items', %s, 10{call})"), (text(QUERIES[0]),))
            served = int(one(conn, "SHOW hnsw.ef_search"))
            # The share of rows that match is an estimate of the planner's statistics.
            assert abs(served - int(ef)) <= (15 if "part" in call else 0), call
            assert one(conn, "SHOW hnsw.iterative_scan") == scan
        assert one(conn, "SHOW hnsw.iterative_scan") == "off"


def test_apply_leaves_the_callers_own_scan_and_its_limits(conn: Connection) -> None:
    parted(conn)
    conn.execute("SET hnsw.iterative_scan = strict_order; SET hnsw.max_scan_tuples = 77")
    with conn.transaction():
        conn.execute("SELECT vectuned.apply('items', %s)", (text(QUERIES[0]),))
        assert one(conn, "SHOW hnsw.iterative_scan") == "strict_order"
        assert one(conn, "SHOW hnsw.max_scan_tuples") == "77"


@pytest.mark.parametrize(("work_mem", "multiplier"), [("4MB", 64), ("64kB", 1000), ("1GB", 1)])
def test_apply_bounds_the_memory_of_a_scan(conn: Connection, work_mem: str, multiplier: int) -> None:
    parted(conn)
    conn.execute(raw(f"SET work_mem = '{work_mem}'"))
    with conn.transaction():
        conn.execute("SELECT vectuned.apply('items', %s)", (text(QUERIES[0]),))
        assert float(one(conn, "SHOW hnsw.scan_mem_multiplier")) == multiplier


def test_apply_on_ivfflat_looks_into_further_lists(conn: Connection) -> None:
    make(conn, VECTORS, index=False)
    conn.execute(
        "CREATE INDEX items_embedding_idx ON items USING ivfflat (embedding vector_cosine_ops) "
        "WITH (lists = 50)"
    )
    enable(conn)
    conn.execute("SET enable_seqscan = off")
    conn.execute("SET enable_sort = off")
    for query in QUERIES:
        assert len(searched(conn, query, 20, call="", source="items i", where="i.id % 50 = 7")) == 20


def test_apply_rejects_a_filter_that_is_said_not_to_be(conn: Connection) -> None:
    parted(conn)
    with pytest.raises(errors.InvalidParameterValue, match="filtered => false contradicts the filter"):
        conn.execute(
            "SELECT vectuned.apply('items', %s, 10, filtered => false, filter => '{\"part\": 1}')",
            (text(QUERIES[0]),),
        )


def test_apply_follows_a_renamed_table_and_a_second_tuned_column(conn: Connection) -> None:
    parted(conn)
    conn.execute("ALTER TABLE items RENAME TO things")
    statement = "SELECT id FROM things ORDER BY embedding <=> (SELECT vectuned.apply('things', %s)) LIMIT 10"
    assert len(conn.execute(statement, (text(QUERIES[0]),)).fetchall()) == 10
    conn.execute("ALTER TABLE things ADD other vector(24)")
    conn.execute("CREATE INDEX ON things USING hnsw (other vector_cosine_ops)")
    conn.execute("SELECT vectuned.enable('things', 'other')")
    with pytest.raises(errors.AmbiguousColumn, match="2 tuned columns; say which"):
        conn.execute(statement, (text(QUERIES[0]),))
    statement = statement.replace("%s)", "%s, column_name => 'embedding')")
    assert len(conn.execute(statement, (text(QUERIES[0]),)).fetchall()) == 10


def recorded(conn: Connection) -> list[tuple[Any, ...]]:
    """Read the calls in the inbox."""
    return conn.execute("SELECT k, access_path, result_ids, filter FROM vectuned.inbox").fetchall()


def test_apply_records_the_sampled_calls_that_have_no_filter(conn: Connection) -> None:
    parted(conn)
    enable(conn, sample_rate=1.0)
    query = text(QUERIES[0])
    statement = (
        "SELECT id FROM items ORDER BY embedding <=> (SELECT vectuned.apply('items', %s, 7{})) LIMIT 7"
    )
    for call in ("", ", filtered => true", ", filter => '{\"part\": 4}'"):
        conn.execute(raw(statement.format(call)), (query,))
    assert recorded(conn) == []  # the rows that such statements ask for are unknown
    assert len(conn.execute(raw(statement.format(", filtered => false")), (query,)).fetchall()) == 7
    assert recorded(conn) == [(7, "unknown", [], None)]
    with conn.transaction():
        conn.execute("SET TRANSACTION READ ONLY")
        conn.execute(raw(statement.format(", filtered => false")), (query,))
    with conn.transaction():
        conn.execute("SET LOCAL vectuned.record = off")
        conn.execute(raw(statement.format(", filtered => false")), (query,))
    assert len(recorded(conn)) == 1
    conn.execute("SELECT vectuned._drain(10)")
    assert one(conn, "SELECT (source, k, query = %s::vector)::text FROM vectuned.trajectory", query) == (
        "(client,7,t)"
    )
    enable(conn, sample_rate=0.0)
    conn.execute(raw(statement.format(", filtered => false")), (query,))
    assert recorded(conn) == []


def test_apply_follows_what_an_alarm_raised(conn: Connection) -> None:
    column = parted(conn)
    conn.execute("UPDATE vectuned.bank SET ef_search = 333 WHERE column_id = %s", (column,))
    with conn.transaction():
        conn.execute("SELECT vectuned.apply('items', %s, 10, filtered => false)", (text(QUERIES[0]),))
        assert one(conn, "SHOW hnsw.ef_search") == "333"


def test_apply_leaves_no_setting_behind(conn: Connection) -> None:
    parted(conn)
    settings = "SELECT array_agg(name || setting ORDER BY name) FROM pg_settings WHERE name <> 'search_path'"
    conn.execute("SELECT '[1]'::vector")
    before = one(conn, settings)
    for call in ("", ", filtered => false"):
        conn.execute(raw(f"SELECT vectuned.apply('items', %s, 10{call})"), (text(QUERIES[0]),))
    assert one(conn, settings) == before


def served(conn: Connection, k: int = 10, call: str = ", filtered => false") -> int:
    """Return the effort that `apply` sets in this session."""
    with conn.transaction():
        conn.execute(raw(f"SELECT vectuned.apply('items', %s, {k}{call})"), (text(QUERIES[0]),))
        return int(one(conn, "SHOW hnsw.ef_search"))


CHANGES = {
    "a publish": ("DELETE FROM vectuned.bank; DELETE FROM vectuned.measured_path", 40),
    "an alarm": ("SELECT vectuned._fall_back({column}, NULL, NULL, 'test')", None),
    "a walk": ("UPDATE vectuned.bank SET ef_search = 77", 77),
    "disable": ("SELECT vectuned.disable('items', 'embedding')", 40),
    "forget and enable": (
        "SELECT vectuned.disable('items', 'embedding', forget => true); "
        "SET LOCAL hnsw.ef_search = 55; SELECT vectuned.enable('items', 'embedding')",
        55,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ"])
def test_apply_of_another_session_follows_every_change_once_it_is_committed(
    conn: Connection, change: str, isolation: str
) -> None:
    column = parted(conn)
    statement, expected = CHANGES[change]
    with psycopg.connect(conn.info.dsn, autocommit=True) as other:
        assert [served(other), served(other), served(other, call="")] == [10, 10, 40]
        other.execute(raw(f"BEGIN ISOLATION LEVEL {isolation}"))
        assert served(other) == 10
        with conn.transaction():
            conn.execute(raw(statement.format(column=column)))
            assert served(other) == 10
        if isolation == "REPEATABLE READ":
            assert served(other) == 10  # its snapshot is older than the change
        other.execute("COMMIT")
        now = served(conn)
        assert now == expected if expected else now > 10
        assert [served(other), served(other), served(other, call="")] == [now, now, max(now, 40)]


def test_apply_keeps_nothing_of_a_change_that_is_rolled_back(conn: Connection) -> None:
    parted(conn)
    update = "UPDATE vectuned.bank SET ef_search = 88"
    with conn.transaction(force_rollback=True):
        conn.execute(raw(update))
        assert served(conn) == 88
    assert served(conn) == 10
    with conn.transaction():
        with conn.transaction(force_rollback=True):
            conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
            conn.execute(raw(update))
            assert served(conn) == 88
        assert served(conn) == 10
        conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
        conn.execute(raw(update))
        assert served(conn) == 88
        conn.execute("UPDATE vectuned.bank SET ef_search = 99")
        assert served(conn) == 99
    assert served(conn) == 99


def test_apply_keeps_nothing_while_another_change_is_being_committed(conn: Connection) -> None:
    parted(conn)
    with psycopg.connect(conn.info.dsn) as writer, psycopg.connect(conn.info.dsn, autocommit=True) as reader:
        assert served(reader) == 10
        writer.execute("UPDATE vectuned.bank SET ef_search = 66")
        writer.execute("SET CONSTRAINTS ALL IMMEDIATE")  # as COMMIT does, before the change is visible
        assert [served(reader), served(reader)] == [10, 10]
        writer.commit()
        assert [served(reader), served(reader)] == [66, 66]


def test_apply_follows_two_changes_at_once_and_a_change_by_the_daemons_role(conn: Connection) -> None:
    parted(conn)
    publish(conn, one(conn, "SELECT id FROM vectuned.tuned_column"), [0.0], k_class=30, fixed_ef=30)
    grants = ("USAGE ON SCHEMA vectuned", "SELECT, UPDATE ON vectuned.bank")
    with (
        plain_role(conn, conn.info.dsn, *grants) as first,
        psycopg.connect(conn.info.dsn) as second,
        psycopg.connect(conn.info.dsn, autocommit=True) as reader,
    ):
        assert [served(reader), served(reader, 30)] == [10, 30]
        second.execute("UPDATE vectuned.bank SET ef_search = 61 WHERE k_class = 30")
        first.execute("UPDATE vectuned.bank SET ef_search = 62 WHERE k_class = 10")
        assert [served(reader), served(reader, 30)] == [62, 30]
        second.commit()
        assert [served(reader), served(reader, 30)] == [62, 61]


def test_apply_keeps_efforts_of_two_columns_apart_and_drops_those_of_a_former_one(conn: Connection) -> None:
    column = parted(conn)
    statement = "SELECT vectuned.apply('items', %s, 10, column_name => '{}', filtered => false)"
    conn.execute('ALTER TABLE items ADD "Embedding" vector(24)')
    conn.execute('CREATE INDEX ON items USING hnsw ("Embedding" vector_cosine_ops)')
    conn.execute("SET hnsw.ef_search = 47")
    conn.execute("SELECT vectuned.enable('items', 'Embedding')")
    conn.execute("RESET hnsw.ef_search")
    for _ in range(2):
        for name, effort in (("embedding", "10"), ("Embedding", "47")):
            with conn.transaction():
                conn.execute(raw(statement.format(name)), (text(QUERIES[0]),))
                assert one(conn, "SHOW hnsw.ef_search") == effort
    conn.execute(
        'ALTER TABLE items RENAME embedding TO former; ALTER TABLE items RENAME "Embedding" TO embedding'
    )
    conn.execute("SELECT vectuned.refresh('items')")
    with conn.transaction():
        conn.execute(raw(statement.format("embedding")), (text(QUERIES[0]),))
        assert one(conn, "SHOW hnsw.ef_search") == "47"
    assert column != one(conn, "SELECT id FROM vectuned.tuned_column WHERE column_name = 'embedding'")


def test_a_function_around_apply_is_inlined_and_serves_the_proven_effort(conn: Connection) -> None:
    parted(conn)
    enable(conn, sample_rate=1.0)
    conn.execute(
        "CREATE FUNCTION nearest_items(query vector, k bigint) RETURNS TABLE (id int, distance float8) "
        "LANGUAGE sql STABLE ROWS 10 AS $$ SELECT i.id, i.embedding <=> query FROM items i ORDER BY "
        "i.embedding <=> (SELECT vectuned.apply('items', query, k, filtered => false)) LIMIT k $$"
    )
    query = text(QUERIES[0])
    statement = "SELECT * FROM nearest_items(%s, 10)"
    plan = "\n".join(row[0] for row in conn.execute("EXPLAIN (COSTS off) " + statement, (query,)))
    assert "Function Scan" not in plan
    assert "InitPlan" in plan
    assert INDEX in plan
    plain = "SELECT id, embedding <=> %s FROM items ORDER BY embedding <=> %s::vector LIMIT 10"
    with conn.transaction():
        found = conn.execute(statement, (query,)).fetchall()
        assert one(conn, "SHOW hnsw.ef_search") == "10"
        assert conn.execute(plain, (query, query)).fetchall() == found
    assert [k for k, *_ in recorded(conn)] == [10]


def test_apply_sets_nothing_else_whatever_stands_in_the_settings_it_keeps(conn: Connection) -> None:
    parted(conn)
    statement = "SELECT vectuned.apply('items', %s, 10, 'embedding', false)"

    def efforts(forged: str | None) -> tuple[str, str]:
        with conn.transaction():
            if forged is not None:
                conn.execute("SELECT set_config(%s, %s, false)", (setting, forged))
            conn.execute(raw(statement), (text(QUERIES[0]),))
            return one(conn, "SHOW hnsw.ef_search"), one(conn, "SHOW search_path")

    setting = one(conn, "SELECT vectuned._effort_setting('items'::regclass, 'embedding', 10, false)")
    path = one(conn, "SHOW search_path")
    assert efforts(None) == ("10", path)
    kept = one(conn, "SELECT current_setting(%s)", setting)
    assert len(kept.split("|")) == 5
    for broken in ("broken", "{1,2}", "|||||", "{"):
        assert efforts(broken) == ("10", path)
    version = kept.split("|")[0]
    assert efforts(f"{version}|search_path|77|-2147483648|1") == ("77", path)
