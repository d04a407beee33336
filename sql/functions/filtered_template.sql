-- The function that `vectuned.enable` makes for the filtered searches of a column. Its statements carry the
-- filter's values as literals (partial indexes need them, and so do the planner's estimates), so they are
-- planned anew each time. Tokens as in search_template.sql.

CREATE OR REPLACE FUNCTION vectuned._filtered_template() RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN $template$
CREATE OR REPLACE FUNCTION vectuned.{filtered_name}(query @extschema@.vector, k int, filter jsonb)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
SET jit = off
SET enable_sort = on
SET hnsw.iterative_scan = off
SET hnsw.ef_search = 40
AS $@$
#variable_conflict use_variable
DECLARE
    q {type} := query::{type};
    started timestamptz := clock_timestamp();
    sampled boolean := {sample_rate} > 0 AND random() < {sample_rate};
    condition text;
    fraction float8;
    efforts int[];
    version int;
    path text;
    ef int;
    found_ids text[];
    found_distances float8[];
BEGIN
    SELECT c.condition, c.fraction INTO condition, fraction
    FROM vectuned._compile_filter({id}, {relation_literal}::regclass, filter) c;
    IF condition IS NULL THEN
        RETURN QUERY SELECT * FROM vectuned.{name}(query, k);
        RETURN;
    END IF;
    IF sampled THEN
        sampled := current_setting('transaction_read_only') = 'off'
            AND coalesce(lower(current_setting('vectuned.record', true)), '') NOT IN ('off', 'false', 'no', '0')
            AND NOT row_security_active({relation_literal}::regclass::oid);
    END IF;
    SELECT b.filtered_ef, b.version INTO efforts, version
    FROM vectuned.bank b WHERE b.column_id = {id} AND b.k_class = vectuned._k_class(k);
    ef := vectuned._filtered_ef(efforts, fraction, {relation_literal}::regclass, {default_ef}, k);

    BEGIN
        IF ef > 0 THEN
            path := 'hnsw_filtered';
            PERFORM set_config('hnsw.ef_search', ef::text, true), set_config('enable_sort', 'off', true);
            EXECUTE format('SELECT array_agg(n.id%5$s), array_agg(n.distance%5$s) FROM (SELECT %1$s AS id, %2$s AS distance '
                           'FROM %3$s t WHERE %4$s AND %6$s ORDER BY %2$s LIMIT $2) n',
                           {key_literal}, {distance_parameter}, {relation_literal}, {present_literal},
                           {sorted_literal}, condition)
            INTO found_ids, found_distances USING query, k;
        END IF;
        IF coalesce(cardinality(found_ids), 0) < k OR found_distances[k] = 'NaN' THEN
            -- Chosen, or too few rows within that effort: every matching row, by whatever index the filter has.
            path := CASE WHEN ef > 0 THEN 'exact_after_hnsw' ELSE 'exact' END;
            PERFORM set_config('enable_sort', 'on', true);
            EXECUTE {every_head} || condition || {every_tail}
            INTO found_ids, found_distances USING query, k;
        END IF;
    EXCEPTION WHEN data_exception THEN
        RAISE EXCEPTION 'the filter does not fit the columns of %: %', {relation_literal}, SQLERRM
            USING ERRCODE = SQLSTATE;
    END;
    IF found_ids IS NULL AND {zero} THEN
        RAISE EXCEPTION 'the query vector is zero and has no cosine distance'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;

    query_id := overlay(gen_random_uuid()::text PLACING CASE WHEN sampled THEN '1' ELSE '0' END FROM 36)::uuid;
    IF sampled AND NOT vectuned._record(query_id, {id}, query, k, path, ef, version, NULL, found_ids, found_distances,
            extract(epoch FROM clock_timestamp() - started)::float8 * 1000, filter, fraction)
    THEN
        query_id := overlay(query_id::text PLACING '0' FROM 36)::uuid;
    END IF;
    RETURN QUERY SELECT u.id, u.distance, query_id FROM unnest(found_ids, found_distances) AS u (id, distance);
END
$@$
$template$;
