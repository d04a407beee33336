-- vectuned.apply: takes what was learned into the caller's own statement.

-- Returns the query vector unchanged and sets the effort for the rest of the transaction, so that
-- ORDER BY embedding <=> (SELECT vectuned.apply('items', $1, 10)) LIMIT 10 searches with it. The effort proven for searches
-- without a filter serves only statements without one, which the caller declares by filtered => false. All others keep at
-- least the default effort, and their index scan goes on until LIMIT is met: see _continue_scans.
-- The usual call is one statement with a kept plan. It finds one column whose names and dimensions are those of the last
-- refresh; _apply_checked serves all other calls, and has the error messages. No search_path is set, which would cost each
-- call 0.01 ms: every name is qualified.
CREATE OR REPLACE FUNCTION vectuned.apply(
    relation regclass, query @extschema@.vector, k bigint DEFAULT 10, column_name name DEFAULT NULL,
    filtered boolean DEFAULT NULL, filter jsonb DEFAULT NULL)
RETURNS @extschema@.vector
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_variable
DECLARE
    settings int;
BEGIN
    IF filter IS NULL AND k OPERATOR(pg_catalog.>=) 1 AND k OPERATOR(pg_catalog.<=) 1000 THEN
        SELECT pg_catalog.count(vectuned._set_effort(e.learned, e.ef_search, e.probes, k, filtered)) INTO settings
        FROM vectuned.tuned_column c CROSS JOIN LATERAL vectuned._main_effort(c.id, k) e
        WHERE c.relation OPERATOR(pg_catalog.=) relation
          AND CASE WHEN column_name IS NOT NULL THEN c.column_name OPERATOR(pg_catalog.=) column_name
                   ELSE NOT EXISTS (SELECT FROM vectuned.tuned_column o
                                    WHERE o.relation OPERATOR(pg_catalog.=) relation AND o.id OPERATOR(pg_catalog.<>) c.id) END
          AND (pg_catalog.pg_identify_object_as_address(1259, c.relation, c.column_number)).object_names
              OPERATOR(pg_catalog.=) ARRAY[c.relation_schema::pg_catalog.text, c.relation_name, c.column_name]
          AND (SELECT a.atttypmod FROM pg_catalog.pg_attribute a
               WHERE a.attrelid OPERATOR(pg_catalog.=) c.relation AND a.attnum OPERATOR(pg_catalog.=) c.column_number)
              OPERATOR(pg_catalog.=) @extschema@.vector_dims(query)
          AND (c.metric OPERATOR(pg_catalog.<>) 'cosine' OR @extschema@.vector_norm(query) OPERATOR(pg_catalog.>) 0);
        IF settings OPERATOR(pg_catalog.=) 1 THEN
            IF filtered IS DISTINCT FROM false THEN
                PERFORM vectuned._continue_scans();
            END IF;
            RETURN apply.query;
        END IF;
    END IF;
    PERFORM vectuned._apply_checked(relation, query, k, column_name, filtered, filter);
    RETURN apply.query;
END
$$;

-- What was learned for searches without a filter through the main index, for a class of k, and the default of that index:
-- ef_search for HNSW, probes for IVFFlat. The calling statement orders by the column itself, so only the main index matters.
-- No SET, so that the planner inlines it.
CREATE OR REPLACE FUNCTION vectuned._main_effort(p_column_id int, p_k bigint)
RETURNS TABLE (learned int, ef_search int, probes int)
LANGUAGE sql STABLE ROWS 1
BEGIN ATOMIC
    SELECT coalesce(
               (SELECT p.effort FROM vectuned.measured_path p
                WHERE p.column_id = c.id AND p.k_class = vectuned._k_class(p_k::int) AND p.shape IS NULL AND p.index_no = i.index_no),
               (SELECT coalesce(b.ef_search, b.probes) FROM vectuned.bank b
                WHERE b.column_id = c.id AND b.k_class = vectuned._k_class(p_k::int) AND coalesce(b.index_no, i.index_no) = i.index_no)),
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
-- the caller has turned iterative scans on, the caller's limits stay.
CREATE OR REPLACE FUNCTION vectuned._continue_scans() RETURNS void
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
