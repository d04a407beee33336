"""The installed command on a small table in a real database: effects, output and exit codes."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psycopg
import pytest
from pgvector.psycopg import register_vector
from psycopg.rows import TupleRow
from tests.acceptance.conftest import Installed

from vectuned.learning.model.vectors import Vector

ROWS, DIMENSIONS = 4000, 32
COMMANDS = ("demo", "run", "migrate", "enable", "disable", "status", "learn", "tune", "benchmark", "config")


def clustered(rows: int, seed: int) -> np.ndarray:
    """Return vectors around 60 centres, so that some queries are harder than others."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(60, DIMENSIONS))
    points = centres[rng.integers(60, size=rows)] + rng.normal(scale=0.8, size=(rows, DIMENSIONS))
    return points.astype(np.float32)


def fill(conn: psycopg.Connection[TupleRow]) -> None:
    register_vector(conn)
    conn.execute(f"CREATE TABLE items (id bigint PRIMARY KEY, embedding vector({DIMENSIONS}) NOT NULL)")
    with conn.cursor().copy("COPY items FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["int8", "vector"])
        for number, vector in enumerate(clustered(ROWS, seed=1)):
            copy.write_row((number, Vector(vector)))
    conn.execute("CREATE INDEX items_embedding ON items USING hnsw (embedding vector_l2_ops) WITH (m = 6)")
    conn.execute("VACUUM ANALYZE items")


def search(conn: psycopg.Connection[TupleRow], count: int, seed: int) -> None:
    for vector in clustered(count, seed):
        found = conn.execute("SELECT id FROM vectuned.search('items', %s, 10)", (Vector(vector),)).fetchall()
        assert len(found) == 10


@contextmanager
def enabled(vectuned: Installed, dsn: str) -> Iterator[psycopg.Connection[TupleRow]]:
    with psycopg.connect(dsn, autocommit=True) as conn:
        fill(conn)
        assert vectuned.run("migrate", "--dsn", dsn).returncode == 0
        done = vectuned.run("enable", "items", "embedding", "--sample-rate", "1", "--dsn", dsn)
        assert done.returncode == 0, done.stderr
        assert "tuning public.items.embedding: l2, 32 dimensions" in done.stdout
        yield conn


def test_help_of_every_command_succeeds(vectuned: Installed) -> None:
    overview = vectuned.run("--help")
    assert overview.returncode == 0
    for command in COMMANDS:
        assert command in overview.stdout
        help_text = vectuned.run(command, "--help")
        assert help_text.returncode == 0
        assert "--dsn" in help_text.stdout
    assert vectuned.run("--version").stdout.startswith("vectuned ")


def test_learn_once_publishes_a_bank_that_status_shows(vectuned: Installed, plain_database: str) -> None:
    with enabled(vectuned, plain_database) as conn:
        search(conn, 400, seed=2)
        learned = vectuned.run("learn", "--once", "--json", "--dsn", plain_database)
        assert learned.returncode == 0, learned.stderr
        column = json.loads(learned.stdout)["columns"][0]
        assert (column["replayed"], column["version"]) == (400, 1)
        served = column["classes"]["10"]
        assert served["recall_bound"] >= 0.95

        status = vectuned.run("status", "--json", "--dsn", plain_database)
        shown = json.loads(status.stdout)["columns"][0]
        assert (shown["relation"], shown["state"], shown["trajectories"]) == ("items", "serving", 400)
        assert {row["k_class"] for row in shown["classes"]} >= {1, 3, 10, 30, 100}
        table = vectuned.run("status", "--dsn", plain_database)
        assert "items.embedding: serving" in table.stdout
        assert table.stderr == ""

        assert vectuned.run("disable", "items", "embedding", "--dsn", plain_database).returncode == 0
        search(conn, 5, seed=3)
        row = conn.execute("SELECT in_inbox, trajectories FROM vectuned.stats('items')").fetchone()
        assert row == (0, 400)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_learns_from_searches_and_stops_on_a_signal(
    vectuned: Installed, plain_database: str, tmp_path: Path, number: signal.Signals
) -> None:
    config = tmp_path / "vectuned.toml"
    config.write_text("[schedule]\ndrain_seconds = 1\nreplay_seconds = 1\nlearn_seconds = 1\n")
    with enabled(vectuned, plain_database) as conn:
        daemon = vectuned.start("run", "--dsn", plain_database, "--config", str(config))
        try:
            search(conn, 300, seed=4)
            deadline = time.monotonic() + 300
            while conn.execute("SELECT count(*) FROM vectuned.bank").fetchone() == (0,):
                assert daemon.poll() is None, daemon.communicate()[1]
                assert time.monotonic() < deadline, "nothing was published"
                time.sleep(0.2)
            daemon.send_signal(number)
            _, log = daemon.communicate(timeout=300)
        finally:
            daemon.kill()
            daemon.wait()
        assert daemon.returncode == 0, log
        for action in ("choose_database", "start", "drain", "replay", "publish", "stop"):
            assert f" {action}: " in log
        assert "Traceback" not in log


def test_run_reconnects_after_a_lost_connection(
    vectuned: Installed, plain_database: str, tmp_path: Path
) -> None:
    config = tmp_path / "vectuned.toml"
    config.write_text("[schedule]\ndrain_seconds = 1\n")
    with enabled(vectuned, plain_database) as conn:
        daemon = vectuned.start("run", "--dsn", plain_database, "--config", str(config))
        try:
            for seed in (5, 6):
                search(conn, 20, seed=seed)
                deadline = time.monotonic() + 300
                while conn.execute("SELECT in_inbox FROM vectuned.stats('items')").fetchone() != (0,):
                    assert daemon.poll() is None, daemon.communicate()[1]
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
                conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE application_name = 'vectuned' AND datname = current_database()"
                )
            daemon.terminate()
            _, log = daemon.communicate(timeout=300)
        finally:
            daemon.kill()
            daemon.wait()
        assert daemon.returncode == 0, log
        row = conn.execute("SELECT trajectories FROM vectuned.stats('items')").fetchone()
        assert row == (40,)


@pytest.mark.parametrize(
    ("arguments", "environment", "code", "message"),
    [
        (("status", "--nonsense"), {}, 2, "unrecognized arguments: --nonsense"),
        (("status", "--dsn", "host=/nonexistent"), {}, 69, "No connection to host=/nonexistent"),
        (("status", "--dsn", "nonsense"), {}, 2, "not a connection string"),
        (("status", "--config", "/nonexistent.toml"), {}, 78, "/nonexistent.toml does not exist"),
        (("status",), {"VECTUNED_LEARNING__CLUSTERS": "many"}, 78, "learning.clusters"),
        (("config", "check", "--set", "inbox.max_mb=0"), {"VECTUNED_CONFIG": ""}, 78, "inbox.max_mb must be"),
        (("status",), {"VECTUNED_LERNING__SEED": "1"}, 78, "VECTUNED_LERNING__SEED"),
        (("demo", "--queries", "3"), {}, 2, "--queries"),
    ],
)
def test_command_with_bad_input_prints_one_sentence_and_exits(
    vectuned: Installed, arguments: tuple[str, ...], environment: dict[str, str], code: int, message: str
) -> None:
    result = vectuned.run(*arguments, environment=environment)
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("enable", "nothing", "embedding"), 'relation "nothing" does not exist'),
        (("enable", "items", "nothing"), 'column "nothing" of'),
        (("enable", "items", "embedding", "--target-recall", "1.5"), "target_recall must be between"),
        (("disable", "items", "embedding"), "has no column that vectuned tunes"),
        (("learn", "--once"), "no tuned column"),
    ],
)
def test_command_about_a_missing_object_names_it(
    vectuned: Installed, database: str, arguments: tuple[str, ...], message: str
) -> None:
    with psycopg.connect(database, autocommit=True) as conn:
        fill(conn)
    result = vectuned.run(*arguments, "--dsn", database)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_command_without_a_dsn_uses_the_embedded_server(vectuned: Installed, home: Path) -> None:
    here = {"VECTUNED_HOME": str(home)}
    first = vectuned.run("status", environment=here)
    assert first.returncode == 2
    assert "run `vectuned migrate`" in first.stderr
    assert vectuned.run("migrate", environment=here).returncode == 0
    again = vectuned.run("migrate", "--json", environment=here)
    assert json.loads(again.stdout)["applied"] == []
    status = vectuned.run("status", environment=here)
    assert (status.returncode, status.stdout) == (
        0,
        "no tuned columns yet: vectuned enable RELATION COLUMN\n",
    )


def test_help_piped_to_a_reader_that_closes_succeeds(vectuned: Installed) -> None:
    shell = f"'{vectuned.program}' --help | head -n 1"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", shell],
        cwd="/",
        env=dict(vectuned.environment),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
