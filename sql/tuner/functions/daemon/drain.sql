-- Draining: recorded searches move from the inbox into vectuned.trajectory. Run by the daemon.

-- Moves up to `batch` recorded searches from the inbox into vectuned.trajectory; returns how many it took. Skips rows that
-- another session has locked. Drops searches of columns that are no longer known, and rows that no search can have written:
-- a single vector of a wrong size would stop every replay.
CREATE OR REPLACE FUNCTION vectuned._drain(batch int) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    recorded constant bigint := vectuned._recorded_searches();
    moved bigint;
    bytes bigint;
BEGIN
    WITH taken AS (
        DELETE FROM vectuned.inbox i
        WHERE i.ctid = ANY (ARRAY(SELECT o.ctid FROM vectuned.inbox o LIMIT batch FOR UPDATE SKIP LOCKED))
        RETURNING i.*),
    stored AS (
        INSERT INTO vectuned.trajectory (query_id, column_id, recorded_at, query, k, access_path, ef_search,
                                         bank_version, signature, result_ids, distances, latency_ms, filter, fraction,
                                         index_no, probes, source)
        SELECT t.query_id, t.column_id, t.recorded_at, t.query, t.k, t.access_path, t.ef_search, t.bank_version,
               t.signature, t.result_ids, t.distances, t.latency_ms, t.filter, t.fraction,
               t.index_no, t.probes, CASE t.access_path WHEN 'unknown' THEN 'client' ELSE 'function' END
        FROM taken t
        JOIN vectuned.tuned_column c ON c.id = t.column_id AND c.dimensions = @extschema@.vector_dims(t.query)
        WHERE t.k BETWEEN 1 AND 1000 AND cardinality(t.distances) = cardinality(t.result_ids)
          AND coalesce(array_ndims(t.distances), 1) = 1 AND NOT EXISTS (SELECT FROM unnest(t.distances) d WHERE d IS NULL)
          AND coalesce(jsonb_typeof(t.filter), 'object') = 'object'
        RETURNING column_id, (recorded_at AT TIME ZONE 'UTC')::date AS day, pg_column_size(trajectory.*) AS bytes),
    counted AS (
        INSERT INTO vectuned.recorded AS r (column_id, day, searches, bytes)
        SELECT s.column_id, s.day, count(*), sum(s.bytes) FROM stored s GROUP BY s.column_id, s.day ORDER BY s.column_id, s.day
        ON CONFLICT (column_id, day) DO UPDATE SET searches = r.searches + excluded.searches, bytes = r.bytes + excluded.bytes)
    SELECT count(*), sum(pg_column_size(t.*)) INTO moved, bytes FROM taken t;
    PERFORM vectuned._settle_inbox(recorded, moved, bytes, moved < batch);
    RETURN moved;
END
$$;

-- How many searches were recorded so far, or tried to be. Runs with the owner's rights: other roles have none on sequences.
CREATE OR REPLACE FUNCTION vectuned._recorded_searches() RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$ SELECT s.last_value FROM vectuned.inbox_recorded s $$;

-- Notes that a drain has taken rows: the counters that bound the inbox. `recorded` is how many searches had been recorded
-- before it; after the last one, `emptied`, none of these is left, whatever became of the transactions that recorded them.
-- Gives the space of dead rows back at once if no other session uses the inbox: vacuum may not remove them while anybody
-- holds an old snapshot. Runs with the owner's rights, because only an owner may set sequences and truncate.
CREATE OR REPLACE FUNCTION vectuned._settle_inbox(recorded bigint, moved bigint, bytes bigint, emptied boolean) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM setval('vectuned.inbox_drained', CASE WHEN emptied THEN recorded ELSE least(d.last_value + moved, recorded) END)
    FROM vectuned.inbox_drained d;
    IF moved > 0 THEN
        PERFORM setval('vectuned.inbox_row_bytes', greatest(bytes / moved, 1));
    END IF;
    IF emptied AND pg_table_size('vectuned.inbox') > vectuned._inbox_bytes() / 4 THEN
        BEGIN
            LOCK TABLE vectuned.inbox IN ACCESS EXCLUSIVE MODE NOWAIT;
            IF NOT EXISTS (SELECT FROM vectuned.inbox) THEN
                TRUNCATE vectuned.inbox;
            END IF;
        EXCEPTION WHEN lock_not_available THEN
            NULL;
        END;
    END IF;
END
$$;
