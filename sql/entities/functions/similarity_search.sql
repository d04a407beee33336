-- Similarity search: the entities whose embeddings are nearest to a query vector. Works in read-only transactions.

-- The nearest entities: by vectuned.search if the column is tuned, otherwise by a plain scan of the index. Any error of the
-- tuner also leads to the plain scan, so that a search always returns an answer.
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

-- The ef_search of a scan: the caller's, else the session's, else pgvector's default of 40; at least k, because a scan
-- returns no more rows than ef_search.
CREATE OR REPLACE FUNCTION vectuned_entities._effort(k int, ef_search int) RETURNS int
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN greatest(k, coalesce(ef_search, nullif(current_setting('hnsw.ef_search', true), '')::int, 40));
END
$$;

-- The k nearest entities by the HNSW index, which serves only an ascending ORDER BY on the distance from the column itself.
-- Without an index the table is sorted.
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

-- The most similar entities. query_id is for vectuned.record_feedback; NULL if the column is not tuned.
CREATE OR REPLACE FUNCTION vectuned_entities.find_similar_entity(query @extschema@.vector, max_results int DEFAULT 10)
RETURNS TABLE (entity_id bigint, name text, similarity float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT * FROM vectuned_entities.find_similar_entities_ann(query, -1, max_results);
END
$$;

-- The most similar entities with a cosine similarity of at least similarity_threshold (-1 to 1). With ef_search the caller
-- sets the effort; without it, vectuned chooses the effort for the target recall of vectuned.enable.
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
