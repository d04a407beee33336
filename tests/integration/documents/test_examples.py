"""The examples of the documentation, run in order: SQL, Python, and shell commands that are marked to run."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import BigInteger, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool
from tests.integration.role_helpers import GROUPS
from tests.integration.table_helpers import Connection, clustered, copied, make, prepared, raw, text
from tests.pages_helpers import PAGES, Example, examples, read

from vectuned.daemon.cli.main import main
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.reasoning.embedding.embedder import StaticEmbedder

DIMENSIONS = 32
SEARCHES = 240  # more than the 200 replays that a first publish needs
QUERIES = clustered(SEARCHES, DIMENSIONS, seed=2)
REASONING = Path("reasoning/README.md")
FRAMEWORKS = Path("sql/docs/frameworks")  # tests/integration/frameworks runs these, on tables of their own
RUN = {"sql": True, "python": True, "sh": False}  # languages, and whether they run without being marked
TEMPLATES = {
    Path("README.md"): "documents_plain",
    Path("daemon/README.md"): "documents_plain",
}
WITH_EXAMPLES = [
    page
    for page in PAGES
    if page != REASONING
    and page.parent != FRAMEWORKS
    and any(RUN.get(each.language) or each.directive == "run" for each in examples(page))
]


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "items"
    __table_args__ = {"schema": "public"}  # noqa: RUF012 - as SQLAlchemy has it
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    kind: Mapped[str]


def fill(conn: Connection) -> None:
    """Create the table of the examples."""
    make(conn, clustered(3000, DIMENSIONS, seed=1), index=False)
    conn.execute(
        "ALTER TABLE items ADD COLUMN tenant int, ADD COLUMN kind text, ADD COLUMN price numeric, "
        "ADD COLUMN deleted timestamptz, ADD COLUMN attributes jsonb"
    )
    conn.execute(
        "UPDATE items SET tenant = id % 6, kind = (ARRAY['a', 'b', 'c'])[1 + id % 3], price = id % 100, "
        """attributes = CASE WHEN id % 10 = 0 THEN '{"color": "red"}'::jsonb END"""
    )
    conn.execute("VACUUM (FULL, ANALYZE) items")
    conn.execute("CREATE INDEX items_embedding_idx ON items USING hnsw (embedding vector_cosine_ops)")
    conn.execute("CREATE INDEX items_tenant_idx ON items (tenant)")
    conn.execute("VACUUM ANALYZE items")


def search_all(conn: Connection) -> None:
    """Search with every query, every sixth time with a filter."""
    for number, query in enumerate(QUERIES):
        given = '{"tenant": 5}' if number % 6 == 0 else None
        conn.execute("SELECT id FROM vectuned.search('items', %s, 10, %s)", (text(query), given)).fetchall()


@pytest.fixture(scope="module")
def templates(server: EmbeddedServer, template_plain: str, template: str) -> None:
    """Templates with the table of the examples: not tuned, and tuned and learned about."""
    with prepared(server.dsn, template_plain, "documents_plain") as conn:
        fill(conn)
    with prepared(server.dsn, template, "documents_learned") as conn:
        fill(conn)
        conn.execute("SELECT vectuned.enable('items', 'embedding', sample_rate => 1)")
        search_all(conn)
        assert main(["learn", "--once", "--quiet", "--dsn", conn.info.dsn]) == 0
        search_all(conn)  # for examples about searches that wait in the inbox


@contextmanager
def database(server: EmbeddedServer, page: Path) -> Iterator[Connection]:
    """Yield a connection to a database for the examples of a page; drop the roles that they create."""
    name = TEMPLATES.get(page, "documents_learned")
    try:
        with copied(server.dsn, name, "documents") as conn:
            if page == Path("README.md"):
                # As for a large table: otherwise the planner does not use the vector index for the filter.
                for setting in ("enable_bitmapscan", "enable_sort"):
                    conn.execute(raw(f"ALTER DATABASE documents SET {setting} = off"))
            if page.stem == "upgrade-and-uninstall":
                assert main(["migrate", "--roles", "--quiet", "--dsn", conn.info.dsn]) == 0
            yield conn
    finally:
        with psycopg.connect(server.dsn, autocommit=True) as admin:
            for role in (*GROUPS, "tuner"):
                admin.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(role)))


def statements(script: str) -> list[str]:
    """Split a script into statements; none in the documentation has a semicolon within a line."""
    bare = re.sub(r" *--.*$", "", script, flags=re.MULTILINE)
    return [part for part in (each.strip() for each in re.split(r";\s*$", bare, flags=re.MULTILINE)) if part]


def run_sql(conn: Connection, example: Example, query: str) -> None:
    cursor = psycopg.RawCursor(conn)
    values: list[str] = [query]
    if example.directive == "$1: query_id":
        found = conn.execute("SELECT query_id FROM vectuned.search('items', %s, 1)", (query,)).fetchone()
        assert found is not None
        values = [str(found[0])]
    for statement in statements(example.text):
        cursor.execute(statement.encode(), values if "$1" in statement else None)


def run_python(example: Example, names: dict[str, Any], dsn: str) -> None:
    """Run an example, which may await; `async_conn` is an open connection of psycopg."""
    code = compile(example.text, f"{example.page}:{example.line}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)

    async def run() -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as conn:
            names["async_conn"] = conn
            result = eval(code, names)  # the examples are ours
            if inspect.isawaitable(result):
                await result

    asyncio.run(run())


def shape(text: str) -> str:
    """Return a text without what depends on data and time: numbers, and the width of columns."""
    return " ".join(re.sub(r"[\d,.:]*\d", "N", text).split())


def run_shell(example: Example, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for words in example.commands:
        assert words[0] == "vectuned"
        # On a busy machine too, a check has to come to its end.
        more = ["--seconds", "3600"] if words[1] == "check" else []
        code = main([*words[1:], *more])
        output = capsys.readouterr()
        # A check that finds a problem ends with 1.
        assert code == 0 or (words[1] == "check" and code == 1), output.err
        printed += [shape(line) for line in output.out.splitlines()]
    # Pages may leave out the end of a line.
    lost = [line for line in example.prints if not any(each.startswith(shape(line)) for each in printed)]
    assert lost == []


@pytest.fixture
def libpq(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Return a function that names a database by libpq's variables; relative files go to an empty folder."""
    monkeypatch.chdir(tmp_path)

    def name_database(dsn: str) -> None:
        for key, value in conninfo_to_dict(dsn).items():
            variable = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "dbname": "PGDATABASE"}.get(key)
            if variable:
                monkeypatch.setenv(variable, str(value))

    return name_database


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=str)
@pytest.mark.usefixtures("templates")
def test_examples_of_a_page_run(
    page: Path,
    server: EmbeddedServer,
    libpq: Callable[[str], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    query = QUERIES[0]
    with database(server, page) as conn:
        libpq(conn.info.dsn)
        uri = f"postgresql+psycopg://{conn.info.user}@/{conn.info.dbname}?host={conn.info.host}&port={conn.info.port}"
        engine = create_engine(uri, poolclass=NullPool)
        with Session(engine) as session:
            names = {
                "conn": conn,
                "connection": conn,
                "engine": engine,
                "session": session,
                "Item": Item,
                "embedding": query,
            }
            for example in examples(page):
                if example.language == "sql":
                    run_sql(conn, example, text(query))
                    if page == Path("README.md"):
                        search_all(conn)
                elif example.language == "python":
                    run_python(example, names, conn.info.dsn)
                elif example.directive == "run":
                    run_shell(example, capsys)


def test_examples_about_entities_and_reasoning_run(
    server: EmbeddedServer, template_entities: str, embedder: StaticEmbedder
) -> None:
    with copied(server.dsn, template_entities, "documents_entities") as conn:
        names = {"conn": conn, "dsn": conn.info.dsn, "psycopg": psycopg}
        (query,) = embedder.encode(["a dog that hunts"])
        for example in examples(REASONING):
            if example.language == "sql":
                run_sql(conn, example, text(query))
            elif example.language == "python":
                run_python(example, names, conn.info.dsn)


def test_public_functions_and_views_are_documented(conn: Connection) -> None:
    page = read(Path("sql/README.md"))
    names = conn.execute(
        """SELECT DISTINCT proname::text FROM pg_proc
           WHERE pronamespace = 'vectuned'::regnamespace AND proname !~ '^_'
           UNION SELECT relname FROM pg_class
           WHERE relnamespace = 'vectuned'::regnamespace AND relkind = 'v'
             AND relname <> 'readable_statistics'"""
    ).fetchall()
    assert [name for (name,) in names if not re.search(rf"`{name}\b", page)] == []
