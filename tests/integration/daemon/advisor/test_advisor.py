"""`vectuned advise` on a real table: its advice, what it changes, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from tests.integration.search_helpers import points
from tests.integration.table_helpers import Connection, enable, make, one, recall_of, search

from vectuned.config.settings import load_settings
from vectuned.daemon.advisor.trials import TrialRunner
from vectuned.daemon.cli.main import main
from vectuned.daemon.work.worker import Worker
from vectuned.learning import advisor
from vectuned.learning.advisor import Definition

PACKAGES = Path(__file__).parents[4] / ".pkg"
SMALL = ("--sample-rows", "300", "--queries", "20", "--quiet")
HALF = Definition("hnsw", "halfvec", m=12, ef_construction=64)
LISTS = Definition("ivfflat", "plain", lists=30)


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs in this process try two candidates only."""
    monkeypatch.setattr(advisor, "initial_candidates", lambda *_: [HALF, LISTS])
    monkeypatch.setattr(advisor, "refine", lambda _: [])


def advise(database: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    """Run the command in this process; return exit code, document and messages."""
    code = main(["advise", *arguments, *SMALL, "--json", "--dsn", database])
    output = capsys.readouterr()
    return code, json.loads(output.out) if output.out else None, output.err


def leftovers(conn: Connection) -> tuple[list[str], list[str]]:
    """Return the names of the scratch schemas and of the vector indexes."""
    schemas = conn.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'vectuned_advise%'"
    ).fetchall()
    indexes = conn.execute(
        "SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid "
        "JOIN pg_am m ON m.oid = i.relam WHERE m.amname IN ('hnsw', 'ivfflat') ORDER BY i.oid"
    ).fetchall()
    return [row[0] for row in schemas], [row[0] for row in indexes]


def test_advise_changes_nothing_until_applied_and_drops_the_old_index_once_the_new_one_serves(
    searched: Connection, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = leftovers(searched)
    code, report, message = advise(database, capsys, "items")
    assert (code, message) == (0, "")
    assert leftovers(searched) == before
    assert one(searched, "SELECT count(*) FROM vectuned.tuned_column") == 1
    current, *others = report["candidates"]
    assert (current["definition"], current["current"]) == ("hnsw plain m = 2, ef_construction = 4", True)
    assert report["sample_rows"] == [100, 300]
    assert {each["definition"] for each in others} | set(report["dropped"]) == {str(HALF), str(LISTS)}
    assert all(each["extrapolated"] and len(each["measured_over"]) == 2 for each in others)
    assert all("CREATE INDEX CONCURRENTLY" in each["statement"] for each in others)
    assert (current["extrapolated"], report["rows"], report["applied"]) == (False, 700, None)

    prefer(monkeypatch, HALF)
    enable(searched, target_recall=0.9, sample_rate=1.0, min_samples=1000)
    code, report, message = advise(database, capsys, "items", "--apply", "--drop-old")
    assert (code, report["winner"]) == (1, str(HALF))
    assert "items_embedding_idx is kept: nothing has been learned" in message
    new = report["applied"]["index"]
    assert leftovers(searched) == ([], [*before[1], new])
    held = report["applied"]["measured"]["at_the_target"]
    assert abs(held["measured"]["recall"] - held["predicted"]["recall"]) < 0.1
    assert report["applied"]["measured"]["as_served"] is None

    enable(searched, target_recall=0.9, sample_rate=1.0, min_samples=50)
    code, report, message = advise(database, capsys, "items", "--apply", "--drop-old")
    assert code == 0, message
    assert report["applied"]["dropped"] == before[1][0]
    assert leftovers(searched) == ([], [new])
    assert [row["certified"] for row in report["applied"]["serving"] if row["k_class"] == 10] == [True]
    assert len(search(searched, points(1, seed=5)[0])) == 10


def prefer(monkeypatch: pytest.MonkeyPatch, definition: Definition) -> None:
    """Let a candidate win, whatever its measured time."""

    def best(forecasts: list[advisor.Forecast], target: float, k: int) -> Any:
        (found,) = (each for each in forecasts if each.definition == definition)
        return found, found.at_target(target, k)

    monkeypatch.setattr(advisor, "choose_best", best)
    monkeypatch.setattr(advisor, "keep_cheapest", lambda costs, _: [each for each, _ in costs])
    monkeypatch.setattr("vectuned.daemon.advisor.advice_report.WORTHWHILE_SHARE", 1000.0)


@contextmanager
def running(database: str, *arguments: str) -> Any:
    """Run the command in a child process."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    command = [sys.executable, "-m", "vectuned.daemon.cli.main", "advise", "items", "--dsn", database]
    with subprocess.Popen(
        [*command, *SMALL, *arguments],
        cwd="/",
        env={**kept, "PYTHONPATH": str(PACKAGES)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(condition: Callable[[], bool], seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_advise_interrupted_or_killed_leaves_nothing_behind(
    searched: Connection, database: str, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    before = leftovers(searched)
    # A snapshot held by another session keeps an index built CONCURRENTLY from becoming valid.
    with psycopg.connect(database) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT 1")
        with running(database, "--on-table", "--sample-rows", "100", "--queries", "20") as process:
            wait_for(lambda: one(searched, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 1)
            process.send_signal(number)
            _, errors = process.communicate(timeout=300)
        if number is not signal.SIGKILL:
            assert process.returncode == 128 + number, errors
            assert leftovers(searched) == before
            return
        assert process.returncode == -signal.SIGKILL
        schemas, indexes = leftovers(searched)
        assert (len(schemas), len(indexes)) == (1, len(before[1]) + 1)
    code, report, _ = advise(database, capsys, "items", "--budget-seconds", "1")
    assert code == 0
    assert report["candidates"]
    assert leftovers(searched) == before


def test_advise_goes_on_when_a_candidate_cannot_be_built(
    searched: Connection, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Twenty thousand lists take 1.6 GB for k-means, and pgvector takes no m above 100.
    greedy = Definition("ivfflat", "plain", lists=20_000)
    unknown = Definition("hnsw", "plain", m=2000, ef_construction=4000)
    monkeypatch.setattr(advisor, "initial_candidates", lambda *_: [greedy, unknown, HALF, LISTS])
    monkeypatch.setattr(advisor, "keep_cheapest", lambda costs, _: [each for each, _ in costs])
    monkeypatch.setattr(Definition, "over", lambda self, _: self)
    code, report, message = advise(database, capsys, "items", "--set", "index_build.memory_mb=300")
    assert (code, message) == (0, "")
    assert {each["definition"] for each in report["candidates"][1:]} == {str(HALF), str(LISTS)}
    assert "of memory, but may take" in report["skipped"][str(greedy)]
    assert report["skipped"][str(unknown)].startswith("failed: value 2000 out of bounds")
    assert leftovers(searched)[0] == []


def test_advise_that_ran_out_of_time_says_so_and_keeps_what_was_measured(
    searched: Connection, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advisor, "keep_cheapest", lambda costs, _: [each for each, _ in costs])
    found = TrialRunner.explain_too_slow

    def explain(self: TrialRunner, definition: Definition, rows: int) -> str | None:
        if rows > 200 and definition == HALF:
            self.options = replace(self.options, budget_seconds=0.0)
        return found(self, definition, rows)

    monkeypatch.setattr(TrialRunner, "explain_too_slow", explain)
    code, report, message = advise(database, capsys, "items")
    assert (code, message) == (0, "")
    # Both were measured over the first sample alone.
    measured = {each["definition"]: each["measured_over"] for each in report["candidates"][1:]}
    assert set(measured) == {str(HALF), str(LISTS)}
    assert all(len(sizes) == 1 for sizes in measured.values())
    assert report["out_of_time"]
    assert report["summary"].startswith("time ran out before 2 of the candidates")
    assert "nothing is worth changing" not in report["summary"]
    assert "--budget-seconds 6" in report["summary"]


def test_advise_prints_what_the_build_takes(
    searched: Connection, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer(monkeypatch, HALF)
    small = ("--set", "index_build.memory_mb=300", "--set", "index_build.workers=0")
    assert main(["advise", "items", *SMALL, *small, "--dsn", database]) == 0
    printed = capsys.readouterr().out
    assert "SET maintenance_work_mem = '256MB';" in printed
    assert "SET max_parallel_maintenance_workers = '0';" in printed


def test_advise_applies_a_graph_beside_lists_over_the_same_column(
    conn: Connection, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = Definition("hnsw", "plain", m=16, ef_construction=64)
    prefer(monkeypatch, graph)
    monkeypatch.setattr(advisor, "initial_candidates", lambda *_: [graph])
    make(conn, points(3000, seed=1), index=False)
    conn.execute("CREATE INDEX lists ON items USING ivfflat (embedding vector_cosine_ops) WITH (lists = 50)")
    enable(conn, target_recall=0.8, sample_rate=1.0, min_samples=50)
    for query in points(200, seed=2):
        search(conn, query)
    code, report, message = advise(database, capsys, "items", "--apply")
    assert (code, message) == (0, "")
    new = report["applied"]["index"]
    assert leftovers(conn) == ([], ["lists", new])
    # Both indexes are known and were replayed; what serves is proven, whichever is quicker.
    known = conn.execute("SELECT index_relation::regclass::text FROM vectuned.tuned_index ORDER BY index_no")
    assert {row[0] for row in known} == {"lists", new}
    # The graph was measured, not the lists: plain SQL with the newest searches finds as much by its effort.
    measured = report["applied"]["measured"]["at_the_target"]
    settings = {"hnsw.ef_search": str(max(measured["effort"], 10))}
    assert measured["measured"]["recall"] == pytest.approx(
        recall_of(conn, points(200, seed=2)[-20:], new, settings), abs=0.1
    )
    assert [row["certified"] for row in report["applied"]["serving"] if row["k_class"] == 10] == [True]
    # Later passes of the daemon find nothing wrong.
    worker = Worker(conn, load_settings(None, {}, {}))
    for query in points(60, seed=3):
        assert len(search(conn, query)) == 10
    worker.drain()
    worker.refresh_all()
    worker.replay_all()
    worker.learn_all()
    assert one(conn, "SELECT certified FROM vectuned.bank WHERE k_class = 10")
    assert one(conn, "SELECT count(*) FROM vectuned.column_failure") == 0


def test_advise_during_another_run_is_refused(
    searched: Connection, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    number = one(searched, "SELECT id FROM vectuned.tuned_column")
    schema = f"vectuned_advise_{number}_0123abcd"
    searched.execute(f"CREATE SCHEMA {schema}".encode())
    searched.execute(f"COMMENT ON SCHEMA {schema} IS '{{\"indexes\": []}}'".encode())
    searched.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (schema,))
    code, report, message = advise(database, capsys, "items")
    assert (code, report) == (1, None)
    assert "Another run of the advisor is at work on public.items.embedding" in message
    assert leftovers(searched)[0] == [schema]


def test_advise_and_evaluate_with_hostile_names_succeed(
    conn: Connection, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advisor, "keep_cheapest", lambda costs, _: [each for each, _ in costs])
    table, column = 'it\'s %s {0} "x"; --', 'i"d %(k)s {copy}'
    make(conn, points(800, seed=1), table=table, column=column, metric="l2", key="copy")
    quoted = '"it\'s %s {0} ""x""; --"'
    enable(conn, quoted, column, target_recall=0.9, sample_rate=1.0, min_samples=20)
    for query in points(30, seed=2):
        search(conn, query, relation=quoted)
    code, report, message = advise(database, capsys, quoted, column, "--apply", "--on-table")
    assert (code, message) == (0, "")
    assert report["column"] == column
    assert report["skipped"] == {str(LISTS): "would take over statements that another index answers"}
    tried = [each for each in report["candidates"] if each["definition"] == str(HALF)]
    assert [each["measured_over"][-1] for each in tried] == [800]
    assert not any(each["extrapolated"] for each in tried)
    assert main(["evaluate", quoted, column, "--queries", "20", "--json", "-q", "--dsn", database]) == 0
    assert json.loads(capsys.readouterr().out)["arms"]["exact"]["recall"]["value"] == 1.0
    assert leftovers(conn)[0] == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("advise", "items", "--drop-old"), 2, "--drop-old goes with --apply"),
        (("advise", "items", "--queries", "7"), 2, "--queries must be between 20 and 10000, got 7"),
        (("advise", "items", "--target", "1"), 2, "--target must be between 0.5 and 0.999"),
        (("advise", "items", "--sample-rows", "5"), 2, "--sample-rows must be between"),
        (("advise", "items", "--queries", "/nowhere.npy"), 2, "/nowhere.npy cannot be read"),
        (("advise", "items", "--queries", "{bad}"), 2, "line 1: expected a JSON array of numbers"),
        (("advise", "items", "--queries", "{narrow}"), 2, "query 1: it has 3 dimensions"),
        (("advise", "items"), 1, "Only 0 different searches without a filter"),
        (
            ("advise", "items", "--queries", "{good}", "--max-mb", "1"),
            1,
            "more than 1: decrease --sample-rows",
        ),
        (("advise", "nothing"), 2, 'relation "nothing" does not exist'),
        (("evaluate", "items", "--k", "0"), 2, "--k must be between 1 and 1000"),
        (("evaluate", "items", "--plot", "/nowhere/x.svg"), 2, "--plot"),
    ],
)
def test_advise_or_evaluate_with_bad_input_prints_one_sentence(
    conn: Connection,
    database: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    make(conn, np.tile(points(10, seed=1), (1500, 1)) if "{good}" in arguments else points(50, seed=1))
    enable(conn)
    for name, rows in (("bad", ["no"]), ("narrow", [[1, 2, 3]] * 20), ("good", points(20, seed=3).tolist())):
        text = "no" if name == "bad" else "\n".join(map(json.dumps, rows))
        (tmp_path / name).write_text(text)
    formatted = [each.format(**{n: tmp_path / n for n in ("bad", "narrow", "good")}) for each in arguments]
    assert main([*formatted, "--dsn", database, "--quiet"]) == code
    output = capsys.readouterr()
    assert output.out == ""
    assert message in output.err
    assert leftovers(conn)[0] == []
