-- Statements of the reasoning graph's nodes on the entity store. They only read, except for record_feedback.
-- {vectors} stands for the schema of pgvector and {ltree} for that of ltree; a brace of SQL is written twice.

-- name: read_question
-- The lexemes of a question, and the model of the store's vectors (NULLs before the first model is registered).
SELECT tsvector_to_array(to_tsvector(%(language)s::text::regconfig, %(question)s)) AS lexemes,
       m.model_id, m.name, m.version, m.dimensions
FROM vectuned_entities.current_embedding_model() m;

-- name: common_words
-- From the planner's statistics: the most common lexemes, the share of entities that have each, and the number of entities
-- (0 before the first ANALYZE).
SELECT s.most_common_elems::text::text[] AS lexemes, s.most_common_elem_freqs AS shares, greatest(c.reltuples, 0)::bigint AS total
FROM pg_class c
LEFT JOIN pg_stats s ON s.schemaname = 'vectuned_entities' AND s.tablename = 'entities' AND s.attname = 'document'
WHERE c.oid = 'vectuned_entities.entities'::regclass;

-- name: count_words
-- The number of entities that have each lexeme, counted up to max_count.
SELECT w.lexeme, (SELECT count(*) FROM (SELECT FROM vectuned_entities.entities e WHERE e.document @@ w.lexeme_query::tsquery
                                        LIMIT %(max_count)s) h) AS entities
FROM unnest(%(lexemes)s::text[], %(queries)s::text[]) AS w (lexeme, lexeme_query);

-- name: find_attributes
-- The attribute values of entities.
SELECT l.entity_id, a.name AS attribute, v.value
FROM vectuned_entities.entity_attribute_link l
JOIN vectuned_entities.attributes a USING (attribute_id)
JOIN vectuned_entities.attribute_values v USING (value_id)
WHERE l.entity_id = ANY (%(entities)s::bigint[])
ORDER BY l.entity_id, a.name, v.value LIMIT %(max_values)s;

-- name: find_related
-- The relationships of highest confidence of each entity, in both directions, with active entities.
SELECT u.id AS entity_id, r.other AS other_id, t.name AS type, r.outward, r.confidence, r.updated_at
FROM unnest(%(entities)s::bigint[]) AS u (id)
CROSS JOIN LATERAL (
    SELECT b.* FROM (
        (SELECT o.target_id AS other, o.type_id, true AS outward, o.confidence, o.updated_at, o.relationship_id
         FROM vectuned_entities.relationships o WHERE o.source_id = u.id
         ORDER BY o.confidence DESC, o.relationship_id LIMIT %(per_entity)s)
        UNION ALL
        (SELECT i.source_id, i.type_id, false, i.confidence, i.updated_at, i.relationship_id
         FROM vectuned_entities.relationships i WHERE i.target_id = u.id
         ORDER BY i.confidence DESC, i.relationship_id LIMIT %(per_entity)s)
    ) b
    -- A relationship stored in both directions is returned once, outward.
    WHERE b.outward OR NOT EXISTS (SELECT FROM vectuned_entities.relationships x
                                   WHERE x.source_id = u.id AND x.target_id = b.other)
    ORDER BY b.outward DESC, b.confidence DESC, b.relationship_id LIMIT %(per_entity)s
) r
JOIN vectuned_entities.relationship_types t ON t.type_id = r.type_id
JOIN vectuned_entities.entities e ON e.entity_id = r.other AND e.status = 'active';

-- name: find_above
-- The entities above each entity in every hierarchy, along its shortest path, nearest first.
SELECT p.entity_id, a.entity_id AS ancestor_id, p.hierarchy, (p.level - u.place)::int AS levels
FROM vectuned_entities.entity_paths p
CROSS JOIN LATERAL unnest(string_to_array({ltree}.ltree2text(p.path), '.')) WITH ORDINALITY AS u (label, place)
JOIN vectuned_entities.entities a ON a.label = u.label AND a.status = 'active'
WHERE p.entity_id = ANY (%(entities)s::bigint[]) AND p.path_no = 1
  AND u.place BETWEEN p.level - %(max_levels)s AND p.level - 1
ORDER BY p.entity_id, p.hierarchy, u.place DESC;

-- name: find_alike
-- The entities nearest to the embedding of one, that one included, and the id of the search.
SELECT n.id, 1 - n.distance AS similarity, n.query_id
FROM vectuned_entities._nearest(
    (SELECT e.embedding FROM vectuned_entities.entities e WHERE e.entity_id = %(entity)s), %(count)s) n;

-- name: find_sharing
-- Entities with the same attribute values as one. Values that more than max_holders entities have do not distinguish
-- entities and are ignored.
SELECT o.other AS other_id, count(*)::int AS shared, array_agg(a.name || ' ' || v.value ORDER BY a.name, v.value) AS shared_values
FROM vectuned_entities.entity_attribute_link l
JOIN vectuned_entities.attributes a USING (attribute_id)
JOIN vectuned_entities.attribute_values v USING (value_id)
CROSS JOIN LATERAL (
    SELECT b.other, count(*) OVER () AS holders
    FROM (SELECT s.entity_id AS other FROM vectuned_entities.entity_attribute_link s
          WHERE s.value_id = l.value_id AND s.attribute_id = l.attribute_id LIMIT %(max_holders)s + 1) b
) o
WHERE l.entity_id = %(entity)s AND o.holders <= %(max_holders)s AND o.other <> %(entity)s
GROUP BY o.other ORDER BY count(*) DESC, o.other LIMIT %(max_results)s;

-- name: find_active
-- Active entities by id.
SELECT e.entity_id AS id, e.label, e.name, e.description FROM vectuned_entities.entities e
WHERE e.entity_id = ANY (%(entities)s::bigint[]) AND e.status = 'active';

-- name: find_linked_texts
-- The beginnings of resources linked to entities, those nearest to the question first.
SELECT r.resource_id AS id, ARRAY[r.entity_id] AS entity_ids, r.uri, r.resource_type AS type,
       left(r.content, %(max_characters)s) AS content, r.confidence, coalesce(r.similarity, 0) AS similarity
FROM vectuned_entities.get_entity_resources(%(entities)s::bigint[], %(max_results)s, %(query)s) r
WHERE r.content <> '';

-- name: find_similar_texts
-- The beginnings of resources near the question, whichever entities they are linked to.
SELECT r.resource_id AS id, r.entity_ids, r.uri, r.resource_type AS type, left(r.content, %(max_characters)s) AS content,
       NULL::float8 AS confidence, r.similarity
FROM vectuned_entities.find_similar_resources(%(query)s, %(threshold)s, %(max_results)s) r
WHERE r.content <> '';

-- name: record_feedback
-- Records which of the entities that a search returned were relevant; returns what became of it.
SELECT vectuned.record_feedback(%(query_id)s, %(relevant)s::text[], %(irrelevant)s::text[]) AS answer;

-- name: record_answer_feedback
-- Records whether an entity is the answer to a question; returns what became of it.
SELECT vectuned_entities.record_answer_feedback(%(question)s, %(entity_id)s, %(is_right)s, %(by_person)s) AS answer;

-- name: count_entities
-- Number of entities.
SELECT count(*) AS total FROM vectuned_entities.entities;

-- name: disable_jit
-- Turns JIT compilation off: the nodes' plans run once and cost less than compiling them.
SET jit = off;
