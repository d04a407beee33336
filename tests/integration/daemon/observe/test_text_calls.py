"""Statements that are more than the rows of one table: stored, replayed as they were sent, and served."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
import pytest
from tests.integration.daemon.observe.test_observe import dsn_of, fill, run
from tests.integration.table_helpers import clustered, raw, text

from vectuned import client
from vectuned.daemon.observe.observer import Observer
from vectuned.daemon.observe.statements import LoggedStatement
from vectuned.daemon.observe.storage import read_database
from vectuned.learning.model.tuned_columns import TunedColumn, read_tuned_columns
from vectuned.learning.policy.statement_settings import read_statements
from vectuned.learning.replay.text_calls import PendingText, _TextRun, replay_texts, text_paths
from vectuned.learning.statements.preparation import prepared_statement
from vectuned.sql.client.snapshot import Snapshot

Connection = psycopg.Connection[Any]

DIMENSIONS = 8
NOW = datetime.now(UTC)
JOIN = (
    "SELECT d.id, p.name, d.embedding <=> $1 AS distance FROM docs d JOIN people p ON p.id = d.id %% 50 "
    "WHERE p.name = $2 ORDER BY d.embedding <=> $1 LIMIT 10"
).replace("%%", "%")
THRESHOLD = (
    "SELECT id FROM docs WHERE embedding <=> $1 < 0.5 AND category = $2 ORDER BY embedding <=> $1 LIMIT 10"
)
DISTINCT = (
    "SELECT * FROM (SELECT DISTINCT ON (category) category, id, 1 - (embedding <=> $1) AS similarity FROM "
    "(SELECT * FROM docs ORDER BY embedding <=> $1 LIMIT 40) near ORDER BY category, embedding <=> $1) best "
    "WHERE category <> $2 ORDER BY similarity DESC LIMIT 3"
)
# A join that the planner answers through the vector index.
NARROW = JOIN.replace("p.name = $2", "d.id % 20 = 7 AND d.category = $2")
TEXTS = {JOIN: "p7", THRESHOLD: "c1", DISTINCT: "c2", NARROW: "c3"}


@pytest.fixture
def conn(conn: Connection) -> Connection:
    fill(conn)
    conn.execute("CREATE TABLE people (id int PRIMARY KEY, name text)")
    conn.execute("INSERT INTO people SELECT i, 'p' || i % 10 FROM generate_series(0, 49) i")
    conn.execute("CREATE INDEX ON people (name)")
    conn.execute("ANALYZE people")
    return conn


def enable(conn: Connection, options: str = "") -> TunedColumn:
    conn.execute(
        raw(f"SELECT vectuned.enable('docs', 'embedding', target_recall => 0.9, min_samples => 20 {options})")
    )
    return read_tuned_columns(conn)[0]


def observe(conn: Connection, statement: str, count: int, seed: int = 3) -> Observer:
    observer = Observer(conn, read_database(conn))
    values = [(text(vector), TEXTS[statement]) for vector in clustered(count, DIMENSIONS, seed=seed)]
    observer.add([LoggedStatement(statement, each, 2.0, time=NOW) for each in values])
    return observer


def stored(conn: Connection) -> list[Any]:
    return conn.execute(
        "SELECT shape, k_class, outcomes, failure FROM vectuned.text_call ORDER BY call_no"
    ).fetchall()


@pytest.mark.parametrize("statement", TEXTS)
def test_text_calls_are_replayed_and_served(conn: Connection, database: str, statement: str) -> None:
    enable(conn)
    observer = observe(conn, statement, 120)
    assert (observer.stored, observer.left_out, observer.failed) == (120, {}, {})
    assert [(kind.table, kind.calls) for kind in observer.kinds.values() if kind.as_text] == [
        ("public.docs", 120)
    ]
    assert run("learn", "--dsn", database, "--once") == 0
    calls = stored(conn)
    assert len(calls) == 120
    assert [failure for _, _, _, failure in calls if failure] == []
    exact = [outcome for _, _, outcomes, _ in calls for outcome in outcomes if outcome["path"] == "exact"]
    assert {outcome["recall"] for outcome in exact} == {1.0}
    # One of the paths is proven, and the client sends its settings with the application's text.
    ((served, certified, recall),) = conn.execute(
        "SELECT settings, certified, expected_recall FROM vectuned.statement WHERE as_text"
    ).fetchall()
    assert served
    assert certified
    assert recall >= 0.9
    query = text(clustered(1, DIMENSIONS, seed=9)[0])
    sent = statement.replace("%", "%%").replace("$1", "%(v)s::vector").replace("$2", "%(c)s")
    values = {"v": query, "c": TEXTS[statement]}
    with psycopg.connect(dsn_of(conn), autocommit=True) as application:
        snapshot = client.tune(application, snapshot=Snapshot())
        application.execute(sent, values).fetchall()
        assert snapshot.counters.tuned == 1


def to_ivfflat(conn: Connection) -> None:
    """Build lists in place of the graph."""
    conn.execute("DROP INDEX docs_embedding_idx")
    conn.execute("CREATE INDEX ON docs USING ivfflat (embedding vector_cosine_ops) WITH (lists = 30)")


@pytest.mark.parametrize("statement", TEXTS)
def test_text_calls_are_replayed_and_served_through_lists(
    conn: Connection, database: str, statement: str
) -> None:
    to_ivfflat(conn)
    tuned = enable(conn)
    observer = observe(conn, statement, 60)
    assert (observer.stored, observer.left_out, observer.failed) == (60, {}, {})
    assert run("learn", "--dsn", database, "--once") == 0
    calls = stored(conn)
    assert (len(calls), [failure for _, _, _, failure in calls if failure]) == (60, [])
    paths = [(path.name, dict(path.settings)) for path in text_paths(tuned, 10)]
    for _, _, outcomes, _ in calls:
        assert [(outcome["path"], outcome["settings"]) for outcome in outcomes] == paths
        # A scan of every list misses nothing.
        whole = [o for o in outcomes if int(o["settings"].get("ivfflat.probes", 0)) >= 30]
        assert {o["recall"] for o in [outcomes[0], *whole]} == {1.0}
        assert len(whole) > 1
    ((served, certified),) = conn.execute(
        "SELECT settings, certified FROM vectuned.statement WHERE as_text"
    ).fetchall()
    assert certified
    assert not [name for name in served if name.startswith("hnsw")]


@pytest.mark.parametrize("method", ["hnsw", "ivfflat"])
def test_text_outcomes_are_those_of_the_statement_itself(conn: Connection, method: str) -> None:
    """Recall by distance of a join: the share of the exact answer that each path's own rows hold."""
    if method == "ivfflat":
        to_ivfflat(conn)
    tuned = enable(conn)
    conn.execute("SET enable_sort = off")  # the planner takes the vector index where it may
    observe(conn, NARROW, 8)
    assert replay_texts(conn, tuned, 100) == 8
    recalls = set()
    for parameters, outcomes in conn.execute("SELECT parameters, outcomes FROM vectuned.text_call"):
        values = {"v": parameters[0], "c": parameters[1]}
        sent = NARROW.replace("%", "%%").replace("$1", "%(v)s::vector").replace("$2", "%(c)s")
        with conn.transaction(force_rollback=True):
            conn.execute("SET LOCAL enable_indexscan = off")
            truth = conn.execute(sent, values).fetchall()
        assert len(truth) == 10
        for outcome in outcomes:
            with conn.transaction(force_rollback=True):
                for name, value in outcome["settings"].items():
                    conn.execute("SELECT set_config(%s, %s, true)", (name, value))
                rows = conn.execute(sent, values).fetchall()
            assert outcome["recall"] == pytest.approx(len({*rows} & {*truth}) / 10), outcome
            assert outcome["ms"] > 0
            recalls.add(outcome["recall"])
    assert len(recalls) > 1  # the index alone misses some rows


def test_text_calls_prefer_the_distance_and_else_compare_rows(conn: Connection) -> None:
    tuned = enable(conn)
    query = text(clustered(1, DIMENSIONS, seed=9)[0])

    def has_distance(statement: str) -> bool:
        call = PendingText(1, 10, statement, (query, "p7")[: 1 + ("$2" in statement)], None)
        settings = {"timeout_ms": "5000", "search_path": None}
        with (
            conn.transaction(),
            prepared_statement(conn, statement, settings, set_by="text_call_settings"),
        ):
            made = _TextRun(conn, call, 5000)
            outcome = made.measure(text_paths(tuned, 10)[0])
            assert outcome["recall"] == 1.0
            assert made._exact is not None
            return made._exact.distances is not None

    similarity = JOIN.replace("d.embedding <=> $1 AS distance", "1 - (d.embedding <=> $1) AS score")
    assert has_distance(JOIN)
    assert has_distance(similarity)
    assert not has_distance(JOIN.replace("d.embedding <=> $1 AS distance", "d.category"))
    assert not has_distance(DISTINCT.replace("category <> $2", "category <> 'c2'"))


def test_text_calls_forget_texts_and_values(conn: Connection) -> None:
    tuned = enable(conn, ", store_vectors => false")
    observe(conn, JOIN, 3)
    held = "SELECT count(text), count(parameters), count(outcomes) FROM vectuned.text_call"
    assert conn.execute(held).fetchone() == (3, 3, 0)
    assert replay_texts(conn, tuned, 100) == 3
    assert conn.execute(held).fetchone() == (0, 0, 3)
    assert conn.execute("SELECT count(*) FROM vectuned.text_call x WHERE x::text LIKE '%p7%'").fetchone() == (
        0,
    )
    assert conn.execute("SELECT count(*) FROM vectuned.statement x WHERE x::text LIKE '%p7%'").fetchone() == (
        0,
    )
    observe(conn, JOIN, 3, seed=4)
    conn.execute("SELECT vectuned.disable('docs', 'embedding')")
    assert conn.execute(held).fetchone() == (0, 0, 3)


def test_text_calls_are_replayed_again_on_other_indexes(conn: Connection) -> None:
    tuned = enable(conn)
    observe(conn, JOIN, 40)
    assert replay_texts(conn, tuned, 100) == 40
    assert any(option.proven for option in read_statements(conn)[0].options)
    conn.execute("REINDEX INDEX docs_embedding_idx")
    # What was measured on the index before says nothing about this one.
    assert read_statements(conn)[0].options == ()
    (tuned,) = read_tuned_columns(conn)
    assert replay_texts(conn, tuned, 100) == 40
    assert replay_texts(conn, tuned, 100) == 0
    assert len(read_statements(conn)[0].options) == len(text_paths(tuned, 10))


def test_text_calls_whose_exact_answer_fails_are_passed_over(conn: Connection) -> None:
    tuned = enable(conn)
    observe(conn, JOIN, 2)
    conn.execute("ALTER TABLE people RENAME TO persons")
    assert replay_texts(conn, tuned, 100) == 2
    assert {failure for _, _, _, failure in stored(conn)} == {'relation "people" does not exist'}
    conn.execute("ALTER TABLE persons RENAME TO people")
    observe(conn, JOIN, 1, seed=5)
    assert replay_texts(conn, tuned, 100, timeout_ms=1) == 1
    failures = [failure for _, _, _, failure in stored(conn)]
    assert failures[-1] in ("its exact answer takes more than 1 ms", None)  # None: it was quick enough


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (f"{JOIN} FOR UPDATE OF p", "a join"),
        (JOIN.replace("p.name = $2", "p.name = $2 AND random() < 2"), "a join"),
        (JOIN.replace(" LIMIT 10", ""), "a join"),
        (JOIN.replace("LIMIT 10", "LIMIT 5000"), "a join"),
        (JOIN.replace("p.name = $2", "mine(p.name) AND $2 <> ''"), None),
    ],
)
def test_text_calls_that_may_not_be_run_are_only_counted(
    conn: Connection, statement: str, reason: str | None
) -> None:
    enable(conn)
    conn.execute(
        "CREATE FUNCTION mine(x text) RETURNS bool LANGUAGE sql STABLE AS 'SELECT pg_sleep(60) IS NULL'"
    )
    observer = Observer(conn, read_database(conn))
    observer.add([LoggedStatement(statement, (text(np.ones(DIMENSIONS)), "p7"), 1.0, time=NOW)])
    assert stored(conn) == []
    if reason is None:
        assert observer.left_out == {"it may call what is not trusted: the function mine": 1}
    else:
        assert observer.left_out == {reason: 1}


def test_text_calls_become_untrusted_after_they_were_stored(conn: Connection) -> None:
    tuned = enable(conn)
    observe(conn, JOIN, 1)
    conn.execute(
        "CREATE FUNCTION twice(x text) RETURNS bool LANGUAGE sql STABLE AS 'SELECT pg_sleep(60) IS NULL'"
    )
    conn.execute("UPDATE vectuned.text_call SET text = replace(text, 'p.name = $2', 'twice($2)')")
    assert replay_texts(conn, tuned, 100) == 1
    ((_, _, outcomes, failure),) = stored(conn)
    assert outcomes is None
    assert failure == "it may call what is not trusted: the function twice"


def test_text_calls_waiting_are_bounded(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vectuned.daemon.observe.storage._MOST_TEXTS", 7)
    enable(conn)
    assert observe(conn, JOIN, 5).stored == 5
    assert observe(conn, JOIN, 5, seed=4).stored == 2
    ((calls,),) = conn.execute("SELECT calls FROM vectuned.statement").fetchall()
    assert calls == 10


def test_adopt_covers_statements_replayed_as_text(
    conn: Connection, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    enable(conn)
    observe(conn, THRESHOLD, 120)
    assert run("learn", "--dsn", database, "--once") == 0
    capsys.readouterr()
    assert run("adopt", "--dsn", database, "--json") == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    outlook: Sequence[dict[str, Any]] = document["outlook"]
    assert [(each["calls"], each["recall_then"] is not None) for each in outlook] == [(120, True)]
    assert outlook[0]["reaches_target"] or outlook[0]["other_means"]
