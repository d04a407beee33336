-- Statements of `vectuned check`, which writes nothing and needs nothing but pgvector.

-- name: check_server
-- The server, with sizes in bytes; NULL for pgvector or pg_stat_statements where they are missing. Statistics that
-- were never reset are taken to be as old as the server's start, as they are after a crash.
SELECT current_database() AS database, current_user AS role, current_setting('server_version') AS version,
       pg_is_in_recovery() AS is_standby, pg_size_bytes(current_setting('shared_buffers')) AS shared_buffers,
       (SELECT e.extversion FROM pg_extension e WHERE e.extname = 'vector') AS pgvector,
       (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
        WHERE e.extname = 'vector') AS extension_schema,
       (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
        WHERE e.extname = 'pg_stat_statements') AS statements_schema,
       pg_has_role(current_user, 'pg_read_all_stats', 'USAGE') AS reads_all_statistics,
       now() - (SELECT coalesce(d.stats_reset, pg_postmaster_start_time()) FROM pg_stat_database d
                WHERE d.datname = current_database()) AS statistics_age;

-- name: check_tables
-- Tables with a column of pgvector's types, a row for each column; partitions are part of their table.
-- `rows` is -1 where the table was never analyzed. Tables of vectuned itself are left out.
SELECT c.oid::bigint AS relation, n.nspname AS schema, c.relname AS table, a.attname AS column, a.attnum AS number,
       t.typname AS type, nullif(a.atttypmod, -1) AS dimensions, c.relkind = 'p' AS is_partitioned,
       CASE c.relkind WHEN 'p' THEN (
                SELECT sum(greatest(p.reltuples, 0))::float8 FROM pg_partition_tree(c.oid) e
                JOIN pg_class p ON p.oid = e.relid WHERE e.isleaf)
            ELSE c.reltuples::float8 END AS rows,
       CASE c.relkind WHEN 'p' THEN (
                SELECT coalesce(sum(pg_table_size(e.relid)), 0)::bigint FROM pg_partition_tree(c.oid) e WHERE e.isleaf)
            ELSE pg_table_size(c.oid) END AS bytes,
       has_schema_privilege(n.oid, 'USAGE') AND has_column_privilege(c.oid, a.attnum, 'SELECT') AS is_readable,
       s.n_dead_tup AS dead_rows, s.n_live_tup AS live_rows,
       coalesce(greatest(s.last_analyze, s.last_autoanalyze)) AS analyzed_at,
       coalesce(s.vacuum_count, 0) + coalesce(s.autovacuum_count, 0) AS vacuums
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_type t ON t.oid = a.atttypid
JOIN pg_extension e ON e.extname = 'vector' AND e.extnamespace = t.typnamespace
LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
  AND t.typname IN ('vector', 'halfvec') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'vectuned') AND n.nspname NOT LIKE 'pg\_%%'
ORDER BY bytes DESC, n.nspname, c.relname, a.attnum;

-- name: check_partitions
-- The leaf partitions of partitioned tables. `server` is the foreign server of a partition on another server, NULL for one on
-- this server; `extensions` is that option of the foreign server, NULL if it is not of postgres_fdw.
SELECT o.oid::bigint AS parent, t.relid::oid::bigint AS relation, n.nspname AS schema, c.relname AS name, s.srvname AS server,
       CASE w.fdwname WHEN 'postgres_fdw' THEN coalesce(
           (SELECT x.option_value FROM pg_options_to_table(s.srvoptions) x WHERE x.option_name = 'extensions'), '') END AS extensions,
       c.reltuples::float8 AS rows
FROM unnest(%(relations)s::oid[]) o (oid)
CROSS JOIN LATERAL pg_partition_tree(o.oid) t
JOIN pg_class c ON c.oid = t.relid
JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN (pg_foreign_table f JOIN pg_foreign_server s ON s.oid = f.ftserver JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw)
    ON f.ftrelid = c.oid
WHERE t.isleaf AND t.relid <> o.oid
ORDER BY o.oid, n.nspname, c.relname;

-- name: check_indexes
-- HNSW and IVFFlat indexes of tables, with what they index. `key` is 0 for an expression; `rows` is what the
-- index held when it was built or last vacuumed; `is_building` an invalid one that a session is at work on, which other roles
-- than its own may not be told; of a partitioned index, size and scans are those of its parts.
SELECT i.indrelid::bigint AS relation, c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, m.amname AS method,
       i.indkey[0]::int AS key, pg_get_indexdef(c.oid, 1, true) AS expression, o.opcname AS operator_class,
       (SELECT x.option_value::int FROM pg_options_to_table(c.reloptions) x WHERE x.option_name = 'm') AS m,
       (SELECT x.option_value::int FROM pg_options_to_table(c.reloptions) x
        WHERE x.option_name = 'ef_construction') AS ef_construction,
       (SELECT x.option_value::int FROM pg_options_to_table(c.reloptions) x WHERE x.option_name = 'lists') AS lists,
       pg_get_expr(i.indpred, i.indrelid) AS predicate, i.indisvalid AS is_valid, i.indisready AS is_ready,
       NOT i.indisvalid AND EXISTS (
           SELECT FROM pg_stat_progress_create_index b
           WHERE b.datname = current_database() AND coalesce(b.index_relid, c.oid) IN (c.oid, 0)) AS is_building,
       pg_get_indexdef(c.oid) AS definition, p.bytes, p.scans, c.reltuples::float8 AS rows
FROM pg_index i
JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_am m ON m.oid = c.relam
JOIN pg_opclass o ON o.oid = i.indclass[0]
CROSS JOIN LATERAL (
    SELECT coalesce(sum(pg_relation_size(e.relid)), 0)::bigint AS bytes, coalesce(sum(s.idx_scan), 0)::bigint AS scans
    FROM (SELECT c.oid AS relid WHERE c.relkind = 'i'
          UNION ALL SELECT t.relid FROM pg_partition_tree(c.oid) t WHERE c.relkind = 'I' AND t.isleaf) e
    LEFT JOIN pg_stat_all_indexes s ON s.indexrelid = e.relid) p
WHERE i.indrelid = ANY (%(relations)s::oid[]) AND m.amname IN ('hnsw', 'ivfflat')
ORDER BY i.indrelid, c.relname;

-- name: check_filter_columns
-- Columns of a table that searches probably filter by: those that lead a B-tree or hash index, are no key, and
-- whose values repeat. `distinct` is the planner's estimate of the number of values, `common` the share of rows
-- that have the commonest one.
SELECT DISTINCT ON (a.attnum) a.attname AS column, s.null_frac::float8 AS null_share, s.most_common_freqs[1]::float8 AS common,
       CASE WHEN s.n_distinct < 0 THEN -s.n_distinct * %(rows)s ELSE s.n_distinct END::float8 AS distinct
FROM pg_index i
JOIN pg_class x ON x.oid = i.indexrelid
JOIN pg_am m ON m.oid = x.relam AND m.amname IN ('btree', 'hash')
JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
JOIN pg_class c ON c.oid = i.indrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname
WHERE i.indrelid = %(relation)s::oid AND i.indisvalid AND NOT (i.indisunique AND i.indnkeyatts = 1)
  AND abs(s.n_distinct) > 0 AND (s.n_distinct > 1 OR s.n_distinct < 0 AND s.n_distinct > -0.5)
ORDER BY a.attnum;

-- name: check_setting
-- Sets a parameter to the end of the transaction.
SELECT set_config(%(name)s, %(value)s, true);

-- name: check_plan_settings
-- Sets, to the end of the transaction, what a statement is planned with: as for unknown values, and not for long.
SELECT set_config('statement_timeout', %(timeout_ms)s, true), set_config('plan_cache_mode', 'force_generic_plan', true);

-- name: check_settings_in_force
-- Settings that decide how much a search looks at, as this role has them by default.
SELECT name, setting FROM pg_settings
WHERE name IN ('hnsw.ef_search', 'hnsw.iterative_scan', 'hnsw.max_scan_tuples', 'ivfflat.probes', 'ivfflat.iterative_scan')
ORDER BY name;

-- name: check_prepared_parameters
-- How many parameters a prepared statement takes.
SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = %(name)s;

-- name: check_statements
-- Statements that order by a distance, those that took the most time first, run by any role; {schema} is that of
-- pg_stat_statements. Texts of other roles are hidden from a role that may not read all statistics.
SELECT s.query AS text, sum(s.calls)::bigint AS calls, sum(s.total_exec_time) / sum(s.calls) AS mean_ms
FROM {schema}.pg_stat_statements AS s
WHERE s.dbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) AND s.calls > 0
  AND s.query ~ '<->|<=>|<#>|<\+>|distance\s*\(|inner_product\s*\(' AND s.query ~* '\morder\s+by\M'
  AND s.query ~* '^\s*(select|with)\M' AND s.query !~ '\mvectuned\.|/\* vectuned check \*/'
GROUP BY s.query
ORDER BY sum(s.total_exec_time) DESC
LIMIT %(most)s;

-- name: known_illnesses
-- What the newest event about a column's health says is wrong, as code and subject, sorted; NULL without such an event.
SELECT ARRAY(SELECT ((f ->> 'code') || ' ' || (f ->> 'subject')) COLLATE "C" FROM jsonb_array_elements(v.details -> 'findings') f
             ORDER BY 1) AS illnesses
FROM vectuned.event v WHERE v.column_id = %(column_id)s AND v.action = 'health' ORDER BY v.id DESC LIMIT 1;
