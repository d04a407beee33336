"""Imports: proven on the same index, a prior elsewhere, and never partial."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from psycopg import errors, sql
from tests.integration.document_helpers import (
    ALWAYS,
    SEARCHES,
    TARGET,
    World,
    actions,
    content_of,
    exported,
    imported,
    later,
    of_class,
    read_import_state,
    search_and_replay,
    serving,
    signed,
)
from tests.integration.table_helpers import (
    DIMENSIONS,
    Connection,
    clustered,
    drawn,
    enable,
    make,
    one,
    only,
    plain_role,
    publish,
    search,
    text,
)

from vectuned.config.errors import UsageError
from vectuned.learning.exchange import import_document
from vectuned.learning.policy.learner import learn


def test_import_on_the_same_index_serves_as_proven(world: World, here: Connection) -> None:
    source = of_class(world.document)
    assert source["certified"]
    assert source["access_path"] == "hnsw_adaptive"
    assert len(source["patterns"]) > 3
    assert any(path["shape"] == "category =" and path["serves"] for path in world.document["paths"])
    before = read_import_state(here)
    dry = imported(here, world.document, dry_run=True)
    assert read_import_state(here) == before
    report = imported(here, world.document)
    assert {**dry, "dry_run": False} == report
    assert (report["as"], report["why"], report["changed"]) == ("proven", None, True)
    assert set(actions(report).values()) == {"merged"}
    again = exported(here)
    assert content_of(again) == content_of(world.document)
    path, ef, certified, bound, samples, patterns, state = serving(here)
    assert (path, ef, certified) == ("hnsw_adaptive", source["ef_search"], True)
    assert (bound, samples, state) == (source["recall_bound"], source["samples"], "serving")
    assert patterns == len(source["patterns"])
    query = drawn(1, seed=9)[0]
    params = here.execute(
        "SELECT access_path, confidence > 0 FROM vectuned.params('items', %s)", (text(query),)
    )
    assert params.fetchone() == ("hnsw_adaptive", True)
    assert len(search(here, query)) == 10
    reason = one(here, "SELECT reason FROM vectuned.recommend_params('items') WHERE subject = 'k up to 10'")
    assert "; imported from public.items.embedding of database exchange_" in reason

    # Importing it again, or its own export, changes nothing.
    before = read_import_state(here)
    report = imported(here, world.document)
    assert not report["changed"]
    assert set(actions(report).values()) == {"unchanged"}
    assert not imported(here, again)["changed"]  # its own export
    assert read_import_state(here) == before


def test_import_on_another_index_is_an_unproven_prior(world: World, here: Connection) -> None:
    source = of_class(world.document)
    here.execute("LISTEN vectuned")
    here.execute("REINDEX INDEX items_embedding_idx")
    report = imported(here, world.document)
    assert (report["as"], report["why"]) == ("prior", "it was learned on another index")
    proven = {each["k"]: each["certified"] for each in world.document["classes"]}
    assert actions(report) == {k: "merged" if certified else "skipped" for k, certified in proven.items()}
    path, ef, certified, bound, samples, patterns, state = serving(here)
    # The patterns are not served: effort by query has not been measured to save anything here.
    assert (path, certified, bound, samples) == ("hnsw", False, 0, 0)
    assert ef == max(source["ef_search"], 40)
    assert patterns == len(source["patterns"])
    assert state == "imported: not proven here yet"
    query = drawn(1, seed=9)[0]
    row = here.execute(
        "SELECT ef_search, confidence, reason FROM vectuned.params('items', %s)", (text(query),)
    )
    served, confidence, reason = row.fetchone() or (None, None, "")
    assert (served, confidence) == (ef, 0)
    assert reason.startswith("imported from public.items.embedding of database exchange_")
    assert reason.endswith(f"with {source['samples']} replays; not yet proven here")
    filtered = one(
        here,
        "SELECT reason FROM vectuned.params('items', %s, 10, '{\"category\": \"rare\"}')",
        text(query),
    )
    kinds = {each["shape"] for each in report["filters"] if each["action"] == "merged"}
    assert ("imported from" in filtered) == bool(kinds) or "nothing has been learned" in filtered
    # What was proven elsewhere is not exported.
    assert exported(here)["classes"] == []
    assert not [path for path in exported(here)["paths"] if path["shape"]]

    before = read_import_state(here)
    assert set(actions(imported(here, world.document)).values()) <= {"unchanged", "skipped"}
    assert read_import_state(here) == before
    event = one(here, "SELECT details FROM vectuned.event WHERE action = 'import'")
    assert event["as"] == "prior"
    assert event["why"].endswith(", not proven here")
    (note,) = list(here.notifies(timeout=300, stop_after=1))
    assert json.loads(note.payload)["action"] == "import"
    here.execute("SELECT vectuned.disable('items', 'embedding')")
    assert one(here, "SELECT count(*) FROM vectuned.imported") == 0
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="was disabled"):
        imported(here, world.document)


def test_import_prior_serves_until_learning_replaces_it(world: World, here: Connection) -> None:
    here.execute("REINDEX INDEX items_embedding_idx")
    enable(here, sample_rate=1.0, target_recall=0.95, min_samples=50)
    imported(here, world.document)
    # The allowed misses are half of those there, so the effort is twice as high, up to the maximum.
    assert serving(here)[:2] == ("hnsw", min(2 * of_class(world.document)["ef_search"], 1000))
    # Less than twice what the replays here ask for, so that they do not contradict it.
    here.execute("UPDATE vectuned.bank SET ef_search = 500 WHERE k_class = 10")
    search_and_replay(here, 60)  # fewer than the 78 without a miss that a proof needs
    lesson = learn(here, only(here), ALWAYS)
    assert lesson.version is not None
    assert 10 not in lesson.served
    assert serving(here)[2:5] == (False, 0, 0)
    assert one(here, "SELECT import_no IS NOT NULL FROM vectuned.bank WHERE k_class = 10")
    # Replays that contradict the prior replace it.
    here.execute("UPDATE vectuned.bank SET ef_search = 10 WHERE k_class = 10")
    assert not learn(here, only(here), ALWAYS).served[10].policy.certified
    assert one(here, "SELECT import_no FROM vectuned.bank WHERE k_class = 10") is None

    search_and_replay(here, 150, seed=6)
    enable(here, sample_rate=1.0, target_recall=TARGET, min_samples=100)
    here.execute("DELETE FROM vectuned.bank")
    assert actions(imported(here, later(here, world.document)))[10] == "merged"
    lesson = learn(here, only(here), ALWAYS)
    assert lesson.served[10].policy.certified
    assert one(here, "SELECT count(*) FROM vectuned.bank WHERE import_no IS NOT NULL AND k_class <= 100") == 0
    if lesson.served[10].patterns:  # same searches, same space: patterns keep their age
        born = {round(pattern["born"]) for pattern in of_class(world.document)["patterns"]}
        ages = here.execute("SELECT extract(epoch FROM created_at) FROM vectuned.pattern WHERE k_class = 10")
        assert born & {round(row[0]) for row in ages}


def test_import_keeps_what_was_learned_here(world: World, here: Connection) -> None:
    publish(here, only(here).column.id, [5.0], fixed_ef=77)
    here.execute("UPDATE vectuned.bank SET index_no = 1")
    report = imported(here, world.document)
    assert report["as"] == "proven"
    assert actions(report)[10] == "kept"
    assert actions(report)[30] == "merged"
    assert serving(here)[1] == 77
    # A guess is replaced, and so is a prior by a later document, but never by a lower effort.
    here.execute("REINDEX INDEX items_embedding_idx")
    here.execute("DELETE FROM vectuned.bank WHERE k_class <> 10")
    here.execute("UPDATE vectuned.bank SET samples = 0, certified = false")
    assert actions(imported(here, world.document))[10] == "merged"
    first = serving(here)[1]
    for ef, expected in ((500, 500), (300, 500)):
        classes = [{**each, "ef_search": ef} for each in world.document["classes"]]
        document = later(here, world.document, classes=classes)
        if expected == ef:
            assert actions(imported(here, document))[10] == "merged"
            assert actions(imported(here, world.document))[10] == "kept"  # the earlier document
        assert serving(here)[1] == expected
    assert first < 500


def test_import_into_a_larger_table_raises_effort_and_skips_exact_search(
    world: World, here: Connection
) -> None:
    number = world.document["indexes"][0]["number"]
    path = {
        "k": 10,
        "shape": "category =",
        "bucket": 2,
        "access_path": "hnsw",
        "index": number,
        "effort": 56,
        "expected_recall": 0.95,
        "recall_bound": 0.9,
        "proven": True,
        "ms": 1.0,
        "samples": 50,
        "serves": True,
    }
    exact = {**path, "bucket": 9, "access_path": "exact", "index": None, "effort": None}
    planner = {**path, "bucket": 5, "access_path": "planner", "effort": None}
    document = signed(here, {**world.document, "paths": [path, exact, planner]})
    small = imported(here, document, dry_run=True)  # the same index: everything is merged
    assert [each["action"] for each in small["filters"]] == ["merged"]
    here.execute("REINDEX INDEX items_embedding_idx")
    report = imported(here, document, dry_run=True)
    assert {each["why"]: each["paths"] for each in report["filters"]} == {
        "nothing was known here": 1,  # exact
        "such filters are answered exactly until more is known": 1,
        "the planner may choose otherwise here": 1,
    }
    here.execute("UPDATE pg_class SET reltuples = 50 * reltuples WHERE oid = 'items'::regclass")
    report = imported(here, document)
    assert {each["why"]: each["paths"] for each in report["filters"]} == {
        "nothing was known here": 1,
        "the table is more than twice as large here": 1,
        "the planner may choose otherwise here": 1,
    }
    factor = 50**0.38
    ef = of_class(world.document)["ef_search"]
    assert serving(here)[1] == pytest.approx(min(ef * factor, 1000), abs=1.5)
    rows = here.execute("SELECT access_path, effort, proven, serves, ms, samples FROM vectuned.measured_path")
    # At least the default effort of an unknown filter: three times k / share of matching rows.
    assert rows.fetchall() == [("hnsw", int(np.ceil(56 * factor)), False, True, None, 0)]
    learn_nothing = one(here, "SELECT count(*) FROM vectuned.recommend_params('items')")
    assert learn_nothing > 0


def test_import_into_another_column_is_rejected_or_a_prior(world: World, conn: Connection) -> None:
    make(conn, clustered(300, DIMENSIONS, seed=2), metric="l2")
    enable(conn)
    with pytest.raises(
        errors.InvalidParameterValue, match=r"^\$\.provenance\.metric is cosine, public\.items"
    ):
        imported(conn, world.document)
    make(conn, clustered(300, 8, seed=2), table="small")
    enable(conn, "small")
    with pytest.raises(
        UsageError, match=r"x\.json cannot be imported: \$\.provenance\.dimensions is 32, .* has 8"
    ):
        import_document(conn, "small", "embedding", json.dumps(world.document), place="x.json")
    conn.execute("CREATE TABLE other (id int)")
    with pytest.raises(errors.UndefinedObject, match="has no column that vectuned tunes"):
        import_document(conn, "other", None, json.dumps(world.document))
    # The effort of an index of another method has another unit.
    make(conn, clustered(3000, DIMENSIONS, seed=3), table="lists", index=False)
    conn.execute("CREATE INDEX ON lists USING ivfflat (embedding vector_cosine_ops) WITH (lists = 20)")
    enable(conn, "lists")
    report = import_document(conn, "lists", None, json.dumps(world.document))
    assert report["as"] == "prior"
    assert {each["why"] for each in report["classes"]} == {"there is no such hnsw index here"}
    # Twice the lists need twice the probes, but never more than there are lists.
    conn.execute(
        "INSERT INTO vectuned.bank (column_id, k_class, version, generation, access_path, index_no, probes, "
        "recall_bound, certified, samples, target_recall, reason) "
        "SELECT id, k, 1, vectuned._generation(index_relation), 'ivfflat', 1, p, 0.95, true, 99, 0.95, '' "
        "FROM vectuned.tuned_column, (VALUES (10, 7), (100, 20)) AS v (k, p) "
        "WHERE relation = 'lists'::regclass"
    )
    probes = one(conn, "SELECT vectuned.export_patterns('lists')")
    conn.execute("DROP INDEX lists_embedding_idx")
    conn.execute("CREATE INDEX ON lists USING ivfflat (embedding vector_cosine_ops) WITH (lists = 38)")
    conn.execute("SELECT vectuned.disable('lists', 'embedding', forget => true)")
    enable(conn, "lists")
    report = import_document(conn, "lists", None, json.dumps(probes))
    assert [(each["k"], each["probes"]) for each in report["classes"]] == [(10, 14), (100, 38)]
    assert len(search(conn, drawn(1, seed=4)[0], relation="lists")) == 10
    # A table of another name and vector type is accepted.
    make(conn, clustered(300, DIMENSIONS, seed=3), table="half", kind="halfvec")
    enable(conn, "half", target_recall=TARGET)
    report = import_document(conn, "half", None, json.dumps(world.document))
    assert report["changed"]
    assert one(conn, "SELECT bool_or(certified) FROM vectuned.bank") is False


def test_export_and_import_require_the_owner_of_the_table(here: Connection, world: World) -> None:
    with plain_role(here, here.info.dsn, "SELECT ON items") as reader:
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied for function"):
            exported(reader)
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied for function"):
            imported(reader, world.document)
        role = sql.Identifier(reader.info.user)
        here.execute(
            sql.SQL(
                "GRANT EXECUTE ON FUNCTION vectuned.export_patterns, vectuned.import_patterns TO {}"
            ).format(role)
        )
        for work in (exported, lambda conn: imported(conn, world.document)):
            with pytest.raises(
                errors.InsufficientPrivilege, match=r"must be owner of public\.items to (ex|im)port"
            ):
                work(reader)
        here.execute(sql.SQL("ALTER TABLE items OWNER TO {}").format(role))
        try:
            assert imported(reader, world.document)["changed"]
            assert content_of(exported(reader)) == content_of(world.document)
            assert one(here, "SELECT imported_by FROM vectuned.imported") == reader.info.user
        finally:
            here.execute("ALTER TABLE items OWNER TO CURRENT_USER")


def test_export_contains_no_values_of_rows_or_queries(world: World) -> None:
    written = json.dumps(world.document)
    assert "category =" in written
    assert "secret" not in written
    assert "rare" not in written
    numbers = {round(float(x), 5) for each in lists(world.document) for x in each if isinstance(x, float)}
    for query in drawn(SEARCHES, seed=5)[:50]:  # the recorded ones
        assert len(numbers & {round(float(x), 5) for x in query}) < 3
    assert set(world.document["provenance"]) == {
        "system",
        "database",
        "schema",
        "relation",
        "column",
        "vector_type",
        "dimensions",
        "metric",
        "target_recall",
        "max_tail",
        "rows",
        "witnesses",
    }


def lists(value: Any) -> Iterator[list[Any]]:
    """Yield every list within a value."""
    if isinstance(value, list):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from lists(each)
