-- The statements of the reasoning graph's nodes on the entity store; named like those of queries.sql.
-- {vectors} stands for the schema of pgvector, {ltree} for that of ltree. All read only, but for use_entities.

-- name: extension_schemas
SELECT e.extname, n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname IN ('vector', 'ltree');

-- name: store_state
-- Whether there is a store at all.
SELECT to_regclass('vectuned_entities.entities') IS NOT NULL;

-- name: read_question
-- The question's lexemes, and the model that its vector must be of.
SELECT tsvector_to_array(to_tsvector(%(language)s::text::regconfig, %(question)s)),
       m.name, m.version, m.dimensions
FROM vectuned_entities.current_embedding_model() m;

-- name: common_words
-- Lexemes of many entities and the share of entities that have them, as ANALYZE last saw it; and how many entities.
SELECT s.most_common_elems::text::text[], s.most_common_elem_freqs, greatest(c.reltuples, 0)::bigint
FROM pg_class c
LEFT JOIN pg_stats s ON s.schemaname = 'vectuned_entities' AND s.tablename = 'entities' AND s.attname = 'document'
WHERE c.oid = 'vectuned_entities.entities'::regclass;

-- name: count_words
-- How many entities have each of some lexemes, counted up to most.
SELECT w.lexeme, (SELECT count(*) FROM (SELECT FROM vectuned_entities.entities e WHERE e.document @@ w.lexeme_query::tsquery
                                        LIMIT %(most)s) h)
FROM unnest(%(lexemes)s::text[], %(queries)s::text[]) AS w (lexeme, lexeme_query);

-- name: identify
-- Entities near the question's vector, and entities named by its words, each scored on both:
-- names, the share of the words' weight that the entity's name has; coverage, the share of the name's words that the
-- question has; similarity, the cosine. The score is their weighted mean.
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
       (SELECT n.query_id FROM near n LIMIT 1), (SELECT array_agg(n.id) FROM near n)
FROM best b JOIN vectuned_entities.entities e USING (entity_id)
ORDER BY b.score DESC, e.entity_id;

-- name: attributes_of
SELECT l.entity_id, a.name, v.value
FROM vectuned_entities.entity_attribute_link l
JOIN vectuned_entities.attributes a USING (attribute_id)
JOIN vectuned_entities.attribute_values v USING (value_id)
WHERE l.entity_id = ANY (%(entities)s::bigint[])
ORDER BY l.entity_id, a.name, v.value LIMIT %(most)s;

-- name: related_to
-- The surest relationships of each of some entities, both ways, with active entities.
SELECT u.id, r.other, t.name, r.outward, r.confidence, r.updated_at
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
    -- What is written both ways is told once, outwards.
    WHERE b.outward OR NOT EXISTS (SELECT FROM vectuned_entities.relationships x
                                   WHERE x.source_id = u.id AND x.target_id = b.other)
    ORDER BY b.outward DESC, b.confidence DESC, b.relationship_id LIMIT %(each)s
) r
JOIN vectuned_entities.relationship_types t ON t.type_id = r.type_id
JOIN vectuned_entities.entities e ON e.entity_id = r.other AND e.status = 'active';

-- name: above
-- The entities above each of some in every hierarchy, by the shortest path, the nearest first.
SELECT p.entity_id, a.entity_id, p.hierarchy, (p.level - u.place)::int
FROM vectuned_entities.entity_paths p
CROSS JOIN LATERAL unnest(string_to_array({ltree}.ltree2text(p.path), '.')) WITH ORDINALITY AS u (label, place)
JOIN vectuned_entities.entities a ON a.label = u.label AND a.status = 'active'
WHERE p.entity_id = ANY (%(entities)s::bigint[]) AND p.path_no = 1
  AND u.place BETWEEN p.level - %(levels)s AND p.level - 1
ORDER BY p.entity_id, p.hierarchy, u.place DESC;

-- name: alike
-- The nearest other entities of one, by its own embedding.
SELECT n.id, 1 - n.distance, n.query_id
FROM vectuned_entities._nearest(
    (SELECT e.embedding FROM vectuned_entities.entities e WHERE e.entity_id = %(entity)s), %(count)s) n;

-- name: sharing
-- Others with the same values of attributes; values that many have tell nothing and are passed over.
SELECT o.other, count(*)::int, array_agg(a.name || ' ' || v.value ORDER BY a.name, v.value)
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
SELECT e.entity_id, e.label, e.name, e.description FROM vectuned_entities.entities e
WHERE e.entity_id = ANY (%(entities)s::bigint[]) AND e.status = 'active';

-- name: resources_of
-- Resources of some entities, those nearest to the question first.
SELECT r.resource_id, r.uri, r.resource_type, left(r.content, %(characters)s), coalesce(r.similarity, 0), r.entity_id
FROM vectuned_entities.get_entity_resources(%(entities)s::bigint[], %(most)s, %(query)s) r
WHERE r.content <> '';

-- name: nearest_resources
-- Resources near the question, whoever they belong to.
SELECT r.resource_id, r.uri, r.resource_type, left(r.content, %(characters)s), r.similarity, r.entity_ids[1]
FROM vectuned_entities.find_similar_resources(%(query)s, %(least)s, %(most)s) r
WHERE r.content <> '';

-- name: tell
SELECT vectuned.record_feedback(%(query_id)s, %(relevant)s::text[], %(irrelevant)s::text[]);

-- name: use_entities
SELECT vectuned_entities.touch_entities(%(entities)s::bigint[]);
