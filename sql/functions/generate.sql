-- Makes the static function of a column, and the dispatcher over all of them.

-- SQL for parts of a column's statements; t is the table, query_text how the query vector is written there.
CREATE OR REPLACE FUNCTION vectuned._fragments(
    c vectuned.tuned_column, query_text text DEFAULT '$1',
    OUT relation text, OUT key text, OUT distance text, OUT present text, OUT exact text, OUT type text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    SELECT format('%I.%I', n.nspname, r.relname) INTO relation
    FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace WHERE r.oid = c.relation;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the table of tuned column % no longer exists', c.id
            USING ERRCODE = 'undefined_table';
    END IF;
    key := CASE cardinality(c.key_columns)
        WHEN 1 THEN format('t.%I::text', c.key_columns[1])
        ELSE (SELECT 'jsonb_build_array(' || string_agg(format('t.%I', u.name), ', ' ORDER BY u.place) || ')::text'
              FROM unnest(c.key_columns) WITH ORDINALITY AS u (name, place)) END;
    type := format('@extschema@.%s', c.vector_type);
    distance := format('t.%I OPERATOR(@extschema@.%s) %s', c.column_name,
                       CASE c.metric WHEN 'cosine' THEN '<=>' WHEN 'l2' THEN '<->' ELSE '<#>' END,
                       CASE query_text WHEN '$1' THEN format('$1::%s', type) ELSE query_text END);
    present := format('t.%I IS NOT NULL', c.column_name);
    -- A zero vector has no cosine distance and is in no cosine index.
    exact := present || CASE c.metric WHEN 'cosine' THEN format(
        ' AND @extschema@.%s(t.%I) > 0', CASE c.vector_type WHEN 'vector' THEN 'vector_norm' ELSE 'l2_norm' END,
        c.column_name) ELSE '' END;
END
$$;

CREATE OR REPLACE FUNCTION vectuned._generate(column_id int) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c vectuned.tuned_column;
    f record;
    body text := vectuned._search_template();
    token record;
BEGIN
    SELECT * INTO STRICT c FROM vectuned.tuned_column t WHERE t.id = column_id;
    SELECT * INTO f FROM vectuned._fragments(c, 'q');
    PERFORM '[1]'::@extschema@.vector;
    FOR token IN
        SELECT * FROM (VALUES
            ('name', quote_ident('_search_' || c.id)), ('id', c.id::text), ('type', f.type),
            ('relation_literal', quote_literal(f.relation)), ('relation', f.relation), ('key', f.key),
            ('distance', f.distance), ('present', f.present), ('exact', f.exact),
            ('index_oid', c.index_relation::oid::text), ('default_ef', c.default_ef::text),
            ('sample_rate', CASE WHEN c.enabled THEN c.sample_rate ELSE 0 END::text)
        ) AS v (name, value)
    LOOP
        IF position('$search$' IN token.value) > 0 THEN
            RAISE EXCEPTION 'a name of tuned column % holds the text $search$', c.id
                USING ERRCODE = 'invalid_name', HINT = 'Rename the table or column.';
        END IF;
        body := replace(body, '{' || token.name || '}', token.value);
    END LOOP;
    EXECUTE body;
    EXECUTE format('GRANT EXECUTE ON FUNCTION vectuned.%I TO PUBLIC', '_search_' || c.id);
END
$$;

-- A chain of comparisons with constants is the quickest way from a relation to its function; whatever it does
-- not know (bad input, a restored dump whose oids changed) goes the long way, which has the error messages.
CREATE OR REPLACE FUNCTION vectuned._generate_dispatch() RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    branches text;
BEGIN
    SELECT string_agg(format(
        'IF relation = %s AND (%scolumn_name = %L) AND @extschema@.vector_dims(query) = %s THEN '
        'RETURN QUERY SELECT * FROM vectuned.%I(query, k); RETURN; END IF;',
        c.relation::oid, CASE WHEN c.alone THEN 'column_name IS NULL OR ' ELSE '' END,
        c.column_name, c.dimensions, '_search_' || c.id), E'\n        ' ORDER BY c.id)
    INTO branches
    FROM (SELECT t.*, count(*) OVER (PARTITION BY t.relation) = 1 AS alone FROM vectuned.tuned_column t) c;

    EXECUTE format($search$
CREATE OR REPLACE FUNCTION vectuned.search(
    relation regclass, query @extschema@.vector, k int DEFAULT 10, filter jsonb DEFAULT NULL,
    column_name name DEFAULT NULL)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
AS $body$
#variable_conflict use_variable
BEGIN
    IF query IS NOT NULL AND k BETWEEN 1 AND 1000 AND filter IS NULL THEN
        %s
    END IF;
    RETURN QUERY EXECUTE format('SELECT * FROM vectuned.%%I($1, $2)',
        vectuned._search_function(relation, query, k, filter, column_name)) USING query, k;
END
$body$
$search$, coalesce(branches, 'NULL;'));
END
$$;

-- The name of the function that answers a search, after every argument was checked.
CREATE OR REPLACE FUNCTION vectuned._search_function(
    relation regclass, query @extschema@.vector, k int, filter jsonb, column_name name)
RETURNS name
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c vectuned.tuned_column := vectuned._tuned_column(relation, column_name);
BEGIN
    PERFORM vectuned._check_query(c, query, k);
    IF filter IS NOT NULL THEN
        RAISE EXCEPTION 'this version of vectuned.search takes no filter yet'
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Write the WHERE clause yourself and take the effort from vectuned.apply.';
    END IF;
    RETURN '_search_' || c.id;
END
$$;

CREATE OR REPLACE FUNCTION vectuned._check_query(c vectuned.tuned_column, query @extschema@.vector, k int)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF query IS NULL THEN
        RAISE EXCEPTION 'the query vector for %.% is NULL', c.relation, c.column_name
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF k IS NULL OR k NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'k must be between 1 and 1000, got %', coalesce(k::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF @extschema@.vector_dims(query) <> c.dimensions THEN
        RAISE EXCEPTION 'the query vector has % dimensions, %.% has %', @extschema@.vector_dims(query),
            c.relation, c.column_name, c.dimensions
            USING ERRCODE = 'data_exception';
    END IF;
END
$$;

-- Brings every generated function up to date, after an upgrade or a restore.
CREATE OR REPLACE FUNCTION vectuned._generate_all() RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned._generate(c.id) FROM vectuned.tuned_column c
    WHERE EXISTS (SELECT FROM pg_class r WHERE r.oid = c.relation);
    PERFORM vectuned._generate_dispatch();
END
$$;
