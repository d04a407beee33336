-- Statements of the daemon's jobs.

-- name: refresh_column
SELECT vectuned._refresh_column(%(column_id)s);

-- name: waiting
SELECT count(*) FROM vectuned.trajectory
WHERE column_id = %(column_id)s AND replayed_at IS NULL AND query IS NOT NULL;

-- name: skip_old
-- Searches older than the newest that count need not be replayed any more: nothing is known of them.
UPDATE vectuned.trajectory t SET replayed_at = now(), query = CASE WHEN %(keep)s THEN t.query END
WHERE t.column_id = %(column_id)s AND t.replayed_at IS NULL AND t.query IS NOT NULL AND t.recorded_at < (
    SELECT o.recorded_at FROM vectuned.trajectory o WHERE o.column_id = %(column_id)s
    ORDER BY o.recorded_at DESC OFFSET %(window)s - 1 LIMIT 1);

-- name: over
-- Says that something is over, if it was said to have begun.
INSERT INTO vectuned.event (column_id, action)
SELECT %(column_id)s::int, %(ended)s
WHERE (SELECT e.action FROM vectuned.event e
       WHERE e.column_id IS NOT DISTINCT FROM %(column_id)s::int AND e.action IN (%(began)s, %(ended)s)
       ORDER BY e.id DESC LIMIT 1) = %(began)s;

-- name: limit_wait
SELECT set_config('lock_timeout', %(milliseconds)s, true);

-- name: partition
SELECT vectuned._partition(7, make_interval(days => %(days)s));

-- name: bound_inbox
SELECT vectuned._bound_inbox(%(bytes)s);

-- name: may_vacuum
-- Before PostgreSQL 17 only who owns a table may.
SELECT CASE WHEN current_setting('server_version_num')::int >= 170000 THEN has_table_privilege('vectuned.inbox', 'MAINTAIN')
            ELSE pg_has_role((SELECT r.relowner FROM pg_class r WHERE r.oid = 'vectuned.inbox'::regclass), 'USAGE') END;

-- name: sees_others
-- Whether this role is told what other roles' sessions do.
SELECT pg_has_role('pg_read_all_stats', 'USAGE');

-- name: unreadable
-- Why this session cannot learn about a table, with the statement that helps; NULL where it can.
SELECT vectuned._unreadable(c.relation, current_user) FROM vectuned.tuned_column c WHERE c.id = %(column_id)s;

-- name: forget_events
-- All but the newest of each kind, by which the daemon knows how things stand.
DELETE FROM vectuned.event e
WHERE e.happened_at < now() - make_interval(days => %(days)s)
  AND EXISTS (SELECT FROM vectuned.event o
              WHERE o.column_id IS NOT DISTINCT FROM e.column_id AND o.action = e.action AND o.id > e.id);

-- name: vacuum_inbox
-- Gives the empty pages back: the inbox is bounded by its size, and once full would stay so. No search waits for it.
VACUUM (TRUNCATE true) vectuned.inbox;

-- name: replays_since
-- How many replays a column has that its bank was not learned from, and whether what was published last fits: these
-- indexes and no others, this target and limit. (Of filtered searches alone there is no bank.)
WITH latest AS (
    SELECT e.action = 'publish' AND (e.details ->> 'target_recall')::float8 = %(target_recall)s
           AND (e.details ->> 'max_tail')::float8 = %(max_tail)s
           AND e.details -> 'generations' @> g.now AND e.details -> 'generations' <@ g.now AS fits,
           CASE e.action WHEN 'publish' THEN (e.details ->> 'last_replay')::bigint END AS last_replay
    FROM vectuned.event e CROSS JOIN (SELECT to_jsonb(%(generations)s::oid[]::text[]::bigint[])) g (now)
    WHERE e.column_id = %(column_id)s AND e.action IN ('publish', 'disable') ORDER BY e.id DESC LIMIT 1)
SELECT count(*) AS fresh,
       coalesce((SELECT l.fits FROM latest l),
                EXISTS (SELECT FROM vectuned.bank b WHERE b.column_id = %(column_id)s
                        AND b.generation = ANY (%(generations)s::oid[]) AND b.target_recall = %(target_recall)s)) AS served
FROM vectuned.replay r
WHERE r.column_id = %(column_id)s AND r.generation = ANY (%(generations)s::oid[])
  AND r.replay_no > greatest((SELECT l.last_replay FROM latest l), %(learn_from)s - 1);

-- name: announce
-- Says, as long as this session lasts, that a daemon works here; no other one does meanwhile.
SELECT pg_try_advisory_lock(hashtextextended('vectuned.daemon', 0));

-- name: lead
SELECT pg_try_advisory_lock(hashtextextended('vectuned.leader', 0));

-- name: leads
-- Behind a pooler that gives each statement another session this says no, which is right.
SELECT EXISTS (
    SELECT FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.pid = pg_backend_pid()
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
      AND (l.classid::bigint << 32) | l.objid::bigint = hashtextextended('vectuned.leader', 0));

-- name: guard_session
-- Has the server notice within 10 s that we are gone, and let go of what the session holds.
SELECT set_config('tcp_keepalives_idle', '4', false), set_config('tcp_keepalives_interval', '2', false),
       set_config('tcp_keepalives_count', '3', false);

-- name: guard_statements
-- The same while it is busy with a statement.
SELECT set_config('client_connection_check_interval', '2s', false);

-- name: note_job
-- Times are given as seconds from now: the daemon's clock may be another.
INSERT INTO vectuned.job AS j (name, last_run, last_success, duration_ms, runs, failures, last_error, next_run)
VALUES (%(name)s, statement_timestamp() - make_interval(secs => %(ran)s), statement_timestamp() - make_interval(secs => %(succeeded)s),
        %(duration_ms)s, %(runs)s, %(failures)s, left(%(error)s, 2000), statement_timestamp() + make_interval(secs => %(next)s))
ON CONFLICT (name) DO UPDATE SET
    last_run = excluded.last_run, last_success = coalesce(excluded.last_success, j.last_success),
    duration_ms = excluded.duration_ms, runs = j.runs + excluded.runs, failures = excluded.failures,
    last_error = excluded.last_error, next_run = excluded.next_run;

-- name: forget_jobs
DELETE FROM vectuned.job WHERE name <> ALL (%(names)s);

-- name: at_a_glance
SELECT count(*), (SELECT max(b.published_at) FROM vectuned.bank b) FROM vectuned.tuned_column c WHERE c.enabled;

-- name: requests_waiting
SELECT EXISTS (SELECT FROM vectuned.request WHERE state IN ('queued', 'running'));

-- name: hold_requests
-- Who holds this works on requests: those that run without it were left behind.
SELECT pg_try_advisory_lock(hashtextextended('vectuned.requests', 0));

-- name: put_back_requests
UPDATE vectuned.request SET
    state = CASE WHEN cancelling THEN 'cancelled' WHEN attempts >= %(attempts)s THEN 'failed' ELSE 'queued' END,
    error = CASE WHEN NOT cancelling AND attempts >= %(attempts)s THEN 'the daemon ended ' || attempts || ' times while it was at this' END,
    finished_at = CASE WHEN cancelling OR attempts >= %(attempts)s THEN clock_timestamp() END,
    started_at = CASE WHEN cancelling OR attempts >= %(attempts)s THEN started_at END, done = 0, total = NULL
WHERE state = 'running' RETURNING request_id, state;

-- name: take_request
UPDATE vectuned.request r SET state = 'running', started_at = clock_timestamp(), attempts = r.attempts + 1
WHERE r.request_id = (SELECT o.request_id FROM vectuned.request o WHERE o.state = 'queued'
                      ORDER BY o.request_id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING r.request_id, r.column_id, r.kind, r.arguments;

-- name: tell_request
UPDATE vectuned.request SET done = %(done)s, total = %(total)s
WHERE request_id = %(request_id)s AND state = 'running' RETURNING cancelling;

-- name: finish_request
WITH finished AS (
    UPDATE vectuned.request SET state = %(state)s, result = %(result)s::jsonb, error = %(error)s,
        done = coalesce(%(done)s, done), total = coalesce(%(done)s, total), finished_at = clock_timestamp()
    WHERE request_id = %(request_id)s AND state = 'running' RETURNING request_id, column_id, state)
SELECT pg_notify('vectuned', jsonb_build_object('action', 'request_' || f.state, 'column_id', f.column_id,
                                                'request_id', f.request_id)::text)
FROM finished f;

-- name: put_back_request
-- The daemon stops; that is no failed attempt.
UPDATE vectuned.request SET state = 'queued', started_at = NULL, attempts = attempts - 1, done = 0, total = NULL
WHERE request_id = %(request_id)s AND state = 'running';

-- name: forget_requests
DELETE FROM vectuned.request WHERE finished_at < now() - make_interval(days => %(days)s);

-- name: set_target
UPDATE vectuned.tuned_column SET target_recall = %(new)s WHERE id = %(column_id)s AND target_recall = %(old)s;
