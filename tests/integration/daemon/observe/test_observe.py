"""`vectuned observe`: what it counts, what it stores, and that learning from it publishes paths."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import sql
from tests.integration.table_helpers import clustered, raw, text

from vectuned import client
from vectuned.daemon.cli.main import main
from vectuned.daemon.measure.arms import compose_plain
from vectuned.daemon.observe.observer import Observer
from vectuned.daemon.observe.server_settings import ServerLogging, statements_to_copy
from vectuned.daemon.observe.statements import LoggedStatement
from vectuned.daemon.observe.storage import read_columns, read_database
from vectuned.learning.model.trajectory import claim_pending
from vectuned.learning.model.tuned_columns import read_tuned_columns
from vectuned.sql.client.snapshot import Snapshot

Connection = psycopg.Connection[Any]

ROWS, DIMENSIONS, CALLS = 3_000, 8, 260
SEARCH = "SELECT id FROM docs WHERE category = $2 ORDER BY embedding <=> $1 LIMIT 10"
PLAIN = "SELECT id FROM docs ORDER BY embedding <=> $1 LIMIT 10"
NOW = datetime.now(UTC)


@pytest.fixture
def conn(conn: Connection) -> Connection:
    fill(conn)
    return conn


def fill(conn: Connection) -> None:
    conn.execute(
        raw(f"CREATE TABLE docs (id int PRIMARY KEY, category text, embedding vector({DIMENSIONS}))")
    )
    with conn.cursor() as cursor, cursor.copy("COPY docs FROM STDIN") as copy:
        for number, vector in enumerate(clustered(ROWS, DIMENSIONS, seed=1)):
            copy.write_row((number, f"c{number % 4}", text(vector)))
    conn.execute("CREATE INDEX ON docs USING hnsw (embedding vector_cosine_ops)")
    conn.execute("CREATE INDEX ON docs (category)")
    conn.execute("ANALYZE docs")


def calls(count: int, statement: str = SEARCH, seed: int = 2) -> list[tuple[str, Sequence[str]]]:
    vectors = clustered(count, DIMENSIONS, seed=seed)
    values = [(text(vector), f"c{number % 4}") for number, vector in enumerate(vectors)]
    return [(statement, value if "$2" in statement else value[:1]) for value in values]


def log_of(database: str, found: Sequence[tuple[str, Sequence[str]]], start: datetime = NOW) -> bytes:
    """Write a log in the format jsonlog."""
    lines = []
    for number, (statement, values) in enumerate(found):
        at = start - timedelta(minutes=5) + timedelta(milliseconds=number)
        listed = ", ".join(f"${place} = '{value}'" for place, value in enumerate(values, 1))
        document = {
            "timestamp": f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03} UTC",
            "user": "postgres",
            "dbname": database,
            "session_id": "a.b",
            "message": f"duration: 2.500 ms  execute <unnamed>: {statement}",
            "detail": f"Parameters: {listed}",
        }
        lines.append(json.dumps(document))
    return ("\n".join(lines) + "\n").encode()


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def dsn_of(conn: Connection) -> str:
    info = conn.info
    return f"host={info.host} port={info.port} user={info.user} dbname={info.dbname}"


def documents(conn: Connection, capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    dsn = dsn_of(conn)
    capsys.readouterr()
    assert run("observe", "--dsn", dsn, "--json", *arguments) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_observe_then_learn_publishes_paths_for_the_shape(
    conn: Connection, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "postgresql.json"
    found = [*calls(CALLS), *calls(CALLS, PLAIN, seed=3), ("SELECT 1", ())]
    path.write_bytes(log_of(conn.info.dbname, found))
    offered = documents(conn, capsys, path)
    assert (offered["stored"], [kind["is_tuned"] for kind in offered["searches"]]) == (0, [False, False])
    conn.execute("DELETE FROM vectuned.log_position")
    document = documents(conn, capsys, path, "--enable")
    assert (document["statements"], document["no_vector_searches"]) == (2 * CALLS + 1, 1)
    assert (document["stored"], document["left_out"], document["damaged_records"]) == (2 * CALLS, {}, 0)
    assert [(kind["condition"], kind["calls"], kind["k"]) for kind in document["searches"]] == [
        ("(t.category = $1)", CALLS, {"10": CALLS}),
        (None, CALLS, {"10": CALLS}),
    ]
    assert document["searches"][0]["mean_ms"] == 2.5
    # The same file again has nothing new.
    assert documents(conn, capsys, path)["statements"] == 0
    assert run("learn", "--dsn", database, "--once") == 0
    assert f"`{shlex.join(['vectuned', 'adopt', '--dsn', database])}` says what" in capsys.readouterr().out
    assert run("recommend", "--dsn", database, "docs") == 0
    advice = capsys.readouterr().out
    assert "Statements of applications" in advice
    assert "No search without a filter was recorded for k up to 1, 3, 30, 100, 300, 1000" in advice
    served = conn.execute(
        "SELECT access_path, proven FROM vectuned.measured_path WHERE shape = '(t.category = $1)' AND serves"
    ).fetchall()
    assert any(proven for _, proven in served)
    assert conn.execute("SELECT count(*) > 0 FROM vectuned.bank").fetchone() == (True,)
    # What a call returned is not known: no recall, no verdict, no check.
    assert conn.execute(
        "SELECT count(*), count(recall), count(verdict), count(replayed_at), count(query) "
        "FROM vectuned.trajectory"
    ).fetchone() == (2 * CALLS, 0, 0, 2 * CALLS, 2 * CALLS)
    assert conn.execute("SELECT count(*) FROM vectuned.recall_check").fetchone() == (0,)
    shares = conn.execute("SELECT fraction FROM vectuned.replay WHERE shape IS NOT NULL").fetchall()
    assert np.allclose([row[0] for row in shares], 0.25, atol=0.05)
    statements = conn.execute("SELECT shape, calls FROM vectuned.statement ORDER BY shape").fetchall()
    assert statements == [("", CALLS), ("(t.category = $1)", CALLS)]
    # The loop is closed: the application's statements go out with what was learned from its log.
    with psycopg.connect(dsn_of(conn), autocommit=True) as application:
        snapshot = client.tune(application, snapshot=Snapshot())
        query, category = calls(1)[0][1]
        exact = "SELECT id FROM docs WHERE category = %s ORDER BY embedding <=> %s::vector(8), id LIMIT 10"
        truth = application.execute(exact, (category, query)).fetchall()
        sent = "SELECT id FROM docs WHERE category = %s ORDER BY embedding <=> %s LIMIT 10"
        answer = application.execute(sent, (category, query)).fetchall()
        assert len(set(answer) & set(truth)) >= 9
        assert snapshot.counters.tuned == 1
    capsys.readouterr()
    assert run("adopt", "--dsn", database, "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["outlook"]) == 2


def test_observe_learns_the_recall_of_conditions(conn: Connection, database: str, tmp_path: Path) -> None:
    """A condition of calls and the same filter of vectuned.search are replayed alike."""
    conn.execute("SELECT vectuned.enable('docs', 'embedding', sample_rate => 1, min_samples => 20)")
    observer = Observer(conn, read_database(conn))
    found = calls(20)
    observer.add([LoggedStatement(SEARCH, tuple(values), 1.0, time=NOW) for _, values in found])
    for _, (vector, category) in found:
        conn.execute(
            "SELECT count(*) FROM vectuned.search('docs', %s::vector, 10, %s)",
            (vector, json.dumps({"category": category})),
        )
    assert run("learn", "--dsn", database, "--once") == 0
    rows = conn.execute(
        "SELECT r.shape, array_agg(r.filtered_recall::text ORDER BY t.query::text), avg(r.fraction) "
        "FROM vectuned.replay r JOIN vectuned.trajectory t USING (query_id) GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert [row[0] for row in rows] == ["(t.category = $1)", "category ="]
    assert rows[0][1] == rows[1][1]
    assert abs(rows[0][2] - rows[1][2]) < 0.05


def test_calls_forget_vectors_and_conditions(conn: Connection, database: str, tmp_path: Path) -> None:
    conn.execute("SELECT vectuned.enable('docs', 'embedding', min_samples => 20, store_vectors => false)")
    observer = Observer(conn, read_database(conn))
    observer.add([LoggedStatement(SEARCH, tuple(values), 1.0, time=NOW) for _, values in calls(30)])
    held = "SELECT count(query), count(condition), count(shape) FROM vectuned.trajectory"
    assert conn.execute(held).fetchone() == (30, 30, 30)
    assert run("learn", "--dsn", database, "--once") == 0
    assert conn.execute(held).fetchone() == (0, 0, 30)
    assert conn.execute("SELECT count(*) FROM vectuned.replay").fetchone() == (30,)
    # No value is anywhere in the schema.
    for table in ("statement", "replay", "measured_path", "event"):
        values = conn.execute(
            raw(f"SELECT count(*) FROM vectuned.{table} x WHERE x::text ~ '''c[0-3]|c[0-3]'''")
        )
        assert values.fetchone() == (0,)
    observer.add([LoggedStatement(SEARCH, tuple(values), 1.0, time=NOW) for _, values in calls(30, seed=9)])
    conn.execute("SELECT vectuned.disable('docs', 'embedding')")
    assert conn.execute(held).fetchone() == (0, 0, 60)


def test_calls_are_bounded_and_kept_as_long_as_searches(conn: Connection) -> None:
    conn.execute("SELECT vectuned.enable('docs', 'embedding', min_samples => 20, trajectory_window => 100)")
    observer = Observer(conn, read_database(conn))
    old = NOW - timedelta(days=40)
    observer.add([LoggedStatement(PLAIN, tuple(values), None, time=old) for _, values in calls(10, PLAIN)])
    assert observer.stored == 10
    conn.execute("SELECT vectuned._partition(1, interval '30 days')")
    assert conn.execute("SELECT count(*) FROM vectuned.trajectory").fetchone() == (0,)
    future = NOW + timedelta(days=3)
    for _ in range(4):
        observer.add(
            [LoggedStatement(PLAIN, tuple(values), 1.0, time=future) for _, values in calls(30, PLAIN)]
        )
    assert observer.stored == 110
    row = conn.execute("SELECT count(*), max(recorded_at) <= now() FROM vectuned.trajectory").fetchone()
    assert row == (100, True)


def test_conditions_that_fail_on_a_row_or_are_not_trusted_are_passed_over(
    conn: Connection, database: str
) -> None:
    conn.execute("SELECT vectuned.enable('docs', 'embedding', min_samples => 20)")
    conn.execute("CREATE FUNCTION mine(x text) RETURNS bool LANGUAGE sql AS 'SELECT pg_sleep(60) IS NULL'")
    column = next(iter(read_columns(conn).values()))
    conditions = [
        "(t.category = 'c1'::text)",
        "((t.category)::integer = 1)",
        "public.mine(t.category)",
        "(t.gone = 1)",
        "true) OR (SELECT true",
        "pg_sleep(60) IS NULL",
    ]
    for condition in conditions:
        conn.execute(
            "SELECT vectuned._record_calls("
            "%s, 'client', ARRAY[now()], %s, ARRAY[10], ARRAY[1], %s, ARRAY['s'])",
            (column.id, [text(np.ones(DIMENSIONS))], [condition]),
        )
    assert run("learn", "--dsn", database, "--once") == 0
    rows = conn.execute("SELECT shape, count(filtered_recall) FROM vectuned.replay GROUP BY shape").fetchall()
    assert sorted(rows, key=str) == [("s", 1), (None, 0)]
    (tuned,) = read_tuned_columns(conn)
    assert len(claim_pending(conn, tuned.column, 10)) == 0


def test_observe_counts_what_it_leaves_out(
    conn: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    conn.execute("SELECT vectuned.enable('docs', 'embedding')")
    name = conn.info.dbname
    vector = text(np.ones(DIMENSIONS))
    found = [
        (PLAIN, [vector]),
        (PLAIN.replace("<=>", "<->"), [vector]),
        (PLAIN.replace("LIMIT 10", "LIMIT 2000"), [vector]),
        (PLAIN, [vector[:10] + "..."]),
        (PLAIN.replace("docs", "gone"), [vector]),
        (PLAIN.replace("FROM docs", "FROM docs JOIN pg_class ON oid = docs.id::oid"), [vector]),
    ]
    other = log_of("other", [(PLAIN, [vector])])
    path = tmp_path / "log.json"
    path.write_bytes(log_of(name, found) + other + b"{cut in the mid\n\n")
    document = documents(conn, capsys, path)
    assert document["left_out"] == {
        "ordered by <->, while public.docs is tuned for cosine": 1,
        "more than 1,000 rows": 1,
        "a value was cut: log_parameter_max_length is too small": 1,
    }
    # What is more than the rows of one table is stored to be replayed as it was sent.
    assert [(kind["condition"], kind["as_text"]) for kind in document["searches"]][-1] == ("a join", True)
    assert document["not_planned"] == {'relation "gone" does not exist': 1}
    assert (document["stored"], document["other_databases"], document["damaged_records"]) == (2, 1, 1)
    assert document["missing_settings"] == {
        "log_min_duration_sample": "0",
        "log_statement_sample_rate": "0.05",
    }
    assert document["statements_to_copy"][-1] == "SELECT pg_reload_conf();"


def test_observe_without_the_schema_stores_nothing(
    plain_conn: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(plain_conn)
    path = tmp_path / "log.json"
    path.write_bytes(log_of(plain_conn.info.dbname, calls(5)))
    document = documents(plain_conn, capsys, path)
    assert (document["stored"], document["searches"][0]["calls"]) == (0, 5)
    dsn = dsn_of(plain_conn)
    assert run("observe", "--dsn", dsn, path) == 0
    # The next steps are on the same database, and the file is named again.
    out = capsys.readouterr().out.replace("\n", " ")
    for line in (["migrate", "--dsn", dsn], ["observe", "--dsn", dsn, "--enable", str(path)]):
        assert f"`{shlex.join(['vectuned', *line])}`" in out
    assert run("observe", "--dsn", dsn, path, "--enable") == 2
    assert run("observe", "--dsn", dsn, tmp_path / "nowhere") == 2
    assert run("observe", "--dsn", dsn, path, "-") == 2


def test_observe_passes_over_our_own_statements(conn: Connection) -> None:
    conn.execute("SELECT vectuned.enable('docs', 'embedding')")
    (tuned,) = read_tuned_columns(conn)
    query = text(np.ones(DIMENSIONS))
    own = compose_plain(tuned.column, k=sql.Literal(10)).as_string(conn).replace("%s", "$1")
    observer = Observer(conn, read_database(conn))
    observer.add([LoggedStatement(own, (query,), 1.0)])
    assert (observer.statements, observer.kinds) == (0, {})
    # Without the mark it is a search like any other.
    observer.add([LoggedStatement(own.replace("/* vectuned */", ""), (query,), 1.0)])
    assert observer.stored == 1


def test_statements_to_copy_are_sql(plain_conn: Connection) -> None:
    logging = ServerLogging.read(plain_conn)
    system, one = statements_to_copy(logging.missing(), plain_conn.info.dbname)
    for statement in one:
        plain_conn.execute(raw(statement))
    assert [s.partition(" SET ")[2] for s in system[:-1]] == [s.partition(" SET ")[2] for s in one]
    with psycopg.connect(plain_conn.info.dsn) as later:
        assert ServerLogging.read(later).missing() == {}


def test_search_path_of_a_role_is_used(conn: Connection) -> None:
    conn.execute("CREATE SCHEMA shop AUTHORIZATION CURRENT_USER")
    conn.execute("ALTER TABLE docs SET SCHEMA shop")
    conn.execute("CREATE ROLE shopper")
    try:
        conn.execute(raw(f"ALTER ROLE shopper IN DATABASE {conn.info.dbname} SET search_path = shop, public"))
        observer = Observer(conn, read_database(conn))
        statement = LoggedStatement(PLAIN, (text(np.ones(DIMENSIONS)),), 1.0)
        observer.add([statement])
        assert observer.failed.total() == 1
        observer.add([LoggedStatement(PLAIN, statement.values, 1.0, user="shopper")])
        observer.add([LoggedStatement(PLAIN, statement.values, 1.0, user="shop")])  # by "$user"
        assert [kind.calls for kind in observer.kinds.values()] == [2]
    finally:
        conn.execute(raw(f"ALTER ROLE shopper IN DATABASE {conn.info.dbname} RESET ALL"))
        conn.execute("DROP ROLE shopper")


def test_observe_that_finds_nothing_says_what_to_do(
    plain_conn: Connection, plain_database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not ServerLogging.read(plain_conn).collects
    assert main(["observe", "--dsn", plain_database]) == 0
    out = capsys.readouterr().out
    version = plain_conn.info.server_version // 10_000
    assert "logging_collector = off" in out
    assert f"vectuned observe /var/log/postgresql/postgresql-{version}-main.log" in out
    log = tmp_path / "postgres.log"
    log.touch()
    assert main(["observe", "--dsn", plain_database, str(log)]) == 0
    out = capsys.readouterr().out
    assert "No statement was found: run the application for a while" in out
    assert "logging_collector" not in out
