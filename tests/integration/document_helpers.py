"""An exported document of a tuned table, and copies of its database to import it into."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.integration.table_helpers import (
    Connection,
    build,
    copied,
    drawn,
    enable,
    make,
    one,
    only,
    prepared,
    text,
)

from vectuned.learning.model.trajectory import claim_pending, drain
from vectuned.learning.policy.learner import LearningOptions, learn
from vectuned.learning.replay.replay import replay

ROWS = 4000
SEARCHES = 400  # enough for patterns to be proven on the searches that they are not learned from
TARGET = 0.9
ALWAYS = LearningOptions(step_aside=-0.99)
Document = dict[str, Any]
_numbers = itertools.count(1)


@dataclass(frozen=True)
class World:
    """A database with a tuned table without any learning, and the document learned in a copy of it."""

    dsn: str
    blank: str
    document: Document

    @contextmanager
    def copy(self) -> Iterator[Connection]:
        """Yield a connection to a copy of the database, whose index has the same file."""
        with copied(self.dsn, self.blank, f"exchange_{next(_numbers)}") as conn:
            yield conn


def learned(dsn: str, template: str) -> World:
    """Create the world, with learning from searches with and without filters."""
    blank = "exchange_blank"
    with prepared(dsn, template, blank) as conn:
        make(conn, drawn(ROWS, seed=1), index=False)
        conn.execute("ALTER TABLE items ADD COLUMN category text")
        conn.execute("UPDATE items SET category = CASE WHEN id % 10 < 6 THEN 'secret' ELSE 'rare' END")
        conn.execute("VACUUM (ANALYZE, FULL) items")
        build(conn, options="WITH (m = 5, ef_construction = 24)")
        enable(conn, sample_rate=1.0, target_recall=TARGET, min_samples=100)
    with copied(dsn, blank, "exchange_learned") as conn:
        search_and_replay(conn, SEARCHES)
        search_and_replay(conn, 60, seed=7, condition={"category": "secret"})
        learn(conn, only(conn), ALWAYS)
        return World(dsn, blank, exported(conn))


def search_and_replay(conn: Connection, count: int, *, seed: int = 5, condition: object = None) -> None:
    """Search, record, drain and replay."""
    for query in drawn(count, seed):
        conn.execute(
            "SELECT FROM vectuned.search('items', %s, 10, %s::jsonb)",
            (text(query), None if condition is None else json.dumps(condition)),
        )
    drain(conn)
    tuned = only(conn)
    assert replay(conn, tuned, claim_pending(conn, tuned.column, count)) == count


def exported(conn: Connection) -> Document:
    """Export the only tuned column."""
    found: Document = one(conn, "SELECT vectuned.export_patterns('items', 'embedding')")
    return found


def imported(conn: Connection, document: Any, *, dry_run: bool = False) -> dict[str, Any]:
    """Import into the only tuned column and return the report."""
    report: dict[str, Any] = one(
        conn,
        "SELECT vectuned.import_patterns('items', 'embedding', %s::jsonb, %s)",
        json.dumps(document),
        dry_run,
    )
    return report


def signed(conn: Connection, document: Document) -> Document:
    """Return a document with the correct checksum."""
    rest = {name: value for name, value in document.items() if name != "checksum"}
    return {**rest, "checksum": one(conn, "SELECT vectuned._checksum(%s::jsonb)", json.dumps(rest))}


def later(conn: Connection, document: Document, **changes: Any) -> Document:
    """Return a changed document, written some seconds later."""
    at = one(conn, "SELECT to_jsonb(%s::timestamptz + interval '3 s')", document["created_at"])
    return signed(conn, {**document, "created_at": at, **changes})


def changed(document: Document, place: tuple[Any, ...], value: Any) -> Document:
    """Return a copy of a document with another value at one place."""
    copied_document = copy.deepcopy(document)
    at: Any = copied_document
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    return copied_document


def content_of(document: Document) -> Document:
    """Return the content of a document without the time and database of its export."""
    rest = {name: value for name, value in document.items() if name not in ("created_at", "checksum")}
    return {**rest, "provenance": {**document["provenance"], "database": None}}


def read_import_state(conn: Connection) -> list[list[tuple[Any, ...]]]:
    """Read everything that an import may change."""
    tables = ("bank", "pattern", "measured_path", "statement", "imported", "event")
    return [
        conn.execute(f"SELECT t::text FROM vectuned.{name} t ORDER BY 1".encode()).fetchall()
        for name in tables
    ]


def actions(report: dict[str, Any]) -> dict[int, str]:
    """Return the action of the report for every class of k."""
    return {each["k"]: each["action"] for each in report["classes"]}


def serving(conn: Connection, k: int = 10) -> Any:
    """Read what is served for a class of k."""
    return conn.execute(
        "SELECT access_path, ef_search, certified, recall_bound, samples, patterns, state "
        "FROM vectuned.status WHERE k_class = %s",
        (k,),
    ).fetchone()


def of_class(document: Document, k: int = 10) -> Document:
    """Return the entry of a document for a class of k."""
    (found,) = [each for each in document["classes"] if each["k"] == k]
    return dict(found)
