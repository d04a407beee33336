-- The filter language of searches: {"tenant": 5, "kind": ["a", "b"], "price": {"<": 10}, "deleted": null}.
-- All conditions must hold (AND). A value means equality, a list means any of its elements, null means IS NULL, and an
-- object holds comparisons by =, <>, <, <=, >, >=, in and "not in".

-- Compiles a filter to SQL.
-- condition: over the table t, with quoted identifiers and typed literals; NULL if every row matches.
-- shape: columns and operators without the values, equal for filters of the same kind.
-- fraction: selectivity, the share of rows that match by the planner's statistics, taking conditions as independent.
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
    simple boolean;
BEGIN
    IF jsonb_typeof(filter) <> 'object' THEN
        RAISE EXCEPTION 'a filter must be a JSON object of columns and what they must be, got %', jsonb_typeof(filter)
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For example {"tenant": 5, "price": {"<": 10}}.';
    END IF;
    -- Most filters consist of equalities on columns of common types: one statement compiles them all. The previous search
    -- has evicted this code from the processor's caches, so each further statement costs several times its warm time.
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
        simple := entry.type IS NOT NULL;
        EXIT WHEN NOT simple;
        condition := concat_ws(' AND ', condition, format('t.%I OPERATOR(pg_catalog.=) %L::%s', entry.attname, entry.value, entry.type));
        shape := concat_ws(', ', shape, entry.key || ' =');
        fraction := fraction * entry.share;
    END LOOP;
    IF simple THEN
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
            RAISE EXCEPTION 'the filter has no condition on column "%"', entry.key
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Write {"<": 10}, for example, or leave the column out.';
        END IF;
    END LOOP;
    condition := nullif(array_to_string(parts, ' AND '), '');
    shape := array_to_string(shapes, ', ');
END
$$;

-- One comparison as SQL. Each type is compared by its own equality (citext ignores case, for example), not by that of text.
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
    -- Compare by the base type: a value outside the domain is no error, no row equals it.
    WHILE type >= 10000 LOOP
        SELECT y.typbasetype INTO base FROM pg_type y WHERE y.oid = type AND y.typtype = 'd';
        EXIT WHEN NOT FOUND;
        type := base;
    END LOOP;
    type_name := format_type(type, -1);
    -- Common types have operators of these names in pg_catalog; looking them up would double the time of this function.
    symbol := CASE WHEN type IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'text'::regtype, 'varchar'::regtype,
                                 'bool'::regtype, 'uuid'::regtype, 'numeric'::regtype, 'float4'::regtype, 'float8'::regtype,
                                 'date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype)
        THEN 'OPERATOR(pg_catalog.' || CASE operator WHEN 'in' THEN '=' WHEN 'not in' THEN '<>' ELSE operator END || ')'
        ELSE vectuned._filter_operator(type, operator) END;
    -- Numbers that an integer column cannot hold are compared as bigint or numeric.
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

-- The operator of a comparison for a type, qualified with its schema, from the type's default B-tree operator class.
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
