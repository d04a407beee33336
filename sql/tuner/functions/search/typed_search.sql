-- vectuned.search for pages, and for drivers that state the types of their parameters.

-- A page of a search, or a search within a distance. All pages of a query are parts of one list, the nearest 1000 rows that
-- one search finds, ordered by distance and then by key: so no row is on two pages, and none is left out. A search for
-- skip + k rows would have another effort on each page, and find other rows. Pages are not recorded: what was learned from
-- searches for 1000 rows is of no use to those who read ten.
CREATE OR REPLACE FUNCTION vectuned._search_page(
    relation regclass, query @extschema@.vector, k bigint, filter jsonb, column_name name, skip bigint, max_distance float8)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 10
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned._check_page(k, skip, max_distance);
    IF skip IS NULL THEN
        RETURN QUERY SELECT s.* FROM vectuned.search(relation, query, k, filter, column_name) s
                     WHERE s.distance OPERATOR(pg_catalog.<=) max_distance;
    ELSE
        RETURN QUERY SELECT p.* FROM vectuned._nearest_thousand(relation, query, filter, column_name) p
                     WHERE max_distance IS NULL OR p.distance OPERATOR(pg_catalog.<=) max_distance
                     ORDER BY p.distance, p.id COLLATE pg_catalog."C" OFFSET skip LIMIT k;
    END IF;
END
$$;

-- Raises an error for arguments of a page that are out of range.
CREATE OR REPLACE FUNCTION vectuned._check_page(k bigint, skip bigint, max_distance float8) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF k IS NULL OR k NOT BETWEEN 1 AND 1000 THEN
        RAISE EXCEPTION 'k must be between 1 and 1000, got %', coalesce(k::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF max_distance = 'NaN' THEN
        RAISE EXCEPTION 'max_distance is not a number' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF skip < 0 THEN
        RAISE EXCEPTION 'skip must not be negative, got %', skip USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF skip > 1000 - k THEN
        RAISE EXCEPTION 'pages end with row 1000: skip + k is %', skip::numeric + k
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Narrow the search by a filter.';
    END IF;
END
$$;

-- The list that pages are parts of, without recording the search. (No SET clause: only superusers may write one for a
-- parameter that no loaded library defines.)
CREATE OR REPLACE FUNCTION vectuned._nearest_thousand(
    relation regclass, query @extschema@.vector, filter jsonb, column_name name)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 1000
AS $$
#variable_conflict use_variable
DECLARE
    former pg_catalog.text;
BEGIN
    former := pg_catalog.current_setting('vectuned.record', true);
    PERFORM pg_catalog.set_config('vectuned.record', 'off', true);
    RETURN QUERY SELECT s.* FROM vectuned.search(relation, query, 1000, filter, column_name) s;
    PERFORM pg_catalog.set_config('vectuned.record', coalesce(former, ''), true);
END
$$;

-- PostgreSQL finds a function by the types of its arguments, and drivers state them in different ways: table names as text,
-- filters as text, queries as halfvec. Each kind has a function that the planner inlines, so it costs a search nothing. Where
-- a type is not stated, PostgreSQL prefers the function that takes text; where one is, that with exactly this type. So only the
-- functions that take a vector take text, regclass or oid as their first argument, and those that take a halfvec a domain:
-- otherwise a query without a type could be either, and the call an error. (A function for real[] is not possible: an array is of
-- another category of types, so PostgreSQL would not choose at all.) Filters given as text have no default, since two
-- functions must not match the same call.
SET LOCAL check_function_bodies = off;  -- vectuned.search is generated after this file has run

CREATE OR REPLACE FUNCTION vectuned.search(
    relation text, query @extschema@.vector, k bigint DEFAULT 10, filter jsonb DEFAULT NULL, column_name name DEFAULT NULL,
    skip bigint DEFAULT NULL, max_distance float8 DEFAULT NULL)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE sql STABLE ROWS 10
AS $$
    SELECT s.id, s.distance, s.query_id
    FROM vectuned.search($1::pg_catalog.regclass, $2, $3, $4, $5, $6, $7) s
$$;

CREATE OR REPLACE FUNCTION vectuned.search(
    relation text, query @extschema@.vector, k bigint, filter text, column_name name DEFAULT NULL,
    skip bigint DEFAULT NULL, max_distance float8 DEFAULT NULL)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE sql STABLE ROWS 10
AS $$
    SELECT s.id, s.distance, s.query_id
    FROM vectuned.search($1::pg_catalog.regclass, $2, $3, $4::pg_catalog.jsonb, $5, $6, $7) s
$$;

CREATE OR REPLACE FUNCTION vectuned.search(
    relation regclass, query @extschema@.vector, k bigint, filter text, column_name name DEFAULT NULL,
    skip bigint DEFAULT NULL, max_distance float8 DEFAULT NULL)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE sql STABLE ROWS 10
AS $$
    SELECT s.id, s.distance, s.query_id
    FROM vectuned.search($1, $2, $3, $4::pg_catalog.jsonb, $5, $6, $7) s
$$;

CREATE OR REPLACE FUNCTION vectuned.search(
    relation oid, query @extschema@.vector, k bigint DEFAULT 10, filter jsonb DEFAULT NULL, column_name name DEFAULT NULL,
    skip bigint DEFAULT NULL, max_distance float8 DEFAULT NULL)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE sql STABLE ROWS 10
AS $$
    SELECT s.id, s.distance, s.query_id
    FROM vectuned.search($1::pg_catalog.regclass, $2, $3, $4, $5, $6, $7) s
$$;

CREATE OR REPLACE FUNCTION vectuned.search(
    relation oid, query @extschema@.vector, k bigint, filter text, column_name name DEFAULT NULL,
    skip bigint DEFAULT NULL, max_distance float8 DEFAULT NULL)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE sql STABLE ROWS 10
AS $$
    SELECT s.id, s.distance, s.query_id
    FROM vectuned.search($1::pg_catalog.regclass, $2, $3, $4::pg_catalog.jsonb, $5, $6, $7) s
$$;

CREATE OR REPLACE FUNCTION vectuned.search(
    relation vectuned.table_name, query @extschema@.halfvec, k bigint DEFAULT 10, filter jsonb DEFAULT NULL, column_name name DEFAULT NULL,
    skip bigint DEFAULT NULL, max_distance float8 DEFAULT NULL)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE sql STABLE ROWS 10
AS $$
    SELECT s.id, s.distance, s.query_id
    FROM vectuned.search($1::pg_catalog.regclass, $2::@extschema@.vector, $3, $4, $5, $6, $7) s
$$;

CREATE OR REPLACE FUNCTION vectuned.search(
    relation vectuned.table_name, query @extschema@.halfvec, k bigint, filter text, column_name name DEFAULT NULL,
    skip bigint DEFAULT NULL, max_distance float8 DEFAULT NULL)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE sql STABLE ROWS 10
AS $$
    SELECT s.id, s.distance, s.query_id
    FROM vectuned.search($1::pg_catalog.regclass, $2::@extschema@.vector, $3, $4::pg_catalog.jsonb, $5, $6, $7) s
$$;

CREATE OR REPLACE FUNCTION vectuned.search_rows(
    row_type anyelement, query @extschema@.vector, k bigint, filter text, column_name name DEFAULT NULL)
RETURNS SETOF anyelement
LANGUAGE sql STABLE ROWS 10
AS $$
    SELECT * FROM vectuned.search_rows($1, $2, $3, $4::pg_catalog.jsonb, $5)
$$;

RESET check_function_bodies;
