-- Statements of the daemon's work on tuned columns.

-- name: refresh_column
-- Updates what is known of a column, its names and its indexes; returns whether any of that has changed.
SELECT vectuned._refresh_column(%(column_id)s);

-- name: column_states
-- What a refresh of each enabled column would read, in one statement: a digest of the catalog entries of its table, columns
-- and indexes (xmin changes with every change of a row; ANALYZE overwrites pg_class in place) and of the statistics, and the
-- table's rows and changed rows. It locks no table, so that one that is locked holds up no other.
SELECT c.id AS column_id, md5(concat_ws(' ', current_setting('server_version_num'), c.xmin, r.oid, r.xmin, r.relfilenode, n.nspname, e.xmin, a.columns,
                               x.indexes, p.statistics)) AS digest,
       p.rows, p.changes
FROM vectuned.tuned_column c
JOIN pg_class r ON r.oid = c.relation
JOIN pg_namespace n ON n.oid = r.relnamespace
JOIN pg_extension e ON e.extname = 'vector'
CROSS JOIN LATERAL (
    SELECT string_agg(concat_ws(':', t.attnum, t.xmin), ' ' ORDER BY t.attnum) AS columns
    FROM pg_attribute t WHERE t.attrelid = r.oid AND t.attnum > 0) a
CROSS JOIN LATERAL (
    SELECT array_agg(t.relid) AS oids
    FROM (SELECT r.oid AS relid UNION SELECT o.relid FROM pg_partition_tree(r.oid) o WHERE r.relkind = 'p') t) t
CROSS JOIN LATERAL (
    SELECT string_agg(concat_ws(':', i.indexrelid, i.xmin, o.xmin, o.relfilenode), ' ' ORDER BY i.indexrelid) AS indexes
    FROM pg_index i JOIN pg_class o ON o.oid = i.indexrelid WHERE i.indrelid = ANY (t.oids)) x
CROSS JOIN LATERAL (
    SELECT string_agg(concat_ws(':', o.oid, o.reltuples, pg_stat_get_last_analyze_time(o.oid),
                                pg_stat_get_last_autoanalyze_time(o.oid)), ' ' ORDER BY o.oid) AS statistics,
           sum(o.reltuples)::float8 AS rows,
           sum(pg_stat_get_tuples_inserted(o.oid) + pg_stat_get_tuples_updated(o.oid) + pg_stat_get_tuples_deleted(o.oid))::bigint AS changes
    FROM pg_class o WHERE o.oid = ANY (t.oids)) p
WHERE c.enabled AND c.missing_since IS NULL;

-- name: refresh_missing
-- Follows the columns whose table or column is missing, and forgets those that have been missing for a day; returns how
-- many have changed.
SELECT vectuned._refresh_missing();

-- name: missing_rights
-- Returns why this role cannot learn about a table, with the statement that helps; NULL if it can.
SELECT vectuned._unreadable(c.relation, current_user) FROM vectuned.tuned_column c WHERE c.id = %(column_id)s;

-- name: count_waiting
-- Returns how many searches of a column wait to be replayed.
SELECT count(*) FROM vectuned.trajectory
WHERE column_id = %(column_id)s AND replayed_at IS NULL AND query IS NOT NULL;

-- name: columns_waiting
-- The columns with searches that wait to be replayed, or calls of statements that do, or will once an index changes.
SELECT column_id FROM vectuned.trajectory WHERE replayed_at IS NULL AND query IS NOT NULL
UNION
SELECT column_id FROM vectuned.text_call WHERE text IS NOT NULL AND (replayed_at IS NULL OR outcomes IS NOT NULL);

-- name: recording
-- Returns the share of a column's searches that is recorded now, its limit, and how many are recorded.
SELECT vectuned._recorded_share(c) AS share, c.record_at_most,
       (SELECT coalesce(sum(r.searches), 0)::bigint FROM vectuned.recorded r WHERE r.column_id = c.id) AS searches
FROM vectuned.tuned_column c WHERE c.id = %(column_id)s;

-- name: limit_recording
-- Sets the largest share of a column's searches that is recorded, NULL for no limit.
SELECT vectuned._limit_recording(%(column_id)s, %(share)s);

-- name: trim_trajectories
-- Deletes the oldest recorded searches of a column until it holds at most `bytes`; returns how many.
SELECT vectuned._trim_trajectories(%(column_id)s, %(bytes)s) AS deleted;

-- name: skip_old_searches
-- Marks waiting searches that are older than the newest `window` as done without a replay, and deletes their vectors and
-- conditions: what they would show is not used any more.
UPDATE vectuned.trajectory t SET replayed_at = now(), query = NULL, condition = NULL
WHERE t.column_id = %(column_id)s AND t.replayed_at IS NULL AND t.query IS NOT NULL AND t.recorded_at < (
    SELECT o.recorded_at FROM vectuned.trajectory o WHERE o.column_id = %(column_id)s
    ORDER BY o.recorded_at DESC OFFSET %(window)s - 1 LIMIT 1);

-- name: learning_state
-- Returns how many replays of a column its bank was not learned from (fresh), whether there are any (known), and whether what
-- was published last fits the present indexes, target and limit (current). The publish event decides, since filtered searches make no bank.
WITH latest AS (
    SELECT e.action = 'publish' AND (e.details ->> 'target_recall')::float8 = %(target_recall)s
           AND (e.details ->> 'max_tail')::float8 = %(max_tail)s
           AND e.details -> 'generations' @> g.now AND e.details -> 'generations' <@ g.now AS fits,
           CASE e.action WHEN 'publish' THEN (e.details ->> 'last_replay')::bigint END AS last_replay
    FROM vectuned.event e CROSS JOIN (SELECT to_jsonb(%(generations)s::oid[]::text[]::bigint[])) g (now)
    WHERE e.column_id = %(column_id)s AND e.action IN ('publish', 'disable') ORDER BY e.id DESC LIMIT 1)
SELECT count(*) AS fresh,
       EXISTS (SELECT FROM vectuned.replay a WHERE a.column_id = %(column_id)s AND a.generation = ANY (%(generations)s::oid[])) AS known,
       coalesce((SELECT l.fits FROM latest l),
                EXISTS (SELECT FROM vectuned.bank b WHERE b.column_id = %(column_id)s
                        AND b.generation = ANY (%(generations)s::oid[]) AND b.target_recall = %(target_recall)s)) AS current
FROM vectuned.replay r
WHERE r.column_id = %(column_id)s AND r.generation = ANY (%(generations)s::oid[])
  AND r.replay_no > coalesce((SELECT l.last_replay FROM latest l), 0);

-- name: record_event_end
-- Records the event that ends another one, if that was the last of the two.
INSERT INTO vectuned.event (column_id, action)
SELECT %(column_id)s::int, %(ended)s
WHERE (SELECT e.action FROM vectuned.event e
       WHERE e.column_id IS NOT DISTINCT FROM %(column_id)s::int AND e.action IN (%(began)s, %(ended)s)
       ORDER BY e.id DESC LIMIT 1) = %(began)s;

-- name: bound_inbox
-- Sets the size at which searches stop being recorded.
SELECT vectuned._bound_inbox(%(bytes)s);

-- name: cap_efforts
-- Sets the highest effort of any column, 0 for no cap.
SELECT vectuned._cap_efforts(%(cap)s);

-- name: may_vacuum_inbox
-- Returns whether this role may vacuum the inbox; before PostgreSQL 17 only its owner may.
SELECT CASE WHEN current_setting('server_version_num')::int >= 170000 THEN has_table_privilege('vectuned.inbox', 'MAINTAIN')
            ELSE pg_has_role((SELECT r.relowner FROM pg_class r WHERE r.oid = 'vectuned.inbox'::regclass), 'USAGE') END;

-- name: vacuum_inbox
-- Gives empty pages back to the operating system: the inbox is bounded by its size, and a full one would stay full.
-- Searches do not wait for it.
VACUUM (TRUNCATE true) vectuned.inbox;

-- name: sees_other_sessions
-- Returns whether this role sees the statements of other roles' sessions.
SELECT pg_has_role('pg_read_all_stats', 'USAGE');

-- name: delete_old_requests
-- Deletes requests that ended before the retention period.
DELETE FROM vectuned.request WHERE finished_at < now() - make_interval(days => %(days)s);

-- name: delete_old_events
-- Deletes old events, except the newest of each kind, from which the daemon reads the present state.
DELETE FROM vectuned.event e
WHERE e.happened_at < now() - make_interval(days => %(days)s)
  AND EXISTS (SELECT FROM vectuned.event o
              WHERE o.column_id IS NOT DISTINCT FROM e.column_id AND o.action = e.action AND o.id > e.id);

-- name: delete_old_statements
-- Deletes statements that no application sent during the retention period, and calls from before it.
WITH calls AS (DELETE FROM vectuned.text_call WHERE recorded_at < now() - make_interval(days => %(days)s)),
waiting AS (DELETE FROM vectuned.statement_inbox WHERE recorded_at < now() - make_interval(days => %(days)s))
DELETE FROM vectuned.statement WHERE last_seen < now() - make_interval(days => %(days)s);

-- name: set_local_lock_timeout
-- Sets lock_timeout for the rest of the transaction.
SELECT set_config('lock_timeout', %(milliseconds)s, true);

-- name: maintain_partitions
-- Creates the partitions of the next 7 days and drops those past the retention period.
SELECT vectuned._partition(7, make_interval(days => %(days)s));

-- name: column_failures_of_job
-- The columns on which a job failed the last time, each with the error.
SELECT column_id, error FROM vectuned.column_failure WHERE job = %(job)s;

-- name: write_column_failure
-- Records that a job failed on a column.
INSERT INTO vectuned.column_failure AS f (column_id, job, error) VALUES (%(column_id)s, %(job)s, left(%(error)s, 2000))
ON CONFLICT (column_id, job) DO UPDATE SET failures = f.failures + 1, error = excluded.error, last_run = excluded.last_run;

-- name: delete_column_failure
-- Records that a job succeeded again on a column.
DELETE FROM vectuned.column_failure WHERE column_id = %(column_id)s AND job = %(job)s;
