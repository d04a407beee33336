"""Settings by the share of rows that the values of a call match: learned from calls, sent by the client."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest
from tests.integration.daemon.observe.test_observe import NOW, SEARCH, calls, dsn_of, fill, run
from tests.integration.table_helpers import plain_role, raw, text

from vectuned import client
from vectuned.daemon.observe.observer import Observer
from vectuned.daemon.observe.statements import LoggedStatement
from vectuned.daemon.observe.storage import read_database
from vectuned.learning.model.scan_settings import EXACT
from vectuned.learning.policy.filtering import other_paths
from vectuned.learning.policy.path_option import PathOption
from vectuned.learning.policy.statement_settings import publish_settings, sent_settings
from vectuned.sql.client.snapshot import Snapshot

Connection = psycopg.Connection[Any]

# The output says what is in force while it runs.
SHOW = SEARCH.replace("SELECT id", "SELECT current_setting('enable_indexscan'), id")
SENT = SHOW.replace("$2", "%(category)s").replace("$1", "%(query)s::vector")


@pytest.fixture
def conn(conn: Connection) -> Connection:
    fill(conn)
    return conn


def learn(conn: Connection, database: str, *, store_vectors: str = "true") -> None:
    conn.execute(
        raw(
            "SELECT vectuned.enable('docs', 'embedding', target_recall => 0.9, min_samples => 20, "
            f"store_vectors => {store_vectors})"
        )
    )
    observer = Observer(conn, read_database(conn))
    observer.add([LoggedStatement(SHOW, tuple(values), 1.0, time=NOW) for _, values in calls(160)])
    assert observer.stored == 160
    assert run("learn", "--dsn", database, "--once") == 0


def test_client_sends_the_settings_of_the_bucket_that_values_fall_into(
    conn: Connection, database: str
) -> None:
    learn(conn, database)
    shares = conn.execute("SELECT bucket, calls FROM vectuned.condition_share").fetchall()
    assert len(shares) == 4  # c0 to c3, each a quarter of the rows
    assert {bucket for bucket, _ in shares} <= {3, 4, 5}
    assert sum(count for _, count in shares) == 160
    buckets = {str(bucket): dict(EXACT) for bucket, _ in shares}
    conn.execute(
        "UPDATE vectuned.statement SET settings = %s, by_share = %s, published_at = now()",
        (json.dumps({"hnsw.ef_search": "50"}), json.dumps(buckets)),
    )
    query = text(range(1, 9))
    with psycopg.connect(dsn_of(conn), autocommit=True) as application:
        snapshot = client.tune(application, snapshot=Snapshot())
        ways = {}
        conn.execute("UPDATE docs SET category = 'c9' WHERE id < 20")
        for category in ("c0", "c3", "c9"):
            rows = application.execute(SENT, {"query": query, "category": category}).fetchall()
            ways[category] = {way for way, _ in rows}
        # What was never called, c9, gets what is proven for all values.
        assert ways == {"c0": {"off"}, "c3": {"off"}, "c9": {"on"}}
        assert (snapshot.counters.tuned, snapshot.counters.by_share) == (3, 2)


def test_publish_chooses_exact_search_for_values_that_match_few_rows(conn: Connection, database: str) -> None:
    """Of a statement whose values match a quarter or a thousandth, each share gets its own cheapest path."""
    conn.execute("UPDATE docs SET category = 'rare' WHERE id % 1000 = 3")
    conn.execute("ANALYZE docs")
    conn.execute("SELECT vectuned.enable('docs', 'embedding', target_recall => 0.9, min_samples => 20)")
    observer = Observer(conn, read_database(conn))
    found = [
        (vector, "rare" if at % 2 else category) for at, (_, (vector, category)) in enumerate(calls(400))
    ]
    observer.add([LoggedStatement(SHOW, values, 1.0, time=NOW) for values in found])
    assert run("learn", "--dsn", database, "--once") == 0
    # Every effort was tried up to one with which the planner ranks the matching rows anyway.
    tried = (
        "SELECT DISTINCT cardinality(other_ms), takes_index[cardinality(other_ms)] "
        "FROM vectuned.replay WHERE other_ms IS NOT NULL"
    )
    assert all(count == len(other_paths("hnsw")) or takes is False for count, takes in conn.execute(tried))
    # What was measured, but for times: exact search is quicker where few rows match.
    conn.execute(
        "UPDATE vectuned.replay SET exact_ms = CASE WHEN fraction < 0.1 THEN 0.5 ELSE 50 END, "
        "other_ms = '{1,2,3,4,5,6,7}', other_recall = '{0.5,1,1,1,1,1,1}', takes_index = '{t,t,t,t,t,t,t}'"
    )
    with conn.transaction():
        assert publish_settings(conn) == 1
    ((settings, by_share),) = conn.execute("SELECT settings, by_share FROM vectuned.statement").fetchall()
    assert (settings["hnsw.ef_search"], settings["hnsw.iterative_scan"]) == ("40", "relaxed_order")
    assert by_share
    for bucket, shares in by_share.items():
        assert int(bucket) > 6
        assert shares == sent_settings(PathOption("exact", EXACT, 1.0, 1.0, 1.0, True))


def test_shares_are_kept_only_where_vectors_are_and_for_readers_of_the_table(
    conn: Connection, database: str
) -> None:
    learn(conn, database, store_vectors="false")
    assert conn.execute("SELECT count(value_key) FROM vectuned.trajectory").fetchone() == (0,)
    assert conn.execute("SELECT count(*) FROM vectuned.condition_share").fetchone() == (0,)
    conn.execute("INSERT INTO vectuned.condition_share VALUES (1, 'a', 4, 1)")
    with plain_role(conn, dsn_of(conn)) as reader:
        assert reader.execute("SELECT * FROM vectuned.condition_shares()").fetchall() == []
        conn.execute(raw(f"GRANT SELECT ON docs TO {reader.info.user}"))
        assert reader.execute("SELECT * FROM vectuned.condition_shares()").fetchall() == [("a", 4)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("SELECT * FROM vectuned.condition_share")
    conn.execute("SELECT vectuned._fall_back(1, NULL, NULL, 'why')")
    assert conn.execute("SELECT count(by_share) FROM vectuned.statement").fetchone() == (0,)
    conn.execute("SELECT vectuned.disable('docs', 'embedding')")
    assert conn.execute("SELECT count(*) FROM vectuned.condition_share").fetchone() == (0,)
