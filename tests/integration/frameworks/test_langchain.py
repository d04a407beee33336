"""LangChain's PGVectorStore and its older PGVector, with the statements that they really send."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.integration.framework_helpers import (
    DEFAULTS,
    DIMENSIONS,
    HELD_OUT,
    IN_FORCE,
    Application,
    K,
    Query,
    check_learned,
    check_served,
    documents,
    held_out,
    judge,
)

pytest.importorskip("langchain_postgres", reason="the extra frameworks is not installed")

from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_postgres import Column, PGEngine, PGVector, PGVectorStore
from langchain_postgres.v2.indexes import HNSWIndex
from sqlalchemy import create_engine, text

from vectuned import client
from vectuned.sql.client.snapshot import Snapshot

EMBEDDINGS = DeterministicFakeEmbedding(size=DIMENSIONS)  # unused: the tests give vectors


@contextmanager
def open_engine(application: Application, driver: str) -> Iterator[PGEngine]:
    engine = PGEngine.from_connection_string(application.url(driver))
    try:
        yield engine
    finally:
        engine._run_as_sync(engine.close())


def create_store(engine: PGEngine) -> PGVectorStore:
    engine.init_vectorstore_table(
        "documents", DIMENSIONS, metadata_columns=[Column("category", "text")], id_column=Column("id", "text")
    )
    store = open_store(engine)
    found = documents()
    store.add_embeddings(
        [each.name for each in found],
        [each.vector for each in found],
        [{"category": each.category} for each in found],
        [each.name for each in found],
    )
    store.apply_vector_index(HNSWIndex())
    return store


def open_store(engine: PGEngine) -> PGVectorStore:
    return PGVectorStore.create_sync(
        engine, EMBEDDINGS, "documents", id_column="id", metadata_columns=["category"]
    )


def find(store: PGVectorStore, query: Query) -> list[str]:
    found = store.similarity_search_by_vector(query.vector, k=K, filter={"category": query.category})
    return [str(each.id) for each in found]


def read_settings(engine: PGEngine) -> Any:
    async def read() -> Any:
        async with engine._pool.connect() as conn:
            return tuple((await conn.execute(text(IN_FORCE))).one())

    return engine._run_as_sync(read())


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_store_is_learned_from_and_served(application: Application, driver: str) -> None:
    with open_engine(application, driver) as engine:
        store = create_store(engine)
        application.conn.execute("VACUUM ANALYZE")
        came = judge(lambda query: find(store, query), held_out())
        seen = application.learn_from(lambda query: find(store, query))
        check_learned(application, seen, "public.documents")
    with open_engine(application, driver) as engine:
        snapshot = client.tune(engine)
        tuned = open_store(engine)
        got = judge(lambda query: find(tuned, query), held_out())
        check_served(came, got, snapshot)
        assert read_settings(engine) == DEFAULTS


def create_older_store(application: Application, dimensions: int | None) -> PGVector:
    """Create a store as the package does, its column without dimensions, or as those do who index it."""
    store = PGVector(EMBEDDINGS, connection=create_engine(application.url("psycopg")), collection_name="docs")
    found = documents()
    store.add_embeddings(
        [each.name for each in found],
        [each.vector for each in found],
        [{"category": each.category} for each in found],
        [each.name for each in found],
    )
    if dimensions is not None:
        table = "langchain_pg_embedding"
        application.conn.execute(
            f"ALTER TABLE {table} ALTER COLUMN embedding TYPE vector({dimensions})".encode()
        )
        application.conn.execute(f"CREATE INDEX ON {table} USING hnsw (embedding vector_cosine_ops)".encode())
    return store


def find_older(store: PGVector, query: Query) -> list[str]:
    found = store.similarity_search_by_vector(query.vector, k=K, filter={"category": {"$eq": query.category}})
    return [str(each.id) for each in found]


def test_older_store_without_dimensions_is_told_of_and_left_alone(application: Application) -> None:
    store = create_older_store(application, None)
    application.conn.execute("VACUUM ANALYZE")
    for query in held_out():
        find_older(store, query)
    application.flush_log()
    seen = application.observe()
    assert seen["stored"] == 0
    snapshot = client.tune(store, snapshot=Snapshot())
    # No index can be built on such a column, so every answer is exact.
    got = judge(lambda query: find_older(store, query), held_out())
    assert (got.recall, got.short, got.foreign) == (1.0, 0, 0)
    assert (snapshot.counters.tuned, snapshot.counters.untouched, snapshot.counters.failures) == (0, {}, {})
    store._engine.dispose()


def test_older_store_with_an_index_is_served_what_is_published(application: Application) -> None:
    store = create_older_store(application, DIMENSIONS)
    application.conn.execute("VACUUM ANALYZE")
    came = judge(lambda query: find_older(store, query), held_out())
    application.enable("langchain_pg_embedding")
    assert application.publish_for_sent("jsonb_path_match") == 1
    snapshot = client.tune(store, snapshot=Snapshot())
    got = judge(lambda query: find_older(store, query), held_out())
    check_served(came, got, snapshot)
    with store._engine.connect() as conn:
        assert tuple(conn.execute(text(IN_FORCE)).one()) == DEFAULTS
    store._engine.dispose()
    assert snapshot.counters.tuned == HELD_OUT


def test_older_store_with_an_index_is_learned_from_and_served(application: Application) -> None:
    store = create_older_store(application, DIMENSIONS)
    application.conn.execute("VACUUM ANALYZE")
    came = judge(lambda query: find_older(store, query), held_out())
    seen = application.learn_from(lambda query: find_older(store, query))
    # A join, so it is replayed as it was sent.
    assert [kind["as_text"] for kind in seen["searches"]] == [True]
    check_learned(application, seen, "public.langchain_pg_embedding")
    snapshot = client.tune(store, snapshot=Snapshot())
    check_served(came, judge(lambda query: find_older(store, query), held_out()), snapshot)
    store._engine.dispose()
