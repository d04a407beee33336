-- Statements of the nodes of the reasoning graph. {vectors} stands for the schema of pgvector, {ltree} for that of ltree.
-- All but tell and use_entities only read.

-- name: extension_schemas
-- Schemas of pgvector and ltree.
SELECT e.extname, n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname IN ('vector', 'ltree');

-- name: store_state
-- Whether the entity store is installed.
SELECT to_regclass('vectuned_entities.entities') IS NOT NULL AS installed;

-- name: read_question
-- Lexemes of the question, and the model that its vector must be of.
SELECT tsvector_to_array(to_tsvector(%(language)s::text::regconfig, %(question)s)) AS lexemes,
       m.name, m.version, m.dimensions
FROM vectuned_entities.current_embedding_model() m;

-- name: common_words
-- Most common lexemes and the share of entities that have each, as of the last ANALYZE; and the number of entities.
SELECT s.most_common_elems::text::text[] AS lexemes, s.most_common_elem_freqs AS shares, greatest(c.reltuples, 0)::bigint AS entities
FROM pg_class c
LEFT JOIN pg_stats s ON s.schemaname = 'vectuned_entities' AND s.tablename = 'entities' AND s.attname = 'document'
WHERE c.oid = 'vectuned_entities.entities'::regclass;

-- name: count_words
-- How many entities have each of some lexemes, counted up to `most`.
SELECT w.lexeme, (SELECT count(*) FROM (SELECT FROM vectuned_entities.entities e WHERE e.document @@ w.lexeme_query::tsquery
                                        LIMIT %(most)s) h) AS entities
FROM unnest(%(lexemes)s::text[], %(queries)s::text[]) AS w (lexeme, lexeme_query);

-- name: identify
-- Entities near the vector of the question and entities named by its words, each scored on both. names is the share of the
-- weight of the question's words that occur in the entity's name; coverage is the share of the words of the name that occur
-- in the question; similarity is the cosine similarity. The score is their weighted sum.
WITH near AS MATERIALIZED (
    SELECT n.id, n.query_id FROM vectuned_entities._nearest(%(query)s, %(neighbours)s, %(ef_search)s::int) n
), named AS MATERIALIZED (
    SELECT e.entity_id AS id
    FROM vectuned_entities.entities e
    CROSS JOIN LATERAL (
        SELECT sum(w.weight) AS names, count(w.weight)::float8 / count(*) AS coverage
        FROM unnest(tsvector_to_array(ts_filter(e.document, '{{a}}'))) l
        LEFT JOIN unnest(%(lexemes)s::text[], %(weights)s::float8[]) AS w (lexeme, weight) ON w.lexeme = l
    ) m
    WHERE ts_filter(e.document, '{{a}}') @@ %(words)s::tsquery AND e.status = 'active'
    ORDER BY m.names DESC NULLS LAST, m.coverage DESC LIMIT %(named)s
), found AS (
    SELECT id FROM near UNION SELECT id FROM named
), scored AS MATERIALIZED (
    SELECT e.entity_id, e.embedding, coalesce(m.names, 0) AS names, m.coverage,
           coalesce(1 - (e.embedding OPERATOR({vectors}.<=>) %(query)s), 0) AS similarity
    FROM found b
    JOIN vectuned_entities.entities e ON e.entity_id = b.id
    CROSS JOIN LATERAL (
        SELECT sum(w.weight) AS names, count(w.weight)::float8 / greatest(count(*), 1) AS coverage
        FROM unnest(tsvector_to_array(ts_filter(e.document, '{{a}}'))) l
        LEFT JOIN unnest(%(lexemes)s::text[], %(weights)s::float8[]) AS w (lexeme, weight) ON w.lexeme = l
    ) m
), best AS (
    SELECT s.*, %(similarity_weight)s * s.similarity + %(names_weight)s * s.names + %(coverage_weight)s * s.coverage AS score
    FROM scored s ORDER BY score DESC, s.entity_id LIMIT %(most)s
)
SELECT e.entity_id, e.label, e.name, e.description, b.score, b.similarity, b.names, b.coverage, b.embedding,
       (SELECT n.query_id FROM near n LIMIT 1) AS query_id, (SELECT array_agg(n.id) FROM near n) AS near_ids
FROM best b JOIN vectuned_entities.entities e USING (entity_id)
ORDER BY b.score DESC, e.entity_id;

-- name: attributes_of
-- Attributes of entities.
SELECT l.entity_id, a.name AS attribute, v.value
FROM vectuned_entities.entity_attribute_link l
JOIN vectuned_entities.attributes a USING (attribute_id)
JOIN vectuned_entities.attribute_values v USING (value_id)
WHERE l.entity_id = ANY (%(entities)s::bigint[])
ORDER BY l.entity_id, a.name, v.value LIMIT %(most)s;

-- name: related_to
-- Relationships of each of some entities in both directions, in order of confidence, with active entities.
SELECT u.id AS entity_id, r.other AS other_id, t.name AS relationship_type, r.outward, r.confidence, r.updated_at
FROM unnest(%(entities)s::bigint[]) AS u (id)
CROSS JOIN LATERAL (
    SELECT b.* FROM (
        (SELECT o.target_id AS other, o.type_id, true AS outward, o.confidence, o.updated_at, o.relationship_id
         FROM vectuned_entities.relationships o WHERE o.source_id = u.id
         ORDER BY o.confidence DESC, o.relationship_id LIMIT %(each)s)
        UNION ALL
        (SELECT i.source_id, i.type_id, false, i.confidence, i.updated_at, i.relationship_id
         FROM vectuned_entities.relationships i WHERE i.target_id = u.id
         ORDER BY i.confidence DESC, i.relationship_id LIMIT %(each)s)
    ) b
    -- A relationship stored in both directions is returned once, as outward.
    WHERE b.outward OR NOT EXISTS (SELECT FROM vectuned_entities.relationships x
                                   WHERE x.source_id = u.id AND x.target_id = b.other)
    ORDER BY b.outward DESC, b.confidence DESC, b.relationship_id LIMIT %(each)s
) r
JOIN vectuned_entities.relationship_types t ON t.type_id = r.type_id
JOIN vectuned_entities.entities e ON e.entity_id = r.other AND e.status = 'active';

-- name: above
-- Entities above each of some entities in every hierarchy, by its shortest path, nearest first.
SELECT p.entity_id, a.entity_id AS ancestor_id, p.hierarchy, (p.level - u.place)::int AS distance
FROM vectuned_entities.entity_paths p
CROSS JOIN LATERAL unnest(string_to_array({ltree}.ltree2text(p.path), '.')) WITH ORDINALITY AS u (label, place)
JOIN vectuned_entities.entities a ON a.label = u.label AND a.status = 'active'
WHERE p.entity_id = ANY (%(entities)s::bigint[]) AND p.path_no = 1
  AND u.place BETWEEN p.level - %(levels)s AND p.level - 1
ORDER BY p.entity_id, p.hierarchy, u.place DESC;

-- name: alike
-- The nearest entities to one, by its own embedding.
SELECT n.id AS entity_id, 1 - n.distance AS similarity, n.query_id
FROM vectuned_entities._nearest(
    (SELECT e.embedding FROM vectuned_entities.entities e WHERE e.entity_id = %(entity)s), %(count)s) n;

-- name: sharing
-- Other entities with the same attribute values; ignores values that too many entities have.
SELECT o.other AS entity_id, count(*)::int AS shared, array_agg(a.name || ' ' || v.value ORDER BY a.name, v.value) AS shared_values
FROM vectuned_entities.entity_attribute_link l
JOIN vectuned_entities.attributes a USING (attribute_id)
JOIN vectuned_entities.attribute_values v USING (value_id)
CROSS JOIN LATERAL (
    SELECT b.other, count(*) OVER () AS holders
    FROM (SELECT s.entity_id AS other FROM vectuned_entities.entity_attribute_link s
          WHERE s.value_id = l.value_id AND s.attribute_id = l.attribute_id LIMIT %(holders)s + 1) b
) o
WHERE l.entity_id = %(entity)s AND o.holders <= %(holders)s AND o.other <> %(entity)s
GROUP BY o.other ORDER BY count(*) DESC, o.other LIMIT %(most)s;

-- name: entities_by_id
-- Active entities by id.
SELECT e.entity_id, e.label, e.name, e.description FROM vectuned_entities.entities e
WHERE e.entity_id = ANY (%(entities)s::bigint[]) AND e.status = 'active';

-- name: resources_of
-- Resources of some entities, the most similar to the question first.
SELECT r.resource_id, r.uri, r.resource_type, left(r.content, %(characters)s) AS content, coalesce(r.similarity, 0) AS similarity,
       r.entity_id
FROM vectuned_entities.get_entity_resources(%(entities)s::bigint[], %(most)s, %(query)s) r
WHERE r.content <> '';

-- name: nearest_resources
-- Resources similar to the question, whichever entity they belong to.
SELECT r.resource_id, r.uri, r.resource_type, left(r.content, %(characters)s) AS content, r.similarity,
       r.entity_ids[1] AS entity_id
FROM vectuned_entities.find_similar_resources(%(query)s, %(least)s, %(most)s) r
WHERE r.content <> '';

-- name: tell
-- Records feedback on a search.
SELECT vectuned.record_feedback(%(query_id)s, %(relevant)s::text[], %(irrelevant)s::text[]) AS outcome;

-- name: use_entities
-- Counts a use of entities; returns how many exist.
SELECT vectuned_entities.touch_entities(%(entities)s::bigint[]) AS touched;
