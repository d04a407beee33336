"""Index builds on a real server: the memory they are given, the limits put back, and what is left of them."""

from __future__ import annotations

import re
import threading
from typing import Any

import psycopg
import pytest
from psycopg import sql
from tests.integration.search_helpers import DIMENSIONS, points
from tests.integration.table_helpers import make, one, raw

from vectuned.config.errors import VectunedError
from vectuned.config.sections import IndexBuildSettings
from vectuned.daemon.console import Console
from vectuned.daemon.database.index_build import build_with_progress
from vectuned.learning.advisor import Definition
from vectuned.learning.index_build import (
    BuildServer,
    build_session,
    plan_build,
    read_build_server,
    time_sample_builds,
)
from vectuned.learning.index_cost import Build, estimate_build_bytes

Connection = psycopg.Connection[Any]
ROWS = 12_000
MIB = 1 << 20
QUIET = Console(as_json=True, quiet=True)
GRAPH = Definition("hnsw", "plain", m=16, ef_construction=32)
INDEX = sql.Identifier("public", "built")


@pytest.fixture
def items(conn: Connection) -> Connection:
    """A table of 12,000 rows of 16 dimensions, without a vector index."""
    make(conn, points(ROWS, seed=1), index=False)
    return conn


def create(how: str, options: str) -> sql.Composed:
    statement = "CREATE INDEX built ON public.items USING {} (embedding vector_cosine_ops) WITH ({})"
    return raw(statement).format(raw(how), raw(options))


def server_with(megabytes: int, workers: int = 0) -> BuildServer:
    return BuildServer(MIB, megabytes * MIB, "a test", workers)


@pytest.fixture
def notices(items: Connection) -> list[str]:
    """The messages that the server sends with the statements of a test."""
    found: list[str] = []
    items.add_notice_handler(lambda notice: found.append(notice.message_primary or ""))
    return found


@pytest.mark.parametrize(("share", "fits"), [(1.1, True), (0.6, False)])
def test_estimate_of_a_graph_is_what_it_takes(
    items: Connection, notices: list[str], share: float, fits: bool
) -> None:
    needed = estimate_build_bytes(GRAPH, ROWS, DIMENSIONS)
    items.execute("SET max_parallel_maintenance_workers = 0")
    items.execute(raw(f"SET maintenance_work_mem = '{round(share * needed / 1024)}kB'"))
    items.execute(create("hnsw", "m = 16, ef_construction = 32"))
    outgrown = [text for text in notices if "no longer fits" in text]
    assert (not outgrown) is fits
    for text in outgrown:
        tuples = int(re.findall(r"\d+", text)[0])
        assert tuples / ROWS == pytest.approx(share, rel=0.12)


def test_estimate_of_lists_is_what_the_server_asks_for(items: Connection) -> None:
    items.execute("SET maintenance_work_mem = '4MB'")
    with pytest.raises(psycopg.errors.ProgramLimitExceeded) as caught:
        items.execute(create("ivfflat", "lists = 400"))
    (asked,) = re.findall(r"memory required is (\d+) MB", str(caught.value))
    needed = estimate_build_bytes(Definition("ivfflat", "plain", lists=400), ROWS, DIMENSIONS)
    assert needed // MIB + 1 == int(asked)


def test_build_session_sets_memory_and_no_limits_and_sets_them_back(items: Connection) -> None:
    items.execute("SET maintenance_work_mem = '2MB'")
    items.execute("SET statement_timeout = '7s'")
    items.execute("SET lock_timeout = '1s'")
    plan = plan_build(server_with(512, workers=1), GRAPH, ROWS, DIMENSIONS)
    assert plan.fits
    with build_session(items, plan):
        assert one(items, "SHOW maintenance_work_mem") == plan.memory
        assert one(items, "SHOW max_parallel_maintenance_workers") == str(plan.workers)
        assert one(items, "SHOW statement_timeout") == one(items, "SHOW lock_timeout") == "0"
    names = ("maintenance_work_mem", "statement_timeout", "lock_timeout")
    assert [one(items, f"SHOW {name}") for name in names] == ["2MB", "7s", "1s"]


def test_plan_of_a_graph_that_does_not_fit_warns_and_forecasts_the_slower_build() -> None:
    builds = [Build(GRAPH, 100_000, 100.0)]
    roomy, narrow = (
        plan_build(server_with(size), GRAPH, 1_000_000, 384, builds=builds) for size in (8000, 500)
    )
    assert roomy.warning() is None
    warning = narrow.warning()
    assert warning is not None
    assert "inserted on disk" in warning
    assert "memory_mb" in warning
    assert narrow.seconds > 2 * roomy.seconds > 2000
    assert "about" in narrow.describe()


def test_plan_gives_workers_the_memory_that_postgresql_wants_for_them() -> None:
    plan = plan_build(server_with(512, workers=3), GRAPH, 1000, 8)
    assert (plan.workers, plan.memory) == (3, "128MB")
    assert plan_build(server_with(40, workers=3), GRAPH, 1000, 8).workers == 0


def test_build_of_lists_beyond_the_memory_is_refused_before_it_begins(
    items: Connection, database: str
) -> None:
    plan = plan_build(server_with(8), Definition("ivfflat", "plain", lists=400), ROWS, DIMENSIONS)
    with pytest.raises(VectunedError, match=r"needs \d+ MB of memory, but may take 8MB .*fewer lists"):
        build_with_progress(items, database, create("ivfflat", "lists = 400"), INDEX, plan, "building", QUIET)
    assert one(items, "SELECT to_regclass('public.built')") is None


def test_build_that_fails_leaves_no_invalid_index(
    items: Connection, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    items.execute(
        "CREATE FUNCTION fail(vector) RETURNS vector LANGUAGE plpgsql IMMUTABLE AS "
        "$$ BEGIN RAISE EXCEPTION 'not today'; END $$"
    )
    statement = sql.SQL(
        "CREATE INDEX CONCURRENTLY built ON items USING hnsw ((fail(embedding)::vector(3)) vector_l2_ops)"
    )
    plan = plan_build(server_with(64), GRAPH, ROWS, DIMENSIONS)
    with pytest.raises(psycopg.errors.RaiseException):
        build_with_progress(items, database, sql.Composed([statement]), INDEX, plan, "building", QUIET)
    assert one(items, "SELECT to_regclass('public.built')") is None
    assert 'dropped "public"."built", whose build did not end' in caplog.text


@pytest.mark.parametrize("has_begun", [True, False])
def test_build_interrupted_while_its_thread_starts_is_cancelled(
    items: Connection, database: str, monkeypatch: pytest.MonkeyPatch, has_begun: bool
) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if thread.name == "create-index":
            if has_begun:
                start(thread)
                while one(looker, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 0:
                    pass
            raise KeyboardInterrupt
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    plan = plan_build(server_with(64), GRAPH, ROWS, DIMENSIONS)
    statement = raw("CREATE INDEX CONCURRENTLY built ON items USING hnsw (embedding vector_cosine_ops)")
    # A snapshot held by another session keeps an index built CONCURRENTLY from becoming valid.
    with psycopg.connect(database) as holder, psycopg.connect(database, autocommit=True) as looker:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT 1")
        with pytest.raises(KeyboardInterrupt):
            build_with_progress(items, database, sql.Composed([statement]), INDEX, plan, "building", QUIET)
        assert one(items, "SELECT to_regclass('public.built')") is None


def test_build_server_is_read_from_the_machine_or_from_settings(items: Connection, database: str) -> None:
    known = read_build_server(items)
    assert "free" in known.limit_source
    assert known.limit_bytes > 64 * MIB
    assert known.maintenance_work_mem == 256 * MIB
    limited = read_build_server(items, IndexBuildSettings(memory_mb=300, workers=0))
    assert (limited.limit_bytes, limited.workers) == (300 * MIB, 0)
    assert limited.limit_source == "memory_mb of [index_build]"
    # Never less than the server's own.
    assert read_build_server(items, IndexBuildSettings(memory_mb=1)).limit_bytes == 256 * MIB


def test_time_sample_builds_measures_large_tables_and_leaves_nothing(items: Connection) -> None:
    server, table = server_with(256), ("public", "items")
    operators = sql.Identifier("vector_cosine_ops")
    small = time_sample_builds(items, server, table, "embedding", operators, GRAPH, ROWS, DIMENSIONS)
    assert small == []
    builds = time_sample_builds(items, server, table, "embedding", operators, GRAPH, 40_000, DIMENSIONS)
    assert [each.rows for each in builds] == [3_000, 9_000]
    assert plan_build(server, GRAPH, 40_000, DIMENSIONS, builds=builds).seconds > builds[-1].seconds
    assert one(items, "SELECT count(*) FROM pg_class WHERE relname LIKE '%build_sample'") == 0
