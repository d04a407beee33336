"""Learning across indexes: each is replayed, measured, published; new, lost and rebuilt ones are noticed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.integration.table_helpers import (
    Connection,
    build,
    clustered,
    copied,
    enable,
    exact,
    make,
    one,
    only,
    prepared,
    raw,
    scans,
    search,
    search_filtered,
)

from vectuned.config.settings import load_settings
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.trajectory import claim_pending, drain
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.policy.learner import learn
from vectuned.learning.replay.replay import replay

ROWS, DIMENSIONS, TARGET = 3000, 24, 0.9
HELDOUT = clustered(60, DIMENSIONS, seed=9)
LISTS = "lists ON items USING ivfflat (embedding vector_cosine_ops) WITH (lists = 40)"
# As weak as the main one: of two indexes that fit, the planner takes the one with the smaller m.
PART = "part ON items USING hnsw (embedding vector_cosine_ops) WITH (m = 4) WHERE kind = 0"
HALF = f"half ON items USING hnsw ((embedding::halfvec({DIMENSIONS})) halfvec_cosine_ops)"


def table(conn: Connection, *indexes: str, hnsw: bool = True) -> TunedColumn:
    """Make a table with a weak HNSW index and others; a tenth of the rows has kind 0."""
    make(conn, clustered(ROWS, DIMENSIONS, seed=1), index=False)
    conn.execute("ALTER TABLE items ADD COLUMN kind int")
    conn.execute("UPDATE items SET kind = id % 10")
    conn.execute("VACUUM (FULL, ANALYZE) items")
    if hnsw:
        build(conn, options="WITH (m = 4, ef_construction = 16)")
    for index in indexes:
        conn.execute(raw(f"CREATE INDEX {index}"))
    enable(conn, sample_rate=1.0, target_recall=TARGET, min_samples=60)
    return only(conn)


def practise(conn: Connection, queries: Singles, every: int = 2) -> None:
    """Search, every `every`-th time with a filter, and drain."""
    for number, query in enumerate(queries):
        if number % every:
            search(conn, query)
        else:
            search_filtered(conn, query, 10, {"kind": 0})
    assert drain(conn) == len(queries)


def recall(conn: Connection, where: str = "true", condition: dict[str, int] | None = None) -> float:
    """Search with held-out queries and compare with the exact answers."""
    scores = []
    for query in HELDOUT:
        bound = exact(conn, query, relation=f"(SELECT * FROM items WHERE {where}) i")[9][1] + 1e-6
        answer = search(conn, query) if condition is None else search_filtered(conn, query, 10, condition)
        assert len(answer) == 10
        scores.append(sum(distance <= bound for _, distance in answer) / 10)
    return float(np.mean(scores))


def replays(conn: Connection) -> dict[str, int]:
    return dict(
        conn.execute(
            "SELECT i.index_relation::regclass::text, count(r) FROM vectuned.tuned_index i LEFT JOIN "
            "vectuned.replay r ON r.generation = vectuned._generation(i.index_relation) GROUP BY 1"
        ).fetchall()
    )


def states(conn: Connection) -> set[str]:
    return {row[0].split(":")[0] for row in conn.execute("SELECT state FROM vectuned.status").fetchall()}


def worker(conn: Connection) -> Worker:
    return Worker(conn, load_settings(None, {"learning.batch_min": 10}, {}))


def settle(work: Worker) -> int:
    """Work until nothing is left to do; return how many searches were replayed."""
    replayed = 0
    for _ in range(4):
        work.drain()
        done = work.replay_all() + work.learn_all()
        if not done:
            return replayed
        replayed += done
    raise AssertionError("there is always something left to do")


def test_learn_covers_every_index(conn: Connection) -> None:
    tuned = table(
        conn,
        HALF,
        f"{LISTS} WHERE vector_dims(embedding) > 0",
        f"bits ON items USING hnsw ((binary_quantize(embedding)::bit({DIMENSIONS})) bit_hamming_ops)",
        PART,
    )
    practise(conn, clustered(300, DIMENSIONS, seed=3))
    assert replay(conn, tuned, claim_pending(conn, tuned.column, 1000)) == 300
    whole = dict.fromkeys(("items_embedding_idx", "half", "lists", "bits"), 300)
    assert replays(conn) == {**whole, "part": 150}
    lesson = learn(conn, tuned)
    names = {index.number: index.name for index in tuned.indexes}
    rows = conn.execute(
        "SELECT k_class, shape, bucket, access_path, index_no, proven, serves, expected_recall, samples "
        "FROM vectuned.measured_path WHERE k_class <= 10"
    ).fetchall()
    for k_class in (1, 3, 10):
        fixed = [row for row in rows if row[:2] == (k_class, None)]
        assert {names[row[4]] for row in fixed} == set(whole)
        assert sum(row[6] for row in fixed) == 1
        assert next(row[4] for row in fixed if row[6]) == lesson.served[k_class].policy.index_no
        filtered = [row for row in rows if row[0] == k_class and row[1] is not None]
        for shape, bucket in {(row[1], row[2]) for row in filtered}:
            paths = [row for row in filtered if row[1:3] == (shape, bucket)]
            of_parts = [row for row in paths if names.get(row[4]) == "part"]
            assert sum(row[6] for row in paths if row not in of_parts) <= 1
            assert sum(row[6] for row in of_parts) <= 1
            # Searches for one or three rows, or of rarer values, were never made: nothing is proven for them.
            assert all(row[5] if k_class == 10 and row[8] else row[7] >= TARGET for row in paths if row[6])
        assert {names.get(row[4]) for row in filtered} == {None, "part", *whole}
    assert recall(conn) >= TARGET - 0.02
    assert recall(conn, "kind = 0", {"kind": 0}) >= TARGET - 0.02


def test_learn_serves_a_partial_index_where_it_is_cheapest(conn: Connection) -> None:
    tuned = table(conn, PART)
    practise(conn, clustered(120, DIMENSIONS, seed=3), every=1)
    replay(conn, tuned, claim_pending(conn, tuned.column, 1000))
    for exact_ms, read in ((1000.0, {"part"}), (1e-6, set())):
        # Tests must not depend on which is cheaper, so it is set.
        conn.execute("UPDATE vectuned.replay SET exact_ms = %s", (exact_ms,))
        learn(conn, tuned)
        with scans(conn) as seen:
            search_filtered(conn, HELDOUT[0], 10, {"kind": 0})
        assert set(seen) == read
        assert recall(conn, "kind = 0", {"kind": 0}) >= TARGET - 0.02
    conn.execute(
        "UPDATE vectuned.replay SET filtered_recall = array_fill(0.5::real, ARRAY[5, 14]), "
        "asked_filtered_recall = array_fill(0.5::real, ARRAY[14]), exact_ms = 1000"
    )
    learn(conn, tuned)
    row = conn.execute("SELECT bool_or(proven), bool_or(serves) FROM vectuned.measured_path WHERE share < 1")
    assert row.fetchone() == (False, False)


def test_learn_with_an_ivfflat_index_only(conn: Connection) -> None:
    tuned = table(conn, LISTS, hnsw=False)
    (index,) = tuned.indexes
    default = max(1, 7)  # the square root of 40 lists
    statement = "SELECT access_path, ef_search, probes FROM vectuned.params('items', %s::real[]::vector)"
    query = HELDOUT[0].tolist()
    assert conn.execute(statement, (query,)).fetchone() == ("ivfflat", None, default)
    with scans(conn) as seen:
        assert len(search(conn, HELDOUT[0], 1000)) == 1000  # more than those lists hold
    assert set(seen) == {"lists"}
    assert (
        one(conn, "DELETE FROM vectuned.inbox RETURNING access_path || probes")
        == f"ivfflat_continued{default}"
    )
    practise(conn, clustered(240, DIMENSIONS, seed=3))
    assert replay(conn, tuned, claim_pending(conn, tuned.column, 1000)) == 240
    policy = learn(conn, tuned).served[10].policy
    assert (policy.method, policy.certified, policy.index_no) == ("ivfflat", True, index.number)
    row = conn.execute(statement, (query,)).fetchone()
    assert row is not None
    assert row[1] is None
    assert 1 <= row[2] <= 40
    status = "SELECT DISTINCT access_path, state FROM vectuned.status WHERE ef_search IS NULL AND probes > 0"
    assert all(path.startswith("ivfflat") and state == "serving" for path, state in conn.execute(status))
    with conn.transaction():
        conn.execute("SELECT vectuned.apply('items', %s::real[]::vector, filtered => false)", (query,))
        assert int(one(conn, "SHOW ivfflat.probes")) == policy.fixed_ef
    assert recall(conn) >= TARGET - 0.02
    assert recall(conn, "kind = 0", {"kind": 0}) >= TARGET - 0.02


@pytest.mark.parametrize("hnsw", [True, False])
def test_learn_from_filtered_searches_only(conn: Connection, hnsw: bool) -> None:
    table(conn, *([] if hnsw else [LISTS]), hnsw=hnsw)
    practise(conn, clustered(80, DIMENSIONS, seed=3), every=1)
    work = worker(conn)
    assert settle(work) == 80 + 1
    conn.execute("SELECT vectuned.disable('items', 'embedding')")
    enable(conn, sample_rate=1.0, target_recall=TARGET, min_samples=60)
    assert settle(work) == 1
    enable(conn, sample_rate=1.0, target_recall=0.8, min_samples=60)
    assert settle(work) == 1


def test_replay_of_a_filter_without_matches(conn: Connection) -> None:
    table(conn, LISTS, PART, hnsw=False)
    condition: dict[str, Any]
    for condition in ({"id": []}, {"kind": 0}, {"id": None}, {"kind": 77}):
        search_filtered(conn, HELDOUT[0], 10, condition)
    assert settle(worker(conn)) == 4
    assert replays(conn) == {"lists": 4, "part": 1}


def test_refresh_finds_and_replays_new_indexes(conn: Connection) -> None:
    table(conn)
    work = worker(conn)
    practise(conn, clustered(100, DIMENSIONS, seed=3))
    assert settle(work) == 100 + 1
    conn.execute(raw(f"CREATE INDEX {HALF}"))
    conn.execute(raw(f"CREATE INDEX CONCURRENTLY {PART}"))
    assert settle(work) == 100 + 1
    assert replays(conn) == {"items_embedding_idx": 100, "half": 100, "part": 50}
    # Another daemon, or this one after a restart, has nothing to do either.
    assert settle(worker(conn)) == 0
    conn.execute("DROP INDEX half")
    conn.execute("DROP INDEX part")
    settle(work)
    assert replays(conn) == {"items_embedding_idx": 100}
    assert states(conn) == {"serving"}
    # Too few for a proof, which alone may raise the effort to more than twice the default at once.
    assert one(conn, "SELECT bool_or(certified) FROM vectuned.bank") is False
    practise(conn, clustered(300, DIMENSIONS, seed=4))
    settle(work)
    assert recall(conn) >= TARGET - 0.03


@pytest.fixture(scope="module")
def template_settled(server: EmbeddedServer, template: str) -> str:
    """A database with two indexes of a column, and all learned from a hundred searches."""
    name = "template_settled"
    with prepared(server.dsn, template, name) as conn:
        table(conn, HALF)
        practise(conn, clustered(100, DIMENSIONS, seed=3))
        assert settle(worker(conn)) == 100 + 1
    return name


@pytest.fixture
def settled(server: EmbeddedServer, template_settled: str) -> Iterator[Connection]:
    """A connection to a copy of the database in which everything has been learned."""
    with copied(server.dsn, template_settled, "settled") as conn:
        conn.execute("ANALYZE items")  # the server's statistics of the table are not copied
        yield conn


@pytest.mark.parametrize(
    ("which", "how"),
    [
        ("items_embedding_idx", "INDEX"),
        ("items_embedding_idx", "INDEX CONCURRENTLY"),
        ("half", "INDEX"),
        ("half", "INDEX CONCURRENTLY"),
        ("items", "TABLE"),
    ],
)
def test_learn_again_after_indexes_are_rebuilt(settled: Connection, which: str, how: str) -> None:
    conn, work = settled, worker(settled)
    assert settle(work) == 0
    before = {index.name: index.generation for index in only(conn).indexes}
    conn.execute(raw(f"REINDEX {how} {which}"))
    serving = one(
        conn,
        "SELECT i.index_relation::regclass::text FROM vectuned.bank b JOIN vectuned.tuned_index i "
        "USING (column_id, index_no) WHERE b.k_class = 10",
    )
    if serving == which or how == "TABLE":
        assert "outdated" in states(conn)
    with scans(conn) as seen:
        assert len(search(conn, HELDOUT[0])) == 10
    assert len(seen) == 1
    assert settle(work) >= 101
    after = {index.name: index.generation for index in only(conn).indexes}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == ({"items_embedding_idx", "half"} if how == "TABLE" else {which})
    assert states(conn) == {"serving"}
    assert recall(conn) >= TARGET - 0.03


def test_worker_without_an_index_does_not_loop(conn: Connection) -> None:
    table(conn)
    practise(conn, clustered(70, DIMENSIONS, seed=3))
    work = worker(conn)
    settle(work)
    conn.execute("DROP INDEX items_embedding_idx")
    assert settle(work) == 0
    assert states(conn) == {"index missing"}
    build(conn)
    assert settle(work) >= 71
    assert states(conn) == {"serving"}
