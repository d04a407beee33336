-- Statements of applications in a document: their texts without values, the settings that serve them, and what each path was
-- measured to give.

-- The statements of a column as a document holds them, those with the most calls. Leaves out what was imported as a prior.
CREATE OR REPLACE FUNCTION vectuned._export_statements(c vectuned.tuned_column) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_agg(n.statement ORDER BY n.fingerprint, n.k_class, n.shape COLLATE "C"), '[]')
    FROM (SELECT s.fingerprint, s.k_class, s.shape, jsonb_build_object(
              'fingerprint', s.fingerprint, 'k', s.k_class, 'shape', s.shape, 'text', s.text, 'as_text', s.as_text,
              'calls', s.calls, 'first_seen', s.first_seen, 'last_seen', s.last_seen, 'settings', s.settings,
              'by_share', s.by_share, 'expected_recall', s.expected_recall, 'recall_bound', s.recall_bound,
              'certified', s.certified, 'figures', coalesce(s.figures, '[]')) AS statement
          FROM vectuned.statement s LEFT JOIN vectuned.imported m ON m.import_no = s.import_no
          WHERE s.column_id = c.id AND m.proven_here IS NOT FALSE
          ORDER BY s.calls DESC, s.fingerprint LIMIT 1000) n
$$;

-- Whether an object holds settings that statements may be sent with, each with a value that the server takes.
CREATE OR REPLACE FUNCTION vectuned._settings_fit(settings jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE jsonb_typeof(settings) WHEN 'object' THEN coalesce(bool_and(
        jsonb_typeof(e.value) = 'string' AND (e.value #>> '{}') ~ CASE
            WHEN e.key IN ('hnsw.ef_search', 'hnsw.max_scan_tuples', 'ivfflat.probes', 'ivfflat.max_probes') THEN '^[1-9]\d{0,8}$'
            WHEN e.key = 'hnsw.scan_mem_multiplier' THEN '^\d{1,4}(\.\d{1,6})?$'
            WHEN e.key IN ('hnsw.iterative_scan', 'ivfflat.iterative_scan') THEN '^(off|relaxed_order|strict_order)$'
            WHEN e.key IN ('enable_bitmapscan', 'enable_indexscan', 'enable_seqscan', 'enable_sort') THEN '^(on|off)$'
            WHEN e.key = 'plan_cache_mode' THEN '^(auto|force_generic_plan|force_custom_plan)$'
            ELSE '^\M' END), true) ELSE false END
    FROM jsonb_each(CASE jsonb_typeof(settings) WHEN 'object' THEN settings ELSE '{}' END) e
$$;

-- Checks the statements of a document; an error names the place and what is expected there.
CREATE OR REPLACE FUNCTION vectuned._check_statements(statements jsonb) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    share constant jsonb := '{"is": "number", "from": 0, "to": 1}';
    maybe constant jsonb := '{"null": true}';
    wrong record;
    each record;
BEGIN
    PERFORM vectuned._check_members('$.statements', statements, jsonb_build_object(
        'fingerprint', '{"is": "text", "from": 16, "to": 16, "like": "^[0-9a-f]{16}$"}'::jsonb,
        'k', '{"is": "integer", "from": 1, "to": 1000}'::jsonb, 'shape', '{"is": "text", "from": 0, "to": 70000}'::jsonb,
        'text', '{"is": "text", "from": 1, "to": 500000}'::jsonb, 'as_text', '{"is": "boolean"}'::jsonb,
        'calls', '{"is": "integer", "from": 0, "to": 1e15}'::jsonb,
        'first_seen', '{"is": "time"}'::jsonb, 'last_seen', '{"is": "time"}'::jsonb,
        'settings', '{"is": "object", "null": true}'::jsonb, 'by_share', '{"is": "object", "null": true}'::jsonb,
        'expected_recall', share || maybe, 'recall_bound', share || maybe, 'certified', '{"is": "boolean"}'::jsonb,
        'figures', '{"is": "array", "to": 100}'::jsonb));
    FOR each IN SELECT format('$.statements[%s].figures', e.number - 1) AS place, e.value -> 'figures' AS figures
                FROM jsonb_array_elements(statements) WITH ORDINALITY AS e (value, number) LOOP
        PERFORM vectuned._check_members(each.place, each.figures, jsonb_build_object(
            'path', '{"is": "text", "from": 1, "to": 63}'::jsonb, 'settings', '{"is": "object"}'::jsonb,
            'recall', share, 'bound', share, 'ms', '{"is": "number", "from": 0, "to": 1e300}'::jsonb,
            'proven', '{"is": "boolean"}'::jsonb, 'effort', '{"is": "integer", "from": 1, "to": 32768, "null": true}'::jsonb));
    END LOOP;
    WITH statement AS (
        SELECT e.value, format('$.statements[%s]', e.number - 1) AS place, e.number,
               row_number() OVER (PARTITION BY e.value -> 'fingerprint', e.value -> 'k', e.value -> 'shape' ORDER BY e.number) AS turn
        FROM jsonb_array_elements(statements) WITH ORDINALITY AS e (value, number)),
    settings AS (
        SELECT s.number, s.place || '.settings' AS place, s.value -> 'settings' AS settings FROM statement s
        WHERE jsonb_typeof(s.value -> 'settings') = 'object'
        UNION ALL
        SELECT s.number, format('%s.figures[%s].settings', s.place, f.number - 1), f.value -> 'settings'
        FROM statement s CROSS JOIN LATERAL jsonb_array_elements(s.value -> 'figures') WITH ORDINALITY AS f (value, number)
        UNION ALL
        SELECT s.number, format('%s.by_share.%s', s.place, left(b.key, 60)), CASE WHEN b.key ~ '^\d{1,2}$' THEN b.value END
        FROM statement s CROSS JOIN LATERAL jsonb_each(
            CASE jsonb_typeof(s.value -> 'by_share') WHEN 'object' THEN s.value -> 'by_share' ELSE '{}' END) AS b (key, value))
    SELECT p.place, p.problem INTO wrong
    FROM (SELECT s.number, s.place || '.k' AS place, 'must be one of 1, 3, 10, 30, 100, 300, 1000' AS problem
          FROM statement s WHERE (s.value -> 'k')::int <> vectuned._k_class((s.value -> 'k')::int)
          UNION ALL
          SELECT s.number, s.place, 'stands there twice' FROM statement s WHERE s.turn > 1
          UNION ALL
          SELECT t.number, t.place, 'must hold settings of searches and values for them'
          FROM settings t WHERE NOT coalesce(vectuned._settings_fit(t.settings), false)) p
    ORDER BY p.number LIMIT 1;
    IF FOUND THEN
        PERFORM vectuned._reject_document(wrong.place, wrong.problem);
    END IF;
END
$$;

-- The settings of a statement as a prior: efforts are raised as those of classes are. NULL where they say nothing here: exact
-- search of a table of more than twice the rows, and scans of an index of a method that there is none of.
CREATE OR REPLACE FUNCTION vectuned._prior_settings(
    c vectuned.tuned_column, document jsonb, mapping jsonb, settings jsonb, k int) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN settings ->> 'enable_indexscan' = 'off' AND (mapping -> 'rows_here')::float8 > 2 * (mapping -> 'rows_there')::float8
                  OR bool_or(e.method IS NOT NULL AND i.number IS NULL) THEN NULL
                ELSE jsonb_object_agg(e.key, CASE e.key
                    WHEN 'hnsw.ef_search' THEN vectuned._prior_effort(c, document, mapping, i.number, p.target, e.value::int,
                                                                      greatest(c.default_ef, k), 'hnsw')::text
                    WHEN 'ivfflat.probes' THEN vectuned._prior_effort(c, document, mapping, i.number, p.target, e.value::int,
                                                                      c.default_probes, 'ivfflat')::text
                    ELSE e.value END) END
    FROM (SELECT s.key, s.value, substring(s.key FROM '^(hnsw|ivfflat)\.') AS method FROM jsonb_each_text(settings) s) e
    CROSS JOIN (SELECT (document #> '{provenance,target_recall}')::float8 AS target) p
    LEFT JOIN LATERAL (SELECT d.number FROM jsonb_to_recordset(document -> 'indexes') AS d (number int, main boolean, method text)
                       WHERE d.method = e.method AND mapping -> 'indexes' ? d.number::text
                       ORDER BY d.main DESC, d.number LIMIT 1) i ON true
$$;

-- Decides for every statement of a document whether it is merged, kept (what is here stays), unchanged or skipped, and why.
CREATE OR REPLACE FUNCTION vectuned._resolve_statements(c vectuned.tuned_column, document jsonb, mapping jsonb) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_agg(e.value || jsonb_build_object('action', r.resolved[1], 'why', r.resolved[2]) ORDER BY e.number), '[]')
    FROM jsonb_array_elements(document -> 'statements') WITH ORDINALITY AS e (value, number)
    CROSS JOIN LATERAL (SELECT (mapping -> 'same')::boolean AS same) m
    LEFT JOIN vectuned.statement s ON s.column_id = c.id AND s.fingerprint = e.value ->> 'fingerprint'
        AND s.k_class = (e.value -> 'k')::int AND s.shape = e.value ->> 'shape'
    LEFT JOIN vectuned.imported o ON o.import_no = s.import_no
    CROSS JOIN LATERAL (SELECT CASE
        WHEN jsonb_array_length(e.value -> 'figures') = 0 THEN ARRAY['skipped', 'nothing was measured there']
        WHEN s.fingerprint IS NULL THEN ARRAY['merged', 'nothing was known here']
        WHEN s.import_no IS NULL AND jsonb_array_length(s.figures) > 0 THEN ARRAY['kept', 'measured here']
        WHEN s.import_no IS NULL THEN ARRAY['merged', 'nothing was measured here']
        ELSE vectuned._resolve_import(o, document, same) END AS resolved) r
$$;

-- Replaces the settings and figures of the merged statements. A prior is not proven, and has none by share of matching rows.
CREATE OR REPLACE FUNCTION vectuned._merge_statements(
    c vectuned.tuned_column, document jsonb, mapping jsonb, resolved jsonb, p_import_no bigint) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO vectuned.statement AS s (fingerprint, column_id, k_class, shape, text, as_text, calls, first_seen, last_seen,
                                         settings, by_share, expected_recall, recall_bound, certified, figures, published_at,
                                         import_no)
    SELECT d.fingerprint, c.id, d.k, d.shape, d.text, d.as_text, d.calls, d.first_seen, least(d.last_seen, now()),
           n.settings, CASE WHEN m.same THEN d.by_share END, CASE WHEN m.same THEN d.expected_recall END,
           CASE WHEN m.same THEN d.recall_bound WHEN n.settings IS NOT NULL THEN 0 END, m.same AND d.certified, n.figures,
           CASE WHEN n.settings IS NOT NULL THEN now() END, p_import_no
    FROM jsonb_to_recordset(resolved) AS d (
        action text, fingerprint text, k int, shape text, text text, as_text boolean, calls bigint, first_seen timestamptz,
        last_seen timestamptz, settings jsonb, by_share jsonb, expected_recall float8, recall_bound float8, certified boolean,
        figures jsonb)
    CROSS JOIN LATERAL (SELECT (mapping -> 'same')::boolean AS same) m
    CROSS JOIN LATERAL (
        SELECT nullif(CASE WHEN m.same THEN d.settings
                           WHEN d.certified THEN vectuned._prior_settings(c, document, mapping, d.settings, d.k) END, 'null') AS settings,
               CASE WHEN m.same THEN d.figures
                    ELSE (SELECT jsonb_agg(f.value || '{"proven": false}' ORDER BY f.number)
                          FROM jsonb_array_elements(d.figures) WITH ORDINALITY AS f (value, number)) END AS figures) n
    WHERE d.action = 'merged'
    ON CONFLICT (fingerprint, column_id, k_class, shape) DO UPDATE
    SET settings = excluded.settings, by_share = excluded.by_share, expected_recall = excluded.expected_recall,
        recall_bound = excluded.recall_bound, certified = excluded.certified, figures = excluded.figures,
        published_at = excluded.published_at, import_no = excluded.import_no
$$;
