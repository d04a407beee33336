-- vectuned.apply: takes what was learned into the caller's own statement.

-- vectuned.apply (generated, as vectuned.search is: see dispatch.sql) returns the query vector unchanged and sets the effort for
-- the rest of the transaction, so that
-- ORDER BY embedding <=> (SELECT vectuned.apply('items', $1, 10)) LIMIT 10 searches with it. The effort proven for searches
-- without a filter serves only statements without one, which the caller declares by filtered => false. All others keep at
-- least the default effort, and their index scan goes on until LIMIT is met: see _continue_scans. The usual call comes to
-- _apply_N of its column; _apply_checked serves all other calls, and has the error messages.

-- The template of _apply_N, which sets the effort, and of _applied_N, which records a call that is in the sample and has no
-- filter, as a call whose answer is not known. _apply_N sets no search_path, which would cost each call 0.01 ms: every name is
-- qualified. _applied_N does, so that _record sees its name.
CREATE OR REPLACE FUNCTION vectuned._apply_template() RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN $template$
CREATE OR REPLACE FUNCTION vectuned.{applied_name}(query @extschema@.vector, k int) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $@$
#variable_conflict use_variable
DECLARE
    recorded boolean := current_setting('transaction_read_only') = 'off'
        AND coalesce(lower(current_setting('vectuned.record', true)), '') <> ALL ('{off,false,no,0}'::text[]);
BEGIN
    IF recorded AND row_security_active({relation_oid}::oid) THEN
        PERFORM vectuned._count_unrecordable({id});
        recorded := false;
    END IF;
    IF recorded THEN
        recorded := vectuned._record(vectuned._query_id(true), {id}, query, k, 'unknown', NULL, NULL, NULL, NULL, NULL, 'NaN');
    END IF;
    RETURN recorded;
END
$@$;
CREATE OR REPLACE FUNCTION vectuned.{apply_name}(query @extschema@.vector, k int, filtered boolean) RETURNS @extschema@.vector
LANGUAGE plpgsql VOLATILE
AS $@$
#variable_conflict use_variable
DECLARE
    effort int;
BEGIN
    -- What was learned for searches without a filter through the main index. The bank comes first: it holds what alarms raised.
    SELECT b.{main_column} INTO effort FROM vectuned.bank b
    WHERE b.column_id OPERATOR(pg_catalog.=) {id} AND b.k_class OPERATOR(pg_catalog.=) vectuned._k_class(k)
      AND coalesce(b.index_no, {main_no}) OPERATOR(pg_catalog.=) {main_no};
    IF effort IS NULL THEN
        SELECT p.effort INTO effort FROM vectuned.measured_path p
        WHERE p.column_id OPERATOR(pg_catalog.=) {id} AND p.k_class OPERATOR(pg_catalog.=) vectuned._k_class(k) AND p.shape IS NULL
          AND p.index_no OPERATOR(pg_catalog.=) {main_no} LIMIT 1;
    END IF;
    -- One expression: PL/pgSQL takes 0.005 ms for each in a transaction.
    RETURN CASE WHEN pg_catalog.set_config('{main_setting}', {main_value}::pg_catalog.text, true) IS NULL THEN NULL
                WHEN filtered IS NOT FALSE AND vectuned._continue_scans() IS NULL THEN NULL
                WHEN filtered IS FALSE AND {sampled} AND vectuned.{applied_name}(query, k) IS NULL THEN NULL
                ELSE query END;
END
$@$
$template$;

-- What was learned for searches without a filter through the main index, for a class of k, and the default of that index:
-- ef_search for HNSW, probes for IVFFlat. The calling statement orders by the column itself, so only the main index matters.
-- No SET, so that the planner inlines it.
CREATE OR REPLACE FUNCTION vectuned._main_effort(p_column_id int, p_k bigint)
RETURNS TABLE (learned int, ef_search int, probes int)
LANGUAGE sql STABLE ROWS 1
BEGIN ATOMIC
    SELECT coalesce(
               (SELECT coalesce(b.ef_search, b.probes) FROM vectuned.bank b
                WHERE b.column_id = c.id AND b.k_class = vectuned._k_class(p_k::int) AND coalesce(b.index_no, i.index_no) = i.index_no),
               (SELECT p.effort FROM vectuned.measured_path p
                WHERE p.column_id = c.id AND p.k_class = vectuned._k_class(p_k::int) AND p.shape IS NULL AND p.index_no = i.index_no
                LIMIT 1)),
           CASE WHEN i.lists IS NULL THEN c.default_ef END,
           CASE WHEN i.lists IS NOT NULL THEN least(c.default_probes, i.lists) END
    FROM vectuned.tuned_column c
    LEFT JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_relation = c.index_relation
    WHERE c.id = p_column_id;
END;

-- Sets an effort for the rest of the transaction: what was learned, but at least the default (ef_search or probes) where the
-- statement may have a filter. A single expression, so that it is inlined into the statement above.
CREATE OR REPLACE FUNCTION vectuned._set_effort(learned int, ef_search int, probes int, k bigint, filtered boolean)
RETURNS text
LANGUAGE sql VOLATILE
RETURN CASE WHEN probes IS NULL
    THEN pg_catalog.set_config('hnsw.ef_search', least(greatest(
             CASE WHEN filtered IS FALSE THEN coalesce(learned, ef_search) ELSE greatest(learned, ef_search) END, k), 1000)::text, true)
    ELSE pg_catalog.set_config('ivfflat.probes',
             CASE WHEN filtered IS FALSE THEN coalesce(learned, probes) ELSE greatest(learned, probes) END::text, true) END;

-- Lets index scans go on until the statement has its rows, for the rest of the transaction. In relaxed order, because
-- strict_order drops rows that come late: it returns fewer rows than match. There is no limit to the rows that a scan looks
-- at; the memory of an HNSW scan is bounded by 256 MB (about a million rows looked at), or work_mem if that is more. Where
-- the caller has turned iterative scans on, the caller's limits stay. Returns true.
CREATE OR REPLACE FUNCTION vectuned._continue_scans() RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('hnsw.iterative_scan') = 'off' THEN
        PERFORM set_config('hnsw.iterative_scan', 'relaxed_order', true),
                set_config('hnsw.max_scan_tuples', '2147483647', true),
                set_config('hnsw.scan_mem_multiplier', greatest(
                    current_setting('hnsw.scan_mem_multiplier')::float8,
                    least(1000, ceil(268435456.0 / pg_size_bytes(current_setting('work_mem')))))::text, true);
    END IF;
    IF current_setting('ivfflat.iterative_scan') = 'off' THEN
        PERFORM set_config('ivfflat.iterative_scan', 'relaxed_order', true),
                set_config('ivfflat.max_probes', '32768', true);
    END IF;
    RETURN true;
END
$$;

-- The slow path of apply: checks every argument, and finds the effort for a filter. A filtered search that was learned to be
-- exact gets the default effort for its share of matching rows: the statement is already planned when apply runs.
CREATE OR REPLACE FUNCTION vectuned._apply_checked(
    relation regclass, query @extschema@.vector, k bigint, column_name name, filtered boolean, filter jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    c vectuned.tuned_column := vectuned._tuned_column(relation, column_name);
    e record;
    f record;
    filtered_effort int;
    cap int;
BEGIN
    IF filter IS NOT NULL AND NOT filtered THEN
        RAISE EXCEPTION 'filtered => false contradicts the filter' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM vectuned._check_query(c, query, k);
    SELECT * INTO e FROM vectuned._main_effort(c.id, k);
    IF filter IS NOT NULL THEN
        SELECT * INTO f FROM vectuned._compile_filter(c.id, c.relation, filter);
        filtered_effort := (
            SELECT s.effort FROM vectuned._served_path(c.id, vectuned._k_class(k::int), filter, f.shape, f.fraction) s
            JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_no = s.index_no AND i.index_relation = c.index_relation
            WHERE s.access_path LIKE 'hnsw%' OR s.access_path LIKE 'ivfflat%');
        IF filtered_effort IS NULL AND f.condition IS NOT NULL THEN
            -- As many candidates as would hold three times k matching rows if the filter were independent of the query, but
            -- at most ten times the default: the scan goes on anyway.
            filtered_effort := CASE WHEN e.probes IS NULL
                THEN least(greatest(e.ef_search, ceil(3 * k / greatest(f.fraction, 1e-6))), 10 * e.ef_search) ELSE 3 * e.probes END;
            cap := least(c.max_effort, vectuned._effort_cap());
            filtered_effort := least(filtered_effort, CASE WHEN cap IS NOT NULL THEN greatest(cap, e.ef_search, e.probes) END);
        END IF;
    END IF;
    PERFORM vectuned._set_effort(greatest(e.learned, filtered_effort), e.ef_search, e.probes, k, filtered);
    IF filtered IS DISTINCT FROM false THEN
        PERFORM vectuned._continue_scans();
    END IF;
END
$$;
