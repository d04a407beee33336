"""Applications that search by their framework's own SQL: what they send, and what vectuned does with it.

Every application searches documents of a category. A category holds one document in twenty, whatever their
vectors, so that a search by the index alone, with pgvector's default settings, comes out short of rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psycopg
import pytest
from tests.integration.client_helpers import publish
from tests.integration.embedded_helpers import eventually
from tests.integration.table_helpers import Connection, clustered, raw, text

from vectuned.daemon.cli.main import main
from vectuned.sql.client.fingerprint import fingerprint
from vectuned.sql.client.snapshot import Snapshot

ROLE = "shop_app"
DIMENSIONS, DOCUMENTS, CATEGORIES = 16, 1_000, 20
K = 10
CALLS = 220  # more than the 200 replays that a first publish needs
HELD_OUT = 40
TARGET = 0.95
VECTORS = clustered(DOCUMENTS, DIMENSIONS, seed=1)
QUERIES = clustered(CALLS + HELD_OUT, DIMENSIONS, seed=2)
IN_FORCE = (
    "SELECT current_setting('hnsw.ef_search', true), current_setting('hnsw.iterative_scan', true), "
    "current_setting('enable_indexscan'), current_setting('plan_cache_mode')"
)
EXACT = {
    "enable_bitmapscan": "on",
    "enable_indexscan": "off",
    "enable_seqscan": "on",
    "enable_sort": "on",
    "plan_cache_mode": "force_custom_plan",
}
DEFAULTS = ("40", "off", "on", "auto")  # of IN_FORCE


class Logs(NamedTuple):
    """A server that writes a log of the application's statements into a folder."""

    dsn: str
    folder: Path


class Query(NamedTuple):
    """What an application searches for."""

    vector: list[float]
    category: str


class Document(NamedTuple):
    """What an application stores."""

    name: str
    vector: list[float]
    category: str


Search = Callable[[Query], Sequence[str]]
"""Returns the names of the documents found."""


def documents() -> list[Document]:
    """Return the documents, named 0, 1, 2 ..."""
    return [Document(str(at), vector.tolist(), category(at)) for at, vector in enumerate(VECTORS)]


def category(number: int) -> str:
    """Return the category of the document or query of a number."""
    return f"c{number % CATEGORIES}"


def queries() -> list[Query]:
    """Return the queries that are learned from."""
    return [Query(vector.tolist(), category(at)) for at, vector in enumerate(QUERIES[:CALLS])]


def held_out() -> list[Query]:
    """Return the queries that judge."""
    return [Query(vector.tolist(), category(at)) for at, vector in enumerate(QUERIES[CALLS:])]


@dataclass(frozen=True)
class Answers:
    """The documents that an application found, judged by the exact answers within the category."""

    recall: float
    short: int
    foreign: int


def judge(search: Search, asked: Iterable[Query]) -> Answers:
    """Search, and judge the answers by comparing with all documents of the category."""
    units = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    recalls, short, foreign = [], 0, 0
    for query in asked:
        found = [int(name) for name in search(query)]
        members = np.flatnonzero([category(at) == query.category for at in range(DOCUMENTS)])
        distances = 1 - units[members] @ (np.array(query.vector) / np.linalg.norm(query.vector))
        nearest = set(members[np.argsort(distances)[:K]].tolist())
        recalls.append(len(nearest & set(found)) / K)
        short += len(found) < K
        foreign += len(set(found) - set(members.tolist()))
    return Answers(float(np.mean(recalls)), short, foreign)


@dataclass
class Application:
    """A database of an application, the connection of the server's owner to it, and the log of the server."""

    conn: Connection
    logs: Path
    capsys: pytest.CaptureFixture[str]
    _marks: int = field(default=0)

    @property
    def dsn(self) -> str:
        """Return how the application's role connects."""
        info = self.conn.info
        return f"host={info.host} port={info.port} user={ROLE} dbname={info.dbname}"

    def url(self, driver: str) -> str:
        """Return the same for SQLAlchemy."""
        info = self.conn.info
        return f"postgresql+{driver}://{ROLE}@/{info.dbname}?host={info.host}&port={info.port}"

    def vectuned(self, *arguments: object) -> str:
        """Run a command of vectuned as the server's owner, and return what it prints."""
        info = self.conn.info
        dsn = f"host={info.host} port={info.port} user={info.user} dbname={info.dbname}"
        self.capsys.readouterr()
        code = main([*map(str, arguments), "--dsn", dsn])
        printed = self.capsys.readouterr()
        assert code == 0, printed.err
        return printed.out

    def create_documents(self) -> None:
        """Create the table of an application that is no framework's, and fill it."""
        columns = f"id int PRIMARY KEY, category text, content text, embedding vector({DIMENSIONS})"
        with psycopg.connect(self.dsn, autocommit=True) as conn:
            conn.execute(raw(f"CREATE TABLE documents ({columns})"))
            with conn.cursor() as cursor, cursor.copy("COPY documents FROM STDIN") as copy:
                for each in documents():
                    copy.write_row((int(each.name), each.category, each.name, text(each.vector)))
            conn.execute("CREATE INDEX ON documents USING hnsw (embedding vector_cosine_ops)")
        self.conn.execute("VACUUM ANALYZE documents")

    def enable(self, table: str) -> int:
        """Tune the table's column, and return the column's id."""
        self.conn.execute("SELECT vectuned.enable(%s, 'embedding')", (table,))
        row = self.conn.execute("SELECT max(id) FROM vectuned.tuned_column").fetchone()
        assert row is not None
        return int(row[0])

    def observe(self) -> dict[str, Any]:
        """Read the log, tune what was searched, and return what is said."""
        document: dict[str, Any] = json.loads(self.vectuned("observe", self.logs, "--enable", "--json"))
        return document

    def learn_from(self, search: Search) -> dict[str, Any]:
        """Let the application search one by one as it comes, and learn from the log of that."""

        def search_all(asked: list[Query]) -> None:
            for query in asked:
                search(query)

        return self.learn_from_all(search_all)

    def learn_from_all(self, search_all: Callable[[list[Query]], object]) -> dict[str, Any]:
        """Let the application search as it comes, and learn from the log of that."""
        self.flush_log()
        self.vectuned("observe", self.logs, "--json")  # what was searched before is read, and not stored
        search_all(queries())
        self.flush_log()
        seen = self.observe()
        self.vectuned("learn", "--once")
        return seen

    def flush_log(self) -> None:
        """Wait until the log holds all that was sent."""
        self._marks += 1
        mark = f"mark {self.conn.info.dbname} {self._marks}"
        self.conn.execute("SET log_min_duration_statement = 0")
        self.conn.execute(raw(f"SELECT '{mark}'"))
        self.conn.execute("RESET log_min_duration_statement")
        assert eventually(lambda: mark in self.read_log())

    def read_log(self) -> str:
        """Return all of the log."""
        return "".join(path.read_text() for path in sorted(self.logs.glob("*.json")))

    def publish_for_sent(self, part: str) -> int:
        """Publish exact search for the texts in the log that hold a part; return how many these are."""
        self.flush_log()
        (column,) = (row[0] for row in self.conn.execute("SELECT id FROM vectuned.tuned_column").fetchall())
        texts = set()
        for line in self.read_log().splitlines():
            record = json.loads(line)
            if record.get("user") == ROLE and record.get("dbname") == self.conn.info.dbname:
                sent = re.sub(r"^duration: [\d.]+ ms  (statement|execute [^:]*): ", "", record["message"])
                if part in sent and sent != record["message"]:
                    texts.add(fingerprint(sent))
                    publish(self.conn, column, sent, EXACT)
        return len(texts)


def check_learned(application: Application, seen: dict[str, Any], table: str, calls: int = CALLS) -> None:
    """Check that every search in the log was recognised and stored, and that settings were learned."""
    assert seen["left_out"] == {}
    assert seen["not_planned"] == {}
    assert {kind["table"]: kind["calls"] for kind in seen["searches"]} == {table: calls}
    assert seen["stored"] == calls
    served = application.conn.execute("SELECT count(settings), count(*) FROM vectuned.statement").fetchone()
    assert served is not None
    assert served[0] == served[1] >= 1


def check_served(came: Answers, got: Answers, snapshot: Snapshot | None) -> None:
    """Check that all searches came out short before, and none with settings, which reach the target."""
    assert (came.short, came.foreign) == (HELD_OUT, 0)
    assert (got.short, got.foreign) == (0, 0)
    assert got.recall >= TARGET
    if snapshot is not None:
        assert (snapshot.counters.tuned, snapshot.counters.untouched) == (HELD_OUT, {})
        assert snapshot.counters.failures == {}


def vector_text(query: Query) -> str:
    """Write the vector of a query as pgvector does."""
    return text(query.vector)
