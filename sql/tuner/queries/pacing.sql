-- Statements of the budget.

-- name: others_active
-- Statements that others run now; our own sessions are told by their name.
SELECT count(*) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND state IN ('active', 'fastpath function call') AND pid <> pg_backend_pid()
  AND application_name IS DISTINCT FROM current_setting('application_name');
