-- Puts one sampled search into the inbox. Runs with the owner's rights so that callers need none on the
-- inbox; it only inserts, and whatever goes wrong here must not reach the search. Says whether it recorded.

CREATE OR REPLACE FUNCTION vectuned._record(
    query_id uuid, column_id int, query @extschema@.vector, k int, access_path text, ef_search int,
    bank_version int, signature @extschema@.vector, result_ids text[], distances float8[], latency_ms float8,
    filter jsonb DEFAULT NULL, fraction float8 DEFAULT NULL,
    index_no int DEFAULT NULL, probes int DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A search never waits for the inbox: while a vacuum shortens it, samples are left out.
    LOCK TABLE vectuned.inbox IN ROW EXCLUSIVE MODE NOWAIT;
    IF pg_table_size('vectuned.inbox') > vectuned._inbox_bytes() THEN
        RETURN false;
    END IF;
    INSERT INTO vectuned.inbox (query_id, column_id, query, k, access_path, ef_search, bank_version,
                                signature, result_ids, distances, latency_ms, filter, fraction,
                                index_no, probes)
    VALUES (query_id, column_id, query, k, access_path, ef_search, bank_version,
            signature, coalesce(result_ids, '{}'), coalesce(distances, '{}'), latency_ms, filter,
            fraction, index_no, probes);
    RETURN true;
EXCEPTION WHEN others THEN
    RAISE DEBUG 'vectuned could not record a search: %', SQLERRM;
    RETURN false;
END
$$;

-- How large the inbox may grow. The daemon replaces this function when its configuration says otherwise.
CREATE OR REPLACE FUNCTION vectuned._inbox_bytes() RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN 64 * 1024 * 1024::bigint;
