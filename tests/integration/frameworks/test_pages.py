"""The examples of the pages on frameworks, each run as it comes and then with settings."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.integration.embedded_helpers import PACKAGE
from tests.integration.framework_helpers import (
    DIMENSIONS,
    ROLE,
    Application,
    K,
    category,
    documents,
    held_out,
    queries,
    vector_text,
)
from tests.pages_helpers import PAGES, Example, examples

from vectuned.daemon.server.installation import find_binaries
from vectuned.sql.client.snapshot import Snapshot

FOLDER = Path("sql/docs/frameworks")
NEEDS = {
    "langchain": "langchain_postgres",
    "llamaindex": "llama_index.vector_stores.postgres",
    "psycopg": "psycopg_pool",
}
EMBEDDING = held_out()[0].vector


def blocks(name: str, language: str) -> list[Example]:
    return [each for each in examples(FOLDER / f"{name}.md") if each.language == language]


def run_python(name: str, names: dict[str, Any]) -> dict[str, Any]:
    # A module, in which SQLAlchemy looks for the names of annotations.
    module = sys.modules[f"example_{name}"] = types.ModuleType(f"example_{name}")
    vars(module).update(names)
    for example in blocks(name, "python"):
        exec(compile(example.text, f"{example.page}:{example.line}", "exec"), vars(module))
    return vars(module)


def count_ids(found: Sequence[Any]) -> int:
    return len({str(getattr(each, "id", each)) for each in found})


def test_every_page_has_a_test() -> None:
    tested = {"langchain", "llamaindex", "sqlalchemy", "psycopg", "django", "shell"}
    assert {page.stem for page in PAGES if page.parent == FOLDER} == tested


@pytest.mark.parametrize("name", ["langchain", "llamaindex", "sqlalchemy", "psycopg"])
def test_example_finds_what_settings_make_it_find(
    application: Application, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason="the extra frameworks is not installed")
    snapshots: list[Snapshot] = []
    names: dict[str, Any] = {
        "url": application.url("psycopg2" if name == "llamaindex" else "psycopg"),
        "async_url": application.url("asyncpg"),
        "dsn": application.dsn,
        "embedding": EMBEDDING,
    }
    table = "documents"
    if name == "llamaindex":
        table = "data_documents"
        fill_llamaindex(names)
    else:
        application.create_documents()
    if name == "langchain":
        names["embeddings"] = embeddings()
    keep_snapshots(monkeypatch, snapshots)
    plain = run_python(name, dict(names))
    close(plain)
    assert 0 < count_ids(plain["found"]) < K
    application.enable(table)
    assert application.publish_for_sent("<=>") == 1
    snapshots.clear()
    tuned = run_python(name, dict(names))
    close(tuned)
    assert count_ids(tuned["found"]) == K
    assert sum(snapshot.counters.tuned for snapshot in snapshots) == 1


def keep_snapshots(monkeypatch: pytest.MonkeyPatch, snapshots: list[Snapshot]) -> None:
    """Let the example's `client.tune` start from nothing, and keep what it returns."""
    from vectuned import client

    tune = client.tune

    def keep(target: Any, **options: Any) -> Snapshot:
        snapshots.append(tune(target, snapshot=Snapshot(), **options))
        return snapshots[-1]

    monkeypatch.setattr(client, "tune", keep)


def embeddings() -> Any:
    from langchain_core.embeddings import Embeddings

    class One(Embeddings):  # type: ignore[misc]
        """Embeds every text as the same vector."""

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [EMBEDDING for _ in texts]

        def embed_query(self, text: str) -> list[float]:
            return EMBEDDING

    return One()


def fill_llamaindex(names: dict[str, Any]) -> None:
    from llama_index.core.schema import TextNode
    from llama_index.vector_stores.postgres import PGVectorStore

    store = PGVectorStore.from_params(
        connection_string=names["url"],
        async_connection_string=names["async_url"],
        table_name="documents",
        embed_dim=DIMENSIONS,
        use_jsonb=True,
    )
    store.add(
        [
            TextNode(
                id_=each.name, text=each.name, embedding=each.vector, metadata={"category": each.category}
            )
            for each in documents()
        ]
    )
    store.client.dispose()


def close(names: dict[str, Any]) -> None:
    """Close the connections of an example."""
    engine, store = names.get("engine"), names.get("store")
    if engine is not None and hasattr(engine, "_run_as_sync"):
        engine._run_as_sync(engine.close())
    elif engine is not None:
        engine.dispose()
    elif store is not None:
        store.client.dispose()


def test_django_example_finds_what_settings_make_it_find(application: Application) -> None:
    pytest.importorskip("django", reason="Django is not installed")
    application.create_documents()
    databases, models = blocks("django", "python")
    info = application.conn.info
    program = "\n".join(
        [
            f"name, user, host, port = {info.dbname!r}, {ROLE!r}, {info.host!r}, '{info.port}'",
            f"embedding = {EMBEDDING!r}",
            databases.text,
            "import django",
            "from django.conf import settings",
            "settings.configure(DATABASES=DATABASES, DEFAULT_AUTO_FIELD='django.db.models.BigAutoField')",
            "django.setup()",
            models.text,
            "from django.db import connection",
            "print(len({each.pk for each in found}), connection.vectuned.counters.tuned)",
        ]
    )

    def run() -> list[int]:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", program],
            capture_output=True,
            text=True,
            check=False,
            env={"PYTHONPATH": str(PACKAGE.parent)},
        )
        assert done.returncode == 0, done.stderr
        return [int(word) for word in done.stdout.split()]

    rows, tuned = run()
    assert (0 < rows < K, tuned) == (True, 0)
    application.enable("documents")
    assert application.publish_for_sent("<=>") == 1
    assert run() == [K, 1]


def test_shell_example_runs(application: Application, monkeypatch: pytest.MonkeyPatch) -> None:
    application.create_documents()
    search, learn = blocks("shell", "sh")
    info = application.conn.info
    monkeypatch.setenv("PATH", f"{find_binaries().program('psql').parent}:/usr/bin:/bin")
    for name, value in (("PGHOST", info.host), ("PGPORT", str(info.port)), ("PGDATABASE", info.dbname)):
        monkeypatch.setenv(name, value)

    def find(vector: str, wanted: str) -> list[str]:
        done = subprocess.run(
            ["sh", "-euc", search.text],
            env={"PATH": f"{find_binaries().program('psql').parent}:/usr/bin:/bin", "PGUSER": ROLE}
            | {"PGHOST": info.host, "PGPORT": str(info.port), "PGDATABASE": info.dbname}
            | {"embedding": vector, "category": wanted, "PSQLRC": "/dev/null"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [line.strip() for line in done.stdout.splitlines() if line.strip().isdigit()]

    asked = queries()
    assert len(find(vector_text(asked[1]), category(1))) < K
    for query in asked:
        find(vector_text(query), query.category)
    application.flush_log()
    for words in learn.commands:
        assert words[0] == "vectuned"
        if words[1] == "observe":
            words = [*words, str(application.logs)]
        application.vectuned(*words[1:])
    assert len(find(vector_text(asked[1]), category(1))) == K
