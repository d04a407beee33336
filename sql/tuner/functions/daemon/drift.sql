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

-- The versions that decide what a search costs: PostgreSQL's major one, and pgvector's.
CREATE OR REPLACE FUNCTION vectuned._versions() RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN format('PostgreSQL %s, pgvector %s', current_setting('server_version_num')::int / 10000,
              (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'vector'));

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
    INSERT INTO vectuned.baseline AS b (column_id, generation, rows, witnesses, versions)
    VALUES (c.id, vectuned._generation(c.index_relation), rows, witnesses, vectuned._versions())
    ON CONFLICT (column_id) DO UPDATE SET taken_at = now(), generation = excluded.generation, rows = excluded.rows,
                                          witnesses = excluded.witnesses, versions = excluded.versions;
END
$$;

-- Changes of a tuned table since its baseline: whether the index was rebuilt, rows now / rows then (NULL if the table was empty
-- and is not any more), the shares of the witnesses that are gone and that have another vector (NULL without witnesses), and
-- the versions of PostgreSQL and pgvector then, if they are others now.
-- No row if there is no baseline.
CREATE OR REPLACE FUNCTION vectuned._since_baseline(p_column_id int)
RETURNS TABLE (rebuilt boolean, growth float8, gone float8, rewritten float8, upgraded_from text)
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
    upgraded_from := CASE WHEN b.versions NOT IN ('', vectuned._versions()) THEN b.versions END;
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

-- The effort to serve after falling back: the published one, or after an alarm 1.8 times what the mean of the replays asked
-- for, though 1.2 to 2 times the published one; times the table's growth since to a power. At most p_highest, but never less than
-- serves now. NULL for an access path without an effort.
CREATE OR REPLACE FUNCTION vectuned._fallback_effort(
    serves int, published int, asked int, growth float8, p_power float8, p_alarm boolean, p_highest int)
RETURNS int
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN published IS NOT NULL THEN greatest(serves, least(
    ceil(CASE WHEN p_alarm THEN least(greatest(1.2 * published, coalesce(1.8 * asked, 2 * published)), 2 * published) ELSE published END
         * greatest(coalesce(growth, 1), 1) ^ p_power - 1e-6),
    p_highest)) END::int;

-- Stops relying on what was learned until vectuned has learned again. p_k_class and p_shape limit it to one class (shape '' for
-- searches without a filter); NULL means all. Nothing counts as proven any more, and efforts become _fallback_effort: they start
-- from what was published, so falling back again for the same reason changes nothing. p_power: how effort grows with the
-- table's rows. p_max_effort and p_max_ms, by the measured times, cap the effort. After an alarm, filtered searches become exact
-- if that was measured to take at most twice as long as what serves.
CREATE OR REPLACE FUNCTION vectuned._fall_back(
    p_column_id int, p_k_class int, p_shape text, p_why text, p_alarm boolean DEFAULT true, p_power float8 DEFAULT 0.38,
    p_max_effort int DEFAULT NULL, p_max_ms float8 DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rows_then float8;
    rows_now float8;
BEGIN
    SELECT nullif(b.rows, 0), vectuned._row_estimate(c.relation) INTO rows_then, rows_now
    FROM vectuned.tuned_column c LEFT JOIN vectuned.baseline b ON b.column_id = c.id WHERE c.id = p_column_id;

    UPDATE vectuned.bank b
    SET access_path = f.method, ef_search = CASE f.method WHEN 'hnsw' THEN f.effort END,
        probes = CASE f.method WHEN 'ivfflat' THEN f.effort END, learned_effort = f.published, learned_rows = f.rows,
        certified = false, recall_bound = 0, expected_recall = NULL, tail = NULL, tail_bound = 1, saving = NULL,
        reason = format('%s; %s %s serves until it is learned again', p_why,
                        CASE f.method WHEN 'hnsw' THEN 'ef_search' ELSE 'probes' END, f.effort)
    FROM (SELECT o.k_class, n.method, n.published, n.rows, vectuned._fallback_effort(
                     n.serves, n.published, o.asked_effort, rows_now / n.rows, p_power, p_alarm,
                     least(CASE n.method WHEN 'hnsw' THEN 1000 ELSE 32768 END, CASE WHEN p_max_effort > 0 THEN greatest(p_max_effort, n.least) END,
                           (SELECT floor(m.effort * p_max_ms / nullif(m.ms, 0)) FROM vectuned.measured_path m
                            WHERE m.column_id = o.column_id AND m.k_class = o.k_class AND m.shape IS NULL
                              AND m.index_no = o.index_no LIMIT 1))::int) AS effort
          FROM vectuned.bank o
          CROSS JOIN LATERAL (
              SELECT CASE WHEN o.probes IS NULL THEN 'hnsw' ELSE 'ivfflat' END AS method, coalesce(o.ef_search, o.probes) AS serves,
                     CASE WHEN o.probes IS NULL THEN o.k_class ELSE 1 END AS least,
                     coalesce(o.learned_effort, o.ef_search, o.probes) AS published, coalesce(o.learned_rows, rows_then) AS rows) n
          WHERE o.column_id = p_column_id) f
    WHERE b.column_id = p_column_id AND b.k_class = f.k_class AND (p_k_class IS NULL OR b.k_class = p_k_class)
      AND coalesce(p_shape, '') = ''
      -- Exact search holds whatever happens, while it takes no longer than allowed.
      AND NOT (b.access_path = 'exact' AND (p_max_ms IS NULL OR b.exact_ms * greatest(rows_now / rows_then, 1) <= p_max_ms) IS NOT FALSE);

    UPDATE vectuned.measured_path m
    SET serves = CASE WHEN f.near THEN m.access_path = 'exact' ELSE m.serves END,
        effort = CASE WHEN m.serves THEN f.effort ELSE m.effort END, learned_effort = f.published, learned_rows = f.rows,
        proven = m.access_path = 'exact', fell_back = true
    FROM (SELECT o.path_no, n.published, n.rows,
                 vectuned._fallback_effort(o.effort, n.published, NULL, rows_now / n.rows, p_power, p_alarm, least(
                     CASE WHEN o.access_path LIKE 'ivfflat%' THEN 32768 ELSE 1000 END, CASE WHEN p_max_effort > 0 THEN greatest(p_max_effort, o.k_class) END)) AS effort,
                 p_alarm AND EXISTS (
                     SELECT FROM vectuned.measured_path e JOIN vectuned.measured_path s USING (column_id, k_class, shape, bucket)
                     WHERE (e.column_id, e.k_class, e.shape, e.bucket) = (o.column_id, o.k_class, o.shape, o.bucket)
                       AND e.access_path = 'exact' AND s.serves AND e.ms <= 2 * s.ms) AS near
          FROM vectuned.measured_path o
          CROSS JOIN LATERAL (SELECT coalesce(o.learned_effort, o.effort) AS published, coalesce(o.learned_rows, rows_then) AS rows) n
          WHERE o.column_id = p_column_id AND o.shape IS NOT NULL) f
    WHERE m.path_no = f.path_no AND (p_k_class IS NULL OR m.k_class = p_k_class) AND (p_shape IS NULL OR m.shape = p_shape);

    -- Statements of applications likewise. One with a condition goes out as it is where exact search would be too slow.
    UPDATE vectuned.statement s
    SET settings = n.settings, published_at = CASE WHEN n.settings IS NOT NULL THEN now() END,
        certified = false, recall_bound = 0, expected_recall = NULL
    FROM (SELECT o.fingerprint, o.k_class, o.shape, CASE
              -- Of joins and the like nothing says how slow exact search would be.
              WHEN o.as_text THEN o.settings
              WHEN o.shape = '' THEN (
                  SELECT jsonb_object_agg(e.key, greatest(e.value::int, CASE e.key WHEN 'hnsw.ef_search' THEN b.ef_search
                                                                                   WHEN 'ivfflat.probes' THEN b.probes END)::text)
                  FROM jsonb_each_text(o.settings) e
                  LEFT JOIN vectuned.bank b ON b.column_id = o.column_id AND b.k_class = o.k_class)
              WHEN NOT p_alarm THEN o.settings
              WHEN NOT EXISTS (SELECT FROM vectuned.measured_path m
                               WHERE m.column_id = o.column_id AND m.k_class = o.k_class AND m.shape = o.shape
                                 AND m.serves AND m.access_path <> 'exact')
                  THEN '{"enable_bitmapscan": "on", "enable_indexscan": "off", "enable_seqscan": "on", "enable_sort": "on",
                         "plan_cache_mode": "force_custom_plan"}'::jsonb END AS settings
          FROM vectuned.statement o
          WHERE o.column_id = p_column_id AND (p_k_class IS NULL OR o.k_class = p_k_class)
            AND (p_shape IS NULL OR o.shape = p_shape) AND o.settings IS NOT NULL AND o.settings <> '{}') n
    WHERE s.column_id = p_column_id AND s.fingerprint = n.fingerprint AND s.k_class = n.k_class AND s.shape = n.shape;
    UPDATE vectuned.statement s SET by_share = NULL
    WHERE s.column_id = p_column_id AND (p_k_class IS NULL OR s.k_class = p_k_class) AND (p_shape IS NULL OR s.shape = p_shape)
      AND s.by_share IS NOT NULL;
END
$$;

-- Restarts the recall claim about a class of searches, after a change of what serves it. NULL means all classes of a column.
CREATE OR REPLACE FUNCTION vectuned._restart_checks(p_column_id int, p_k_class int, p_shape text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE vectuned.promise p
    SET first_check = (SELECT coalesce(max(k.check_no), 0) + 1 FROM vectuned.recall_check k), since = now(),
        served = NULL, target_recall = NULL, block = 1, checks = 0, unknown = 0, recall = NULL, recall_bound = 0,
        below_08 = NULL, below_08_bound = 1, epoch_recall = NULL, epoch_bound = NULL, epoch_ended = NULL, heavy_filters = '[]', e_value = 1,
        updated_at = now()
    WHERE p.column_id = p_column_id AND (p_k_class IS NULL OR p.k_class = p_k_class)
      AND (p_shape IS NULL OR p.shape = p_shape);
$$;
