"""The daemon with the pgvector package that frameworks pin: langchain-postgres refuses 0.4 and later."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.integration.search_helpers import run_searches, tuned
from tests.integration.table_helpers import Connection, one

PACKAGES = Path(__file__).parents[4] / ".pkg"
PINNED = "pgvector==0.3.6"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that imports the pinned package instead of the installed one."""
    folder = tmp_path_factory.mktemp("pinned")
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder),
        PINNED,
    ]
    installed = subprocess.run(command, capture_output=True, text=True, check=False)
    if installed.returncode != 0:
        pytest.skip(f"{PINNED} cannot be installed here: {installed.stderr.strip()[-200:]}")
    # Before 0.4 it is a namespace package, which the installed one would hide.
    folder.joinpath("pgvector", "__init__.py").touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "VECTUNED"))}
    return {**kept, "PYTHONPATH": f"{folder}{os.pathsep}{PACKAGES}", "COLUMNS": "200"}


def run(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd="/",
        env=environment,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_learn_and_evaluate_work_with_the_pgvector_of_frameworks(
    conn: Connection, database: str, environment: dict[str, str], tmp_path: Path
) -> None:
    assert run(environment, "-c", "import pgvector; print(hasattr(pgvector, 'Vector'))").strip() == "False"
    tuned(conn)
    run_searches(conn, 150)
    command = ("-m", "vectuned.daemon.cli.main")
    (column,) = json.loads(run(environment, *command, "learn", "--once", "--json", "--dsn", database))[
        "columns"
    ]
    assert column["replayed"] == 150
    assert one(conn, "SELECT count(*) FROM vectuned.bank") > 0
    for arguments in (
        ("benchmark", "recall", "items", "--sample-queries", "50"),
        ("evaluate", "items", "--queries", "50"),
        ("check", "--target", "0.5"),
        ("status",),
    ):
        assert run(environment, *command, *arguments, "--dsn", database)
