"""Counterfactual replay on a real server: one continued scan compared with a fresh search at every effort."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector
from psycopg import sql
from tests.integration.table_helpers import (
    Connection,
    Singles,
    build,
    clustered,
    enable,
    make,
    one,
    only,
    raw,
    search,
    text,
)

from vectuned.config.errors import VectunedError
from vectuned.learning.model.ladder import K_CLASSES, PROBES, RUNGS, k_class
from vectuned.learning.model.trajectory import Trajectories, claim_pending, drain
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.model.vectors import to_array
from vectuned.learning.policy.replays import load_replays
from vectuned.learning.replay.replay import replay
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import exact_neighbors
from vectuned.sql.files import queries as queries_by_name

ROWS, DIMENSIONS, SPREAD = 4000, 48, 1.0


@pytest.fixture(scope="module")
def queries() -> Singles:
    """Queries from the space of the rows, none of them a row."""
    return clustered(120, DIMENSIONS, seed=2, spread=SPREAD)


@pytest.fixture
def tuned(conn: Connection) -> TunedColumn:
    """A column of some thousand clustered vectors, with an index poor enough to lose neighbours."""
    make(conn, clustered(ROWS, DIMENSIONS, seed=1, spread=SPREAD), index=False)
    build(conn, options="WITH (m = 4, ef_construction = 16)")
    enable(conn, sample_rate=1.0, min_samples=20)
    return only(conn)


def record(conn: Connection, queries: Singles, ks: list[int] | None = None) -> None:
    """Search with each query, recorded, and drain the inbox."""
    for number, query in enumerate(queries):
        search(conn, query, ks[number] if ks else 10)
    assert drain(conn) == len(queries)


def replayed(conn: Connection, tuned: TunedColumn, count: int = 1000) -> Trajectories:
    """Replay the pending searches and return them."""
    trajectories = claim_pending(conn, tuned.column, count)
    assert replay(conn, tuned, trajectories) == len(trajectories)
    return trajectories


def fresh(
    conn: Connection, tuned: TunedColumn, queries: Singles, ef: int, limit: int
) -> np.ndarray[Any, Any]:
    """Run fresh searches with `ef`, and return the distances of up to `limit` rows, padded with +inf."""
    found = np.full((len(queries), limit), np.inf)
    with conn.transaction():
        conn.execute("SET LOCAL enable_seqscan = off")
        conn.execute("SELECT set_config('hnsw.ef_search', %s, true)", (str(ef),))
        for i, query in enumerate(queries):
            statement = f"SELECT embedding <=> '{text(query)}' FROM items ORDER BY 1 LIMIT {limit}"
            distances = [row[0] for row in conn.execute(raw(statement)).fetchall()]
            found[i, : len(distances)] = distances
    return found


def test_replay_by_one_scan_has_the_recall_of_a_search_at_every_effort(
    conn: Connection, tuned: TunedColumn, queries: Singles
) -> None:
    record(conn, queries)
    trajectories = replayed(conn, tuned)
    replays = load_replays(conn, tuned, tuned.indexes[0])
    truth = exact_neighbors(conn, tuned.column, trajectories.vectors, 10)
    curve = replays.sample(10).recall.mean(axis=0)
    assert curve[0] < 0.9  # else there would be nothing to tell apart
    for rung, ef in enumerate(RUNGS):
        searched = recall_at_k(fresh(conn, tuned, trajectories.vectors, ef, 10), truth, 10)
        # Paired differences of 120 searches: a continued scan leads by a row now and then, by chance.
        assert abs(searched.mean() - curve[rung]) < 0.02, (ef, searched.mean(), curve[rung])


def test_replay_recall_and_cost_grow_with_effort(
    conn: Connection, tuned: TunedColumn, queries: Singles
) -> None:
    record(conn, queries)
    replayed(conn, tuned)
    replays = load_replays(conn, tuned, tuned.indexes[0])
    assert len(replays) == len(queries)
    assert replays.k_classes == (1, 3, 10, 30, 100)
    # A scan that ended once its own class was complete knows nothing about larger classes.
    known = np.isfinite(replays.recall[:, :, 0])
    assert known[:, :3].all()
    assert known[:, 3:].sum() >= 2 * 2 * tuned.min_samples
    assert not known[:, 3:].all()
    assert (np.diff(replays.recall, axis=2)[known] >= 0).all()
    assert (np.diff(replays.blocks, axis=1) >= 0).all()
    assert (replays.blocks[:, 0] >= 10).all()
    assert (np.diff(replays.ms, axis=1) >= 0).all()
    for number, k in enumerate(replays.k_classes):  # n rows hold at most n of the k nearest
        most = np.minimum(1, np.array(RUNGS) / k) + 1e-6
        assert (replays.recall[known[:, number], number] <= most).all()
    assert (replays.search_classes == 10).all()


def test_replay_probes_are_the_distances_of_a_search_with_that_ef_search(
    conn: Connection, tuned: TunedColumn, queries: Singles
) -> None:
    record(conn, queries)
    replayed(conn, tuned)
    trajectories = conn.execute(
        "SELECT t.query FROM vectuned.replay r JOIN vectuned.trajectory t USING (query_id) "
        "ORDER BY r.replay_no DESC"
    ).fetchall()
    vectors = np.array([to_array(row[0]) for row in trajectories], dtype=np.float32)
    replays = load_replays(conn, tuned, tuned.indexes[0])
    assert tuple(replays.probes) == PROBES
    for length, seen in replays.probes.items():
        np.testing.assert_array_equal(seen, fresh(conn, tuned, vectors, length, length))


def test_replay_of_a_small_table_returns_all_rows(conn: Connection) -> None:
    make(conn, clustered(40, 8, seed=3))
    enable(conn, sample_rate=1.0)
    tuned = only(conn)
    record(conn, clustered(5, 8, seed=4), [1, 10, 30, 100, 1000])
    replayed(conn, tuned)
    replays = load_replays(conn, tuned, tuned.indexes[0])
    assert np.isfinite(replays.probes[28]).all()
    assert (np.isfinite(replays.probes[112]).sum(axis=1) == 40).all()
    assert (replays.recall[:, :, -1] == 1).all()
    assert one(conn, "SELECT min(recall) FROM vectuned.trajectory") == 1


def test_replay_of_searches_with_small_and_large_k(
    conn: Connection, tuned: TunedColumn, queries: Singles
) -> None:
    ks = [1, 2, 3, 7, 10, 30, 31, 100, 300, 1000] * 3
    record(conn, queries[:30], ks)
    trajectories = replayed(conn, tuned)
    replays = load_replays(conn, tuned, tuned.indexes[0])
    assert replays.k_classes == K_CLASSES
    assert sorted(replays.search_classes) == sorted(k_class(k) for k in ks)
    assert replays.sample(1000).recall[:, -1].mean() > 0.7
    truth = exact_neighbors(conn, tuned.column, trajectories.vectors, 1000)
    returned = np.full((30, 1000), np.inf)
    for i, distances in enumerate(trajectories.distances):
        returned[i, : len(distances)] = distances
    stored = dict(conn.execute("SELECT query_id, recall FROM vectuned.trajectory").fetchall())
    expected = recall_at_k(returned, truth, np.array(trajectories.ks))
    for query_id, recall in zip(trajectories.query_ids, expected, strict=True):
        assert stored[query_id] == pytest.approx(recall, abs=1e-6)


def test_replay_of_a_large_k_keeps_the_other_replays_usable(
    conn: Connection, tuned: TunedColumn, queries: Singles
) -> None:
    record(conn, queries[:25])
    replayed(conn, tuned)
    record(conn, queries[25:30], [1000] * 5)
    replayed(conn, tuned)
    replays = load_replays(conn, tuned, tuned.indexes[0])
    assert len(replays.sample(10)) == 30
    assert len(replays.sample(300)) == len(replays.sample(1000)) == 5


def test_replay_computes_truth_and_scans_in_one_snapshot(
    conn: Connection, tuned: TunedColumn, database: str, queries: Singles, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(conn, queries[:40])

    def then_others_write(*arguments: Any, **named: Any) -> Any:
        truth = exact_neighbors(*arguments, **named)
        with psycopg.connect(database, autocommit=True) as other:
            other.execute("DELETE FROM items WHERE id % 2 = 0")
            # A scan that saw these would find rows nearer than those of the exact answer.
            for number, query in enumerate(queries[:40]):
                other.execute("INSERT INTO items VALUES (%s, %s)", (100_000 + number, text(query)))
        return truth

    monkeypatch.setattr("vectuned.learning.replay.batch.exact_neighbors", then_others_write)
    replayed(conn, tuned)
    assert one(conn, "SELECT count(*) FROM items") < ROWS
    replays = load_replays(conn, tuned, tuned.indexes[0])
    # The graph is random and loses some rows. If the scan saw other rows than the truth, its recall would be
    # a tenth at most.
    assert replays.sample(10).recall[:, -1].mean() > 0.95
    assert replays.probes[112][:, 0].min() > 1e-3


def test_replay_refuses_an_index_that_is_gone(conn: Connection, tuned: TunedColumn, queries: Singles) -> None:
    record(conn, queries[:3])
    trajectories = claim_pending(conn, tuned.column, 10)
    conn.execute("DROP INDEX items_embedding_idx")
    with pytest.raises(VectunedError, match=r"index items_embedding_idx of public\.items\.embedding is gone"):
        replay(conn, tuned, trajectories)
    with pytest.raises(VectunedError, match=r"index of public\.items\.embedding is gone"):
        replay(conn, only(conn), trajectories)
    assert only(conn).generation is None
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 0
    assert len(claim_pending(conn, tuned.column, 10)) == 3


def test_replay_refuses_an_index_that_was_rebuilt(
    conn: Connection, tuned: TunedColumn, queries: Singles
) -> None:
    record(conn, queries[:3])
    conn.execute("REINDEX INDEX items_embedding_idx")
    with pytest.raises(
        VectunedError, match=r"index items_embedding_idx of public\.items\.embedding was rebuilt meanwhile"
    ):
        replay(conn, tuned, claim_pending(conn, tuned.column, 10))
    replayed(conn, only(conn))
    assert len(load_replays(conn, only(conn), only(conn).indexes[0])) == 3
    assert len(load_replays(conn, tuned, tuned.indexes[0])) == 0


def test_replay_refuses_a_plan_that_does_not_scan_the_index(
    conn: Connection, tuned: TunedColumn, queries: Singles
) -> None:
    record(conn, queries[:3])
    build(conn)  # two indexes on one expression: the planner may take either
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'items_embedding_idx'::regclass")
    with pytest.raises(
        VectunedError, match=r"should scan index public\.items_embedding_idx,.*vectuned\.refresh"
    ):
        replay(conn, tuned, claim_pending(conn, tuned.column, 10))
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 0


@pytest.mark.parametrize("kept", [True, False])
def test_replay_deletes_vectors_unless_the_column_stores_them(
    conn: Connection, tuned: TunedColumn, queries: Singles, kept: bool
) -> None:
    record(conn, queries[:5])
    replayed(conn, replace(tuned, store_vectors=kept))
    assert one(conn, "SELECT count(query) FROM vectuned.trajectory") == (5 if kept else 0)
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE replayed_at IS NOT NULL") == 5
    assert len(claim_pending(conn, tuned.column, 10)) == 0
    assert len(load_replays(conn, tuned, tuned.indexes[0])) == 5


def test_replay_passes_over_a_scan_that_takes_too_long(
    conn: Connection,
    tuned: TunedColumn,
    queries: Singles,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    record(conn, queries[:4])
    slow = text(queries[1])
    conn.execute(
        raw(
            "CREATE FUNCTION slowly(q vector) RETURNS float8 LANGUAGE plpgsql AS $$ BEGIN "
            f"IF q = '{slow}' THEN PERFORM pg_sleep(300); END IF; RETURN 0; END $$"
        )
    )
    statements = queries_by_name()
    replay_search = statements["replay_search"] + sql.SQL(" WHERE slowly(%(query)s) = 0")
    monkeypatch.setattr("vectuned.sql.rows.queries", lambda: {**statements, "replay_search": replay_search})
    with caplog.at_level("WARNING"):
        assert replay(conn, tuned, claim_pending(conn, tuned.column, 10), timeout_ms=5000) == 4
    assert "took longer than 5000 ms" in caplog.text
    assert len(load_replays(conn, tuned, tuned.indexes[0])) == 3
    # It is marked replayed, or it would be tried for ever; its recall is known nevertheless.
    assert len(claim_pending(conn, tuned.column, 10)) == 0
    assert one(conn, "SELECT count(recall) FROM vectuned.trajectory") == 4
    assert one(conn, "SHOW statement_timeout") == "0"


def test_replay_reports_progress_and_repeats_without_effect(
    conn: Connection, tuned: TunedColumn, queries: Singles
) -> None:
    record(conn, queries[:6])
    told: list[int] = []
    trajectories = claim_pending(conn, tuned.column, 4)
    assert replay(conn, tuned, trajectories, progress=told.append) == 4
    assert told == [1, 2, 3, 4]
    assert replay(conn, tuned, trajectories) == 4  # a second time changes nothing
    assert len(load_replays(conn, tuned, tuned.indexes[0])) == 4
    assert replay(conn, tuned, claim_pending(conn, tuned.column, 0)) == 0
    assert len(claim_pending(conn, tuned.column, 100)) == 2


def test_load_replays_reads_only_the_trajectory_window(
    conn: Connection, tuned: TunedColumn, queries: Singles
) -> None:
    record(conn, queries[:30])
    replayed(conn, tuned)
    assert len(load_replays(conn, replace(tuned, trajectory_window=7), tuned.indexes[0])) == 7
    # Replays with other probes, left by another version, cannot be used.
    conn.execute("UPDATE vectuned.replay SET probe = probe[1:20] WHERE ctid = '(0,1)'")
    assert len(load_replays(conn, tuned, tuned.indexes[0])) == 29


def test_read_pending_returns_the_newest_first(conn: Connection, tuned: TunedColumn) -> None:
    made = [(uuid4(), datetime.fromisoformat(f"2026-11-2{day}T00:00:00+00:00")) for day in (1, 3, 2)]
    for query_id, at in made:
        conn.execute(
            sql.SQL(
                "INSERT INTO vectuned.trajectory (query_id, column_id, recorded_at, query, k, access_path, "
                "ef_search, result_ids, distances, latency_ms) VALUES (%s, %s, %s, "
                "array_fill(1, ARRAY[48])::real[]::vector, 10, 'hnsw', 40, '{}', '{}', 1)"
            ),
            (query_id, tuned.column.id, at),
        )
    expected: list[UUID] = [made[1][0], made[2][0], made[0][0]]
    assert claim_pending(conn, tuned.column, 10).query_ids == expected


def test_replay_of_a_halfvec_column(conn: Connection, queries: Singles) -> None:
    make(conn, clustered(800, DIMENSIONS, seed=1), kind="halfvec", metric="l2")
    enable(conn, sample_rate=1.0)
    tuned = only(conn)
    record(conn, queries[:20])
    replayed(conn, tuned)
    assert load_replays(conn, tuned, tuned.indexes[0]).sample(10).recall[:, -1].mean() > 0.99
    register_vector(conn)
