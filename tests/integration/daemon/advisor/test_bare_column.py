"""`vectuned advise` on columns without an index: advice, its statement, and what --apply makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.integration.search_helpers import DIMENSIONS, points
from tests.integration.table_helpers import Connection, enable, make, one, raw, text

from vectuned.daemon.advisor.trials import TrialRunner
from vectuned.daemon.cli.main import main
from vectuned.learning import advisor
from vectuned.learning.advisor import Definition

HALF = Definition("hnsw", "halfvec", m=16, ef_construction=64)
PLAIN = Definition("hnsw", "plain", m=16, ef_construction=64)
SMALL = ("--sample-rows", "900", "--queries", "40", "--quiet")


def advise(
    database: str, capsys: pytest.CaptureFixture[str], *arguments: str, table: str = "items"
) -> tuple[int, Any, str]:
    """Run the command in this process; return exit code, document and messages."""
    code = main(["advise", table, *SMALL, *arguments, "--json", "--dsn", database])
    output = capsys.readouterr()
    return code, json.loads(output.out) if output.out else None, output.err


def vector_indexes(conn: Connection) -> list[str]:
    rows = conn.execute(
        "SELECT pg_get_indexdef(i.oid) FROM pg_class i JOIN pg_am m ON m.oid = i.relam "
        "WHERE m.amname IN ('hnsw', 'ivfflat')"
    ).fetchall()
    return [row[0] for row in rows]


def prefer(monkeypatch: pytest.MonkeyPatch, *candidates: Definition) -> None:
    """Let these candidates alone compete, and any index be worth its place."""
    monkeypatch.setattr(advisor, "initial_candidates", lambda *_: list(candidates))
    monkeypatch.setattr(advisor, "refine", lambda _: [])
    monkeypatch.setattr("vectuned.daemon.advisor.advice_report.WORTHWHILE_SHARE", 1000.0)


def test_advise_on_a_bare_column_measures_candidates_and_changes_nothing(
    conn: Connection, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make(conn, points(3000, seed=1), index=False)
    code, report, message = advise(database, capsys, "--target", "0.9")
    assert (code, message) == (0, "")
    assert (report["current"], report["target_recall"], report["queries"]) == (None, 0.9, 40)
    assert "rows of the table as queries" in report["note"]
    assert "cosine distance (the usual one" in report["note"]
    assert report["exact_ms"] > 0
    assert "exact search" in report["summary"]
    reached = [each for each in report["candidates"] if each["at_target"]]
    assert reached
    assert all(each["at_target"]["recall"] >= 0.9 and each["at_target"]["ms"] > 0 for each in reached)
    assert all(each["extrapolated"] for each in report["candidates"])
    assert vector_indexes(conn) == []
    assert one(conn, "SELECT count(*) FROM vectuned.tuned_column") == 0
    assert one(conn, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'vectuned_advise%'") == 0
    # The statement can be followed.
    conn.execute(raw(reached[0]["statement"]))
    assert len(vector_indexes(conn)) == 1


def test_advise_apply_on_a_bare_column_with_queries_ends_with_a_proof(
    conn: Connection,
    database: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    prefer(monkeypatch, PLAIN)
    make(conn, points(3000, seed=1), index=False)
    file = tmp_path / "queries.npy"
    np.save(file, points(400, seed=2))
    code, report, message = advise(
        database, capsys, "--queries", str(file), "--target", "0.9", "--metric", "cosine", "--apply"
    )
    assert (code, message) == (0, "")
    assert f"400 queries from {file}" in report["note"]
    (index,) = vector_indexes(conn)
    assert report["applied"]["index"] in index
    (served,) = [row for row in report["applied"]["serving"] if row["k_class"] == 10]
    assert served["certified"]
    assert served["recall_bound"] >= 0.9
    assert one(conn, "SELECT sample_rate FROM vectuned.tuned_column") == pytest.approx(0.05)


def test_advise_apply_tunes_a_column_without_dimensions_by_its_cast(
    conn: Connection,
    database: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    prefer(monkeypatch, PLAIN)
    make(conn, points(3000, seed=1), index=False)
    conn.execute("ALTER TABLE items ALTER COLUMN embedding TYPE vector")
    file = tmp_path / "queries.npy"
    np.save(file, points(300, seed=2))
    asked = ("--queries", str(file), "--target", "0.8", "--apply")
    code, report, message = advise(database, capsys, *asked)
    assert (code, message) == (0, "")
    (index,) = vector_indexes(conn)
    assert f"embedding)::vector({DIMENSIONS})" in index
    assert [row["certified"] for row in report["applied"]["serving"] if row["k_class"] == 10] == [True]
    # Tuned, it is advised about again, and the statements are over casts too.
    prefer(monkeypatch, HALF)
    code, report, message = advise(database, capsys, *asked[:4])
    assert (code, message) == (0, "")
    current, other = report["candidates"]
    assert current["current"]
    assert f"::halfvec({DIMENSIONS})" in other["statement"].replace('"', "").replace("public.", "")


def test_advise_on_a_column_of_mixed_dimensions_indexes_its_cast(
    conn: Connection, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(monkeypatch, PLAIN)
    make(conn, points(1500, seed=1), index=False)
    conn.execute("ALTER TABLE items ALTER COLUMN embedding TYPE vector")
    conn.execute("INSERT INTO items VALUES (9001, '[1,2,3]')")
    code, report, message = advise(database, capsys, "--target", "0.9", "--apply")
    assert (code, message) == (0, "")
    assert f"statements must order by embedding::vector({DIMENSIONS})" in report["note"]
    (index,) = vector_indexes(conn)
    assert f"embedding)::vector({DIMENSIONS})" in index
    assert f"vector_dims(embedding) = {DIMENSIONS}" in index
    conn.execute("SET enable_seqscan = off")
    plan = conn.execute(
        raw(
            f"EXPLAIN SELECT id FROM items WHERE vector_dims(embedding) = {DIMENSIONS} ORDER BY "
            f"embedding::vector({DIMENSIONS}) <=> '{text(points(1, seed=3)[0])}' LIMIT 10"
        )
    ).fetchall()
    assert report["applied"]["index"] in str(plan)


@pytest.mark.parametrize(("dimensions", "forms"), [(2500, {"halfvec", "bits"}), (4500, {"bits"})])
def test_advise_on_a_wide_column_tries_forms_that_can_be_indexed(
    conn: Connection,
    database: str,
    capsys: pytest.CaptureFixture[str],
    dimensions: int,
    forms: set[str],
) -> None:
    vectors = np.random.default_rng(1).normal(size=(400, dimensions)).astype(np.float32)
    make(conn, vectors, index=False)
    code, report, message = advise(database, capsys, "--target", "0.7", "--sample-rows", "300")
    assert (code, message) == (0, "")
    tried = {each["definition"].split()[1] for each in report["candidates"]}
    tried |= {name.split()[1] for name in report["dropped"]}
    assert tried == forms


def test_advise_for_a_filter_prices_each_way_and_builds_what_is_worth_it(
    conn: Connection, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(monkeypatch, PLAIN)
    # Any partial index over many rows is worth its place, whatever was timed.
    monkeypatch.setattr("vectuned.daemon.advisor.filter_columns._WORTHWHILE", 0.0)
    make(conn, points(4000, seed=1), index=False)
    conn.execute("ALTER TABLE items ADD COLUMN kind text")
    conn.execute("UPDATE items SET kind = CASE WHEN id % 2 = 0 THEN 'it''s' ELSE 'few' || id % 4 END")
    conn.execute("VACUUM ANALYZE items")
    code, report, message = advise(database, capsys, "--target", "0.8", "--filter", "kind", "--apply")
    assert (code, message) == (0, "")
    (advised,) = report["filters"]
    tree = 'CREATE INDEX CONCURRENTLY "items_embedding_kind_0" ON "public"."items" ("kind")'
    assert advised["btree"] == tree
    assert one(conn, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'items_embedding_kind_0'::regclass")
    values = {each["value"]: each for each in advised["values"]}
    assert set(values) == {"it's", "few1", "few3"}
    assert values["it's"]["share"] == pytest.approx(0.5, abs=0.01)
    assert advised["other_values"] == 0
    # Both ways without a partial index follow from the share of the rows.
    half, quarter = values["it's"], values["few1"]
    assert half["exact_ms"] == pytest.approx(2 * quarter["exact_ms"], rel=0.05)
    assert quarter["index_ms"] >= half["index_ms"]
    assert advised["mean_ms"] == pytest.approx(half["partial_ms"])
    partial = [index for index in vector_indexes(conn) if " WHERE " in index]
    assert len(partial) == 3
    assert any("WHERE (kind = 'it''s'::text)" in index for index in partial)
    assert len(report["applied"]["partial"]) == 3
    # Tuned, they serve the filters that they were built for.
    enable(conn)
    requires = conn.execute("SELECT requires ->> 'kind' FROM vectuned.tuned_index WHERE requires IS NOT NULL")
    assert {row[0] for row in requires} == set(values)


def test_advise_for_a_filter_leaves_rare_values_to_exact_search(
    conn: Connection, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(monkeypatch, PLAIN)
    make(conn, points(4000, seed=1), index=False)
    conn.execute("ALTER TABLE items ADD COLUMN owner int")
    conn.execute("UPDATE items SET owner = id % 400")
    conn.execute("CREATE INDEX ON items (owner)")
    conn.execute("VACUUM ANALYZE items")
    code, report, message = advise(database, capsys, "--target", "0.8", "--filter", "owner")
    assert (code, message) == (0, "")
    (advised,) = report["filters"]
    assert advised["btree"] is None
    assert advised["other_values"] + len(advised["values"]) == pytest.approx(400, abs=5)
    # Ten rows each: no partial index, and reading them exactly costs a small part of a scan of all rows.
    assert {each["statement"] for each in advised["values"]} <= {None}
    assert advised["mean_ms"] <= advised["index_only_ms"]
    assert advised["mean_ms"] < 0.1 * report["exact_ms"]


def test_advise_prefers_what_was_measured_over_the_largest_sample(
    conn: Connection, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(monkeypatch, PLAIN, HALF)
    monkeypatch.setattr(advisor, "keep_cheapest", lambda costs, _: [each for each, _ in costs])
    found = TrialRunner.explain_too_slow

    def explain(self: TrialRunner, definition: Definition, rows: int) -> str | None:
        if rows > 400 and definition == HALF:
            self.options = replace(self.options, budget_seconds=0.0)
        return found(self, definition, rows)

    monkeypatch.setattr(TrialRunner, "explain_too_slow", explain)
    make(conn, points(3000, seed=1), index=False)
    code, report, message = advise(database, capsys, "--target", "0.8")
    assert (code, message) == (0, "")
    measured = {each["definition"]: len(each["measured_over"]) for each in report["candidates"]}
    assert measured[str(PLAIN)] > measured[str(HALF)]
    assert report["winner"] == str(PLAIN)


def test_advise_takes_the_metric_of_an_index_that_is_there(
    conn: Connection, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(monkeypatch, PLAIN)
    make(conn, points(1500, seed=1), metric="l2")
    conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'items_embedding_idx'::regclass")
    code, report, _ = advise(database, capsys)
    assert code == 0
    assert "l2 distance (as its index has it)" in report["note"]
    assert "vector_l2_ops" in report["candidates"][0]["statement"]


def test_advise_within_memory_names_no_larger_index(
    conn: Connection, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(monkeypatch, PLAIN, HALF)
    make(conn, points(9000, seed=1), index=False)
    code, report, _ = advise(database, capsys, "--memory", "1", "--target", "0.9")
    assert code == 0
    assert report["winner"] is None
    assert "within 1 MB" in report["summary"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("items", "id"), 2, "items has no column id of type vector or halfvec."),
        (("items",), 2, "items has several vector columns: name one of embedding, second."),
        (("items", "embedding", "--on-table"), 2, "--on-table and --drop-old go with a tuned column"),
        (("items", "second"), 2, "yields 0 queries"),
        (("items", "embedding", "--filter", "nothing"), 2, "items has no column nothing to filter by"),
        (("items", "embedding", "--filter", "second"), 2, "run ANALYZE"),
        (("other",), 2, 'relation "other" does not exist'),
    ],
)
def test_advise_on_a_bare_column_with_bad_input_prints_one_sentence(
    conn: Connection,
    database: str,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    make(conn, points(200, seed=1), index=False)
    conn.execute("ALTER TABLE items ADD COLUMN second vector(3)")
    assert main(["advise", *arguments, "--dsn", database, "--quiet"]) == code
    output = capsys.readouterr()
    assert message in output.err
    assert output.out == ""
