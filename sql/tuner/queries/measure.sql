-- Statements of measuring.

-- name: recorded_searches
-- The newest searches whose vectors are stored, of the same ones one: without a filter, with one, or both (NULL).
SELECT d.query, d.filter::text
FROM (SELECT DISTINCT ON (o.query, o.filter) o.query, o.filter, o.recorded_at
      FROM (SELECT t.query, t.filter, t.recorded_at FROM vectuned.trajectory t
            WHERE t.column_id = %(column_id)s AND t.query IS NOT NULL
              AND (%(filtered)s::boolean IS NULL OR (t.filter IS NOT NULL) = %(filtered)s)
            ORDER BY t.recorded_at DESC LIMIT 5 * %(count)s) o
      ORDER BY o.query, o.filter, o.recorded_at DESC) d
ORDER BY d.recorded_at DESC LIMIT %(count)s;

-- name: index_statement
-- The statement that searches through an index as vectuned.search does; $1 is the query. As many as nearest rows are taken
-- from one that orders by something coarser than the distance.
SELECT CASE WHEN n.ranked
    THEN format('SELECT %%s AS id, %%s AS distance FROM %%s t WHERE %%s ORDER BY %%s LIMIT %%s',
                f.key, f.distance, f.relation, n.narrow, n.ordering, %(k)s::int)
    ELSE format('SELECT r.id, r.distance FROM (SELECT %%s AS id, %%s AS distance FROM %%s t WHERE %%s ORDER BY %%s LIMIT %%s) r '
                'ORDER BY r.distance + 0 LIMIT %%s',
                f.key, f.distance, f.relation, n.narrow, n.ordering, %(nearest)s::int, %(k)s::int) END
FROM vectuned.tuned_column c
JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_no = %(index_no)s
CROSS JOIN LATERAL vectuned._fragments(c) f CROSS JOIN LATERAL vectuned._index_fragments(c, i) n
WHERE c.id = %(column_id)s;
