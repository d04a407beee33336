"""Searches of the entity store, by vector and by text: their results and the indexes they use."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from tests.integration.table_helpers import Connection, enable, one, raw, scans, text

from vectuned.config.errors import UsageError
from vectuned.reasoning.embedding.embedder import StaticEmbedder, Vectors
from vectuned.reasoning.store.store import EntityStore
from vectuned.reasoning.wordnet.corpus import Corpus

TABLE = "vectuned_entities.entities"
HNSW = "entities_embedding_idx"


@pytest.fixture(scope="module")
def queries(synsets: Corpus, embedder: StaticEmbedder) -> tuple[list[str], Vectors]:
    """Forty held-out usage examples, and their vectors."""
    found = [query.text for query in synsets.held_out_queries()][:40]
    return found, embedder.encode(found)


def exact(conn: Connection, query: Vectors, k: int) -> list[tuple[int, float]]:
    rows = conn.execute(
        "SELECT entity_id, 1 - d FROM (SELECT entity_id, embedding <=> %s::vector AS d "
        "FROM vectuned_entities.entities OFFSET 0) t ORDER BY d, entity_id LIMIT %s",
        (text(query), k),
    ).fetchall()
    return [(row[0], row[1]) for row in rows]


def test_find_similar_returns_the_nearest_through_the_index(
    shared: EntityStore, queries: tuple[list[str], Vectors]
) -> None:
    hits = 0
    with scans(shared.conn, TABLE) as used:
        for query in queries[1]:
            found = shared.find_similar(query, 10)
            similarities = [match.similarity for match in found]
            assert similarities == sorted(similarities, reverse=True)
            wanted = exact(shared.conn, query, 10)
            hits += len({match.id for match in found} & {id_ for id_, _ in wanted})
            assert similarities[0] <= wanted[0][1] + 1e-6
            assert all(match.query_id is None for match in found)
    assert used == {HNSW: len(queries[1])}
    assert hits > 0.9 * 10 * len(queries[1])


def test_find_similar_honours_ef_search_and_threshold(
    shared: EntityStore, queries: tuple[list[str], Vectors]
) -> None:
    query = queries[1][0]
    wanted = exact(shared.conn, query, 300)
    found = shared.find_similar(query, 300, ef_search=1)
    # A low ef_search still returns max_results rows.
    assert len(found) == 300
    threshold = wanted[9][1]
    near = shared.find_similar(query, 300, threshold=threshold, ef_search=1000)
    assert [match.id for match in near] == [id_ for id_, similarity in wanted if similarity >= threshold]
    assert one(shared.conn, "SHOW hnsw.ef_search") == "40"


def test_find_similar_resources_uses_the_index(
    shared: EntityStore, synsets: Corpus, embedder: StaticEmbedder
) -> None:
    example, owners = next(iter(synsets.training_examples().items()))
    (query,) = embedder.encode([example])
    with scans(shared.conn, "vectuned_entities.external_resources") as used:
        best = shared.find_similar_resources(query, 3)[0]
    assert used == {"external_resources_embedding_idx": 1}
    assert (best.content, set(best.entity_ids)) == (example, set(shared.find_ids(owners).values()))
    assert best.similarity == pytest.approx(1, abs=1e-5)
    linked = shared.get_entity_resources(best.entity_ids, query=query)
    assert linked[0].content == example
    assert linked[0].confidence == 1


def test_load_leaves_out_held_out_examples(shared: EntityStore, synsets: Corpus) -> None:
    loaded = {
        row[0] for row in shared.conn.execute("SELECT content FROM vectuned_entities.external_resources")
    }
    held = {query.text for query in synsets.held_out_queries()}
    assert len(loaded) > 3 * len(held) > 300
    assert not loaded & held


def test_find_similar_skips_entities_without_embedding(store: EntityStore, embedder: StaticEmbedder) -> None:
    (query,) = embedder.encode(["a large dog"])
    first = store.find_similar(query, 1)[0]
    store.insert_entity("large dog", "not embedded yet")
    assert store.find_similar(query, 1)[0] == first
    # Without an index, where the table is sorted, it does not either.
    store.conn.execute("DROP INDEX vectuned_entities.entities_embedding_idx")
    found = store.find_similar(query, 1000)
    assert len(found) == 1000
    assert found[0] == first


def test_find_similar_uses_vectuned_for_a_tuned_column(store: EntityStore, embedder: StaticEmbedder) -> None:
    enable(store.conn, TABLE, sample_rate=1.0)
    (query,) = embedder.encode(["a large dog"])
    found = store.find_similar(query, 5)
    assert [match.id for match in found] == [id_ for id_, _ in exact(store.conn, query, 5)]
    assert len({match.query_id for match in found}) == 1
    assert one(store.conn, "SELECT query_id FROM vectuned.inbox") == found[0].query_id
    hybrid = store.hybrid_search("large dog", query, 5)
    assert {match.query_id for match in hybrid} != {None}
    feedback = one(
        store.conn, "SELECT vectuned.record_feedback(%s, ARRAY[%s])", found[0].query_id, str(found[0].id)
    )
    assert feedback == "recorded"
    # Searches work even if the tuner fails.
    forms = store.conn.execute(
        "SELECT oid::regprocedure::text FROM pg_proc "
        "WHERE pronamespace = 'vectuned'::regnamespace AND proname = 'search'"
    ).fetchall()
    for (form,) in forms:
        store.conn.execute(f"DROP FUNCTION {form}".encode())
    again = store.find_similar(query, 5)
    assert [match.id for match in again] == [match.id for match in found]
    assert again[0].query_id is None


def test_hybrid_search_scores_each_candidate_by_text_and_vector(
    shared: EntityStore, queries: tuple[list[str], Vectors]
) -> None:
    for words, query in zip(queries[0][:10], queries[1], strict=False):
        found = shared.hybrid_search(words, query, 20)
        similar = dict(exact(shared.conn, query, 2000))
        for match in found:
            assert match.vector_score == pytest.approx(max(0, similar[match.id]), abs=1e-6)
            assert 0 <= match.text_score <= 1
            assert match.score == pytest.approx(0.3 * match.text_score + 0.7 * match.vector_score)
        assert [m.score for m in found] == sorted((m.score for m in found), reverse=True)
        # No candidate of either kind with a higher score was left out.
        assert {m.id for m in shared.find_similar(query, 5)} & {m.id for m in found}


def test_hybrid_search_finds_words_that_vectors_miss(shared: EntityStore, embedder: StaticEmbedder) -> None:
    entity = shared.get_entities([max(shared.find_ids(["n00001740"]).values())])[0]
    (far,) = embedder.encode(["chemical compound of nitrogen"])
    assert entity.id not in {match.id for match in shared.find_similar(far, 100)}
    name = entity.name.split(",")[0]
    found = {match.id: match for match in shared.hybrid_search(f'"{name}" perceived', far, text_weight=1)}
    assert found[entity.id].text_score == 1
    assert found[entity.id].vector_score < 0.5


def test_hybrid_search_beats_text_and_vectors_alone_on_held_out_examples(
    shared: EntityStore, synsets: Corpus, embedder: StaticEmbedder
) -> None:
    asked = synsets.held_out_queries()[:100]
    vectors = embedder.encode([query.text for query in asked])
    ids = shared.find_ids([query.source for query in asked])
    hits = np.zeros(3, int)
    for query, vector in zip(asked, vectors, strict=True):
        sides = (
            shared.find_similar(vector, 5),
            shared.hybrid_search(query.text, vector, 5, text_weight=1, vector_weight=0),
            shared.hybrid_search(query.text, vector, 5),
        )
        hits += [ids[query.source] in {match.id for match in side} for side in sides]
    meaning, words, both = hits.tolist()
    assert both > meaning
    assert both > words


def test_hybrid_search_accepts_any_text(shared: EntityStore, embedder: StaticEmbedder) -> None:
    (query,) = embedder.encode(["animal"])
    for words in (
        "",
        "the of",
        "dog & ! | <->",
        "(((",
        "'dog':*",
        "animal -domestic",
        '"an animal" or plant',
        "\\",
    ):
        found = shared.hybrid_search(words, query, 5)
        assert len(found) == 5
    without = shared.hybrid_search("animal -domestic", query, 50, text_weight=1)
    named = shared.get_entities([match.id for match in without if match.text_score > 0])
    assert named
    assert not [entity for entity in named if "domestic" in entity.name + entity.description]


def test_hybrid_search_supports_languages_and_fusions(store: EntityStore, embedder: StaticEmbedder) -> None:
    german = store.insert_entity("Häuser", "Gebäude zum Wohnen", language="german")
    store.insert_entity("houses of glass", "to live in")
    (query,) = embedder.encode(["house"])
    found = {m.id: m for m in store.hybrid_search("haus", query, language="german", text_weight=1)}
    # Words are stemmed by the language; only entities of that language match them.
    assert [id_ for id_, match in found.items() if match.text_score > 0] == [german]
    assert german not in {m.id for m in store.hybrid_search("haus", query)}
    fused = store.hybrid_search("live in houses", query, 20, fusion="reciprocal")
    scores = [match.score for match in fused]
    assert scores == sorted(scores, reverse=True)
    assert max(scores) <= 1
    assert fused[0].text_score > 0
    with pytest.raises(UsageError, match=r"fusion must be one of weighted, reciprocal.*\(Omit it"):
        store.hybrid_search("x", query, fusion=cast(Any, "best"))
    with pytest.raises(UsageError, match="One of them must be above 0"):
        store.hybrid_search("x", query, text_weight=0, vector_weight=0)


@pytest.mark.parametrize(
    ("table", "condition", "index"),
    [
        ("entities", "document @@ websearch_to_tsquery('english', 'dog')", "entities_document_idx"),
        ("entities", "needs_embedding AND status = 'active'", "entities_needs_embedding_idx"),
        ("entity_paths", "path <@ 'n00001740.n00002137.n00020827'", "entity_paths_path_idx"),
        ("entity_paths", "parent = 'n00001740.n00001930'", "entity_paths_parent_idx"),
        ("relationships", "path @> 'n00001740.n00001930'", "relationships_path_idx"),
        ("relationships", "source_id = 5", "relationships_source"),
        ("relationships", "target_id = 5", "relationships_target_idx"),
        ("entity_attribute_link", "value_id = 5", "entity_attribute_link_value_idx"),
    ],
)
def test_text_conditions_use_their_index(shared: EntityStore, table: str, condition: str, index: str) -> None:
    statement = f"EXPLAIN SELECT * FROM vectuned_entities.{table} WHERE {condition}"
    plan = "\n".join(row[0] for row in shared.conn.execute(raw(statement)))
    assert index in plan
