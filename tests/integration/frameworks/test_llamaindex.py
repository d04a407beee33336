"""LlamaIndex's PGVectorStore, sync and async, with the statements that it really sends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.integration.framework_helpers import (
    DEFAULTS,
    DIMENSIONS,
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

pytest.importorskip("llama_index.vector_stores.postgres", reason="the extra frameworks is not installed")

from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.vector_stores.postgres import PGVectorStore
from sqlalchemy import text

from vectuned import client


@contextmanager
def open_store(application: Application, **options: Any) -> Iterator[PGVectorStore]:
    store = PGVectorStore.from_params(
        connection_string=application.url("psycopg2"),
        async_connection_string=application.url("asyncpg"),
        table_name="documents",
        embed_dim=DIMENSIONS,
        use_jsonb=True,
        **options,
    )
    try:
        yield store
    finally:
        asyncio.run(store.close())


def fill(store: PGVectorStore) -> None:
    store.add(
        [
            TextNode(
                id_=each.name, text=each.name, embedding=each.vector, metadata={"category": each.category}
            )
            for each in documents()
        ]
    )


def asked(query: Query) -> VectorStoreQuery:
    filters = MetadataFilters(filters=[MetadataFilter(key="category", value=query.category)])
    return VectorStoreQuery(query_embedding=query.vector, similarity_top_k=K, filters=filters)


def find(store: PGVectorStore, query: Query) -> list[str]:
    return list(store.query(asked(query)).ids or [])


INDEX = {"hnsw_m": 16, "hnsw_ef_construction": 64, "hnsw_ef_search": 40}


def test_store_is_learned_from_and_served(application: Application) -> None:
    # With hnsw_kwargs it sends its own ef_search, and switches bitmap scans off, before each search.
    with open_store(application, hnsw_kwargs=INDEX) as store:
        fill(store)
        application.conn.execute("VACUUM ANALYZE")
        came = judge(lambda query: find(store, query), held_out())
        seen = application.learn_from(lambda query: find(store, query))
        check_learned(application, seen, "public.data_documents")
    with open_store(application, hnsw_kwargs=INDEX) as store:
        snapshot = client.tune(store)
        got = judge(lambda query: find(store, query), held_out())
        check_served(came, got, snapshot)
        with store.client.connect() as conn:
            assert tuple(conn.execute(text(IN_FORCE)).one()) == DEFAULTS


def test_async_store_is_learned_from_and_served(application: Application) -> None:
    with open_store(application, hnsw_kwargs=INDEX) as store:
        fill(store)
    application.conn.execute("VACUUM ANALYZE")

    async def find_all(store: PGVectorStore, queries: list[Query]) -> dict[str, list[str]]:
        """Search one after another, by their vectors."""
        found = {}
        for query in queries:
            found[str(query.vector)] = list((await store.aquery(asked(query))).ids or [])
        await store.close()  # here, since the connections belong to this loop
        return found

    def answers(queries: list[Query], *, tuned: bool) -> tuple[dict[str, list[str]], Any]:
        store = PGVectorStore.from_params(
            connection_string=application.url("psycopg2"),
            async_connection_string=application.url("asyncpg"),
            table_name="documents",
            embed_dim=DIMENSIONS,
            use_jsonb=True,
        )
        snapshot = client.tune(store) if tuned else None
        return asyncio.run(find_all(store, queries)), snapshot

    plain, _ = answers(held_out(), tuned=False)
    came = judge(lambda query: plain[str(query.vector)], held_out())
    seen = application.learn_from_all(lambda queries: answers(queries, tuned=False))
    check_learned(application, seen, "public.data_documents")
    found, snapshot = answers(held_out(), tuned=True)
    check_served(came, judge(lambda query: found[str(query.vector)], held_out()), snapshot)
