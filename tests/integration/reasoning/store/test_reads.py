"""What the nodes read of the store: cached entities, and lexemes as queries."""

from __future__ import annotations

from tests.integration.reasoning.store_helpers import connect
from tests.integration.table_helpers import one

from vectuned.reasoning.store.cache import EntityCache
from vectuned.reasoning.store.reads import prepare, read_entities
from vectuned.reasoning.store.store import EntityStore
from vectuned.reasoning.store.words import write_tsquery


def test_read_entities_from_the_cache_runs_no_statement(shared: EntityStore) -> None:
    cache = EntityCache(max_entities=2, seconds=60)
    with prepare(connect(shared)) as conn:
        found = read_entities(conn, [1, 2, 3], cache)
        assert len(found) == 3
        assert len(cache) == 2
    assert read_entities(conn, [2, 3], cache).keys() == {2, 3}  # the connection is closed
    assert EntityCache(seconds=0).get([1]) == {}


def test_write_tsquery_quotes_lexemes(shared: EntityStore) -> None:
    odd = ["it's", "back\\slash", "a|b", "!x", "a:b"]
    assert one(shared.conn, "SELECT tsvector_to_array(array_to_tsvector(%s)) <@ %s", odd, odd)
    assert one(shared.conn, "SELECT array_to_tsvector(%s) @@ %s::tsquery", odd[1:2], write_tsquery(odd[1:2]))
    assert not one(
        shared.conn, "SELECT array_to_tsvector(%s) @@ %s::tsquery", odd[1:], write_tsquery(odd[:1])
    )
