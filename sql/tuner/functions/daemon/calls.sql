-- Calls: searches that applications sent in SQL of their own.

-- Stores calls of a column and returns how many: the newest, as long as no more searches than the column's window wait for
-- a replay. Passes over calls that no replay could run: of another number of dimensions, and with conditions longer than
-- those of vectuned._record. What the calls returned is not known. A time in the future, by a clock or time zone that is
-- wrong, becomes now. The conditions are SQL: learning/statements/guard.py reads them before each replay.
CREATE OR REPLACE FUNCTION vectuned._record_calls(
    p_column_id int, p_source text, recorded_at timestamptz[], queries text[], ks int[], latencies float8[],
    conditions text[], shapes text[])
RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH stored AS (
        INSERT INTO vectuned.trajectory (query_id, column_id, recorded_at, query, k, access_path, result_ids, distances,
                                         latency_ms, source, condition, shape)
        SELECT vectuned._query_id(true), c.id, least(coalesce(u.recorded_at, now()), now()), v.query, u.k, 'unknown', '{}',
               '{}', coalesce(u.latency, 'NaN'), p_source, u.condition, u.shape
        FROM vectuned.tuned_column c
        CROSS JOIN LATERAL unnest(recorded_at, queries, ks, latencies, conditions, shapes)
            AS u (recorded_at, query, k, latency, condition, shape)
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
