-- Calls: searches that applications sent in SQL of their own.

-- Stores calls of a column and returns how many: the newest, as long as no more searches than the column's window wait for
-- a replay. Passes over calls that no replay could run: of another number of dimensions, and with conditions longer than
-- those of vectuned._record. What the calls returned is not known. A time in the future, by a clock or time zone that is
-- wrong, becomes now. The conditions are SQL: learning/statements/guard.py reads them before each replay.
CREATE OR REPLACE FUNCTION vectuned._record_calls(
    p_column_id int, p_source text, recorded_at timestamptz[], queries text[], ks int[], latencies float8[],
    conditions text[], shapes text[], value_keys text[] DEFAULT NULL)
RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT vectuned._wake();
    WITH stored AS (
        INSERT INTO vectuned.trajectory (query_id, column_id, recorded_at, query, k, access_path, result_ids, distances,
                                         latency_ms, source, condition, shape, value_key)
        SELECT vectuned._query_id(true), c.id, least(coalesce(u.recorded_at, now()), now()), v.query, u.k, 'unknown', '{}',
               '{}', coalesce(u.latency, 'NaN'), p_source, u.condition, u.shape, CASE WHEN c.store_vectors THEN u.value_key END
        FROM vectuned.tuned_column c
        CROSS JOIN LATERAL unnest(recorded_at, queries, ks, latencies, conditions, shapes, value_keys)
            AS u (recorded_at, query, k, latency, condition, shape, value_key)
        CROSS JOIN LATERAL (SELECT u.query::@extschema@.vector AS query) v
        WHERE c.id = p_column_id AND c.enabled AND u.k BETWEEN 1 AND 1000
          AND @extschema@.vector_dims(v.query) = c.dimensions AND coalesce(octet_length(u.condition), 0) <= 65536
        ORDER BY u.recorded_at DESC NULLS FIRST
        LIMIT (SELECT greatest(c.trajectory_window - count(t.query_id), 0)
               FROM vectuned.tuned_column c
               LEFT JOIN vectuned.trajectory t ON t.column_id = c.id AND t.replayed_at IS NULL AND t.query IS NOT NULL
               WHERE c.id = p_column_id GROUP BY c.trajectory_window)
        RETURNING trajectory.column_id, (trajectory.recorded_at AT TIME ZONE 'UTC')::date AS day, pg_column_size(trajectory.*) AS bytes),
    counted AS (
        INSERT INTO vectuned.recorded AS r (column_id, day, searches, bytes)
        SELECT s.column_id, s.day, count(*), sum(s.bytes) FROM stored s GROUP BY s.column_id, s.day ORDER BY s.column_id, s.day
        ON CONFLICT (column_id, day) DO UPDATE SET searches = r.searches + excluded.searches, bytes = r.bytes + excluded.bytes)
    SELECT count(*) FROM stored
$$;

-- Takes statements that vectuned.client recorded, as a JSON array of {"text", "parameters", "latency_ms", "age"}, age in
-- seconds; returns how many were kept. Anyone who may read a tuned table may call it, so what the daemon takes from here it
-- trusts no more than a log. It never waits, and keeps nothing once 2,000 statements or the bytes of the inbox wait. Statements
-- whose values may not be kept (_may_keep_values) are redacted before they are stored: the daemon only counts them.
CREATE OR REPLACE FUNCTION vectuned.record_statements(statements jsonb, search_path text) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    most constant int := 2000;
    kept int;
BEGIN
    IF jsonb_typeof(statements) IS DISTINCT FROM 'array' OR search_path IS NULL THEN
        RAISE EXCEPTION 'record_statements takes a JSON array and a search_path' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF NOT EXISTS (SELECT FROM vectuned.tuned_column c JOIN pg_class r ON r.oid = c.relation
                   WHERE c.enabled AND has_table_privilege(vectuned._caller(), r.oid, 'SELECT'))
    THEN
        RETURN 0;
    END IF;
    BEGIN
        LOCK TABLE vectuned.statement_inbox IN ROW EXCLUSIVE MODE NOWAIT;
    EXCEPTION WHEN lock_not_available THEN
        RETURN 0;
    END;
    IF pg_table_size('vectuned.statement_inbox') > vectuned._inbox_bytes() THEN
        RETURN 0;
    END IF;
    INSERT INTO vectuned.statement_inbox (recorded_at, text, parameters, latency_ms, search_path)
    SELECT clock_timestamp() - make_interval(secs => least(greatest(coalesce(s.age, 0), 0), 86400)),
           CASE WHEN may_keep THEN s.text END, CASE WHEN may_keep THEN s.parameters END,
           coalesce(s.latency_ms, 'NaN'), left(search_path, 1000)
    FROM jsonb_to_recordset(statements) AS s (text text, parameters text[], latency_ms float8, age float8)
    CROSS JOIN vectuned._names_without_values() AS without_values
    CROSS JOIN LATERAL vectuned._may_keep_values(s.text, without_values) AS may_keep
    WHERE s.text IS NOT NULL AND length(s.text) <= 500000
    LIMIT greatest(most - (SELECT count(*) FROM (SELECT FROM vectuned.statement_inbox LIMIT most) i), 0);
    GET DIAGNOSTICS kept = ROW_COUNT;
    IF kept > 0 THEN
        PERFORM vectuned._wake();
    END IF;
    RETURN kept;
END
$$;

-- The names of all relations that may return rows of a table whose column has store_vectors => false: the table, its partitions,
-- the tables that it is a partition of, and the views over any of these. The names are in lower case, and double quotes in them
-- are doubled, as in the text of a statement.
CREATE OR REPLACE FUNCTION vectuned._names_without_values() RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE reached AS (
        SELECT c.relation::oid AS relation FROM vectuned.tuned_column c WHERE c.enabled AND NOT c.store_vectors
        UNION
        SELECT n.relation
        FROM reached r
        CROSS JOIN LATERAL (
            SELECT w.ev_class FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid
            WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = r.relation AND d.classid = 'pg_rewrite'::regclass
            UNION ALL SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = r.relation
            UNION ALL SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = r.relation) n (relation))
    SELECT array_agg(DISTINCT lower(replace(n.name, '"', '""')))
    FROM (SELECT p.relname::text FROM reached r JOIN pg_class p ON p.oid = r.relation
          -- Its name when it was enabled, too: statements in the inbox may be older than a renaming.
          UNION ALL SELECT c.relation_name FROM vectuned.tuned_column c WHERE c.enabled AND NOT c.store_vectors) n (name)
$$;

-- Whether the values of a statement may be stored. If no column has store_vectors => false, they may. Otherwise the text must
-- name the table of a column that stores vectors, and must name none of the relations in without_values. A text that names
-- neither may still reach such a relation, for example through a function, which is not known before the daemon has parsed it.
-- Names are compared regardless of case. A text with Unicode escapes may name anything, so its values are not stored.
CREATE OR REPLACE FUNCTION vectuned._may_keep_values(statement text, without_values text[]) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT without_values IS NULL
        OR statement !~* 'U&"'
           AND NOT EXISTS (SELECT FROM unnest(without_values) AS name WHERE strpos(lower(statement), name) > 0)
           AND EXISTS (
               SELECT FROM vectuned.tuned_column c
               WHERE c.enabled AND c.store_vectors
                 AND lower(statement) ~ ('(^|[^\w$])'
                     || regexp_replace(lower(replace(c.relation_name::text, '"', '""')), '([^\w])', '\\\1', 'g')
                     || '($|[^\w$])'))
$$;

-- Redacts the statements that wait in the inbox and whose values may no longer be kept.
CREATE OR REPLACE FUNCTION vectuned._redact_inbox() RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    UPDATE vectuned.statement_inbox i SET text = NULL, parameters = NULL
    FROM vectuned._names_without_values() AS without_values
    WHERE NOT vectuned._may_keep_values(i.text, without_values)
$$;

-- The selectivity buckets of values, for vectuned.client; of the columns whose tables the caller may read.
CREATE OR REPLACE FUNCTION vectuned.condition_shares() RETURNS TABLE (value_key text, bucket int)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT s.value_key, s.bucket
    FROM vectuned.condition_share s
    JOIN vectuned.tuned_column c ON c.id = s.column_id AND c.enabled
    JOIN pg_class r ON r.oid = c.relation AND has_table_privilege(vectuned._caller(), r.oid, 'SELECT')
$$;
