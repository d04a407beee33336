-- The slow path of vectuned.search, for calls that no generated function fits, and vectuned.search_rows.

-- The slow path of a search: checks every argument and calls the generated function. If that no longer fits the table,
-- _search_changed answers.
CREATE OR REPLACE FUNCTION vectuned._search_fallback(
    relation regclass, query @extschema@.vector, k bigint, filter jsonb, column_name name,
    caller_path text DEFAULT pg_catalog.current_setting('search_path'))
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    generated name := vectuned._search_function(relation, query, k, filter, column_name);
    c vectuned.tuned_column := vectuned._tuned_column(relation, column_name);
BEGIN
    IF generated IS NULL THEN
        RETURN QUERY SELECT f.* FROM vectuned._search_changed(c.id, query, k::int, filter, caller_path) f;
    ELSIF filter IS NULL THEN
        RETURN QUERY EXECUTE format('SELECT * FROM vectuned.%I($1, $2, $3)', generated) USING query, k::int, caller_path;
    ELSE
        RETURN QUERY EXECUTE format('SELECT * FROM vectuned.%I($1, $2, $3, $4)', '_filtered_' || c.id)
            USING query, k::int, filter, caller_path;
    END IF;
END
$$;

-- The index that searches use while the generated functions do not fit: the main index, or the best one that the catalogs
-- have; no row if there is none over all rows.
CREATE OR REPLACE FUNCTION vectuned._present_index(c vectuned.tuned_column) RETURNS SETOF vectuned.tuned_index
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.id, coalesce(t.index_no, 0), v.index_relation, v.method, v.form, v.marker, v.requires, 1::float8, v.lists
    FROM vectuned._vector_indexes(c.relation, c.column_name)
        WITH ORDINALITY AS v (index_relation, method, form, metric, marker, requires, lists, place)
    LEFT JOIN vectuned.tuned_index t ON t.column_id = c.id AND t.index_relation = v.index_relation
    WHERE v.requires IS NULL AND (v.metric = c.metric OR v.form = 'bits')
    ORDER BY v.index_relation <> c.index_relation, v.place LIMIT 1
$$;

-- The effort of a search through that index: what was learned about it, without effort by query, or the default; of a filtered
-- search, which has a fraction, the default. Both are NULL where the search is exact. exact: no setting of the index was found
-- to reach the target, so exact search serves if there is time for it.
CREATE OR REPLACE FUNCTION vectuned._present_effort(
    c vectuned.tuned_column, i vectuned.tuned_index, k int, fraction float8, OUT ef_search int, OUT probes int, OUT exact boolean)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    learned record;
    filtered record;
BEGIN
    SELECT b.ef_search, b.probes, b.access_path INTO learned FROM vectuned.bank b
    WHERE b.column_id = c.id AND b.k_class = vectuned._k_class(k) AND (i.method = 'hnsw') = (b.probes IS NULL) AND i.index_no > 0
      AND CASE WHEN b.index_no IS NULL THEN i.index_relation = c.index_relation ELSE b.index_no = i.index_no END;
    IF i.method = 'hnsw' THEN
        ef_search := least(greatest(coalesce(learned.ef_search, c.default_ef), k), 1000);
    ELSIF i.method = 'ivfflat' THEN
        probes := coalesce(learned.probes, least(greatest(c.default_probes, ceil(sqrt(i.lists))::int), i.lists));
    END IF;
    exact := fraction IS NULL AND learned.access_path IS NOT DISTINCT FROM 'exact';
    IF fraction IS NOT NULL THEN
        SELECT * INTO filtered FROM vectuned._filtered_default(fraction, c.relation, k, ef_search, probes);
        ef_search := CASE WHEN filtered.access_path LIKE 'hnsw%' AND i.method = 'hnsw' THEN filtered.effort END;
        probes := CASE WHEN filtered.access_path = 'ivfflat' AND i.method = 'ivfflat' THEN filtered.effort END;
    END IF;
END
$$;

-- Searches a column whose table, column or main index has changed, until a refresh generates functions that fit: it looks up
-- the present names, and puts the statements together. It records nothing.
CREATE OR REPLACE FUNCTION vectuned._search_changed(
    p_column_id int, query @extschema@.vector, k int, filter jsonb, caller_path text)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
SET enable_sort = off
SET jit = off
SET hnsw.iterative_scan = off
SET hnsw.ef_search = 1000
SET hnsw.max_scan_tuples = 20000
SET ivfflat.probes = 32768
AS $$
#variable_conflict use_variable
DECLARE
    c vectuned.tuned_column := (SELECT vectuned._live(t) FROM vectuned.tuned_column t WHERE t.id = p_column_id);
    i vectuned.tuned_index;
    f record;
    s record;
    effort record;
    condition text;
    fraction float8;
    page_costs text[];
    found_ids text[];
    found_distances float8[];
    answered boolean := false;
BEGIN
    SELECT * INTO f FROM vectuned._fragments(c);
    IF filter IS NOT NULL THEN
        SELECT m.condition, m.fraction INTO condition, fraction FROM vectuned._compile_filter(c.id, c.relation, filter) m;
    END IF;
    SELECT * INTO i FROM vectuned._present_index(c);
    SELECT * INTO s FROM vectuned._filtered_statement(c, i) WHERE i.index_relation IS NOT NULL;
    SELECT * INTO effort FROM vectuned._present_effort(c, i, k, CASE WHEN condition IS NOT NULL THEN fraction END);
    IF effort.exact AND condition IS NULL AND vectuned._has_time() THEN
        BEGIN
            PERFORM set_config('enable_sort', 'on', true), set_config('search_path', caller_path, true);
            EXECUTE pg_catalog.concat(f.every_head, 'true', f.every_tail) INTO found_ids, found_distances USING query, k;
            query_id := vectuned._query_id(false);
            RETURN QUERY SELECT u.id, u.distance, query_id FROM unnest(found_ids, found_distances) AS u (id, distance);
            RETURN;
        EXCEPTION WHEN query_canceled THEN
            IF vectuned._has_time(0.9) THEN  -- it was no timeout
                RAISE;
            END IF;
            PERFORM vectuned._warn_cut_short(f.relation, 0, k);
        END;
    END IF;
    IF num_nonnulls(effort.ef_search, effort.probes) = 1 THEN
        PERFORM set_config(CASE i.method WHEN 'hnsw' THEN 'hnsw.ef_search' ELSE 'ivfflat.probes' END,
                           coalesce(effort.ef_search, effort.probes)::text, true);
        page_costs := vectuned._set_page_costs(CASE WHEN vectuned._has_both_methods(c.relation) THEN '{0,0}'::text[] END);
        PERFORM set_config('search_path', caller_path, true);
        EXECUTE pg_catalog.concat(s.head, CASE WHEN condition IS NULL THEN 'true'
                                          ELSE pg_catalog.format(vectuned._condition_for(i, '%s'), condition) END, s.tail)
        INTO found_ids, found_distances USING query, k, greatest(effort.ef_search, k);
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), vectuned._set_page_costs(page_costs);
        answered := true;
    END IF;
    IF coalesce(cardinality(found_ids), 0) < k OR found_distances[k] = 'NaN' THEN
        IF NOT answered OR vectuned._has_time() THEN
            BEGIN
                PERFORM set_config('enable_sort', 'on', true), set_config('search_path', caller_path, true);
                EXECUTE pg_catalog.concat(f.every_head, coalesce(condition, 'true'), f.every_tail)
                INTO found_ids, found_distances USING query, k;
                answered := NULL;
            EXCEPTION
                WHEN data_exception THEN
                    RAISE EXCEPTION '% of %: %', CASE WHEN condition IS NULL THEN 'the query does not fit the column'
                        ELSE 'the filter does not fit the columns' END, f.relation, SQLERRM USING ERRCODE = SQLSTATE;
                WHEN query_canceled THEN
                    IF NOT answered OR vectuned._has_time(0.9) THEN
                        RAISE;
                    END IF;
            END;
        END IF;
        IF answered THEN
            PERFORM vectuned._warn_cut_short(f.relation, coalesce(pg_catalog.cardinality(found_ids), 0), k);
        END IF;
    END IF;
    query_id := vectuned._query_id(false);
    RETURN QUERY SELECT u.id, u.distance, query_id FROM unnest(found_ids, found_distances) AS u (id, distance);
END
$$;

-- Checks every argument and returns the name of the generated function; NULL if the function no longer fits the table.
CREATE OR REPLACE FUNCTION vectuned._search_function(
    relation regclass, query @extschema@.vector, k bigint, filter jsonb, column_name name)
RETURNS name
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c vectuned.tuned_column := vectuned._tuned_column(relation, column_name);
BEGIN
    PERFORM vectuned._check_query(c, query, k);
    RETURN (
        SELECT '_search_' || c.id FROM vectuned.tuned_column stored
        LEFT JOIN (vectuned.tuned_index i JOIN pg_class r ON r.oid = i.index_relation)
            ON i.column_id = c.id AND i.index_relation = stored.index_relation
        WHERE stored.id = c.id AND (i.index_relation IS NOT NULL OR stored.index_relation = 0)
          AND vectuned._outdated(stored, c) IS NULL);
END
$$;

-- Raises an error for an unusable query vector or k.
CREATE OR REPLACE FUNCTION vectuned._check_query(c vectuned.tuned_column, query @extschema@.vector, k bigint)
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

-- vectuned.search with whole rows as the result, nearest first. It runs under the caller's search_path, as search does.
CREATE OR REPLACE FUNCTION vectuned.search_rows(
    row_type anyelement, query @extschema@.vector, k bigint DEFAULT 10, filter jsonb DEFAULT NULL,
    column_name name DEFAULT NULL)
RETURNS SETOF anyelement
LANGUAGE plpgsql STABLE ROWS 10
AS $$
#variable_conflict use_variable
DECLARE
    relation pg_catalog.regclass := vectuned._row_relation(pg_catalog.pg_typeof(row_type));
BEGIN
    RETURN QUERY EXECUTE vectuned._rows_statement(relation, column_name) USING relation, query, k, filter, column_name;
END
$$;

-- The table whose row type this is.
CREATE OR REPLACE FUNCTION vectuned._row_relation(row_type regtype) RETURNS regclass
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation regclass := (SELECT t.typrelid FROM pg_type t WHERE t.oid = row_type AND t.typrelid <> 0);
BEGIN
    IF relation IS NULL THEN
        RAISE EXCEPTION 'search_rows takes a row of a table, got %', row_type
            USING ERRCODE = 'datatype_mismatch', HINT = 'SELECT * FROM vectuned.search_rows(NULL::items, ...)';
    END IF;
    RETURN relation;
END
$$;

-- The statement of search_rows, whose arguments are $1 to $5.
CREATE OR REPLACE FUNCTION vectuned._rows_statement(relation regclass, column_name name) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c vectuned.tuned_column := vectuned._tuned_column(relation, column_name);
    keys text;
BEGIN
    SELECT string_agg(format(
               CASE cardinality(c.key_columns)
                   WHEN 1 THEN 't.%1$I OPERATOR(pg_catalog.=) s.id::pg_catalog.%2$I'
                   ELSE 't.%1$I OPERATOR(pg_catalog.=) (s.id::pg_catalog.jsonb OPERATOR(pg_catalog.->>) %3$s)::pg_catalog.%2$I' END,
               a.attname, y.typname, u.place - 1), ' AND ')
    INTO keys
    FROM unnest(c.key_columns) WITH ORDINALITY AS u (name, place)
    JOIN pg_attribute a ON a.attrelid = c.relation AND a.attname = u.name
    JOIN pg_type y ON y.oid = a.atttypid;
    RETURN format('SELECT t.* FROM vectuned.search($1, $2, $3, $4, $5) WITH ORDINALITY AS s (id, distance, query_id, place) '
                  'JOIN %s t ON %s ORDER BY s.place', (SELECT f.relation FROM vectuned._fragments(c) f), keys);
END
$$;
