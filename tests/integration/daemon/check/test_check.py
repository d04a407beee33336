"""`vectuned check` on real databases: what it finds, what it measures, and that it writes nothing."""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql
from tests.integration.table_helpers import clustered, one, plain_role, raw, text

from vectuned.daemon.check.catalogue import read_server, read_tables
from vectuned.daemon.check.check import check
from vectuned.daemon.check.health import check_table, check_version
from vectuned.daemon.check.report import Report
from vectuned.daemon.console import Console

Connection = psycopg.Connection[Any]

ROWS, DIMENSIONS, CATEGORIES = 12_000, 8, 24


def fill(conn: Connection, table: str, rows: int = ROWS) -> None:
    """Insert rows in 24 clusters; the category is the cluster's number, so that filters cut clusters off."""
    vectors = clustered(rows, DIMENSIONS, seed=3, clusters=CATEGORIES, spread=0.3)
    categories = np.arange(rows) % CATEGORIES
    with (
        conn.cursor() as cursor,
        cursor.copy(raw(f"COPY {table} (id, category, embedding) FROM STDIN")) as copy,
    ):
        for number, (category, vector) in enumerate(zip(categories, vectors, strict=True)):
            copy.write_row((number, f"c{category}", text(vector)))
    conn.execute(raw(f"ANALYZE {table}"))


def make(conn: Connection, table: str = "public.items", rows: int = ROWS) -> None:
    conn.execute(
        raw(f"CREATE TABLE {table} (id int PRIMARY KEY, category text, embedding vector({DIMENSIONS}))")
    )
    fill(conn, table, rows)


def index(
    conn: Connection, definition: str = "hnsw (embedding vector_l2_ops)", name: str = "items_hnsw"
) -> None:
    conn.execute(raw(f"CREATE INDEX {name} ON public.items USING {definition}"))


def run(conn: Connection, **how: Any) -> Report:
    return check(conn, Console(as_json=True), **{"seconds": 300.0, "target": 0.95, **how})


def codes(report: Report) -> dict[str, str]:
    return {finding.code: finding.subject for finding in report.findings}


def test_check_without_a_vector_column_finds_nothing(
    plain_conn: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    report = check(plain_conn, Console(), seconds=10.0, target=0.95)
    assert report.is_healthy
    assert (report.tables, report.findings, report.measurements) == ([], [], [])
    assert "no vector column" in capsys.readouterr().out


def test_check_without_pgvector_finds_nothing(plain_conn: Connection) -> None:
    plain_conn.execute("DROP EXTENSION vector")
    report = run(plain_conn)
    assert report.server.pgvector is None
    assert report.findings == []


def test_check_of_a_healthy_table_measures_its_recall(plain_conn: Connection) -> None:
    make(plain_conn)
    index(plain_conn)
    report = run(plain_conn)
    assert report.is_healthy
    (measured,) = report.measurements
    assert (measured.table, measured.index.name, measured.filter) == (
        "public.items.embedding",
        "items_hnsw",
        None,
    )
    assert measured.queries == 100
    assert measured.now.path == "index items_hnsw"
    assert measured.now.recall > 0.97
    assert 0.9 < measured.now.recall_bound < measured.now.recall
    assert measured.now.short == 0.0


def test_check_of_recall_agrees_with_exact_search(plain_conn: Connection) -> None:
    make(plain_conn)
    index(plain_conn, "hnsw (embedding vector_l2_ops) WITH (m = 2, ef_construction = 4)")
    report = run(plain_conn)
    low = report.measurements[0].now.recall
    assert low < 0.9
    assert codes(report)["low-recall"] == "public.items.embedding"
    assert not report.is_healthy
    # Through the whole table each search finds everything, also the row that it searched for.
    plain_conn.execute("SET enable_indexscan = off")
    exact = run(plain_conn).measurements[0].now
    assert (exact.recall, exact.short, exact.path) == (1.0, 0.0, "exact, every row read")


def test_check_of_a_filter_finds_answers_that_fall_short(plain_conn: Connection) -> None:
    make(plain_conn)
    index(plain_conn)
    index(plain_conn, "btree (category)", "items_category")
    # Without these the planner sees that few rows match, and does not use the vector index.
    plain_conn.execute("SET enable_bitmapscan = off")
    plain_conn.execute("SET enable_sort = off")
    report = run(plain_conn)
    filtered = next(m for m in report.measurements if m.filter == "category")
    assert filtered.now.path == "index items_hnsw"
    assert filtered.now.short > 0.3
    assert filtered.now.recall < 0.8
    assert filtered.now.rows_returned < 9.0
    assert codes(report)["low-recall"] == "public.items.embedding by category"
    iterative = filtered.others[0]
    assert iterative.settings == "hnsw.iterative_scan = relaxed_order"
    assert iterative.recall > filtered.now.recall
    assert filtered.others[-1].recall == 1.0
    (problem,) = [f for f in report.findings if f.code == "low-recall"]
    assert "fewer rows than match" in problem.message


def test_check_finds_an_invalid_index(plain_conn: Connection) -> None:
    make(plain_conn)
    index(plain_conn)
    plain_conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'items_hnsw'::regclass")
    report = run(plain_conn)
    (found,) = [f for f in report.findings if f.code == "invalid-index"]
    assert found.severity == "problem"
    assert found.statement == 'REINDEX INDEX CONCURRENTLY "public"."items_hnsw"'
    assert "no-index" not in codes(report)  # a second index beside it would be the wrong advice
    assert "no valid index" in report.not_measured["public.items.embedding"]
    index(plain_conn, name="second")
    (found,) = [f for f in run(plain_conn).findings if f.code == "invalid-index"]
    assert found.statement == 'DROP INDEX CONCURRENTLY "public"."items_hnsw"'


def test_check_finds_what_a_failed_build_left(plain_conn: Connection) -> None:
    make(plain_conn)
    # Two thousand lists take 770 MB for k-means.
    plain_conn.execute("SET maintenance_work_mem = '64MB'")
    with pytest.raises(psycopg.errors.ProgramLimitExceeded):
        plain_conn.execute(
            "CREATE INDEX CONCURRENTLY failed ON items USING ivfflat (embedding vector_l2_ops) "
            "WITH (lists = 2000)"
        )
    (found,) = [f for f in run(plain_conn).findings if f.code == "invalid-index"]
    assert found.subject == "public.failed"
    assert "no search uses it" in found.message
    # One that serves is added: the other is to be dropped, not built again beside it.
    index(plain_conn, "ivfflat (embedding vector_l2_ops) WITH (lists = 12)", "serving")
    (found,) = [f for f in run(plain_conn).findings if f.code == "invalid-index"]
    assert found.statement == 'DROP INDEX CONCURRENTLY "public"."failed"'
    plain_conn.execute(raw(found.statement))
    assert "invalid-index" not in codes(run(plain_conn))


def test_check_finds_lists_that_do_not_suit_the_rows(plain_conn: Connection) -> None:
    make(plain_conn)
    index(plain_conn, "ivfflat (embedding vector_l2_ops) WITH (lists = 1)")
    (found,) = [f for f in run(plain_conn).findings if f.code == "ivfflat-lists"]
    assert "has 1 lists for 12,000 rows; about 12 are usual" in found.message


def test_check_finds_duplicates_of_an_index(plain_conn: Connection) -> None:
    make(plain_conn)
    index(plain_conn)
    index(plain_conn, name="twin")
    index(plain_conn, "hnsw (embedding vector_l2_ops) WITH (m = 24)", "other_build")
    index(plain_conn, "hnsw (embedding vector_cosine_ops)", "other_distance")
    found = [f.subject for f in run(plain_conn).findings if f.code == "duplicate-index"]
    assert sorted(found) == ["public.other_build", "public.twin"]


def test_check_of_lists_made_before_the_rows_advises_to_build_them_again(plain_conn: Connection) -> None:
    plain_conn.execute(
        raw(f"CREATE TABLE public.items (id int PRIMARY KEY, category text, embedding vector({DIMENSIONS}))")
    )
    index(plain_conn, "ivfflat (embedding vector_l2_ops) WITH (lists = 100)", "early")
    fill(plain_conn, "public.items")
    report = run(plain_conn)
    (found,) = [f for f in report.findings if f.code == "low-recall"]
    assert 'REINDEX INDEX CONCURRENTLY "public"."early"' in found.advice
    assert report.measurements[0].others[0].settings == "ivfflat.probes = 2"


def test_check_finds_lists_that_divide_the_rows_badly(plain_conn: Connection) -> None:
    plain_conn.execute(
        raw(f"CREATE TABLE public.items (id int PRIMARY KEY, category text, embedding vector({DIMENSIONS}))")
    )
    index(plain_conn, "ivfflat (embedding vector_l2_ops) WITH (lists = 100)", "early")
    fill(plain_conn, "public.items")
    (found,) = [f for f in run(plain_conn).findings if f.code == "uneven-lists"]
    assert found.severity == "problem"
    assert found.statement == 'REINDEX INDEX CONCURRENTLY "public"."early"'
    plain_conn.execute("REINDEX INDEX early")
    assert "uneven-lists" not in codes(run(plain_conn))


def test_check_finds_rows_that_no_path_leads_to(plain_conn: Connection) -> None:
    make(plain_conn)
    index(plain_conn)
    assert "unreachable-rows" not in codes(run(plain_conn))
    # Two neighbours a row are too few for rows without any structure: no path leads to many of them.
    plain_conn.execute("DROP INDEX items_hnsw")
    plain_conn.execute(
        raw(
            "UPDATE items SET embedding = (SELECT array_agg(random() + 0 * d * id) "
            f"FROM generate_series(1, {DIMENSIONS}) d)::vector"
        )
    )
    index(plain_conn, "hnsw (embedding vector_l2_ops) WITH (m = 2, ef_construction = 4)")
    plain_conn.execute("VACUUM ANALYZE items")
    (found,) = [f for f in run(plain_conn).findings if f.code == "unreachable-rows"]
    assert found.severity == "problem"
    assert "m 2, ef_construction 4" in found.advice


def test_check_finds_a_heap_of_equal_vectors(plain_conn: Connection) -> None:
    make(plain_conn)
    index(plain_conn)
    assert "equal-vectors" not in codes(run(plain_conn))
    plain_conn.execute(
        "UPDATE items SET embedding = (SELECT embedding FROM items WHERE id = 0) WHERE id % 5 = 0"
    )
    plain_conn.execute("VACUUM ANALYZE items")
    (found,) = [f for f in run(plain_conn).findings if f.code == "equal-vectors"]
    (share,) = re.findall(r"\(([0-9.]+)% of the rows\)", found.message)
    assert float(share) == pytest.approx(20, abs=4)


def test_check_leaves_an_index_that_is_being_built_alone(plain_conn: Connection, plain_database: str) -> None:
    make(plain_conn)
    with (
        psycopg.connect(plain_database) as holder,
        psycopg.connect(plain_database, autocommit=True) as builder,
    ):
        holder.execute("LOCK TABLE items IN ROW EXCLUSIVE MODE")
        building = threading.Thread(
            target=builder.execute,
            args=("CREATE INDEX CONCURRENTLY slow ON items USING hnsw (embedding vector_l2_ops)",),
        )
        building.start()
        while not one(plain_conn, "SELECT count(*) FROM pg_index WHERE NOT indisvalid"):
            time.sleep(0.01)
        assert "invalid-index" not in codes(run(plain_conn))
        holder.rollback()
        building.join()


def test_check_finds_each_illness_that_the_catalogue_shows(plain_conn: Connection) -> None:
    make(plain_conn)
    index(plain_conn)
    plain_conn.execute("SELECT pg_stat_force_next_flush()")
    server = read_server(plain_conn)
    (table,) = read_tables(plain_conn)
    small = replace(server, shared_buffers=8192, statistics_age=timedelta(days=2))
    found = {finding.code: finding for finding in check_table(small, table)}
    assert set(found) == {"larger-than-memory", "unused-index"}
    # pgvector repairs graphs in vacuums without a fault from 0.8.4 on.
    vacuumed = replace(table, vacuums=3)
    for version, damaged in (("0.8.3", True), ("0.8.4", False)):
        judged = list(check_version(replace(server, pgvector=version), [vacuumed]))
        assert ("vacuum-corruption" in {finding.code for finding in judged}) is damaged
    (finding,) = [
        f
        for f in check_version(replace(server, pgvector="0.8.3"), [vacuumed])
        if f.code == "vacuum-corruption"
    ]
    assert finding.statement == 'REINDEX INDEX CONCURRENTLY "public"."items_hnsw"'


def test_check_finds_a_table_without_index(plain_conn: Connection) -> None:
    make(plain_conn)
    (found,) = run(plain_conn).findings
    assert (found.code, found.severity) == ("no-index", "warning")
    assert found.statement is not None
    plain_conn.execute(raw(found.statement.replace("CONCURRENTLY ", "")))
    assert "no-index" not in codes(run(plain_conn))


def test_check_finds_a_table_never_analyzed_and_dead_rows(plain_conn: Connection) -> None:
    make(plain_conn)
    index(plain_conn)
    plain_conn.execute("SELECT pg_stat_force_next_flush()")
    plain_conn.execute("DELETE FROM items WHERE id % 4 > 0")
    plain_conn.execute("SELECT pg_stat_force_next_flush()")
    assert codes(run(plain_conn))["dead-rows"] == "public.items.embedding"
    plain_conn.execute("CREATE TABLE fresh AS SELECT * FROM items")
    assert codes(run(plain_conn))["never-analyzed"] == "public.fresh.embedding"


def test_check_stops_measuring_when_its_time_is_over(plain_conn: Connection) -> None:
    make(plain_conn)
    index(plain_conn)
    report = run(plain_conn, seconds=0.0)
    assert report.measurements == []
    assert "give more --seconds" in report.not_measured["public.items.embedding"]


def test_check_of_a_table_that_may_not_be_read_says_so(plain_conn: Connection, plain_database: str) -> None:
    make(plain_conn)
    index(plain_conn)
    with plain_role(plain_conn, plain_database) as reader:
        report = run(reader)
    assert "GRANT SELECT" in report.not_measured["public.items.embedding"]


def test_check_by_a_role_with_select_alone_writes_nothing(
    plain_conn: Connection, plain_database: str
) -> None:
    make(plain_conn)
    index(plain_conn)
    index(plain_conn, "btree (category)", "items_category")
    before = catalogue(plain_conn)
    with plain_role(plain_conn, plain_database, "SELECT ON items") as reader:
        report = run(reader)
        assert len(report.measurements) == 2
        assert one(reader, "SHOW hnsw.ef_search") == "40"
        assert one(reader, "SHOW transaction_read_only") == "off"
    assert catalogue(plain_conn) == before
    json.dumps(report.as_dict(), default=str)


def test_check_goes_on_when_one_table_cannot_be_measured(plain_conn: Connection) -> None:
    make(plain_conn)
    index(plain_conn)
    plain_conn.execute("CREATE TABLE mixed (id int PRIMARY KEY, embedding vector)")
    plain_conn.execute(
        sql.SQL("INSERT INTO mixed SELECT i, {}::vector FROM generate_series(1, 50) i").format(
            sql.Literal(text(np.ones(DIMENSIONS)))
        )
    )
    plain_conn.execute("INSERT INTO mixed VALUES (51, '[1,2]')")
    plain_conn.execute(
        raw(
            f"CREATE INDEX mixed_hnsw ON mixed USING hnsw ((embedding::vector({DIMENSIONS})) vector_l2_ops) "
            "WHERE vector_dims(embedding) = 8"
        )
    )
    plain_conn.execute("ANALYZE mixed")
    report = run(plain_conn)
    assert "public.mixed.embedding" in report.not_measured
    assert [m.table for m in report.measurements] == ["public.items.embedding"]


def test_check_measures_through_an_index_of_half_precision(plain_conn: Connection) -> None:
    make(plain_conn)
    index(plain_conn, f"hnsw ((embedding::halfvec({DIMENSIONS})) halfvec_l2_ops)")
    (measured,) = run(plain_conn).measurements
    assert measured.now.path == "index items_hnsw"
    assert measured.now.recall > 0.95


def catalogue(conn: Connection) -> list[tuple[Any, ...]]:
    return conn.execute(
        "SELECT 'class', oid::text, relname, relfilenode::text FROM pg_class "
        "UNION ALL SELECT 'function', oid::text, proname, '' FROM pg_proc "
        "UNION ALL SELECT 'setting', setdatabase::text, setrole::text, setconfig::text "
        "FROM pg_db_role_setting "
        "UNION ALL SELECT 'extension', oid::text, extname, extversion FROM pg_extension ORDER BY 1, 2"
    ).fetchall()
