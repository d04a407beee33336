-- vectuned.apply: takes what was learned into the caller's own statement.

-- vectuned.apply returns the query vector unchanged and sets the effort for the rest of the transaction, so that
-- ORDER BY embedding <=> (SELECT vectuned.apply('items', $1, 10)) LIMIT 10 searches with it. The effort proven for searches
-- without a filter serves only statements without one, which the caller declares by filtered => false. All others keep at
-- least the default effort, and their index scan goes on until LIMIT is met: see _continue_scans. A sample of the calls without
-- a filter is recorded.
-- In most calls, the session already keeps the effort to set: see kept_efforts.sql. PL/pgSQL prepares the two expressions again
-- in each transaction, which takes about 0.0003 ms for each function in them; that is why they call so few. The function sets no
-- search_path, which would cost 0.01 ms a call: every name is qualified instead.
CREATE OR REPLACE FUNCTION vectuned.apply(
    relation regclass, query @extschema@.vector, k bigint DEFAULT 10, column_name name DEFAULT NULL,
    filtered boolean DEFAULT NULL, filter jsonb DEFAULT NULL)
RETURNS @extschema@.vector
LANGUAGE plpgsql VOLATILE
AS $$
#variable_conflict use_variable
DECLARE
    kept pg_catalog.text[] := vectuned._kept_effort(relation, column_name, k, filtered);
BEGIN
    -- Any role can write what is kept, also before a SECURITY DEFINER function of another calls this: so it does not name what is
    -- set, and the type in DECLARE, which PL/pgSQL resolves once in a session, is qualified.
    RETURN CASE
        WHEN (filter IS NULL
            AND kept[1] OPERATOR(pg_catalog.=) pg_catalog.concat(
                pg_catalog.pg_sequence_last_value('vectuned.policy_change'::pg_catalog.regclass), ' ', @extschema@.vector_dims(query))
            AND @extschema@.vector_norm(query) OPERATOR(pg_catalog.>) 0
            AND pg_catalog.hashfloat8(pg_catalog.date_part('epoch', pg_catalog.clock_timestamp()))
                OPERATOR(pg_catalog.>=) kept[4]::pg_catalog.int4) IS TRUE
            AND pg_catalog.set_config(CASE WHEN kept[2] OPERATOR(pg_catalog.=) 'ivfflat.probes' THEN 'ivfflat.probes'
                                           ELSE 'hnsw.ef_search' END, kept[3], true) IS NOT NULL
            AND (filtered IS FALSE OR vectuned._continue_scans())
        THEN query
        ELSE vectuned._apply_looked_up(relation, query, k, column_name, filtered, filter, kept) END;
END
$$;

-- Every other call: one that is in the sample is recorded; for any other, the effort is looked up and kept for the next call.
CREATE OR REPLACE FUNCTION vectuned._apply_looked_up(
    relation regclass, query @extschema@.vector, k bigint, column_name name, filtered boolean, filter jsonb, kept text[])
RETURNS @extschema@.vector
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    fits boolean := kept[1] = concat(pg_sequence_last_value('vectuned.policy_change'::regclass), ' ', @extschema@.vector_dims(query))
        AND filter IS NULL AND @extschema@.vector_norm(query) > 0;
    found record;
BEGIN
    IF fits THEN
        PERFORM set_config(CASE WHEN kept[2] = 'ivfflat.probes' THEN 'ivfflat.probes' ELSE 'hnsw.ef_search' END, kept[3], true),
                vectuned._record_call(kept[5]::int, query, k::int);
        RETURN (query);
    END IF;
    SELECT * INTO found FROM vectuned._find_effort(relation, column_name, k, filtered) WHERE filter IS NULL;
    IF found.column_id IS NULL OR query IS NULL OR found.dimensions <> @extschema@.vector_dims(query)
       OR found.cosine AND @extschema@.vector_norm(query) = 0
    THEN
        RETURN vectuned._apply_checked(relation, query, k, column_name, filtered, filter);
    END IF;
    PERFORM set_config(found.setting, found.value, true);
    IF filtered IS NOT FALSE THEN
        PERFORM vectuned._continue_scans();
    ELSIF hashfloat8(date_part('epoch', clock_timestamp())) < found.bound THEN
        PERFORM vectuned._record_call(found.column_id, query, k::int);
    END IF;
    IF found.kept IS DISTINCT FROM kept THEN
        PERFORM set_config(vectuned._effort_setting(relation, column_name, k, filtered), coalesce(array_to_string(found.kept, '|'), ''), false);
    END IF;
    RETURN (query);
END
$$;

-- Records a sampled call without a filter. Its answer is not known, and is recorded as such. Returns whether it was recorded.
CREATE OR REPLACE FUNCTION vectuned._record_call(p_column_id int, query @extschema@.vector, k int) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation oid;
BEGIN
    IF current_setting('transaction_read_only') = 'on'
       OR lower(current_setting('vectuned.record', true)) = ANY ('{off,false,no,0}'::text[])
    THEN
        RETURN false;
    END IF;
    SELECT t.relation INTO relation FROM vectuned.tuned_column t
    WHERE t.id = p_column_id AND t.dimensions = @extschema@.vector_dims(query);
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF row_security_active(relation) THEN
        PERFORM vectuned._count_unrecordable(p_column_id);
        RETURN false;
    END IF;
    RETURN vectuned._record(vectuned._query_id(true), p_column_id, query, k, 'unknown', NULL, NULL, NULL, NULL, NULL, 'NaN');
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
               (SELECT coalesce(b.ef_search, b.probes) FROM vectuned.bank b
                WHERE b.column_id = c.id AND b.k_class = vectuned._k_class(p_k::int) AND coalesce(b.index_no, i.index_no) = i.index_no
                  AND (b.probes IS NULL) = (i.lists IS NULL)),
               (SELECT p.effort FROM vectuned.measured_path p
                WHERE p.column_id = c.id AND p.k_class = vectuned._k_class(p_k::int) AND p.shape IS NULL AND p.index_no = i.index_no
                LIMIT 1)),
           CASE WHEN i.lists IS NULL THEN c.default_ef END,
           CASE WHEN i.lists IS NOT NULL THEN least(c.default_probes, i.lists) END
    FROM vectuned.tuned_column c
    LEFT JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_relation = c.index_relation
    WHERE c.id = p_column_id;
END;

-- The setting of pgvector and its value for an effort: what was learned, but at least the default (ef_search or probes) where
-- the statement may have a filter, and at least k for HNSW. No SET, so that it is inlined.
CREATE OR REPLACE FUNCTION vectuned._effort_to_set(learned int, ef_search int, probes int, k bigint, filtered boolean)
RETURNS TABLE (setting text, value text)
LANGUAGE sql IMMUTABLE ROWS 1
BEGIN ATOMIC
    SELECT CASE WHEN probes IS NULL THEN 'hnsw.ef_search' ELSE 'ivfflat.probes' END,
           CASE WHEN probes IS NULL THEN least(greatest(e.effort, k), 1000) ELSE e.effort END::text
    FROM (SELECT CASE WHEN filtered IS FALSE THEN coalesce(learned, ef_search, probes)
                      ELSE greatest(learned, ef_search, probes) END AS effort) e;
END;

-- Lets index scans go on until the statement has its rows, for the rest of the transaction. In relaxed order, because
-- strict_order drops rows that come late: it returns fewer rows than match. There is no limit to the rows that a scan looks
-- at; the memory of an HNSW scan is bounded by 256 MB (about a million rows looked at), or work_mem if that is more. Where
-- the caller has turned iterative scans on, the caller's limits stay. Returns true. (To be fast, it sets no search_path.)
CREATE OR REPLACE FUNCTION vectuned._continue_scans() RETURNS boolean
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
    IF pg_catalog.current_setting('hnsw.iterative_scan') OPERATOR(pg_catalog.=) 'off' THEN
        PERFORM pg_catalog.set_config('hnsw.iterative_scan', 'relaxed_order', true),
                pg_catalog.set_config('hnsw.max_scan_tuples', '2147483647', true),
                pg_catalog.set_config('hnsw.scan_mem_multiplier', greatest(
                    pg_catalog.current_setting('hnsw.scan_mem_multiplier')::pg_catalog.float8,
                    least(1000, pg_catalog.ceil(268435456.0 OPERATOR(pg_catalog./) pg_catalog.pg_size_bytes(
                        pg_catalog.current_setting('work_mem')))))::pg_catalog.text, true);
    END IF;
    IF pg_catalog.current_setting('ivfflat.iterative_scan') OPERATOR(pg_catalog.=) 'off' THEN
        PERFORM pg_catalog.set_config('ivfflat.iterative_scan', 'relaxed_order', true),
                pg_catalog.set_config('ivfflat.max_probes', '32768', true);
    END IF;
    RETURN true;
END
$$;

-- The slow path of apply: checks every argument, and finds the effort for a filter. A filtered search that was learned to be
-- exact gets the default effort for its share of matching rows: the statement is already planned when apply runs.
CREATE OR REPLACE FUNCTION vectuned._apply_checked(
    relation regclass, query @extschema@.vector, k bigint, column_name name, filtered boolean, filter jsonb)
RETURNS @extschema@.vector
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
    PERFORM set_config(s.setting, s.value, true)
    FROM vectuned._effort_to_set(greatest(e.learned, filtered_effort), e.ef_search, e.probes, k, filtered) s;
    IF filtered IS DISTINCT FROM false THEN
        PERFORM vectuned._continue_scans();
    END IF;
    RETURN (query);
END
$$;
