-- The rights of PUBLIC: anyone may search. What was recorded is for the owner, and for members of the roles in roles.sql
-- if these are installed. Search functions run with the caller's rights on the tables.
DO $$
BEGIN
    -- `vectuned migrate --roles --no-public` revokes this for good.
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace n WHERE n.nspname = 'vectuned'
                   AND pg_catalog.array_to_string(n.nspacl, ',') ~ 'vectuned_user=') THEN
        GRANT USAGE ON SCHEMA vectuned TO PUBLIC;
    END IF;
END
$$;
GRANT SELECT ON vectuned.tuned_column, vectuned.tuned_index, vectuned.bank, vectuned.measured_path, vectuned.pattern,
    vectuned.status, vectuned.readable_statistics TO PUBLIC;
GRANT SELECT (import_no, column_id, source, created_at, imported_at, proven_here) ON vectuned.imported TO PUBLIC;
-- What vectuned.client reads; not the texts.
GRANT SELECT (fingerprint, column_id, k_class, shape, settings, by_share, expected_recall, recall_bound, certified, published_at)
    ON vectuned.statement TO PUBLIC;
GRANT SELECT ON SEQUENCE vectuned.policy_change TO PUBLIC;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA vectuned FROM PUBLIC;
GRANT EXECUTE ON FUNCTION vectuned._rungs, vectuned._k_class, vectuned._ef_search, vectuned._signature,
    vectuned._decide, vectuned._decide_by_probe, vectuned._query_id, vectuned._record, vectuned._count_unrecordable, vectuned._inbox_bytes, vectuned._effort_cap,
    vectuned._compile_filter, vectuned._filter_test, vectuned._filter_operator, vectuned._filter_share, vectuned._filter_number,
    vectuned._common_share, vectuned._is_bigint,
    vectuned._filtered_default, vectuned._partial_default, vectuned._served_path, vectuned._filter_bucket, vectuned._search_function,
    vectuned._search_fallback, vectuned._search_changed, vectuned._present_index, vectuned._added_index, vectuned._present_effort,
    vectuned._has_both_methods, vectuned._set_page_costs, vectuned._has_time, vectuned._statement_timeout, vectuned._warn_cut_short,
    vectuned._home, vectuned._key_columns, vectuned._live, vectuned._stored_columns, vectuned._missing_part, vectuned._outdated, vectuned._vector_indexes,
    vectuned._marker, vectuned._column_dimensions, vectuned._predicate_filter, vectuned._filtered_statement, vectuned._condition_for, vectuned._check_query, vectuned._tuned_column, vectuned._fragments,
    vectuned._index_fragments, vectuned._generation, vectuned._probe, vectuned._default_effort,
    vectuned.params, vectuned._params, vectuned._changed_params, vectuned._filtered_params, vectuned._unfiltered_params, vectuned.apply, vectuned._apply_checked,
    vectuned._main_effort, vectuned._effort_to_set, vectuned._continue_scans, vectuned._apply_looked_up, vectuned._effort_setting,
    vectuned._kept_effort, vectuned._find_effort, vectuned._record_call, vectuned._recorded_share, vectuned._draw_bound,
    vectuned.record_statements, vectuned.condition_shares, vectuned._search_page, vectuned._check_page, vectuned._nearest_thousand,
    vectuned._row_relation, vectuned._rows_statement, vectuned.record_feedback, vectuned._may_tune, vectuned._daemon_runs, vectuned._notes
    TO PUBLIC;

-- The functions with several signatures, and those generated for tuned columns, whose grants the REVOKE above took.
DO $$
DECLARE
    generated regprocedure;
BEGIN
    FOR generated IN
        SELECT p.oid FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'vectuned'::regnamespace AND p.proname ~ '^(search|search_rows|_(search|filtered|dispatch)_[0-9]+)$'
    LOOP
        EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', generated);
    END LOOP;
END
$$;
