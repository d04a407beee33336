-- Statements of the index advisor.

-- name: advised_table
-- The table of a column: estimated rows, whether it is partitioned, the column's storage (pg_attribute.attstorage),
-- and the memory settings of the server in bytes.
SELECT vectuned._row_estimate(r.oid) AS rows, r.relkind = 'p' AS partitioned, a.attstorage::text AS storage,
       pg_size_bytes(current_setting('shared_buffers')) AS shared_buffers,
       pg_size_bytes(current_setting('effective_cache_size')) AS effective_cache_size
FROM pg_class r JOIN pg_attribute a ON a.attrelid = r.oid
WHERE r.oid = %(relation)s::regclass AND a.attname = %(column_name)s AND NOT a.attisdropped;

-- name: bare_columns
-- The vector columns of a relation, or the one that is named: what the advisor needs to know of them. `dimensions` is NULL
-- where the type says none; `index_metric` that of an index over the column, valid or not.
SELECT r.oid::bigint AS relation, s.nspname AS schema, r.relname AS table, a.attname AS name, t.typname AS type,
       nullif(a.atttypmod, -1) AS dimensions, n.nspname AS extension,
       (SELECT substring(o.opcname FROM '_(cosine|l2|ip)_ops$')
        FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am m ON m.oid = i.relam AND m.amname IN ('hnsw', 'ivfflat')
        JOIN pg_opclass o ON o.oid = x.indclass[0]
        WHERE x.indrelid = r.oid AND o.opcname ~ '_(cosine|l2|ip)_ops$' AND EXISTS (
            SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
              AND d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid AND d.refobjsubid = a.attnum)
        ORDER BY x.indisvalid DESC, x.indexrelid LIMIT 1) AS index_metric
FROM pg_class r
JOIN pg_namespace s ON s.oid = r.relnamespace
JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid AND t.typname IN ('vector', 'halfvec')
JOIN pg_namespace n ON n.oid = t.typnamespace
JOIN pg_extension e ON e.extname = 'vector' AND e.extnamespace = n.oid
WHERE r.oid = %(relation)s::regclass AND (%(column_name)s::name IS NULL OR a.attname = %(column_name)s::name)
ORDER BY a.attnum;

-- name: is_tuned
-- Whether a column of a relation is tuned and has an index over all rows.
SELECT EXISTS (
    SELECT FROM vectuned.tuned_column c
    WHERE c.relation = %(relation)s::regclass AND (%(column_name)s::name IS NULL OR c.column_name = %(column_name)s::name)
      AND EXISTS (SELECT FROM vectuned.tuned_index i WHERE i.column_id = c.id AND i.requires IS NULL)) AS tuned;

-- name: vector_lengths
-- The numbers of dimensions that the vectors of a column have, the most frequent first, by ten thousand rows.
SELECT v.length FROM (
    SELECT {schema}.vector_dims(t.{column}) AS length FROM {relation} t WHERE t.{column} IS NOT NULL LIMIT 10000) v
GROUP BY v.length ORDER BY count(*) DESC;

-- name: held_out_rows
-- Rows as queries, from those whose place in the order of copy_rows is at the end.
SELECT t.{column} AS vector FROM {relation} t
WHERE t.{column} IS NOT NULL AND {schema}.vector_dims(t.{column}) = {dimensions}
  AND (hashtextextended(t.ctid::text, {seed}) & 1073741823) >= {from_place}
LIMIT {count};

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
  AND {schema}.vector_dims(t.{column}) = {dimensions}
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
SELECT r.oid, n.nspname, r.relname, a.attname, a.attnum, %(vector_type)s, %(dimensions)s, %(metric)s, ARRAY[%(key)s]::name[],
       r.oid, %(default_ef)s, %(target_recall)s, %(max_tail)s, 0, %(trajectory_window)s, %(learning_rate)s, %(min_samples)s, false
FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
JOIN pg_attribute a ON a.attrelid = r.oid AND a.attname = %(column_name)s
WHERE r.oid = %(relation)s::regclass
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

-- name: create_reference
-- A table of the first rows of a copy, without an index: an exact search of it is the unit of time.
CREATE UNLOGGED TABLE {reference} AS SELECT * FROM {copy} LIMIT {rows};

-- name: exact_search
-- An exact search, with the query vector as $1.
SELECT {distance} AS distance FROM {relation} ORDER BY 1 LIMIT {k};

-- name: enable_advised
-- Tunes a column for a target; a NULL sample_rate is the default one.
SELECT vectuned.enable(%(relation)s::regclass, %(column_name)s::name, target_recall => %(target)s,
                       sample_rate => coalesce(%(sample_rate)s::float8, 0.05));

-- name: advised_search
-- Searches as an application does.
SELECT id, distance FROM vectuned.search(%(relation)s::regclass, %(query)s, %(k)s, NULL, %(column_name)s::name);

-- name: insert_again
-- Inserts rows of a copy once more, under new keys.
INSERT INTO {copy} SELECT m.last + row_number() OVER (), c.{column}
FROM (SELECT * FROM {copy} LIMIT {count}) c CROSS JOIN (SELECT max(k.key) AS last FROM (SELECT * FROM {copy}) k (key)) m;

-- name: unneeded_partial_indexes
-- Partial indexes of a column that serve no class of filtered searches, although searches were learned from since they are
-- there, and whose filter fewer than one of a hundred recorded searches has. searches: how many have it, total: of how many.
SELECT i.index_relation::regclass::text AS index, i.requires, pg_relation_size(i.index_relation) AS bytes,
       t.searches, t.total
FROM vectuned.tuned_index i
JOIN pg_class r ON r.oid = i.index_relation
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE s.filter @> i.requires) AS searches, count(*) AS total
    FROM vectuned.trajectory s WHERE s.column_id = i.column_id AND s.filter IS NOT NULL) t
WHERE i.column_id = %(column_id)s AND i.requires IS NOT NULL AND t.total >= 100 AND t.searches < 0.01 * t.total
  AND NOT EXISTS (SELECT FROM vectuned.measured_path p
                  WHERE p.column_id = i.column_id AND p.index_no = i.index_no AND p.serves AND t.searches > 0)
ORDER BY bytes DESC, index;

-- name: filtered_json_keys
-- Keys of jsonb columns that recorded statements compare with a value, and that no index leads with. `btree` and `generated` are
-- SQL for a B-tree over the expression, and for a column of its own.
SELECT f.expression, count(*) AS searches,
       format('CREATE INDEX CONCURRENTLY ON %%1$s ((%%2$s));', min(c.relation::text), f.expression) AS btree,
       format(E'ALTER TABLE %%1$s ADD COLUMN %%2$I text GENERATED ALWAYS AS (%%3$s) STORED;\nCREATE INDEX CONCURRENTLY ON %%1$s (%%2$I);',
              min(c.relation::text), left(btrim(regexp_replace(f.expression, '\W+', '_', 'g'), '_'), 60), f.expression) AS generated
FROM vectuned.trajectory t
JOIN vectuned.tuned_column c ON c.id = t.column_id
CROSS JOIN LATERAL regexp_matches(t.condition, '\((?:\w+\.)?(\w+ ->> ''[^'']+'')(?:::text)?\) = ', 'g') AS m (part)
CROSS JOIN LATERAL (SELECT m.part[1] AS expression) f
WHERE t.column_id = %(column_id)s AND t.condition IS NOT NULL
  AND NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.relation AND x.indisvalid
                  AND position(f.expression IN pg_get_indexdef(x.indexrelid)) > 0)
GROUP BY f.expression HAVING count(*) >= 20
ORDER BY searches DESC, f.expression LIMIT 5;

-- name: partition_keys
-- Columns that nearly every recorded search filters by one value of, with many values none of which has most of the rows. `script`
-- is SQL that copies the table into partitions: one for each value, or of a hash where there are more than 100.
SELECT k.name, k.searches::float8 / n.total AS share, d.distinct, d.distinct <= 100 AS by_list,
       concat_ws(E'\n',
           'BEGIN;',
           format('ALTER TABLE %%s RENAME TO %%I;', t.name, t.old),
           format('CREATE TABLE %%s (LIKE %%s INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY) PARTITION BY %%s (%%I);',
                  t.name, t.before, CASE WHEN d.distinct <= 100 THEN 'LIST' ELSE 'HASH' END, k.name),
           'DO $partitions$ DECLARE part record; BEGIN',
           CASE WHEN d.distinct <= 100
                THEN format('    FOR part IN SELECT row_number() OVER (ORDER BY v.value) AS number, v.value '
                            'FROM (SELECT DISTINCT %%1$I AS value FROM %%2$s WHERE %%1$I IS NOT NULL) v LOOP', k.name, t.before)
                ELSE '    FOR part IN SELECT n AS number FROM generate_series(0, 15) n LOOP' END,
           format('        EXECUTE format(%%L, part.number, %%s);',
                  format('CREATE TABLE %%s PARTITION OF %%s FOR VALUES %%s',
                         format(replace(t.part, '%%', '%%%%'), '%%s'), replace(t.name, '%%', '%%%%'),
                         CASE WHEN d.distinct <= 100 THEN 'IN (%%L)' ELSE 'WITH (MODULUS 16, REMAINDER %%s)' END),
                  CASE WHEN d.distinct <= 100 THEN 'part.value' ELSE 'part.number' END),
           '    END LOOP; END $partitions$;',
           CASE WHEN d.distinct <= 100
                THEN format('CREATE TABLE %%s PARTITION OF %%s DEFAULT;', format(t.part, 'other'), t.name) END,
           format('INSERT INTO %%s (%%s) OVERRIDING SYSTEM VALUE SELECT %%2$s FROM %%s;', t.name, a.names, t.before),
           format('ALTER TABLE %%s ADD PRIMARY KEY (%%s);', t.name, a.keys),
           format('CREATE INDEX ON %%s (%%I);', t.name, k.name),
           regexp_replace(pg_get_indexdef(c.index_relation), '^CREATE INDEX .*? ON .*? USING ',
                          replace(format('CREATE INDEX ON %%s USING ', t.name), '\', '\\')) || ';',
           'COMMIT;',
           format('SELECT vectuned.disable(%%L, %%L);', t.before, c.column_name),
           format('SELECT vectuned.enable(%%L, %%L, target_recall => %%s);', t.name, c.column_name, c.target_recall)) AS script
FROM vectuned.tuned_column c
JOIN pg_class r ON r.oid = c.relation AND r.relkind = 'r'
JOIN pg_namespace m ON m.oid = r.relnamespace
CROSS JOIN LATERAL (SELECT count(*) AS total FROM vectuned.trajectory t WHERE t.column_id = c.id) n
CROSS JOIN LATERAL (
    SELECT e.key AS name, count(*) AS searches FROM vectuned.trajectory t CROSS JOIN LATERAL jsonb_each(t.filter) e
    WHERE t.column_id = c.id AND t.filter IS NOT NULL AND jsonb_typeof(e.value) IN ('number', 'string') GROUP BY e.key) k
JOIN pg_stats s ON s.schemaname = m.nspname AND s.tablename = r.relname AND s.attname = k.name
CROSS JOIN LATERAL (SELECT CASE WHEN s.n_distinct < 0 THEN -s.n_distinct * greatest(r.reltuples, 0)
                                ELSE s.n_distinct END::float8 AS distinct) d
CROSS JOIN LATERAL (
    SELECT format('%%I.%%I', m.nspname, r.relname) AS name, left(r.relname, 50) || '_before' AS old,
           format('%%I.%%I', m.nspname, left(r.relname, 50) || '_before') AS before,
           format('%%I.', m.nspname) || format('%%I', replace(left(r.relname, 50), '%%', '%%%%') || '_%%s') AS part) t
CROSS JOIN LATERAL (
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) FILTER (WHERE a.attgenerated = '') AS names,
           (SELECT string_agg(quote_ident(u.name), ', ' ORDER BY u.place)
            FROM unnest(c.key_columns || CASE WHEN k.name = ANY (c.key_columns::text[]) THEN '{}'::name[] ELSE ARRAY[k.name::name] END)
                 WITH ORDINALITY AS u (name, place)) AS keys
    FROM pg_attribute a WHERE a.attrelid = c.relation AND a.attnum > 0 AND NOT a.attisdropped) a
WHERE c.id = %(column_id)s AND n.total >= 100 AND k.searches >= 0.95 * n.total
  AND (s.n_distinct >= 10 OR s.n_distinct < 0) AND coalesce(s.most_common_freqs[1], 0) < 0.5
ORDER BY k.searches DESC, k.name;

-- name: filter_column
-- What the planner knows about the values of a column: how many there are, the share of NULL, and the most common ones with
-- their shares; NULLs without statistics, or without the right to read them. has_btree: whether a B-tree leads with it.
SELECT CASE WHEN s.n_distinct < 0 THEN -s.n_distinct * greatest(r.reltuples, 0) ELSE s.n_distinct END::float8 AS distinct,
       coalesce(s.null_frac, 0)::float8 AS nulls, s.most_common_vals::text::text[] AS values,
       s.most_common_freqs::float8[] AS shares,
       EXISTS (SELECT FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_am m ON m.oid = i.relam
               WHERE x.indrelid = r.oid AND x.indkey[0] = a.attnum AND x.indisvalid AND x.indpred IS NULL
                 AND m.amname = 'btree') AS has_btree
FROM pg_class r
JOIN pg_namespace n ON n.oid = r.relnamespace
JOIN pg_attribute a ON a.attrelid = r.oid AND a.attname = %(column_name)s AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = r.relname AND s.attname = a.attname AND NOT s.inherited
WHERE r.oid = %(relation)s::regclass;
