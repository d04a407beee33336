-- Recording of sampled searches. (The generated functions draw the sample: `started` in search_template.sql, `sampled` in
-- filtered_template.sql.)

-- The share of searches that the generated functions record.
CREATE OR REPLACE FUNCTION vectuned._recorded_share(c vectuned.tuned_column) RETURNS float8
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT least(c.record_at_most, CASE WHEN NOT c.enabled THEN 0
                -- On an alert at least every fifth search, until recall is proven again; none if none is to be recorded.
                WHEN c.alert AND c.sample_rate > 0 THEN least(greatest(5 * c.sample_rate, 0.2), 1)
                ELSE c.sample_rate END)
$$;

-- The bound that draws a share of the searches: those with a smaller 64-bit hash.
CREATE OR REPLACE FUNCTION vectuned._draw_bound(share float8) RETURNS bigint
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN share >= 1 THEN 9223372036854775807
                ELSE floor((greatest(share, 0)::numeric - 0.5) * 2::numeric ^ 64)::bigint END
$$;

-- The expression that draws a share of the searches: a hash of the time in microseconds and the session. random() would
-- let setseed() fix the sample, and would disturb the caller's own random numbers. (vectuned.apply does the same.)
CREATE OR REPLACE FUNCTION vectuned._draw(share float8) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN share <= 0 THEN 'false' WHEN share >= 1 THEN 'true'
                ELSE format('pg_catalog.hashfloat8extended(pg_catalog.date_part(''epoch'', pg_catalog.clock_timestamp()), '
                            'pg_catalog.pg_backend_pid()) OPERATOR(pg_catalog.<) %s', vectuned._draw_bound(share)) END
$$;

-- The id of a search. Its last hexadecimal digit tells whether the search was recorded: 1 if so, otherwise 0.
-- Ids of unrecorded searches need only be unlikely to collide: a session makes at most one in a microsecond.
-- gen_random_uuid() costs 0.03 ms, and random() would disturb the caller's own random numbers.
CREATE OR REPLACE FUNCTION vectuned._query_id(recorded boolean) RETURNS uuid
LANGUAGE sql VOLATILE PARALLEL SAFE
RETURN CASE WHEN recorded THEN overlay(gen_random_uuid()::text PLACING '1' FROM 36)
            ELSE left(encode(sha256(timestamptz_send(clock_timestamp()) || int4send(pg_backend_pid())), 'hex'), 31) || '0'
       END::uuid;

-- Inserts one sampled search into the inbox and returns whether it did. It runs with the owner's rights, so that callers
-- need none on the inbox. Recording must not make a search fail or wait, and must not cost more than one transaction id:
-- whatever could fail is tried first in a block that writes nothing, since a subtransaction takes an id of its own only
-- when it writes. A transaction records 32 searches at most. (A disk without space still fails a search that is recorded.)
-- Callers could forge searches, so it accepts calls only from the generated search functions, or from roles that may insert
-- into the inbox anyway. The second line of the call stack names the caller: names in it are qualified, because those
-- functions fix their search_path, and a name with a line break or the like would be quoted.

CREATE OR REPLACE FUNCTION vectuned._record(
    query_id uuid, column_id int, query @extschema@.vector, k int, access_path text, ef_search int,
    bank_version int, signature @extschema@.vector, result_ids text[], distances float8[], latency_ms float8,
    filter jsonb DEFAULT NULL, fraction float8 DEFAULT NULL,
    index_no int DEFAULT NULL, probes int DEFAULT NULL)
RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    most constant int := 32;  -- recorded searches of a transaction: what is one workload to its user needs no more samples
    stack text;
    recorded int;
BEGIN
    GET DIAGNOSTICS stack = PG_CONTEXT;
    IF split_part(stack, E'\n', 2) !~ '^[^"]*[^"a-z0-9_$.]vectuned\._((search|filtered)_[0-9]+|record_call)\('
           AND NOT has_table_privilege(vectuned._caller(), 'vectuned.inbox', 'INSERT')
    THEN
        RETURN false;
    END IF;
    -- One filter (in bytes) must not fill the inbox.
    IF pg_column_size(filter) > 65536 THEN
        PERFORM vectuned._count_unrecordable(column_id);
        RETURN false;
    END IF;
    BEGIN
        recorded := coalesce(nullif(current_setting('vectuned.recorded', true), ''), '0')::int;
        -- A search never waits for the inbox: while VACUUM truncates it, samples are dropped.
        LOCK TABLE vectuned.inbox IN ROW EXCLUSIVE MODE NOWAIT;
        IF recorded >= most OR vectuned._inbox_full()
           -- Constraints and triggers that are not ours might fail.
           OR EXISTS (SELECT FROM pg_class r WHERE r.oid = 'vectuned.inbox'::regclass
                      AND (r.relchecks > 0 OR r.relhastriggers OR r.relhasrules))
        THEN
            PERFORM vectuned._count_refused(column_id);
            RETURN false;
        END IF;
        -- The statement below without its row: fails if the columns of the inbox have changed.
        INSERT INTO vectuned.inbox (query_id, column_id, query, k, access_path, ef_search, bank_version,
                                    signature, result_ids, distances, latency_ms, filter, fraction,
                                    index_no, probes)
        SELECT query_id, column_id, query, k, access_path, ef_search, bank_version,
               signature, result_ids, distances, latency_ms, filter, fraction, index_no, probes
        WHERE false;
    EXCEPTION WHEN others THEN
        RAISE DEBUG 'vectuned could not record a search: %', SQLERRM;
        PERFORM vectuned._count_refused(column_id);
        RETURN false;
    END;
    PERFORM set_config('vectuned.recorded', (recorded + 1)::text, true);
    INSERT INTO vectuned.inbox (query_id, column_id, query, k, access_path, ef_search, bank_version,
                                signature, result_ids, distances, latency_ms, filter, fraction,
                                index_no, probes)
    VALUES (query_id, column_id, query, k, access_path, ef_search, bank_version,
            signature, coalesce(result_ids, '{}'), coalesce(distances, '{}'), latency_ms, filter,
            fraction, index_no, probes);
    PERFORM vectuned._wake();
    RETURN true;
END
$$;

-- Notifies a daemon that sleeps, when the transaction commits. It does nothing while the daemon is awake, since a notification
-- makes commits wait for each other. It never fails, nor does the commit: a transaction that has notified cannot be prepared
-- for a two-phase commit, so that where these are allowed the daemon looks by itself; and a full queue would fail the commit.
CREATE OR REPLACE FUNCTION vectuned._wake() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF vectuned._daemon_sleeps() AND current_setting('max_prepared_transactions')::int = 0
       AND pg_notification_queue_usage() < 0.5
    THEN
        PERFORM pg_notify('vectuned_wake', '');
    END IF;
END
$$;

-- Whether the daemon that works here sleeps, or is about to.
CREATE OR REPLACE FUNCTION vectuned._daemon_sleeps() RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$ SELECT w.last_value > 1 FROM vectuned.wake_wanted w $$;

-- Asks for the notifications of vectuned._wake, or ends them.
CREATE OR REPLACE FUNCTION vectuned._want_wake(wanted boolean) RETURNS void
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$ SELECT setval('vectuned.wake_wanted', CASE WHEN wanted THEN 2 ELSE 1 END) $$;

-- Whether the inbox holds as much as its limit allows. Rows are estimated by counters: dead ones, which may stay while anybody
-- holds an old snapshot, do not count. They may take 16 times the limit before recording stops because of them.
CREATE OR REPLACE FUNCTION vectuned._inbox_full() RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    live constant bigint := nextval('vectuned.inbox_recorded') - (SELECT d.last_value FROM vectuned.inbox_drained d);
BEGIN
    RETURN live * (SELECT b.last_value FROM vectuned.inbox_row_bytes b) > vectuned._inbox_bytes()
           OR pg_table_size('vectuned.inbox') > 16 * vectuned._inbox_bytes();
END
$$;

-- Counts a sampled search of a column that was not recorded. It never fails, and takes no transaction id.
CREATE OR REPLACE FUNCTION vectuned._count_refused(column_id int) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM nextval(format('vectuned._refused_%s', column_id)::regclass);
EXCEPTION WHEN others THEN
    NULL;
END
$$;

-- Counts a sampled search of a kind that is never recorded: under row level security, or with a filter over 64 kB. It runs
-- with the owner's rights, because callers have none on the counter; what they could do is count too many. It never fails,
-- and takes no transaction id.
CREATE OR REPLACE FUNCTION vectuned._count_unrecordable(column_id int) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM nextval(format('vectuned._unrecordable_%s', column_id)::regclass);
EXCEPTION WHEN others THEN
    NULL;
END
$$;

-- Size limit of the inbox in bytes. The daemon replaces the function to apply its configuration (_bound_inbox): a constant
-- costs searches nothing.
CREATE OR REPLACE FUNCTION vectuned._inbox_bytes() RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN 64 * 1024 * 1024::bigint;

-- Sets the size limit of the inbox.
CREATE OR REPLACE FUNCTION vectuned._bound_inbox(bytes bigint) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned._check_range('the size of the inbox', bytes, 1024 * 1024, 1024::float8 ^ 4);
    IF bytes <> vectuned._inbox_bytes() THEN
        EXECUTE format('CREATE OR REPLACE FUNCTION vectuned._inbox_bytes() RETURNS bigint LANGUAGE sql IMMUTABLE '
                       'PARALLEL SAFE SET search_path = pg_catalog, pg_temp RETURN %s::bigint', bytes);
    END IF;
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
