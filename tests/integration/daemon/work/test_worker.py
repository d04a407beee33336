"""The work of `Worker` on a real database: what it processes, skips and leaves alone."""

from __future__ import annotations

import logging

import psycopg
import pytest
from tests.integration.table_helpers import (
    Connection,
    clustered,
    drop_day_partitions,
    enable,
    make,
    one,
    raw,
    search,
)

from vectuned.config.settings import Settings, load_settings
from vectuned.daemon.work.storage import (
    limit_recording,
    read_table_states,
    skip_old_searches,
    trim_trajectories,
)
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.tuned_columns import TunedColumn

DIMENSIONS = 16


def settings(**learning: object) -> Settings:
    """Settings with other values in the section [learning], whatever the environment says."""
    return load_settings(None, {f"learning.{key}": value for key, value in learning.items()}, {})


def table(conn: Connection, name: str = "items") -> None:
    make(conn, clustered(800, DIMENSIONS, seed=1), table=name)
    enable(conn, name, sample_rate=1.0, min_samples=20)


def ask(conn: Connection, count: int, seed: int, name: str = "items") -> None:
    for query in clustered(count, DIMENSIONS, seed=seed):
        search(conn, query, relation=name)


def test_worker_drains_replays_and_learns_until_nothing_is_new(conn: Connection) -> None:
    table(conn)
    worker = Worker(conn, settings(batch_min=10))
    ask(conn, 40, seed=2)
    assert worker.drain() == 40
    assert worker.replay_all() == 40
    assert worker.learn_all() == 1
    assert one(conn, "SELECT count(*) FROM vectuned.bank WHERE k_class = 10") == 1
    assert (worker.drain(), worker.replay_all(), worker.learn_all()) == (0, 0, 0)
    ask(conn, 9, seed=3)
    worker.drain()
    worker.replay_all()
    assert worker.learn_all() == 0  # nine replays are fewer than batch_min
    ask(conn, 1, seed=4)
    worker.drain()
    worker.replay_all()
    assert worker.learn_all() == 1


def test_has_news_after_another_target_or_limit(conn: Connection) -> None:
    table(conn)
    worker = Worker(conn, settings())
    ask(conn, 40, seed=2)
    worker.drain()
    worker.replay_all()
    assert [worker.learn_all(), worker.learn_all()] == [1, 0]
    for target, max_tail in ((0.9, None), (0.9, 0.01)):
        enable(conn, sample_rate=1.0, min_samples=20, target_recall=target, max_tail=max_tail)
        assert [worker.learn_all(), worker.learn_all()] == [1, 0]


def test_learn_all_with_learning_off_publishes_nothing(conn: Connection) -> None:
    table(conn)
    worker = Worker(conn, settings(enabled=False))
    ask(conn, 40, seed=2)
    worker.drain()
    assert worker.replay_all() == 40
    assert worker.learn_all() == 0
    assert one(conn, "SELECT count(*) FROM vectuned.bank") == 0
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE recall IS NOT NULL") == 40


def test_replay_all_replays_at_most_one_batch(conn: Connection) -> None:
    table(conn)
    worker = Worker(conn, settings(replay_batch=15))
    ask(conn, 40, seed=2)
    worker.drain()
    assert [worker.replay_all() for _ in range(4)] == [15, 15, 10, 0]


def test_replay_all_skips_a_column_without_its_index(
    conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("first", "second"):
        table(conn, name)
        ask(conn, 30, seed=5, name=name)
    conn.execute("DROP INDEX first_embedding_idx")
    worker = Worker(conn, settings())
    worker.drain()
    with caplog.at_level(logging.WARNING, logger="vectuned"):
        assert worker.replay_all() == 30
    assert "public.first.embedding is skipped: The index of" in caplog.text
    assert worker.learn_all() == 1


def test_prepare_bounds_the_inbox_as_the_settings_say(conn: Connection) -> None:
    Worker(conn, load_settings(None, {"inbox.max_mb": 3}, {})).prepare()
    assert one(conn, "SELECT vectuned._inbox_bytes()") == 3 * 1024 * 1024


def test_maintain_makes_the_coming_days(conn: Connection) -> None:
    worker = Worker(conn, settings())
    drop_day_partitions(conn)
    worker.maintain()
    made = conn.execute(
        "SELECT inhparent::regclass::text, count(*) FROM pg_inherits "
        "WHERE inhparent IN ('vectuned.trajectory'::regclass, 'vectuned.feedback'::regclass) "
        "AND inhrelid::regclass::text ~ '_[0-9]{8}$' GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert made == [("vectuned.feedback", 8), ("vectuned.trajectory", 8)]


def test_maintain_deletes_old_events_except_the_newest_of_each_kind(conn: Connection) -> None:
    table(conn)
    ask(conn, 25, seed=2)
    worker = Worker(conn, settings(enabled=False))
    worker.drain()
    worker.replay_all()
    conn.execute("UPDATE vectuned.tuned_column SET trajectory_window = 20")
    conn.execute("DELETE FROM vectuned.event")
    conn.execute(
        "INSERT INTO vectuned.event (column_id, action, happened_at) "
        "SELECT c, a, now() - make_interval(days => d) "
        "FROM unnest(ARRAY[1, NULL]) c, unnest(ARRAY['publish', 'behind']) a, unnest(ARRAY[60, 40, 10]) d "
        "WHERE a = 'publish' OR d > 30"
    )
    worker.maintain()
    left = conn.execute(
        "SELECT column_id, action, round(extract(epoch FROM now() - happened_at) / 86400)::int "
        "FROM vectuned.event ORDER BY 1, 2, 3"
    ).fetchall()
    assert left == [(1, "behind", 40), (1, "publish", 10), (None, "behind", 40), (None, "publish", 10)]
    # With learning off, retention trims the replays.
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 20
    conn.execute("DROP INDEX items_embedding_idx")
    worker.maintain()
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 20


def test_maintain_deletes_the_oldest_searches_beyond_the_size_of_a_column(conn: Connection) -> None:
    table(conn)
    worker = Worker(conn, settings())
    ask(conn, 30, seed=2)
    worker.drain()
    assert one(conn, "SELECT trajectories FROM vectuned.stats('items')") == 30
    conn.execute("UPDATE vectuned.recorded SET bytes = 1000 * bytes")  # as if the vectors were large
    size = one(conn, "SELECT sum(bytes)::bigint FROM vectuned.recorded")
    (tuned,) = worker.columns()
    assert trim_trajectories(conn, tuned, size) == 0
    newest = one(conn, "SELECT max(recorded_at) FROM vectuned.trajectory")
    assert 10 <= trim_trajectories(conn, tuned, size // 2) <= 20
    left = one(conn, "SELECT count(*) FROM vectuned.trajectory")
    assert one(conn, "SELECT trajectories FROM vectuned.stats('items')") == left
    assert one(conn, "SELECT max(recorded_at) FROM vectuned.trajectory") == newest


def test_limit_recording_is_visible_and_bounds_the_share(conn: Connection) -> None:
    table(conn)
    worker = Worker(conn, settings())
    (tuned,) = worker.columns()
    assert one(conn, "SELECT recorded_share FROM vectuned.stats('items')") == 1.0
    limit_recording(conn, tuned, 0.0001)
    assert one(conn, "SELECT recorded_share FROM vectuned.stats('items')") == 0.0001
    ask(conn, 40, seed=2)
    assert one(conn, "SELECT count(*) < 10 FROM vectuned.inbox")
    limit_recording(conn, tuned, None)
    assert one(conn, "SELECT recorded_share FROM vectuned.stats('items')") == 1.0


def test_replay_deletes_the_vectors_of_searches_it_skips(conn: Connection) -> None:
    make(conn, clustered(800, DIMENSIONS, seed=1))
    enable(conn, sample_rate=1.0, min_samples=20, trajectory_window=100)
    worker = Worker(conn, settings())
    ask(conn, 130, seed=2)
    worker.drain()
    (tuned,) = worker.columns()
    assert skip_old_searches(conn, tuned) == 30
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE query IS NULL") == 30


class _CountingWorker(Worker):
    """Note which columns are refreshed one by one."""

    def refresh(self, tuned: TunedColumn) -> TunedColumn:
        self.refreshed = [*getattr(self, "refreshed", []), tuned.column.table]
        return super().refresh(tuned)

    def take_refreshed(self) -> list[str]:
        taken, self.refreshed = getattr(self, "refreshed", []), []
        return sorted(taken)


def test_refresh_all_looks_only_at_columns_that_have_changed(conn: Connection) -> None:
    for name in ("one", "two", "three"):
        table(conn, name)
    worker = _CountingWorker(conn, settings())
    conn.execute("SELECT pg_stat_force_next_flush()")
    for _ in range(2):  # the first refresh may change rows that the second one notices
        worker.refresh_all()
    worker.take_refreshed()
    changes: dict[str, tuple[str, ...]] = {
        "nothing": (),
        "CREATE INDEX ON one USING hnsw (embedding vector_cosine_ops)": ("one",),
        "ALTER TABLE two RENAME COLUMN id TO key": ("two",),
        "REINDEX TABLE three": ("three",),
        "ANALYZE one": ("one",),
        "UPDATE vectuned.tuned_column SET min_samples = 30 WHERE relation = 'two'::regclass": ("two",),
        "INSERT INTO three SELECT id + 100000, embedding FROM three": ("three",),
    }
    for statement, expected in changes.items():
        if statement != "nothing":
            conn.execute(raw(statement))
        conn.execute("SELECT pg_stat_force_next_flush()")
        worker.refresh_all()
        assert worker.take_refreshed() == list(expected), statement
        worker.refresh_all()
        worker.take_refreshed()
    worker.replay_all()
    worker.learn_all()
    assert worker.take_refreshed() == [], "nothing waits, and nothing is new"


def test_refresh_all_reads_what_has_changed_while_a_table_is_locked(conn: Connection, database: str) -> None:
    for name in ("one", "two"):
        table(conn, name)
    worker = Worker(conn, settings())
    conn.execute("SET lock_timeout = '50ms'")
    with psycopg.connect(database) as other:
        other.execute("LOCK TABLE one IN ACCESS EXCLUSIVE MODE")
        assert read_table_states(conn).keys() == {1, 2}
        worker.refresh_all()
    rows = conn.execute("SELECT column_id FROM vectuned.column_failure WHERE job = 'refresh'").fetchall()
    assert rows == [(1,)], "the locked table only"
