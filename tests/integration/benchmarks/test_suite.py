"""The benchmarks run: the smallest of them, as its one command does it."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.integration.embedded_helpers import PACKAGE


def test_a_contest_of_all_policies_is_run_and_kept(tmp_path: Path) -> None:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PG")}
    environ |= {"PYTHONPATH": str(PACKAGE.parent), "VECTUNED_BENCHMARK_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "run", "smoke", "--results", tmp_path],
        cwd=PACKAGE.parents[1],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    kept = json.loads((tmp_path / "smoke.json").read_text())
    result = kept["result"]
    assert result["rows"] == kept["definition"]["rows"]
    arms = result["targets"]["0.95"]["arms"]
    assert len(arms) == 13
    assert arms["exact"]["recall"]["value"] == 1.0
    for arm in arms.values():
        assert 0.5 < arm["recall"]["at_least"] <= arm["recall"]["value"] <= arm["recall"]["at_most"] <= 1.0
        assert 0 < arm["p50_ms"]["value"] <= arm["p99_ms"]["value"]
    assert arms["oracle"]["recall"]["value"] >= 0.94
