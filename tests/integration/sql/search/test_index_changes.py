"""Indexes of another method, added, dropped and replaced: what serves, and what `status` says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.integration.table_helpers import (
    Connection,
    enable,
    exact,
    make,
    one,
    only,
    plain_role,
    raw,
    scans,
    search,
    serve,
    text,
)

from vectuned.config.settings import load_settings
from vectuned.daemon.work.worker import Worker

ROWS = 12_000
VECTORS = np.random.default_rng(1).normal(size=(ROWS, 8)).astype(np.float32)
QUERY = np.random.default_rng(2).normal(size=8).astype(np.float32)
HNSW = (
    "CREATE INDEX graph ON items USING hnsw (embedding vector_cosine_ops) WITH (m = 8, ef_construction = 16)"
)
IVFFLAT = "CREATE INDEX lists ON items USING ivfflat (embedding vector_cosine_ops) WITH (lists = 50)"


@pytest.fixture
def reader(conn: Connection, database: str) -> Iterator[Connection]:
    """A session whose policy notes the settings that are in force within a search."""
    make(conn, VECTORS, index=False)
    conn.execute(
        """
        CREATE FUNCTION public.spy() RETURNS boolean LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM set_config('spy.ef_search', current_setting('hnsw.ef_search'), false),
                    set_config('spy.probes', current_setting('ivfflat.probes'), false);
            RETURN true;
        END $$;
        ALTER TABLE items ENABLE ROW LEVEL SECURITY;
        CREATE POLICY spy ON items USING (spy());
        """
    )
    with plain_role(conn, database, "SELECT ON items") as session:
        yield session


def check(reader: Connection) -> tuple[str, int | None]:
    """Search; assert that `status` and `params` say what was done; return the access path and the effort."""
    with scans(reader) as scanned:
        found = search(reader, QUERY)
        ef_search, probes = reader.execute(
            "SELECT current_setting('spy.ef_search')::int, current_setting('spy.probes')::int"
        ).fetchone() or (None, None)
    assert len(found) == 10
    names = {"graph": ("hnsw", ef_search), "lists": ("ivfflat", probes)}
    done = names[next(iter(scanned))] if scanned else ("exact", None)
    said: list[tuple[Any, ...]] = reader.execute(
        "SELECT access_path, path_index::text, coalesce(ef_search, probes) FROM vectuned.status "
        "WHERE coalesce(k_class, 10) = 10 "
        "UNION ALL SELECT access_path, index::text, coalesce(ef_search, probes) "
        "FROM vectuned.params('items', %s)",
        (text(QUERY),),
    ).fetchall()
    assert len(said) == 2
    for path, index, effort in said:
        assert (path, effort) == done
        assert index == (next(iter(scanned)) if scanned else None)
    return done


def test_stale_rows_of_the_bank_are_never_obeyed(reader: Connection, conn: Connection) -> None:
    conn.execute(raw(IVFFLAT))
    column = enable(conn)
    default = check(reader)
    assert default == ("ivfflat", 8)
    serve(conn, column, 1, 30, method="ivfflat")
    assert check(reader) == ("ivfflat", 30)

    def refresh() -> None:
        conn.execute("SELECT vectuned._refresh_column(%s)", (column,))

    # IVFFlat to HNSW. Between the creation and the refresh the planner chooses, and `status` says so.
    conn.execute(raw(HNSW))
    assert "index added" in one(reader, "SELECT state FROM vectuned.status")
    assert "may choose the new index public.graph" in one(
        reader, "SELECT reason FROM vectuned.params('items', %s)", text(QUERY)
    )
    with scans(reader) as scanned:
        assert len(search(reader, QUERY)) == 10
    assert (set(scanned), one(reader, "SELECT current_setting('spy.ef_search')")) in (
        ({"lists"}, "40"),
        ({"graph"}, "40"),
    )
    refresh()
    check(reader)
    conn.execute("DROP INDEX lists")
    assert check(reader) == ("hnsw", 40)
    refresh()
    assert check(reader) == ("hnsw", 40)
    number = one(conn, "SELECT index_no FROM vectuned.tuned_index")
    serve(conn, column, number, 99)
    assert check(reader) == ("hnsw", 99)
    # And back.
    conn.execute(raw(IVFFLAT))
    with scans(reader) as scanned:
        search(reader, QUERY)
    assert set(scanned) == {"graph"}
    conn.execute("DROP INDEX graph")
    assert check(reader) == ("ivfflat", 8)
    refresh()
    assert check(reader) == ("ivfflat", 8)
    # To none.
    conn.execute("DROP INDEX lists")
    for _ in range(2):
        assert check(reader) == ("exact", None)
        assert search(reader, QUERY) == exact(conn, QUERY)
        refresh()


def test_bank_row_of_the_main_index_does_not_apply_to_another_method(
    reader: Connection, conn: Connection
) -> None:
    conn.execute(raw(HNSW))
    column = enable(conn)
    serve(conn, column, None, 99)
    assert check(reader) == ("hnsw", 99)
    conn.execute("DROP INDEX graph")
    conn.execute(raw(IVFFLAT))
    assert check(reader) == ("ivfflat", 8)
    conn.execute("SELECT vectuned._refresh_column(%s)", (column,))
    assert check(reader) == ("ivfflat", 8)
    assert one(conn, "SELECT count(*) FROM vectuned.bank") == 0


@pytest.mark.parametrize("first", ["lists", "graph"])
def test_column_with_indexes_of_both_methods_is_learned(conn: Connection, first: str) -> None:
    make(conn, VECTORS, index=False)
    for statement in (IVFFLAT, HNSW) if first == "lists" else (HNSW, IVFFLAT):
        conn.execute(raw(statement))
    enable(conn, sample_rate=1.0, min_samples=20, target_recall=0.9)
    daemon = Worker(conn, load_settings(None, {"learning.batch_min": 10}, {}))
    for query in np.random.default_rng(3).normal(size=(60, 8)):
        search(conn, query)
    daemon.drain()
    assert daemon.replay_all() == 60
    assert daemon.learn_all() == 1
    assert "graph" in [index.name for index in only(conn).indexes]
    state, index = conn.execute(
        "SELECT state, path_index::text FROM vectuned.status WHERE k_class = 10"
    ).fetchone() or ("", "")
    assert state == "serving"
    with scans(conn) as scanned:
        search(conn, QUERY)
    assert set(scanned) == {index}


def test_main_index_dropped_beside_a_partial_one_does_not_stop_other_columns(conn: Connection) -> None:
    for name in ("items", "others"):
        make(conn, VECTORS[:500], table=name)
        enable(conn, name, sample_rate=1.0)
        search(conn, QUERY, relation=name)
    conn.execute("CREATE INDEX part ON items USING hnsw (embedding vector_cosine_ops) WHERE id = 5")
    conn.execute("SELECT vectuned.refresh('items')")
    conn.execute("DROP INDEX items_embedding_idx")
    assert search(conn, QUERY) == exact(conn, QUERY)
    daemon = Worker(conn, load_settings(None, {}, {}))
    daemon.drain()
    assert daemon.replay_all() == 1  # the other one
    assert "index missing" in one(
        conn, "SELECT state FROM vectuned.status WHERE relation = 'items'::regclass"
    )
    conn.execute("CREATE INDEX ON items USING hnsw (embedding vector_cosine_ops)")
    assert Worker(conn, load_settings(None, {}, {})).replay_all() == 1
