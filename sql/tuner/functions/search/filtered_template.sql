-- The template of _filtered_N, which answers the filtered searches of column N. Its searches hold the filter's values as
-- literals, because partial indexes and the planner's estimates need them; so they are planned on each call. The other
-- statements keep their plans. Tokens and sampling as in search_template.sql.

CREATE OR REPLACE FUNCTION vectuned._filtered_template() RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN $template$
CREATE OR REPLACE FUNCTION vectuned.{filtered_name}(query @extschema@.vector, k int, filter jsonb)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 10
{all_settings}
SET enable_sort = on
AS $@$
#variable_conflict use_variable
DECLARE
    {query}started timestamptz := clock_timestamp();
    sampled boolean := {sampled};
    condition text;
    shape text;
    fraction float8;
    k_class int := vectuned._k_class(k);
    path text;
    index_no int;
    effort int;
    ef int;
    probes int;
    found_ids text[];
    found_distances float8[];
BEGIN
    SELECT c.condition, c.shape, c.fraction INTO condition, shape, fraction
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
    SELECT p.access_path, p.index_no, p.effort INTO path, index_no, effort
    FROM vectuned._served_path({id}, k_class, filter, shape, fraction) p;
    IF path IS NULL OR path <> 'exact' AND index_no <> {main_no}
        AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indexrelid = {index_oid_by_no})
    THEN
        index_no := {main_no};
        SELECT d.access_path, d.effort INTO path, effort
        FROM vectuned._filtered_default(fraction, {relation_literal}::regclass, k, {main_ef}, {main_probes}) d;
    END IF;

    BEGIN
        IF path <> 'exact' THEN
            IF path = 'ivfflat' THEN
                probes := effort;
                PERFORM set_config('ivfflat.probes', probes::text, true), set_config('hnsw.ef_search', '1000', true);
            ELSIF path = 'planner' THEN
                -- The statement as vectuned._replay measured it, with the planner free to choose.
                probes := {main_probes};
                ef := CASE WHEN probes IS NULL THEN greatest(k, {default_ef}) END;
                PERFORM set_config('ivfflat.probes', {default_probes}::text, true),
                        set_config('hnsw.ef_search', greatest(k, {default_ef})::text, true);
            ELSE
                ef := least(greatest(effort, k), 1000);
                PERFORM set_config('hnsw.ef_search', ef::text, true);
                IF path = 'hnsw_continued' THEN
                    PERFORM set_config('hnsw.iterative_scan', 'relaxed_order', true),
                            set_config('hnsw.max_scan_tuples', (100 * effort)::text, true);
                END IF;
            END IF;
            IF path <> 'planner' THEN
                PERFORM set_config('enable_sort', 'off', true);
            END IF;
            EXECUTE {filtered_head}
                || CASE path WHEN 'planner' THEN condition ELSE format({condition}, condition) END || {filtered_tail}
            INTO found_ids, found_distances USING query, k, {nearest};
            path := path || '_filtered';
        END IF;
        IF coalesce(cardinality(found_ids), 0) < k OR found_distances[k] = 'NaN' THEN
            -- Exact search was chosen, or that effort found too few rows: rank every matching row, by the planner's path.
            path := CASE path WHEN 'exact' THEN path ELSE 'exact_after_' || replace(path, '_filtered', '') END;
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

    query_id := vectuned._query_id(sampled);
    IF sampled AND NOT vectuned._record(query_id, {id}, query, k, path, ef, NULL, NULL, found_ids, found_distances,
            extract(epoch FROM clock_timestamp() - started)::float8 * 1000, filter, fraction,
            CASE WHEN path LIKE '%_filtered' THEN index_no END, probes)
    THEN
        query_id := vectuned._query_id(false);
    END IF;
    RETURN QUERY SELECT u.id, u.distance, query_id FROM unnest(found_ids, found_distances) AS u (id, distance);
END
$@$
$template$;
