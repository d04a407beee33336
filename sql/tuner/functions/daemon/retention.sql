-- Maintenance of the inbox and of the partitions, run by the daemon.

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
                                         index_no, probes)
        SELECT t.query_id, t.column_id, t.recorded_at, t.query, t.k, t.access_path, t.ef_search, t.bank_version,
               t.signature, t.result_ids, t.distances, t.latency_ms, t.filter, t.fraction,
               t.index_no, t.probes
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

-- Creates the partitions for today and the next days_ahead days, and drops those older than the retention, of
-- vectuned.trajectory and vectuned.feedback. Returns how many partitions of vectuned.trajectory it created and dropped. Runs
-- with the owner's rights, because only an owner can create and drop partitions.
CREATE OR REPLACE FUNCTION vectuned._partition(days_ahead int, retention interval) RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned._check_range('days_ahead', days_ahead, 0, 366);
    IF (retention >= '1 day') IS NOT TRUE THEN
        RAISE EXCEPTION 'retention must be at least 1 day, got %', coalesce(retention::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('vectuned.partition', 0));
    PERFORM vectuned._partition_table('feedback', days_ahead, retention);
    DELETE FROM vectuned.recorded r WHERE r.day < (now() AT TIME ZONE 'UTC')::date - retention;
    RETURN vectuned._partition_table('trajectory', days_ahead, retention);
END
$$;

-- The same for one table.
CREATE OR REPLACE FUNCTION vectuned._partition_table(parent name, days_ahead int, retention interval) RETURNS int
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    today constant date := (now() AT TIME ZONE 'UTC')::date;
    day date;
    name text;
    changed int := 0;
BEGIN
    FOR i IN 0 .. days_ahead LOOP
        day := today + i;
        name := parent || '_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('vectuned.' || quote_ident(name)) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE TABLE vectuned.%I PARTITION OF vectuned.%I FOR VALUES FROM (%L) TO (%L)',
                    name, parent, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
                changed := changed + 1;
            EXCEPTION WHEN check_violation THEN
                -- The default partition already has rows of that day; they stay there.
                NULL;
            END;
        END IF;
    END LOOP;
    FOR name IN
        SELECT r.relname FROM pg_inherits h JOIN pg_class r ON r.oid = h.inhrelid
        WHERE h.inhparent = format('vectuned.%I', parent)::regclass AND r.relname ~ '_\d{8}$'
          AND to_date(right(r.relname, 8), 'YYYYMMDD') < today - retention
    LOOP
        EXECUTE format('DROP TABLE vectuned.%I', name);
        changed := changed + 1;
    END LOOP;
    EXECUTE format('DELETE FROM vectuned.%I t WHERE t.recorded_at < now() - $1', parent || '_default') USING retention;
    RETURN changed;
END
$$;

-- Deletes the oldest recorded searches of a column until it holds at most max_bytes; returns how many. Runs with the owner's
-- rights, because no other role may delete what was recorded.
CREATE OR REPLACE FUNCTION vectuned._trim_trajectories(p_column_id int, max_bytes bigint) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    excess bigint := (SELECT sum(r.bytes) - max_bytes FROM vectuned.recorded r WHERE r.column_id = p_column_id);
    oldest vectuned.recorded;
    share float8;
    number bigint;
    total bigint := 0;
BEGIN
    PERFORM vectuned._check_range('the size of recorded searches', max_bytes, 1024 * 1024, 1024::float8 ^ 4);
    FOR oldest IN SELECT * FROM vectuned.recorded r WHERE r.column_id = p_column_id ORDER BY r.day LOOP
        EXIT WHEN excess <= 0;
        share := least(excess / greatest(oldest.bytes, 1)::float8, 1);
        DELETE FROM vectuned.trajectory t
        WHERE t.column_id = p_column_id AND t.recorded_at >= oldest.day::timestamp AT TIME ZONE 'UTC'
          AND t.recorded_at < (oldest.day + 1)::timestamp AT TIME ZONE 'UTC'
          AND (share >= 1 OR (t.query_id, t.recorded_at) IN (
              SELECT o.query_id, o.recorded_at FROM vectuned.trajectory o
              WHERE o.column_id = p_column_id AND o.recorded_at >= oldest.day::timestamp AT TIME ZONE 'UTC'
                AND o.recorded_at < (oldest.day + 1)::timestamp AT TIME ZONE 'UTC'
              ORDER BY o.recorded_at LIMIT ceil(share * oldest.searches)));
        GET DIAGNOSTICS number = ROW_COUNT;
        total := total + number;
        excess := excess - oldest.bytes;
        IF share >= 1 THEN
            DELETE FROM vectuned.recorded r WHERE r.column_id = p_column_id AND r.day = oldest.day;
        ELSE
            UPDATE vectuned.recorded r
            SET searches = greatest(r.searches - number, 0),
                bytes = greatest(r.bytes - number * oldest.bytes / greatest(oldest.searches, 1), 0)
            WHERE r.column_id = p_column_id AND r.day = oldest.day;
        END IF;
    END LOOP;
    RETURN total;
END
$$;

-- Sets the largest share of a column's searches that is recorded, NULL for no limit.
CREATE OR REPLACE FUNCTION vectuned._limit_recording(p_column_id int, p_share float8) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM '[1]'::@extschema@.vector;
    PERFORM pg_advisory_xact_lock(hashtextextended('vectuned.enable', 0));
    UPDATE vectuned.tuned_column t SET record_at_most = p_share
    WHERE t.id = p_column_id AND t.record_at_most IS DISTINCT FROM p_share;
    IF FOUND THEN
        PERFORM vectuned._generate(p_column_id);
    END IF;
END
$$;
