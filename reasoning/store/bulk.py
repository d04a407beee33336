"""Load many rows into the entity store by binary COPY, and build its vector indexes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from psycopg import sql

from vectuned.config.sections import IndexBuildSettings
from vectuned.learning.advisor import Definition
from vectuned.learning.index_build import (
    BuildPlan,
    build_session,
    drop_unfinished_index,
    plan_build,
    read_build_server,
    time_sample_builds,
)
from vectuned.learning.model.vectors import Vector
from vectuned.reasoning.embedding.embedder import Vectors
from vectuned.reasoning.graph.connections import Connection
from vectuned.sql.entity_loader import SCHEMA, entity_queries, stored_dimensions
from vectuned.sql.rows import execute, fetch_rows, fetch_value, fetch_values

from .entities import NewEntity, NewResource
from .statements import usage_errors

Progress = Callable[[int], None]
log = logging.getLogger(__name__)

TABLES: Final = ("entities", "external_resources")  # those with vectors
_INDEX: Final = Definition("hnsw", "plain", m=16, ef_construction=64)  # pgvector's defaults
_BUILD_LIMITS: Final = IndexBuildSettings()
_STEP: Final = 5000  # rows between two reports of progress: several a second


def load_entities(
    conn: Connection, entities: Sequence[NewEntity], vectors: Vectors, model_id: int, progress: Progress
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
        attributes = _ids_by_name(
            conn, "attribute_ids", names=sorted({name for e in entities for name, _ in e.attributes})
        )
        values = _value_ids(conn, {value for e in entities for _, value in e.attributes})
        links = (
            (id_, attributes[name], values[value])
            for id_, e in zip(ids, entities, strict=True)
            for name, value in dict.fromkeys(e.attributes)
        )
        _copy(conn, "copy_attribute_links", ["int8", "int4", "int8"], links)
    return ids


def load_relationships(
    conn: Connection, edges: Sequence[tuple[int, int, str]], progress: Progress, confidence: float = 1.0
) -> None:
    """Store relationships (source, target, type), all distinct, in one transaction."""
    with conn.transaction(), usage_errors():
        types = _ids_by_name(conn, "type_ids", names=sorted({name for _, _, name in edges}))
        rows = ((source, target, types[name], confidence) for source, target, name in edges)
        _copy(conn, "copy_relationships", ["int8", "int8", "int2", "float8"], rows, progress)


def load_resources(
    conn: Connection, resources: Sequence[NewResource], vectors: Vectors, model_id: int, progress: Progress
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


def build_index(
    conn: Connection,
    table: str,
    column: str = "embedding",
    *,
    concurrently: bool = False,
    limits: IndexBuildSettings = _BUILD_LIMITS,
) -> None:
    """Build the HNSW index (cosine, m = 16, ef_construction = 64) of a table if it is missing or invalid.

    `concurrently` does not block writers; conn must then be in autocommit mode. The log says beforehand what
    the build takes; `limits` are those of its memory and workers.
    """
    index = sql.Identifier(SCHEMA, _index_name(table, column))
    valid = fetch_value(conn, entity_queries()["index_valid"], {"index": index.as_string(conn)})
    if valid:
        return
    if valid is False:
        drop_index(conn, table, column)
    schemas = {row.extension: row.schema for row in fetch_rows(conn, entity_queries()["extension_schemas"])}
    operators = sql.Identifier(schemas["vector"], "vector_cosine_ops")
    plan = _plan_index(conn, table, column, operators, limits)
    log.info("building %s: %s", _index_name(table, column), plan.describe(), extra={"action": "index_build"})
    if found := plan.warning():
        log.warning("%s", found, extra={"action": "index_build"})
    statement = entity_queries()["create_index"].format(
        concurrently=sql.SQL("CONCURRENTLY" if concurrently else ""),
        index=sql.Identifier(_index_name(table, column)),
        table=_identifier(table),
        column=sql.Identifier(column),
        operators=operators,
    )
    with build_session(conn, plan):
        try:
            execute(conn, statement)
        except BaseException:
            if concurrently:
                drop_unfinished_index(conn, index)
            raise


def _plan_index(
    conn: Connection, table: str, column: str, operators: sql.Identifier, limits: IndexBuildSettings
) -> BuildPlan:
    rows = fetch_value(conn, entity_queries()["count_rows"].format(table=_identifier(table)))
    server, dimensions = read_build_server(conn, limits), stored_dimensions(conn) or 0
    builds = time_sample_builds(conn, server, (SCHEMA, table), column, operators, _INDEX, rows, dimensions)
    return plan_build(server, _INDEX, rows, dimensions, builds=builds)


def drop_index(conn: Connection, table: str, column: str = "embedding") -> None:
    """Drop the vector index of a table, if it has one."""
    execute(conn, entity_queries()["drop_index"].format(index=_identifier(_index_name(table, column))))


def drop_indexes_of_empty_tables(conn: Connection) -> None:
    """Drop the vector indexes of tables without rows: inserting row by row takes several times as long."""
    for table in TABLES:
        if not fetch_value(conn, entity_queries()["has_rows"].format(table=_identifier(table))):
            drop_index(conn, table)


def analyze(conn: Connection, tables: Iterable[str]) -> None:
    """Update the planner's statistics of tables of the store."""
    for table in tables:
        execute(conn, entity_queries()["analyze"].format(table=_identifier(table)))


def _index_name(table: str, column: str) -> str:
    return f"{table}_{column}_idx"


def _identifier(name: str) -> sql.Identifier:
    return sql.Identifier(SCHEMA, name)


def _reserve(conn: Connection, table: str, column: str, count: int) -> list[int]:
    values = {"table": f"{SCHEMA}.{table}", "column": column, "count": count}
    return fetch_values(conn, entity_queries()["reserve_ids"], values)


def _ids_by_name(conn: Connection, statement: str, **values: object) -> dict[str, int]:
    return {row.name: row.id for row in fetch_rows(conn, entity_queries()[statement], values)}


def _value_ids(conn: Connection, values: set[str]) -> dict[str, int]:
    """Return the ids of attribute values by value, after inserting those that are missing."""
    execute(conn, entity_queries()["lock_values"])
    known = _ids_by_name(conn, "value_ids", values=list(values))
    missing = sorted(values - known.keys())
    added = dict(zip(missing, _reserve(conn, "attribute_values", "value_id", len(missing)), strict=True))
    _copy(conn, "copy_values", ["int8", "text"], ((id_, value) for value, id_ in added.items()))
    return known | added


def _copy(
    conn: Connection,
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
