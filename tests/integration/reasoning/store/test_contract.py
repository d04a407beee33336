"""Every function of the entity store in the catalog: its properties, and its errors for invalid input."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from tests.integration.table_helpers import Connection, one, plain_role, raw

from vectuned.reasoning.store.store import EntityStore
from vectuned.sql.entity_loader import entity_queries, install_entities

VECTOR = "[" + ",".join("0.1" for _ in range(256)) + "]"
# What may be said of arguments: out of range, no such thing, not now, taken already, no such type.
ANSWERS = {"22023", "P0002", "55000", "23505"}

# Arguments of each that work, against the store as it was loaded.
GOOD: dict[str, dict[str, Any]] = {
    "entity_text": {"name": "dog", "description": "an animal"},
    "register_embedding_model": {"model_name": "other", "model_version": "1", "dimensions": 8},
    "current_embedding_model": {},
    "insert_entity": {
        "entity_name": "x",
        "embedding": VECTOR,
        "description": "y",
        "label": "mine",
        "attributes": '{"a": ["b"]}',
        "language": "simple",
        "model_name": None,
        "model_version": None,
    },
    "update_entity": {"target_entity_id": 1, "entity_name": "x", "description": "y", "language": "simple"},
    "set_entity_attribute": {"target_entity_id": 1, "attribute": "colour", "value": "red"},
    "get_entities": {"entity_ids": [1, 2]},
    "get_entity_attributes": {"entity_ids": [1, 2], "attribute_names": ["lemma"]},
    "find_entities_by_attribute": {"attribute": "part_of_speech", "value": "verb", "max_results": 5},
    "find_entities_sharing_attributes": {
        "start_entity_id": 1,
        "attribute_names": ["lemma"],
        "max_results": 5,
        "max_holders": 10,
    },
    "insert_relationship": {
        "source_id": 1,
        "target_id": 2,
        "relationship_type": "likes",
        "confidence": 0.5,
        "path": "a.b",
    },
    "get_entity_relationships": {
        "start_entity_id": 1,
        "relationship_types": ["hypernym"],
        "direction": "both",
        "max_results": 5,
    },
    "find_relationships": {"prefix": "n00001740", "max_results": 5},
    "find_relationship_ancestors": {"target_path": "n00001740.n00001930", "max_results": 5},
    "find_relationship_descendants": {"parent_path": "n00001740", "max_results": 5},
    "find_relationship_siblings": {"entity_path": "n00001740.n00001930", "max_results": 5},
    "find_relationships_by_pattern": {"pattern": "n00001740.*{1}", "max_results": 5},
    "rebuild_entity_paths": {
        "relationship_types": ["hypernym"],
        "hierarchy": "mine",
        "max_paths": 2,
        "max_depth": 10,
    },
    "get_entity_paths": {"start_entity_id": 1, "hierarchy": "is_a"},
    "find_entity_ancestors": {"start_entity_id": 9, "hierarchy": "is_a", "max_results": 5},
    "find_entity_descendants": {"start_entity_id": 1, "hierarchy": "is_a", "max_depth": 2, "max_results": 5},
    "find_entity_siblings": {"start_entity_id": 2, "hierarchy": "is_a", "max_results": 5},
    "find_entities_by_path": {"pattern": "*.n00001930.*", "hierarchy": "is_a", "max_results": 5},
    "find_entity_connection_paths": {
        "start_entity_id": 1,
        "end_entity_id": 9,
        "max_hops": 3,
        "max_results": 5,
        "relationship_types": ["hyponym"],
        "min_confidence": 0.5,
        "max_width": 100,
    },
    "find_entities_by_relationship_pattern": {
        "relationship_types": ["hyponym", "hyponym", "hyponym"],
        "start_entity_id": 1,
        "max_results": 5,
        "max_width": 100,
    },
    "find_similar_entity": {"query": VECTOR, "max_results": 5},
    "find_similar_entities_ann": {
        "query": VECTOR,
        "similarity_threshold": 0.1,
        "max_results": 5,
        "ef_search": 50,
    },
    "hybrid_entity_search": {
        "search_text": "dog",
        "query": VECTOR,
        "text_weight": 0.3,
        "vector_weight": 0.7,
        "max_results": 5,
        "language": "english",
        "fusion": "reciprocal",
        "candidates": 50,
    },
    "record_answer_feedback": {
        "question": "what is it?",
        "target_entity_id": 1,
        "is_right": True,
        "by_person": True,
    },
    "serve_ranking": {"ranking_id": 0},
    "forget_answer_feedback": {"of_role": "nobody", "since": "-infinity"},
    "insert_external_resource": {
        "uri": "urn:x",
        "resource_type": "page",
        "content": "text",
        "embedding": VECTOR,
        "model_name": None,
        "model_version": None,
    },
    "link_entity_resource": {"target_entity_id": 1, "resource_id": 1, "confidence": 0.5},
    "get_entity_resources": {"entity_ids": [1, 2, 3], "max_results": 5, "query": VECTOR},
    "find_similar_resources": {
        "query": VECTOR,
        "similarity_threshold": 0.1,
        "max_results": 5,
        "ef_search": 50,
    },
    "touch_entities": {"entity_ids": [1, 2]},
    "find_hot_entities": {"max_results": 5, "used_within": "1 day"},
    "archive_entity": {"target_entity_id": 1},
    "restore_entity": {"target_entity_id": 1},
    "prune_entity": {"target_entity_id": 1},
    "archive_inactive_entities": {"unused_for": "1 day", "batch_size": 5},
    "prune_archived_entities": {"archived_for": "1 day", "batch_size": 5},
    "update_entity_embedding": {
        "target_entity_id": 1,
        "new_embedding": VECTOR,
        "model_name": None,
        "model_version": None,
    },
    "next_embedding_batch": {"kind": "entity", "batch_size": 5, "after_id": 0, "job_id": None, "stripe": 3},
    "put_embedding_batch": {
        "kind": "entity",
        "ids": [1],
        "embeddings": [VECTOR],
        "text_hashes": [1],
        "model_id": 1,
        "job_id": None,
    },
    "rebase_all_embeddings": {"model_name": "next", "model_version": "1", "dimensions": 8},
    "rebase_switch": {"job_id": 1},
    "rebase_cancel": {"job_id": 1},
}
# These answer only while a job runs.
NOT_NOW = {"rebase_switch", "rebase_cancel"}
# Arguments that may be NULL: what is left out, or not filtered by.
OPTIONAL = {
    ("entity_text", "name"),
    ("entity_text", "description"),
    ("insert_entity", "embedding"),
    ("insert_entity", "label"),
    ("insert_entity", "model_name"),
    ("insert_entity", "model_version"),
    ("update_entity", "entity_name"),
    ("update_entity", "description"),
    ("update_entity", "language"),
    ("get_entity_attributes", "attribute_names"),
    ("find_entities_sharing_attributes", "attribute_names"),
    ("insert_relationship", "path"),
    ("get_entity_relationships", "relationship_types"),
    ("find_entity_connection_paths", "relationship_types"),
    ("find_entities_by_relationship_pattern", "start_entity_id"),
    ("find_similar_entities_ann", "ef_search"),
    ("hybrid_entity_search", "candidates"),
    ("insert_external_resource", "embedding"),
    ("insert_external_resource", "model_name"),
    ("insert_external_resource", "model_version"),
    ("get_entity_resources", "query"),
    ("find_similar_resources", "ef_search"),
    ("update_entity_embedding", "model_name"),
    ("update_entity_embedding", "model_version"),
    ("next_embedding_batch", "job_id"),
    ("next_embedding_batch", "stripe"),
    ("put_embedding_batch", "job_id"),
}
NASTY = "'); DROP TABLE vectuned_entities.entities; -- \\ %s $1 & | ! <-> \" é"
HOSTILE: dict[str, list[Any]] = {
    "text": ["", "   ", NASTY, "x" * 1_100_000],
    "integer": [-1, 0, 2**31 - 1],
    "bigint": [-1, 0, 2**63 - 1],
    "double precision": [-1.5, 1.5, "NaN", "Infinity", "-Infinity"],
    "bigint[]": [[], [None], [-1], [1] * 10_001, [[1, 2], [3, 4]]],
    "text[]": [[], [None], [NASTY], ["x"] * 1_001],
    "vector": ["[1,2,3]", "[" + ",".join("0" for _ in range(256)) + "]"],
    "vector[]": [[], ["[1,2,3]"], [VECTOR, VECTOR]],
    "jsonb": [
        "[]",
        "null",
        '"x"',
        json.dumps({"x": None}),
        json.dumps({"": "y"}),
        json.dumps({NASTY: NASTY}),
    ],
    "regconfig": ["simple"],
    "interval": ["0", "-1 day"],
    "boolean": [True, False],
    "timestamp with time zone": ["infinity", "2000-01-01"],
    "ltree": [""],
    "lquery": ["*", "!n00001740"],
}


@pytest.fixture(scope="module")
def functions(shared: EntityStore) -> dict[str, dict[str, str]]:
    """The public functions, and the types of their arguments by name."""
    rows = shared.conn.execute(
        "SELECT p.proname, a.name, format_type(a.type, NULL) "
        "FROM pg_proc p LEFT JOIN LATERAL unnest(p.proargnames[:p.pronargs], p.proargtypes::oid[]) "
        "AS a (name, type) ON true WHERE p.pronamespace = 'vectuned_entities'::regnamespace "
        "AND p.proname !~ '^_' ORDER BY 1"
    ).fetchall()
    found: dict[str, dict[str, str]] = {}
    for function, argument, type_ in rows:
        found.setdefault(function, {}).update({argument: type_} if argument else {})
    return found


def call(conn: Connection, function: str, values: dict[str, Any], types: dict[str, str]) -> str:
    """Call a function and roll back; return the SQLSTATE, '' on success."""
    arguments = ", ".join(f"{name} => %({name})s::{types[name]}" for name in values)
    said = psycopg.Error()
    try:
        with conn.transaction(force_rollback=True):
            conn.execute("SET LOCAL statement_timeout = '5s'")
            conn.execute(raw(f"SELECT * FROM vectuned_entities.{function}({arguments})"), values).fetchall()
    except psycopg.Error as error:
        said = error
    # Every error has a hint.
    if said.sqlstate in ("22023", "P0002", "55000"):
        assert said.diag.message_hint, (function, said.diag.message_primary)
    return said.sqlstate or ""


def test_arguments_cover_every_function(functions: dict[str, dict[str, str]]) -> None:
    assert {name: set(types) for name, types in functions.items()} == {
        name: set(values) for name, values in GOOD.items()
    }


def test_functions_run_with_the_callers_rights_and_a_pinned_path(shared: EntityStore) -> None:
    rows = shared.conn.execute(
        "SELECT p.proname, p.prosecdef, p.proconfig::text FROM pg_proc p "
        "WHERE p.pronamespace = 'vectuned_entities'::regnamespace"
    ).fetchall()
    assert len(rows) > 60
    assert not [
        name for name, definer, config in rows if definer or "search_path=pg_catalog, pg_temp" not in config
    ]


def test_functions_accept_valid_arguments(shared: EntityStore, functions: dict[str, dict[str, str]]) -> None:
    answers = {name: call(shared.conn, name, GOOD[name], types) for name, types in functions.items()}
    assert {name: state for name, state in answers.items() if state} == dict.fromkeys(NOT_NOW, "22023")


def test_functions_reject_meaningless_nulls(
    shared: EntityStore, functions: dict[str, dict[str, str]]
) -> None:
    accepted = set()
    for name, types in functions.items():
        for argument in types:
            state = call(shared.conn, name, {**GOOD[name], argument: None}, types)
            assert state in ("", "22023"), (name, argument, state)
            if not state:
                accepted.add((name, argument))
        if types and name != "entity_text":
            # NULLs only are never valid.
            assert call(shared.conn, name, dict.fromkeys(types), types) == "22023", name
    assert accepted == OPTIONAL


def hostile(functions: dict[str, dict[str, str]]) -> Iterator[tuple[str, str, Any]]:
    for name, types in functions.items():
        for argument, type_ in types.items():
            yield from ((name, argument, value) for value in HOSTILE[type_])


def test_functions_answer_or_reject_hostile_arguments(
    shared: EntityStore, functions: dict[str, dict[str, str]]
) -> None:
    before = one(shared.conn, "SELECT count(*) FROM vectuned_entities.entities")
    refused = 0
    for name, argument, value in hostile(functions):
        state = call(shared.conn, name, {**GOOD[name], argument: value}, functions[name])
        assert state in {"", *ANSWERS}, (name, argument, str(value)[:50], state)
        refused += state == "22023"
    assert refused > 150
    assert one(shared.conn, "SELECT count(*) FROM vectuned_entities.entities") == before


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("find_similar_entity('[1,2]')", "query has 2 dimensions, but those of the store have 256"),
        ("find_similar_entity(NULL)", "query is missing or invalid"),
        ("find_entity_connection_paths(1, 2, -1)", "max_hops must be between 1 and 6, got -1"),
        ("find_entity_connection_paths(1, 1)", "end_entity_id is missing or invalid"),
        ("get_entity_relationships(1, '{nothing}')", "there is no relationship type nothing"),
        ("get_entity_relationships(1, direction => 'up')", "direction must be one of out, in, both, got up"),
        ("archive_entity(0)", "there is no entity 0"),
        ("find_relationship_siblings('')", "entity_path is missing or invalid"),
    ],
)
def test_errors_name_the_argument(shared: EntityStore, call: str, said: str) -> None:
    with pytest.raises(psycopg.Error) as raised:
        shared.conn.execute(raw(f"SELECT vectuned_entities.{call}"))
    assert (raised.value.diag.message_primary or "").startswith(said)


def test_find_and_get_functions_work_read_only(
    shared: EntityStore, functions: dict[str, dict[str, str]]
) -> None:
    reading = [
        name for name in functions if name.startswith(("find_", "get_", "hybrid_", "next_", "current_"))
    ]
    assert len(reading) > 20
    with shared.conn.transaction():
        shared.conn.execute("SET TRANSACTION READ ONLY")
        for name in [*reading, "touch_entities"]:
            # Twice: the first call leaves nothing behind that breaks the second.
            for _ in range(2):
                assert call(shared.conn, name, GOOD[name], functions[name]) == "", name
    assert one(shared.conn, "SELECT count(*) FROM vectuned_entities.reference_tracking") == 0


def test_searches_need_only_select(shared: EntityStore) -> None:
    tables = "ALL TABLES IN SCHEMA vectuned_entities"
    grants = ("USAGE ON SCHEMA vectuned_entities", f"SELECT ON {tables}")
    with plain_role(shared.conn, shared.conn.info.dsn, *grants) as reader:
        # The first statement of a session, when pgvector is not loaded yet.
        found = reader.execute(
            "SELECT * FROM vectuned_entities.find_similar_entity(%s::vector, 3)", (VECTOR,)
        ).fetchall()
        assert len(found) == 3
        assert EntityStore(reader).find_descendants(1, 5)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            EntityStore(reader).archive(1)


def test_tables_have_keys_time_zones_and_quotable_names(shared: EntityStore) -> None:
    conn = shared.conn
    unkeyed = conn.execute(
        "SELECT relname FROM pg_class c "
        "WHERE relnamespace = 'vectuned_entities'::regnamespace AND relkind = 'r' "
        "AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'p')"
    ).fetchall()
    zoneless = conn.execute(
        "SELECT attrelid::regclass, attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
        "WHERE c.relnamespace = 'vectuned_entities'::regnamespace AND a.atttypid = 'timestamp'::regtype"
    ).fetchall()
    hanging = conn.execute(
        "SELECT conrelid::regclass, conname FROM pg_constraint WHERE contype = 'f' AND confdeltype <> 'c' "
        "AND confrelid IN ('vectuned_entities.entities'::regclass, "
        "'vectuned_entities.external_resources'::regclass)"
    ).fetchall()
    assert (unkeyed, zoneless, hanging) == ([], [], [])
    # Callers would have to quote parameters and columns with reserved words as names.
    reserved = conn.execute(
        "SELECT p.proname, n FROM pg_proc p, unnest(p.proargnames) n JOIN pg_get_keywords() k ON k.word = n "
        "WHERE p.pronamespace = 'vectuned_entities'::regnamespace AND k.catcode = 'R'"
    ).fetchall()
    assert reserved == []
    lists = one(
        conn,
        "SELECT count(*) FROM pg_indexes WHERE schemaname = 'vectuned_entities' AND indexdef ~ 'ivfflat'",
    )
    assert lists == 0


def test_install_entities_creates_extensions_and_takes_any_dimensions(plain_conn: Connection) -> None:
    plain_conn.execute(
        "DROP EXTENSION vector; CREATE SCHEMA elsewhere; CREATE EXTENSION ltree SCHEMA elsewhere"
    )
    assert install_entities(plain_conn, 3).created
    plain_conn.execute(entity_queries()["register_model"], {"name": "m", "version": "1", "dimensions": 3})
    for name, vector in (("a", "[1,0,0]"), ("b", "[0,1,0]"), ("c", "[0,1,1]")):
        plain_conn.execute("SELECT vectuned_entities.insert_entity(%s, %s::vector)", (name, vector))
    plain_conn.execute("SELECT vectuned_entities.insert_relationship(2, 1, 'is')")
    plain_conn.execute("SELECT vectuned_entities.insert_relationship(3, 1, 'is')")
    assert one(plain_conn, "SELECT vectuned_entities.rebuild_entity_paths('{is}')") == 3
    assert one(plain_conn, "SELECT name FROM vectuned_entities.find_similar_entity('[0,2,2]', 1)") == "c"
    assert one(plain_conn, "SELECT name FROM vectuned_entities.find_entity_siblings(2)") == "c"
    assert one(plain_conn, "SELECT path::text FROM vectuned_entities.find_relationships('e1')") == "e1.e2"
    assert not install_entities(plain_conn).created
