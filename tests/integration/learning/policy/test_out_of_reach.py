"""Targets that no setting of an index reaches: what is said, and what serves."""

from __future__ import annotations

import re
from typing import Any

import psycopg
import pytest
from tests.integration.search_helpers import points
from tests.integration.table_helpers import (
    Connection,
    build,
    enable,
    exact,
    make,
    one,
    only,
    prepared,
    search,
)

from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.learning.model.trajectory import claim_pending, drain
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.oversight.fallback import Fallback, fall_back
from vectuned.learning.policy.learner import LearningOptions, LearningResult, learn
from vectuned.learning.policy.limits import NO_CAPS
from vectuned.learning.replay.replay import replay

SEARCHES = 200  # enough to show with 95 % confidence that a target far off is missed
STATE = "SELECT access_path, ef_search, certified, reason FROM vectuned.status WHERE k_class = 10"


@pytest.fixture(scope="module")
def practised(server: EmbeddedServer, template: str) -> str:
    """A database with a column whose graph is far too thin for its target, and replayed searches of it.

    With two links a row the graph falls apart.
    """
    name = "template_out_of_reach"
    with prepared(server.dsn, template, name) as conn:
        make(conn, points(3000, seed=1), index=False)
        build(conn, options="WITH (m = 2, ef_construction = 4)")
        enable(conn, target_recall=0.99, sample_rate=1.0, min_samples=50)
        practise(conn, only(conn))
    return name


@pytest.fixture
def initial_database(practised: str) -> str:
    """Begin each test with the replayed searches."""
    return practised


def practise(conn: Connection, tuned: TunedColumn) -> None:
    """Search, record, drain and replay."""
    for query in points(SEARCHES, seed=2):
        search(conn, query)
    drain(conn)
    replay(conn, tuned, claim_pending(conn, tuned.column, SEARCHES))


def lesson(conn: Connection) -> LearningResult:
    """Learn about the only column as its options are now."""
    return learn(conn, only(conn), LearningOptions(step_aside=1e9))


def state(conn: Connection) -> Any:
    """Read what serves searches for ten rows."""
    return conn.execute(STATE).fetchone()


def are_exact(conn: Connection, count: int = 20) -> bool:
    """Return whether searches find exactly the nearest rows."""
    return all(search(conn, query) == exact(conn, query) for query in points(count, seed=3))


def test_target_out_of_reach_serves_the_best_of_the_index_and_says_what_exact_search_takes(
    conn: Connection, tuned: TunedColumn
) -> None:
    policy = lesson(conn).served[10].policy
    path, ef, certified, reason = state(conn)
    assert (path, ef, certified) == ("hnsw", policy.fixed_ef, False)
    assert re.search(
        r"no ef_search reaches 0\.99: 1000 gives recall 0\.\d+, at most 0\.\d+.*, "
        r"and ef_search \d+ takes [\d.]+ ms; "
        r"exact search takes [\d.]+ ms; exact_if_unreachable of vectuned.enable serves it; "
        r"another index may reach it, `vectuned advise` measures which$",
        reason,
    )
    assert one(
        conn, "SELECT bool_or(n ~ 'exact search takes [0-9.]+ ms') FROM vectuned.status, unnest(notes) n"
    )
    event = one(
        conn,
        "SELECT details #> '{classes,10,out_of_reach}' FROM vectuned.event WHERE action = 'publish'",
    )
    assert event["recall"] <= event["recall_bound"] < 0.99
    assert event["exact_ms"] > 0


def test_enable_says_which_targets_are_out_of_reach(conn: Connection, tuned: TunedColumn) -> None:
    said: list[str] = []
    conn.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
    enable(conn)
    assert not any("rows" in each for each in said)
    lesson(conn)
    enable(conn)
    assert any(re.match("searches for up to 10 rows: .*exact search takes", each) for each in said)


def test_target_out_of_reach_serves_exact_search_if_the_owner_wants_it(
    conn: Connection, tuned: TunedColumn
) -> None:
    enable(conn, exact_if_unreachable=True, sample_rate=1.0)
    served = lesson(conn).served[10]
    assert served.exact_ms is not None
    path, ef, certified, reason = state(conn)
    assert (path, ef, certified) == ("exact", None, True)
    assert reason.startswith("exact search serves and takes ")
    assert are_exact(conn)
    params = conn.execute(
        "SELECT access_path, ef_search, expected_recall, confidence FROM vectuned.params('items', %s, 10)",
        (points(1, seed=3)[0],),
    ).fetchone()
    assert params == ("exact", None, 1.0, 1.0)
    recorded = one(conn, "SELECT access_path FROM vectuned.inbox ORDER BY recorded_at DESC LIMIT 1")
    assert recorded == "exact"
    # Statements of applications cannot be exact by their settings: they get what the index gives.
    assert one(conn, "SELECT bool_and(proven) FROM vectuned.measured_path WHERE shape IS NULL") is False
    enable(conn, exact_if_unreachable=False)
    lesson(conn)
    assert state(conn)[0] == "hnsw"


def test_exact_search_serves_only_within_max_ms(conn: Connection, tuned: TunedColumn) -> None:
    enable(conn, exact_if_unreachable=True, max_ms=1e-6)
    lesson(conn)
    path, _, _, reason = state(conn)
    assert path == "hnsw"
    assert re.search(r"exact search takes [\d.]+ ms, not within max_ms 1e-06", reason)
    enable(conn, max_ms=60_000)
    lesson(conn)
    assert state(conn)[0] == "exact"


def test_exact_search_stays_exact_when_others_fall_back(conn: Connection, tuned: TunedColumn) -> None:
    enable(conn, exact_if_unreachable=True)
    lesson(conn)
    fall_back(conn, only(conn), "alarm", "a test", {}, Fallback(NO_CAPS))
    assert state(conn)[0] == "exact"
    enable(conn, max_ms=1e-6)
    fall_back(conn, only(conn), "alarm", "a test", {}, Fallback(NO_CAPS))
    assert state(conn)[0] == "hnsw"


def test_exact_search_ends_when_an_index_reaches_the_target(conn: Connection, tuned: TunedColumn) -> None:
    enable(conn, exact_if_unreachable=True, sample_rate=1.0)
    lesson(conn)
    assert state(conn)[0] == "exact"
    conn.execute("DROP INDEX items_embedding_idx")
    build(conn, options="WITH (m = 24, ef_construction = 200)")
    conn.execute("SELECT vectuned.refresh('items')")
    practise(conn, only(conn))
    lesson(conn)
    assert state(conn)[0] == "hnsw"


def test_exact_search_goes_on_after_the_table_was_renamed(conn: Connection, tuned: TunedColumn) -> None:
    enable(conn, exact_if_unreachable=True)
    lesson(conn)
    assert state(conn)[0] == "exact"
    conn.execute("ALTER TABLE items RENAME TO things")
    renamed = "SELECT id FROM vectuned.search('things', %s, 10)"
    wanted = "SELECT id::text FROM things ORDER BY (embedding <=> %s::vector) + 0 LIMIT 10"
    for query in points(20, seed=3):
        assert [row[0] for row in conn.execute(renamed, (query,))] == [
            row[0] for row in conn.execute(wanted, (query,), prepare=False)
        ]


def test_exact_search_without_time_returns_what_the_index_finds(conn: Connection, tuned: TunedColumn) -> None:
    enable(conn, exact_if_unreachable=True)
    lesson(conn)
    said: list[str] = []
    conn.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
    query = points(1, seed=3)[0]
    with conn.transaction():
        conn.execute("SET LOCAL statement_timeout = '400ms'")
        found = conn.execute(
            "SELECT s.id FROM pg_sleep(0.25) AS p, LATERAL (SELECT p) q, "
            "LATERAL vectuned.search('items', %s, 10) s",
            (query,),
        ).fetchall()
    assert 0 < len(found) <= 10
    assert any("left no time for an exact search" in each for each in said)
    assert search(conn, query) == exact(conn, query)


def test_exact_search_of_a_table_smaller_than_k_returns_every_row(
    conn: Connection, tuned: TunedColumn
) -> None:
    enable(conn, exact_if_unreachable=True)
    lesson(conn)
    conn.execute("DELETE FROM items WHERE id > 7")
    assert len(search(conn, points(1, seed=3)[0])) == 7


def test_export_of_a_class_served_exactly_claims_nothing_about_the_index(
    conn: Connection, tuned: TunedColumn
) -> None:
    enable(conn, exact_if_unreachable=True)
    lesson(conn)
    document = one(conn, "SELECT vectuned.export_patterns('items')")
    ten = next(each for each in document["classes"] if each["k"] == 10)
    assert (ten["access_path"], ten["certified"], ten["expected_recall"]) == ("hnsw", False, None)
    conn.execute(
        "SELECT vectuned.import_patterns('items', 'embedding', %s::jsonb)",
        (psycopg.types.json.Jsonb(document),),
    )
