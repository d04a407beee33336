"""Small tables with realistic vectors, and their exact answers."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests.database_helpers import connected, database_copy

from vectuned.learning.model.tuned_columns import TunedColumn, read_tuned_columns
from vectuned.sql.files import trusted

Connection = psycopg.Connection[Any]
Singles = npt.NDArray[np.float32]

DIMENSIONS = 32
"""Dimensions of the vectors that `drawn` draws."""

OPERATORS = {"cosine": "<=>", "l2": "<->", "ip": "<#>"}


def raw(statement: str) -> sql.SQL:
    """Treat a text composed by a test as SQL."""
    return trusted(statement)


@contextmanager
def prepared(dsn: str, template: str, name: str) -> Iterator[Connection]:
    """Create a database from a template, to be a template itself; yield a connection to prepare it."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        # An interrupted run on a server named by --server leaves it behind.
        admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
        admin.execute(statement.format(sql.Identifier(name), sql.Identifier(template)))
    with connected(make_conninfo(dsn, dbname=name)) as conn:
        yield conn


@contextmanager
def copied(dsn: str, template: str, name: str) -> Iterator[Connection]:
    """Yield a connection to a copy of an unused database; drop the copy after the block."""
    with database_copy(dsn, template, name) as conninfo, connected(conninfo) as conn:
        yield conn


def named(table: sql.Identifier | str) -> sql.Identifier:
    """Return the identifier of a table, in the schema public by default.

    Unqualified it would lie in the schema of vectuned itself where the role has the same name.
    """
    return sql.Identifier("public", table) if isinstance(table, str) else table


def clustered(count: int, dimensions: int, seed: int, *, clusters: int = 12, spread: float = 0.6) -> Singles:
    """Draw vectors (count, dimensions) around a few centres of unequal weight, like embeddings of texts."""
    rng = np.random.default_rng(seed)
    # The centres do not depend on the seed, so that rows and queries have the same distribution.
    centres = np.random.default_rng(dimensions).normal(size=(clusters, dimensions))
    share = 1 / np.arange(1, clusters + 1)
    chosen = rng.choice(clusters, size=count, p=share / share.sum())
    return (centres[chosen] + spread * rng.normal(size=(count, dimensions))).astype(np.float32)


def drawn(count: int, seed: int) -> Singles:
    """Draw vectors, half of them on planes through the origin and easy to find, half anywhere and hard."""
    rng = np.random.default_rng(seed)
    planes = np.random.default_rng(DIMENSIONS).standard_normal((6, 3, DIMENSIONS))
    place = rng.standard_normal((count, 3))
    easy = np.einsum("ni,nid->nd", place, planes[rng.integers(0, 6, count)])
    hard = rng.standard_normal((count, DIMENSIONS))
    return np.where(np.arange(count)[:, None] % 2 == 0, easy, hard).astype(np.float32)


def text(vector: npt.ArrayLike) -> str:
    """Write a vector in pgvector's text representation, without loss."""
    return "[" + ",".join(str(x) for x in np.asarray(vector).tolist()) + "]"


def make(
    conn: Connection,
    vectors: Singles | Sequence[Singles | None],
    *,
    table: sql.Identifier | str = "items",
    column: str = "embedding",
    kind: str = "vector",
    metric: str = "cosine",
    key: str = "id",
    key_type: str = "bigint",
    dimensions: int | None = None,
    extension: str = "public",
    index: bool = True,
) -> None:
    """Create a table with a key that starts at 1, a column of vectors (None is NULL), and an HNSW index."""
    name = named(table)
    width = dimensions or len(next(v for v in vectors if v is not None))
    conn.execute(
        sql.SQL("CREATE TABLE {} ({} {} PRIMARY KEY, {} {}({}))").format(
            name,
            sql.Identifier(key),
            raw(key_type),
            sql.Identifier(column),
            sql.Identifier(extension, kind),
            sql.Literal(width),
        )
    )
    fill(conn, vectors, table=name)
    if index:
        build(conn, table=name, column=column, kind=kind, metric=metric, extension=extension)


def fill(
    conn: Connection,
    vectors: Singles | Sequence[Singles | None],
    *,
    table: sql.Identifier | str,
    kind: str = "vector",
) -> None:
    """Add rows: (1, vector), (2, vector) and so on."""
    name = named(table)
    with conn.cursor().copy(sql.SQL("COPY {} FROM STDIN").format(name)) as copy:
        for number, vector in enumerate(vectors, start=1):
            copy.write_row((number, None if vector is None else text(vector)))
    conn.execute(sql.SQL("ANALYZE {}").format(name))


def build(
    conn: Connection,
    *,
    table: sql.Identifier | str = "items",
    column: str = "embedding",
    kind: str = "vector",
    metric: str = "cosine",
    extension: str = "public",
    options: str = "",
) -> None:
    """Create an HNSW index."""
    name = named(table)
    conn.execute(
        sql.SQL("CREATE INDEX ON {} USING hnsw ({} {}) {}").format(
            name,
            sql.Identifier(column),
            sql.Identifier(extension, f"{kind}_{metric}_ops"),
            raw(options),
        )
    )


def search(
    conn: Connection, query: npt.ArrayLike, k: int = 10, relation: str = "items"
) -> list[tuple[str, float]]:
    """Search with vectuned; return (id, distance) in the order of the result."""
    rows = conn.execute(
        "SELECT id, distance FROM vectuned.search(%s::regclass, %s, %s)", (relation, text(query), k)
    ).fetchall()
    return [(str(r[0]), float(r[1])) for r in rows]


def search_often(conn: Connection, count: int, k: int = 1) -> list[str]:
    """Search `items` of four dimensions, each time in a transaction of its own; return the query ids."""
    statement = "SELECT query_id::text FROM vectuned.search('items', ARRAY[%s, 1, 2, 3]::vector, %s)"
    return [one(conn, statement, number, k) for number in range(1, count + 1)]


def exact(
    conn: Connection,
    query: npt.ArrayLike,
    k: int = 10,
    *,
    kind: str = "vector",
    metric: str = "cosine",
    relation: str = "items",
    column: str = "embedding",
    key: str = "id",
) -> list[tuple[str, float]]:
    """Search exactly by a sequential scan; relation and column as in SQL."""
    norm = "vector_norm" if kind == "vector" else "l2_norm"
    there = f"{norm}({column}) > 0" if metric == "cosine" else f"{column} IS NOT NULL"
    statement = (
        f"SELECT id, d FROM (SELECT {key}::text AS id, {column} {OPERATORS[metric]} %s::{kind} AS d "
        f"FROM {relation} WHERE {there} OFFSET 0) t ORDER BY d, id LIMIT %s"
    )
    rows = conn.execute(statement.encode(), (text(query), k)).fetchall()
    return [(str(r[0]), float(r[1])) for r in rows]


def enable(conn: Connection, relation: str = "items", column: str = "embedding", **settings: object) -> int:
    """Enable tuning of a column, by default without recording; return its id."""
    chosen = {"sample_rate": 0.0, **settings}
    conn.execute(
        sql.SQL("SELECT vectuned.enable(%(relation)s::regclass, %(column)s, {})").format(
            sql.SQL(", ").join(
                sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in chosen
            )
        ),
        {"relation": relation, "column": column, **chosen},
    )
    return int(
        one(
            conn,
            "SELECT id FROM vectuned.tuned_column WHERE relation = %s::regclass AND column_name = %s",
            relation,
            column,
        )
    )


def only(conn: Connection) -> TunedColumn:
    """Read the only tuned column."""
    (tuned,) = read_tuned_columns(conn)
    return tuned


def one(conn: Connection, statement: str, *values: object) -> Any:
    """Return the single value of a statement."""
    row = conn.execute(statement.encode(), values or None).fetchone()
    assert row is not None
    return row[0]


def drop_day_partitions(conn: Connection) -> None:
    """Drop the partitions of the coming days, which the template may have made before midnight."""
    days = conn.execute(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_inherits h ON h.inhrelid = c.oid "
        "WHERE c.relnamespace = 'vectuned'::regnamespace AND c.relkind = 'r' AND c.relname ~ '_[0-9]{8}$'"
    ).fetchall()
    for (name,) in days:
        conn.execute(raw(f"DROP TABLE {name}"))


def settings(conn: Connection) -> dict[str, str]:
    """Return every setting of the session."""
    return {str(r[0]): str(r[1]) for r in conn.execute("SELECT name, setting FROM pg_settings").fetchall()}


@contextmanager
def plain_role(conn: Connection, conninfo: str, *grants: str) -> Iterator[Connection]:
    """Yield a connection of a new role without privileges except `grants`, such as "SELECT ON items"."""
    # Roles belong to the server, not to the database; the database's name in theirs keeps tests apart.
    name = f"{conn.info.dbname}_reader"
    role = sql.Identifier(name)
    conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
    try:
        for grant in grants:
            conn.execute(sql.SQL("GRANT {} TO {}").format(raw(grant), role))
        with psycopg.connect(make_conninfo(conninfo, user=name), autocommit=True) as reader:
            yield reader
    finally:
        conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
        conn.execute(sql.SQL("DROP ROLE {}").format(role))


@contextmanager
def counted(conn: Connection, relation: str) -> Iterator[dict[str, int]]:
    """Count the scans of a table or index, and its buffers, within a transaction; read after the block."""
    statement = (
        "SELECT pg_stat_get_xact_numscans(o), pg_stat_get_xact_blocks_fetched(o) "
        "FROM (SELECT %s::regclass::oid AS o) r"
    )
    seen: dict[str, int] = {}
    with conn.transaction():
        before = conn.execute(statement, (relation,)).fetchone()
        yield seen
        after = conn.execute(statement, (relation,)).fetchone()
        assert before is not None
        assert after is not None
        seen.update(scans=after[0] - before[0], blocks=after[1] - before[1])


def publish(
    conn: Connection,
    column: int,
    efforts: Sequence[float],
    *,
    k_class: int = 10,
    probe_ef: int = 20,
    fixed_ef: int = 40,
    center: Sequence[float] = (0.0,) * 8,
    weights: Sequence[float] = (0.0,) * 32,
    centroids: Sequence[Sequence[float]] = ((0.0,) * 4,),
    reach: float = 10.0,
) -> None:
    """Publish an adaptive bank by hand. Without weights every search has the signature [0, 0, 0, 0]."""
    conn.execute("DELETE FROM vectuned.bank WHERE column_id = %s AND k_class = %s", (column, k_class))
    conn.execute(
        "INSERT INTO vectuned.bank (column_id, k_class, version, generation, access_path, ef_search, "
        "expected_recall, recall_bound, certified, samples, target_recall, probe_ef, center, weights, reach, "
        "reason) "
        "SELECT id, %s, 1, pg_relation_filenode(index_relation), 'hnsw_adaptive', %s, 0.96, 0.95, true, "
        "100, 0.95, %s, %s::float8[], %s::float8[], %s, 'by hand' "
        "FROM vectuned.tuned_column WHERE id = %s",
        (k_class, fixed_ef, probe_ef, [float(c) for c in center], [float(w) for w in weights], reach, column),
    )
    for number, (effort, centroid) in enumerate(zip(efforts, centroids, strict=True)):
        conn.execute(
            "INSERT INTO vectuned.pattern (column_id, k_class, pattern_no, centroid, effort, "
            "expected_recall, confidence, samples, recall, cost) "
            "VALUES (%s, %s, %s, %s, %s, 0.97, 0.9, 10, "
            "array_fill(0.9, ARRAY[14]), array_fill(9, ARRAY[14]))",
            (column, k_class, number, text(centroid), effort),
        )


@contextmanager
def scans(conn: Connection, relation: str = "items") -> Iterator[dict[str, int]]:
    """Count the scans of every vector index of a table and of its partitions; read after the block."""
    statement = (
        "SELECT i.relname, pg_stat_get_xact_numscans(i.oid) FROM pg_index x "
        "JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am m ON m.oid = i.relam "
        "WHERE m.amname IN ('hnsw', 'ivfflat') AND (x.indrelid = %(table)s::regclass "
        "OR x.indrelid IN (SELECT relid FROM pg_partition_tree(%(table)s::regclass)))"
    )
    seen: dict[str, int] = {}
    with conn.transaction():
        before = dict(conn.execute(statement, {"table": relation}).fetchall())
        yield seen
        after = dict(conn.execute(statement, {"table": relation}).fetchall())
        seen.update({name: after[name] - n for name, n in before.items() if after[name] > n})


def serve(
    conn: Connection,
    column: int,
    index_no: int | None,
    effort: int,
    *,
    k_class: int = 10,
    method: str = "hnsw",
) -> None:
    """Publish a fixed setting of an index by hand."""
    conn.execute("DELETE FROM vectuned.bank WHERE column_id = %s AND k_class = %s", (column, k_class))
    conn.execute(
        """
        INSERT INTO vectuned.bank (column_id, k_class, version, generation, access_path, index_no, ef_search,
                                   probes, expected_recall, recall_bound, certified, samples, target_recall,
                                   reason)
        SELECT c.id, %(k)s, 1, vectuned._generation(coalesce(i.index_relation, c.index_relation)),
               %(method)s, %(no)s, CASE %(method)s WHEN 'hnsw' THEN %(effort)s::int END,
               CASE %(method)s WHEN 'ivfflat' THEN %(effort)s::int END, 0.96, 0.95, true, 100, 0.95, 'by hand'
        FROM vectuned.tuned_column c
        LEFT JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_no = %(no)s
        WHERE c.id = %(column)s
        """,
        {"k": k_class, "no": index_no, "method": method, "effort": effort, "column": column},
    )


def serve_filtered(
    conn: Connection,
    column: int,
    condition: dict[str, Any],
    path: str,
    index_no: int | None = None,
    effort: int | None = None,
    *,
    k_class: int = 10,
) -> None:
    """Publish by hand an access path for filters of a shape; a partial index serves only its own rows."""
    values = {
        "k": k_class,
        "filter": json.dumps(condition),
        "path": path,
        "no": index_no,
        "effort": effort,
        "column": column,
    }
    conn.execute(
        "DELETE FROM vectuned.measured_path WHERE column_id = %(column)s AND k_class = %(k)s", values
    )
    conn.execute(
        """
        INSERT INTO vectuned.measured_path (column_id, k_class, shape, bucket, access_path, index_no, effort,
                                            requires, share, expected_recall, recall_bound, proven, ms,
                                            samples, serves)
        SELECT c.id, %(k)s, (vectuned._compile_filter(c.id, c.relation, %(filter)s::jsonb)).shape, bucket,
               %(path)s, %(no)s, %(effort)s, i.requires, coalesce(i.share, 1), 0.96, 0.95, true, 1, 100, true
        FROM vectuned.tuned_column c CROSS JOIN generate_series(0, 39) bucket
        LEFT JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_no = %(no)s
        WHERE c.id = %(column)s
        """,
        values,
    )


def search_filtered(
    conn: Connection, query: npt.ArrayLike, k: int, condition: object, relation: str = "items"
) -> list[tuple[str, float]]:
    """Search with a filter; return (id, distance) in the order of the result."""
    rows = conn.execute(
        "SELECT id, distance FROM vectuned.search(%s::regclass, %s, %s, %s::jsonb)",
        (relation, text(query), k, json.dumps(condition)),
    ).fetchall()
    return [(str(r[0]), float(r[1])) for r in rows]


def recall_of(
    conn: Connection, queries: Iterable[npt.ArrayLike], index: str, settings: Mapping[str, str], k: int = 10
) -> float:
    """Measure the mean recall@k of plain SQL over items, with one vector index alone and settings."""
    statement = "SELECT id FROM items ORDER BY embedding <=> %s, id LIMIT %s"
    shares = []
    with conn.transaction(force_rollback=True):
        others = conn.execute(
            "SELECT i.indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
            "JOIN pg_am m ON m.oid = c.relam WHERE i.indrelid = 'items'::regclass AND m.amname IN "
            "('hnsw', 'ivfflat') AND c.relname <> %s",
            (index,),
        ).fetchall()
        for (name,) in others:
            conn.execute(f"DROP INDEX {name}".encode())
        for query in queries:
            values = (text(query), k)
            conn.execute("SET LOCAL enable_indexscan = off")
            truth = {row[0] for row in conn.execute(statement.encode(), values)}
            conn.execute("SET LOCAL enable_indexscan = on; SET LOCAL enable_seqscan = off")
            for setting, value in settings.items():
                conn.execute("SELECT set_config(%s, %s, true)", (setting, value))
            found = {row[0] for row in conn.execute(statement.replace(", id", "").encode(), values)}
            conn.execute("SET LOCAL enable_seqscan = on")
            shares.append(len(found & truth) / k)
    return float(np.mean(shares))


def ascending(found: Sequence[tuple[str, float]]) -> bool:
    """Return whether distances ascend, up to the float4 precision of an index."""
    distances = np.array([distance for _, distance in found])
    return bool((np.diff(distances) >= -1e-6 * np.abs(distances[1:])).all())


def replace_search(conn: Connection, statement: str) -> None:
    """Let the searches of column 1 do nothing but this PL/pgSQL statement."""
    conn.execute(
        raw(
            "CREATE OR REPLACE FUNCTION vectuned._search_1(query vector, k int, "
            "caller_path text DEFAULT current_setting('search_path')) "
            "RETURNS TABLE (id text, distance float8, query_id uuid) "
            f"LANGUAGE plpgsql AS $$ BEGIN {statement}; END $$"
        )
    )
