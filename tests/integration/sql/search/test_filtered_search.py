"""Filtered searches on every access path: results, rights, and what is recorded."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import psycopg
import pytest
from tests.integration.table_helpers import (
    Connection,
    Singles,
    build,
    clustered,
    enable,
    exact,
    make,
    one,
    plain_role,
    publish,
    raw,
    search,
    search_filtered,
    settings,
    text,
)

from vectuned.learning.policy.filtering import selectivity_buckets

ROWS = 2000
QUERIES: Singles = clustered(4, 16, seed=2)


def prepare(
    conn: Connection, *, kind: str = "vector", metric: str = "cosine", rate: float = 1.0, rows: int = ROWS
) -> int:
    """Make a table whose column `kind` halves with every value: 0 for half of the rows, 1 for a quarter."""
    make(conn, clustered(rows, 16, seed=1), kind=kind, index=False)
    conn.execute("ALTER TABLE items ADD COLUMN kind int, ADD COLUMN name text")
    conn.execute("UPDATE items SET kind = log(2, (id & -id)::numeric)::int")
    conn.execute("UPDATE items SET name = 'n' || kind WHERE kind <> 3")
    conn.execute("VACUUM ANALYZE items")
    build(conn, kind=kind, metric=metric)
    return enable(conn, sample_rate=rate)


def among(conn: Connection, query: Any, where: str, **how: Any) -> dict[str, float]:
    """Return the distances of all rows that meet a condition, by id."""
    inside = {str(r[0]) for r in conn.execute(raw(f"SELECT id::text FROM items WHERE {where}")).fetchall()}
    return {key: d for key, d in exact(conn, query, 10**6, **how) if key in inside}


EXACT = 0


def force(
    conn: Connection,
    column: int,
    efforts: int | dict[int, int],
    conditions: Iterable[object],
    *,
    k_class: int,
) -> None:
    """Publish that filters shaped like these conditions are served with an effort, EXACT or ef_search.

    One for all buckets, or by bucket, and nothing of the others.
    """
    publish(conn, column, [3.0], k_class=k_class)
    conn.execute(
        "DELETE FROM vectuned.measured_path WHERE column_id = %s AND k_class = %s", (column, k_class)
    )
    chosen = efforts if isinstance(efforts, dict) else dict.fromkeys(range(40), efforts)
    shapes = {
        one(
            conn,
            "SELECT m.shape FROM vectuned.tuned_column c, "
            "vectuned._compile_filter(c.id, c.relation, %s::jsonb) m WHERE c.id = %s",
            json.dumps(condition),
            column,
        )
        for condition in conditions
    }
    with conn.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO vectuned.measured_path (column_id, k_class, shape, bucket, access_path, index_no, "
            "effort, expected_recall, recall_bound, proven, ms, samples, serves) "
            "VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 0.95, true, 1, 100, true)",
            [
                (column, k_class, shape, bucket, "hnsw", 1, effort, 0.97)
                if effort != EXACT
                else (column, k_class, shape, bucket, "exact", None, None, 1)
                for shape in shapes
                for bucket, effort in chosen.items()
            ],
        )


def recorded(conn: Connection) -> list[tuple[Any, ...]]:
    """Take what was recorded out of the inbox: path, ef_search, filter, fraction, rows.

    The index is named where one gave the rows, and only there.
    """
    rows = conn.execute(
        "DELETE FROM vectuned.inbox "
        "RETURNING access_path, ef_search, filter, fraction, cardinality(result_ids), index_no, probes"
    ).fetchall()
    for path, *_, index, probes in rows:
        assert (index, probes) == (None if path.startswith("exact") else 1, None)
    return [tuple(row[:5]) for row in rows]


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("kind", ["vector", "halfvec"])
@pytest.mark.parametrize("ef", [EXACT, 100, 1000])
def test_filtered_search_returns_as_many_rows_as_match(
    conn: Connection, kind: str, metric: str, ef: int
) -> None:
    column = prepare(conn, kind=kind, metric=metric)
    conditions = {
        "kind = 0": {"kind": 0},
        "kind = 5": {"kind": 5},
        "kind = 99": {"kind": 99},
        "name IS NULL": {"name": None},
        "kind >= 2 AND name IN ('n2', 'n7')": {"kind": {">=": 2}, "name": ["n2", "n7"]},
    }
    for k in (1, 10, 100, 1000):
        force(conn, column, ef, conditions.values(), k_class=k)
        for query in QUERIES[:2]:
            for where, condition in conditions.items():
                every = among(conn, query, where, kind=kind, metric=metric)
                answer = search_filtered(conn, query, k, condition)
                assert len(answer) == len({key for key, _ in answer}) == min(k, len(every))
                assert all(every[key] == distance for key, distance in answer)
                distances = np.array([distance for _, distance in answer])
                assert (np.diff(distances) >= -1e-6 * np.abs(distances[1:])).all()
                ((path, used, _, fraction, count),) = recorded(conn)
                assert count == len(answer)
                assert fraction >= 0
                if path.startswith("exact"):
                    assert distances.tolist() == sorted(every.values())[:k]
                assert used == (max(ef, k) if ef else None)
                assert path in (("hnsw_filtered", "exact_after_hnsw") if ef else ("exact",))


@pytest.mark.parametrize("ef", [EXACT, 100])
@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_filtered_search_leaves_out_zero_and_null_vectors(conn: Connection, metric: str, ef: int) -> None:
    vectors = list(clustered(30, 16, seed=1))
    make(conn, [*vectors, None, np.zeros(16, np.float32), None], metric=metric)
    column = enable(conn)
    for k_class in (10, 100):
        force(conn, column, ef, [{"id": {">": 0}}], k_class=k_class)
    wanted = exact(conn, QUERIES[0], 40, metric=metric)
    assert len(wanted) == (30 if metric == "cosine" else 31)
    for k in (5, 30, 31, 32, 40):
        assert search_filtered(conn, QUERIES[0], k, {"id": {">": 0}}) == wanted[:k]
    conn.execute("DROP INDEX items_embedding_idx")
    for k in (5, 30, 31, 32, 40):
        assert search_filtered(conn, QUERIES[0], k, {"id": {">": 0}}) == wanted[:k]


@pytest.mark.parametrize("ef", [EXACT, 100])
@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_filtered_search_names_bad_queries(conn: Connection, kind: str, ef: int) -> None:
    column = prepare(conn, kind=kind)
    force(conn, column, ef, [{"kind": 0}], k_class=10)
    tiny = 0.0 if kind == "vector" else 1e-20
    cases: list[tuple[Any, int, str, str]] = [
        ([0.0] * 15 + [tiny], 10, "22023", "is zero and has no cosine distance"),
        ([1.0] * 15, 10, "22000", "has 15 dimensions"),
        ([1.0] * 16, 0, "22023", "k must be between"),
        ([1.0] * 16, 1001, "22023", "k must be between"),
    ]
    if kind == "halfvec":
        cases.append(([70000.0] * 16, 10, "22003", '^"70000" is out of range for type halfvec'))
    for query, k, state, words in cases:
        with pytest.raises(psycopg.Error, match=words) as raised:
            search_filtered(conn, query, k, {"kind": 0})
        assert raised.value.sqlstate == state
    assert recorded(conn) == []


def test_filtered_search_with_composite_and_uuid_keys(conn: Connection) -> None:
    conn.execute(
        "CREATE TABLE pairs (tenant int, \"no, 'x'\" text, size int, embedding vector(16), "
        "PRIMARY KEY (tenant, \"no, 'x'\"))"
    )
    conn.execute("CREATE TABLE documents (id uuid PRIMARY KEY, tenant int, embedding vector(16))")
    for number, vector in enumerate(clustered(300, 16, seed=1)):
        values = (number % 3, f'r"{number}', number % 10, text(vector))
        conn.execute("INSERT INTO pairs VALUES (%s, %s, %s, %s)", values)
        entry = (f"00000000-0000-0000-0000-{number:012d}", number % 3, text(vector))
        conn.execute("INSERT INTO documents VALUES (%s, %s, %s)", entry)
    for table in ("pairs", "documents"):
        conn.execute(raw(f"CREATE INDEX ON {table} USING hnsw (embedding vector_l2_ops)"))
        conn.execute(raw(f"ANALYZE {table}"))
        column = enable(conn, table)
        for ef in (EXACT, 1000):
            force(conn, column, ef, [{"tenant": 2}], k_class=30)
            key = "jsonb_build_array(tenant, \"no, 'x'\")" if table == "pairs" else "id"
            wanted = conn.execute(
                raw(
                    f"SELECT {key}::text, embedding <-> '{text(QUERIES[0])}' FROM {table} "
                    "WHERE tenant = 2 ORDER BY 2 LIMIT 20"
                )
            ).fetchall()
            assert search_filtered(conn, QUERIES[0], 20, {"tenant": 2}, table) == wanted
            rows = conn.execute(
                (
                    f"SELECT tenant, embedding <-> %s FROM vectuned.search_rows(NULL::{table}, %s, 20, %s)"
                ).encode(),
                (text(QUERIES[0]), text(QUERIES[0]), '{"tenant": 2}'),
            ).fetchall()
            assert rows == [(2, distance) for _, distance in wanted]


def test_search_rows_with_a_filter(conn: Connection) -> None:
    prepare(conn)
    rows = conn.execute(
        "SELECT id::text, kind, name FROM vectuned.search_rows(NULL::items, %s, 50, %s)",
        (text(QUERIES[0]), '{"kind": [4, 5]}'),
    ).fetchall()
    answer = search_filtered(conn, QUERIES[0], 50, {"kind": [4, 5]})
    assert [row[0] for row in rows] == [key for key, _ in answer]
    assert {row[1:] for row in rows} == {(4, "n4"), (5, "n5")}
    assert len(recorded(conn)) == 2


def test_filtered_search_respects_transactions_and_restores_settings(conn: Connection) -> None:
    column = prepare(conn)
    for ef in (EXACT, 200):
        force(conn, column, ef, [{"kind": 0}], k_class=10)
        before = settings(conn)
        wanted = search_filtered(conn, QUERIES[0], 10, {"kind": 0})
        assert len(recorded(conn)) == 1
        with conn.transaction():
            search_filtered(conn, QUERIES[0], 10, {"kind": 0})
            assert settings(conn) == before
        with conn.transaction():
            conn.execute("SET TRANSACTION READ ONLY")
            assert search_filtered(conn, QUERIES[0], 10, {"kind": 0}) == wanted
        assert settings(conn) == before
        assert len(recorded(conn)) == 1
        conn.execute("SET vectuned.record = off")
        assert search_filtered(conn, QUERIES[0], 10, {"kind": 0}) == wanted
        conn.execute("RESET vectuned.record")
        with pytest.raises(psycopg.Error):
            search_filtered(conn, QUERIES[0], 10, {"kind": "x"})
        assert settings(conn) == {**before, "vectuned.record": ""} or settings(conn) == before
        assert recorded(conn) == []


def test_filtered_search_by_other_roles_and_under_row_security(conn: Connection, database: str) -> None:
    prepare(conn)
    query = QUERIES[0]
    with plain_role(conn, database, "SELECT ON items") as reader:
        assert search_filtered(reader, query, 10, {"kind": 1}) == search_filtered(
            conn, query, 10, {"kind": 1}
        )
        assert one(
            reader, "SELECT access_path FROM vectuned.params('items', %s, 10, '{\"kind\": 1}')", text(query)
        )
        assert [row[2] for row in recorded(conn)] == [{"kind": 1}] * 2
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("SELECT * FROM vectuned.filter_statistics")
        conn.execute("ALTER TABLE items ENABLE ROW LEVEL SECURITY")
        conn.execute("CREATE POLICY fifths ON items USING (id % 5 = 0)")
        for k in (10, 1000):
            every = among(conn, query, "kind = 1 AND id % 5 = 0")
            answer = search_filtered(reader, query, k, {"kind": 1})
            assert answer == sorted(every.items(), key=lambda pair: pair[1])[:k]
        assert search_filtered(reader, query, 10, {"id": 7}) == []
        assert recorded(conn) == []
    with plain_role(conn, database) as stranger, pytest.raises(psycopg.errors.InsufficientPrivilege):
        search_filtered(stranger, query, 10, {"kind": 1})


def test_filtered_search_uses_the_index_of_the_filter(conn: Connection) -> None:
    column = prepare(conn, rate=0.0)
    conn.execute("CREATE INDEX partial ON items (id) WHERE name = 'n4'")
    conn.execute("CREATE INDEX plain ON items (kind)")
    conn.execute("ANALYZE items")
    force(conn, column, EXACT, [{"name": "n4"}, {"kind": 6}], k_class=10)
    for index, condition in (("partial", {"name": "n4"}), ("plain", {"kind": 6})):
        statement = "SELECT pg_stat_get_xact_numscans(%s::regclass::oid)"
        with conn.transaction():
            before = one(conn, statement, index)
            assert len(search_filtered(conn, QUERIES[0], 10, condition)) == 10
            assert one(conn, statement, index) == before + 1


def test_filtered_search_of_a_renamed_table(conn: Connection) -> None:
    prepare(conn)
    wanted = {k: search_filtered(conn, QUERIES[0], k, {"kind": 3}) for k in (1, 10, 300)}
    recorded(conn)
    conn.execute("ALTER TABLE items RENAME TO moved")
    for k, answer in wanted.items():
        assert search_filtered(conn, QUERIES[0], k, {"kind": 3}, "moved") == answer
        assert len(search_filtered(conn, QUERIES[0], k, {}, "moved")) == k
    with pytest.raises(
        psycopg.errors.InvalidTextRepresentation, match=r"does not fit the columns of public\.moved"
    ):
        search_filtered(conn, QUERIES[0], 10, {"kind": "x"}, "moved")
    assert recorded(conn) == []


def test_filtered_search_path_equals_params_and_the_record(conn: Connection) -> None:
    column = prepare(conn)

    def params_of(condition: object, k: int = 10) -> tuple[Any, ...]:
        row = conn.execute(
            "SELECT access_path, ef_search, expected_recall, confidence, reason, probes, index::text "
            "FROM vectuned.params('items', %s, %s, %s::jsonb)",
            (text(QUERIES[0]), k, json.dumps(condition)),
        ).fetchone()
        assert row is not None
        assert row[5:] == (None, None if row[0] == "exact" else "items_embedding_idx")
        search_filtered(conn, QUERIES[0], k, condition)
        return tuple(row[:5])

    # Without learning: exact search for up to 10,000 matching rows, the index for more.
    assert params_of({"kind": 0})[:4] == ("exact", None, 1, 1)
    conn.execute("UPDATE pg_class SET reltuples = 1e6 WHERE oid = 'items'::regclass")
    path, ef, recall, confidence, reason = params_of({"kind": 0})
    assert (path, ef, recall, confidence) == ("hnsw", 60, None, 0)
    assert "nothing has been learned" in reason
    assert params_of({"kind": 7})[:2] == ("exact", None)
    records = recorded(conn)
    assert [(p, e, f) for p, e, f, _, _ in records] == [
        ("exact", None, {"kind": 0}),
        ("hnsw_filtered", 60, {"kind": 0}),
        ("exact", None, {"kind": 7}),
    ]
    np.testing.assert_allclose([s[3] for s in records], [1 / 2, 1 / 2, 1 / 256], rtol=0.15)
    # With learning: by selectivity bucket; a matching share of a half uses the index, a quarter exact search.
    efforts = {bucket: 150 if bucket in (1, 2) else EXACT for bucket in range(40)}
    force(conn, column, efforts, [{"kind": 0}], k_class=10)
    assert params_of({"kind": 0})[:4] == ("hnsw", 150, 0.97, 0.95)
    assert "measured to be faster than exact" in params_of({"kind": 0})[4]
    path, ef, recall, confidence, reason = params_of({"kind": 1})
    assert (path, ef, recall, confidence) == ("exact", None, 1, 1)
    assert "exact search was measured to be faster" in reason
    assert [(p, e) for p, e, *_ in recorded(conn)] == [("hnsw_filtered", 150)] * 2 + [("exact", None)]
    # Nothing is known about other classes of k, filters of other shapes, and other buckets.
    for condition, k in (({"kind": 0}, 30), ({"kind": {"<": 1}}, 10), ({"id": {">": 0}, "kind": 0}, 10)):
        path, ef, recall, confidence, reason = params_of(condition, k)
        assert (path, recall, confidence) == ("hnsw", None, 0), condition
        assert ef >= 3 * k
        assert "nothing has been learned" in reason
    force(conn, column, {3: 150}, [{"kind": 0}], k_class=10)
    assert params_of({"kind": 0})[:4] == ("hnsw", 60, None, 0)
    recorded(conn)
    # If the effort finds too few rows, exact search completes the result, and the record says so.
    force(conn, column, 10, [{"kind": 5}], k_class=10)
    assert params_of({"kind": 5})[:2] == ("hnsw", 10)
    assert [row[0] for row in recorded(conn)] == ["exact_after_hnsw"]
    assert search_filtered(conn, QUERIES[0], 10, {"kind": 5}) == search_filtered(
        conn, QUERIES[0], 10, {"kind": [5, 99]}
    )
    # An empty filter is no filter.
    recorded(conn)
    assert params_of({}, k=30)[0] == "hnsw"
    assert search_filtered(conn, QUERIES[0], 30, {}) == search(conn, QUERIES[0], 30)
    assert {(row[0], row[2], row[3]) for row in recorded(conn)} == {("hnsw", None, None)}


@pytest.mark.parametrize(
    ("cap", "share", "expected"),
    [
        ("NULL", 0.5, ("hnsw", 60)),
        ("NULL", 0.1, ("hnsw", 300)),
        ("NULL", 0.03, ("hnsw_continued", 400)),
        ("120", 0.1, ("hnsw_continued", 120)),
        ("NULL", 0.001, ("exact", None)),
    ],
)
def test_filters_of_which_nothing_is_learned_start_within_limits(
    conn: Connection, cap: str, share: float, expected: tuple[str, int | None]
) -> None:
    prepare(conn)
    conn.execute("UPDATE pg_class SET reltuples = 1e6 WHERE oid = 'items'::regclass")
    conn.execute(raw(f"UPDATE vectuned.tuned_column SET max_effort = {cap}"))
    row = conn.execute(
        "SELECT access_path, effort FROM vectuned._filtered_default(%s, 'items', 10, 40, NULL)", (share,)
    ).fetchone()
    assert row == expected


@pytest.mark.parametrize(
    ("daemons", "columns", "effort"), [(120, None, 120), (120, 90, 90), (90, 120, 90), (0, 120, 120)]
)
def test_filters_of_which_nothing_is_learned_obey_the_cap_of_the_daemon_too(
    conn: Connection, daemons: int, columns: int | None, effort: int
) -> None:
    prepare(conn)
    conn.execute("UPDATE pg_class SET reltuples = 1e6 WHERE oid = 'items'::regclass")
    conn.execute("UPDATE vectuned.tuned_column SET max_effort = %s", (columns,))
    conn.execute("SELECT vectuned._cap_efforts(%s)", (daemons,))
    assert one(conn, "SELECT effort FROM vectuned._filtered_default(0.1, 'items', 10, 40, NULL)") == effort


def test_filters_of_which_nothing_is_learned_find_k_rows_whatever_the_cap(conn: Connection) -> None:
    prepare(conn)
    # The planner thinks that a third of a large table matches: the scan has to go on.
    conn.execute("UPDATE pg_class SET reltuples = 1e6 WHERE oid = 'items'::regclass")
    conn.execute("UPDATE vectuned.tuned_column SET max_effort = 20")
    for query in QUERIES:
        found = search_filtered(conn, query, 10, {"kind": 4})
        assert len(found) == 10
        assert {key for key, _ in found} <= among(conn, query, "kind = 4").keys()
    paths = conn.execute("SELECT DISTINCT access_path FROM vectuned.inbox").fetchall()
    assert paths == [("hnsw_continued_filtered",)]


def test_selectivity_buckets_are_the_same_in_sql(conn: Connection) -> None:
    rng = np.random.default_rng(1)
    fractions = np.concatenate(
        [rng.random(300), 10.0 ** rng.uniform(-9, 0, 300), 2.0 ** -np.arange(0, 25), [0.0, 1.0, 1.5, -1.0]]
    )
    rows = conn.execute(
        "SELECT vectuned._filter_bucket(f) FROM unnest(%s::float8[]) WITH ORDINALITY AS u (f, n) ORDER BY n",
        (fractions.tolist(),),
    ).fetchall()
    assert [row[0] for row in rows] == selectivity_buckets(fractions).tolist()
