-- Statements that prepare index builds.

-- name: build_server
-- What the server gives to maintenance, sizes in bytes; the version of pgvector; and whether the role may read files of the
-- server's machine.
SELECT pg_size_bytes(current_setting('maintenance_work_mem')) AS maintenance_work_mem,
       pg_size_bytes(current_setting('effective_cache_size')) AS effective_cache_size,
       current_setting('max_parallel_maintenance_workers')::int AS parallel_workers,
       least(current_setting('max_parallel_workers')::int, current_setting('max_worker_processes')::int) AS most_workers,
       (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'vector') AS pgvector,
       has_function_privilege('pg_catalog.pg_read_file(text, bigint, bigint, boolean)', 'EXECUTE')
           AND pg_has_role(current_user, 'pg_read_server_files', 'USAGE') AS reads_files;

-- name: server_file
-- The beginning of a file of the server's machine; NULL if it does not exist.
SELECT pg_read_file(%(path)s, 0, 100000, true) AS text;

-- name: build_settings
-- What an index build of this session needs to know, as it is now.
SELECT name, setting || coalesce(unit, '') AS setting FROM pg_settings
WHERE name IN ('maintenance_work_mem', 'max_parallel_maintenance_workers', 'min_parallel_table_scan_size',
               'statement_timeout', 'lock_timeout', 'client_connection_check_interval');

-- name: set_build_setting
-- Sets a parameter of this session.
SELECT set_config(%(name)s, %(value)s, false);

-- name: unfinished_index
-- Whether an index is there and invalid, as CREATE INDEX CONCURRENTLY leaves it when it fails.
SELECT coalesce((SELECT NOT x.indisvalid FROM pg_index x WHERE x.indexrelid = to_regclass(%(index)s)), false) AS unfinished;

-- name: create_build_sample
-- Copies vectors, to time the build of an index over them. Unlogged, not temporary: temporary tables have no parallel workers.
CREATE UNLOGGED TABLE {sample} AS SELECT {column} FROM {relation} WHERE {column} IS NOT NULL LIMIT {rows};

-- name: create_sample_index
-- Builds an HNSW index over a sample.
CREATE INDEX ON {sample} USING hnsw ({column} {operators}) WITH (m = {m}, ef_construction = {ef_construction});

-- name: drop_build_sample
-- Drops a sample.
DROP TABLE IF EXISTS {sample};
