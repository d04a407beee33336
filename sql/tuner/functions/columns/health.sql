-- Which indexes of a tuned column are ill: what its status and its recommendations say about them.

-- The invalid vector indexes of a column that no session is building: a CREATE or REINDEX INDEX CONCURRENTLY that did not end
-- left them. twin is a valid index that does what the invalid one would. Sessions of other roles may hide what they build;
-- while one builds anything, nothing is reported to be left.
CREATE OR REPLACE FUNCTION vectuned._invalid_indexes(p_relation regclass, p_column name)
RETURNS TABLE (index_relation regclass, twin regclass, is_ready boolean, bytes bigint)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH built AS (
        SELECT x.indexrelid, x.indisvalid, x.indisready,
               (x.indclass[0], x.indkey[0], pg_get_expr(x.indexprs, x.indrelid), pg_get_expr(x.indpred, x.indrelid))::text AS kind
        FROM pg_index x
        JOIN pg_class r ON r.oid = x.indexrelid
        JOIN pg_am m ON m.oid = r.relam AND m.amname IN ('hnsw', 'ivfflat')
        JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attname = p_column AND NOT a.attisdropped
        WHERE x.indrelid = p_relation AND EXISTS (
            SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
              AND d.refclassid = 'pg_class'::regclass AND d.refobjid = x.indrelid AND d.refobjsubid = a.attnum))
    SELECT b.indexrelid::regclass,
           (SELECT o.indexrelid::regclass FROM built o WHERE o.indisvalid AND o.kind = b.kind ORDER BY o.indexrelid LIMIT 1),
           b.indisready, pg_relation_size(b.indexrelid)
    FROM built b
    WHERE NOT b.indisvalid AND NOT EXISTS (
        SELECT FROM pg_stat_progress_create_index p
        WHERE p.datname = current_database() AND coalesce(p.index_relid, b.indexrelid) IN (b.indexrelid, 0))
$$;

-- The statement that mends an invalid index: drop it where a valid one does its work, else build it again.
CREATE OR REPLACE FUNCTION vectuned._mend_statement(p_index regclass, p_twin regclass) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN format(CASE WHEN p_twin IS NULL THEN 'REINDEX INDEX CONCURRENTLY %s' ELSE 'DROP INDEX CONCURRENTLY %s' END, p_index);

-- The classes of searches whose target their index does not reach at any effort, by at least min_samples replays: the recall
-- at the last rung, and how the index was built.
CREATE OR REPLACE FUNCTION vectuned._out_of_reach(c vectuned.tuned_column)
RETURNS TABLE (k_class int, index_relation regclass, best float8, build text, served text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT b.k_class, i.index_relation::regclass, p.best,
           coalesce(nullif(array_to_string(r.reloptions, ', '), ''), 'default options'),
           CASE WHEN b.access_path = 'exact' THEN 'exact search serves' || coalesce(', ' || round(b.exact_ms::numeric, 2) || ' ms', '')
                ELSE 'its best serves' || coalesce('; exact search takes ' || round(nullif(b.exact_ms, 'Infinity')::numeric, 2) || ' ms, and '
                                                   'serves with exact_if_unreachable of vectuned.enable', '') END
    FROM vectuned.bank b
    JOIN vectuned.tuned_index i ON i.column_id = c.id
     AND CASE WHEN b.index_no IS NULL THEN i.index_relation = c.index_relation ELSE i.index_no = b.index_no END
    JOIN pg_class r ON r.oid = i.index_relation
    CROSS JOIN LATERAL (
        SELECT count(*) AS replays, avg(y.asked_recall[array_upper(y.asked_recall, 1)]) AS best
        FROM vectuned.replay y
        WHERE y.column_id = c.id AND y.generation = vectuned._generation(i.index_relation) AND y.k_class = b.k_class
          AND y.fraction IS NULL AND y.asked_recall IS NOT NULL AND NOT y.is_counter_example) p
    WHERE b.column_id = c.id AND (NOT b.certified OR b.access_path = 'exact') AND p.replays >= c.min_samples AND p.best < c.target_recall
$$;

-- What is ill about a column, in sentences: invalid indexes as they are now, and what the daemon found last.
CREATE OR REPLACE FUNCTION vectuned._illnesses(c vectuned.tuned_column) RETURNS SETOF text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('the index %s is invalid: no search uses it%s. Mend it by: %s', i.index_relation,
                  CASE WHEN i.is_ready THEN format(', and every write pays for its %s', pg_size_pretty(i.bytes)) ELSE '' END,
                  vectuned._mend_statement(i.index_relation, i.twin))
    FROM vectuned._invalid_indexes(c.relation, c.column_name) i
    UNION ALL
    SELECT format('%s %s%s', f ->> 'subject', f ->> 'message', coalesce('. Mend it by: ' || (f ->> 'statement'), ''))
    FROM (SELECT v.details FROM vectuned.event v WHERE v.column_id = c.id AND v.action = 'health' ORDER BY v.id DESC LIMIT 1) e
    CROSS JOIN LATERAL jsonb_array_elements(e.details -> 'findings') f
    WHERE f ->> 'code' <> 'invalid-index'
    UNION ALL
    SELECT format('recall %s is out of reach of %s (%s): for k up to %s it gives %s at most, at any effort: %s. Another index may reach it: '
                  'vectuned advise measures which', c.target_recall, o.index_relation, o.build, o.k_class, round(o.best::numeric, 3), o.served)
    FROM vectuned._out_of_reach(c) o
$$;
