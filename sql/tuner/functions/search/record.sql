-- Recording of sampled searches. (The generated functions draw the sample: `started` in search_template.sql, `sampled` in
-- filtered_template.sql.)

-- The id of a search. Its last hexadecimal digit tells whether the search was recorded: 1 if so, otherwise 0.
-- Ids of unrecorded searches need only be unlikely to collide, and random() is cheaper: gen_random_uuid() costs 0.03 ms.
CREATE OR REPLACE FUNCTION vectuned._query_id(recorded boolean) RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN CASE WHEN recorded THEN overlay(gen_random_uuid()::text PLACING '1' FROM 36)
            ELSE left(encode(sha256(float8send(random()) || float8send(random())), 'hex'), 31) || '0' END::uuid;

-- Inserts one sampled search into the inbox and returns whether it did. It runs with the owner's rights, so that callers
-- need none on the inbox. It catches every error, because recording must never make a search fail.
-- Callers could forge searches, so it accepts calls only from the generated search functions, or from roles that may insert
-- into the inbox anyway. The second line of the call stack names the caller: names in it are qualified, because those
-- functions fix their search_path, and a name with a line break or the like would be quoted.

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
       -- One filter (in bytes) must not fill the inbox.
       OR pg_column_size(filter) > 65536
    THEN
        RETURN false;
    END IF;
    -- A search never waits for the inbox: while VACUUM truncates it, samples are dropped.
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

-- Size limit of the inbox in bytes. The daemon replaces the function to apply its configuration (_bound_inbox): a constant
-- costs searches nothing.
CREATE OR REPLACE FUNCTION vectuned._inbox_bytes() RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN 64 * 1024 * 1024::bigint;

-- Sets the size limit of the inbox.
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
