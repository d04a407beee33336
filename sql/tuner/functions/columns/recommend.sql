-- What serves a column and why, and what its owner could do to make searches faster.

-- kind: 'search' and 'filtered search' describe what serves now, 'out of reach' what no effort gives; 'index', 'filter index',
-- 'invalid index' and 'statistics' carry a statement to run. gain_ms: milliseconds that the statement is expected to save per search of that kind, on average. It runs with
-- the owner's rights, and reads only vectuned's tables and the catalogs.
CREATE OR REPLACE FUNCTION vectuned.recommend_params(relation regclass, column_name name DEFAULT NULL)
RETURNS TABLE (kind text, subject text, recommendation text, reason text, statement text, gain_ms float8, figures jsonb)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    c vectuned.tuned_column := vectuned._tuned_column(relation, column_name);
BEGIN
    PERFORM vectuned._check_may_see(c.relation);
    RETURN QUERY SELECT * FROM vectuned._recommend_search(c);
    RETURN QUERY SELECT * FROM vectuned._recommend_filtered(c);
    RETURN QUERY SELECT * FROM vectuned._recommend_statements(c);
    RETURN QUERY SELECT * FROM vectuned._recommend_indexes(c);
    RETURN QUERY SELECT 'invalid index', i.index_relation::text,
        CASE WHEN i.twin IS NULL THEN 'build it again' ELSE format('drop it: %s serves instead', i.twin) END,
        format('it is invalid, left by a build that did not end: no search uses it%s',
               CASE WHEN i.is_ready THEN format(', and every write pays for its %s', pg_size_pretty(i.bytes)) ELSE '' END),
        vectuned._mend_statement(i.index_relation, i.twin), NULL::float8, jsonb_build_object('bytes', i.bytes)
        FROM vectuned._invalid_indexes(c.relation, c.column_name) i;
    RETURN QUERY SELECT 'out of reach', 'k up to ' || o.k_class, 'another index: vectuned advise measures which, and what recall to expect',
        format('%s (%s) gives recall %s at most, at any effort, where %s is wanted: %s', o.index_relation, o.build, round(o.best::numeric, 3),
               c.target_recall, o.served),
        NULL::text, NULL::float8, jsonb_build_object('best_recall', round(o.best::numeric, 4), 'target_recall', c.target_recall, 'served', o.served)
        FROM vectuned._out_of_reach(c) o;
    IF (SELECT r.reltuples FROM pg_class r WHERE r.oid = c.relation) < 0 THEN
        RETURN QUERY SELECT 'statistics', c.relation::text, 'ANALYZE the table',
            'it was never analyzed, so the number of rows that a filter matches is unknown',
            format('ANALYZE %s', (vectuned._fragments(c)).relation), NULL::float8, NULL::jsonb;
    END IF;
END
$$;

-- For each class of k: what serves, and the same as a SET statement for plain SQL.
CREATE OR REPLACE FUNCTION vectuned._recommend_search(c vectuned.tuned_column)
RETURNS TABLE (kind text, subject text, recommendation text, reason text, statement text, gain_ms float8, figures jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'search', 'k up to ' || b.k_class,
           CASE WHEN b.access_path LIKE '%\_adaptive' THEN 'effort by query, for most less than '
                WHEN b.access_path = 'exact' THEN 'exact search; the best of the index is ' ELSE '' END
           || coalesce('ef_search ' || b.ef_search, 'probes ' || b.probes)
           || ' on ' || coalesce(i.index_relation, c.index_relation)::regclass,
           b.reason || CASE WHEN m.proven_here THEN '; imported from ' || m.source ELSE '' END,
           CASE WHEN coalesce(i.form, 'plain') = 'plain'
                THEN coalesce('SET hnsw.ef_search = ' || b.ef_search, 'SET ivfflat.probes = ' || b.probes) END,
           NULL::float8,
           jsonb_build_object('expected_recall', round(b.expected_recall::numeric, 4), 'at_least', round(b.recall_bound::numeric, 4),
                              'certified', b.certified, 'samples', b.samples,
                              'searches', (SELECT count(*) FROM vectuned.replay r
                                           WHERE r.column_id = c.id AND r.k_class = b.k_class AND r.shape IS NULL),
                              'paths', (SELECT jsonb_agg(jsonb_build_object(
                                            'index', j.index_relation::regclass::text, 'effort', p.effort, 'proven', p.proven,
                                            'recall', round(p.expected_recall::numeric, 4), 'replay_ms', round(p.ms::numeric, 3))
                                            ORDER BY p.ms)
                                        FROM vectuned.measured_path p
                                        LEFT JOIN vectuned.tuned_index j ON j.column_id = c.id AND j.index_no = p.index_no
                                        WHERE p.column_id = c.id AND p.k_class = b.k_class AND p.bucket IS NULL))
    FROM vectuned.bank b
    LEFT JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_no = b.index_no
    LEFT JOIN vectuned.imported m ON m.import_no = b.import_no
    WHERE b.column_id = c.id ORDER BY b.k_class
$$;

-- For each statement of an application: the settings that are proven for it, as SQL that sets them to the end of a
-- transaction.
CREATE OR REPLACE FUNCTION vectuned._recommend_statements(c vectuned.tuned_column)
RETURNS TABLE (kind text, subject text, recommendation text, reason text, statement text, gain_ms float8, figures jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'statement', s.text,
           coalesce((SELECT string_agg(v.name || ' = ' || v.value, ', ' ORDER BY v.name)
                     FROM jsonb_each_text(s.settings) AS v (name, value)), 'as it is'),
           CASE WHEN s.settings IS NOT NULL THEN format('the cheapest settings proven to reach %s for it', c.target_recall)
                WHEN jsonb_array_length(s.figures) > 0 THEN 'no settings are proven to reach the target'
                ELSE 'nothing is measured yet' END
           || CASE WHEN s.as_text THEN format('; replayed as it is sent, because it is more than one table: %s', s.shape) ELSE '' END,
           (SELECT string_agg(format('SET LOCAL %s = %L', v.name, v.value), '; ' ORDER BY v.name)
            FROM jsonb_each_text(s.settings) AS v (name, value)),
           NULL::float8,
           jsonb_build_object('calls', s.calls, 'expected_recall', round(s.expected_recall::numeric, 4),
                              'at_least', round(s.recall_bound::numeric, 4), 'paths', s.figures)
    FROM vectuned.statement s
    WHERE s.column_id = c.id
    ORDER BY s.calls DESC, s.fingerprint, s.k_class, s.shape
    LIMIT 100
$$;

-- For each kind of filter that has been learned: what serves, and what the next best path would cost.
CREATE OR REPLACE FUNCTION vectuned._recommend_filtered(c vectuned.tuned_column)
RETURNS TABLE (kind text, subject text, recommendation text, reason text, statement text, gain_ms float8, figures jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'filtered search',
           format('k up to %s, filter "%s" matching %s of the rows', p.k_class, p.shape,
                  CASE WHEN p.requires IS NULL THEN format('%s %%', round((100 * 2 ^ (-p.bucket / 2.0))::numeric, 3))
                       ELSE format('%s: %s %%', p.requires, round((100 * p.share * 2 ^ (-p.bucket / 2.0))::numeric, 3)) END),
           CASE p.access_path WHEN 'exact' THEN 'exact, through the filter''s index' WHEN 'planner' THEN 'the planner''s choice'
                ELSE format('%s %s on %s', CASE WHEN p.access_path LIKE 'ivfflat%' THEN 'probes' ELSE 'ef_search' END, p.effort,
                            i.index_relation::regclass) END,
           CASE WHEN p.import_no IS NOT NULL THEN format('imported from %s; not yet proven here', m.source) ELSE
           format('%s, %s ms in %s replays%s',
                  CASE WHEN p.fell_back THEN 'not proven again since it fell back'
                       WHEN NOT p.proven THEN 'unproven for these filters alone: too few of the replays are of them'
                       ELSE 'the fastest proven access path' END, round(p.ms::numeric, 2), p.samples,
                  (SELECT format('; the next is %s, %s ms', CASE o.access_path WHEN 'exact' THEN 'exact search' ELSE o.access_path END,
                                 round(o.ms::numeric, 2))
                   FROM vectuned.measured_path o
                   WHERE o.column_id = c.id AND o.k_class = p.k_class AND o.shape = p.shape AND o.bucket = p.bucket
                     AND o.requires IS NOT DISTINCT FROM p.requires AND o.proven AND NOT o.serves
                   ORDER BY o.ms LIMIT 1)) END,
           NULL::text, NULL::float8,
           jsonb_build_object('expected_recall', round(p.expected_recall::numeric, 4), 'at_least', round(p.recall_bound::numeric, 4),
                              'samples', p.samples)
    FROM vectuned.measured_path p
    LEFT JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_no = p.index_no
    LEFT JOIN vectuned.imported m ON m.import_no = p.import_no
    WHERE p.column_id = c.id AND p.serves AND p.bucket IS NOT NULL AND (p.samples > 0 OR p.import_no IS NOT NULL)
      AND p.k_class IN (SELECT vectuned._k_class(t.k) FROM vectuned.trajectory t WHERE t.column_id = c.id AND t.filter IS NOT NULL)
    ORDER BY p.k_class, p.shape, p.bucket, p.requires::text
$$;

-- Indexes that would help. First, partial vector indexes for frequent filters that cost more than a search without a filter:
-- within the partial index the filtered search becomes such a search. At most 16, the most useful first. Second, ordinary
-- indexes on filtered columns that have none: without one, exact search reads the whole table.
CREATE OR REPLACE FUNCTION vectuned._recommend_indexes(c vectuned.tuned_column)
RETURNS TABLE (kind text, subject text, recommendation text, reason text, statement text, gain_ms float8, figures jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH recent AS MATERIALIZED (
        SELECT t.filter, t.fraction, vectuned._k_class(t.k) AS k_class
        FROM vectuned.trajectory t WHERE t.column_id = c.id AND t.filter IS NOT NULL
          AND NOT EXISTS (SELECT FROM jsonb_object_keys(t.filter) AS k (name)
                          WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.relation AND a.attname = k.name
                                            AND NOT a.attisdropped))
        ORDER BY t.recorded_at DESC LIMIT c.trajectory_window),
    frequency AS (
        SELECT r.filter, r.k_class, avg(r.fraction) AS fraction, count(*) AS searches, sum(count(*)) OVER () AS total
        FROM recent r GROUP BY r.filter, r.k_class),
    priced AS (
        SELECT a.*, now.ms, e.ms AS alone_ms, (now.ms - e.ms) * a.searches / a.total AS gain
        FROM frequency a
        CROSS JOIN LATERAL vectuned._compile_filter(c.id, c.relation, a.filter) f
        CROSS JOIN LATERAL vectuned._served_path(c.id, a.k_class, a.filter, f.shape, f.fraction) now
        JOIN vectuned.measured_path alone
            ON alone.column_id = c.id AND alone.k_class = a.k_class AND alone.bucket IS NULL AND alone.serves
        -- A smaller graph needs less effort for the same recall: with a tenth of the rows, 0.42 of the time was measured.
        CROSS JOIN LATERAL (SELECT alone.ms * (0.25 + 0.75 * sqrt(a.fraction)) AS ms) e
        WHERE a.searches >= 20 AND a.searches >= 0.01 * a.total
          AND now.ms > 1.3 * e.ms
          AND NOT EXISTS (SELECT FROM jsonb_each(a.filter) e WHERE jsonb_typeof(e.value) IN ('object', 'array'))
          AND NOT EXISTS (SELECT FROM vectuned.tuned_index i WHERE i.column_id = c.id AND a.filter @> i.requires)
          -- One that is invalid is to be built again.
          AND NOT EXISTS (SELECT FROM pg_index x JOIN vectuned._invalid_indexes(c.relation, c.column_name) i ON x.indexrelid = i.index_relation
                          WHERE a.filter @> vectuned._predicate_filter(pg_get_expr(x.indpred, x.indrelid), c.relation))),
    best AS (
        SELECT p.filter, sum(p.searches) AS searches, min(p.total) AS total, avg(p.fraction) AS fraction, sum(p.gain) AS gain,
               sum(p.ms * p.searches) / sum(p.searches) AS ms, sum(p.alone_ms * p.searches) / sum(p.searches) AS alone_ms
        FROM priced p GROUP BY p.filter ORDER BY sum(p.gain) DESC LIMIT 16),
    main AS (
        SELECT pg_relation_size(c.index_relation) AS bytes,
               (SELECT string_agg(o, ', ') FROM pg_class r CROSS JOIN LATERAL unnest(r.reloptions) o
                WHERE r.oid = c.index_relation AND o !~ '^lists') AS options)
    SELECT 'index', b.filter::text,
           format('a partial HNSW index, about %s', pg_size_pretty((m.bytes * b.fraction)::bigint)),
           format('%s %% of the filtered searches use this filter and take %s ms; with an index of their own they would take '
                  'about %s ms. The condition on vector_dims holds for every row: it keeps the plans of other statements as '
                  'they are. Leave it out if those should use the index too', round(100 * b.searches / b.total, 1),
                  round(b.ms::numeric, 2), round(b.alone_ms::numeric, 2)),
           format('CREATE INDEX CONCURRENTLY ON %1$s USING hnsw (%2$I %3$s.%4$I)%5$s WHERE %6$s AND %3$s.vector_dims(%2$I) > 0',
                  f.relation, c.column_name, x.name, c.vector_type || '_' || c.metric || '_ops', coalesce(' WITH (' || m.options || ')', ''),
                  (SELECT string_agg(CASE jsonb_typeof(e.value) WHEN 'null' THEN format('%I IS NULL', e.key)
                                          ELSE format('%I = %L', e.key, e.value #>> '{}') END, ' AND ' ORDER BY e.key)
                   FROM jsonb_each(b.filter) e)),
           b.gain, jsonb_build_object('searches', b.searches, 'ms', round(b.ms::numeric, 3),
                                      'expected_ms', round(b.alone_ms::numeric, 3), 'rows', round(b.fraction::numeric, 5))
    FROM best b CROSS JOIN main m CROSS JOIN LATERAL vectuned._fragments(c) f
    CROSS JOIN (SELECT quote_ident(n.nspname) AS name FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
                WHERE e.extname = 'vector') x
    UNION ALL
    SELECT 'filter index', n.name, 'an ordinary index on the column',
           format('%s of the last %s filtered searches filter by it, and exact search has to read the table', n.searches, n.total),
           format('CREATE INDEX CONCURRENTLY ON %s (%I)', f.relation, n.name), NULL::float8,
           jsonb_build_object('searches', n.searches)
    FROM (SELECT k.name, count(*) AS searches, (SELECT count(*) FROM recent) AS total
          FROM recent r CROSS JOIN LATERAL jsonb_object_keys(r.filter) AS k (name) GROUP BY k.name) n
    JOIN pg_attribute a ON a.attrelid = c.relation AND a.attname = n.name AND NOT a.attisdropped
    CROSS JOIN LATERAL vectuned._fragments(c) f
    WHERE n.searches >= 20 AND n.searches >= 0.01 * n.total
      AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.relation AND x.indisvalid AND x.indpred IS NULL
                      AND x.indkey[0] = a.attnum)
    ORDER BY gain DESC NULLS LAST
$$;
