-- Candidates for the answer to a question. Works in read-only transactions.

-- The entities near the question's vector, those whose names have its words, and those whose names or descriptions have its
-- rarest words. words: the question's lexemes as a tsquery that any of them matches. weights: of the lexemes, adding up to 1.
-- rare: tsqueries of single words, and rare_weights, how much each of them distinguishes entities. confirmed: further entities.
-- kinds: attribute values that are inputs of a learned ranking, '{}' if it has none, NULL if there is no learned ranking.
-- features: in the order of FEATURES in reasoning/ranking/features.py; if kinds is not NULL, in the order of LEARNED_FEATURES,
-- followed by 1 or 0 for each kind. signature: what the candidates say about the question, in the order of SIGNATURE there.
CREATE OR REPLACE FUNCTION vectuned_entities._candidates(
    query @extschema@.vector, lexemes text[], weights float8[], words text, rare text[], rare_weights float8[],
    confirmed bigint[], neighbours int, name_matches int, text_matches int, ef_search int DEFAULT NULL,
    kinds bigint[] DEFAULT NULL)
RETURNS TABLE (id bigint, similarity float8, name_match float8, coverage float8, features float8[], signature float8[],
               query_id uuid, is_near boolean)
LANGUAGE plpgsql STABLE ROWS 200
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    middling_length constant float8 := 12;  -- lexemes of a name and a description together, in WordNet
    most_rows constant int := 1000;         -- entities read for one word: a more common one says little
    most_texts constant int := 20;          -- texts of an entity that are counted: more make no difference
    any_word constant tsquery := words::tsquery;
BEGIN
    RETURN QUERY
    WITH near AS MATERIALIZED (
        SELECT n.id, n.query_id FROM vectuned_entities._nearest(query, neighbours, ef_search) n
    ), named AS MATERIALIZED (
        SELECT e.entity_id AS id
        FROM vectuned_entities.entities e
        CROSS JOIN LATERAL (
            SELECT sum(w.weight) AS name_match, count(w.weight)::float8 / count(*) AS coverage
            FROM unnest(tsvector_to_array(ts_filter(e.document, '{a}'))) l
            LEFT JOIN unnest(lexemes, weights) AS w (lexeme, weight) ON w.lexeme = l
        ) m
        WHERE ts_filter(e.document, '{a}') @@ any_word AND e.status = 'active'
        ORDER BY m.name_match DESC NULLS LAST, m.coverage DESC, e.entity_id LIMIT name_matches
    ), described AS MATERIALIZED (
        -- As in BM25, a rare word counts more, and a word of a long text less.
        SELECT h.entity_id AS id
        FROM unnest(rare, rare_weights) AS w (lexeme, weight)
        CROSS JOIN LATERAL (
            SELECT e.entity_id, length(e.document) AS length FROM vectuned_entities.entities e
            WHERE e.document @@ w.lexeme::tsquery AND e.status = 'active' LIMIT most_rows
        ) h
        GROUP BY h.entity_id
        ORDER BY sum(w.weight) / (1 + min(h.length) / middling_length) DESC, h.entity_id LIMIT text_matches
    ), found AS (
        SELECT n.id FROM near n UNION SELECT n.id FROM named n UNION SELECT d.id FROM described d UNION SELECT unnest(confirmed)
    ), matched AS MATERIALIZED (
        SELECT e.entity_id, coalesce(1 - (e.embedding OPERATOR(@extschema@.<=>) query), 0) AS similarity,
               coalesce(m.name_match, 0) AS name_match, m.in_name / greatest(m.name_length, 1)::float8 AS coverage,
               coalesce(m.text_match, 0) AS text_match, m.in_text / greatest(m.text_length, 1)::float8 AS text_coverage,
               m.name_length
        FROM found f
        JOIN vectuned_entities.entities e ON e.entity_id = f.id AND e.status = 'active'
        CROSS JOIN LATERAL (
            SELECT sum(w.weight) FILTER (WHERE l.letters @> '{A}') AS name_match, sum(w.weight) AS text_match,
                   count(w.weight) FILTER (WHERE l.letters @> '{A}') AS in_name, count(w.weight) AS in_text,
                   count(*) FILTER (WHERE l.letters @> '{A}') AS name_length, count(*) AS text_length
            FROM unnest(e.document) AS l (lexeme, places, letters)
            LEFT JOIN unnest(lexemes, weights) AS w (lexeme, weight) ON w.lexeme = l.lexeme
        ) m
    ), question AS (
        SELECT ARRAY[max(b.similarity), max(b.similarity) - min(b.similarity), max(b.name_match), max(b.text_match)] AS signature
        FROM (SELECT max(m.name_match) OVER () AS name_match, max(m.text_match) OVER () AS text_match, m.similarity
              FROM matched m ORDER BY m.similarity DESC LIMIT 10) b
    )
    SELECT m.entity_id, m.similarity, m.name_match, m.coverage,
           ARRAY[m.name_match, m.coverage, m.similarity, m.text_match, m.text_coverage, m.name_match * m.coverage,
                 ln(1 + m.name_length)]::float8[]
           || CASE WHEN _candidates.kinds IS NOT NULL THEN
               ARRAY[m.similarity - max(m.similarity) OVER (), m.similarity * m.name_match, (m.name_match > 0)::int::float8,
                     (SELECT ln(1 + count(*)) FROM (SELECT FROM vectuned_entities.entity_resource_link t
                                                    WHERE t.entity_id = m.entity_id LIMIT most_texts) t)]::float8[]
               || (SELECT ARRAY(SELECT coalesce(k.value_id = ANY (h.kinds), false)::int::float8
                                FROM unnest(_candidates.kinds) WITH ORDINALITY AS k (value_id, place) ORDER BY k.place)
                   -- IS TRUE makes one index scan read the few values of an entity, instead of one scan for each kind.
                   FROM (SELECT array_agg(l.value_id) AS kinds FROM vectuned_entities.entity_attribute_link l
                         WHERE l.entity_id = m.entity_id AND (l.value_id = ANY (_candidates.kinds)) IS TRUE) h)
           END,
           q.signature, (SELECT n.query_id FROM near n LIMIT 1), m.entity_id IN (SELECT n.id FROM near n)
    FROM matched m CROSS JOIN question q;
END
$$;
