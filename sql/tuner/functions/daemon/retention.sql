-- Retention: partitions by day, and the size of what is recorded. Run by the daemon.

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
