"""Databases with an entity store that holds a part of WordNet: loaded once a session, copied for each use."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from vectuned.daemon.embedded import EmbeddedServer
from vectuned.reasoning import wordnet
from vectuned.reasoning.corpus import Corpus, load_wordnet
from vectuned.reasoning.embedder import StaticEmbedder
from vectuned.reasoning.store import EntityStore
from vectuned.sql.entity_loader import install_entities

SYNSETS = 2000
TEMPLATE = "template_entities"


@pytest.fixture(scope="session")
def embedder() -> StaticEmbedder:
    """The static embedder, without which there is nothing to store."""
    pytest.importorskip("wordllama", reason="wordllama has no wheel for this Python")
    return StaticEmbedder()


@pytest.fixture(scope="session")
def synsets() -> Corpus:
    """The synsets that the store holds, all ancestors included."""
    return wordnet.part_of(load_wordnet(), SYNSETS)


@pytest.fixture(scope="session")
def template_entities(
    server: EmbeddedServer, template: str, synsets: Corpus, embedder: StaticEmbedder
) -> str:
    """The name of a template database with vectuned and a loaded entity store."""
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(
                sql.Identifier(TEMPLATE), sql.Identifier(template)
            )
        )
    with psycopg.connect(make_conninfo(server.dsn, dbname=TEMPLATE), autocommit=True) as conn:
        install_entities(conn, embedder.dimensions)
        wordnet.load(EntityStore(conn), synsets, embedder)
    return TEMPLATE


@pytest.fixture
def store(server: EmbeddedServer, template_entities: str, embedder: StaticEmbedder) -> Iterator[EntityStore]:
    """A store of one's own to change."""
    yield from _store(server, template_entities, embedder, "entities_own")


@pytest.fixture(scope="module")
def shared(server: EmbeddedServer, template_entities: str, embedder: StaticEmbedder) -> Iterator[EntityStore]:
    """A store to search in, the same for all tests of a module; not to be changed."""
    yield from _store(server, template_entities, embedder, "entities_shared")


def _store(
    server: EmbeddedServer, template: str, embedder: StaticEmbedder, name: str
) -> Iterator[EntityStore]:
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy").format(
                sql.Identifier(name), sql.Identifier(template)
            )
        )
        try:
            with psycopg.connect(make_conninfo(server.dsn, dbname=name), autocommit=True) as conn:
                yield EntityStore(conn, embedder)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
