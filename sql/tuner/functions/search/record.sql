-- Names a search; the last hexadecimal digit says whether it was recorded. Of a name that nothing is kept under only
-- chance is asked, not secrecy: the system's own source costs a search 0.03 ms.
CREATE OR REPLACE FUNCTION vectuned._query_id(recorded boolean) RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN CASE WHEN recorded THEN overlay(gen_random_uuid()::text PLACING '1' FROM 36)
            ELSE left(encode(sha256(float8send(random()) || float8send(random())), 'hex'), 31) || '0' END::uuid;

-- Puts one sampled search into the inbox. Runs with the owner's rights so that callers need none on the
-- inbox; it only inserts, and whatever goes wrong here must not reach the search. Says whether it recorded.
-- Callers could make up what they record, so it takes only what a generated search function hands over, unless the
-- caller may write to the inbox anyway. Who called is the second line of the call stack: names in it are qualified,
-- as the search_path of those functions is fixed, and one that holds a line break or the like would be quoted.

CREATE OR REPLACE FUNCTION vectuned._record(
    query_id uuid, column_id int, query @extschema@.vector, k int, access_path text, ef_search int,
    bank_version int, signature @extschema@.vector, result_ids text[], distances float8[], latency_ms float8,
    filter jsonb DEFAULT NULL, fraction float8 DEFAULT NULL,
    index_no int DEFAULT NULL, probes int DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stack text;
BEGIN
    GET DIAGNOSTICS stack = PG_CONTEXT;
    IF split_part(stack, E'\n', 2) !~ '^[^"]*[^"a-z0-9_$.]vectuned\._(search|filtered)_[0-9]+\('
           AND NOT has_table_privilege(vectuned._caller(), 'vectuned.inbox', 'INSERT')
       -- One row must not fill the inbox.
       OR pg_column_size(filter) > 65536
    THEN
        RETURN false;
    END IF;
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

-- How large the inbox may grow. The daemon has it replaced when its configuration says otherwise: a constant costs
-- searches nothing.
CREATE OR REPLACE FUNCTION vectuned._inbox_bytes() RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN 64 * 1024 * 1024::bigint;

CREATE OR REPLACE FUNCTION vectuned._bound_inbox(bytes bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned._check_range('the size of the inbox', bytes, 1024 * 1024, 1024::float8 ^ 4);
    IF bytes <> vectuned._inbox_bytes() THEN
        EXECUTE format('CREATE OR REPLACE FUNCTION vectuned._inbox_bytes() RETURNS bigint LANGUAGE sql IMMUTABLE '
                       'PARALLEL SAFE SET search_path = pg_catalog, pg_temp RETURN %s::bigint', bytes);
    END IF;
END
$$;
