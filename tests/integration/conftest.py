"""Expensive fixtures, made once per session and copied for each use: an entity store, and learning."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from tests.integration.document_helpers import World, learned
from tests.integration.table_helpers import Connection, copied

from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.reasoning.embedding.embedder import StaticEmbedder
from vectuned.reasoning.store.store import EntityStore
from vectuned.reasoning.wordnet import loading
from vectuned.reasoning.wordnet.corpus import Corpus, load_wordnet
from vectuned.sql.entity_loader import install_entities

SYNSETS = 2000
TEMPLATE = "template_entities"


@pytest.fixture(scope="session")
def embedder() -> StaticEmbedder:
    """The static embedder; skips the test if it is not installed."""
    pytest.importorskip("wordllama", reason="wordllama has no wheel for this Python")
    return StaticEmbedder()


@pytest.fixture(scope="session")
def synsets() -> Corpus:
    """The synsets in the store, with all ancestors."""
    return loading.sample_corpus(load_wordnet(), SYNSETS)


@pytest.fixture(scope="session")
def template_entities(
    server: EmbeddedServer,
    template: str,
    available_extensions: frozenset[str],
    synsets: Corpus,
    embedder: StaticEmbedder,
) -> str:
    """The name of a template database with vectuned and a loaded entity store; skips without ltree."""
    if "ltree" not in available_extensions:
        pytest.skip("the server has no extension ltree, which only the entity store needs")
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(TEMPLATE), sql.Identifier(template)
            )
        )
    with psycopg.connect(make_conninfo(server.dsn, dbname=TEMPLATE), autocommit=True) as conn:
        install_entities(conn, embedder.dimensions)
        loading.load(EntityStore(conn), synsets, embedder)
    return TEMPLATE


@pytest.fixture
def store(server: EmbeddedServer, template_entities: str, embedder: StaticEmbedder) -> Iterator[EntityStore]:
    """A copy of the store that the test may change."""
    yield from _store(server, template_entities, embedder, "entities_own")


@pytest.fixture(scope="module")
def shared(server: EmbeddedServer, template_entities: str, embedder: StaticEmbedder) -> Iterator[EntityStore]:
    """A store for searches, shared by the tests of a module; not to be changed."""
    yield from _store(server, template_entities, embedder, "entities_shared")


@pytest.fixture(scope="session")
def world(server: EmbeddedServer, template: str) -> World:
    """A tuned table without any learning, and the document learned in a copy of it."""
    return learned(server.dsn, template)


@pytest.fixture
def here(world: World) -> Iterator[Connection]:
    """A copy of the database without any learning."""
    with world.copy() as conn:
        yield conn


def _store(
    server: EmbeddedServer, template: str, embedder: StaticEmbedder, name: str
) -> Iterator[EntityStore]:
    with copied(server.dsn, template, name) as conn:
        yield EntityStore(conn, embedder)
