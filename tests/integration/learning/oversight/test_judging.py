"""Verdicts end to end: searches are recorded, replayed and judged, and judged again after feedback."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from tests.integration.table_helpers import (
    Connection,
    Singles,
    build,
    clustered,
    enable,
    make,
    one,
    plain_role,
    raw,
    text,
)

from vectuned.config.settings import load_settings
from vectuned.daemon.cli.main import main
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.tuned_columns import TunedColumn, read_tuned_columns
from vectuned.learning.oversight.judging import judge_searches
from vectuned.learning.oversight.verdict import judge_signals

DIMENSIONS = 32


@pytest.fixture
def worker(conn: Connection) -> Worker:
    """Make a worker on a column whose index misses neighbours; all searches are recorded."""
    make(conn, clustered(2000, DIMENSIONS, seed=1, spread=1.0), index=False)
    conn.execute("ALTER TABLE items ADD COLUMN kind int DEFAULT 1")
    build(conn, options="WITH (m = 4, ef_construction = 16)")
    enable(conn, sample_rate=1.0, min_samples=20)
    conn.execute("ANALYZE items")
    return Worker(conn, load_settings(None, {}, {}))


@pytest.fixture(scope="module")
def queries() -> Singles:
    """Queries from the space of the rows."""
    return clustered(60, DIMENSIONS, seed=2, spread=1.0)


def tuned(conn: Connection) -> TunedColumn:
    (only,) = read_tuned_columns(conn)
    return only


def ask(conn: Connection, queries: Singles, condition: str | None = None) -> list[tuple[UUID, list[str]]]:
    """Search with each query; return (query_id, ids)."""
    asked = []
    for query in queries:
        rows = conn.execute(
            "SELECT query_id, id FROM vectuned.search('items', %s, 10, %s::jsonb)", (text(query), condition)
        ).fetchall()
        asked.append((rows[0][0], [str(row[1]) for row in rows]))
    return asked


def tell(conn: Connection, query_id: UUID, relevant: list[str], irrelevant: list[str]) -> str:
    return str(one(conn, "SELECT vectuned.record_feedback(%s, %s, %s)", query_id, relevant, irrelevant))


def found(conn: Connection, query_id: UUID) -> Any:
    """Read verdict, confidence to two digits, and recommendation of a search."""
    return conn.execute(
        "SELECT verdict, round(verdict_confidence::numeric, 2)::float8, recommendation "
        "FROM vectuned.trajectory WHERE query_id = %s",
        (query_id,),
    ).fetchone()


def versions(conn: Connection) -> list[tuple[Any, ...]]:
    return (
        conn.execute("SELECT t.xmin::text, t.ctid FROM vectuned.trajectory t ORDER BY 1, 2").fetchall()
        + conn.execute("SELECT f.xmin::text, f.ctid FROM vectuned.feedback f ORDER BY 1, 2").fetchall()
    )


def test_judge_searches_from_replay_to_feedback(conn: Connection, worker: Worker, queries: Singles) -> None:
    asked = ask(conn, queries)
    worker.drain()
    assert worker.judge() == 0  # nothing is known yet
    assert worker.replay_all() == len(asked)
    assert worker.judge() == len(asked)
    recalls = dict(conn.execute("SELECT query_id, recall FROM vectuned.trajectory").fetchall())
    expected = {query_id: "success" if recall > 0.75 else "failure" for query_id, recall in recalls.items()}
    assert set(expected.values()) == {"success", "failure"}
    for query_id, outcome in expected.items():
        verdict, confidence, recommendation = found(conn, query_id)
        assert verdict == outcome
        assert 0.5 <= confidence <= 0.7
        assert (recommendation == "raise_effort") == (outcome == "failure")

    good = next(query_id for query_id, outcome in expected.items() if outcome == "success")
    bad = next(query_id for query_id, outcome in expected.items() if outcome == "failure")
    ids = dict(asked)
    before = found(conn, good)
    assert tell(conn, good, ids[good][:3], []) == "recorded"
    assert tell(conn, bad, ids[bad], []) == "recorded"
    assert worker.judge() == 2
    assert found(conn, good) == ("success", round(before[1] + 0.3, 2), before[2])
    assert found(conn, bad)[0] == "failure"
    assert tell(conn, good, [], ids[good]) == "recorded"
    assert worker.judge() == 1
    assert found(conn, good) == ("unknown", 0, "nothing")

    successes = list(expected.values()).count("success")
    stats = conn.execute(
        "SELECT successes, failures, unknown, feedback FROM vectuned.stats('items')"
    ).fetchone()
    assert stats == (successes - 1, len(asked) - successes, 1, 2)


def test_judge_searches_again_changes_nothing(conn: Connection, worker: Worker, queries: Singles) -> None:
    asked = ask(conn, queries[:20])
    worker.drain()
    worker.replay_all()
    tell(conn, asked[0][0], asked[0][1][:1], [])
    assert worker.judge() == 20
    before = versions(conn)
    assert worker.judge() == 0
    tell(conn, asked[0][0], asked[0][1][:1], [])
    assert worker.judge() == 0
    assert versions(conn) == before


def test_judge_searches_with_feedback_before_drain_and_replay(
    conn: Connection, worker: Worker, queries: Singles
) -> None:
    ((query_id, ids),) = ask(conn, queries[:1])
    assert tell(conn, query_id, ids[:2], []) == "recorded"
    assert worker.judge() == 0  # still in the inbox
    worker.drain()
    assert worker.judge() == 1
    # One search does not show the usual latency: only feedback and diversity are known.
    assert found(conn, query_id) == ("success", 0.4, "nothing")
    worker.replay_all()
    assert found(conn, query_id) == (None, None, None)
    assert worker.judge() == 1
    recall = one(conn, "SELECT recall FROM vectuned.trajectory")
    assert found(conn, query_id)[0] == ("success" if recall > 0.75 else "failure")


def test_judge_searches_without_recall_is_no_success(
    conn: Connection, worker: Worker, queries: Singles
) -> None:
    asked = ask(conn, queries[:30])
    worker.drain()
    worker.replay_all()
    conn.execute("UPDATE vectuned.trajectory SET recall = NULL")
    assert worker.judge() == 30
    for query_id, _ in asked:
        assert found(conn, query_id) == ("unknown", 0, "nothing")


@pytest.mark.parametrize("jump", ["-400 days", "400 days"])
def test_judge_searches_while_the_clock_jumps(
    conn: Connection, worker: Worker, queries: Singles, jump: str
) -> None:
    asked = ask(conn, queries[:12])
    tell(conn, asked[0][0], asked[0][1][:1], [])
    for table in ("inbox", "feedback"):
        conn.execute(raw(f"UPDATE vectuned.{table} SET recorded_at = recorded_at + interval '{jump}'"))
    worker.drain()
    worker.replay_all()
    conn.execute(raw(f"UPDATE vectuned.trajectory SET replayed_at = replayed_at - interval '{jump}'"))
    assert worker.judge() == 12
    for number in (1, 2):
        tell(conn, asked[number][0], asked[number][1][:number], [])
        conn.execute(raw(f"UPDATE vectuned.feedback SET given_at = given_at + {number} * interval '{jump}'"))
        assert worker.judge() == 1
        assert worker.judge() == 0
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE verdict IS NOT NULL") == 12


def test_judge_searches_in_batches_takes_each_once(
    conn: Connection, worker: Worker, queries: Singles
) -> None:
    asked = ask(conn, queries[:25])
    worker.drain()
    worker.replay_all()
    for query_id, ids in asked[:13]:
        tell(conn, query_id, ids[:1], [])
    assert judge_searches(conn, tuned(conn), batch=4) == 25
    assert judge_searches(conn, tuned(conn), batch=4) == 0


def test_judge_searches_takes_feedback_during_judging_next_time(
    conn: Connection, worker: Worker, queries: Singles, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((query_id, ids),) = ask(conn, queries[:1])
    worker.drain()
    tell(conn, query_id, ids[:2], [])

    def late(*arguments: Any) -> Any:
        tell(conn, query_id, [], ids)
        return judge_signals(*arguments)

    monkeypatch.setattr("vectuned.learning.oversight.judging.judge_signals", late)
    assert worker.judge() == 1
    assert found(conn, query_id)[0] == "success"
    monkeypatch.undo()
    assert worker.judge() == 1
    assert found(conn, query_id)[0] == "failure"


def test_judge_searches_skips_what_was_replayed_meanwhile(
    conn: Connection, worker: Worker, queries: Singles, monkeypatch: pytest.MonkeyPatch
) -> None:
    ((query_id, _),) = ask(conn, queries[:1])
    worker.drain()
    worker.replay_all()
    conn.execute("UPDATE vectuned.trajectory SET recall = 1")

    def late(*arguments: Any) -> Any:
        conn.execute("UPDATE vectuned.trajectory SET recall = 0.1")
        return judge_signals(*arguments)

    monkeypatch.setattr("vectuned.learning.oversight.judging.judge_signals", late)
    assert worker.judge() == 0
    monkeypatch.undo()
    assert worker.judge() == 1
    assert found(conn, query_id)[0] == "failure"


def test_judge_searches_recommends_an_index_for_the_filter(
    conn: Connection, worker: Worker, queries: Singles
) -> None:
    asked = ask(conn, queries[:3], '{"kind": 1}')
    worker.drain()
    worker.replay_all()
    conn.execute("UPDATE vectuned.trajectory SET recall = 0.1, access_path = 'hnsw_filtered'")
    assert worker.judge() == 3
    assert found(conn, asked[0][0])[2] == "add_filter_index"
    conn.execute("CREATE INDEX ON items (kind)")
    conn.execute("UPDATE vectuned.trajectory SET verdict = NULL")
    assert worker.judge() == 3
    assert found(conn, asked[0][0])[2] == "raise_effort"
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE verdict = 'failure'") == 3


def test_judge_searches_survives_forged_records(conn: Connection, worker: Worker, queries: Singles) -> None:
    ask(conn, queries[:2])
    forged = (
        "SELECT vectuned._record(overlay(gen_random_uuid()::text PLACING '1' FROM 36)::uuid, 1, %s::vector, "
        "10, 'hnsw', 40, NULL, NULL, %s::text[], %s::float8[], %s, %s::jsonb)"
    )
    for ids, distances, latency, condition in (
        ("{{a,b}}", "{{1,2}}", 1.0, None),
        ("{a,b}", "{NULL,1}", 1.0, None),
        ("{a}", "{1}", 1.0, "[1]"),
        ("{a}", "{1}", 1.0, "null"),
        ("{a}", "{NaN}", "NaN", None),
        ("{}", "{}", "Infinity", "{}"),
        ("{a}", "{-Infinity}", -5.0, None),
        ("{a,b}", "{Infinity,Infinity}", 1.0, '{"kind": [1], "none": 2}'),
    ):
        assert one(conn, forged, text(queries[0]), ids, distances, latency, condition)
    assert worker.drain() == 10
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory") == 6
    conn.execute("UPDATE vectuned.trajectory SET replayed_at = now()")
    assert worker.judge() == 6
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE verdict = 'unknown'") == 6


def test_learn_once_judges_and_status_tells(
    conn: Connection, worker: Worker, queries: Singles, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ask(conn, queries[:25])
    tell(conn, asked[0][0], asked[0][1][:1], [])
    assert main(["learn", "--once", "--dsn", database]) == 0
    capsys.readouterr()
    assert main(["status", "--dsn", database]) == 0
    counted = one(
        conn,
        "SELECT format('verdicts: %%s successes, %%s failures, %%s unknown; %%s searches with feedback', "
        "successes, failures, unknown, feedback) FROM vectuned.stats(%s::regclass)",
        "items",
    )
    assert counted in capsys.readouterr().out
    assert one(conn, "SELECT successes + failures FROM vectuned.stats('items')") == 25
    assert main(["status", "--json", "--dsn", database]) == 0
    (column,) = json.loads(capsys.readouterr().out)["columns"]
    assert column["successes"] + column["failures"] == 25
    assert column["feedback"] == 1


def test_judge_searches_waits_while_the_column_is_disabled(
    conn: Connection, worker: Worker, queries: Singles
) -> None:
    ask(conn, queries[:5])
    worker.drain()
    worker.replay_all()
    conn.execute("SELECT vectuned.disable('items', 'embedding')")
    assert worker.judge() == 0
    enable(conn)
    assert worker.judge() == 5


def effort(conn: Connection) -> tuple[int, float]:
    """Return the effort in service for k = 10, and the margin."""
    row = conn.execute(
        "SELECT b.ef_search, p.margin FROM vectuned.bank b "
        "JOIN vectuned.promise p USING (column_id, k_class) WHERE b.k_class = 10 AND p.shape = ''"
    ).fetchone()
    assert row is not None
    return int(row[0]), float(row[1])


@pytest.mark.parametrize("replayed", [True, False])
def test_update_margins_ignores_feedback_of_roles_without_rights(
    conn: Connection, worker: Worker, database: str, replayed: bool
) -> None:
    """All rows of 200 searches are called irrelevant, before or after their recall is known."""
    conn.execute("UPDATE vectuned.tuned_column SET target_recall = 0.8, max_tail = 0.4")
    ask(conn, clustered(80, DIMENSIONS, seed=3, spread=1.0))
    worker.drain()
    worker.replay_all()
    worker.judge()
    assert worker.learn_all() == 1
    conn.execute("UPDATE vectuned.promise SET margin = 0, margin_since = now()")
    before = effort(conn)
    with plain_role(conn, database, "SELECT ON items") as anyone:
        for query_id, ids in ask(anyone, clustered(200, DIMENSIONS, seed=4, spread=1.0)):
            assert tell(anyone, query_id, [], ids) == "recorded"
    worker.drain()
    if replayed:
        worker.replay_all()
    assert worker.judge() == 200
    assert effort(conn)[0] <= before[0]
    assert effort(conn)[1] <= before[1]
    verdicts = dict(conn.execute("SELECT verdict, count(*) FROM vectuned.trajectory GROUP BY 1").fetchall())
    assert verdicts["unknown" if replayed else "failure"] > 100


def test_update_margins_counts_searches_with_good_recall_whatever_their_feedback(
    conn: Connection, worker: Worker
) -> None:
    conn.execute("UPDATE vectuned.tuned_column SET target_recall = 0.8, max_tail = 0.4")
    ask(conn, clustered(80, DIMENSIONS, seed=3, spread=1.0))
    worker.drain()
    worker.replay_all()
    worker.judge()
    assert worker.learn_all() == 1
    conn.execute("UPDATE vectuned.promise SET margin = 1, margin_since = now()")
    ef, margin = effort(conn)
    # Their owner, who may tune, calls all rows irrelevant; nine of ten searches find what they promise.
    asked = ask(conn, clustered(100, DIMENSIONS, seed=5, spread=1.0))
    for query_id, ids in asked:
        tell(conn, query_id, [], ids)
    worker.drain()
    worker.replay_all()
    conn.execute(
        "UPDATE vectuned.trajectory SET verdict = NULL, "
        "recall = CASE WHEN query_id = ANY (%s) THEN 0 ELSE 1 END "
        "WHERE query_id = ANY (%s)",
        ([query_id for query_id, _ in asked[:10]], [query_id for query_id, _ in asked]),
    )
    assert worker.judge() == 100
    ef_after, margin_after = effort(conn)
    assert ef_after == ef
    assert margin_after == pytest.approx(margin - worker.columns()[0].learning_rate)


def test_update_margins_counts_trusted_feedback_where_recall_is_unknown(
    conn: Connection, worker: Worker
) -> None:
    ask(conn, clustered(80, DIMENSIONS, seed=3, spread=1.0))
    worker.drain()
    worker.replay_all()
    worker.judge()
    assert worker.learn_all() == 1
    conn.execute("UPDATE vectuned.promise SET margin = 0, margin_since = now()")
    ef, _ = effort(conn)
    for query_id, ids in ask(conn, clustered(30, DIMENSIONS, seed=6, spread=1.0)):
        tell(conn, query_id, [], ids)
    worker.drain()
    assert worker.judge() == 30
    assert effort(conn)[0] > ef
    assert effort(conn)[1] == 1
