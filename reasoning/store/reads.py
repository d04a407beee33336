"""What the nodes of the reasoning graph read of the entity store, over connections made by `prepare`.

Their rows come in binary format, which saves the nodes from parsing vectors, and errors of the driver are not
translated: the runner decides by them whether to try again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, TypeVar
from uuid import UUID
from weakref import WeakKeyDictionary

import numpy as np
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.rows import kwargs_row, namedtuple_row

from vectuned.reasoning.embedding.embedder import Embedder, Vectors
from vectuned.reasoning.errors import ModelMismatchError, StoreEmptyError, StoreMissingError
from vectuned.reasoning.graph.connections import Connection
from vectuned.sql.entity_loader import entity_queries
from vectuned.sql.rows import execute, fetch_rows, fetch_value

from .cache import EntityCache
from .entities import Entity, Resource
from .resources import make_resource

T = TypeVar("T")

# Schemas of pgvector and ltree by connection: they are looked up once, and forgotten with the connection.
_SCHEMAS: Final = WeakKeyDictionary[Connection, tuple[str, str]]()


def prepare(conn: Connection) -> Connection:
    """Prepare a connection for the nodes and return it.

    Raises StoreMissingError if the database has no entity store.
    """
    register_vector(conn)
    execute(conn, entity_queries()["disable_jit"])
    if not fetch_value(conn, entity_queries()["installed"]):
        raise StoreMissingError()
    return conn


def read(conn: Connection, statement: str, /, **values: object) -> list[Any]:
    """Return the rows of a statement of entities/queries/nodes.sql as named tuples."""
    with conn.cursor(row_factory=namedtuple_row, binary=True) as cursor:
        return cursor.execute(_composed(statement, *_schemas(conn)), values).fetchall()


def to_array(vector: Any) -> Vectors:
    """Return a vector as float32: some versions of pgvector's package return arrays, others a Vector."""
    return np.asarray(getattr(vector, "to_numpy", lambda: vector)(), np.float32)


def read_entities(conn: Connection, ids: Iterable[int], cache: EntityCache) -> dict[int, Entity]:
    """Return active entities by id, from the cache where it has them."""
    wanted = set(ids)
    entities = cache.get(wanted)
    if missing := wanted - entities.keys():
        fresh = _read_as(Entity, conn, "find_active", entities=sorted(missing))
        cache.put(fresh)
        entities |= {entity.id: entity for entity in fresh}
    return entities


def read_linked_texts(
    conn: Connection, entities: Sequence[int], query: Vectors, max_results: int, max_characters: int
) -> list[Resource]:
    """Return the beginnings of resources linked to entities, those nearest to a query first."""
    return _read_as(
        make_resource,
        conn,
        "find_linked_texts",
        entities=list(entities),
        query=query,
        max_results=max_results,
        max_characters=max_characters,
    )


def read_similar_texts(
    conn: Connection, query: Vectors, threshold: float, max_results: int, max_characters: int
) -> list[Resource]:
    """Return the beginnings of resources with a cosine of at least `threshold` to a query, nearest first."""
    return _read_as(
        make_resource,
        conn,
        "find_similar_texts",
        query=query,
        threshold=threshold,
        max_results=max_results,
        max_characters=max_characters,
    )


def read_lexemes(conn: Connection, question: str, language: str, embedder: Embedder) -> list[str]:
    """Return the lexemes of a question in a text search configuration.

    Raises StoreEmptyError if the store has no model yet, ModelMismatchError if it is not the embedder's.
    """
    (row,) = read(conn, "read_question", question=question, language=language)
    if row.name is None:
        raise StoreEmptyError()
    if (row.name, row.version, row.dimensions) != (embedder.name, embedder.version, embedder.dimensions):
        stored = f"{row.name} {row.version} ({row.dimensions} dimensions)"
        given = f"{embedder.name} {embedder.version} ({embedder.dimensions} dimensions)"
        raise ModelMismatchError(stored=stored, given=given)
    return list(row.lexemes)


def record_feedback(
    conn: Connection, query_id: UUID, relevant: Iterable[int], irrelevant: Iterable[int]
) -> str:
    """Record which of the entities that a search returned were relevant; return what became of it."""
    (row,) = read(
        conn,
        "record_feedback",
        query_id=query_id,
        relevant=[str(id_) for id_ in sorted(relevant)],
        irrelevant=[str(id_) for id_ in sorted(irrelevant)],
    )
    return str(row.answer)


def record_answer_feedback(
    conn: Connection, question: str, entity_id: int, *, is_right: bool, by_person: bool = True
) -> str:
    """Record whether an entity is the answer to a question; return `recorded` or `unchanged`."""
    (row,) = read(
        conn,
        "record_answer_feedback",
        question=question.replace("\0", " "),
        entity_id=entity_id,
        is_right=is_right,
        by_person=by_person,
    )
    return str(row.answer)


def _read_as(make: Callable[..., T], conn: Connection, statement: str, /, **values: object) -> list[T]:
    with conn.cursor(row_factory=kwargs_row(make), binary=True) as cursor:
        return cursor.execute(_composed(statement, *_schemas(conn)), values).fetchall()


@lru_cache(maxsize=256)  # a few statements for each pair of schemas
def _composed(statement: str, vectors: str, ltree: str) -> sql.Composed:
    return entity_queries()[statement].format(vectors=sql.Identifier(vectors), ltree=sql.Identifier(ltree))


def _schemas(conn: Connection) -> tuple[str, str]:
    schemas = _SCHEMAS.get(conn)
    if schemas is None:
        by_name = {
            row.extension: row.schema for row in fetch_rows(conn, entity_queries()["extension_schemas"])
        }
        schemas = _SCHEMAS[conn] = by_name["vector"], by_name.get("ltree", "public")
    return schemas
