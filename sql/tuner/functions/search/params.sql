-- The search parameters that a search would use, and taking them into one's own statements.

-- The search parameters that vectuned.search would use, and why. It runs the probe, but not the search.
CREATE OR REPLACE FUNCTION vectuned.params(
    relation regclass, query @extschema@.vector, k bigint DEFAULT 10, filter jsonb DEFAULT NULL,
    column_name name DEFAULT NULL,
    OUT access_path text, OUT ef_search int, OUT probes int, OUT expected_recall float8, OUT confidence float8,
    OUT reason text, OUT index regclass)
LANGUAGE plpgsql STABLE
AS $$
#variable_conflict use_variable
BEGIN
    SELECT p.* INTO access_path, ef_search, probes, expected_recall, confidence, reason, index
    FROM vectuned._params(relation, query, k, filter, column_name, pg_catalog.current_setting('search_path')) p;
END
$$;

-- The same, given the search_path of the caller, which the probe of the table sees.
CREATE OR REPLACE FUNCTION vectuned._params(
    relation regclass, query @extschema@.vector, k bigint, filter jsonb, column_name name, caller_path text,
    OUT access_path text, OUT ef_search int, OUT probes int, OUT expected_recall float8, OUT confidence float8,
    OUT reason text, OUT index regclass)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    c vectuned.tuned_column := vectuned._tuned_column(relation, column_name);
    generated name := vectuned._search_function(relation, query, k, filter, column_name);  -- raises the errors of a search
    f record;
BEGIN
    SELECT * INTO f FROM vectuned._compile_filter(c.id, c.relation, filter) WHERE filter IS NOT NULL;
    IF generated IS NULL THEN
        SELECT p.* INTO access_path, ef_search, probes, expected_recall, confidence, reason, index
        FROM vectuned._changed_params(c, k::int, CASE WHEN f.condition IS NOT NULL THEN f.fraction END) p;
    ELSIF f.condition IS NULL THEN
        SELECT p.* INTO access_path, ef_search, probes, expected_recall, confidence, reason, index
        FROM vectuned._unfiltered_params(c, query, k::int, caller_path) p;
    ELSE
        SELECT p.* INTO access_path, ef_search, probes, expected_recall, confidence, reason, index
        FROM vectuned._filtered_params(c, k::int, filter, f.shape, f.fraction) p;
    END IF;
    IF generated IS NOT NULL AND vectuned._added_index(c) IS NOT NULL THEN
        reason := reason || format('; but the planner may choose the new index %s until the next refresh', vectuned._added_index(c));
        confidence := 0;
    END IF;
END
$$;

-- The search parameters while the generated functions do not fit: see _search_changed.
CREATE OR REPLACE FUNCTION vectuned._changed_params(
    c vectuned.tuned_column, k int, fraction float8,
    OUT access_path text, OUT ef_search int, OUT probes int, OUT expected_recall float8, OUT confidence float8,
    OUT reason text, OUT index regclass)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    i vectuned.tuned_index;
BEGIN
    SELECT * INTO i FROM vectuned._present_index(c);
    SELECT e.ef_search, e.probes INTO ef_search, probes FROM vectuned._present_effort(c, i, k, fraction) e;
    access_path := CASE WHEN ef_search IS NOT NULL THEN 'hnsw' WHEN probes IS NOT NULL THEN 'ivfflat' ELSE 'exact' END;
    index := CASE WHEN access_path <> 'exact' THEN i.index_relation END;
    expected_recall := CASE access_path WHEN 'exact' THEN 1 END;
    confidence := CASE access_path WHEN 'exact' THEN 1 ELSE 0 END;
    reason := coalesce((SELECT vectuned._outdated(t, c) FROM vectuned.tuned_column t WHERE t.id = c.id),
                       CASE WHEN i.index_relation IS NULL THEN 'there is no index over all rows' ELSE 'the main index was replaced' END)
              || ': until the next refresh';
END
$$;

-- The search parameters of a filtered search.
CREATE OR REPLACE FUNCTION vectuned._filtered_params(
    c vectuned.tuned_column, k int, filter jsonb, shape text, fraction float8,
    OUT access_path text, OUT ef_search int, OUT probes int, OUT expected_recall float8, OUT confidence float8,
    OUT reason text, OUT index regclass)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    learned record;
    main record;
BEGIN
    SELECT * INTO learned FROM vectuned._served_path(c.id, vectuned._k_class(k), filter, shape, fraction);
    IF learned.access_path IS NULL OR learned.index_no IS NOT NULL AND NOT EXISTS (
        SELECT FROM vectuned.tuned_index i JOIN pg_class r ON r.oid = i.index_relation
        WHERE i.column_id = c.id AND i.index_no = learned.index_no)
    THEN
        IF c.index_relation = 0 THEN
            SELECT o.access_path, o.index_no, o.effort, NULL::float8 AS expected_recall, NULL::float8 AS ms INTO learned
            FROM vectuned._partial_default(c.id, filter, fraction, k) o;
        ELSE
            SELECT * INTO main FROM vectuned._default_effort(c);
            SELECT o.access_path, main.index_no, o.effort, NULL::float8 AS expected_recall, NULL::float8 AS ms INTO learned
            FROM vectuned._filtered_default(fraction, c.relation, k, main.ef_search, main.probes) o;
        END IF;
    END IF;
    access_path := learned.access_path;
    index := CASE WHEN access_path <> 'exact' THEN (SELECT i.index_relation::regclass FROM vectuned.tuned_index i
              WHERE i.column_id = c.id AND i.index_no = learned.index_no) END;
    expected_recall := CASE access_path WHEN 'exact' THEN 1 ELSE learned.expected_recall END;
    confidence := CASE WHEN access_path = 'exact' THEN 1 WHEN learned.ms IS NULL THEN 0 ELSE 0.95 END;
    IF access_path = 'planner' THEN
        SELECT e.ef_search, e.probes INTO ef_search, probes FROM vectuned._default_effort(c) e;
        ef_search := CASE WHEN probes IS NULL THEN greatest(ef_search, k) END;
    ELSIF access_path LIKE 'ivfflat%' THEN
        probes := learned.effort;
    ELSIF access_path <> 'exact' THEN
        ef_search := least(greatest(learned.effort, k), 1000);
    END IF;
    reason := format('about %s of the rows match: %s', to_char(100 * fraction, 'FM990.0999') || ' %',
        CASE WHEN learned.ms IS NULL THEN coalesce(
                 (SELECT format('imported from %s; not yet proven here', m.source)
                  FROM vectuned.measured_path p JOIN vectuned.imported m ON m.import_no = p.import_no
                  WHERE p.column_id = c.id AND p.k_class = vectuned._k_class(k) AND p.shape = shape AND p.serves
                    AND p.bucket = vectuned._filter_bucket(fraction / p.share) AND p.access_path = learned.access_path LIMIT 1),
                 'nothing has been learned about such filters yet')
             WHEN access_path = 'exact' THEN 'exact search was measured to be faster than any index'
             ELSE format('the index was measured to be faster than exact search, %s ms', round(learned.ms::numeric, 2)) END);
END
$$;

-- The search parameters of a search without a filter.
CREATE OR REPLACE FUNCTION vectuned._unfiltered_params(
    c vectuned.tuned_column, query @extschema@.vector, k int, caller_path text,
    OUT access_path text, OUT ef_search int, OUT probes int, OUT expected_recall float8, OUT confidence float8,
    OUT reason text, OUT index regclass)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    class int := vectuned._k_class(k);
    b vectuned.bank;
    distances float8[];
    d record;
    main record;
BEGIN
    IF c.index_relation = 0 THEN
        access_path := 'exact';
        expected_recall := 1;
        confidence := 1;
        reason := 'there is no index over all rows';
        RETURN;
    END IF;
    SELECT t.* INTO b FROM vectuned.bank t
    JOIN vectuned.tuned_index i ON i.column_id = c.id AND (i.method = 'ivfflat') = (t.probes IS NOT NULL)
        AND CASE WHEN t.index_no IS NULL THEN i.index_relation = c.index_relation ELSE i.index_no = t.index_no END
    JOIN pg_class r ON r.oid = i.index_relation
    WHERE t.column_id = c.id AND t.k_class = class;
    SELECT i.index_relation::regclass INTO index FROM vectuned.tuned_index i
    WHERE i.column_id = c.id AND i.index_no = b.index_no;
    IF b.k_class IS NULL THEN
        SELECT * INTO main FROM vectuned._default_effort(c);
        index := c.index_relation::regclass;
        access_path := CASE WHEN main.probes IS NULL THEN 'hnsw' ELSE 'ivfflat' END;
        probes := main.probes;
        ef_search := CASE WHEN probes IS NULL THEN least(greatest(main.ef_search, k), 1000) END;
        confidence := 0;
        reason := CASE WHEN c.enabled THEN 'nothing learned yet: the default setting'
                       ELSE 'disabled: the default setting' END;
        RETURN;
    END IF;
    index := coalesce(index, c.index_relation::regclass);
    access_path := CASE WHEN b.probes IS NULL THEN 'hnsw' ELSE 'ivfflat' END;
    probes := b.probes;
    ef_search := CASE WHEN probes IS NULL THEN least(greatest(b.ef_search, k), 1000) END;
    expected_recall := b.expected_recall;
    confidence := CASE WHEN b.certified THEN 0.95 ELSE 0 END;
    reason := b.reason;
    IF b.access_path = 'exact' THEN
        access_path := 'exact';
        ef_search := NULL;
        probes := NULL;
        confidence := 1;
        index := NULL;
        RETURN;
    END IF;
    IF b.generation IS DISTINCT FROM vectuned._generation(index) THEN
        confidence := 0;
        reason := 'learned on an index that was rebuilt since: the fixed setting until relearned';
        RETURN;
    END IF;
    IF b.access_path LIKE '%\_adaptive' AND b.probe_ef BETWEEN class + 4 AND 1000 THEN
        ef_search := greatest(ef_search, CASE WHEN probes IS NULL THEN b.probe_ef END);
        BEGIN
            distances := vectuned._probe(c, query, b.probe_ef, caller_path);
            IF cardinality(distances) = b.probe_ef THEN
                SELECT * INTO d FROM vectuned._decide_by_probe(c.id, class, distances, b.center, b.weights, b.reach);
                IF vectuned._ef_search(d.effort, k) IS NOT NULL THEN
                    access_path := b.access_path;
                    IF probes IS NULL THEN
                        ef_search := greatest(vectuned._ef_search(d.effort, k), b.probe_ef);
                    ELSE
                        probes := vectuned._ef_search(d.effort, 1, b.rungs);
                    END IF;
                    expected_recall := d.expected_recall;
                    confidence := d.confidence;
                ELSE
                    reason := 'unlike anything learned: the fixed setting';
                END IF;
            END IF;
        EXCEPTION WHEN others THEN
            reason := format('the published bank is unusable (%s): the fixed setting', SQLERRM);
        END;
    END IF;
END
$$;

-- The main index and its default effort, for columns about which nothing has been learned: ef_search for HNSW, probes for
-- IVFFlat.
CREATE OR REPLACE FUNCTION vectuned._default_effort(
    c vectuned.tuned_column, OUT index_no int, OUT ef_search int, OUT probes int)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT i.index_no, CASE WHEN i.lists IS NULL THEN c.default_ef END,
           CASE WHEN i.lists IS NOT NULL THEN least(c.default_probes, i.lists) END
    FROM (VALUES (1)) one
    LEFT JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_relation = c.index_relation
$$;

-- The probe: distances of the first ef rows of a cheap scan. HNSW is scanned with this ef_search, IVFFlat with one probe.
CREATE OR REPLACE FUNCTION vectuned._probe(
    c vectuned.tuned_column, query @extschema@.vector, ef int,
    caller_path text DEFAULT pg_catalog.current_setting('search_path'))
RETURNS float8[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_sort = off
SET enable_seqscan = off
SET jit = off
SET hnsw.iterative_scan = relaxed_order
SET hnsw.ef_search = 40
SET hnsw.max_scan_tuples = 20000
SET hnsw.scan_mem_multiplier = 4
SET ivfflat.probes = 32768
SET random_page_cost = 0
SET seq_page_cost = 0
AS $$
DECLARE
    f record;
    statement text;
    distances float8[];
BEGIN
    SELECT r.distance, r.relation, n.narrow, i.method INTO f
    FROM vectuned._fragments(c) r, vectuned.tuned_index i, vectuned._index_fragments(c, i) n
    WHERE i.column_id = c.id AND i.index_relation = c.index_relation;
    -- The highest setting of the other method makes its indexes look expensive to the planner.
    PERFORM set_config('hnsw.ef_search', CASE f.method WHEN 'hnsw' THEN ef ELSE 1000 END::text, true),
            set_config('ivfflat.probes', CASE f.method WHEN 'hnsw' THEN '32768' ELSE '1' END, true);
    statement := format('SELECT pg_catalog.array_agg(n.distance) FROM (SELECT %1$s AS distance FROM %2$s t WHERE %3$s '
                        'ORDER BY %1$s LIMIT %4$s) n', f.distance, f.relation, f.narrow, ef);
    PERFORM set_config('search_path', caller_path, true);
    EXECUTE statement INTO distances USING query;
    RETURN distances;
END
$$;
