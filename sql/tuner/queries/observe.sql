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
