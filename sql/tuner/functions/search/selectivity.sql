-- Selectivity of filters: the share of rows that match, estimated from the planner's statistics.

-- The statistics hold values of rows. As with pg_stats, each role sees those of the columns that it may read, and none if
-- row security policies hide rows from it.
CREATE OR REPLACE VIEW vectuned.readable_statistics WITH (security_barrier) AS
SELECT s.column_id, s.attribute, s.null_fraction, s.other_fraction, s.common, s.bounds
FROM vectuned.filter_statistics s
JOIN vectuned.tuned_column c ON c.id = s.column_id
WHERE NOT row_security_active(c.relation::oid)
  AND (has_table_privilege(c.relation::oid, 'SELECT')
       OR EXISTS (SELECT FROM pg_attribute a
                  WHERE a.attrelid = c.relation AND a.attname = s.attribute AND NOT a.attisdropped
                    AND has_column_privilege(c.relation::oid, a.attnum, 'SELECT')));

-- The selectivity of one comparison; 0.1 without statistics on the column.
CREATE OR REPLACE FUNCTION vectuned._filter_share(p_column_id int, p_attribute name, operator text, value jsonb)
RETURNS float8
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    null_fraction float8;
    other_fraction float8;
    common jsonb;
    bounds float8[];
    matching float8;
    few boolean;
    number float8;
    listed float8;
    rest float8;
    share float8;
BEGIN
    SELECT s.null_fraction, s.other_fraction, s.common, s.bounds INTO null_fraction, other_fraction, common, bounds
    FROM vectuned.readable_statistics s WHERE s.column_id = p_column_id AND s.attribute = p_attribute;
    IF NOT FOUND THEN
        RETURN 0.1;
    END IF;
    IF jsonb_typeof(value) = 'null' THEN
        RETURN CASE operator WHEN '<>' THEN 1 - null_fraction ELSE null_fraction END;
    ELSIF operator IN ('=', '<>') THEN
        matching := coalesce(vectuned._common_share(common, value #>> '{}'), other_fraction);
        RETURN CASE operator WHEN '=' THEN matching ELSE greatest(1 - null_fraction - matching, 0) END;
    ELSIF operator IN ('in', 'not in') THEN
        few := common <> '{}' AND jsonb_array_length(value) <= 100;
        SELECT least(coalesce(sum(CASE WHEN e.value = 'null' THEN null_fraction
                              WHEN few THEN coalesce(vectuned._common_share(common, e.value #>> '{}'), other_fraction)
                              ELSE coalesce((common ->> (e.value #>> '{}'))::float8, other_fraction) END), 0), 1)
        INTO matching FROM (SELECT DISTINCT x.value FROM jsonb_array_elements(value) x) e;
        RETURN CASE operator WHEN 'in' THEN matching ELSE greatest(1 - null_fraction - matching, 0) END;
    END IF;
    number := vectuned._filter_number(value #>> '{}');
    IF number IS NULL OR (bounds IS NULL AND common = '{}') THEN
        RETURN (1 - null_fraction) / 3;
    END IF;
    SELECT coalesce(sum(e.value::float8), 0),
           coalesce(sum(e.value::float8) FILTER (WHERE CASE operator
               WHEN '<' THEN e.number < number WHEN '<=' THEN e.number <= number
               WHEN '>' THEN e.number > number ELSE e.number >= number END), 0)
    INTO listed, matching
    FROM (SELECT x.value, CASE WHEN length(x.key) < 200 AND x.key ~ '^[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9][0-9]?)?$'
                 THEN x.key::float8 END AS number
          FROM jsonb_each_text(common) x) e;
    rest := greatest(1 - null_fraction - listed, 0);
    IF bounds IS NULL THEN
        RETURN matching + rest / 3;
    END IF;
    share := width_bucket(number, bounds) / cardinality(bounds)::float8;
    RETURN matching + rest * CASE WHEN operator IN ('<', '<=') THEN share ELSE 1 - share END;
END
$$;

-- A value as a number on the axis of the histogram bounds: numbers as they are, dates and times in seconds since 1970; NULL
-- for other values.
CREATE OR REPLACE FUNCTION vectuned._filter_number(value text) RETURNS float8
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF value ~ '^[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?$' THEN
        RETURN value::float8;
    ELSIF value ~ '^\d{4}-\d\d-\d\d.*:\d\d(\.\d+)?\s*([-+]\d|Z)' THEN
        RETURN extract(epoch FROM value::timestamptz);
    ELSIF value ~ '^\d{4}-\d\d-\d\d' THEN
        RETURN extract(epoch FROM value::timestamp);  -- the same in every time zone
    END IF;
    RETURN NULL;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;

-- The share of one of the most common values, NULL if it is not one of them. Numbers and dates can be spelled in several
-- ways; those that are not plain integers are stored as _filter_number writes them.
CREATE OR REPLACE FUNCTION vectuned._common_share(common jsonb, value text) RETURNS float8
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(
    (common ->> value)::pg_catalog.float8,
    CASE WHEN value OPERATOR(pg_catalog.~) '^(\d{4}-\d\d-\d\d|[-+]?\d+[.eE])'
        THEN (common ->> vectuned._filter_number(value)::pg_catalog.text)::pg_catalog.float8 END);

-- Copies the statistics that ANALYZE collected on the columns of a tuned table. Callers need no right to read
-- filter_statistics beyond the columns they may read: it compares with readable_statistics.
CREATE OR REPLACE FUNCTION vectuned._refresh_statistics(p_column_id int) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
SET datestyle = 'ISO'
SET extra_float_digits = 1
AS $$
    WITH known AS (
        SELECT c.id, a.attname, s.null_frac, s.n_distinct, greatest(r.reltuples, 1) AS rows,
               coalesce(s.most_common_freqs, '{}') AS shares,
               CASE y.typcategory
                   WHEN 'B' THEN ARRAY(SELECT (v::boolean)::text FROM unnest(s.most_common_vals::text::text[]) v)
                   WHEN 'N' THEN ARRAY(SELECT CASE WHEN v ~ '^-?\d+$' THEN v
                                                   ELSE coalesce(vectuned._filter_number(v)::text, v) END
                                       FROM unnest(s.most_common_vals::text::text[]) v)
                   WHEN 'D' THEN ARRAY(SELECT coalesce(vectuned._filter_number(v)::text, v)
                                       FROM unnest(s.most_common_vals::text::text[]) v)
                   ELSE coalesce(s.most_common_vals::text::text[], '{}') END AS vals,
               CASE WHEN y.typcategory IN ('N', 'D')
                   THEN ARRAY(SELECT vectuned._filter_number(v) FROM unnest(s.histogram_bounds::text::text[]) v)
                   END AS bounds
        FROM vectuned.tuned_column c
        JOIN pg_class r ON r.oid = c.relation
        JOIN pg_namespace n ON n.oid = r.relnamespace
        JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = r.relname AND s.inherited = (r.relkind = 'p')
        JOIN pg_attribute a ON a.attrelid = r.oid AND a.attname = s.attname AND NOT a.attisdropped
        JOIN pg_type y ON y.oid = a.atttypid
        WHERE c.id = p_column_id AND a.attname <> c.column_name),
    summed AS (
        SELECT k.*, coalesce((SELECT sum(f) FROM unnest(k.shares) f), 0) AS listed,
               CASE WHEN k.n_distinct >= 0 THEN k.n_distinct ELSE -k.n_distinct * k.rows END AS distinct_values
        FROM known k),
    latest AS (
        SELECT s.id, s.attname, s.null_frac AS null_fraction,
               greatest(1 - s.null_frac - s.listed, 0.5 / s.rows)
                   / greatest(s.distinct_values - cardinality(s.shares), 1) AS other_fraction,
               coalesce((SELECT jsonb_object_agg(u.value, u.share) FROM unnest(s.vals, s.shares) AS u (value, share)), '{}') AS common,
               CASE WHEN cardinality(s.bounds) >= 2 AND array_position(s.bounds, NULL) IS NULL THEN s.bounds END AS bounds
        FROM summed s)
    MERGE INTO vectuned.filter_statistics t
    USING (SELECT l.* FROM latest l
           WHERE NOT EXISTS (SELECT FROM vectuned.readable_statistics o
                             WHERE o.column_id = l.id AND o.attribute = l.attname
                               AND (o.null_fraction, o.other_fraction, o.common, o.bounds)
                                   IS NOT DISTINCT FROM (l.null_fraction, l.other_fraction, l.common, l.bounds))) n
    ON t.column_id = n.id AND t.attribute = n.attname
    WHEN MATCHED THEN UPDATE SET null_fraction = n.null_fraction, other_fraction = n.other_fraction, common = n.common,
                                 bounds = n.bounds, refreshed_at = now()
    WHEN NOT MATCHED THEN INSERT (column_id, attribute, null_fraction, other_fraction, common, bounds)
         VALUES (n.id, n.attname, n.null_fraction, n.other_fraction, n.common, n.bounds)
$$;
