"""`vectuned adopt` on a real server: what it prints, applies and puts back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests.integration.table_helpers import Connection, clustered, enable, make, one, plain_role, serve

from vectuned.daemon.cli.main import main
from vectuned.learning.policy.statement_settings import StatementCalls, count_calls, publish_settings
from vectuned.sql.rows import fetch_value

SEARCH = "SELECT id FROM items WHERE kind = 3 ORDER BY embedding <=> '[1]' LIMIT 10"
PLAIN = "SELECT id FROM items ORDER BY embedding <=> $1 LIMIT 10"
SHAPE = "(kind = $1)"
PLANNING = {"enable_bitmapscan": "on", "enable_seqscan": "on", "enable_sort": "on"}


@pytest.fixture
def learned(conn: Connection) -> Connection:
    """A database in which two statements are known and their paths measured."""
    make(conn, clustered(300, 8, seed=1))
    column = enable(conn)
    now = datetime.now(UTC)
    count_calls(
        conn,
        [
            StatementCalls(SEARCH, column, 10, SHAPE, 90, now, now),
            StatementCalls(PLAIN, column, 10, "", 10, now, now),
        ],
    )
    paths: list[tuple[Any, ...]] = [
        (SHAPE, 4, "exact", None, None, 1.0, True, 9.0),
        (None, None, "hnsw", 1, 56, 0.97, True, 1.0),
    ]
    for shape, bucket, path, index_no, effort, recall, proven, ms in paths:
        conn.execute(
            "INSERT INTO vectuned.measured_path (column_id, k_class, shape, bucket, access_path, index_no, "
            "effort, expected_recall, recall_bound, proven, ms, samples, serves) "
            "VALUES (%s, 10, %s, %s, %s, %s, %s, %s, %s, %s, %s, 100, true)",
            (column, shape, bucket, path, index_no, effort, recall, recall - 0.01, proven, ms),
        )
    # Of the planner's own path and of continued scans from ef_search 40 to 800, those from 240 on find all.
    conn.execute(
        "INSERT INTO vectuned.replay (query_id, column_id, recorded_at, generation, k, k_class, k_classes, "
        "probe, blocks, ms, shape, fraction, exact_ms, other_recall, other_ms, takes_index) "
        "SELECT gen_random_uuid(), c.id, now(), vectuned._generation(c.index_relation), 10, 10, '{10}', "
        "'{}', '{}', '{}', %s, 0.24, 9, '{0.47,0.47,0.6,0.7,1,1,1}', '{1,1.5,2,2.5,3,4,5}', "
        "'{t,t,t,t,t,t,t}' "
        "FROM vectuned.tuned_column c CROSS JOIN generate_series(1, 200) WHERE c.id = %s",
        (SHAPE, column),
    )
    return conn


@pytest.fixture
def role(learned: Connection) -> Iterator[str]:
    name = f"{learned.info.dbname}_app"
    learned.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))
    yield name
    learned.execute(sql.SQL("DROP OWNED BY {0}; DROP ROLE {0}").format(sql.Identifier(name)))


def run(capsys: pytest.CaptureFixture[str], conn: Connection, *arguments: str) -> tuple[int, str, str]:
    code = main(["adopt", *arguments, "--dsn", conn.info.dsn])
    out, err = capsys.readouterr()
    return code, out, err


def in_session(conn: Connection, name: str, user: str | None = None) -> str:
    """Return a setting as a new session has it."""
    dsn = make_conninfo(conn.info.dsn, **({"user": user} if user else {}))
    with psycopg.connect(dsn) as session:
        session.execute("SELECT '[1]'::vector")
        return str(one(session, "SELECT current_setting(%s)", name))


def test_publish_settings_derives_what_the_client_reads(learned: Connection) -> None:
    assert publish_settings(learned) == 2
    rows = learned.execute(
        "SELECT shape, settings, expected_recall, certified FROM vectuned.statement ORDER BY shape"
    ).fetchall()
    assert rows == [
        ("", {"hnsw.ef_search": "56"}, 0.97, True),
        (
            SHAPE,
            {
                "hnsw.ef_search": "240",
                "hnsw.iterative_scan": "relaxed_order",
                "hnsw.max_scan_tuples": "24000",
                "hnsw.scan_mem_multiplier": "4",
                "enable_indexscan": "on",
                "plan_cache_mode": "force_custom_plan",
            }
            | PLANNING,
            1.0,
            True,
        ),
    ]
    learned.execute("UPDATE vectuned.measured_path SET proven = (access_path = 'exact')")
    learned.execute("UPDATE vectuned.replay SET other_recall = '{0.4,0.4,0.5,0.5,0.6,0.6,0.7}'")
    assert publish_settings(learned) == 1
    settings = "SELECT settings ->> 'enable_indexscan' FROM vectuned.statement WHERE shape <> ''"
    assert one(learned, settings) == "off"
    assert one(learned, "SELECT count(*) FROM vectuned.statement WHERE published_at IS NULL") == 1


def test_fall_back_serves_statements_without_what_was_learned(learned: Connection) -> None:
    serve(learned, 1, None, 56)
    learned.execute("UPDATE vectuned.replay SET exact_ms = 0.5")
    publish_settings(learned)
    learned.execute("SELECT vectuned._fall_back(1, NULL, NULL, 'why')")
    rows = learned.execute("SELECT settings, certified FROM vectuned.statement ORDER BY shape").fetchall()
    assert rows == [
        ({"hnsw.ef_search": "112"}, False),
        ({"enable_indexscan": "off", "plan_cache_mode": "force_custom_plan"} | PLANNING, False),
    ]
    learned.execute("SELECT vectuned.disable('items', 'embedding')")
    assert one(learned, "SELECT count(settings) FROM vectuned.statement") == 0


def test_adopt_prints_applies_and_reverts_for_the_database(
    learned: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    name = learned.info.dbname
    learned.execute(sql.SQL("ALTER DATABASE {} SET hnsw.ef_search = 44").format(sql.Identifier(name)))
    code, out, _ = run(capsys, learned)
    assert code == 0
    assert f"ALTER DATABASE \"{name}\" SET hnsw.ef_search = '240';" in out
    assert f"ALTER DATABASE \"{name}\" SET hnsw.iterative_scan = 'relaxed_order';" in out
    assert "hnsw.ef_search is 44 now, which something else than vectuned has set" in out
    assert "select id from items where kind = ? order by embedding <=> ? limit ?" in out
    assert "90 calls; now recall 0.470 in 1.10 ms; then recall 1.000 in 3.00 ms; target 0.95 proven" in out
    assert in_session(learned, "hnsw.ef_search") == "44"
    assert one(learned, "SELECT count(*) FROM vectuned.adoption") == 0

    code, out, _ = run(capsys, learned, "--apply", "--json")
    document = json.loads(out)
    assert (code, document["applied"]) == (0, True)
    assert document["set_by_others"] == {"hnsw.ef_search": "44"}
    assert [each["reaches_target"] for each in document["outlook"]] == [True, True]
    assert in_session(learned, "hnsw.ef_search") == "240"
    assert in_session(learned, "hnsw.iterative_scan") == "relaxed_order"
    assert "no settings bring more" in run(capsys, learned, "--apply")[1]
    assert one(learned, "SELECT count(*) FROM vectuned.adoption") == 1

    code, out, _ = run(capsys, learned, "--revert")
    assert code == 0
    assert in_session(learned, "hnsw.ef_search") == "44"
    assert in_session(learned, "hnsw.iterative_scan") == "off"
    assert one(learned, "SELECT reverted_at IS NOT NULL FROM vectuned.adoption")
    code, _, err = run(capsys, learned, "--revert")
    assert code == 2
    assert "changed nothing of the database" in err


def test_adopt_for_a_role_touches_no_other(
    learned: Connection, role: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(capsys, learned, "--role", role, "--apply")[0] == 0
    assert in_session(learned, "hnsw.ef_search", role) == "240"
    assert in_session(learned, "hnsw.ef_search") == "40"
    # What the database is given does not reach that role, and adopt says so.
    assert f"the role {role} has a value of hnsw.ef_search of its own" in run(capsys, learned)[1]
    # Something else changes one of them meanwhile.
    change = "ALTER ROLE {} IN DATABASE {} SET hnsw.ef_search = 99"
    learned.execute(sql.SQL(change).format(sql.Identifier(role), sql.Identifier(learned.info.dbname)))
    out = run(capsys, learned, "--role", role, "--revert")[1]
    assert "hnsw.ef_search was changed since, to 99, and stays" in out
    assert in_session(learned, "hnsw.ef_search", role) == "99"
    assert in_session(learned, "hnsw.iterative_scan", role) == "off"
    code, _, err = run(capsys, learned, "--role", "nobody at all")
    assert code == 2
    assert "there is no role 'nobody at all'" in err


def test_adopt_refuses_what_would_make_a_statement_worse(
    learned: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    learned.execute("UPDATE vectuned.measured_path SET effort = 40 WHERE shape IS NULL")
    code, out, err = run(capsys, learned, "--apply")
    assert code == 1
    assert "refused: more effort for the others would slow select id from items order by" in out
    assert "nothing was applied" in err
    assert in_session(learned, "hnsw.ef_search") == "40"


def test_adopt_proposes_scans_where_exact_search_is_quicker(
    learned: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings of a role cannot choose exact search, so its quickness is no reason to propose nothing."""
    learned.execute("UPDATE vectuned.replay SET exact_ms = 0.5")
    code, out, _ = run(capsys, learned)
    assert code == 0
    assert "SET hnsw.ef_search = '240';" in out
    assert "then recall 1.000 in 3.00 ms; target 0.95 proven" in out


def test_adopt_says_what_is_measured_but_not_proven(
    learned: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    learned.execute(
        "DELETE FROM vectuned.replay WHERE replay_no > (SELECT min(replay_no) + 35 FROM vectuned.replay)"
    )
    code, out, _ = run(capsys, learned, "--apply")
    assert code == 0
    assert "SET hnsw.ef_search = '240';" in out
    assert "then recall 1.000 in 3.00 ms; target 0.95 reached, but not proven" in out
    assert in_session(learned, "hnsw.ef_search") == "240"


def test_adopt_bounds_the_time_and_says_what_it_costs(
    learned: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    learned.execute("UPDATE vectuned.replay SET other_ms = '{1,1.5,2,2.5,12.24,14,15}'")
    code, out, _ = run(capsys, learned, "--max-slowdown", "10", "--apply")
    assert code == 0
    assert "SET hnsw.ef_search = '140';" in out
    assert "then recall 0.700 in 2.50 ms; target 0.95 not reached" in out
    assert "recall 1.000 in 12.24 ms without the limit on the time" in out
    assert "limited to 10 times the time of now: `--max-slowdown 12.3`" in out
    assert in_session(learned, "hnsw.ef_search") == "140"
    run(capsys, learned, "--revert")
    code, out, _ = run(capsys, learned, "--max-slowdown", "12.3", "--json")
    assert (
        f"ALTER DATABASE \"{learned.info.dbname}\" SET hnsw.ef_search = '240'"
        in json.loads(out)["statements"]
    )
    assert json.loads(out)["slower"] is None
    document = json.loads(run(capsys, learned, "--max-slowdown", "2", "--json")[1])
    assert document["slower"]["max_slowdown"] == 12.3
    assert document["slower"]["settings"]["hnsw.ef_search"] == "240"
    with pytest.raises(SystemExit):
        run(capsys, learned, "--max-slowdown", "0.5")
    assert "must be a number from 1 on, not '0.5'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "cap",
    [b"UPDATE vectuned.tuned_column SET max_effort = 140", b"SELECT vectuned._cap_efforts(140)"],
    ids=["of the column", "of the daemon"],
)
def test_adopt_keeps_to_the_highest_effort_allowed(
    learned: Connection, capsys: pytest.CaptureFixture[str], cap: bytes
) -> None:
    learned.execute(cap)
    code, out, _ = run(capsys, learned)
    assert code == 0
    assert "SET hnsw.ef_search = '140';" in out
    assert "then recall 0.700 in 2.50 ms; target 0.95 not reached" in out


def test_report_advises_adopt_only_where_it_changes_something(
    learned: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    def advises() -> bool:
        return int(fetch_value(learned, "statements_to_adopt", {"column_id": 1})) > 0

    assert not advises()  # nothing is published yet
    publish_settings(learned)
    assert advises()
    assert run(capsys, learned, "--apply")[0] == 0
    assert not advises()
    assert run(capsys, learned, "--revert")[0] == 0
    assert advises()
    # Only exact search is proven for the one, and the other needs no more than there is.
    learned.execute("UPDATE vectuned.replay SET other_recall = '{0.4,0.4,0.5,0.5,0.6,0.6,0.7}'")
    learned.execute("UPDATE vectuned.measured_path SET effort = 40 WHERE shape IS NULL")
    assert publish_settings(learned) == 2
    assert not advises()


def test_adopt_without_statements_says_what_to_do(
    conn: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, conn)
    assert code == 2
    assert "run `vectuned observe`" in err


def test_adopt_without_the_right_names_the_statements(
    learned: Connection, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    grants = [f"{rights} ON ALL TABLES IN SCHEMA vectuned" for rights in ("SELECT", "INSERT", "UPDATE")]
    with plain_role(learned, database, *grants) as reader:
        learned.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA vectuned TO PUBLIC")
        code, _, err = run(capsys, reader, "--apply")
    assert code == 1
    assert "may not change these settings: let the owner of the database run ALTER DATABASE" in err
    assert one(learned, "SELECT count(*) FROM vectuned.adoption") == 0
