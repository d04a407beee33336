"""Disturbances of the worker: failing networks, locks, full disks, dropped columns, limits of others."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from tests.integration.embedded_helpers import eventually
from tests.integration.proxy_helpers import proxied
from tests.integration.table_helpers import Connection, clustered, enable, make, one, raw

from vectuned import client
from vectuned.config.errors import UsageError
from vectuned.config.settings import load_settings
from vectuned.daemon.database.session import open_session
from vectuned.daemon.work.worker import Worker
from vectuned.sql.install import migrate

DIMENSIONS = 8
SETTINGS = load_settings(None, {}, {})
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small file system")


@pytest.fixture
def items(conn: Connection) -> Connection:
    make(conn, clustered(300, DIMENSIONS, seed=1))
    enable(conn, sample_rate=1.0, min_samples=20)
    return conn


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the server's account can read; it may not enter pytest's own folders."""
    with tempfile.TemporaryDirectory(prefix="vt-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def ask(conn: Connection, count: int, seed: int = 2, relation: str = "items") -> list[bool]:
    """Search, and return for each search whether it was recorded."""
    found = [
        client.search(conn, relation, query.tolist()) for query in clustered(count, DIMENSIONS, seed=seed)
    ]
    assert all(len(hits) == 10 for hits in found)
    return [str(hits[0].query_id).endswith("1") for hits in found]


def count_recorded(conn: Connection) -> int | None:
    """Search once and return how many searches were recorded; None if the disk is full."""
    try:
        return sum(ask(conn, 1))
    except psycopg.errors.DiskFull:
        return None


def counted(conn: Connection) -> tuple[int, int, int]:
    """Count the waiting searches, the replayed ones, and the checks."""
    return (
        one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE replayed_at IS NULL"),
        one(conn, "SELECT count(DISTINCT query_id) FROM vectuned.replay"),
        one(conn, "SELECT count(*) FROM vectuned.recall_check"),
    )


def test_replay_all_on_a_connection_cut_during_a_pass_loses_nothing(items: Connection) -> None:
    ask(items, 30)
    with proxied(items) as proxy:
        with open_session(proxy.dsn) as conn:
            worker = Worker(conn, SETTINGS)
            worker.drain()
            with pytest.raises(psycopg.OperationalError):
                worker.replay_all(lambda done: proxy.cut() if done == 10 else None)
            assert conn.closed
        assert eventually(lambda: counted(items) == (30, 0, 0))
        proxy.open = False
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(proxy.dsn, connect_timeout=5)
        proxy.open = True
        with open_session(proxy.dsn) as conn:
            assert Worker(conn, SETTINGS).replay_all() == 30
    assert counted(items) == (0, 30, 30)


def test_worker_on_a_slow_network_works_as_usual(items: Connection) -> None:
    ask(items, 3)
    with proxied(items) as proxy:
        proxy.delay = 0.01
        with open_session(proxy.dsn) as conn:
            worker = Worker(conn, SETTINGS)
            assert worker.drain() == 3
            assert worker.replay_all() == 3
        assert proxy.passed > 1000
    assert counted(items) == (0, 3, 3)


@pytest.fixture
def small_tablespace(items: Connection, open_folder: Path) -> Iterator[Path]:
    """A folder that is a file system of 1 MB, with a tablespace `small` in it."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", open_folder], check=False)
    if mounted.returncode != 0:
        # In a container root may lack the right, and there is no other way to fill a disk.
        pytest.skip("no file system can be mounted here")
    try:
        place = open_folder / "space"
        place.mkdir(mode=0o700)
        account = Path(one(items, "SHOW data_directory")).stat()
        os.chown(place, account.st_uid, account.st_gid)
        items.execute(raw(f"CREATE TABLESPACE small LOCATION '{place}'"))
        try:
            yield open_folder
        finally:
            items.execute("ALTER TABLE vectuned.inbox SET TABLESPACE pg_default")
            items.execute("DROP TABLESPACE small")
    finally:
        subprocess.run(["umount", open_folder], check=True)


@root_only
def test_drain_on_a_full_disk_loses_nothing_and_unsampled_searches_go_on(
    items: Connection, small_tablespace: Path
) -> None:
    other = small_tablespace / "other"
    other.write_bytes(bytes(1 << 18))
    items.execute("ALTER TABLE vectuned.inbox SET TABLESPACE small")
    recorded = 0
    while (count := count_recorded(items)) is not None:
        recorded += count
        assert recorded < 20_000
    enable(items, sample_rate=0.0)
    assert not any(ask(items, 100))
    enable(items, sample_rate=1.0)
    worker = Worker(items, SETTINGS)
    for _ in range(2):
        with pytest.raises(psycopg.errors.DiskFull):
            worker.drain()
        assert one(items, "SELECT count(*) FROM vectuned.inbox") == 0
        assert one(items, "SELECT count(*) FROM vectuned.trajectory") == recorded
    other.unlink()
    worker.drain()
    assert all(ask(items, 100))


def test_open_session_overrides_limits_of_the_database(items: Connection, database: str) -> None:
    name = items.info.dbname
    others = (
        "statement_timeout",
        "lock_timeout",
        "idle_in_transaction_session_timeout",
        "transaction_timeout",
    )
    for limit in others:
        items.execute(f'ALTER DATABASE "{name}" SET {limit} = 20')
    ask(items, 30)
    with open_session(database) as conn:
        worker = Worker(conn, SETTINGS)
        assert worker.drain() == 30
        assert worker.replay_all() == 30
        assert worker.learn_all() == 1
        assert one(conn, "SHOW lock_timeout") == "30s"


def test_replay_all_skips_a_locked_table(items: Connection, database: str) -> None:
    make(items, clustered(200, DIMENSIONS, seed=3), table="others")
    enable(items, "others", sample_rate=1.0)
    ask(items, 5)
    ask(items, 5, seed=4, relation="others")
    with psycopg.connect(database) as holder, open_session(database) as conn:
        conn.execute("SET lock_timeout = '200ms'")
        worker = Worker(conn, SETTINGS)
        worker.drain()
        holder.execute("ALTER TABLE items ADD COLUMN fresh int")
        assert worker.replay_all() == 5
        holder.rollback()
        # A new worker does not wait, as this one does after a failure that took its time.
        assert Worker(conn, SETTINGS).replay_all() == 5
    assert counted(items)[0] == 0


def test_replay_all_while_the_index_is_dropped_recovers(
    items: Connection, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    ask(items, 30)
    dropped = threading.Event()

    def drop() -> None:
        with psycopg.connect(database, autocommit=True) as conn:
            conn.execute("DROP INDEX CONCURRENTLY items_embedding_idx")
        dropped.set()

    dropper = threading.Thread(target=drop)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DROP%%'"

    def progress(done: int) -> None:
        if done == 10:
            dropper.start()
            assert eventually(lambda: one(items, waiting) == 1)
            assert not dropped.is_set()

    with open_session(database) as conn:
        worker = Worker(conn, SETTINGS)
        worker.drain()
        with caplog.at_level("WARNING"):
            assert worker.replay_all(progress) == 0
        assert "is skipped" in caplog.text
        dropper.join()
        assert counted(items) == (30, 0, 0)
        ask(items, 5, seed=8)
        worker = Worker(conn, SETTINGS)  # does not wait, as the other one does after a failure
        worker.drain()
        worker.replay_all()
        worker.learn_all()
        assert one(conn, "SELECT state FROM vectuned.status LIMIT 1").startswith("index missing")
        conn.execute(
            "CREATE INDEX CONCURRENTLY items_embedding_idx ON items USING hnsw (embedding vector_cosine_ops)"
        )
        enable(items, sample_rate=1.0, min_samples=20)
        ask(items, 30, seed=9)
        worker = Worker(conn, SETTINGS)
        worker.drain()
        assert worker.replay_all() >= 30
        assert worker.learn_all() == 1
    assert one(items, "SELECT DISTINCT state FROM vectuned.status") == "serving"


def test_worker_skips_a_dropped_column(items: Connection, database: str) -> None:
    make(items, clustered(200, DIMENSIONS, seed=3), table="others")
    enable(items, "others", sample_rate=1.0)
    ask(items, 5)
    ask(items, 1, relation="others")
    items.execute("ALTER TABLE items DROP COLUMN embedding")
    with pytest.raises(psycopg.Error) as caught:
        ask(items, 1)
    assert caught.value.sqlstate is not None
    assert not caught.value.sqlstate.startswith("XX")
    with open_session(database) as conn:
        worker = Worker(conn, SETTINGS)
        worker.drain()
        assert worker.replay_all() == 1
        worker.judge()
        worker.learn_all()
    assert "missing" in one(items, "SELECT state FROM vectuned.status WHERE relation = 'items'::regclass")
    items.execute("SELECT vectuned.disable('items', 'embedding', forget => true)")
    assert one(items, "SELECT count(*) FROM vectuned.status") == 1


def test_searches_go_on_while_the_extension_is_upgraded(
    items: Connection, database: str, open_folder: Path
) -> None:
    """The new version replaces one function and adds another."""
    version = one(items, "SELECT extversion FROM pg_extension WHERE extname = 'vector'")
    folder = open_folder / "extension"
    folder.mkdir(mode=0o755)
    control = "default_version = '99.0'\nmodule_pathname = '$libdir/vector'\nrelocatable = true\n"
    (folder / "vector.control").write_text(control)
    (folder / f"vector--{version}--99.0.sql").write_text(
        "CREATE OR REPLACE FUNCTION l2_distance(vector, vector) RETURNS float8 AS 'MODULE_PATHNAME' "
        "LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;\n"
        "CREATE FUNCTION newest(vector) RETURNS int LANGUAGE sql RETURN 1;\n"
    )
    stop, done = threading.Event(), []

    def ask_on() -> None:
        with psycopg.connect(database, autocommit=True) as conn:
            while not stop.is_set():
                done.append(sum(ask(conn, 5)))

    asking = threading.Thread(target=ask_on)
    asking.start()
    try:
        assert eventually(lambda: len(done) > 2)
        items.execute(f"SET extension_control_path = '{open_folder}:$system'")
        items.execute("ALTER EXTENSION vector UPDATE")
        before = len(done)
        assert eventually(lambda: len(done) > before + 2)
    finally:
        stop.set()
        asking.join()
    assert one(items, "SELECT extversion FROM pg_extension WHERE extname = 'vector'") == "99.0"
    with open_session(database) as conn:
        worker = Worker(conn, SETTINGS)
        assert worker.drain() == sum(done)
        assert worker.replay_all() == sum(done)
        assert worker.learn_all() == 1


def test_open_session_after_pgvector_moved_asks_for_migrate(items: Connection, database: str) -> None:
    ask(items, 5)
    items.execute('CREATE SCHEMA "mo""ved"; ALTER EXTENSION vector SET SCHEMA "mo""ved"')
    with pytest.raises(UsageError, match=r'moved to schema mo"ved .* run `vectuned migrate`'):
        open_session(database)
    migrate(items)
    with open_session(database) as conn:
        assert all(ask(conn, 5))
        worker = Worker(conn, SETTINGS)
        assert worker.drain() == 10
        assert worker.replay_all() == 10
