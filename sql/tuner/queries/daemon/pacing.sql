-- Statements of pacing.

-- name: count_active_statements
-- Returns how many statements other applications run now. Our own sessions are recognised by their application name.
SELECT count(*) AS active FROM pg_stat_activity
WHERE backend_type = 'client backend' AND state IN ('active', 'fastpath function call') AND pid <> pg_backend_pid()
  AND application_name IS DISTINCT FROM current_setting('application_name');
