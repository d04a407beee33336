-- vectuned.search: finds the generated function of a column and calls it.

-- Generates vectuned.search: a chain of comparisons with constants, which is the fastest dispatch from a relation to its
-- function. It compares the table's name as well as its oid, because the functions hold the name: the table may have been
-- renamed, and after a restore the oid may belong to another table. All other calls go to _search_fallback, which has
-- the error messages.
CREATE OR REPLACE FUNCTION vectuned._generate_dispatch() RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    branches text;
BEGIN
    SELECT string_agg(format(
        'IF relation = %s AND (%scolumn_name = %L) AND k BETWEEN 1 AND 1000 AND @extschema@.vector_dims(query) = %s '
        'AND to_regclass(%L) = relation THEN IF filter IS NULL THEN RETURN QUERY SELECT * FROM vectuned.%I(query, k); '
        'ELSE RETURN QUERY SELECT * FROM vectuned.%I(query, k, filter); END IF; RETURN; END IF;',
        c.relation::oid, CASE WHEN c.alone THEN 'column_name IS NULL OR ' ELSE '' END,
        c.column_name, c.dimensions, format('%I.%I', n.nspname, r.relname), '_search_' || c.id,
        '_filtered_' || c.id),
        E'\n    ' ORDER BY c.id)
    INTO branches
    FROM (SELECT t.*, count(*) OVER (PARTITION BY t.relation) = 1 AS alone FROM vectuned.tuned_column t) c
    JOIN pg_class r ON r.oid = c.relation
    JOIN pg_namespace n ON n.oid = r.relnamespace;

    EXECUTE format($search$
CREATE OR REPLACE FUNCTION vectuned.search(
    relation regclass, query @extschema@.vector, k int DEFAULT 10, filter jsonb DEFAULT NULL,
    column_name name DEFAULT NULL)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
AS %L
$search$, format($body$
#variable_conflict use_variable
BEGIN
    %s
    RETURN QUERY SELECT * FROM vectuned._search_fallback(relation, query, k, filter, column_name);
END
$body$, coalesce(branches, 'NULL;')));
END
$$;

-- The slow path of a search: checks every argument and calls the generated function. If that no longer fits, because the
-- table was renamed or its column altered, it builds the statements itself, and records nothing.
CREATE OR REPLACE FUNCTION vectuned._search_fallback(
    relation regclass, query @extschema@.vector, k int, filter jsonb, column_name name)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
SET enable_sort = off
SET jit = off
SET hnsw.iterative_scan = off
SET hnsw.ef_search = 40
AS $$
#variable_conflict use_variable
DECLARE
    generated name := vectuned._search_function(relation, query, k, filter, column_name);
    c vectuned.tuned_column;
    f record;
    condition text;
    found_ids text[];
    found_distances float8[];
BEGIN
    c := vectuned._tuned_column(relation, column_name);
    IF generated IS NOT NULL THEN
        IF filter IS NULL THEN
            RETURN QUERY EXECUTE format('SELECT * FROM vectuned.%I($1, $2)', generated) USING query, k;
        ELSE
            RETURN QUERY EXECUTE format('SELECT * FROM vectuned.%I($1, $2, $3)', '_filtered_' || c.id)
                USING query, k, filter;
        END IF;
        RETURN;
    END IF;
    SELECT * INTO f FROM vectuned._fragments(c);
    IF filter IS NOT NULL THEN
        SELECT m.condition INTO condition FROM vectuned._compile_filter(c.id, relation, filter) m;
    END IF;
    IF condition IS NULL THEN
        PERFORM set_config('hnsw.ef_search', least(greatest(coalesce(
            (SELECT b.ef_search FROM vectuned.bank b WHERE b.column_id = c.id AND b.k_class = vectuned._k_class(k)),
            c.default_ef), k), 1000)::text, true);
        EXECUTE format('SELECT array_agg(n.id), array_agg(n.distance) '
                       'FROM (SELECT %s AS id, %s AS distance FROM %s t WHERE %s ORDER BY %2$s LIMIT $2) n',
                       f.key, f.distance, f.relation, f.present)
        INTO found_ids, found_distances USING query, k;
    END IF;
    IF coalesce(cardinality(found_ids), 0) < k OR found_distances[k] = 'NaN' THEN
        PERFORM set_config('enable_sort', 'on', true);
        BEGIN
            EXECUTE f.every_head || coalesce(condition, 'true') || f.every_tail
            INTO found_ids, found_distances USING query, k;
        EXCEPTION WHEN data_exception THEN
            RAISE EXCEPTION '% of %: %', CASE WHEN condition IS NULL THEN 'the query does not fit the column'
                ELSE 'the filter does not fit the columns' END, f.relation, SQLERRM USING ERRCODE = SQLSTATE;
        END;
    END IF;
    query_id := vectuned._query_id(false);
    RETURN QUERY SELECT u.id, u.distance, query_id FROM unnest(found_ids, found_distances) AS u (id, distance);
END
$$;

-- Checks every argument and returns the name of the generated function; NULL if the function no longer fits the table.
CREATE OR REPLACE FUNCTION vectuned._search_function(
    relation regclass, query @extschema@.vector, k int, filter jsonb, column_name name)
RETURNS name
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c vectuned.tuned_column := vectuned._tuned_column(relation, column_name);
    generated name := '_search_' || c.id;
BEGIN
    PERFORM vectuned._check_query(c, query, k);
    RETURN (
        SELECT generated FROM pg_proc p JOIN pg_description d ON d.objoid = p.oid AND d.classoid = 'pg_proc'::regclass
        WHERE p.pronamespace = 'vectuned'::regnamespace AND p.proname = generated
          AND d.description = (vectuned._fragments(c, 'q')).meaning);
END
$$;

-- Raises an error for an unusable query vector or k.
CREATE OR REPLACE FUNCTION vectuned._check_query(c vectuned.tuned_column, query @extschema@.vector, k int)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    dimensions int;
BEGIN
    IF query IS NULL THEN
        RAISE EXCEPTION 'the query vector for %.% is NULL', c.relation, c.column_name
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF k IS NULL OR k NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'k must be between 1 and 1000, got %', coalesce(k::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    dimensions := (vectuned._fragments(c)).dimensions;
    IF @extschema@.vector_dims(query) <> dimensions THEN
        RAISE EXCEPTION 'the query vector has % dimensions, %.% has %', @extschema@.vector_dims(query),
            c.relation, c.column_name, dimensions
            USING ERRCODE = 'data_exception';
    END IF;
    IF c.metric = 'cosine' AND @extschema@.vector_norm(query) = 0 THEN
        RAISE EXCEPTION 'the query vector for %.% is zero and has no cosine distance', c.relation, c.column_name
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;

-- vectuned.search with whole rows as the result, nearest first.
CREATE OR REPLACE FUNCTION vectuned.search_rows(
    row_type anyelement, query @extschema@.vector, k int DEFAULT 10, filter jsonb DEFAULT NULL,
    column_name name DEFAULT NULL)
RETURNS SETOF anyelement
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    relation regclass := (SELECT t.typrelid FROM pg_type t WHERE t.oid = pg_typeof(row_type) AND t.typrelid <> 0);
    c vectuned.tuned_column;
    keys text;
BEGIN
    IF relation IS NULL THEN
        RAISE EXCEPTION 'search_rows takes a row of a table, got %', pg_typeof(row_type)
            USING ERRCODE = 'datatype_mismatch', HINT = 'SELECT * FROM vectuned.search_rows(NULL::items, ...)';
    END IF;
    c := vectuned._tuned_column(relation, column_name);
    SELECT string_agg(format(
               CASE cardinality(c.key_columns)
                   WHEN 1 THEN 't.%1$I = s.id::%2$s'
                   ELSE 't.%1$I = (s.id::jsonb ->> %3$s)::%2$s' END,
               a.attname, format_type(a.atttypid, -1), u.place - 1), ' AND ')
    INTO keys
    FROM unnest(c.key_columns) WITH ORDINALITY AS u (name, place)
    JOIN pg_attribute a ON a.attrelid = c.relation AND a.attname = u.name;
    RETURN QUERY EXECUTE format(
        'SELECT t.* FROM vectuned.search($1, $2, $3, $4, $5) WITH ORDINALITY AS s (id, distance, query_id, place) '
        'JOIN %s t ON %s ORDER BY s.place',
        (SELECT f.relation FROM vectuned._fragments(c) f), keys)
        USING relation, query, k, filter, c.column_name;
END
$$;
