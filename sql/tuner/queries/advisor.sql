-- Statements of the index advisor.

-- name: advised_table
-- What is advised about: its rows as estimated, its bytes, and what the server has of memory.
SELECT vectuned._row_estimate(c.relation) AS rows, pg_table_size(c.relation) AS bytes, r.relkind = 'p' AS partitioned,
       a.attstorage::text AS storage, s.shared_buffers, s.effective_cache_size, s.maintenance_work_mem
FROM vectuned.tuned_column c
JOIN pg_class r ON r.oid = c.relation
JOIN pg_attribute a ON a.attrelid = c.relation AND a.attname = c.column_name
CROSS JOIN (SELECT pg_size_bytes(current_setting('shared_buffers')) AS shared_buffers,
                   pg_size_bytes(current_setting('effective_cache_size')) AS effective_cache_size,
                   pg_size_bytes(current_setting('maintenance_work_mem')) AS maintenance_work_mem) s
WHERE c.id = %(column_id)s;

-- name: copy_rows
-- Into a copy: the rows whose place in an order drawn by the seed lies between two shares, as they lie in the table.
INSERT INTO {copy} SELECT {key_start} + row_number() OVER (), t.{column} FROM {relation} t
WHERE t.{column} IS NOT NULL
  AND (hashtextextended(t.ctid::text, {seed}) & 1073741823) >= {from_place}
  AND (hashtextextended(t.ctid::text, {seed}) & 1073741823) < {to_place};

-- name: advise_column
-- A copy taken into care for as long as the transaction lasts, which is rolled back.
INSERT INTO vectuned.tuned_column (relation, column_name, vector_type, dimensions, metric, key_columns, index_relation,
    default_ef, target_recall, max_tail, sample_rate, trajectory_window, learning_rate, min_samples, store_vectors)
SELECT %(relation)s::regclass, c.column_name, c.vector_type, c.dimensions, c.metric, ARRAY[%(key)s]::name[],
       %(relation)s::regclass, c.default_ef, c.target_recall, c.max_tail, 0, c.trajectory_window, c.learning_rate,
       c.min_samples, false
FROM vectuned.tuned_column c WHERE c.id = %(column_id)s
RETURNING id;

-- name: advise_index
-- Likewise an index, by a number that no other has.
INSERT INTO vectuned.tuned_index (column_id, index_no, index_relation, method, form, marker, lists)
SELECT %(column_id)s, (SELECT coalesce(max(o.index_no), 0) + 1 FROM vectuned.tuned_index o WHERE o.column_id = %(column_id)s),
       v.index_relation, v.method, v.form, v.marker, v.lists
FROM vectuned.tuned_column c, vectuned._vector_indexes(c.relation, c.column_name) v
WHERE c.id = %(column_id)s AND v.index_relation = %(index)s::regclass
RETURNING index_no;

-- name: advised_indexes
-- The indexes over all rows of a column, with how they were built and by what statements ask for them.
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

-- name: advise_runs
-- The schemas that runs of the advisor made, with what each says of itself.
SELECT n.nspname, obj_description(n.oid, 'pg_namespace') FROM pg_namespace n
WHERE n.nspname ~ '^vectuned_advise_[0-9]+_[0-9a-f]+$' AND starts_with(obj_description(n.oid, 'pg_namespace'), '{')
ORDER BY n.nspname;

-- name: try_run
SELECT pg_try_advisory_lock(hashtextextended(%(name)s, 0));

-- name: end_run
SELECT pg_advisory_unlock(hashtextextended(%(name)s, 0));

-- name: index_state
-- Whether an index over a table is valid; no row if there is none of the name.
SELECT x.indisvalid FROM pg_index x JOIN pg_class r ON r.oid = x.indexrelid JOIN pg_namespace n ON n.oid = r.relnamespace
JOIN pg_class o ON o.oid = x.indrelid JOIN pg_namespace p ON p.oid = o.relnamespace
WHERE r.relname = %(name)s AND n.nspname = %(schema)s AND p.nspname = %(schema)s AND o.relname = %(table)s;

-- name: unused_name
-- A name for an index that nothing in the schema has.
SELECT c.name FROM (SELECT left(%(stem)s, 58) || CASE n WHEN 0 THEN '' ELSE '_' || n END AS name, n FROM generate_series(0, 9999) n) c
WHERE NOT EXISTS (SELECT FROM pg_class r JOIN pg_namespace s ON s.oid = r.relnamespace
                  WHERE s.nspname = %(schema)s AND r.relname = c.name)
ORDER BY c.n LIMIT 1;

-- name: relation_size
SELECT pg_relation_size(%(relation)s::regclass);

-- name: serves_still
-- Which classes of searches that are asked for an index still serves, with filters and without.
SELECT 'k up to ' || b.k_class FROM vectuned.bank b
WHERE b.column_id = %(column_id)s AND b.index_no = %(index_no)s
  AND EXISTS (SELECT FROM vectuned.replay r WHERE r.column_id = b.column_id AND r.k_class = b.k_class AND r.fraction IS NULL)
UNION ALL
SELECT format('k up to %%s, filter "%%s"', m.k_class, m.shape) FROM (
    SELECT DISTINCT p.k_class, p.shape FROM vectuned.measured_path p
    WHERE p.column_id = %(column_id)s AND p.index_no = %(index_no)s AND p.serves AND p.bucket IS NOT NULL AND p.samples > 0
      AND EXISTS (SELECT FROM vectuned.replay r
                  WHERE r.column_id = p.column_id AND r.k_class = p.k_class AND r.shape = p.shape)) m;

-- name: proof_of
-- Of each class of k that searches belong to: which index serves it, and whether that is proven.
SELECT b.k_class, b.index_no, coalesce(b.ef_search, b.probes) AS effort, b.certified, b.access_path, b.recall_bound
FROM vectuned.bank b
WHERE b.column_id = %(column_id)s AND (b.k_class = %(k_class)s OR EXISTS (
    SELECT FROM vectuned.replay r WHERE r.column_id = b.column_id AND r.k_class = b.k_class AND r.fraction IS NULL))
ORDER BY b.k_class;
