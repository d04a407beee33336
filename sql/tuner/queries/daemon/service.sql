-- Statements of the service: locks, jobs and requests.

-- name: acquire_leader_lock
-- Returns whether this session holds the leader's lock now. Only the daemon that holds it works on the database.
SELECT pg_try_advisory_lock(hashtextextended('vectuned.leader', 0));

-- name: holds_leader_lock
-- Returns whether this session holds the leader's lock. False behind a pooler that gives each statement another session,
-- which is right: the lock protects nothing there.
SELECT EXISTS (
    SELECT FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND l.pid = pg_backend_pid()
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
      AND (l.classid::bigint << 32) | l.objid::bigint = hashtextextended('vectuned.leader', 0));

-- name: listen_for_wakes
-- Makes this session receive the notifications of vectuned._wake.
LISTEN vectuned_wake;

-- name: can_be_woken
-- Returns whether searches may notify: a transaction that notifies cannot be prepared for a two-phase commit.
SELECT current_setting('max_prepared_transactions')::int = 0;

-- name: want_wake
-- Makes searches that are recorded notify the daemon, or not any more.
SELECT vectuned._want_wake(%(wanted)s);

-- name: daemon_sleeps
-- Returns whether the leading daemon sleeps, or is about to.
SELECT vectuned._daemon_sleeps();

-- name: has_pending_work
-- Returns whether anything waits for the daemon: searches and statements in the inboxes, open requests, or searches to be replayed, except
-- those of columns on which replaying fails.
SELECT EXISTS (SELECT FROM vectuned.request WHERE state IN ('queued', 'running'))
    OR EXISTS (SELECT FROM vectuned.inbox) OR EXISTS (SELECT FROM vectuned.statement_inbox)
    OR EXISTS (SELECT FROM vectuned.tuned_column c
               WHERE c.enabled AND NOT EXISTS (SELECT FROM vectuned.column_failure f WHERE f.column_id = c.id)
                 AND EXISTS (SELECT FROM vectuned.trajectory t
                             WHERE t.column_id = c.id AND t.replayed_at IS NULL AND t.query IS NOT NULL));

-- name: acquire_work_lock
-- Returns whether this session holds the lock of the session that the jobs use. Only one such session exists at a time;
-- vectuned._daemon_runs() reads from this lock that a daemon is running.
SELECT pg_try_advisory_lock(hashtextextended('vectuned.daemon', 0));

-- name: set_keepalives
-- Makes the server notice within 10 s that the daemon is gone, and release the locks of its session.
SELECT set_config('tcp_keepalives_idle', '4', false), set_config('tcp_keepalives_interval', '2', false),
       set_config('tcp_keepalives_count', '3', false);

-- name: set_connection_check
-- Makes the server notice the same while it executes a statement.
SELECT set_config('client_connection_check_interval', '2s', false);

-- name: write_job
-- Writes how a job runs. Times are seconds before or after now, because the daemon's clock may differ from the server's.
INSERT INTO vectuned.job AS j (name, last_run, last_success, duration_ms, runs, failures, last_error, next_run, columns_failing)
VALUES (%(name)s, statement_timestamp() - make_interval(secs => %(ran)s), statement_timestamp() - make_interval(secs => %(succeeded)s),
        %(duration_ms)s, %(runs)s, %(failures)s, left(%(error)s, 2000), statement_timestamp() + make_interval(secs => %(next)s),
        (SELECT count(*) FROM vectuned.column_failure f WHERE f.job = %(name)s))
ON CONFLICT (name) DO UPDATE SET
    last_run = excluded.last_run, last_success = coalesce(excluded.last_success, j.last_success),
    duration_ms = excluded.duration_ms, runs = j.runs + excluded.runs, failures = excluded.failures,
    last_error = excluded.last_error, next_run = excluded.next_run,
    columns_failing = excluded.columns_failing;

-- name: count_failing_columns
-- Writes on how many columns a job fails into its row, if it has one and the number has changed.
UPDATE vectuned.job j SET columns_failing = n.failing
FROM (SELECT count(*) AS failing FROM vectuned.column_failure WHERE job = %(job)s) n
WHERE j.name = %(job)s AND j.columns_failing <> n.failing;

-- name: delete_unknown_jobs
-- Deletes the rows of jobs that this version of the daemon does not have.
DELETE FROM vectuned.job WHERE name <> ALL (%(names)s);

-- name: service_summary
-- Returns the number of enabled columns and the time of the last publish, for the status line of the service.
SELECT count(*) AS columns, (SELECT max(b.published_at) FROM vectuned.bank b) AS published_at
FROM vectuned.tuned_column c WHERE c.enabled;

-- name: has_open_requests
-- Returns whether a request is queued, or running and possibly abandoned.
SELECT EXISTS (SELECT FROM vectuned.request WHERE state IN ('queued', 'running'));

-- name: acquire_request_lock
-- Returns whether this session holds the lock for working on requests. A request that runs while no session holds it was
-- abandoned by a daemon that died.
SELECT pg_try_advisory_lock(hashtextextended('vectuned.requests', 0));

-- name: requeue_abandoned_requests
-- Queues abandoned requests again, or ends them if they were cancelled or have used up their attempts; returns them.
UPDATE vectuned.request SET
    state = CASE WHEN cancelling THEN 'cancelled' WHEN attempts >= %(attempts)s THEN 'failed' ELSE 'queued' END,
    error = CASE WHEN NOT cancelling AND attempts >= %(attempts)s
                 THEN 'the daemon ended ' || attempts || ' times while it worked on this request' END,
    finished_at = CASE WHEN cancelling OR attempts >= %(attempts)s THEN clock_timestamp() END,
    started_at = CASE WHEN cancelling OR attempts >= %(attempts)s THEN started_at END, done = 0, total = NULL
WHERE state = 'running' RETURNING request_id, state;

-- name: take_request
-- Marks the oldest queued request as running and returns it; no row if none is queued.
UPDATE vectuned.request r SET state = 'running', started_at = clock_timestamp(), attempts = r.attempts + 1
WHERE r.request_id = (SELECT o.request_id FROM vectuned.request o WHERE o.state = 'queued'
                      ORDER BY o.request_id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING r.request_id, r.column_id, r.kind, r.arguments;

-- name: write_request_progress
-- Writes the progress of a running request and returns whether it is being cancelled; no row if it no longer runs.
UPDATE vectuned.request SET done = %(done)s, total = %(total)s
WHERE request_id = %(request_id)s AND state = 'running' RETURNING cancelling;

-- name: finish_request
-- Writes how a running request ended, and notifies the channel vectuned.
WITH finished AS (
    UPDATE vectuned.request SET state = %(state)s, result = %(result)s::jsonb, error = %(error)s,
        done = coalesce(%(done)s, done), total = coalesce(%(done)s, total), finished_at = clock_timestamp()
    WHERE request_id = %(request_id)s AND state = 'running' RETURNING request_id, column_id, state)
SELECT pg_notify('vectuned', jsonb_build_object('action', 'request_' || f.state, 'column_id', f.column_id,
                                                'request_id', f.request_id)::text)
FROM finished f;

-- name: requeue_request
-- Queues a running request again because the daemon stops, which does not count as an attempt.
UPDATE vectuned.request SET state = 'queued', started_at = NULL, attempts = attempts - 1, done = 0, total = NULL
WHERE request_id = %(request_id)s AND state = 'running';
