-- Drift: whether a tuned table has changed since vectuned learned about it, and how to serve it until it has learned again.

-- Estimated number of rows of a table, without counting: rows per page when it was last analyzed, times its pages now.
CREATE OR REPLACE FUNCTION vectuned._row_estimate(p_relation regclass) RETURNS float8
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(sum(least(
        CASE WHEN r.reltuples > 0 AND r.relpages > 0
             THEN r.reltuples::float8 / r.relpages * (pg_relation_size(r.oid) / current_setting('block_size')::int)
             ELSE nullif(pg_stat_get_live_tuples(r.oid), 0) END,
        -- Updates grow the pages too, but not the number of live tuples. After a crash that statistic restarts at 0 and is
        -- unreliable until the table is vacuumed or analyzed.
        CASE WHEN coalesce(pg_stat_get_last_analyze_time(r.oid), pg_stat_get_last_autoanalyze_time(r.oid),
                           pg_stat_get_last_vacuum_time(r.oid), pg_stat_get_last_autovacuum_time(r.oid)) IS NOT NULL
             THEN nullif(pg_stat_get_live_tuples(r.oid), 0)
             ELSE nullif(greatest(pg_stat_get_live_tuples(r.oid), r.reltuples), 0) END)), 0)
    FROM (SELECT p_relation::oid AS relid WHERE (SELECT o.relkind <> 'p' FROM pg_class o WHERE o.oid = p_relation)
          UNION ALL
          SELECT t.relid FROM pg_partition_tree(p_relation) t
          WHERE t.isleaf AND (SELECT o.relkind = 'p' FROM pg_class o WHERE o.oid = p_relation)) t
    JOIN pg_class r ON r.oid = t.relid
$$;

-- Records the current state of a tuned table as its baseline: the estimated number of rows, and digests of the vectors of
-- some rows, the witnesses.
CREATE OR REPLACE FUNCTION vectuned._set_baseline(p_column_id int) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c vectuned.tuned_column;
    rows float8;
    sample text;
    witnesses jsonb;
BEGIN
    SELECT * INTO STRICT c FROM vectuned.tuned_column t WHERE t.id = p_column_id;
    rows := vectuned._row_estimate(c.relation);
    -- 100 witnesses out of about 1,000 rows on random pages, or out of all rows if the table has few pages.
    FOREACH sample IN ARRAY ARRAY['TABLESAMPLE SYSTEM ($1)', 'WHERE $1 IS NOT NULL'] LOOP
        EXECUTE format(
            'SELECT coalesce(jsonb_agg(jsonb_build_array(n.key, n.digest)), ''[]'') FROM ('
            'SELECT ARRAY[%s] AS key, md5(o.%I::text) AS digest FROM (SELECT * FROM %s t %s) o '
            'WHERE o.%2$I IS NOT NULL ORDER BY random() LIMIT 100) n',
            (SELECT string_agg(format('o.%I::text', u.name), ', ' ORDER BY u.place)
             FROM unnest(c.key_columns) WITH ORDINALITY AS u (name, place)),
            c.column_name, (vectuned._fragments(c)).relation, sample)
        INTO witnesses USING least(greatest(100 * 1000 / greatest(rows, 1), 0.01), 100)::real;
        EXIT WHEN jsonb_array_length(witnesses) >= 50 OR rows >= 100000;
    END LOOP;
    INSERT INTO vectuned.baseline AS b (column_id, generation, rows, witnesses)
    VALUES (c.id, vectuned._generation(c.index_relation), rows, witnesses)
    ON CONFLICT (column_id) DO UPDATE SET taken_at = now(), generation = excluded.generation, rows = excluded.rows,
                                          witnesses = excluded.witnesses;
END
$$;

-- Changes of a tuned table since its baseline: whether the index was rebuilt, rows now / rows then (NULL if the table was empty
-- and is not any more), and the shares of the witnesses that are gone and that have another vector (NULL without witnesses).
-- No row if there is no baseline.
CREATE OR REPLACE FUNCTION vectuned._since_baseline(p_column_id int)
RETURNS TABLE (rebuilt boolean, growth float8, gone float8, rewritten float8)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c vectuned.tuned_column;
    b vectuned.baseline;
BEGIN
    SELECT * INTO STRICT c FROM vectuned.tuned_column t WHERE t.id = p_column_id;
    SELECT * INTO b FROM vectuned.baseline t WHERE t.column_id = p_column_id;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    rebuilt := b.generation IS DISTINCT FROM vectuned._generation(c.index_relation);
    growth := vectuned._row_estimate(c.relation);
    growth := CASE WHEN b.rows > 0 THEN growth / b.rows WHEN growth = 0 THEN 1 END;
    EXECUTE format(
        'SELECT avg((n.digest IS NULL)::int), avg(coalesce(n.digest <> n.known, false)::int) FROM ('
        'SELECT w.value ->> 1 AS known, (SELECT md5(t.%I::text) FROM %s t WHERE %s) AS digest '
        'FROM jsonb_array_elements($1) w) n',
        c.column_name, (vectuned._fragments(c)).relation,
        (SELECT string_agg(format('t.%I = (w.value -> 0 ->> %s)::%s', u.name, u.place - 1, format_type(a.atttypid, -1)),
                           ' AND ' ORDER BY u.place)
         FROM unnest(c.key_columns) WITH ORDINALITY AS u (name, place)
         JOIN pg_attribute a ON a.attrelid = c.relation AND a.attname = u.name))
    INTO gone, rewritten USING b.witnesses;
    RETURN NEXT;
END
$$;

-- Raises the share of searches that are recorded, and so checked, while p_alert; otherwise restores the configured share.
-- Returns whether that changed anything.
CREATE OR REPLACE FUNCTION vectuned._set_alert(p_column_id int, p_alert boolean) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM '[1]'::@extschema@.vector;
    PERFORM pg_advisory_xact_lock(hashtextextended('vectuned.enable', 0));
    UPDATE vectuned.tuned_column t SET alert = p_alert WHERE t.id = p_column_id AND t.alert <> p_alert;
    IF FOUND THEN
        PERFORM vectuned._generate(p_column_id);
    END IF;
    RETURN FOUND;
END
$$;

-- Stops relying on what was learned until vectuned has learned again: searches without a filter get twice the fixed effort,
-- filtered searches become exact wherever that was measured. p_k_class and p_shape limit it to one class (shape '' for
-- searches without a filter); NULL means all.
CREATE OR REPLACE FUNCTION vectuned._fall_back(p_column_id int, p_k_class int, p_shape text, p_why text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE vectuned.bank b
    SET access_path = CASE WHEN b.probes IS NULL THEN 'hnsw' ELSE 'ivfflat' END,
        ef_search = CASE WHEN b.probes IS NULL THEN least(2 * b.ef_search, 1000) END,
        probes = CASE WHEN b.ef_search IS NULL THEN least(2 * b.probes, 32768) END,
        certified = false, recall_bound = 0, expected_recall = NULL, tail = NULL, tail_bound = 1, saving = NULL,
        reason = p_why || '; searches get twice the effort until it is learned again'
    WHERE b.column_id = p_column_id AND (p_k_class IS NULL OR b.k_class = p_k_class) AND coalesce(p_shape, '') = '';
    UPDATE vectuned.measured_path m SET serves = (m.access_path = 'exact')
    WHERE m.column_id = p_column_id AND (p_k_class IS NULL OR m.k_class = p_k_class)
      AND m.shape IS NOT NULL AND (p_shape IS NULL OR m.shape = p_shape)
      AND m.serves <> (m.access_path = 'exact');
    -- Statements of applications likewise.
    UPDATE vectuned.statement s
    SET settings = CASE
            WHEN s.shape <> '' THEN '{"enable_indexscan": "off", "plan_cache_mode": "force_custom_plan"}'::jsonb
            ELSE (SELECT jsonb_object_agg(e.key, CASE e.key
                      WHEN 'hnsw.ef_search' THEN least(2 * e.value::int, 1000)::text
                      WHEN 'ivfflat.probes' THEN least(2 * e.value::int, 32768)::text
                      ELSE e.value END)
                  FROM jsonb_each_text(s.settings) e) END,
        certified = false, recall_bound = 0, expected_recall = NULL, published_at = now()
    WHERE s.column_id = p_column_id AND (p_k_class IS NULL OR s.k_class = p_k_class)
      AND (p_shape IS NULL OR s.shape = p_shape) AND s.settings IS NOT NULL AND s.settings <> '{}';
$$;

-- Restarts the recall claim about a class of searches, after a change of what serves it. NULL means all classes of a column.
CREATE OR REPLACE FUNCTION vectuned._restart_checks(p_column_id int, p_k_class int, p_shape text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE vectuned.promise p
    SET first_check = (SELECT coalesce(max(k.check_no), 0) + 1 FROM vectuned.recall_check k), since = now(),
        access_path = NULL, index_no = NULL, effort = NULL, target_recall = NULL, checks = 0, unknown = 0, recall = NULL, recall_bound = 0,
        below_08 = NULL, below_08_bound = 1, epoch_recall = NULL, epoch_bound = NULL, epoch_ended = NULL, e_value = 1,
        updated_at = now()
    WHERE p.column_id = p_column_id AND (p_k_class IS NULL OR p.k_class = p_k_class)
      AND (p_shape IS NULL OR p.shape = p_shape);
$$;
