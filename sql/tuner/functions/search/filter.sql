-- The filter language of searches: {"tenant": 5, "kind": ["a", "b"], "price": {"<": 10}, "deleted": null}.
-- Conditions hold together (AND). A value means equality, a list one of its elements, null a null test, and an
-- object comparisons by =, <>, <, <=, >, >=, in and "not in".

-- The published statistics hold values of rows. As with pg_stats each role sees those of the columns that it may read,
-- and none where policies hide rows from it.
CREATE OR REPLACE VIEW vectuned.readable_statistics WITH (security_barrier) AS
SELECT s.column_id, s.attribute, s.null_fraction, s.other_fraction, s.common, s.bounds
FROM vectuned.filter_statistics s
JOIN vectuned.tuned_column c ON c.id = s.column_id
WHERE NOT row_security_active(c.relation::oid)
  AND (has_table_privilege(c.relation::oid, 'SELECT')
       OR EXISTS (SELECT FROM pg_attribute a
                  WHERE a.attrelid = c.relation AND a.attname = s.attribute AND NOT a.attisdropped
                    AND has_column_privilege(c.relation::oid, a.attnum, 'SELECT')));

-- condition: SQL over the table t, identifiers quoted, literals typed; NULL where everything matches.
-- shape: the columns and operators without the values, the same for every filter of a kind.
-- fraction: the share of rows that match, by the published statistics, conditions taken as independent.
CREATE OR REPLACE FUNCTION vectuned._compile_filter(
    p_column_id int, p_relation regclass, filter jsonb,
    OUT condition text, OUT shape text, OUT fraction float8)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    entry record;
    test record;
    part text;
    share float8;
    parts text[] := '{}';
    shapes text[] := '{}';
    plain boolean;
BEGIN
    IF jsonb_typeof(filter) <> 'object' THEN
        RAISE EXCEPTION 'a filter must be a JSON object of columns and what they must be, got %', jsonb_typeof(filter)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For example {"tenant": 5, "price": {"<": 10}}.';
    END IF;
    -- Nearly every filter is made of equalities on columns of the usual types: one statement for all of them. The search
    -- before has emptied the processor's caches, so that everything touched here costs several times what it seems to.
    fraction := 1;
    FOR entry IN
        SELECT e.key, a.attname, j.value, coalesce((s.common ->> j.value)::float8, s.other_fraction, 0.1) AS share,
               CASE jsonb_typeof(e.value)
                   WHEN 'string' THEN CASE a.atttypid WHEN 25 THEN 'text' WHEN 2950 THEN 'uuid' WHEN 1043 THEN 'varchar' END
                   WHEN 'boolean' THEN CASE a.atttypid WHEN 16 THEN 'bool' END
                   WHEN 'number' THEN CASE
                       WHEN position('.' IN j.value) > 0 THEN NULL
                       WHEN a.atttypid = 23 AND length(j.value) <= 9 THEN 'int4'
                       WHEN a.atttypid = 20 AND length(j.value) <= 18 THEN 'int8'
                       WHEN a.atttypid = 21 AND length(j.value) <= 4 THEN 'int2' END END AS type
        FROM jsonb_each(filter) e
        CROSS JOIN LATERAL (SELECT e.value #>> '{}' AS value) j
        LEFT JOIN pg_attribute a ON a.attrelid = p_relation AND a.attname = e.key::name AND a.attname = e.key
                                AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN vectuned.readable_statistics s ON s.column_id = p_column_id AND s.attribute = a.attname
    LOOP
        plain := entry.type IS NOT NULL;
        EXIT WHEN NOT plain;
        condition := concat_ws(' AND ', condition, format('t.%I OPERATOR(pg_catalog.=) %L::%s', entry.attname, entry.value, entry.type));
        shape := concat_ws(', ', shape, entry.key || ' =');
        fraction := fraction * entry.share;
    END LOOP;
    IF plain THEN
        RETURN;
    END IF;
    fraction := 1;
    FOR entry IN
        SELECT e.key, e.value, a.attname, a.atttypid
        FROM jsonb_each(filter) e
        LEFT JOIN pg_attribute a ON a.attrelid = p_relation AND a.attname = e.key AND a.attnum > 0 AND NOT a.attisdropped
    LOOP
        IF entry.attname IS NULL THEN
            RAISE EXCEPTION 'column "%" of the filter does not exist in %', entry.key, p_relation
                USING ERRCODE = 'undefined_column';
        END IF;
        FOR test IN
            SELECT CASE jsonb_typeof(entry.value) WHEN 'array' THEN 'in' ELSE '=' END AS operator,
                   entry.value AS value
            WHERE jsonb_typeof(entry.value) <> 'object'
            UNION ALL
            SELECT o.key, o.value
            FROM jsonb_each(CASE jsonb_typeof(entry.value) WHEN 'object' THEN entry.value ELSE '{}' END) o
        LOOP
            part := vectuned._filter_test(entry.attname, entry.atttypid, test.operator, test.value);
            share := vectuned._filter_share(p_column_id, entry.attname, test.operator, test.value);
            parts := parts || part;
            shapes := shapes || (entry.key || ' ' || test.operator);
            fraction := fraction * share;
        END LOOP;
        IF entry.value = '{}' THEN
            RAISE EXCEPTION 'the filter says nothing of column "%"', entry.key
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Write {"<": 10}, for example, or leave the column out.';
        END IF;
    END LOOP;
    condition := nullif(array_to_string(parts, ' AND '), '');
    shape := array_to_string(shapes, ', ');
END
$$;

-- One comparison as SQL. Types are compared by their own equality (that of citext, say), not by that of text.
CREATE OR REPLACE FUNCTION vectuned._filter_test(attribute name, type oid, operator text, value jsonb) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    kind text := jsonb_typeof(value);
    type_name text;
    symbol text;
    single text;
    digits int;
    large boolean;
    base oid;
    items text[];
    has_null boolean;
    test text;
BEGIN
    IF kind = 'null' AND operator IN ('=', '<>') THEN
        RETURN format('t.%I IS %sNULL', attribute, CASE operator WHEN '<>' THEN 'NOT ' ELSE '' END);
    END IF;
    IF operator NOT IN ('=', '<>', '<', '<=', '>', '>=', 'in', 'not in') THEN
        RAISE EXCEPTION 'the filter on column "%" has the unknown operator "%"', attribute, operator
            USING ERRCODE = 'invalid_parameter_value', HINT = 'There are =, <>, <, <=, >, >=, in and "not in".';
    END IF;
    IF (operator IN ('in', 'not in')) <> (kind = 'array') OR kind IN ('null', 'object') THEN
        RAISE EXCEPTION 'the filter on column "%" compares by "%" with %', attribute, operator,
            CASE WHEN kind = 'null' THEN kind WHEN kind IN ('array', 'object') THEN 'an ' || kind ELSE 'a ' || kind END
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Lists go with "in" and "not in", single values with the rest.';
    END IF;
    -- A value outside of a domain is no error: nothing equals it.
    WHILE type >= 10000 LOOP
        SELECT y.typbasetype INTO base FROM pg_type y WHERE y.oid = type AND y.typtype = 'd';
        EXIT WHEN NOT FOUND;
        type := base;
    END LOOP;
    type_name := format_type(type, -1);
    -- The usual types have the operators of these names; looking them up would take half of all the time here.
    symbol := CASE WHEN type IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'text'::regtype, 'varchar'::regtype,
                                 'bool'::regtype, 'uuid'::regtype, 'numeric'::regtype, 'float4'::regtype, 'float8'::regtype,
                                 'date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
        THEN 'OPERATOR(pg_catalog.' || CASE operator WHEN 'in' THEN '=' WHEN 'not in' THEN '<>' ELSE operator END || ')'
        ELSE vectuned._filter_operator(type, operator) END;
    -- Numbers that an integer column cannot hold are compared as what they are.
    digits := CASE type WHEN 'int2'::regtype THEN 4 WHEN 'int4'::regtype THEN 9 WHEN 'int8'::regtype THEN 18 END;
    IF kind <> 'array' THEN
        single := value #>> '{}';
        IF kind = 'number' AND (length(single) > digits OR position('.' IN single) > 0 AND digits > 0) THEN
            single := trim_scale(single::numeric)::text;
            type_name := CASE WHEN vectuned._is_bigint(single::numeric) THEN 'bigint' ELSE 'numeric' END;
        END IF;
        RETURN format('t.%I %s %L::%s', attribute, symbol, single, type_name);
    END IF;
    SELECT array_agg(e.value #>> '{}') FILTER (WHERE e.value <> 'null'), bool_or(e.value = 'null'),
           coalesce(max(jsonb_typeof(e.value)) FILTER (WHERE jsonb_typeof(e.value) IN ('object', 'array')), ''),
           digits > 0 AND bool_or(jsonb_typeof(e.value) = 'number' AND (length(e.value #>> '{}') > digits
                                                                        OR position('.' IN e.value #>> '{}') > 0))
    INTO items, has_null, kind, large
    FROM jsonb_array_elements(value) e;
    IF kind <> '' THEN
        RAISE EXCEPTION 'the list of the filter on column "%" holds an %', attribute, kind
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Lists hold numbers, texts, true, false and null.';
    END IF;
    IF large THEN
        SELECT array_agg(CASE jsonb_typeof(e.value) WHEN 'number' THEN trim_scale((e.value)::numeric)::text
                                                    ELSE e.value #>> '{}' END),
               CASE WHEN bool_and(vectuned._is_bigint((e.value)::numeric))
                        FILTER (WHERE jsonb_typeof(e.value) = 'number') THEN 'bigint' ELSE 'numeric' END
        INTO items, type_name
        FROM jsonb_array_elements(value) e WHERE e.value <> 'null';
    END IF;
    test := format('t.%I %s %s (%L::%s[])', attribute, symbol, CASE operator WHEN 'in' THEN 'ANY' ELSE 'ALL' END,
                   coalesce(items, '{}')::text, type_name);
    IF has_null THEN
        test := CASE operator WHEN 'in' THEN format('(%s OR t.%I IS NULL)', test, attribute)
                              ELSE format('(%s AND t.%I IS NOT NULL)', test, attribute) END;
    END IF;
    RETURN test;
END
$$;

CREATE OR REPLACE FUNCTION vectuned._is_bigint(value numeric) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN value = trunc(value) AND value BETWEEN -9223372036854775808 AND 9223372036854775807;

-- The operator of a comparison for a type, written out with its schema, from the type's default B-tree class.
CREATE OR REPLACE FUNCTION vectuned._filter_operator(type oid, operator text) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    base oid := type;
    kind "char";
    strategy int := CASE operator WHEN '<' THEN 1 WHEN '<=' THEN 2 WHEN '>=' THEN 4 WHEN '>' THEN 5 ELSE 3 END;
    symbol text;
BEGIN
    LOOP
        SELECT y.typtype, CASE y.typtype WHEN 'd' THEN y.typbasetype ELSE base END INTO kind, base
        FROM pg_type y WHERE y.oid = base;
        EXIT WHEN kind IS DISTINCT FROM 'd';
    END LOOP;
    IF operator IN ('<>', 'not in') THEN
        SELECT format('OPERATOR(%I.%s)', n.nspname, g.oprname) INTO symbol
        FROM pg_opclass c JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
        JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype
                      AND a.amopstrategy = 3
        JOIN pg_operator o ON o.oid = a.amopopr JOIN pg_operator g ON g.oid = o.oprnegate
        JOIN pg_namespace n ON n.oid = g.oprnamespace
        WHERE c.opcdefault AND c.opcintype = CASE WHEN kind = 'e' THEN 'anyenum'::regtype
                                                  WHEN base = 'varchar'::regtype THEN 'text'::regtype ELSE base END;
    ELSE
        SELECT format('OPERATOR(%I.%s)', n.nspname, o.oprname) INTO symbol
        FROM pg_opclass c JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
        JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amoplefttype = c.opcintype AND a.amoprighttype = c.opcintype
                      AND a.amopstrategy = strategy
        JOIN pg_operator o ON o.oid = a.amopopr JOIN pg_namespace n ON n.oid = o.oprnamespace
        WHERE c.opcdefault AND c.opcintype = CASE WHEN kind = 'e' THEN 'anyenum'::regtype
                                                  WHEN base = 'varchar'::regtype THEN 'text'::regtype ELSE base END;
    END IF;
    IF symbol IS NULL THEN
        RAISE EXCEPTION 'values of type % cannot be compared in a filter', format_type(type, -1)
            USING ERRCODE = 'feature_not_supported';
    END IF;
    RETURN symbol;
END
$$;

-- The share of rows that a comparison leaves; a tenth where nothing is known.
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
    below float8;
    spelled boolean;
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
        below := coalesce(vectuned._common_share(common, value #>> '{}'), other_fraction);
        RETURN CASE operator WHEN '=' THEN below ELSE greatest(1 - null_fraction - below, 0) END;
    ELSIF operator IN ('in', 'not in') THEN
        spelled := common <> '{}' AND jsonb_array_length(value) <= 100;
        SELECT least(coalesce(sum(CASE WHEN e.value = 'null' THEN null_fraction
                              WHEN spelled THEN coalesce(vectuned._common_share(common, e.value #>> '{}'), other_fraction)
                              ELSE coalesce((common ->> (e.value #>> '{}'))::float8, other_fraction) END), 0), 1)
        INTO below FROM (SELECT DISTINCT x.value FROM jsonb_array_elements(value) x) e;
        RETURN CASE operator WHEN 'in' THEN below ELSE greatest(1 - null_fraction - below, 0) END;
    END IF;
    number := vectuned._filter_number(value #>> '{}');
    IF number IS NULL OR (bounds IS NULL AND common = '{}') THEN
        RETURN (1 - null_fraction) / 3;
    END IF;
    SELECT coalesce(sum(e.value::float8), 0),
           coalesce(sum(e.value::float8) FILTER (WHERE CASE operator
               WHEN '<' THEN e.number < number WHEN '<=' THEN e.number <= number
               WHEN '>' THEN e.number > number ELSE e.number >= number END), 0)
    INTO listed, below
    FROM (SELECT x.value, CASE WHEN length(x.key) < 200 AND x.key ~ '^[-+]?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9][0-9]?)?$'
                 THEN x.key::float8 END AS number
          FROM jsonb_each_text(common) x) e;
    rest := greatest(1 - null_fraction - listed, 0);
    IF bounds IS NULL THEN
        RETURN below + rest / 3;
    END IF;
    share := width_bucket(number, bounds) / cardinality(bounds)::float8;
    RETURN below + rest * CASE WHEN operator IN ('<', '<=') THEN share ELSE 1 - share END;
END
$$;

-- A value as a number on the axis of the published histograms: numbers themselves, dates and times in seconds.
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

-- The share of a common value, NULL if it is none. Numbers and dates may be written in several ways; the common
-- ones that are not plain integers are kept as _filter_number has them.
CREATE OR REPLACE FUNCTION vectuned._common_share(common jsonb, value text) RETURNS float8
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(
    (common ->> value)::pg_catalog.float8,
    CASE WHEN value OPERATOR(pg_catalog.~) '^(\d{4}-\d\d-\d\d|[-+]?\d+[.eE])'
        THEN (common ->> vectuned._filter_number(value)::pg_catalog.text)::pg_catalog.float8 END);

-- Half-octaves of the share of rows that match, from 0 (more than 0.7) to 39. learning/filtering.py has the same.
CREATE OR REPLACE FUNCTION vectuned._filter_bucket(fraction float8) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN fraction <= 0 THEN 39
            ELSE least(greatest(pg_catalog.floor(-2 * pg_catalog.ln(fraction) / pg_catalog.ln(2::float8)), 0), 39)::int END;

-- The cheapest of the proven ways to answer a filter, a partial index that is proven to be cheaper than exact search
-- before all others. No row where nothing was learned of such filters.
CREATE OR REPLACE FUNCTION vectuned._served_path(
    p_column_id int, p_k_class int, filter jsonb, p_shape text, fraction float8)
RETURNS TABLE (access_path text, index_no int, effort int, expected_recall float8, recall_bound float8, ms float8, samples int)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT p.access_path, p.index_no, p.effort, p.expected_recall, p.recall_bound, p.ms, p.samples
    FROM vectuned.measured_path p
    WHERE p.column_id = p_column_id AND p.k_class = p_k_class AND p.serves AND p.shape = p_shape
      AND p.bucket = vectuned._filter_bucket(fraction / p.share) AND (p.requires IS NULL OR filter @> p.requires)
    ORDER BY p.requires IS NULL, p.ms LIMIT 1;
END;

-- What serves a filter that nothing was learned of: exact search up to 10,000 rows, else the column's index, with
-- three times the effort at which k rows would match were filter and query unrelated.
CREATE OR REPLACE FUNCTION vectuned._filtered_default(
    fraction float8, relation regclass, k int, default_ef int, default_probes int,
    OUT access_path text, OUT effort int)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rows float8;
BEGIN
    access_path := 'exact';
    SELECT r.reltuples INTO rows FROM pg_class r WHERE r.oid = relation;
    IF rows < 0 THEN
        -- Never analyzed; of a partitioned table only its parts are, unless somebody asks for it.
        SELECT sum(greatest(r.reltuples, 0)) INTO rows
        FROM pg_partition_tree(relation) t JOIN pg_class r ON r.oid = t.relid WHERE t.isleaf;
    END IF;
    IF fraction <= 0 OR fraction * coalesce(rows, 0) <= 10000 THEN
        RETURN;
    END IF;
    IF default_probes IS NULL THEN
        access_path := 'hnsw';
        effort := greatest(default_ef, least(ceil(3 * k / fraction), 1000)::int);
    ELSE
        access_path := 'ivfflat';
        effort := 3 * default_probes;
    END IF;
END
$$;

-- Takes over what ANALYZE knows of the columns of a tuned table. It asks for no right to read what is known of others.
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
