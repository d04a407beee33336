-- Statements of measuring.

-- name: recorded_searches
-- The newest recorded searches whose vectors are stored, of equal ones the newest: without a filter, with one, or both (NULL).
-- Calls with a
-- condition in SQL are left out. Five times as many are read, so that repeated searches do not make the sample smaller.
SELECT d.query, d.filter::text
FROM (SELECT DISTINCT ON (o.query, o.filter) o.query, o.filter, o.recorded_at
      FROM (SELECT t.query, t.filter, t.recorded_at FROM vectuned.trajectory t
            WHERE t.column_id = %(column_id)s AND t.query IS NOT NULL AND t.shape IS NULL
              AND (%(filtered)s::boolean IS NULL OR (t.filter IS NOT NULL) = %(filtered)s)
            ORDER BY t.recorded_at DESC LIMIT 5 * %(count)s) o
      ORDER BY o.query, o.filter, o.recorded_at DESC) d
ORDER BY d.recorded_at DESC LIMIT %(count)s;

-- name: random_rows
-- Vectors of random rows; `sample` is empty or a TABLESAMPLE clause.
SELECT t.{column} AS vector FROM {relation} AS t {sample} WHERE t.{column} IS NOT NULL ORDER BY random() LIMIT {count};

-- name: page_sample
-- The TABLESAMPLE clause that reads about `rows` rows of a table, in whole pages.
TABLESAMPLE SYSTEM (least(100, 100 * {rows} / greatest((vectuned._row_estimate({relation})), 1)));

-- name: index_statement
-- The statement by which vectuned.search searches through an index; $1 is the query. An index that orders by a coarser
-- distance yields its `nearest` rows, re-ranked by the exact distance. The + 0 keeps the planner from using an index there.
SELECT CASE WHEN n.ranked
    THEN format('SELECT %%s AS id, %%s AS distance FROM %%s t WHERE %%s ORDER BY %%s LIMIT %%s',
                f.key, f.distance, f.relation, n.narrow, n.ordering, %(k)s::int)
    ELSE format('SELECT r.id, r.distance FROM (SELECT %%s AS id, %%s AS distance FROM %%s t WHERE %%s ORDER BY %%s LIMIT %%s) r '
                'ORDER BY r.distance + 0 LIMIT %%s',
                f.key, f.distance, f.relation, n.narrow, n.ordering, %(nearest)s::int, %(k)s::int) END AS statement
FROM vectuned.tuned_column c
JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_no = %(index_no)s
CROSS JOIN LATERAL vectuned._fragments(c) f CROSS JOIN LATERAL vectuned._index_fragments(c, i) n
WHERE c.id = %(column_id)s;

-- name: nearest_exactly
-- The k nearest of some rows, by comparing all of them: OFFSET 0 keeps the planner from ordering by a vector index.
SELECT * FROM ({rows} OFFSET 0) m ORDER BY distance LIMIT {k};

-- name: vectuned_search
-- An unfiltered search through vectuned; $1 is the query.
SELECT distance FROM vectuned.search({relation}::regclass, $1, {k}, NULL, {column});

-- name: benchmark_search
-- A search through vectuned: $1 relation, $2 query, $3 k, $4 filter or NULL, $5 column.
SELECT distance FROM vectuned.search($1::regclass, $2, $3, $4::jsonb, $5);

-- name: vectuned_arm
-- An unfiltered search through vectuned; parameters: query, k.
SELECT id, distance FROM vectuned.search({relation}::regclass, %s, %s);

-- name: vectuned_filtered_arm
-- A filtered search through vectuned; parameters: query, k, filter as JSON.
SELECT id, distance FROM vectuned.search({relation}::regclass, %s, %s, %s);

-- name: search_settings
-- The efforts of pgvector that are in force in the session.
SELECT current_setting('hnsw.ef_search') AS ef_search, current_setting('ivfflat.probes') AS probes;
