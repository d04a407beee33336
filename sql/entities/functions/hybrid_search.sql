-- Hybrid search: full text and vectors together. Works in read-only transactions.

-- A query for any of the words, if the text has no operators and so asks for all of them; otherwise NULL.
CREATE OR REPLACE FUNCTION vectuned_entities._any_word(language regconfig, search_text text) RETURNS tsquery
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg('''' || replace(replace(u.word, '\', '\\'), '''', '''''') || '''', ' | ')::tsquery
    FROM unnest(tsvector_to_array(to_tsvector(_any_word.language, _any_word.search_text))) AS u (word)
    WHERE websearch_to_tsquery(_any_word.language, _any_word.search_text)
        = plainto_tsquery(_any_word.language, _any_word.search_text)
$$;

-- The k best text matches among the entities of a language, best first. At most 20,000 matches are ranked, which bounds the
-- work for common words.
CREATE OR REPLACE FUNCTION vectuned_entities._matching(language text, words tsquery, k int) RETURNS bigint[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(b.entity_id), '{}')
    FROM (SELECT m.entity_id
          FROM (SELECT e.entity_id, e.document FROM vectuned_entities.entities e
                WHERE e.document @@ _matching.words AND e.language = _matching.language AND e.status = 'active'
                LIMIT 20000) m
          ORDER BY ts_rank(m.document, _matching.words) DESC, m.entity_id
          LIMIT _matching.k) b
$$;

-- Hybrid search: full-text matches and nearest vectors, fused into one ranking. Every candidate of either kind gets both
-- scores. fusion: 'weighted' adds the weighted scores, with text scores relative to the best; 'reciprocal' is reciprocal
-- rank fusion, weighted, with the usual constant of 60 (Cormack, Clarke and Büttcher, 2009). Scores are 0 to 1.
-- If few entities match all words of a text without operators, entities that match any of its words count too.
CREATE OR REPLACE FUNCTION vectuned_entities.hybrid_entity_search(
    search_text text, query @extschema@.vector, text_weight float8 DEFAULT 0.3, vector_weight float8 DEFAULT 0.7,
    max_results int DEFAULT 20, language regconfig DEFAULT 'english', fusion text DEFAULT 'weighted',
    candidates int DEFAULT NULL)
RETURNS TABLE (entity_id bigint, name text, score float8, text_score float8, vector_score float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 20
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    words tsquery;
    any_word tsquery;
    text_matches bigint[] := '{}';
    nearest bigint[];
    search_id uuid;
BEGIN
    PERFORM vectuned_entities._check_query(query),
            vectuned_entities._require('search_text', char_length(search_text) <= 10000, 'A text of at most 10000 characters; '''' for none.'),
            vectuned_entities._check_range('text_weight', text_weight, 0, 1),
            vectuned_entities._check_range('vector_weight', vector_weight, 0, 1),
            vectuned_entities._require('text_weight or vector_weight', text_weight + vector_weight > 0, 'One of them must be above 0.'),
            vectuned_entities._check_range('max_results', max_results, 1, 1000),
            vectuned_entities._require('language', language IS NOT NULL, 'A text search configuration, such as english or simple.'),
            vectuned_entities._check_choice('fusion', fusion, '{weighted,reciprocal}');
    candidates := coalesce(candidates, least(1000, greatest(50, 4 * max_results)));
    PERFORM vectuned_entities._check_range('candidates', candidates, max_results, 1000);

    SELECT array_agg(n.id ORDER BY n.distance), (array_agg(n.query_id))[1] INTO nearest, search_id
    FROM vectuned_entities._nearest(query, candidates) n;
    words := websearch_to_tsquery(language, search_text);
    IF text_weight > 0 AND numnode(words) > 0 THEN
        text_matches := vectuned_entities._matching(language::text, words, candidates);
        IF cardinality(text_matches) < candidates THEN
            any_word := vectuned_entities._any_word(language, search_text);
            IF any_word IS NOT NULL AND any_word <> words THEN
                words := any_word;
                text_matches := text_matches || vectuned_entities._matching(language::text, any_word, candidates);
            END IF;
        END IF;
    END IF;
    RETURN QUERY
        SELECT f.entity_id, f.name, f.score / (text_weight + vector_weight), f.text_score, f.vector_score, search_id
        FROM (
            SELECT r.*, CASE fusion
                WHEN 'weighted' THEN text_weight * r.text_score + vector_weight * r.vector_score
                ELSE CASE WHEN r.text_score > 0 THEN text_weight * 61 / (60 + rank() OVER (ORDER BY r.text_score DESC)) ELSE 0 END
                   + vector_weight * 61 / (60 + rank() OVER (ORDER BY r.vector_score DESC)) END AS score
            FROM (
                SELECT c.entity_id, c.name, c.vector_score,
                       coalesce(c.text_rank / nullif(max(c.text_rank) OVER (), 0), 0) AS text_score
                FROM (
                    SELECT e.entity_id, e.name,
                           greatest(0, coalesce(1 - (e.embedding OPERATOR(@extschema@.<=>) query), 0)) AS vector_score,
                           CASE WHEN text_weight > 0 AND e.language = language::text AND e.document @@ words THEN ts_rank(e.document, words)::float8
                                ELSE 0 END AS text_rank
                    FROM vectuned_entities.entities e WHERE e.entity_id = ANY (nearest || text_matches)
                ) c
            ) r
        ) f
        ORDER BY f.score DESC, f.entity_id LIMIT max_results;
END
$$;
