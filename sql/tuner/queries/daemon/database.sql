-- Statements of sessions, standbys and index builds.

-- name: wal_insert_position
-- Returns the end of the WAL as an LSN. At the start of a page the insert position lies behind the page's header (24
-- or 40 bytes), while the last record ends before it: without this correction an idle standby would never catch up.
SELECT l - CASE WHEN o IN (24, 40) THEN o ELSE 0 END AS lsn
FROM (SELECT l, (l - '0/0'::pg_lsn) % current_setting('wal_block_size')::int AS o FROM pg_current_wal_insert_lsn() l) w;

-- name: wal_replay_state
-- Returns how far a standby has replayed the WAL, compared with an LSN of its primary.
SELECT pg_is_in_recovery() AS is_standby, coalesce(r >= %(lsn)s::pg_lsn, false) AS caught_up,
       pg_size_pretty(%(lsn)s::pg_lsn - r) AS missing,
       CASE WHEN pg_is_in_recovery() THEN pg_get_wal_replay_pause_state() END AS pause_state,
       pg_last_xact_replay_timestamp() AS last_commit
FROM pg_last_wal_replay_lsn() r;

-- name: system_identity
-- Returns what a database and its copy on a physical standby have in common, and no other database.
SELECT s.system_identifier::text, d.oid FROM pg_control_system() s, pg_database d WHERE d.datname = current_database();

-- name: column_identity
-- Returns the same for roles that may not execute pg_control_system(): a hash of the tuned columns.
SELECT d.oid, (SELECT md5(string_agg(concat_ws(' ', c.id, c.relation::oid, c.column_name, extract(epoch FROM c.created_at)), ','
                                     ORDER BY c.id)) FROM vectuned.tuned_column c) AS columns
FROM pg_database d WHERE d.datname = current_database();

-- name: session_limit
-- Sets a limit of this session, if this version of PostgreSQL has it.
SELECT set_config(s.name, %(limit)s, false) FROM pg_settings s WHERE s.name = %(name)s;

-- name: add_pgvector_to_search_path
-- Appends pgvector's schema to the search_path if that does not find its types; the driver looks them up by bare names.
SELECT set_config('search_path', concat_ws(', ', nullif(current_setting('search_path'), ''), quote_ident(n.nspname)), false)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'vector' AND to_regtype('vector') IS NULL;

-- name: installed
-- Returns whether vectuned is installed (NULL: the role may not use its schema), the version of pgvector, and pgvector's
-- schema if that is no longer the one that vectuned's functions name.
SELECT CASE WHEN n.oid IS NULL THEN false
            WHEN has_schema_privilege(n.oid, 'USAGE') THEN to_regclass('vectuned.tuned_column') IS NOT NULL END AS installed,
       (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'vector') AS pgvector,
       (SELECT m.nspname FROM pg_extension e JOIN pg_namespace m ON m.oid = e.extnamespace
        JOIN pg_proc p ON p.pronamespace = n.oid AND p.proname = '_check_query'
        WHERE e.extname = 'vector' AND position(format('"%s".vector_dims(', replace(m.nspname, '"', '""')) IN p.prosrc) = 0)
       AS moved_to
FROM (VALUES ('vectuned')) v (name) LEFT JOIN pg_namespace n ON n.nspname = v.name;

-- name: index_progress
-- Returns the progress of the index build of a session; no row if it builds none.
SELECT phase, tuples_done, tuples_total FROM pg_stat_progress_create_index WHERE pid = %(pid)s;
