-- The template of _filtered_N, which answers the filtered searches of column N. Its searches hold the filter's values as
-- literals, because partial indexes and the planner's estimates need them; so they are planned on each call. The other
-- statements keep their plans. Tokens, sampling and search_path as in search_template.sql.

CREATE OR REPLACE FUNCTION vectuned._filtered_template() RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN $template$
CREATE OR REPLACE FUNCTION vectuned.{filtered_name}(
    query @extschema@.vector, k int, filter jsonb, caller_path text DEFAULT pg_catalog.current_setting('search_path'))
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 10
{all_settings}
SET enable_sort = on
AS $@$
#variable_conflict use_variable
DECLARE
    {query}started timestamptz := pg_catalog.clock_timestamp();
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
    page_costs text[];
    found_ids text[];
    found_distances float8[];
BEGIN
    SELECT c.condition, c.shape, c.fraction INTO condition, shape, fraction
    FROM vectuned._compile_filter({id}, {relation_oid}::pg_catalog.regclass, filter) c;
    IF condition IS NULL THEN
        RETURN QUERY SELECT s.* FROM vectuned.{name}(query, k, caller_path) s;
        RETURN;
    END IF;
    IF sampled THEN
        sampled := pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'off'
            AND coalesce(pg_catalog.lower(pg_catalog.current_setting('vectuned.record', true)), '')
                OPERATOR(pg_catalog.<>) ALL ('{off,false,no,0}'::pg_catalog.text[]);
        IF sampled AND pg_catalog.row_security_active({relation_oid}::pg_catalog.oid) THEN
            PERFORM vectuned._count_unrecordable({id});
            sampled := false;
        END IF;
    END IF;
    SELECT p.access_path, p.index_no, p.effort INTO path, index_no, effort
    FROM vectuned._served_path({id}, k_class, filter, shape, fraction) p;
    IF path IS NULL OR path OPERATOR(pg_catalog.<>) 'exact'
        AND pg_catalog.pg_index_has_property({index_oid_by_no}, 'clusterable') IS NULL
    THEN
        IF {has_main} AND NOT {main_exists} THEN
            RETURN QUERY SELECT f.* FROM vectuned._search_changed({id}, query, k, filter, caller_path) f;
            RETURN;
        END IF;
        SELECT d.access_path, d.index_no, d.effort INTO path, index_no, effort FROM {unlearned_path} d;
    END IF;

    PERFORM pg_catalog.set_config('search_path', caller_path, true);
    BEGIN
        LOOP
            IF path OPERATOR(pg_catalog.<>) 'exact' THEN
                IF path OPERATOR(pg_catalog.=) ANY ('{ivfflat,ivfflat_continued}'::pg_catalog.text[]) THEN
                    probes := effort;
                    PERFORM pg_catalog.set_config('ivfflat.probes', probes::pg_catalog.text, true),
                            pg_catalog.set_config('hnsw.ef_search', '1000', true);
                    IF path OPERATOR(pg_catalog.=) 'ivfflat_continued' THEN
                        PERFORM pg_catalog.set_config('ivfflat.iterative_scan', 'relaxed_order', true);
                    END IF;
                ELSIF path OPERATOR(pg_catalog.=) 'planner' THEN
                    -- The statement as vectuned._replay measured it, with the planner free to choose.
                    probes := {main_probes};
                    ef := CASE WHEN probes IS NULL THEN greatest(k, {default_ef}) END;
                    PERFORM pg_catalog.set_config('ivfflat.probes', {default_probes}::pg_catalog.text, true),
                            pg_catalog.set_config('hnsw.ef_search', greatest(k, {default_ef})::pg_catalog.text, true);
                ELSE
                    ef := least(greatest(effort, k), 1000);
                    PERFORM pg_catalog.set_config('hnsw.ef_search', ef::pg_catalog.text, true);
                    IF path OPERATOR(pg_catalog.=) 'hnsw_continued' THEN
                        PERFORM pg_catalog.set_config('hnsw.iterative_scan', 'relaxed_order', true),
                                pg_catalog.set_config('hnsw.max_scan_tuples',
                                                      greatest(20000, 100 OPERATOR(pg_catalog.*) effort)::pg_catalog.text, true);
                    END IF;
                END IF;
                IF path OPERATOR(pg_catalog.<>) 'planner' THEN
                    PERFORM pg_catalog.set_config('enable_sort', 'off', true);
                    {free_pages}
                END IF;
                EXECUTE pg_catalog.concat({filtered_head},
                    CASE WHEN path OPERATOR(pg_catalog.=) 'planner' THEN condition ELSE pg_catalog.format({condition}, condition) END,
                    {filtered_tail})
                INTO found_ids, found_distances USING query, k, {nearest};
                path := pg_catalog.concat(path, '_filtered');
                EXIT WHEN pg_catalog.cardinality(found_ids) OPERATOR(pg_catalog.>=) k AND found_distances[k] OPERATOR(pg_catalog.<>) 'NaN';
                PERFORM pg_catalog.set_config('enable_sort', 'on', true){restore_pages};
            END IF;
            -- Exact search was chosen, or that effort found too few rows: rank every matching row, by the planner's path.
            IF vectuned._has_time() THEN
                BEGIN
                    EXECUTE pg_catalog.concat({every_head}, condition, {every_tail})
                    INTO found_ids, found_distances USING query, k;
                    path := CASE WHEN path OPERATOR(pg_catalog.=) 'exact' THEN path
                                 ELSE pg_catalog.concat('exact_after_', pg_catalog.replace(path, '_filtered', '')) END;
                    EXIT;
                EXCEPTION WHEN query_canceled THEN
                    IF vectuned._has_time(0.9) THEN  -- it was no timeout
                        RAISE;
                    END IF;
                END;
            END IF;
            IF path OPERATOR(pg_catalog.<>) 'exact' THEN
                PERFORM vectuned._warn_cut_short({relation_literal}, coalesce(pg_catalog.cardinality(found_ids), 0), k);
                EXIT;
            END IF;
            -- No time for an exact search: answer as plain SQL does, with what the index finds at its default effort.
            IF NOT {main_exists} THEN
                RAISE EXCEPTION 'canceling statement due to statement timeout' USING ERRCODE = 'query_canceled';
            END IF;
            index_no := {main_no};
            path := CASE WHEN {main_probes} IS NULL THEN 'hnsw' ELSE 'ivfflat' END;
            effort := coalesce({main_ef}, {main_probes});
        END LOOP;
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
            {elapsed_ms}, filter, fraction,
            CASE WHEN pg_catalog.right(path, 9) OPERATOR(pg_catalog.=) '_filtered' THEN index_no END, probes)
    THEN
        query_id := vectuned._query_id(false);
    END IF;
    RETURN QUERY SELECT u.id, u.distance, query_id FROM unnest(found_ids, found_distances) AS u (id, distance);
END
$@$
$template$;
