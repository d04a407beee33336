"""`vectuned tune` and `vectuned benchmark`, run as a process on a real database without a daemon."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.search_helpers import run_searches, tuned
from tests.integration.table_helpers import Connection, one

PACKAGES = Path(__file__).parents[4] / ".pkg"


def run(
    *arguments: str, stderr: int = subprocess.PIPE, dsn: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the command line of this tree from another folder, without settings in the environment."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("PG", "VECTUNED"))
    }
    database = () if dsn is None else ("--dsn", dsn)
    return subprocess.run(
        [sys.executable, "-m", "vectuned.daemon.cli.main", *arguments, *database],
        cwd="/",
        env={**environment, "PYTHONPATH": str(PACKAGES), "COLUMNS": "200", "TERM": "xterm"},
        text=True,
        stdout=subprocess.PIPE,
        stderr=stderr,
        timeout=300,
        check=False,
    )


@pytest.fixture
def searched(conn: Connection) -> Connection:
    """A table with 150 recorded searches."""
    tuned(conn)
    run_searches(conn, 150)
    return conn


def test_tune_and_benchmark_print_their_results(searched: Connection, database: str) -> None:
    dry = run("tune", "items", "embedding", "--optimize-for", "recall", "--dry-run", "--json", dsn=database)
    assert dry.returncode == 0, dry.stderr
    report = json.loads(dry.stdout)
    assert (report["applied"], report["replayed"], report["optimize_for"]) == (False, 150, "recall")
    assert "replaying searches of items: 150 in" in dry.stderr
    assert one(searched, "SELECT count(*) FROM vectuned.bank") == 0

    done = run("tune", "items", "--optimize-for", "latency", "--sample-queries", "0", dsn=database)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("target 0.9 kept (the current target 0.9 stays, at its quickest")
    assert "version 1 published" in done.stdout
    assert "0.95" in done.stdout
    assert one(searched, "SELECT certified FROM vectuned.bank WHERE k_class = 10")

    recall = run("benchmark", "recall", "items", "--sample-queries", "50", "-k", "5", "--quiet", dsn=database)
    assert (recall.returncode, recall.stderr) == (0, "")
    lines = recall.stdout.splitlines()
    assert lines[0].startswith("public.items.embedding: 50 searches against 3,000 rows, each bound with 95 %")
    assert "recall@5" in lines[1]
    assert lines[2].startswith("vectuned ")
    assert lines[3].startswith("plain SQL ")

    latency = run("benchmark", "latency", "items", "--percentiles", "0.5,0.75", "--json", dsn=database)
    assert latency.returncode == 0, latency.stderr
    report = json.loads(latency.stdout)
    assert set(report["served"]["percentiles_ms"]) == {"0.5", "0.75"}
    assert report["queries"]["note"].startswith("only 150 different searches")
    table = run("benchmark", "latency", "items", "embedding", "--filter", "both", dsn=database)
    assert "p99 ms" in table.stdout
    assert "only 150 different searches" in table.stdout
    assert one(searched, "SELECT count(*) FROM vectuned.request") == 0


def test_benchmark_shows_a_progress_bar_on_a_terminal(searched: Connection, database: str) -> None:
    assert searched.info.dbname in database
    terminal, ours = pty.openpty()
    try:
        done = run("benchmark", "recall", "items", stderr=ours, dsn=database)
        shown = os.read(terminal, 100_000).decode(errors="replace")  # it may end amid a character
    finally:
        os.close(ours)
        os.close(terminal)
    assert done.returncode == 0
    assert "measuring the recall of" in shown
    assert "\x1b[" in shown
    assert "/300" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("tune", "items", "--optimize-for", "speed"), 2, "invalid choice: 'speed'"),
        (("tune", "items", "--sample-queries", "-1"), 2, "sample_queries must be between 0 and 10000"),
        (("tune", "nothing"), 2, 'relation "nothing" does not exist'),
        (("tune", "items", "id"), 2, "has no column that vectuned tunes"),
        (("benchmark", "speed", "items"), 2, "invalid choice: 'speed'"),
        (("benchmark", "recall", "items", "-k", "0"), 2, "k must be between 1 and 1000"),
        (("benchmark", "recall", "items", "--percentiles", "0.5"), 2, "vectuned benchmark latency"),
        (("benchmark", "latency", "items", "--percentiles", "half"), 2, "not half"),
        (("benchmark", "latency", "items", "--percentiles", "2"), 2, "such as 0.5,0.99, not 2"),
        (("benchmark", "latency", "items", "--percentiles", "nan"), 2, "such as 0.5,0.99, not nan"),
        (("benchmark", "recall", "items"), 1, "Only 0 different searches without a filter of public.items"),
        (("benchmark", "recall", "items", "--config", "/nonexistent"), 78, "/nonexistent does not exist"),
    ],
)
def test_tune_and_benchmark_report_wrong_arguments_in_one_sentence(
    conn: Connection, database: str, arguments: tuple[str, ...], code: int, message: str
) -> None:
    tuned(conn)
    result = run(*arguments, dsn=database)
    assert (result.returncode, result.stdout) == (code, "")
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_tune_and_benchmark_without_a_database_exit_with_69(tmp_path: Path) -> None:
    for verb in (("tune",), ("benchmark", "recall")):
        result = run(*verb, "items", dsn=f"host={tmp_path}")
        assert result.returncode == 69
        assert result.stderr.count("\n") == 1
