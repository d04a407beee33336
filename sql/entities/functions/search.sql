-- Searches by meaning, by words, and by both. All work in read-only transactions.

-- The nearest entities: through vectuned.search where the column is tuned, else by a plain scan of the index.
-- Whatever is wrong with the tuner, there is an answer.
CREATE OR REPLACE FUNCTION vectuned_entities._nearest(query @extschema@.vector, k int, ef_search int DEFAULT NULL)
RETURNS TABLE (id bigint, distance float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 20
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    tuned boolean := false;
BEGIN
    IF ef_search IS NULL AND to_regclass('vectuned.tuned_column') IS NOT NULL THEN
        BEGIN
            RETURN QUERY SELECT s.id::bigint, s.distance, s.query_id
            FROM vectuned.tuned_column c
            CROSS JOIN LATERAL vectuned.search(c.relation, query, k, NULL, c.column_name) s
            WHERE c.relation = 'vectuned_entities.entities'::regclass AND c.column_name = 'embedding' AND c.enabled;
            tuned := FOUND;
        EXCEPTION WHEN others THEN
            tuned := false;
        END;
    END IF;
    IF NOT tuned THEN
        RETURN QUERY SELECT s.id, s.distance, NULL::uuid
        FROM vectuned_entities._scan_entities(query, k, vectuned_entities._effort(k, ef_search)) s;
    END IF;
END
$$;

-- The ef_search of a scan: the caller's, else the session's, else pgvector's own; no less than k, for more rows do not come.
CREATE OR REPLACE FUNCTION vectuned_entities._effort(k int, ef_search int) RETURNS int
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN greatest(k, coalesce(ef_search, nullif(current_setting('hnsw.ef_search', true), '')::int, 40));
END
$$;

-- ORDER BY the bare column, ascending, is what an index answers. Without an index the table is sorted.
CREATE OR REPLACE FUNCTION vectuned_entities._scan_entities(query @extschema@.vector, k int, ef_search int)
RETURNS TABLE (id bigint, distance float8)
LANGUAGE plpgsql STABLE ROWS 20
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_sort = off
SET jit = off
SET hnsw.ef_search = 40
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM set_config('hnsw.ef_search', least(ef_search, 1000)::text, true);
    RETURN QUERY
        SELECT e.entity_id, e.embedding OPERATOR(@extschema@.<=>) query
        FROM vectuned_entities.entities e
        WHERE e.embedding IS NOT NULL
        ORDER BY e.embedding OPERATOR(@extschema@.<=>) query
        LIMIT k;
END
$$;

-- query_id: for vectuned.record_feedback; NULL where the column is not tuned.
CREATE OR REPLACE FUNCTION vectuned_entities.find_similar_entity(query @extschema@.vector, max_results int DEFAULT 10)
RETURNS TABLE (entity_id bigint, name text, similarity float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT * FROM vectuned_entities.find_similar_entities_ann(query, -1, max_results);
END
$$;

-- Those at least similarity_threshold (-1 to 1) alike. With ef_search the effort is the caller's own; the seed's
-- "search quality" is no measure of anything, and recall is what vectuned is told to reach (vectuned.enable).
CREATE OR REPLACE FUNCTION vectuned_entities.find_similar_entities_ann(
    query @extschema@.vector, similarity_threshold float8 DEFAULT 0, max_results int DEFAULT 10, ef_search int DEFAULT NULL)
RETURNS TABLE (entity_id bigint, name text, similarity float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._check_query(query),
            vectuned_entities._check_range('similarity_threshold', similarity_threshold, -1, 1),
            vectuned_entities._check_range('max_results', max_results, 1, 1000),
            vectuned_entities._check_range('ef_search', coalesce(ef_search, 1), 1, 1000);
    RETURN QUERY
        SELECT e.entity_id, e.name, 1 - n.distance, n.query_id
        FROM vectuned_entities._nearest(query, max_results, ef_search) n
        JOIN vectuned_entities.entities e ON e.entity_id = n.id
        WHERE 1 - n.distance >= similarity_threshold
        ORDER BY n.distance, e.entity_id;
END
$$;

-- The query that has any of the words, where the user asked for all of them and used no operator; else NULL.
CREATE OR REPLACE FUNCTION vectuned_entities._any_word(language regconfig, search_text text) RETURNS tsquery
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg('''' || replace(replace(u.word, '\', '\\'), '''', '''''') || '''', ' | ')::tsquery
    FROM unnest(tsvector_to_array(to_tsvector(_any_word.language, _any_word.search_text))) AS u (word)
    WHERE websearch_to_tsquery(_any_word.language, _any_word.search_text)
        = plainto_tsquery(_any_word.language, _any_word.search_text)
$$;

-- The entities of a language whose text a query matches, best first. Of a query that matches more than 20,000 some count.
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

-- Candidates of both sides are merged and each is scored on both: an entity found by its words alone has a similarity
-- all the same. fusion: 'weighted' adds the weighted scores, the text's relative to the best; 'reciprocal' adds the
-- weighted reciprocals of the ranks, 60 + rank (Cormack, Clarke and Büttcher, 2009). Scores are 0 to 1.
-- A text without operators that few entities match in full matches those with any of its words as well.
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
    loose tsquery;
    by_words bigint[] := '{}';
    by_meaning bigint[];
    search_id uuid;
BEGIN
    PERFORM vectuned_entities._check_query(query),
            vectuned_entities._check_given('search_text', char_length(search_text) <= 10000, 'A text of at most 10000 characters; '''' for none.'),
            vectuned_entities._check_range('text_weight', text_weight, 0, 1),
            vectuned_entities._check_range('vector_weight', vector_weight, 0, 1),
            vectuned_entities._check_given('text_weight or vector_weight', text_weight + vector_weight > 0, 'One of them must be above 0.'),
            vectuned_entities._check_range('max_results', max_results, 1, 1000),
            vectuned_entities._check_given('language', language IS NOT NULL, 'A text search configuration, such as english or simple.'),
            vectuned_entities._check_choice('fusion', fusion, '{weighted,reciprocal}');
    candidates := coalesce(candidates, least(1000, greatest(50, 4 * max_results)));
    PERFORM vectuned_entities._check_range('candidates', candidates, max_results, 1000);

    SELECT array_agg(n.id ORDER BY n.distance), (array_agg(n.query_id))[1] INTO by_meaning, search_id
    FROM vectuned_entities._nearest(query, candidates) n;
    words := websearch_to_tsquery(language, search_text);
    IF text_weight > 0 AND numnode(words) > 0 THEN
        by_words := vectuned_entities._matching(language::text, words, candidates);
        IF cardinality(by_words) < candidates THEN
            loose := vectuned_entities._any_word(language, search_text);
            IF loose IS NOT NULL AND loose <> words THEN
                words := loose;
                by_words := by_words || vectuned_entities._matching(language::text, loose, candidates);
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
                    FROM vectuned_entities.entities e WHERE e.entity_id = ANY (by_meaning || by_words)
                ) c
            ) r
        ) f
        ORDER BY f.score DESC, f.entity_id LIMIT max_results;
END
$$;
