"""Exact answers on a real server, compared with those of SQL and of numpy."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
import pytest
from psycopg import sql

from vectuned.config.errors import UsageError, VectunedError
from vectuned.learning.model.column import Metric, VectorColumn, VectorType
from vectuned.learning.truth.recall import recall_at_k, recall_curve
from vectuned.learning.truth.truth import Truth, exact_neighbors

Connection = psycopg.Connection[Any]
Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]

METRICS: tuple[Metric, ...] = ("cosine", "l2", "ip")
TYPES: tuple[VectorType, ...] = ("vector", "halfvec")


@pytest.fixture
def conn(plain_conn: Connection) -> Connection:
    """A connection in autocommit mode, so that each test begins its own transactions."""
    plain_conn.commit()
    plain_conn.autocommit = True
    return plain_conn


def text(vector: Singles) -> str:
    """Write a vector as pgvector reads it, to the last digit."""
    return "[" + ",".join(map(str, vector.tolist())) + "]"


def tuned(conn: Connection, table: str, metric: Metric, kind: VectorType, dimensions: int) -> VectorColumn:
    """Describe the column `embedding` of a table in the schema public."""
    row = conn.execute(
        "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
    ).fetchone()
    assert row is not None
    return VectorColumn(1, "public", table, "embedding", metric, kind, dimensions, ("id",), row[0])


def table_bytes(conn: Connection) -> int:
    """Return the bytes of the table `items`, or its partitions, without what is stored out of line."""
    row = conn.execute(
        "SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'items%'"
    ).fetchone()
    assert row is not None
    return int(row[0])


def load(
    conn: Connection, column: VectorColumn, vectors: Singles, declaration: str = "", missing: int = 0
) -> None:
    """Create the column's table with the given vectors, then rows without one."""
    conn.execute(
        sql.SQL("CREATE TABLE {} (id bigint, class int, {} {}({})) {}").format(
            column.relation,
            column.vector,
            column.type_name,
            sql.Literal(column.dimensions),
            sql.SQL(declaration),
        )
    )
    add(conn, column, vectors)
    conn.execute(
        sql.SQL("INSERT INTO {} (id) SELECT -i FROM generate_series(1, {}) i").format(
            column.relation, missing
        )
    )


def add(conn: Connection, column: VectorColumn, vectors: Singles, first: int = 0) -> None:
    """Insert vectors with ids from `first` on; the class is the id's last digit, NULL for 9."""
    with conn.cursor() as cursor, cursor.copy(sql.SQL("COPY {} FROM STDIN").format(column.relation)) as copy:
        for number, vector in enumerate(vectors, first):
            copy.write_row((number, number % 10 if number % 10 < 9 else None, text(vector)))


def sql_distances(
    conn: Connection, column: VectorColumn, query: Singles, k: int, where: sql.Composable | None = None
) -> list[float]:
    """Return the exact k nearest by SQL, without the rows that an index leaves out."""
    distance = column.distance(sql.Literal(text(query)))
    statement = sql.SQL(
        "SELECT d FROM (SELECT {} AS d FROM {} AS t WHERE {} OFFSET 0) s WHERE d <> 'NaN' ORDER BY d LIMIT {}"
    )
    condition = where or sql.SQL("true")
    rows = conn.execute(statement.format(distance, column.relation, condition, k))
    return [row[0] for row in rows]


def padded(rows: list[list[float]], width: int = 0) -> Floats:
    """Make an array of rows of different lengths, padded with +inf."""
    width = max(width, *map(len, rows))
    return np.array([row + [np.inf] * (width - len(row)) for row in rows])


def assert_agrees(truth: Truth, expected: Floats) -> None:
    """Check that the distances are as many as expected, and equal within the tolerance of float32."""
    filled = np.isfinite(truth.distances)
    assert (filled == np.isfinite(expected)).all()
    assert (np.abs(truth.distances[filled] - expected[filled]) <= truth.tolerances[filled]).all()


def sample(rng: np.random.Generator, count: int, dimensions: int) -> Singles:
    """Draw vectors with some duplicates and some of zero length."""
    vectors = rng.standard_normal((count, dimensions), dtype=np.float32)
    vectors[rng.integers(0, count, count // 10)] = vectors[0]
    vectors[rng.integers(0, count, count // 50)] = 0.0
    return vectors


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_exact_neighbors_are_those_of_an_exact_sql_search(
    conn: Connection, metric: Metric, kind: VectorType
) -> None:
    rng = np.random.default_rng(1)
    column = tuned(conn, "items", metric, kind, 48)
    vectors = sample(rng, 2500, 48)
    load(conn, column, vectors, missing=100)
    queries = np.concatenate([rng.standard_normal((12, 48), dtype=np.float32), vectors[:1]])
    k = rng.integers(1, 60, len(queries))
    truth = exact_neighbors(conn, column, queries, k, block_rows=700, query_chunk=5)
    assert truth.scanned == 2500
    assert (truth.counts == k).all()
    expected = padded([sql_distances(conn, column, q, n) for q, n in zip(queries, k.tolist(), strict=True)])
    assert_agrees(truth, expected)
    assert (recall_at_k(expected, truth, k) == 1.0).all()
    assert (recall_at_k(expected, truth, 1) == 1.0).all()
    nowhere = padded(
        [[np.nextafter(row[n - 1] + 1e-3, np.inf)] * n for row, n in zip(expected, k, strict=True)]
    )
    assert (recall_at_k(nowhere, truth, k) == 0.0).all()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("metric", METRICS)
def test_exact_neighbors_return_the_addresses_of_the_rows(
    conn: Connection, metric: Metric, kind: VectorType
) -> None:
    rng = np.random.default_rng(2)
    column = tuned(conn, "items", metric, kind, 16)
    load(conn, column, sample(rng, 600, 16))
    queries = rng.standard_normal((5, 16), dtype=np.float32)
    truth = exact_neighbors(conn, column, queries, 20)
    statement = sql.SQL("SELECT {} FROM {} AS t WHERE tableoid = %s AND ctid = %s::tid").format(
        column.distance(sql.Placeholder()), column.relation
    )
    for query in range(5):
        for rank in range(20):
            ctid = int(truth.ctids[query, rank])
            place = (int(truth.tableoids[query, rank]), f"({ctid >> 16},{ctid & 65535})")
            row = conn.execute(statement, (text(queries[query]), *place)).fetchone()
            assert row is not None
            assert abs(row[0] - truth.distances[query, rank]) <= truth.tolerances[query, rank]


@pytest.mark.parametrize("metric", METRICS)
def test_exact_neighbors_of_halfvec_are_those_of_the_rounded_vectors(
    conn: Connection, metric: Metric
) -> None:
    rng = np.random.default_rng(3)
    column = tuned(conn, "items", metric, "halfvec", 20)
    vectors, queries = (rng.standard_normal((n, 20), dtype=np.float32) for n in (800, 6))
    load(conn, column, vectors)
    truth = exact_neighbors(conn, column, queries, 10)
    left, right = queries.astype(np.float16).astype(np.float64), vectors.astype(np.float16).astype(np.float64)
    lengths = np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1)
    distances = {
        "cosine": 1 - left @ right.T / lengths,
        "l2": np.linalg.norm(left[:, None] - right, axis=2),
        "ip": -left @ right.T,
    }[metric]
    np.testing.assert_allclose(truth.distances, np.sort(distances, axis=1)[:, :10], rtol=1e-9)


def test_exact_neighbors_read_wide_vectors_from_toast(conn: Connection) -> None:
    rng = np.random.default_rng(4)
    column = tuned(conn, "items", "cosine", "vector", 1536)
    vectors = rng.standard_normal((300, 1536), dtype=np.float32)
    load(conn, column, vectors)
    read: list[int] = []
    truth = exact_neighbors(conn, column, vectors[:20], 3, on_read=read.append)
    assert (truth.distances[:, 0] < 1e-12).all()
    # Out of line: more than the blocks of the table.
    assert sum(read) == 300 * (1536 * 4 + 28) > table_bytes(conn)
    expected = padded([sql_distances(conn, column, query, 3) for query in vectors[:20]])
    assert_agrees(truth, expected)


@pytest.mark.parametrize("metric", METRICS)
def test_exact_neighbors_apply_the_filter_of_each_query(conn: Connection, metric: Metric) -> None:
    rng = np.random.default_rng(5)
    column = tuned(conn, "items", metric, "vector", 12)
    load(conn, column, sample(rng, 1500, 12), missing=20)
    queries = rng.standard_normal((40, 12), dtype=np.float32)
    filters: list[sql.Composable | None] = [
        sql.SQL("class = 3"),
        None,
        sql.SQL("class = {} OR t.id % 100 = 17").format(sql.Literal(5)),
        sql.SQL("class <> 2"),  # NULL where the class is NULL
        sql.SQL("false"),
    ]
    filter_of = rng.integers(0, 5, 40)
    k = rng.integers(1, 300, 40)
    truth = exact_neighbors(conn, column, queries, k, filters=filters, filter_of=filter_of, block_rows=333)
    assert truth.scanned == 1500
    expected = []
    for query, count, index in zip(queries, k.tolist(), filter_of.tolist(), strict=True):
        expected.append(sql_distances(conn, column, query, count, filters[index]))
    assert truth.counts.tolist() == [len(row) for row in expected]
    assert (recall_at_k(padded(expected), truth, k) == 1.0).all()
    assert_agrees(truth, padded(expected, int(k.max())))
    assert (truth.counts[filter_of == 4] == 0).all()


def test_exact_neighbors_stream_only_rows_that_match_a_filter(conn: Connection) -> None:
    rng = np.random.default_rng(6)
    column = tuned(conn, "items", "l2", "vector", 4)
    load(conn, column, rng.standard_normal((1000, 4), dtype=np.float32))
    queries = rng.standard_normal((4, 4), dtype=np.float32)
    filters = [sql.SQL("class = 3"), sql.SQL("class = 4"), sql.SQL("class = 5")]
    read: list[int] = []
    chosen = [0, 1, 0, 1]
    truth = exact_neighbors(conn, column, queries, 5, filters=filters, filter_of=chosen, on_read=read.append)
    assert truth.scanned == 200
    assert sum(read) == table_bytes(conn)  # the server reads all blocks, whatever it sends
    open_to_all = exact_neighbors(conn, column, queries, 5, filters=[*filters, None], filter_of=[0, 1, 3, 1])
    assert open_to_all.scanned == 1000


def test_exact_neighbors_with_many_filters_take_several_passes_in_one_snapshot(conn: Connection) -> None:
    rng = np.random.default_rng(7)
    column = tuned(conn, "items", "ip", "vector", 6)
    load(conn, column, rng.standard_normal((1500, 6), dtype=np.float32))
    queries = rng.standard_normal((200, 6), dtype=np.float32)
    filters: list[sql.Composable | None] = [
        sql.SQL("id % 150 = {}").format(sql.Literal(number)) for number in range(150)
    ]
    filters.append(None)
    filter_of = rng.permutation(np.concatenate([np.arange(151), rng.integers(0, 151, 49)]))
    for level in ("read committed", "repeatable read"):  # in autocommit no level makes one snapshot of two
        conn.execute(sql.SQL("SET default_transaction_isolation = {}").format(sql.Literal(level)))
        with pytest.raises(UsageError, match="REPEATABLE READ"):
            exact_neighbors(conn, column, queries, 12, filters=filters, filter_of=filter_of)
    conn.execute("RESET default_transaction_isolation")
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with conn.transaction():
        truth = exact_neighbors(conn, column, queries, 12, filters=filters, filter_of=filter_of)
        expected = [
            sql_distances(conn, column, query, 12, filters[index])
            for query, index in zip(queries, filter_of.tolist(), strict=True)
        ]
    assert truth.scanned == 1500 + 10 * (150 - 64)
    assert (truth.counts == np.where(filter_of == 150, 12, 10)).all()
    assert_agrees(truth, padded(expected))


@pytest.mark.parametrize("metric", METRICS)
def test_exact_neighbors_include_partitions(conn: Connection, metric: Metric) -> None:
    rng = np.random.default_rng(8)
    column = tuned(conn, "items", metric, "vector", 8)
    load(conn, column, np.empty((0, 8), dtype=np.float32), "PARTITION BY RANGE (id)")
    conn.execute("CREATE TABLE items_low PARTITION OF items FOR VALUES FROM (MINVALUE) TO (300)")
    conn.execute("CREATE TABLE items_high PARTITION OF items DEFAULT")
    add(conn, column, sample(rng, 900, 8))
    queries = rng.standard_normal((10, 8), dtype=np.float32)
    truth = exact_neighbors(conn, column, queries, 40)
    assert truth.scanned == 900
    expected = padded([sql_distances(conn, column, query, 40) for query in queries])
    assert_agrees(truth, expected)
    oids = {
        row[0] for row in conn.execute("SELECT inhrelid FROM pg_inherits WHERE inhparent = 'items'::regclass")
    }
    assert set(truth.tableoids.ravel().tolist()) == oids
    read: list[int] = []
    few, all_of_them = [sql.SQL("class = 3")], [0] * 10
    exact_neighbors(conn, column, queries, 5, filters=few, filter_of=all_of_them, on_read=read.append)
    assert sum(read) == table_bytes(conn)


def test_exact_neighbors_see_the_snapshot_of_the_transaction(conn: Connection) -> None:
    rng = np.random.default_rng(9)
    column = tuned(conn, "items", "l2", "vector", 8)
    queries = rng.standard_normal((3, 8), dtype=np.float32)
    load(conn, column, rng.standard_normal((200, 8), dtype=np.float32))
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with psycopg.connect(conn.info.dsn, password=conn.info.password, autocommit=True) as other:
        with conn.transaction():
            before = exact_neighbors(conn, column, queries, 1)
            add(other, column, queries, first=1000)
            again = exact_neighbors(conn, column, queries, 1)
            assert conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        after = exact_neighbors(conn, column, queries, 1)
    assert (before.distances > 0).all()
    assert (again.distances == before.distances).all()
    assert (after.distances == 0).all()


def test_exact_neighbors_see_rows_written_by_the_same_transaction(conn: Connection) -> None:
    rng = np.random.default_rng(10)
    column = tuned(conn, "items", "l2", "vector", 8)
    load(conn, column, rng.standard_normal((50, 8), dtype=np.float32))
    queries = rng.standard_normal((1, 8), dtype=np.float32)
    with conn.transaction(force_rollback=True):
        add(conn, column, queries, first=1000)
        assert exact_neighbors(conn, column, queries, 1).distances == 0
    assert exact_neighbors(conn, column, queries, 1).distances > 0


def test_exact_neighbors_of_small_tables_and_batches(conn: Connection) -> None:
    rng = np.random.default_rng(11)
    column = tuned(conn, "items", "cosine", "vector", 3)
    load(conn, column, np.empty((0, 3), dtype=np.float32), missing=5)
    queries = rng.standard_normal((2, 3), dtype=np.float32)
    empty = exact_neighbors(conn, column, queries, [2, 4])
    assert (empty.counts.tolist(), empty.scanned, empty.distances.shape) == ([0, 0], 0, (2, 4))
    assert (recall_at_k(np.full((2, 4), np.inf), empty, 2) == 1.0).all()
    add(conn, column, rng.standard_normal((3, 3), dtype=np.float32))
    few = exact_neighbors(conn, column, queries, [2, 1000])
    assert few.counts.tolist() == [2, 3]
    assert np.isinf(few.distances[1, 3:]).all()
    nobody = exact_neighbors(conn, column, np.empty((0, 3)), 10)
    assert (nobody.counts.shape, nobody.scanned) == ((0,), 0)


def test_exact_neighbors_quote_names_and_schemas(conn: Connection) -> None:
    rng = np.random.default_rng(12)
    conn.execute('CREATE SCHEMA "pg vector"')
    conn.execute('ALTER EXTENSION vector SET SCHEMA "pg vector"')
    conn.execute('CREATE SCHEMA "Odd ""one"""')
    column = VectorColumn(1, 'Odd "one"', "select", "{em} bed%s", "l2", "vector", 5, ("id",), "pg vector")
    vectors = rng.standard_normal((60, 5), dtype=np.float32)
    load(conn, column, vectors)
    plain = replace(column, name="embedding")
    conn.execute(
        sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(column.relation, column.vector, plain.vector)
    )
    truth = exact_neighbors(conn, plain, vectors[:4], 7)
    expected = padded([sql_distances(conn, plain, query, 7) for query in vectors[:4]])
    assert_agrees(truth, expected)
    conn.execute(
        sql.SQL("ALTER TABLE {} RENAME COLUMN {} TO {}").format(column.relation, plain.vector, column.vector)
    )
    assert (exact_neighbors(conn, column, vectors[:4], 7).distances == truth.distances).all()


def test_exact_neighbors_refuse_vectors_of_other_dimensions(conn: Connection) -> None:
    column = tuned(conn, "items", "l2", "vector", 3)
    conn.execute(sql.SQL("CREATE TABLE items (id int, class int, embedding {})").format(column.type_name))
    add(conn, column, np.ones((20, 3), dtype=np.float32))
    add(conn, column, np.ones((1, 4), dtype=np.float32), first=20)
    add(conn, column, np.ones((20, 3), dtype=np.float32), first=21)
    with pytest.raises(
        VectunedError, match=r"public.items.embedding holds vectors that do not have 3 dimensions"
    ):
        exact_neighbors(conn, column, np.ones((1, 3)), 1)
    assert conn.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"queries": np.ones((2, 4))}, "must be n x 3, not of shape"),
        ({"queries": np.ones(3)}, "must be n x 3, not of shape"),
        ({"queries": np.full((2, 3), np.nan)}, "must be finite"),
        ({"k": 0}, "between 1 and 1000"),
        ({"k": 1001}, "between 1 and 1000"),
        ({"k": 2.5}, "whole number"),
        ({"k": [1, 2, 3]}, "for each of the 2 queries"),
        ({"filter_of": [0, 0]}, "without filters"),
        ({"filters": [sql.SQL("true")]}, "index of a filter for each of the 2"),
        ({"filters": [sql.SQL("true")], "filter_of": [0]}, "index of a filter for each of the 2"),
        ({"filters": [sql.SQL("true")], "filter_of": [0, 1]}, "outside the 1 filters"),
        ({"filters": [sql.SQL("true")], "filter_of": [0, -1]}, "outside the 1 filters"),
    ],
)
def test_exact_neighbors_refuse_arguments_that_do_not_fit(
    conn: Connection, arguments: dict[str, Any], message: str
) -> None:
    column = tuned(conn, "items", "l2", "vector", 3)
    with pytest.raises(UsageError, match=message):
        exact_neighbors(conn, column, **{"queries": np.ones((2, 3)), "k": 1, **arguments})


def test_exact_neighbors_of_halfvec_refuse_queries_beyond_float16(conn: Connection) -> None:
    column = tuned(conn, "items", "l2", "halfvec", 3)
    with pytest.raises(UsageError, match="finite numbers in the range of halfvec"):
        exact_neighbors(conn, column, np.full((1, 3), 1e5), 1)


def test_recall_of_an_index_scan_rises_with_effort_to_1(conn: Connection) -> None:
    rng = np.random.default_rng(13)
    column = tuned(conn, "items", "cosine", "vector", 32)
    load(conn, column, rng.standard_normal((4000, 32), dtype=np.float32))
    opclass = sql.Identifier(column.extension_schema, "vector_cosine_ops")
    conn.execute(
        sql.SQL("CREATE INDEX ON items USING hnsw (embedding {}) WITH (m = 4, ef_construction = 16)").format(
            opclass
        )
    )
    queries = rng.standard_normal((30, 32), dtype=np.float32)
    rungs = [10, 40, 160, 640]
    nearest = sql.SQL("SELECT {d} FROM items ORDER BY {d} LIMIT 640").format(
        d=column.distance(sql.SQL("%(q)s"))
    )
    conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with conn.transaction():
        conn.execute("SET LOCAL enable_seqscan = off")
        scanned: list[list[list[float]]] = []
        for rung in rungs:
            conn.execute("SELECT set_config('hnsw.ef_search', %s, true)", (str(rung),))
            answers = [conn.execute(nearest, {"q": text(query)}).fetchall() for query in queries]
            scanned.append([[row[0] for row in rows] for rows in answers])
        truth = exact_neighbors(conn, column, queries, 10)
    recalls = [recall_at_k(padded([row[:10] for row in rows]), truth, 10).mean() for rows in scanned]
    assert recalls == sorted(recalls)
    assert recalls[0] < 0.7
    assert 0.9 < recalls[-1] <= 1.0
    curve = recall_curve(padded(scanned[-1]), rungs, truth, 10)
    assert (curve[:, -1] == recall_at_k(padded([row[:10] for row in scanned[-1]]), truth, 10)).all()
    assert (np.diff(curve, axis=1) >= 0).all()
