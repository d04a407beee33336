-- Statements that read a server's log and its settings.

-- name: log_settings
-- What the server logs, and in which form. The prefix and the directory are hidden from roles without pg_read_all_settings.
SELECT s.name, s.setting FROM pg_settings s
WHERE s.name IN ('log_line_prefix', 'log_timezone', 'log_destination', 'logging_collector', 'log_min_duration_sample',
                 'log_statement_sample_rate', 'log_min_duration_statement', 'log_statement', 'log_duration',
                 'log_parameter_max_length', 'log_transaction_sample_rate')
ORDER BY s.name;

-- name: log_files
-- The files of the server's log in its best format, the oldest first, with paths that pg_read_binary_file takes.
WITH formats AS (
    SELECT f.format, pg_current_logfile(f.format) AS current, f.place
    FROM unnest(ARRAY['jsonlog', 'csvlog', 'stderr']) WITH ORDINALITY AS f (format, place)),
best AS (SELECT f.current FROM formats f WHERE f.current IS NOT NULL ORDER BY f.place LIMIT 1)
SELECT regexp_replace(b.current, '[^/]*$', '') || l.name AS name
FROM best b CROSS JOIN pg_ls_logdir() l
WHERE substring(l.name FROM '\.[a-z]+$') IS NOT DISTINCT FROM substring(b.current FROM '\.[a-z]+$')
ORDER BY l.modification, l.name;

-- name: log_file_size
-- The size of a file of the server's log in bytes, NULL if it is gone.
SELECT size FROM pg_stat_file(%(name)s, true);

-- name: read_log_file
-- Bytes of a file of the server's log, NULL if it is gone.
SELECT pg_read_binary_file(%(name)s, %(offset)s, %(length)s, true);

-- name: observing
-- Whether calls can be stored: vectuned is installed. And what statements are found by, unless a role or the log says
-- otherwise.
SELECT to_regclass('vectuned.log_position') IS NOT NULL AS is_installed, current_database() AS database,
       (SELECT s.reset_val FROM pg_settings s WHERE s.name = 'search_path') AS search_path;

-- name: role_search_paths
-- The search_path that roles have in this database by ALTER ROLE and ALTER DATABASE; NULL stands for all other roles.
SELECT DISTINCT ON (s.setrole) r.rolname AS role, substr(c.setting, length('search_path=') + 1) AS search_path
FROM pg_db_role_setting s
CROSS JOIN LATERAL unnest(s.setconfig) AS c (setting)
LEFT JOIN pg_roles r ON r.oid = s.setrole
WHERE c.setting LIKE 'search\_path=%%'
  AND s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
ORDER BY s.setrole, s.setdatabase DESC;

-- name: observed_columns
-- The tuned columns that calls are stored of.
SELECT c.id, c.relation::oid::bigint AS relation, concat(c.relation_schema, '.', c.relation_name) AS table,
       c.column_name::text AS column, c.metric, c.dimensions
FROM vectuned.tuned_column c WHERE c.enabled;

-- name: enable_observed
-- Tunes a column with the default options; returns what vectuned.enable says.
SELECT vectuned.enable(%(relation)s::oid::regclass, %(column)s);

-- name: observed_table
-- The name of a table.
SELECT %(relation)s::oid::regclass::text AS name;

-- name: record_calls
-- Stores calls of a column, as far as there is room; returns how many.
SELECT vectuned._record_calls(%(column_id)s, %(source)s, %(recorded_at)s, %(queries)s, %(ks)s, %(latencies)s, %(conditions)s, %(shapes)s,
                              %(value_keys)s);

-- name: log_positions
-- How far the files of logs were read.
SELECT p.identity, p.head, p.head_length, p.byte_offset FROM vectuned.log_position p;

-- name: save_log_position
-- Stores how far a file was read, and forgets files that were not read for three months.
WITH forgotten AS (
    DELETE FROM vectuned.log_position p WHERE p.read_at < now() - interval '3 months' AND p.identity <> %(identity)s)
INSERT INTO vectuned.log_position AS p (identity, head, head_length, byte_offset)
VALUES (%(identity)s, %(head)s, %(head_length)s, %(byte_offset)s)
ON CONFLICT (identity) DO UPDATE SET head = excluded.head, head_length = excluded.head_length,
    byte_offset = excluded.byte_offset, read_at = now();

-- name: take_statements
-- Takes the oldest statements that vectuned.client recorded; in a transaction with what becomes of them.
DELETE FROM vectuned.statement_inbox i
WHERE i.statement_no IN (SELECT o.statement_no FROM vectuned.statement_inbox o ORDER BY o.statement_no LIMIT %(count)s)
RETURNING i.statement_no, i.recorded_at, i.text, i.parameters, i.latency_ms, i.search_path;

-- name: save_observation
-- Adds to the counts of what observing came to.
INSERT INTO vectuned.observation AS o (source, statements, searches, stored, left_out, not_planned, other_databases, damaged)
VALUES (%(source)s, %(statements)s, %(searches)s, %(stored)s, %(left_out)s, %(not_planned)s, %(other_databases)s, %(damaged)s)
ON CONFLICT (source) DO UPDATE SET
    statements = o.statements + excluded.statements, searches = o.searches + excluded.searches,
    stored = o.stored + excluded.stored, left_out = o.left_out + excluded.left_out,
    not_planned = o.not_planned + excluded.not_planned, other_databases = o.other_databases + excluded.other_databases,
    damaged = o.damaged + excluded.damaged, observed_at = now();
