-- vectuned.search: finds the generated functions of a column and calls one of them.

-- The comparisons of a value, by default the relation, that lead to the branches of the keys from first to last, which are in
-- ascending order.
CREATE OR REPLACE FUNCTION vectuned._dispatch_tree(keys oid[], branches text[], first int, last int, value text DEFAULT 'relation')
RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    middle constant int := (first + last + 1) / 2;
BEGIN
    IF (first < last) IS NOT TRUE THEN
        RETURN branches[first];
    END IF;
    RETURN format(E'IF %s OPERATOR(pg_catalog.<) %L::pg_catalog.oid THEN\n%s\nELSE\n%s\nEND IF;', value, keys[middle],
                  vectuned._dispatch_tree(keys, branches, first, middle - 1, value),
                  vectuned._dispatch_tree(keys, branches, middle, last, value));
END
$$;

-- The part of a table's columns, where they are divided: a hash, because oids come in steps. vectuned.search has the same.
CREATE OR REPLACE FUNCTION vectuned._dispatch_part(p_relation oid) RETURNS oid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN hashoid(p_relation) & 63;

-- The comparisons that lead to the columns of one part, or of all: NULL if there are none. They also compare the names of the
-- table and its columns, because the functions hold them: they may have been renamed, and after a restore the oid may belong to
-- another table. (1259 is pg_class.)
CREATE OR REPLACE FUNCTION vectuned._dispatch_columns(p_part oid DEFAULT NULL) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT vectuned._dispatch_tree(array_agg(l.relation ORDER BY l.relation), array_agg(l.branches ORDER BY l.relation),
                                   1, count(*)::int)
    FROM (
        SELECT c.relation::oid AS relation, string_agg(format(
            'IF relation OPERATOR(pg_catalog.=) %1$L::pg_catalog.oid AND (%2$scolumn_name OPERATOR(pg_catalog.=) %3$L) '
            'AND k OPERATOR(pg_catalog.>=) 1 AND k OPERATOR(pg_catalog.<=) 1000 '
            'AND @extschema@.vector_dims(query) OPERATOR(pg_catalog.=) %4$s AND %5$s AND ', c.relation::oid,
            CASE WHEN c.alone THEN 'column_name IS NULL OR ' ELSE '' END, c.column_name, c.dimensions, n.names)
            || format(
                'skip IS NULL AND max_distance IS NULL '
                'THEN IF filter IS NULL THEN RETURN QUERY SELECT s.* FROM vectuned.%I(query, k::pg_catalog.int4) s; '
                'ELSE RETURN QUERY SELECT s.* FROM vectuned.%I(query, k::pg_catalog.int4, filter) s; END IF; RETURN; END IF;',
                '_search_' || c.id, '_filtered_' || c.id), E'\n' ORDER BY c.id) AS branches
        FROM (SELECT t.*, count(*) OVER (PARTITION BY t.relation) = 1 AS alone
              FROM vectuned.tuned_column t
              WHERE t.missing_since IS NULL AND (p_part IS NULL OR vectuned._dispatch_part(t.relation) = p_part)) c
        CROSS JOIN LATERAL (
            SELECT string_agg(format('(pg_catalog.pg_identify_object_as_address(1259, %s, %s)).object_names '
                                     'OPERATOR(pg_catalog.=) %L::pg_catalog.text[]', a.attrelid, a.attnum,
                                     ARRAY[c.relation_schema::text, c.relation_name, a.attname]), ' AND ' ORDER BY a.attnum) AS names
            FROM pg_attribute a
            WHERE a.attrelid = c.relation AND NOT a.attisdropped AND a.attname = ANY (c.column_name || c.key_columns)) n
        WHERE n.names IS NOT NULL
        GROUP BY c.relation) l
$$;

-- Creates vectuned.search, or part p_part of it, from its comparisons. All calls that these do not cover go to
-- _search_fallback, which has the error messages. They set no search_path: the functions find the caller's as their default
-- argument, and every name is qualified. It runs as _generate_dispatch, with the owner's rights.
CREATE OR REPLACE FUNCTION vectuned._create_dispatch(p_comparisons text, p_part int DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name constant text := coalesce('_dispatch_' || p_part, 'search');
BEGIN
    EXECUTE format($search$
CREATE OR REPLACE FUNCTION vectuned.%I(
    relation regclass, query @extschema@.vector, k bigint DEFAULT 10, filter jsonb DEFAULT NULL,
    column_name name DEFAULT NULL, skip bigint DEFAULT NULL, max_distance float8 DEFAULT NULL)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 10
AS %L
$search$, name, format($body$
#variable_conflict use_variable
BEGIN
    %s
    IF skip IS NULL AND max_distance IS NULL THEN
        RETURN QUERY SELECT f.* FROM vectuned._search_fallback(relation, query, k, filter, column_name) f;
    ELSE
        RETURN QUERY SELECT p.* FROM vectuned._search_page(relation, query, k, filter, column_name, skip, max_distance) p;
    END IF;
END
$body$, coalesce(p_comparisons, 'NULL;')));
    IF p_part IS NOT NULL THEN
        EXECUTE format('GRANT EXECUTE ON FUNCTION vectuned.%I TO PUBLIC', name);
    END IF;
END
$$;

-- Generates vectuned.search: a binary tree of comparisons with constants is the fastest dispatch from a relation to its
-- function. Up to 64 columns are compared in it. More are divided by a hash of their tables among 64 functions, _dispatch_0 to
-- _dispatch_63, which are trees as well: enabling a column then replaces one of them, and sessions read only the ones that they
-- use. p_relations: the tables whose columns have changed; NULL for all.
CREATE OR REPLACE FUNCTION vectuned._generate_dispatch(p_relations oid[] DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    divided constant boolean := (SELECT count(*) > 64 FROM vectuned.tuned_column c WHERE c.missing_since IS NULL);
    was_divided constant boolean := EXISTS (
        SELECT FROM pg_proc p WHERE p.pronamespace = 'vectuned'::regnamespace AND p.proname = '_dispatch_0');
    part int;
    former regprocedure;
BEGIN
    FOR part IN
        SELECT n FROM generate_series(0, 63) n
        WHERE divided AND (p_relations IS NULL OR NOT was_divided
                           OR n IN (SELECT vectuned._dispatch_part(r) FROM unnest(p_relations) r))
    LOOP
        PERFORM vectuned._create_dispatch(vectuned._dispatch_columns(part), part);
    END LOOP;
    IF NOT divided THEN
        PERFORM vectuned._create_dispatch(vectuned._dispatch_columns());
    ELSIF p_relations IS NULL OR NOT was_divided THEN
        PERFORM vectuned._create_dispatch((
            SELECT vectuned._dispatch_tree(
                array_agg(n::oid ORDER BY n),
                array_agg(format('RETURN QUERY SELECT d.* FROM vectuned.%I(relation, query, k, filter, column_name, skip, '
                                 'max_distance) d; RETURN;', '_dispatch_' || n) ORDER BY n),
                1, 64, '(pg_catalog.hashoid(relation) OPERATOR(pg_catalog.&) 63)::pg_catalog.oid')
            FROM generate_series(0, 63) n));
    END IF;
    FOR former IN
        SELECT p.oid FROM pg_proc p
        WHERE NOT divided AND p.pronamespace = 'vectuned'::regnamespace AND p.proname ~ '^_dispatch_[0-9]+$'
    LOOP
        EXECUTE format('DROP FUNCTION %s', former);
    END LOOP;
END
$$;
