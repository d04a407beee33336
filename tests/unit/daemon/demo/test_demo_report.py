"""What the demonstration prints in the end."""

from __future__ import annotations

from typing import Any

import pytest

from vectuned.daemon.console import Console
from vectuned.daemon.demo.demo_report import print_demo
from vectuned.daemon.measure.arms import Outcome


def figures(recall: float, ef: int | None = None) -> dict[str, float]:
    return Outcome(recall, 0.1, 1.0, 0.9, 3.0, ef).as_dict()


LEARNED = {
    "access_path": "hnsw",
    "fixed_ef_search": 80,
    "recall_bound": 0.951,
    "replays": 3000,
    "reason": "proven",
}
RESULT: dict[str, Any] = {
    "targets": {
        target: {"default": figures(0.87, 40), "fixed": figures(0.96, 80), "vectuned": figures(recall, 80)}
        for target, recall in (("0.98", 0.981), ("0.95", 0.957))
    },
    "filtered": {
        "default": figures(0.454, 40),
        "relaxed": figures(0.911, 40),
        "relaxed_200": figures(0.95, 200),
        "exact": figures(1.0),
        "vectuned": figures(0.983),
        "relaxed_advised": figures(0.9, 40),
    },
    "filtered_before_advice": {"exact": figures(1.0), "vectuned": figures(0.97)},
    "unrelated": {"relaxed": figures(0.9, 40), "exact": figures(1.0), "vectuned": figures(0.96)},
    "advice": {
        "seconds": 20.0,
        "statements": ["CREATE INDEX"],
        "index_mb": 40.0,
        "insert_ms": 1.0,
        "added_insert_ms": 0.1,
    },
    "corpus": {"rows": 117_659, "dimensions": 256, "k": 10, "heldout_queries": 1600, "filtered_queries": 800},
    "learned": {"0.98": LEARNED, "0.95": LEARNED},
}


def test_print_demo_begins_with_default_against_vectuned(capsys: pytest.CaptureFixture[str]) -> None:
    print_demo(Console(), RESULT)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == "Searches for 10 of 117,659 rows"
    for line, (searches, settings, recall) in zip(
        lines[2:6],
        [
            ("all rows", "pgvector's default", "0.870"),
            ("all rows", "vectuned, target 0.95", "0.957"),
            ("filtered by a category", "pgvector's default, as LangChain sends it", "0.454"),
            ("filtered by a category", "vectuned, target 0.95, with the indexes it advised", "0.983"),
        ],
        strict=True,
    ):
        assert line.startswith(searches)
        assert settings in line
        assert recall in line
    assert lines[6] == "In detail:"


def test_outcome_of_an_arm_without_ef_search_has_none() -> None:
    assert "ef_search" not in figures(1.0)
    assert figures(0.87, 40)["ef_search"] == 40


def test_step_says_what_was_done_in_how_many_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().step("reading"):
        pass
    with Console(quiet=True).step("reading"):
        pass
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "reading: 0.0 s\n"
