"""Documents of several sources: what two servers learned is added up to one bank."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from pgvector.psycopg import register_vector
from tests.integration.document_helpers import (
    Document,
    World,
    actions,
    changed,
    exported,
    imported,
    later,
    of_class,
    read_import_state,
    search_and_replay,
    signed,
)
from tests.integration.embedded_helpers import FAST, open_folder
from tests.integration.table_helpers import Connection, build, drawn, enable, make, one, only

from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.learning.exchange import document_name, import_newest_documents
from vectuned.learning.policy.learner import learn
from vectuned.sql.install import migrate

K = 10  # rows of a search


def of_source(conn: Connection, document: Document, database: str, **figures: Any) -> Document:
    """Return a document as another database would have written it, with other figures of its class for K."""
    copied = changed(document, ("provenance", "database"), database)
    place = [each["k"] for each in document["classes"]].index(K)
    for name, value in figures.items():
        copied = changed(copied, ("classes", place, name), value)
    return signed(conn, copied)


def bank(conn: Connection) -> Any:
    row = conn.execute(
        "SELECT access_path, ef_search, certified, samples, expected_recall, recall_bound, reason "
        "FROM vectuned.bank WHERE k_class = %s",
        (K,),
    ).fetchone()
    assert row is not None
    return row


FIRST = {"ef_search": 80, "samples": 300, "expected_recall": 0.96, "recall_bound": 0.94}
SECOND = {"ef_search": 120, "samples": 100, "expected_recall": 0.92, "recall_bound": 0.91}


@pytest.mark.parametrize("first", [0, 1])
def test_sources_on_the_same_index_add_up_to_one_proof(world: World, here: Connection, first: int) -> None:
    documents = [
        of_source(here, world.document, "one", **FIRST),
        of_source(here, world.document, "two", **SECOND),
    ]
    assert imported(here, documents[first])["as"] == "proven"
    report = imported(here, documents[1 - first])
    assert actions(report)[K] == "merged"
    (each,) = [c for c in report["classes"] if c["k"] == K]
    assert each["why"].startswith("together with what was imported from")
    path, effort, certified, samples, expected, bound, reason = bank(here)
    # The highest effort, the lowest bound, and the mean over all replays.
    assert (path, effort, certified, samples) == ("hnsw", 120, True, 400)
    assert expected == pytest.approx(0.95)
    # Of effort by query only the fixed setting serves together, which is proven for the target.
    learned = of_class(documents[0], K)
    by_query = learned["access_path"].endswith("_adaptive")
    assert bound == (min(0.91, learned["target_recall"]) if by_query else 0.91)
    assert "400 replays" in reason
    assert "database one" in reason
    assert "database two" in reason
    before = read_import_state(here)
    for document in documents:
        assert not imported(here, document)["changed"]
    assert read_import_state(here) == before
    # A later document of one source replaces only its own part; the other source still counts.
    newer = later(here, of_source(here, world.document, "two", **{**SECOND, "ef_search": 70, "samples": 500}))
    assert actions(imported(here, newer))[K] == "merged"
    assert bank(here)[1:4] == (80, True, 800)
    assert actions(imported(here, documents[1]))[K] == "kept"


def test_unproven_source_leaves_the_whole_unproven(world: World, here: Connection) -> None:
    imported(here, of_source(here, world.document, "one", **FIRST))
    imported(here, of_source(here, world.document, "two", **SECOND, certified=False))
    assert bank(here)[1:4] == (120, False, 400)


def test_sources_together_claim_no_bound_that_one_of_them_lacks(conn: Connection) -> None:
    known = {"effort": 80, "samples": 300, "expected_recall": 0.96, "recall_bound": 0.94, "tail": 0.02}
    sources = {
        "a": {**known, "tail_bound": 0.04, "certified": True, "source": "a"},
        "b": {"effort": 90, "samples": 100, "recall_bound": 0.93, "certified": True, "source": "b"},
    }
    statement = "SELECT expected_recall, recall_bound, tail, tail_bound FROM vectuned._combine_sources(%s)"
    assert conn.execute(statement, (json.dumps(sources),)).fetchone() == (0.96, 0.93, 0.02, None)


def test_priors_of_several_sources_serve_the_highest_effort(world: World, here: Connection) -> None:
    here.execute("REINDEX INDEX items_embedding_idx")
    # The document with the higher effort was written earlier.
    second = of_source(here, world.document, "two", **SECOND)
    first = later(here, of_source(here, world.document, "one", **FIRST))
    for document in (first, second):
        assert imported(here, document)["as"] == "prior"
    path, effort, certified, samples, _, bound, reason = bank(here)
    assert (path, effort, certified, samples, bound) == ("hnsw", 120, False, 0, 0)
    assert reason.endswith("with 400 replays; not yet proven here")


def test_import_folder_takes_the_newest_document_of_each_database(
    world: World, here: Connection, tmp_path: Path
) -> None:
    for database, figures in (("one", FIRST), ("two", SECOND)):
        document = of_source(here, world.document, database, **figures)
        for copy in (document, later(here, document)):
            (tmp_path / document_name(copy)).write_text(json.dumps(copy))
    tuned = only(here)
    assert len(import_newest_documents(here, tuned, tmp_path)) == 2
    assert bank(here)[1:4] == (120, True, 400)
    assert import_newest_documents(here, tuned, tmp_path) == []


@pytest.fixture(scope="module")
def servers() -> Iterator[list[Connection]]:
    """Two servers with the same table, as logical replicas have it: each builds an index of its own."""
    with (
        open_folder() as first,
        open_folder() as second,
        EmbeddedServer(first, settings=FAST) as one_server,
        EmbeddedServer(second, settings=FAST) as another,
        psycopg.connect(one_server.dsn, autocommit=True) as left,
        psycopg.connect(another.dsn, autocommit=True) as right,
    ):
        for conn in (left, right):
            conn.execute("CREATE EXTENSION vector")
            register_vector(conn)
            migrate(conn)
            make(conn, drawn(1500, seed=1), index=False)
            build(conn, options="WITH (m = 8)")
            conn.execute("VACUUM ANALYZE items")
            enable(conn, sample_rate=1.0, target_recall=0.8, min_samples=50)
        yield [left, right]


def test_what_two_servers_learned_is_merged_into_a_third_bank(
    servers: list[Connection], world: World, here: Connection
) -> None:
    here.execute("DELETE FROM items WHERE id > 1500")
    here.execute("VACUUM ANALYZE items")
    documents = []
    for number, conn in enumerate(servers):
        search_and_replay(conn, 200, seed=20 + number)
        learn(conn, only(conn))
        documents.append(exported(conn))
    assert documents[0]["provenance"]["system"] != documents[1]["provenance"]["system"]
    asked = [of_class(document) for document in documents]
    assert all(each["certified"] for each in asked)
    enable(here, target_recall=0.8, sample_rate=1.0, min_samples=50)
    for document in documents:
        assert actions(imported(here, document))[K] == "merged"
    path, effort, certified, samples, _, _, reason = bank(here)
    highest = max(each["ef_search"] for each in asked)
    assert (path, certified, samples) == ("hnsw", False, 0)
    assert effort >= max(highest, 40)
    assert f"with {sum(each['samples'] for each in asked)} replays" in reason
    # What is learned here later replaces both.
    search_and_replay(here, 200)
    learn(here, only(here))
    assert bank(here)[3] > 0
    assert one(here, "SELECT sources IS NULL FROM vectuned.bank WHERE k_class = 10")
