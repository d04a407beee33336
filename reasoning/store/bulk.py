"""Load much into the entity store at once, by binary COPY, and build its vector indexes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import psycopg
from pgvector import Vector
from psycopg import sql

from vectuned.reasoning.embedding.embedder import Vectors
from vectuned.sql.entity_loader import SCHEMA, entity_queries, stored_dimensions

from .entities import NewEntity, NewResource
from .statements import usage_errors

Conn = psycopg.Connection[Any]
Progress = Callable[[int], None]

TABLES: Final = ("entities", "external_resources")
_STEP: Final = 5000


def load_entities(
    conn: Conn, entities: Sequence[NewEntity], vectors: Vectors, model_id: int, progress: Progress
) -> list[int]:
    """Store entities, their vectors (n, dimensions) and attributes in one transaction; return the ids."""
    with conn.transaction(), usage_errors():
        ids = _reserve(conn, "entities", "entity_id", len(entities))
        types = ["int8", "text", "text", "text", "text", "vector", "int4"]
        rows = (
            (id_, e.label, e.name, e.description, e.language, Vector(vector), model_id)
            for id_, e, vector in zip(ids, entities, vectors, strict=True)
        )
        _copy(conn, "copy_entities", types, rows, progress)
        attributes = _attribute_ids(conn, {name for e in entities for name, _ in e.attributes})
        values = _value_ids(conn, {value for e in entities for _, value in e.attributes})
        links = (
            (id_, attributes[name], values[value])
            for id_, e in zip(ids, entities, strict=True)
            for name, value in dict.fromkeys(e.attributes)
        )
        _copy(conn, "copy_attribute_links", ["int8", "int4", "int8"], links)
    return ids


def load_relationships(
    conn: Conn, edges: Sequence[tuple[int, int, str]], progress: Progress, confidence: float = 1.0
) -> None:
    """Store relationships (source, target, type), all distinct, in one transaction."""
    with conn.transaction(), usage_errors():
        names = sorted({name for _, _, name in edges})
        types = dict(conn.execute(entity_queries()["type_ids"], {"names": names}).fetchall())
        rows = ((source, target, types[name], confidence) for source, target, name in edges)
        _copy(conn, "copy_relationships", ["int8", "int8", "int2", "float8"], rows, progress)


def load_resources(
    conn: Conn, resources: Sequence[NewResource], vectors: Vectors, model_id: int, progress: Progress
) -> list[int]:
    """Store resources with their vectors (n, dimensions) and links in one transaction; return their ids."""
    with conn.transaction(), usage_errors():
        ids = _reserve(conn, "external_resources", "resource_id", len(resources))
        types = ["int8", "text", "text", "text", "vector", "int4"]
        rows = (
            (id_, r.uri, r.type, r.content, Vector(vector), model_id)
            for id_, r, vector in zip(ids, resources, vectors, strict=True)
        )
        _copy(conn, "copy_resources", types, rows, progress)
        links = (
            (entity, id_, 1.0)
            for id_, resource in zip(ids, resources, strict=True)
            for entity in dict.fromkeys(resource.entity_ids)
        )
        _copy(conn, "copy_resource_links", ["int8", "int8", "float8"], links)
    return ids


def build_index(conn: Conn, table: str, column: str = "embedding", *, concurrently: bool = False) -> None:
    """Build the HNSW index (cosine, m = 16, ef_construction = 64) of a table where it is missing.

    conn must be in autocommit mode to build `concurrently`, without keeping writers waiting.
    """
    name = sql.Identifier(SCHEMA, f"{table}_{column}_idx")
    row = conn.execute(entity_queries()["index_valid"], {"index": name.as_string(conn)}).fetchone()
    if row is not None and not row[0]:
        drop_index(conn, table, column)
    counted = conn.execute(
        sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(SCHEMA, table))
    ).fetchone()
    extension = conn.execute(entity_queries()["extension_schema"]).fetchone()
    assert counted is not None
    assert extension is not None
    before = conn.execute("SHOW maintenance_work_mem").fetchone()
    assert before is not None
    memory = {"rows": counted[0], "dimensions": stored_dimensions(conn)}
    conn.execute(entity_queries()["index_memory"], memory)
    try:
        conn.execute(
            entity_queries()["create_index"].format(
                concurrently=sql.SQL("CONCURRENTLY" if concurrently else ""),
                index=sql.Identifier(f"{table}_{column}_idx"),
                table=sql.Identifier(SCHEMA, table),
                column=sql.Identifier(column),
                operators=sql.Identifier(extension[0], "vector_cosine_ops"),
            )
        )
    finally:
        if not conn.closed and not conn.broken:
            conn.execute("SELECT set_config('maintenance_work_mem', %s, false)", before)


def drop_index(conn: Conn, table: str, column: str = "embedding") -> None:
    """Drop the vector index of a table, before much is loaded into it."""
    name = sql.Identifier(SCHEMA, f"{table}_{column}_idx")
    conn.execute(entity_queries()["drop_index"].format(index=name))


def analyze(conn: Conn, tables: Iterable[str]) -> None:
    """Have the planner know what tables of the store hold now."""
    for table in tables:
        conn.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(SCHEMA, table)))


def _reserve(conn: Conn, table: str, column: str, count: int) -> list[int]:
    values = {"table": f"{SCHEMA}.{table}", "column": column, "count": count}
    return [row[0] for row in conn.execute(entity_queries()["reserve_ids"], values).fetchall()]


def _attribute_ids(conn: Conn, names: set[str]) -> dict[str, int]:
    return dict(conn.execute(entity_queries()["attribute_ids"], {"names": sorted(names)}).fetchall())


def _value_ids(conn: Conn, values: set[str]) -> dict[str, int]:
    conn.execute(entity_queries()["lock_values"])
    known = dict(conn.execute(entity_queries()["value_ids"], {"values": list(values)}).fetchall())
    missing = sorted(values - known.keys())
    added = dict(zip(missing, _reserve(conn, "attribute_values", "value_id", len(missing)), strict=True))
    _copy(conn, "copy_values", ["int8", "text"], ((id_, value) for value, id_ in added.items()))
    return known | added


def _copy(
    conn: Conn,
    statement: str,
    types: list[str],
    rows: Iterable[tuple[Any, ...]],
    progress: Progress | None = None,
) -> None:
    with conn.cursor().copy(entity_queries()[statement]) as copy:
        copy.set_types(types)
        for number, row in enumerate(rows, 1):
            copy.write_row(row)
            if progress is not None and number % _STEP == 0:
                progress(number)
