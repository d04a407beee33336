"""`vectuned evaluate` on a real table."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from tests.integration.search_helpers import points
from tests.integration.table_helpers import Connection, one

from vectuned.daemon.cli.main import main


def test_evaluate_compares_four_arms(
    searched: Connection, database: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
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
    picture = tmp_path / "plot.svg"
    plot = ("--plot", str(picture)) if find_spec("matplotlib") else ()
    assert main(["evaluate", "items", "embedding", "--queries", lines, *plot, "-q", "--dsn", database]) == 0
    assert picture.exists() == bool(plot)
    output = capsys.readouterr().out
    assert "best fixed" in output
    assert "chosen by 15 other queries" in output
    # The searches of the evaluation are not recorded.
    assert one(searched, "SELECT count(*) FROM vectuned.inbox") == 60


def test_evaluate_without_matplotlib_refuses_a_plot(
    database: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vectuned.daemon.cli.measuring.evaluate.find_spec", lambda _: None)
    assert main(["evaluate", "items", "--plot", "x.svg", "--dsn", database]) == 2
    assert "--plot needs matplotlib, which is not installed" in capsys.readouterr().err
