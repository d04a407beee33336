"""What was learned, exported and imported: as it was on the same index, as a prior elsewhere, never half."""

from __future__ import annotations

import copy
import itertools
import json
import logging
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pgvector.psycopg import register_vector
from psycopg import errors, sql
from psycopg.conninfo import make_conninfo

from vectuned.config.errors import UsageError, VectunedError
from vectuned.config.settings import load_settings
from vectuned.daemon.cli import main
from vectuned.daemon.embedded import EmbeddedServer
from vectuned.daemon.worker import Worker
from vectuned.learning.exchange import export_all, import_newest, take_over
from vectuned.learning.learner import Options, learn
from vectuned.learning.replay import replay
from vectuned.learning.trajectory import drain, pending

from .tables import Connection, build, clustered, enable, make, one, only, plain_role, publish, search, text
from .test_learning import DIMENSIONS, ROWS, drawn

TARGET = 0.9
_numbers = itertools.count(1)
ALWAYS = Options(step_aside=-0.99)
Document = dict[str, Any]


@dataclass(frozen=True)
class World:
    """A database with a tuned table of which nothing is known, and what was learned in a copy of it."""

    server: EmbeddedServer
    blank: str
    document: Document

    @contextmanager
    def copy(self) -> Iterator[Connection]:
        """Yield a connection to a copy of the blank database: its index is the same, file by file."""
        with copied(self.server, self.blank) as conn:
            yield conn


@contextmanager
def copied(server: EmbeddedServer, template: str) -> Iterator[Connection]:
    """Yield a connection to a copy of a database that nobody uses."""
    name = f"exchange_{next(_numbers)}"
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        try:
            with psycopg.connect(make_conninfo(server.dsn, dbname=name), autocommit=True) as conn:
                register_vector(conn)
                yield conn
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def world(server: EmbeddedServer, template: str) -> Iterator[World]:
    """The world, in which searches with and without filters were learned of."""
    blank = "exchange_blank"
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*map(sql.Identifier, (blank, template)))
        )
        with psycopg.connect(make_conninfo(server.dsn, dbname=blank), autocommit=True) as conn:
            make(conn, drawn(ROWS, seed=1), index=False)
            conn.execute("ALTER TABLE items ADD COLUMN category text")
            conn.execute("UPDATE items SET category = CASE WHEN id % 10 < 6 THEN 'secret' ELSE 'rare' END")
            conn.execute("VACUUM (ANALYZE, FULL) items")
            build(conn, options="WITH (m = 5, ef_construction = 24)")
            enable(conn, sample_rate=1.0, target_recall=TARGET, min_samples=100)
        with copied(server, blank) as conn:
            practise(conn, 500)
            practise(conn, 60, seed=7, condition={"category": "secret"})
            learn(conn, only(conn), ALWAYS)
            document = exported(conn)
        yield World(server, blank, document)
        admin.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(blank)))


@pytest.fixture
def here(world: World) -> Iterator[Connection]:
    """A copy of the database of which nothing is known yet."""
    with world.copy() as conn:
        yield conn


def practise(conn: Connection, count: int, *, seed: int = 5, condition: object = None) -> None:
    """Search, record, drain and replay."""
    for query in drawn(count, seed):
        conn.execute(
            "SELECT FROM vectuned.search('items', %s, 10, %s::jsonb)",
            (text(query), None if condition is None else json.dumps(condition)),
        )
    drain(conn)
    care = only(conn)
    assert replay(conn, care, pending(conn, care.column, count)) == count


def exported(conn: Connection) -> Document:
    """Export the only column."""
    found: Document = one(conn, "SELECT vectuned.export_patterns('items', 'embedding')")
    return found


def imported(conn: Connection, document: Any, *, dry_run: bool = False) -> dict[str, Any]:
    """Import for the only column and return the report."""
    report: dict[str, Any] = one(
        conn,
        "SELECT vectuned.import_patterns('items', 'embedding', %s::jsonb, %s)",
        json.dumps(document), dry_run,
    )  # fmt: skip
    return report


def signed(conn: Connection, document: Document) -> Document:
    """Give a document the checksum that it should have."""
    rest = {name: value for name, value in document.items() if name != "checksum"}
    return {**rest, "checksum": one(conn, "SELECT vectuned._checksum(%s::jsonb)", json.dumps(rest))}


def later(conn: Connection, document: Document, **changes: Any) -> Document:
    """Return a document as if it had been written some seconds later, and say other things."""
    at = one(conn, "SELECT to_jsonb(%s::timestamptz + interval '3 s')", document["created_at"])
    return signed(conn, {**document, "created_at": at, **changes})


def told(document: Document) -> Document:
    """Return what a document says but for when and in which database it was written."""
    rest = {name: value for name, value in document.items() if name not in ("created_at", "checksum")}
    return {**rest, "provenance": {**document["provenance"], "database": None}}


def everything(conn: Connection) -> list[list[tuple[Any, ...]]]:
    """Read all that an import may change."""
    tables = ("bank", "pattern", "measured_path", "imported", "event")
    return [
        conn.execute(f"SELECT t::text FROM vectuned.{name} t ORDER BY 1".encode()).fetchall()
        for name in tables
    ]


def actions(report: dict[str, Any]) -> dict[int, str]:
    """Return what became of every class of k."""
    return {each["k"]: each["action"] for each in report["classes"]}


def serving(conn: Connection, k: int = 10) -> Any:
    """Read what serves a class of k."""
    return conn.execute(
        "SELECT access_path, ef_search, certified, recall_bound, samples, patterns, state "
        "FROM vectuned.status WHERE k_class = %s",
        (k,),
    ).fetchone()


def of_class(document: Document, k: int = 10) -> Document:
    """Return what a document says of a class of k."""
    (found,) = [each for each in document["classes"] if each["k"] == k]
    return dict(found)


def test_on_the_same_index_it_serves_as_it_did(world: World, here: Connection) -> None:
    source = of_class(world.document)
    assert source["certified"]
    assert source["access_path"] == "hnsw_adaptive"
    assert len(source["patterns"]) > 3
    assert any(path["shape"] == "category =" and path["serves"] for path in world.document["paths"])
    before = everything(here)
    dry = imported(here, world.document, dry_run=True)
    assert everything(here) == before
    report = imported(here, world.document)
    assert {**dry, "dry_run": False} == report
    assert (report["as"], report["why"], report["changed"]) == ("proven", None, True)
    assert set(actions(report).values()) == {"merged"}
    again = exported(here)
    assert told(again) == told(world.document)
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
    said = one(here, "SELECT reason FROM vectuned.recommend_params('items') WHERE subject = 'k up to 10'")
    assert "; imported from public.items.embedding of database exchange_" in said

    # Once more, and what it says of itself: nothing changes.
    before = everything(here)
    report = imported(here, world.document)
    assert not report["changed"]
    assert set(actions(report).values()) == {"unchanged"}
    assert not imported(here, again)["changed"]  # what it exported itself
    assert everything(here) == before


def test_elsewhere_it_is_a_prior_and_proves_nothing(world: World, here: Connection) -> None:
    source = of_class(world.document)
    here.execute("LISTEN vectuned")
    here.execute("REINDEX INDEX items_embedding_idx")
    report = imported(here, world.document)
    assert (report["as"], report["why"]) == ("prior", "it was learned on another index")
    proven = {each["k"]: each["certified"] for each in world.document["classes"]}
    assert actions(report) == {k: "merged" if certified else "skipped" for k, certified in proven.items()}
    path, ef, certified, bound, samples, patterns, state = serving(here)
    # Effort by query was not measured to save anything here: the patterns wait.
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
        "SELECT reason FROM vectuned.params('items', %s, 10, '{\"category\": \"rare\"}')", text(query),
    )  # fmt: skip
    kinds = {each["shape"] for each in report["filters"] if each["action"] == "merged"}
    assert ("imported from" in filtered) == bool(kinds) or "nothing was learned" in filtered
    # What others proved is not passed on.
    assert exported(here)["classes"] == []
    assert not [path for path in exported(here)["paths"] if path["shape"]]

    before = everything(here)
    assert set(actions(imported(here, world.document)).values()) <= {"unchanged", "skipped"}
    assert everything(here) == before
    event = one(here, "SELECT details FROM vectuned.event WHERE action = 'import'")
    assert event["as"] == "prior"
    assert event["why"].endswith(", not proven here")
    (note,) = list(here.notifies(timeout=5, stop_after=1))
    assert json.loads(note.payload)["action"] == "import"
    here.execute("SELECT vectuned.disable('items', 'embedding')")
    assert one(here, "SELECT count(*) FROM vectuned.imported") == 0
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="was disabled"):
        imported(here, world.document)


def test_a_prior_serves_until_replays_here_prove_something(world: World, here: Connection) -> None:
    here.execute("REINDEX INDEX items_embedding_idx")
    enable(here, sample_rate=1.0, target_recall=0.95, min_samples=50)
    imported(here, world.document)
    # Half as much may be missed here as there: twice the effort, as far as that goes.
    assert serving(here)[:2] == ("hnsw", min(2 * of_class(world.document)["ef_search"], 1000))
    here.execute("UPDATE vectuned.bank SET ef_search = 1000 WHERE k_class = 10")
    practise(here, 60)  # of the 78 without a miss that a proof takes
    lesson = learn(here, only(here), ALWAYS)
    assert lesson.version is not None
    assert 10 not in lesson.served
    assert serving(here)[2:5] == (False, 0, 0)
    assert one(here, "SELECT import_no IS NOT NULL FROM vectuned.bank WHERE k_class = 10")
    # Replays that speak against it end it.
    here.execute("UPDATE vectuned.bank SET ef_search = 10 WHERE k_class = 10")
    assert not learn(here, only(here), ALWAYS).served[10].policy.certified
    assert one(here, "SELECT import_no FROM vectuned.bank WHERE k_class = 10") is None

    practise(here, 150, seed=6)
    enable(here, sample_rate=1.0, target_recall=TARGET, min_samples=100)
    here.execute("DELETE FROM vectuned.bank")
    assert actions(imported(here, later(here, world.document)))[10] == "merged"
    lesson = learn(here, only(here), ALWAYS)
    assert lesson.served[10].policy.certified
    assert one(here, "SELECT count(*) FROM vectuned.bank WHERE import_no IS NOT NULL AND k_class <= 100") == 0
    if lesson.served[10].patterns:  # the same searches in the same space: patterns are as old as those there
        born = {round(pattern["born"]) for pattern in of_class(world.document)["patterns"]}
        ages = here.execute("SELECT extract(epoch FROM created_at) FROM vectuned.pattern WHERE k_class = 10")
        assert born & {round(row[0]) for row in ages}


def test_what_was_learned_here_stays(world: World, here: Connection) -> None:
    publish(here, only(here).column.id, [5.0], fixed_ef=77)
    here.execute("UPDATE vectuned.bank SET index_no = 1")
    report = imported(here, world.document)
    assert report["as"] == "proven"
    assert actions(report)[10] == "kept"
    assert actions(report)[30] == "merged"
    assert serving(here)[1] == 77
    # A guess gives way, and so does a prior to a later document, but never to less effort.
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
            assert actions(imported(here, world.document))[10] == "kept"  # the one before
        assert serving(here)[1] == expected
    assert first < 500


def test_a_larger_table_takes_more_effort_and_no_exact_search(world: World, here: Connection) -> None:
    number = world.document["indexes"][0]["number"]
    way = {
        "k": 10, "shape": "category =", "bucket": 2, "access_path": "hnsw", "index": number, "effort": 56,
        "expected_recall": 0.95, "recall_bound": 0.9, "proven": True, "ms": 1.0, "samples": 50,
        "serves": True,
    }  # fmt: skip
    exact = {**way, "bucket": 9, "access_path": "exact", "index": None, "effort": None}
    planner = {**way, "bucket": 5, "access_path": "planner", "effort": None}
    document = signed(here, {**world.document, "paths": [way, exact, planner]})
    small = imported(here, document, dry_run=True)  # the same index: all of it
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
    # At least what a filter is given of which nothing is known: three times k over the share that matches.
    assert rows.fetchall() == [("hnsw", int(np.ceil(56 * factor)), False, True, None, 0)]
    learn_nothing = one(here, "SELECT count(*) FROM vectuned.recommend_params('items')")
    assert learn_nothing > 0


def test_other_columns_are_refused_or_served_as_they_can_be(world: World, conn: Connection) -> None:
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
        take_over(conn, "small", "embedding", json.dumps(world.document), place="x.json")
    conn.execute("CREATE TABLE other (id int)")
    with pytest.raises(errors.UndefinedObject, match="has no column that vectuned tunes"):
        take_over(conn, "other", None, json.dumps(world.document))
    # An index of another method has efforts of another kind.
    make(conn, clustered(3000, DIMENSIONS, seed=3), table="lists", index=False)
    conn.execute("CREATE INDEX ON lists USING ivfflat (embedding vector_cosine_ops) WITH (lists = 20)")
    enable(conn, "lists")
    report = take_over(conn, "lists", None, json.dumps(world.document))
    assert report["as"] == "prior"
    assert {each["why"] for each in report["classes"]} == {"there is no such hnsw index here"}
    # Where there are twice the lists it takes twice the probes, and never more than there are.
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
    report = take_over(conn, "lists", None, json.dumps(probes))
    assert [(each["k"], each["probes"]) for each in report["classes"]] == [(10, 14), (100, 38)]
    assert len(search(conn, drawn(1, seed=4)[0], relation="lists")) == 10
    # A table of another name and type is fine.
    make(conn, clustered(300, DIMENSIONS, seed=3), table="half", kind="halfvec")
    enable(conn, "half", target_recall=TARGET)
    report = take_over(conn, "half", None, json.dumps(world.document))
    assert report["changed"]
    assert one(conn, "SELECT bool_or(certified) FROM vectuned.bank") is False


def test_only_who_may_change_the_table_may_exchange(here: Connection, world: World) -> None:
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
            assert told(exported(reader)) == told(world.document)
            assert one(here, "SELECT imported_by FROM vectuned.imported") == reader.info.user
        finally:
            here.execute("ALTER TABLE items OWNER TO CURRENT_USER")


def test_a_document_holds_nothing_of_rows_or_queries(world: World) -> None:
    written = json.dumps(world.document)
    assert "category =" in written
    assert "secret" not in written
    assert "rare" not in written
    numbers = {round(float(x), 5) for each in lists(world.document) for x in each if isinstance(x, float)}
    for query in drawn(600, seed=5)[:50]:
        assert len(numbers & {round(float(x), 5) for x in query}) < 3
    assert set(world.document["provenance"]) == {
        "system", "database", "schema", "relation", "column", "vector_type", "dimensions", "metric",
        "target_recall", "max_tail", "rows", "witnesses",
    }  # fmt: skip


def lists(value: Any) -> Iterator[list[Any]]:
    """Yield every list within a value."""
    if isinstance(value, list):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from lists(each)


BREAKAGES: dict[str, tuple[tuple[Any, ...], Any, str]] = {
    "format": (("format",), "other", r"$.format must be"),
    "version": (("version",), 2, "$.version is 2: this vectuned reads version 1"),
    "unknown": (("extra",), 1, "$.extra is unknown to this version"),
    "time": (("created_at",), "yesterday", "$.created_at must be a time"),
    "month": (("created_at",), "2026-13-01T00:00:00Z", "$.created_at must be a time"),
    "future": (("created_at",), "2999-01-01T00:00:00Z", "$.created_at lies in the future"),
    "ladder": (("ladder", 0), 11, "$.ladder has other rungs"),
    "class": (("classes", 0), 5, "$.classes[0] must be an object, got 5"),
    "k": (("classes", 1, "k"), 4, "$.classes[1].k must be one of 1, 3"),
    "twice": (("classes", 1, "k"), 1, "$.classes[1].k is that of another class"),
    "effort": (("classes", 2, "patterns", 0, "effort"), 13.5, "$.classes[2].patterns[0].effort must be a"),
    "huge": (("classes", 2, "patterns", 1, "usage"), 10**400, "$.classes[2].patterns[1].usage must be"),
    "tiny": (("classes", 2, "patterns", 1, "recall", 3), 1e-60, "$.classes[2].patterns[1].recall must be"),
    "curve": (("classes", 2, "patterns", 0, "cost"), [1], "cost must be a list of 14 numbers"),
    "centroid": (("classes", 2, "patterns", 0, "centroid", 0), 0.5, "must be a list of 4 whole numbers"),
    "signature": (("classes", 2, "center"), None, "$.classes[2].patterns need a probe_ef"),
    "ef": (("classes", 0, "ef_search"), 1001, "$.classes[0].ef_search must be a whole number from 1 to 1000"),
    "both": (("classes", 0, "probes"), 5, "$.classes[0].probes must be known of IVFFlat"),
    "index": (("classes", 0, "index"), 99, "$.classes[0].index is the number of no index"),
    "path": (("paths", 0, "access_path"), "magic", "$.paths[0].access_path must be one of hnsw, "),
    "witness": (("provenance", "witnesses", 1), "x", "$.provenance.witnesses[1] must be 16"),
    "null": (("provenance",), None, "$.provenance must be an object, got null"),
}  # fmt: skip


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_an_error_names_the_place(shared: Connection, world: World, breakage: str) -> None:
    place, value, said = BREAKAGES[breakage]
    document = signed(shared, changed(world.document, place, value))
    with pytest.raises(errors.InvalidParameterValue) as caught:
        imported(shared, document)
    assert said in str(caught.value)
    assert (caught.value.diag.message_hint or "").startswith("Nothing was imported.")


def test_a_document_that_was_changed_is_refused(shared: Connection, world: World) -> None:
    document = changed(world.document, ("classes", 0, "samples"), 10**6)
    with pytest.raises(errors.InvalidParameterValue, match=r"^\$\.checksum does not fit the document"):
        imported(shared, document)
    missing = {name: value for name, value in world.document.items() if name != "checksum"}
    with pytest.raises(errors.InvalidParameterValue, match=r"^\$\.checksum is missing, it must be a text"):
        imported(shared, missing)
    with pytest.raises(errors.NullValueNotAllowed):
        shared.execute("SELECT vectuned.import_patterns('items', 'embedding', NULL)")
    with pytest.raises(errors.ProgramLimitExceeded, match="takes more than 64 MB"):
        shared.execute(
            "SELECT vectuned.import_patterns('items', 'embedding', to_jsonb(repeat('x', 65 * 1024 * 1024)))"
        )


@pytest.fixture(scope="module")
def shared(world: World) -> Iterator[Connection]:
    """A copy of the database for tests that leave it as it is."""
    with world.copy() as conn:
        yield conn


def changed(document: Document, place: tuple[Any, ...], value: Any) -> Document:
    """Return a copy of a document with another value at a place."""
    copied_document = copy.deepcopy(document)
    at: Any = copied_document
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    return copied_document


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["k", "format", "x"]), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def attempt(conn: Connection, document: Any, before: list[list[tuple[Any, ...]]]) -> bool:
    """Import and undo it; whatever comes must be a report or one clear error, and no half import."""
    outcomes = []
    for dry_run in (True, False):
        said: str | None = None
        with conn.transaction(force_rollback=True):
            try:
                with conn.transaction():
                    report = imported(conn, document, dry_run=dry_run)
            except errors.InvalidParameterValue as error:
                said = error.diag.message_primary or ""
            if dry_run or said is not None or not report["changed"]:
                assert everything(conn) == before
        assert said is None or said.startswith("$")
        outcomes.append(said is None)
    assert outcomes[0] == outcomes[1]
    return outcomes[0]


def test_mutated_documents_are_imported_or_refused_clearly(shared: Connection, world: World) -> None:
    small = {
        **world.document,
        "classes": [each for each in world.document["classes"] if each["k"] in (3, 10)],
    }
    small["classes"][1] = {**small["classes"][1], "patterns": small["classes"][1]["patterns"][:2]}
    small["paths"] = small["paths"][:1] + [p for p in small["paths"] if p["shape"]][:3]
    small["provenance"] = {**small["provenance"], "witnesses": small["provenance"]["witnesses"][:3]}
    before, taken = everything(shared), []

    @settings(derandomize=True, max_examples=120, deadline=None, database=None)
    @given(st.data())
    def mutate(data: st.DataObject) -> None:
        document = copy.deepcopy(small)
        for _ in range(data.draw(st.integers(1, 2))):
            at: Any = document
            while True:
                steps = sorted(at) if isinstance(at, dict) else list(range(len(at)))
                step = data.draw(st.sampled_from(steps))
                if not (isinstance(at[step], dict | list) and at[step]) or data.draw(st.integers(0, 5)) == 0:
                    break
                at = at[step]
            how = data.draw(st.sampled_from(["replace", "replace", "nudge", "remove", "repeat"]))
            if how == "remove":
                del at[step]
            elif how == "repeat" and isinstance(at, list):
                at.append(copy.deepcopy(at[step]))
            elif how == "nudge" and isinstance(at[step], int | float):
                at[step] = data.draw(
                    st.sampled_from([-1, 0, 1, 0.5, 2, 1000, 10**9, -at[step], at[step] + 1])
                )
            else:
                at[step] = data.draw(VALUES)
            if not isinstance(document, dict) or not document:
                break
        taken.append(attempt(shared, signed(shared, document), before))

    mutate()
    assert everything(shared) == before
    assert 5 < sum(taken) < len(taken) - 40  # both happen: the check is neither blind nor deaf


def test_arbitrary_json_is_refused_clearly(shared: Connection) -> None:
    before = everything(shared)

    @settings(derandomize=True, max_examples=40, deadline=None, database=None)
    @given(VALUES)
    def arbitrary(value: Any) -> None:
        assert not attempt(shared, value, before)

    arbitrary()
    for broken in ('{"a": "\\u0000"}', '{"a": "\\ud800"}', '{"a": 1e999999}', "{", '{"a": NaN}'):
        with pytest.raises(UsageError, match=r"^b\.json cannot be imported: "):
            take_over(shared, "items", None, broken, place="b.json")
    assert everything(shared) == before


def test_the_command_line(
    world: World, here: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn = ["--dsn", here.info.dsn]
    path = tmp_path / "learned.json"
    path.write_text(json.dumps(world.document))

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, *dsn])
        out, err = capsys.readouterr()
        return code, out, err

    code, out, _ = run("import", str(path), "--dry-run")
    assert code == 0
    assert "as it was proven" in out
    assert "k up to 10 " in out
    assert out.endswith("nothing was imported: this was a dry run\n")
    assert one(here, "SELECT count(*) FROM vectuned.bank") == 0
    code, out, _ = run("import", str(path), "items", "embedding", "--json")
    assert (code, json.loads(out)["changed"]) == (0, True)
    assert run("import", str(path))[1].endswith("nothing changed\n")

    code, out, _ = run("export", "items", "-o", "-")
    assert code == 0
    assert told(json.loads(out)) == told(world.document)
    code, out, _ = run("export", "-o", str(tmp_path), "--json")
    (file,) = [each["file"] for each in json.loads(out)["files"]]
    assert Path(file).name.startswith(f"public.items.embedding@{here.info.dbname}.20")
    # Through Python's numbers and back it is the same document still.
    path.write_text(json.dumps(json.loads(Path(file).read_text()), indent=2))
    assert run("import", str(path))[0] == 0

    path.write_text(json.dumps(changed(world.document, ("classes", 0, "k"), "ten")))
    code, out, err = run("import", str(path))
    assert (code, out) == (2, "")
    assert err.startswith(f"vectuned: {path} cannot be imported: $.classes[0].k must be a whole number")
    path.write_text('{"provenance": {"schema": 5}}')
    assert run("import", str(path))[2].endswith(
        "does not say of which column it is: name one to import it for.\n"
    )
    assert run("import", str(tmp_path / "none"))[0] == 2
    assert run("export", "nothing")[0] == 2
    code, _, err = run("export", "-o", str(tmp_path / "none" / "x"))
    assert (code, err.count("\n")) == (1, 1)
    assert "cannot be written: No such file or directory" in err


def test_exports_are_rotated_and_imported_elsewhere(
    world: World, here: Connection, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    assert export_all(here, out, 2) == []  # nothing was learned yet
    imported(here, world.document)
    (first,) = export_all(here, out, 2)
    assert stat.S_IMODE(first.stat().st_mode) == 0o600
    assert told(json.loads(first.read_text())) == told(world.document)
    assert export_all(here, out, 2) == []  # no news
    ours = f"public.items.embedding@{here.info.dbname}.{{}}.vectuned.json".format
    other = "public.items.embedding@other.20200101T000000Z.vectuned.json"
    aged = first.rename(out / ours("20260103T000000Z"))
    for name in (ours("20260101T000000Z"), ours("20260102T000000Z"), other, "notes.txt"):
        (out / name).touch()
    here.execute("UPDATE vectuned.bank SET reason = 'news'")
    (second,) = export_all(here, out, 2)
    assert {p.name for p in out.iterdir()} == {"notes.txt", other, aged.name, second.name}

    settings_ = load_settings(
        overrides={"export.import_folder": str(out), "export.folder": str(tmp_path / "gone")}, environ={}
    )
    worker = Worker(here, settings_)
    assert worker.import_new() == 0  # its own, which it knows
    here.execute("SELECT vectuned.disable('items', 'embedding')")
    enable(here, target_recall=TARGET, sample_rate=1.0, min_samples=100)
    (out / "public.items.embedding@x.20990101T000000Z.vectuned.json").write_text("{")  # damaged, and newer
    caplog.set_level(logging.WARNING, logger="vectuned")
    with pytest.raises(VectunedError, match=r"The folder .*gone cannot be used: No such file or directory"):
        worker.exchange()
    assert "is not JSON" in caplog.text
    assert serving(here)[2]
    assert one(here, "SELECT count(*) FROM vectuned.imported") == 1
    assert worker.import_new() == 0
    out.chmod(0o777)
    with pytest.raises(VectunedError, match="Anyone may write to"):
        import_newest(here, only(here), out)
    assert worker.import_new() == 0
    assert "Anyone may write to" in caplog.text
    assert Worker(here, load_settings(environ={})).export() == 0
