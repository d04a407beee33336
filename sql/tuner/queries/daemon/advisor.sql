-- Statements of the index advisor.

-- name: advised_table
-- The table of a column: estimated rows, whether it is partitioned, the column's storage (pg_attribute.attstorage),
-- and the memory settings of the server in bytes.
SELECT vectuned._row_estimate(c.relation) AS rows, r.relkind = 'p' AS partitioned, a.attstorage::text AS storage,
       pg_size_bytes(current_setting('shared_buffers')) AS shared_buffers,
       pg_size_bytes(current_setting('effective_cache_size')) AS effective_cache_size,
       pg_size_bytes(current_setting('maintenance_work_mem')) AS maintenance_work_mem
FROM vectuned.tuned_column c
JOIN pg_class r ON r.oid = c.relation
JOIN pg_attribute a ON a.attrelid = c.relation AND a.attname = c.column_name
WHERE c.id = %(column_id)s;

-- name: count_table_rows
-- The exact number of rows, for a table without statistics.
SELECT count(*) AS rows FROM {relation};

-- name: create_copy
-- Creates the table that holds a sample of the rows. Unlogged: it is dropped at the end of the run.
CREATE UNLOGGED TABLE {copy} ({key} bigint PRIMARY KEY, {column} {type}({dimensions}));

-- name: set_copy_storage
-- Stores the vectors of the copy as those of the table are stored: TOASTed vectors take more buffers to read.
ALTER TABLE {copy} ALTER COLUMN {column} SET STORAGE {storage};

-- name: copy_rows
-- Adds rows to a copy. A hash of the row's ctid and the seed gives each row a place from 0 to 2^30 - 1; rows between two
-- places are copied, in the order in which the table stores them. 1073741823 is 2^30 - 1.
INSERT INTO {copy} SELECT {key_start} + row_number() OVER (), t.{column} FROM {relation} t
WHERE t.{column} IS NOT NULL
  AND (hashtextextended(t.ctid::text, {seed}) & 1073741823) >= {from_place}
  AND (hashtextextended(t.ctid::text, {seed}) & 1073741823) < {to_place};

-- name: analyze_copy
-- Gives the planner statistics of the copy.
ANALYZE {copy};

-- name: register_copy
-- Registers a copy as a tuned column with the settings of the real one, and returns its id. Only in a transaction that is
-- rolled back.
INSERT INTO vectuned.tuned_column (relation, relation_schema, relation_name, column_name, column_number, vector_type,
    dimensions, metric, key_columns, index_relation, default_ef, target_recall, max_tail, sample_rate, trajectory_window, learning_rate, min_samples, store_vectors)
SELECT r.oid, n.nspname, r.relname, c.column_name, a.attnum, c.vector_type, c.dimensions, c.metric, ARRAY[%(key)s]::name[],
       r.oid, c.default_ef, c.target_recall, c.max_tail, 0, c.trajectory_window, c.learning_rate,
       c.min_samples, false
FROM vectuned.tuned_column c
CROSS JOIN (pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace)
JOIN pg_attribute a ON a.attrelid = r.oid AND a.attname = c.column_name
WHERE c.id = %(column_id)s AND r.oid = %(relation)s::regclass
RETURNING id;

-- name: register_trial_index
-- Registers an index of a tuned column under an unused number, and returns the number. Only in a transaction that is
-- rolled back.
INSERT INTO vectuned.tuned_index (column_id, index_no, index_relation, method, form, marker, lists)
SELECT %(column_id)s, (SELECT coalesce(max(o.index_no), 0) + 1 FROM vectuned.tuned_index o WHERE o.column_id = %(column_id)s),
       v.index_relation, v.method, v.form, v.marker, v.lists
FROM vectuned.tuned_column c, vectuned._vector_indexes(c.relation, c.column_name) v
WHERE c.id = %(column_id)s AND v.index_relation = %(index)s::regclass
RETURNING index_no;

-- name: existing_indexes
-- The indexes over all rows of a column: build options, size in bytes, the marker condition by which a statement selects
-- the index, and its number if vectuned knows it. 16 and 64 are pgvector's defaults.
SELECT n.nspname AS schema, r.relname AS name, v.method, v.form, v.marker, v.lists, i.index_no,
       coalesce(substring(o.text FROM '(?:^|,)m=([0-9]+)')::int, 16) AS m,
       coalesce(substring(o.text FROM 'ef_construction=([0-9]+)')::int, 64) AS ef_construction,
       pg_relation_size(r.oid) AS bytes
FROM vectuned.tuned_column c
CROSS JOIN LATERAL vectuned._vector_indexes(c.relation, c.column_name) v
JOIN pg_class r ON r.oid = v.index_relation JOIN pg_namespace n ON n.oid = r.relnamespace
CROSS JOIN LATERAL (SELECT array_to_string(r.reloptions, ',') AS text) o
LEFT JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_relation = v.index_relation
WHERE c.id = %(column_id)s AND v.requires IS NULL;

-- name: advisor_schemas
-- The scratch schemas of advisor runs, with the comment (JSON) that describes each run.
SELECT n.nspname AS schema, obj_description(n.oid, 'pg_namespace') AS description FROM pg_namespace n
WHERE n.nspname ~ '^vectuned_advise_[0-9]+_[0-9a-f]+$' AND starts_with(obj_description(n.oid, 'pg_namespace'), '{')
ORDER BY n.nspname;

-- name: describe_schema
-- Stores the description of a run as the comment of its scratch schema.
COMMENT ON SCHEMA {schema} IS {description};

-- name: try_lock_run
-- Takes the session lock of a run, named by its scratch schema; false if another session holds it.
SELECT pg_try_advisory_lock(hashtextextended(%(schema)s, 0)) AS locked;

-- name: unlock_run
-- Releases the session lock of a run.
SELECT pg_advisory_unlock(hashtextextended(%(schema)s, 0));

-- name: index_is_valid
-- Whether an index of a table is valid; no row if the table has no index of that name.
SELECT x.indisvalid AS valid FROM pg_index x JOIN pg_class r ON r.oid = x.indexrelid JOIN pg_namespace n ON n.oid = r.relnamespace
JOIN pg_class o ON o.oid = x.indrelid JOIN pg_namespace p ON p.oid = o.relnamespace
WHERE r.relname = %(name)s AND n.nspname = %(schema)s AND p.nspname = %(schema)s AND o.relname = %(table)s;

-- name: unused_index_name
-- A name that no relation of the schema has: the stem, with a number if necessary.
SELECT c.name FROM (SELECT left(%(stem)s, 58) || CASE n WHEN 0 THEN '' ELSE '_' || n END AS name, n FROM generate_series(0, 9999) n) c
WHERE NOT EXISTS (SELECT FROM pg_class r JOIN pg_namespace s ON s.oid = r.relnamespace
                  WHERE s.nspname = %(schema)s AND r.relname = c.name)
ORDER BY c.n LIMIT 1;

-- name: relation_size
-- The size of a relation in bytes.
SELECT pg_relation_size(%(relation)s::regclass) AS bytes;

-- name: uses_of_index
-- The classes of recorded searches that an index still serves, unfiltered and filtered, in words.
SELECT 'k up to ' || b.k_class AS class FROM vectuned.bank b
WHERE b.column_id = %(column_id)s AND b.index_no = %(index_no)s
  AND EXISTS (SELECT FROM vectuned.replay r WHERE r.column_id = b.column_id AND r.k_class = b.k_class AND r.fraction IS NULL)
UNION ALL
SELECT format('k up to %%s, filter "%%s"', m.k_class, m.shape) FROM (
    SELECT DISTINCT p.k_class, p.shape FROM vectuned.measured_path p
    WHERE p.column_id = %(column_id)s AND p.index_no = %(index_no)s AND p.serves AND p.bucket IS NOT NULL AND p.samples > 0
      AND EXISTS (SELECT FROM vectuned.replay r
                  WHERE r.column_id = p.column_id AND r.k_class = p.k_class AND r.shape = p.shape)) m;

-- name: serving_indexes
-- The index that serves unfiltered searches of each class of k, and whether its recall is proven: the class of `k_class`,
-- and every class with replays.
SELECT b.k_class, b.index_no, coalesce(b.ef_search, b.probes) AS effort, b.certified, b.access_path, b.recall_bound
FROM vectuned.bank b
WHERE b.column_id = %(column_id)s AND (b.k_class = %(k_class)s OR EXISTS (
    SELECT FROM vectuned.replay r WHERE r.column_id = b.column_id AND r.k_class = b.k_class AND r.fraction IS NULL))
ORDER BY b.k_class;
