"""Adopted settings are watched by calls replayed since: alarms where they no longer serve a statement."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.core import Metric
from tests.integration.table_helpers import Connection, clustered, enable, make, one

from vectuned.daemon.cli.main import main
from vectuned.daemon.reports import status
from vectuned.daemon.reports.metrics import statement_families
from vectuned.learning.model.scan_settings import continued_hnsw_settings
from vectuned.learning.model.tuned_columns import TunedColumn, read_tuned_columns
from vectuned.learning.oversight.adoptions import check_adoptions
from vectuned.learning.oversight.alarms import OversightLimits
from vectuned.learning.policy.filtering import other_paths

SHAPE = "(t.kind = $1)"
LIMITS = OversightLimits()
SETTINGS = dict(continued_hnsw_settings(140, 10))
PLAIN, FILTERED, TEXT = "1" * 16, "2" * 16, "3" * 16


@pytest.fixture
def tuned(conn: Connection) -> TunedColumn:
    """A column with settings adopted for three statements: without a condition, with one, and as text."""
    make(conn, clustered(300, 8, seed=1))
    enable(conn, target_recall=0.9)
    (tuned,) = read_tuned_columns(conn)
    promised: list[dict[str, Any]] = [
        {"fingerprint": PLAIN, "shape": "", "path": "index", "settings": {"hnsw.ef_search": "60"}},
        {
            "fingerprint": FILTERED,
            "shape": SHAPE,
            "path": "hnsw_continued",
            "effort": 140,
            "settings": SETTINGS,
        },
        {"fingerprint": TEXT, "shape": "a join", "as_text": True, "path": "hnsw", "settings": SETTINGS},
        {"fingerprint": "4" * 16, "shape": "", "reaches_target": False, "settings": {}},
    ]
    figures = [
        {
            "column_id": tuned.column.id,
            "k_class": 10,
            "statement": "select",
            "reaches_target": True,
            "as_text": False,
            **each,
        }
        for each in promised
    ]
    conn.execute(
        "INSERT INTO vectuned.adoption (applied, previous, figures, applied_at) "
        "VALUES (%s, '{}', %s, now() - interval '1 hour')",
        (json.dumps(SETTINGS), json.dumps(figures)),
    )
    return tuned


def replayed(
    conn: Connection, tuned: TunedColumn, shape: str | None, recall: float, count: int = 200
) -> None:
    """Record replays of calls: at ef_search 56, or of the continued scan at 140, recall is `recall`."""
    (main_index,) = tuned.indexes
    rungs = [0.0 if rung < 56 else recall for rung in main_index.rungs]
    places = other_paths("hnsw")
    others = [recall if place == ("hnsw_continued", 140) else 1.0 for place in places]
    condition = None if shape is None else "true"
    for at in range(count):
        conn.execute(
            "WITH call AS (INSERT INTO vectuned.trajectory (query_id, column_id, recorded_at, query, k, "
            "access_path, result_ids, distances, latency_ms, source, condition, shape, replayed_at) "
            "VALUES (gen_random_uuid(), %(column)s, now() - make_interval(secs => %(age)s), '[1]', 10, "
            "'unknown', '{}', '{}', 1, 'log', %(condition)s, %(shape)s, now()) "
            "RETURNING query_id, recorded_at) "
            "INSERT INTO vectuned.replay (query_id, column_id, recorded_at, generation, k, k_class, "
            "k_classes, probe, blocks, ms, shape, fraction, asked_recall, other_recall) "
            "SELECT query_id, %(column)s, recorded_at, %(generation)s, 10, 10, '{10}', '{}', '{}', '{}', "
            "%(shape)s, %(fraction)s, %(rungs)s, %(others)s FROM call",
            {
                "column": tuned.column.id,
                "age": count - at,
                "condition": condition,
                "shape": shape,
                "fraction": None if shape is None else 0.1,
                "generation": main_index.generation,
                "rungs": rungs,
                "others": None if shape is None else others,
            },
        )


def replayed_texts(conn: Connection, tuned: TunedColumn, recall: float, count: int = 200) -> None:
    outcomes = [
        {"path": "exact", "settings": {}, "recall": 1.0, "ms": 1.0},
        {"path": "hnsw", "settings": SETTINGS, "recall": recall, "ms": 1.0},
    ]
    conn.execute(
        "INSERT INTO vectuned.text_call (column_id, fingerprint, k_class, shape, recorded_at, source, "
        "outcomes) SELECT %s, %s, 10, 'a join', now(), 'log', %s FROM generate_series(1, %s)",
        (tuned.column.id, TEXT, json.dumps(outcomes), count),
    )


def alarms(conn: Connection) -> dict[str, str]:
    found = one(conn, "SELECT alarms FROM vectuned.adoption")
    return {alarm["fingerprint"]: alarm["why"] for alarm in found}


def test_check_adoptions_is_quiet_while_the_target_is_kept(conn: Connection, tuned: TunedColumn) -> None:
    replayed(conn, tuned, None, 0.93)
    replayed(conn, tuned, SHAPE, 0.93)
    replayed_texts(conn, tuned, 0.93)
    assert check_adoptions(conn, tuned, LIMITS) == 0
    assert alarms(conn) == {}


@pytest.mark.parametrize("missed", [PLAIN, FILTERED, TEXT])
def test_check_adoptions_raises_one_alarm_for_a_statement(
    conn: Connection, tuned: TunedColumn, missed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    replayed(conn, tuned, None, 0.7 if missed == PLAIN else 0.95)
    replayed(conn, tuned, SHAPE, 0.7 if missed == FILTERED else 0.95)
    replayed_texts(conn, tuned, 0.7 if missed == TEXT else 0.95)
    assert check_adoptions(conn, tuned, LIMITS) == 1
    assert check_adoptions(conn, tuned, LIMITS) == 0
    (why,) = alarms(conn).values()
    assert list(alarms(conn)) == [missed]
    assert why.startswith("the last")
    assert "recall of 0.700" in why
    event = one(
        conn, "SELECT details ->> 'why' FROM vectuned.event WHERE action = 'adoption_alarm' AND column_id = 1"
    )
    assert event.startswith("settings adopted for the database no longer serve select: the last")
    daemon = status.read_daemon(conn)
    values = {
        (sample.name, *sample.labels.values()): sample.value
        for family in statement_families({"db": daemon})
        for sample in _samples(family)
    }
    assert values["vectuned_adoption_alarms", "db", ""] == 1.0
    info = conn.info
    dsn = f"host={info.host} port={info.port} user={info.user} dbname={info.dbname}"
    capsys.readouterr()
    assert main(["status", "--dsn", dsn]) == 0
    shown = capsys.readouterr().out
    assert "adopted for the database at" in shown
    assert f"alarm: statement {missed} is no longer served so" in shown


def test_check_adoptions_counts_only_calls_since(conn: Connection, tuned: TunedColumn) -> None:
    replayed(conn, tuned, SHAPE, 0.7)
    conn.execute("UPDATE vectuned.adoption SET applied_at = now() + interval '1 minute'")
    assert check_adoptions(conn, tuned, LIMITS) == 0
    conn.execute("UPDATE vectuned.adoption SET applied_at = now() - interval '1 hour', reverted_at = now()")
    assert check_adoptions(conn, tuned, LIMITS) == 0


def test_check_adoptions_tells_of_a_table_that_changed(conn: Connection, tuned: TunedColumn) -> None:
    change = datetime.now(UTC) - timedelta(minutes=1)
    conn.execute(
        "INSERT INTO vectuned.event (column_id, action, happened_at, details) VALUES (%s, 'growth', %s, %s)",
        (tuned.column.id, change, json.dumps({"why": "the table grew to twice its rows"})),
    )
    assert check_adoptions(conn, tuned, LIMITS) == 3
    assert set(alarms(conn).values()) == {"the table grew to twice its rows"}


def test_statement_families_tell_what_was_observed(conn: Connection) -> None:
    conn.execute("INSERT INTO vectuned.observation (source, statements, damaged) VALUES ('log', 12, 3)")
    samples = {
        sample.name: sample.value
        for family in statement_families({"db": status.read_daemon(conn)})
        for sample in _samples(family)
        if sample.labels.get("source") == "log"
    }
    assert samples["vectuned_observed_statements_total"] == 12
    assert samples["vectuned_observed_damaged_total"] == 3


def _samples(family: Metric) -> list[Any]:
    return list(family.samples)
