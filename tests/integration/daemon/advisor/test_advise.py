"""`vectuned advise` and `vectuned evaluate` on a real table: what they find, change and leave behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from tests.integration.search_helpers import ask, points
from tests.integration.table_helpers import Connection, build, enable, make, one, search

from vectuned.daemon.cli.main import main
from vectuned.learning import advisor
from vectuned.learning.advisor import Definition

PACKAGES = Path(__file__).parents[4] / ".pkg"
SMALL = ("--sample-rows", "300", "--queries", "20", "--quiet")
HALF = Definition("hnsw", "halfvec", m=12, ef_construction=64)
LISTS = Definition("ivfflat", "plain", lists=30)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs in this process try two candidates only."""
    monkeypatch.setattr(advisor, "initial_candidates", lambda *_: [HALF, LISTS])
    monkeypatch.setattr(advisor, "refine", lambda _: [])


@pytest.fixture
def asked(conn: Connection) -> Connection:
    """A table of 700 rows with an index that finds too little, and 60 recorded searches."""
    make(conn, points(700, seed=1), index=False)
    build(conn, options="WITH (m = 2, ef_construction = 4)")
    conn.execute("SELECT pg_stat_force_next_flush()")
    conn.execute("VACUUM ANALYZE items")
    enable(conn, target_recall=0.9, sample_rate=1.0, min_samples=100)
    ask(conn, 60)
    return conn


def advise(database: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any, str]:
    """Run the command in this process; return exit code, the document and what was said."""
    code = main(["advise", *arguments, *SMALL, "--json", "--dsn", database])
    shown = capsys.readouterr()
    return code, json.loads(shown.out) if shown.out else None, shown.err


def left(conn: Connection) -> tuple[list[str], list[str]]:
    """Return the scratch schemas that are left, and the vector indexes of the table."""
    schemas = conn.execute(
        "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'vectuned_advise%'"
    ).fetchall()
    indexes = conn.execute(
        "SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid "
        "JOIN pg_am m ON m.oid = i.relam WHERE m.amname IN ('hnsw', 'ivfflat') ORDER BY i.oid"
    ).fetchall()
    return [row[0] for row in schemas], [row[0] for row in indexes]


def test_advice_changes_nothing_until_applied_and_the_old_index_goes_once_the_new_one_serves(
    asked: Connection, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = left(asked)
    code, report, said = advise(database, capsys, "items")
    assert (code, said) == (0, "")
    assert left(asked) == before
    assert one(asked, "SELECT count(*) FROM vectuned.tuned_column") == 1
    current, *others = report["candidates"]
    assert (current["definition"], current["current"]) == ("hnsw plain m = 2, ef_construction = 4", True)
    assert report["sample_rows"] == [100, 300]
    assert {each["definition"] for each in others} | set(report["dropped"]) == {str(HALF), str(LISTS)}
    assert all(each["extrapolated"] and len(each["measured_over"]) == 2 for each in others)
    assert all("CREATE INDEX CONCURRENTLY" in each["statement"] for each in others)
    assert (current["extrapolated"], report["rows"], report["applied"]) == (False, 700, None)

    prefer(monkeypatch, HALF)
    enable(asked, target_recall=0.9, sample_rate=1.0, min_samples=1000)
    code, report, said = advise(database, capsys, "items", "--apply", "--drop-old")
    assert (code, report["winner"]) == (1, str(HALF))
    assert "items_embedding_idx is kept: nothing has been learned" in said
    new = report["applied"]["index"]
    assert left(asked) == ([], [*before[1], new])
    held = report["applied"]["measured"]["at_the_target"]
    assert abs(held["measured"]["recall"] - held["predicted"]["recall"]) < 0.1
    assert report["applied"]["measured"]["as_served"] is None

    enable(asked, target_recall=0.9, sample_rate=1.0, min_samples=50)
    code, report, said = advise(database, capsys, "items", "--apply", "--drop-old")
    assert code == 0, said
    assert report["applied"]["dropped"] == before[1][0]
    assert left(asked) == ([], [new])
    assert [row["certified"] for row in report["applied"]["serving"] if row["k_class"] == 10] == [True]
    assert len(search(asked, points(1, seed=5)[0])) == 10


def prefer(monkeypatch: pytest.MonkeyPatch, definition: Definition) -> None:
    """Have a candidate win, however this machine times it."""

    def best(forecasts: list[advisor.Forecast], target: float, k: int) -> Any:
        (found,) = (each for each in forecasts if each.definition == definition)
        return found, found.at_target(target, k)

    monkeypatch.setattr(advisor, "choose_best", best)
    monkeypatch.setattr(advisor, "keep_cheapest", lambda costs, _: [each for each, _ in costs])
    monkeypatch.setattr("vectuned.daemon.advisor.advice_report.WORTHWHILE_SHARE", 1000.0)


@contextmanager
def running(database: str, *arguments: str) -> Any:
    """Run the command as a process of its own."""
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


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_what_is_interrupted_leaves_nothing_for_long(
    asked: Connection, database: str, capsys: pytest.CaptureFixture[str], how: signal.Signals
) -> None:
    before = left(asked)
    # A snapshot that is held keeps an index that is built CONCURRENTLY from becoming valid.
    with psycopg.connect(database) as holder:
        holder.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        holder.execute("SELECT 1")
        with running(database, "--on-table", "--sample-rows", "100", "--queries", "20") as process:
            wait_for(lambda: one(asked, "SELECT count(*) FROM pg_index WHERE NOT indisvalid") == 1)
            process.send_signal(how)
            _, told = process.communicate(timeout=60)
        if how is signal.SIGINT:
            assert process.returncode == 130, told
            assert left(asked) == before
            return
        assert process.returncode == -signal.SIGKILL
        schemas, indexes = left(asked)
        assert (len(schemas), len(indexes)) == (1, len(before[1]) + 1)
    code, report, _ = advise(database, capsys, "items", "--budget-seconds", "1")
    assert code == 0
    assert report["candidates"]
    assert left(asked) == before


def test_two_runs_on_a_column_are_refused(
    asked: Connection, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    number = one(asked, "SELECT id FROM vectuned.tuned_column")
    schema = f"vectuned_advise_{number}_0123abcd"
    asked.execute(f"CREATE SCHEMA {schema}".encode())
    asked.execute(f"COMMENT ON SCHEMA {schema} IS '{{\"indexes\": []}}'".encode())
    asked.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (schema,))
    code, report, said = advise(database, capsys, "items")
    assert (code, report) == (1, None)
    assert "Another run of the advisor is at work on public.items.embedding" in said
    assert left(asked)[0] == [schema]


def test_hostile_names_are_names(
    conn: Connection, database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advisor, "keep_cheapest", lambda costs, _: [each for each, _ in costs])
    table, column = 'it\'s %s {0} "x"; --', 'i"d %(k)s {copy}'
    make(conn, points(800, seed=1), table=table, column=column, metric="l2", key="copy")
    quoted = '"it\'s %s {0} ""x""; --"'
    enable(conn, quoted, column, target_recall=0.9, sample_rate=1.0, min_samples=20)
    for query in points(30, seed=2):
        search(conn, query, relation=quoted)
    code, report, said = advise(database, capsys, quoted, column, "--apply", "--on-table")
    assert (code, said) == (0, "")
    assert report["column"] == column
    assert report["skipped"] == {str(LISTS): "would take over statements that another index answers"}
    tried = [each for each in report["candidates"] if each["definition"] == str(HALF)]
    assert [each["measured_over"][-1] for each in tried] == [800]
    assert not any(each["extrapolated"] for each in tried)
    assert main(["evaluate", quoted, column, "--queries", "20", "--json", "-q", "--dsn", database]) == 0
    assert json.loads(capsys.readouterr().out)["arms"]["exact"]["recall"]["value"] == 1.0
    assert left(conn)[0] == []


def test_evaluate_compares_four_ways(
    asked: Connection, database: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "queries.npy"
    np.save(file, points(80, seed=7))
    assert main(["evaluate", "items", "--queries", str(file), "--json", "--quiet", "--dsn", database]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["queries"], result["chosen_by"]) == (40, 40)
    assert set(result["arms"]) == {"default", "best fixed", "vectuned", "exact"}
    exact, fixed = result["arms"]["exact"], result["arms"]["best fixed"]
    assert exact["recall"]["value"] == 1.0
    assert fixed["recall"]["value"] > result["arms"]["default"]["recall"]["value"]
    for arm in result["arms"].values():
        for figure in ("recall", "below_08", "mean_ms", "p50_ms", "p99_ms"):
            assert arm[figure]["at_least"] <= arm[figure]["value"] <= arm[figure]["at_most"]
    file.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, points(30, seed=7).tolist())))
    lines = str(file.with_suffix(".jsonl"))
    drawn = tmp_path / "plot.svg"
    plot = ("--plot", str(drawn)) if find_spec("matplotlib") else ()
    assert main(["evaluate", "items", "embedding", "--queries", lines, *plot, "-q", "--dsn", database]) == 0
    assert drawn.exists() == bool(plot)
    shown = capsys.readouterr().out
    assert "best fixed" in shown
    assert "chosen by 15 other queries" in shown
    # Nothing of it is recorded.
    assert one(asked, "SELECT count(*) FROM vectuned.inbox") == 60


def test_without_matplotlib_a_plot_is_refused(
    database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vectuned.daemon.cli.measuring.evaluate.find_spec", lambda _: None)
    assert main(["evaluate", "items", "--plot", "x.svg", "--dsn", database]) == 2
    assert "--plot needs matplotlib, which is not installed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
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
def test_what_cannot_be_done_is_one_sentence(
    conn: Connection,
    database: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    make(conn, np.tile(points(10, seed=1), (1500, 1)) if "{good}" in arguments else points(50, seed=1))
    enable(conn)
    for name, rows in (("bad", ["no"]), ("narrow", [[1, 2, 3]] * 20), ("good", points(20, seed=3).tolist())):
        text = "no" if name == "bad" else "\n".join(map(json.dumps, rows))
        (tmp_path / name).write_text(text)
    given = [each.format(**{n: tmp_path / n for n in ("bad", "narrow", "good")}) for each in arguments]
    assert main([*given, "--dsn", database, "--quiet"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert said in shown.err
    assert left(conn)[0] == []
