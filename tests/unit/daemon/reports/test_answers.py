"""The answers of the report: verdicts about recall, and what there is to do."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from vectuned.daemon.reports.answers import Grade, judge_column, judge_promise, next_steps, worst_first

PROMISE = {
    "k_class": 10,
    "filter": None,
    "checks": 400,
    "recall": 0.97,
    "recall_bound": 0.955,
    "below_08": 0.01,
    "epoch_recall": None,
    "e_value": 1.0,
    "confidence": 0.95,
}
COLUMN: dict[str, Any] = {
    "relation": "items",
    "column_name": "embedding",
    "error": None,
    "enabled": True,
    "alert": False,
    "state": "serving",
    "target_recall": 0.95,
    "max_tail": 0.05,
    "promises": [PROMISE],
    "trajectories": 1000,
    "awaiting_replay": 0,
    "in_inbox": 0,
    "behind": None,
    "refused": 0,
    "statements": 0,
    "statements_served": 0,
    "failing": [],
    "events": [],
}
DAEMON: dict[str, Any] = {"daemon": True, "jobs": [], "observed": [], "adopted": []}
ALARM = {
    "action": "alarm",
    "happened_at": datetime(2026, 11, 28, 18, 14, tzinfo=UTC),
    "details": {"why": "it was low"},
}
PROVEN = {**ALARM, "action": "proven"}


def with_promises(*changes: dict[str, Any], **column: Any) -> dict[str, Any]:
    return {**COLUMN, "promises": [{**PROMISE, **change} for change in changes], **column}


def steps(
    advice: list[dict[str, Any]] | None = None,
    daemon: dict[str, Any] = DAEMON,
    to_adopt: int = 0,
    **column: Any,
) -> str:
    found = next_steps({**COLUMN, **column}, daemon, advice or [], to_adopt)
    return "\n".join(f"{step.text} {step.command}" for step in found)


@pytest.mark.parametrize(
    ("change", "grade"),
    [
        ({}, "good"),
        ({"recall_bound": 0.94}, "open"),
        ({"checks": 0, "recall": None, "below_08": None}, "unknown"),
        ({"recall": 0.949, "recall_bound": 0.93}, "bad"),
        ({"recall": 0.949, "recall_bound": 0.8, "below_08": 0.2, "checks": 99}, "open"),
        ({"e_value": 20.0}, "bad"),
        ({"below_08": 0.051}, "bad"),
        # All checks together are on target, but the last 500 are not.
        ({"epoch_recall": 0.9}, "bad"),
        ({"epoch_recall": 0.951}, "good"),
    ],
)
def test_judge_promise_grades_what_checks_say(change: dict[str, Any], grade: Grade) -> None:
    assert judge_promise({**PROMISE, **change}, COLUMN).grade == grade


@pytest.mark.parametrize(
    ("column", "grade", "text"),
    [
        (COLUMN, "good", "Yes: every kind"),
        (with_promises({}, {"recall_bound": 0.9}), "open", "as far as checked"),
        (with_promises({}, {"e_value": 30.0}), "bad", "1 of 2 kinds"),
        # A kind that was not checked is no reason to doubt the others, nor one to vouch for.
        (with_promises({}, {"checks": 0}), "good", "that was checked"),
        (with_promises(), "unknown", "no served search has been checked"),
        (
            with_promises(events=[PROVEN, ALARM]),
            "unknown",
            "the alarm of 2026-11-28 18:14 (it was low)",
        ),
        (with_promises({}, alert=True), "bad", "fallen back"),
        ({**COLUMN, "error": "no rights"}, "unknown", "no rights"),
    ],
)
def test_judge_column_answers_for_all_kinds_of_search(
    column: dict[str, Any], grade: Grade, text: str
) -> None:
    answer = judge_column(column)
    assert answer.grade == grade
    assert text in answer.text


def test_worst_first_orders_by_grade_then_by_checks() -> None:
    column = with_promises(
        {"k_class": 1},
        {"k_class": 10, "recall_bound": 0.9},
        {"k_class": 20, "checks": 0},
        {"k_class": 50, "recall": 0.5},
        {"k_class": 100, "checks": 500},
    )
    assert [promise["k_class"] for promise, _ in worst_first(column)] == [50, 20, 10, 100, 1]


def test_next_steps_of_a_column_in_order_are_none() -> None:
    assert steps() == ""
    assert steps(state="learning") == ""


def test_next_steps_name_the_command_for_each_trouble() -> None:
    stopped = steps(daemon={**DAEMON, "daemon": False}, awaiting_replay=20, in_inbox=None)
    assert "20 recorded searches wait" in stopped
    assert "vectuned run" in stopped
    job = {"name": "replay", "failures": 2, "last_error": "disk full"}
    assert "replay fails: disk full" in steps(daemon={**DAEMON, "jobs": [job]})
    failing = {"job": "learn", "error": "no index"}
    assert "learn fails on this column: no index" in steps(failing=[failing])
    assert "vectuned adopt" in steps(daemon={**DAEMON, "adopted": [{"alarms": ["one"]}]})
    assert "vectuned enable items embedding" in steps(enabled=False)
    assert "index replaced" in steps(state="index replaced: searches take a slower path")
    assert "vectuned observe" in steps(trajectories=0)
    assert "falls behind: 9 wait" in steps(behind="9 wait")
    assert "7 sampled searches were not recorded" in steps(refused=7)
    assert "vectuned recommend items embedding" in steps(alert=True)
    assert "2 of 3 statements of applications would reach" in steps(to_adopt=2, statements=3)
    # What is served already, or only by other means, is no step.
    assert "adopt" not in steps(statements=3, statements_served=2)
    assert "vectuned status" in steps(error="no rights")


def test_next_steps_show_the_first_indexes_and_name_the_command_for_the_others() -> None:
    advice = [
        {
            "kind": "index",
            "subject": f'{{"tenant": {number}}}',
            "recommendation": "a partial HNSW index",
            "statement": f"CREATE INDEX {number}",
            "gain_ms": 1.5,
        }
        for number in range(5)
    ]
    found = steps([*advice, {**advice[0], "kind": "search", "statement": "SET"}])
    assert [f"CREATE INDEX {number}" in found for number in range(5)] == [True, True, True, False, False]
    assert "would save 1.50 ms a search" in found
    assert "2 more indexes" in found
    assert "SET" not in found
