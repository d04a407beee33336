-- Statements of sessions, standbys and index builds.

-- name: wal_written
-- The end of the log. At the very beginning of a page what was written last ends before the page's header.
SELECT l - CASE WHEN o IN (24, 40) THEN o ELSE 0 END
FROM (SELECT l, (l - '0/0'::pg_lsn) % current_setting('wal_block_size')::int AS o FROM pg_current_wal_insert_lsn() l) w;

-- name: wal_replayed
SELECT pg_is_in_recovery(), coalesce(r >= %(place)s::pg_lsn, false), pg_size_pretty(%(place)s::pg_lsn - r),
       CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END, pg_last_xact_replay_timestamp()
FROM pg_last_wal_replay_lsn() r;

-- name: system_identity
SELECT s.system_identifier::text, d.oid FROM pg_control_system() s, pg_database d WHERE d.datname = current_database();

-- name: column_identity
-- Where pg_control_system() is forbidden.
SELECT d.oid, (SELECT md5(string_agg(concat_ws(' ', c.id, c.relation::oid, c.column_name, extract(epoch FROM c.created_at)), ','
                                     ORDER BY c.id)) FROM vectuned.tuned_column c)
FROM pg_database d WHERE d.datname = current_database();

-- name: session_limit
-- Sets a limit that this server knows.
SELECT set_config(s.name, %(limit)s, false) FROM pg_settings s WHERE s.name = %(name)s;

-- name: see_pgvector
-- Has a session find the types of pgvector by their bare names, whatever its search_path.
SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), quote_ident(n.nspname)), false)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'vector' AND to_regtype('vector') IS NULL;

-- name: installed
-- Whether vectuned is installed (NULL where the role may not look), which pgvector, and where that has moved since to.
SELECT CASE WHEN n.oid IS NULL THEN false
            WHEN has_schema_privilege(n.oid, 'USAGE') THEN to_regclass('vectuned.tuned_column') IS NOT NULL END,
       (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'vector'),
       (SELECT m.nspname FROM pg_extension e JOIN pg_namespace m ON m.oid = e.extnamespace
        JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname = '_check_query'
        WHERE e.extname = 'vector' AND position(format('"%s".vector_dims(', replace(m.nspname, '"', '""')) IN p.prosrc) = 0)
FROM (VALUES ('vectuned')) v (name) LEFT JOIN pg_namespace n ON n.nspname = v.name;

-- name: index_progress
SELECT phase, tuples_done, tuples_total FROM pg_stat_progress_create_index WHERE pid = %(pid)s;
