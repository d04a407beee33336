"""Tuned tables that are renamed, moved, altered or replaced: searches go on, and the daemon follows."""

from __future__ import annotations

import pytest
from psycopg import errors
from tests.integration.table_helpers import (
    Connection,
    build,
    clustered,
    enable,
    exact,
    make,
    one,
    only,
    raw,
    search,
    serve,
    text,
)

from vectuned.config.settings import load_settings
from vectuned.daemon.work.worker import Worker

VECTORS = clustered(300, 8, seed=1)
QUERY = clustered(1, 8, seed=2)[0]

CHANGES = {
    "table renamed": ("ALTER TABLE items RENAME TO goods", "goods", "embedding", "id"),
    "schema": ("CREATE SCHEMA shop; ALTER TABLE items SET SCHEMA shop", "shop.items", "embedding", "id"),
    "column renamed": ("ALTER TABLE items RENAME embedding TO vec", "items", "vec", "id"),
    "key renamed": ("ALTER TABLE items RENAME id TO number", "items", "embedding", "number"),
    "all renamed": (
        "ALTER TABLE items RENAME id TO embedding_2; ALTER TABLE items RENAME embedding TO id; "
        "ALTER TABLE items RENAME embedding_2 TO embedding; ALTER TABLE items RENAME TO goods",
        "goods",
        "id",
        "embedding",
    ),
}


def worker(conn: Connection) -> Worker:
    return Worker(conn, load_settings(None, {}, {}))


def state(conn: Connection) -> str:
    return str(one(conn, "SELECT state FROM vectuned.status"))


@pytest.mark.parametrize("change", CHANGES)
def test_search_goes_on_after_a_rename_and_the_daemon_follows(conn: Connection, change: str) -> None:
    statement, relation, column, key = CHANGES[change]
    make(conn, VECTORS)
    number = enable(conn, sample_rate=1.0)
    serve(conn, number, 1, 60)
    wanted = search(conn, QUERY)
    conn.execute(raw(statement))
    # Between the change and the refresh.
    assert search(conn, QUERY, relation=relation) == wanted
    assert "renamed" in state(conn) or "primary key changed" in state(conn)
    assert conn.execute(
        "SELECT ef_search FROM vectuned.params(%s::regclass, %s)", (relation, text(QUERY))
    ).fetchone() == (60,)
    conn.execute("DELETE FROM vectuned.inbox")
    worker(conn).refresh_all()
    # What was learned is kept, and the quick path records again.
    assert state(conn) == "serving"
    assert search(conn, QUERY, relation=relation) == wanted
    assert conn.execute("SELECT ef_search FROM vectuned.inbox").fetchall() == [(60,)]
    named = conn.execute(
        "SELECT id, distance FROM vectuned.search(%s::regclass, %s, column_name => %s)",
        (relation, text(QUERY), column),
    )
    assert named.fetchall() == exact(conn, QUERY, relation=relation, column=column, key=key)
    assert only(conn).column.name == column
    assert only(conn).column.key_columns == (key,)
    assert worker(conn).refresh_all() == 0


def test_search_of_a_column_of_another_type_is_learned_again(conn: Connection) -> None:
    make(conn, VECTORS)
    enable(conn, sample_rate=1.0, min_samples=20)
    search(conn, QUERY)
    daemon = worker(conn)
    daemon.drain()
    conn.execute(
        "DROP INDEX items_embedding_idx; "
        "ALTER TABLE items ALTER embedding TYPE vector(4) USING subvector(embedding, 1, 4)::vector(4)"
    )
    build(conn)
    assert search(conn, QUERY[:4]) == exact(conn, QUERY[:4])
    assert "type of the column changed" in state(conn)
    daemon.refresh_all()
    assert state(conn) == "learning"
    assert only(conn).column.dimensions == 4
    # The search for a vector of eight dimensions is not tried again; new ones are replayed.
    assert one(conn, "SELECT count(query) FROM vectuned.trajectory") == 0
    for query in clustered(5, 4, seed=3):
        search(conn, query)
    daemon.drain()
    assert daemon.replay_all() == 5


def test_search_of_a_table_replaced_under_its_name(conn: Connection) -> None:
    make(conn, VECTORS)
    number = enable(conn, sample_rate=1.0)
    serve(conn, number, 1, 60)
    conn.execute(
        "CREATE TABLE copy (LIKE items INCLUDING ALL); INSERT INTO copy SELECT * FROM items; "
        "DROP TABLE items; ALTER TABLE copy RENAME TO items"
    )
    assert search(conn, QUERY) == exact(conn, QUERY)
    assert "table replaced" in state(conn)
    assert worker(conn).refresh_all() >= 1
    assert search(conn, QUERY) == exact(conn, QUERY)
    assert only(conn).column.id == number
    assert one(conn, "SELECT ef_search FROM vectuned.params('items', %s)", text(QUERY)) == 60
    assert "rebuilt" in state(conn)


def test_missing_columns_are_forgotten_after_a_day(conn: Connection) -> None:
    make(conn, VECTORS)
    make(conn, VECTORS, table="others")
    make(conn, VECTORS, table="third")
    dropped, without = enable(conn), enable(conn, "others")
    enable(conn, "third")
    conn.execute("DROP TABLE items; ALTER TABLE others DROP COLUMN embedding")
    with pytest.raises(errors.UndefinedColumn, match=r'column "embedding" of public\.others does not exist'):
        search(conn, QUERY, relation="others")
    daemon = worker(conn)
    daemon.refresh_all()
    states = dict(conn.execute("SELECT column_name || relation::text, state FROM vectuned.status").fetchall())
    assert states.pop("embeddingthird") == "learning"
    assert sorted(each.split(":")[0] for each in states.values()) == ["column missing", "table missing"]
    assert [tuned.column.table for tuned in daemon.columns()] == ["third"]
    assert daemon.refresh_all() == 0
    conn.execute(
        "UPDATE vectuned.tuned_column SET missing_since = now() - interval '25 hours' "
        "WHERE missing_since IS NOT NULL"
    )
    daemon.refresh_all()
    assert one(conn, "SELECT count(*) FROM vectuned.tuned_column WHERE id IN (%s, %s)", dropped, without) == 0
    assert search(conn, QUERY, relation="third") == exact(conn, QUERY, relation="third")


def test_refresh_follows_without_a_daemon_and_changes_no_option(conn: Connection) -> None:
    make(conn, VECTORS)
    enable(conn, target_recall=0.99, sample_rate=0.0, store_vectors=False, min_samples=50)
    read = "SELECT (target_recall, sample_rate, store_vectors, min_samples)::text FROM vectuned.tuned_column"
    options = one(conn, read)
    conn.execute("ALTER TABLE items RENAME TO goods; ALTER TABLE goods RENAME embedding TO vec")
    assert one(conn, "SELECT vectuned.refresh('goods')") == "public.goods.vec: learning"
    assert one(conn, "SELECT vectuned.refresh('goods', 'vec')") == "public.goods.vec: learning"
    assert one(conn, read) == options
    with pytest.raises(errors.UndefinedObject, match="has no column that vectuned tunes"):
        conn.execute("SELECT vectuned.refresh('pg_class')")


def test_enable_of_a_renamed_column_keeps_its_entry(conn: Connection) -> None:
    make(conn, VECTORS)
    number = enable(conn)
    conn.execute("ALTER TABLE items RENAME embedding TO vec")
    assert enable(conn, "items", "vec") == number
    assert search(conn, QUERY) == exact(conn, QUERY, column="vec")


def test_columns_that_exchanged_their_names_stay_themselves(conn: Connection) -> None:
    make(conn, VECTORS)
    conn.execute(
        "ALTER TABLE items ADD COLUMN other vector(8); UPDATE items SET other = embedding * embedding"
    )
    build(conn, column="other")
    enable(conn)
    enable(conn, column="other")
    conn.execute(
        "ALTER TABLE items RENAME embedding TO x; ALTER TABLE items RENAME other TO embedding; "
        "ALTER TABLE items RENAME x TO other"
    )

    def check() -> None:
        for column in ("embedding", "other"):
            found = conn.execute(
                "SELECT id, distance FROM vectuned.search('items', %s, column_name => %s)",
                (text(QUERY), column),
            ).fetchall()
            assert found == exact(conn, QUERY, column=column)

    check()
    worker(conn).refresh_all()
    check()
    assert conn.execute("SELECT DISTINCT state FROM vectuned.status").fetchall() == [("learning",)]
