"""enable: what it refuses, its options, and tables that change after it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import errors
from tests.integration.table_helpers import (
    build,
    clustered,
    enable,
    exact,
    fill,
    make,
    one,
    plain_role,
    raw,
    search,
    serve,
    text,
)

Connection = psycopg.Connection[Any]

VECTORS = clustered(60, 4, seed=1)
QUERY = [1.0, -1.0, 0.5, 2.0]


def left(conn: Connection) -> tuple[int, int, int]:
    """Count what a failed `enable` must not leave behind: columns, generated functions, events."""
    return (
        one(conn, "SELECT count(*) FROM vectuned.tuned_column"),
        one(conn, "SELECT count(*) FROM pg_proc WHERE proname ~ '^_search_[0-9]'"),
        one(conn, "SELECT count(*) FROM vectuned.event"),
    )


def refused(conn: Connection, relation: str, column: str, error: type[psycopg.Error], words: str) -> None:
    before = left(conn)
    with pytest.raises(error, match=words):
        enable(conn, relation, column)
    assert left(conn) == before


@pytest.mark.parametrize(
    ("key_type", "named"),
    [
        ("timestamptz", "timestamp with time zone"),
        ("numeric", "numeric"),
        ("char(8)", r"character\(8\)"),
        ("date", "date"),
        ("boolean", "boolean"),
        ("public.positive", "public.positive"),
        ("bytea", "bytea"),
    ],
)
def test_enable_refuses_other_keys_by_name(conn: Connection, key_type: str, named: str) -> None:
    conn.execute("CREATE DOMAIN public.positive AS int CHECK (VALUE > 0)")
    conn.execute(
        raw(f"CREATE TABLE public.items (a int, b {key_type}, embedding vector(4), PRIMARY KEY (a, b))")
    )
    build(conn)
    refused(
        conn,
        "items",
        "embedding",
        errors.FeatureNotSupported,
        f'public.items has the column "b" of type {named}',
    )


def test_enable_refuses_what_cannot_be_tuned(conn: Connection) -> None:
    make(conn, VECTORS)
    make(conn, VECTORS, table="bare", index=False)
    conn.execute(
        "CREATE INDEX ON bare USING ivfflat (embedding vector_cosine_ops) WITH (lists = 2) WHERE id <> 5"
    )
    conn.execute("CREATE INDEX ON bare USING hnsw (embedding vector_cosine_ops) WHERE id > 5")
    conn.execute("CREATE INDEX ON bare USING hnsw ((embedding::halfvec(4)) halfvec_cosine_ops) WHERE id < 5")
    conn.execute(
        "CREATE INDEX ON bare USING hnsw ((subvector(embedding, 1, 3)::vector(3)) vector_cosine_ops)"
    )
    conn.execute("CREATE INDEX ON bare USING hnsw (embedding vector_l1_ops)")
    conn.execute("CREATE INDEX ON bare USING hnsw ((embedding::halfvec(4)) halfvec_l1_ops)")
    conn.execute("CREATE INDEX ON bare USING hnsw ((binary_quantize(embedding)::bit(4)) bit_jaccard_ops)")
    conn.execute("CREATE INDEX ON bare USING ivfflat ((binary_quantize(embedding)::bit(4)) bit_hamming_ops)")
    conn.execute("CREATE TABLE public.keyless (id int, embedding vector(4), note text, bits bit(4))")
    build(conn, table="keyless")
    conn.execute("CREATE VIEW public.looked AS SELECT * FROM items")
    conn.execute("CREATE MATERIALIZED VIEW public.kept AS SELECT * FROM items")
    conn.execute(
        "CREATE TABLE public.parted (id int PRIMARY KEY, embedding vector(4)) PARTITION BY RANGE (id)"
    )
    conn.execute("CREATE TABLE public.part PARTITION OF parted DEFAULT")
    conn.execute("CREATE INDEX ON part USING hnsw (embedding vector_l2_ops)")
    conn.execute("CREATE TEMP TABLE passing (id int PRIMARY KEY, embedding vector(4))")
    conn.execute("CREATE INDEX ON passing USING hnsw (embedding vector_l2_ops)")
    wrong, missing = errors.WrongObjectType, errors.UndefinedObject
    refused(
        conn,
        "bare",
        "embedding",
        missing,
        'column "embedding" of public.bare has no valid HNSW or IVFFlat index over all its rows',
    )
    refused(conn, "keyless", "embedding", missing, "public.keyless has no primary key")
    refused(conn, "keyless", "note", wrong, 'column "note" of public.keyless is of type text')
    refused(conn, "keyless", "bits", wrong, r"of type bit\(4\)")
    refused(
        conn, "items", "nothing", errors.UndefinedColumn, 'column "nothing" of public.items does not exist'
    )
    refused(conn, "items", "ctid", errors.UndefinedColumn, 'column "ctid" of public.items does not exist')
    refused(conn, "nowhere", "embedding", errors.UndefinedTable, 'relation "nowhere" does not exist')
    refused(conn, "4000000000", "embedding", errors.UndefinedTable, "no relation with the oid 4000000000")
    refused(conn, "looked", "embedding", wrong, "public.looked is a view")
    refused(conn, "kept", "embedding", wrong, "public.kept is a materialized view")
    refused(
        conn,
        "parted",
        "embedding",
        missing,
        'column "embedding" of public.parted has no valid HNSW or IVFFlat index over all its rows',
    )
    refused(conn, "parted_pkey", "id", wrong, "public.parted_pkey is an index")
    refused(conn, "passing", "embedding", wrong, "passing is a temporary table")
    refused(conn, "items_pkey", "id", wrong, "public.items_pkey is an index")


def test_enable_ignores_an_invalid_index(conn: Connection) -> None:
    make(conn, VECTORS)
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'items_embedding_idx'::regclass")
    refused(conn, "items", "embedding", errors.UndefinedObject, "no valid HNSW or IVFFlat index")


@pytest.mark.parametrize(
    ("definition", "metric", "method", "form"),
    [
        ("ivfflat (embedding vector_cosine_ops) WITH (lists = 2)", "cosine", "ivfflat", "plain"),
        ("hnsw ((embedding::halfvec(4)) halfvec_l2_ops)", "l2", "hnsw", "halfvec"),
        ("hnsw ((binary_quantize(embedding)::bit(4)) bit_hamming_ops)", "cosine", "hnsw", "bits"),
    ],
)
def test_enable_needs_one_index_over_all_rows(
    conn: Connection, definition: str, metric: str, method: str, form: str
) -> None:
    make(conn, VECTORS, index=False)
    conn.execute(raw(f"CREATE INDEX single ON items USING {definition}"))
    column = enable(conn)
    assert conn.execute(
        "SELECT c.id, c.metric, c.index_relation::regclass::text, i.index_no, "
        "i.index_relation::regclass::text, i.method, i.form, i.requires "
        "FROM vectuned.tuned_column c JOIN vectuned.tuned_index i ON i.column_id = c.id"
    ).fetchall() == [(column, metric, "single", 1, "single", method, form, None)]
    wanted = dict(exact(conn, QUERY, 60, metric=metric))
    found = search(conn, QUERY, 5)
    assert len({key for key, _ in found}) == 5
    assert all(wanted[key] == distance for key, distance in found)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_enable_of_a_partitioned_table_uses_its_partitioned_index(conn: Connection, metric: str) -> None:
    conn.execute(
        "CREATE TABLE public.parted (id int PRIMARY KEY, embedding vector(4)) PARTITION BY RANGE (id)"
    )
    conn.execute("CREATE TABLE public.low PARTITION OF parted FOR VALUES FROM (1) TO (20)")
    conn.execute("CREATE TABLE public.high PARTITION OF parted FOR VALUES FROM (20) TO (1000)")
    fill(conn, VECTORS, table="parted")
    build(conn, table="parted", metric=metric)
    column = enable(conn, "parted")
    assert conn.execute(
        "SELECT c.id, c.metric, i.index_no, i.index_relation::regclass::text "
        "FROM vectuned.tuned_column c JOIN vectuned.tuned_index i ON i.column_id = c.id"
    ).fetchall() == [(column, metric, 1, "parted_embedding_idx")]
    wanted = exact(conn, QUERY, 60, metric=metric, relation="parted")
    for k in (1, 10, 60):
        assert search(conn, QUERY, k, "parted") == wanted[:k]


@pytest.mark.parametrize(
    ("setting", "values"),
    [
        ("target_recall", [0.4, 1.0, "NaN", "Infinity"]),
        ("max_tail", [0, -0.1, 1.1, "NaN"]),
        ("sample_rate", [-0.1, 1.1, "NaN"]),
        ("trajectory_window", [0, -1]),
        ("learning_rate", [0, 1.5, "NaN"]),
        ("min_samples", [0]),
    ],
)
def test_enable_refuses_options_out_of_range(conn: Connection, setting: str, values: list[object]) -> None:
    make(conn, VECTORS)
    for value in values:
        before = left(conn)
        with pytest.raises(psycopg.Error, match=setting) as raised:
            enable(conn, "items", "embedding", **{setting: value})
        assert raised.value.sqlstate in ("22023", "22004")
        assert left(conn) == before
    for call in (
        "enable(NULL, 'embedding')",
        "enable('items', NULL)",
        "disable('items', NULL)",
        "disable(NULL, 'e')",
    ):
        with pytest.raises(errors.NullValueNotAllowed):
            conn.execute(raw(f"SELECT vectuned.{call}"))


def test_enable_again_changes_options(conn: Connection) -> None:
    make(conn, VECTORS)
    conn.execute("SET hnsw.ef_search = 77")
    column = enable(conn)
    conn.execute("RESET hnsw.ef_search")
    assert enable(conn, target_recall=0.9, sample_rate=1.0, min_samples=50, store_vectors=False) == column
    assert conn.execute(
        "SELECT target_recall, sample_rate, min_samples, store_vectors, default_ef FROM vectuned.tuned_column"
    ).fetchall() == [(0.9, 1.0, 50, False, 77)]
    search(conn, QUERY)
    assert conn.execute("SELECT ef_search, k FROM vectuned.inbox").fetchall() == [(77, 10)]
    assert one(conn, "SELECT count(*) FROM vectuned.event WHERE action = 'enable'") == 2


def test_enable_again_keeps_every_option_that_is_not_named(conn: Connection) -> None:
    options: dict[str, Any] = {
        "target_recall": 0.99,
        "max_tail": 0.2,
        "sample_rate": 0.0,
        "trajectory_window": 500,
        "learning_rate": 0.3,
        "min_samples": 50,
        "store_vectors": False,
        "default_ef": 77,
    }
    read = raw(f"SELECT {', '.join(options)} FROM vectuned.tuned_column")
    make(conn, VECTORS)
    conn.execute("SET hnsw.ef_search = 77")
    enable(conn, **{name: value for name, value in options.items() if name != "default_ef"})
    conn.execute("RESET hnsw.ef_search")
    conn.execute("SELECT vectuned.enable('items', 'embedding')")
    assert conn.execute(read).fetchall() == [tuple(options.values())]
    conn.execute("SELECT vectuned.disable('items', 'embedding')")
    conn.execute("SELECT vectuned.enable('items', 'embedding', min_samples => 60)")
    assert conn.execute(read).fetchall() == [tuple({**options, "min_samples": 60}.values())]


@pytest.mark.parametrize(
    ("target", "option", "max_tail"),
    [
        (0.95, None, 0.125),
        (0.98, None, 0.05),
        (0.999, None, 0.0025),
        (0.5, None, 1.0),
        (0.95, 0.02, 0.02),
        (0.95, 1, 1.0),
    ],
)
def test_enable_limits_the_tail_in_proportion_to_the_target(
    conn: Connection, target: float, option: float | None, max_tail: float
) -> None:
    make(conn, VECTORS)
    enable(conn, target_recall=target, max_tail=option)
    assert one(conn, "SELECT max_tail FROM vectuned.tuned_column") == max_tail
    assert one(conn, "SELECT max_tail FROM vectuned.status") == max_tail
    assert one(conn, "SELECT max_tail FROM vectuned.stats('items')") == max_tail
    enable(conn, target_recall=0.9)
    assert one(conn, "SELECT max_tail FROM vectuned.tuned_column") == (option or 0.25)


def test_enable_again_picks_another_index(conn: Connection) -> None:
    make(conn, VECTORS, metric="cosine")
    enable(conn)
    conn.execute("DROP INDEX items_embedding_idx")
    assert "index missing" in one(conn, "SELECT state FROM vectuned.status")
    build(conn, metric="l2")
    enable(conn)
    assert search(conn, QUERY) == exact(conn, QUERY, metric="l2")
    assert one(conn, "SELECT metric || ' ' || state FROM vectuned.status") == "l2 learning"


def test_tuned_columns_of_one_table_are_told_apart_by_name(conn: Connection) -> None:
    make(conn, VECTORS)
    conn.execute("ALTER TABLE items ADD COLUMN body halfvec(3)")
    conn.execute("UPDATE items SET body = ARRAY[id ^ 1.5, 1, 2]::float4[]::vector::halfvec")
    build(conn, column="body", kind="halfvec", metric="l2")
    enable(conn)
    enable(conn, column="body")
    for call in (
        "search('items', %s)",
        "params('items', %s)",
        "apply('items', %s)",
        "search_rows(NULL::items, %s)",
    ):
        with pytest.raises(
            errors.AmbiguousColumn, match=r"public.items has 2 tuned columns; say which one by column_name"
        ):
            conn.execute(raw(f"SELECT vectuned.{call}"), (text(QUERY),))
    named = conn.execute(
        "SELECT id, distance FROM vectuned.search('items', %s, column_name => 'embedding')", (text(QUERY),)
    )
    assert named.fetchall() == exact(conn, QUERY)
    named = conn.execute(
        "SELECT id, distance FROM vectuned.search('items', '[5,1,2]', 3, column_name => 'body')"
    )
    assert named.fetchall() == exact(conn, [5, 1, 2], 3, kind="halfvec", metric="l2", column="body")
    conn.execute("SELECT vectuned.disable('items', 'body', forget => true)")
    assert search(conn, QUERY) == exact(conn, QUERY)


def test_search_of_tables_swapped_by_renaming(conn: Connection) -> None:
    rng = np.random.default_rng(3)
    make(conn, VECTORS)
    make(conn, rng.normal(size=(60, 4)).astype(np.float32), table="coming")
    column = enable(conn, sample_rate=1.0)
    assert search(conn, QUERY) == exact(conn, QUERY)
    conn.execute("ALTER TABLE items RENAME TO retired; ALTER TABLE coming RENAME TO items")
    assert search(conn, QUERY, relation="retired") == exact(conn, QUERY, relation="retired")
    assert "renamed" in one(conn, "SELECT state FROM vectuned.status")
    with pytest.raises(errors.UndefinedObject):
        search(conn, QUERY, relation="items")
    enable(conn)
    assert search(conn, QUERY, relation="items") == exact(conn, QUERY, relation="items")
    assert enable(conn, "retired") == column
    assert search(conn, QUERY, relation="retired") == exact(conn, QUERY, relation="retired")
    assert conn.execute("SELECT DISTINCT state FROM vectuned.status").fetchall() == [("learning",)]


def test_search_of_a_column_whose_dimensions_changed(conn: Connection) -> None:
    make(conn, VECTORS)
    enable(conn)
    search(conn, QUERY)
    conn.execute("DROP INDEX items_embedding_idx")
    conn.execute(
        "ALTER TABLE items ALTER embedding TYPE halfvec(2) USING subvector(embedding, 1, 2)::halfvec(2)"
    )
    build(conn, kind="halfvec")
    assert search(conn, QUERY[:2]) == exact(conn, QUERY[:2], kind="halfvec")
    own = "SELECT id FROM items ORDER BY embedding <=> (SELECT vectuned.apply('items', %s))::halfvec LIMIT 1"
    with pytest.raises(errors.DataException, match=r"different halfvec dimensions 4 and 2"):
        conn.execute(own, (text(QUERY),))
    enable(conn)
    with pytest.raises(
        errors.DataException, match=r"query vector has 4 dimensions, public.items.embedding has 2"
    ):
        conn.execute(own, (text(QUERY),))


def test_enable_in_several_sessions_at_once(conn: Connection, database: str) -> None:
    names = [f"items_{number}" for number in range(6)]
    for name in names:
        make(conn, VECTORS, table=name)

    def work(relation: str) -> None:
        with psycopg.connect(database, autocommit=True) as session:
            for rate in (0.1, 0.2, 0.3):
                enable(session, relation, sample_rate=rate)
                assert len(search(session, QUERY, relation=relation)) == 10

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, name) for name in [*names, names[0], names[0]]]:
            future.result()
    assert one(conn, "SELECT count(*) FROM vectuned.tuned_column WHERE sample_rate = 0.3") == 6
    for name in names:
        assert search(conn, QUERY, relation=name) == exact(conn, QUERY, relation=name)


def test_enable_is_for_owners_only(conn: Connection, database: str) -> None:
    make(conn, VECTORS)
    enable(conn)
    with plain_role(conn, database, "ALL ON items") as reader:
        for call in (
            "enable('items', 'embedding')",
            "disable('items', 'embedding')",
            "stats('items')",
            "_drain(1)",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                reader.execute(raw(f"SELECT vectuned.{call}"))
    assert one(conn, "SELECT enabled FROM vectuned.tuned_column")


def test_enable_after_recreating_an_index_keeps_its_number(conn: Connection) -> None:
    make(conn, clustered(200, 4, seed=1))
    column = enable(conn)
    serve(conn, column, 1, 77)
    conn.execute("DROP INDEX items_embedding_idx")
    conn.execute("CREATE INDEX other ON items USING hnsw ((embedding::halfvec(4)) halfvec_cosine_ops)")
    build(conn)
    assert one(conn, "SELECT vectuned._refresh_column(%s)", column)
    known = conn.execute("SELECT index_no, form FROM vectuned.tuned_index ORDER BY index_no").fetchall()
    assert known == [(1, "plain"), (2, "halfvec")]
    assert one(conn, "SELECT ef_search FROM vectuned.params('items', '[1,2,3,4]')") == 77
    assert "rebuilt" in one(conn, "SELECT reason FROM vectuned.params('items', '[1,2,3,4]')")
    assert not one(conn, "SELECT vectuned._refresh_column(%s)", column)
