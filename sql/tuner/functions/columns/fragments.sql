-- SQL fragments, from which all statements that search a tuned column are put together.

-- Fragments that depend on the column. The table is t; query_text is how the statement writes the query vector.
-- key: the row id as text. present: the vector is not NULL. exact: the row has a distance to any query. zero: whether the
-- query has no distance to any row. type: of the column; where that says no dimensions, distances are those of its cast, which
-- is what is indexed. every_head, every_tail: the exact search among the rows that meet
-- a condition, which goes between the two. Functions, operators and types are qualified, since
-- the statements run under the caller's search_path.
CREATE OR REPLACE FUNCTION vectuned._fragments(
    c vectuned.tuned_column, query_text text DEFAULT '$1',
    OUT relation text, OUT key text, OUT distance text, OUT present text, OUT exact text, OUT zero text, OUT type text,
    OUT every_head text, OUT every_tail text,
    OUT dimensions int)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    vector_type text;
    vector text;
    norm text;
BEGIN
    SELECT format('%I.%I', n.nspname, r.relname) INTO relation
    FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace WHERE r.oid = c.relation;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the table of tuned column % no longer exists', c.id
            USING ERRCODE = 'undefined_table';
    END IF;
    SELECT coalesce(d.dimensions, c.dimensions), y.typname,
           CASE WHEN a.atttypmod > 0 OR d.dimensions IS NULL THEN format('t.%I', a.attname)
                ELSE format('(t.%I::@extschema@.%I(%s))', a.attname, y.typname, d.dimensions) END
    INTO dimensions, vector_type, vector
    FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
    CROSS JOIN LATERAL (SELECT vectuned._column_dimensions(a.attrelid, a.attname)) AS d (dimensions)
    WHERE a.attrelid = c.relation AND a.attname = c.column_name AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'column "%" of % does not exist', c.column_name, c.relation
            USING ERRCODE = 'undefined_column';
    END IF;
    key := CASE cardinality(c.key_columns)
        WHEN 1 THEN format('t.%I::pg_catalog.text', c.key_columns[1])
        ELSE (SELECT 'pg_catalog.jsonb_build_array(' || string_agg(format('t.%I', u.name), ', ' ORDER BY u.place) || ')::pg_catalog.text'
              FROM unnest(c.key_columns) WITH ORDINALITY AS u (name, place)) END;
    type := format('@extschema@.%I', vector_type);
    distance := format('%s OPERATOR(@extschema@.%s) %s', vector,
                       CASE c.metric WHEN 'cosine' THEN '<=>' WHEN 'l2' THEN '<->' ELSE '<#>' END,
                       CASE query_text WHEN '$1' THEN format('$1::%s', type) ELSE query_text END);
    present := format('t.%I IS NOT NULL', c.column_name);
    exact := present;
    zero := 'false';
    IF c.metric = 'cosine' THEN
        -- A zero vector has no cosine distance, and cosine indexes leave it out.
        norm := CASE vector_type WHEN 'vector' THEN '@extschema@.vector_norm' ELSE '@extschema@.l2_norm' END;
        exact := exact || format(' AND %s(t.%I) OPERATOR(pg_catalog.>) 0', norm, c.column_name);
        zero := format('%s(%s::%s) OPERATOR(pg_catalog.=) 0', norm, query_text, type);
    END IF;
    -- $2 is k. The cast of ids to text, and the test for zero vectors (by their distance, NaN), come after the ranking,
    -- because they are too expensive for every row.
    SELECT format('SELECT pg_catalog.array_agg(%s) FILTER (WHERE n.distance OPERATOR(pg_catalog.<>) ''NaN''), '
                  'pg_catalog.array_agg(n.distance) FILTER (WHERE n.distance OPERATOR(pg_catalog.<>) ''NaN'') '
                  'FROM (SELECT o.* FROM (SELECT %s, %s FROM %s t WHERE %s AND ',
                  CASE cardinality(c.key_columns) WHEN 1 THEN 'n.k1::pg_catalog.text'
                       ELSE 'pg_catalog.jsonb_build_array(' || string_agg('n.k' || u.place, ', ' ORDER BY u.place)
                            || ')::pg_catalog.text' END,
                  string_agg(format('t.%I', u.name), ', ' ORDER BY u.place), distance, relation, present),
           format(' OFFSET 0) AS o (%s, distance) ORDER BY o.distance LIMIT $2) n',
                  string_agg('k' || u.place, ', ' ORDER BY u.place))
    INTO every_head, every_tail
    FROM unnest(c.key_columns) WITH ORDINALITY AS u (name, place);
END
$$;

-- Fragments that make a statement use one index.
-- ordering: the expression to order by. narrow: the condition that makes the planner choose this index. ranked: the index
-- orders by the distance itself. nearest: if not ranked, how many rows to take from it and rank by the distance.
CREATE OR REPLACE FUNCTION vectuned._index_fragments(
    c vectuned.tuned_column, i vectuned.tuned_index, query_text text DEFAULT '$1',
    OUT ordering text, OUT narrow text, OUT ranked boolean, OUT nearest text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    f record;
    operator constant text := CASE c.metric WHEN 'cosine' THEN '<=>' WHEN 'l2' THEN '<->' ELSE '<#>' END;
BEGIN
    SELECT * INTO f FROM vectuned._fragments(c, query_text);
    ordering := CASE i.form
        WHEN 'plain' THEN f.distance
        WHEN 'halfvec' THEN format('(t.%I::@extschema@.halfvec(%s)) OPERATOR(@extschema@.%s) (%s::@extschema@.halfvec(%s))',
                                   c.column_name, f.dimensions, operator, query_text, f.dimensions)
        ELSE format('(@extschema@.binary_quantize(t.%I)::bit(%s)) OPERATOR(@extschema@.<~>) '
                    '@extschema@.binary_quantize(%s)::bit(%s)', c.column_name, f.dimensions, query_text, f.dimensions) END;
    narrow := f.present || CASE i.marker WHEN 'true' THEN ''
        ELSE ' AND ' || regexp_replace(i.marker, ' (>|>=|<>|=|<|<=) ', ' OPERATOR(pg_catalog.\1) ') END;
    ranked := i.form = 'plain';
    nearest := CASE i.form WHEN 'plain' THEN 'k' WHEN 'halfvec' THEN 
        'least(k OPERATOR(pg_catalog.+) (k OPERATOR(pg_catalog./) 10) OPERATOR(pg_catalog.+) 5, 1000)' ELSE 'greatest(ef, k)' END;
END
$$;

-- A filter's condition, written for one index. For an index over all rows it is wrapped in CASE, which hides it from the
-- planner, so that no partial index is used that was not measured. As CASE also prevents partition pruning, a partitioned
-- table gets it only if one of its partitions has a partial vector index.
CREATE OR REPLACE FUNCTION vectuned._condition_for(i vectuned.tuned_index, condition text) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN i.requires IS NOT NULL
                  OR (SELECT r.relkind = 'I' FROM pg_class r WHERE r.oid = i.index_relation)
                     AND NOT EXISTS (
                         SELECT FROM pg_index x CROSS JOIN LATERAL pg_partition_tree(x.indrelid) t
                         JOIN pg_index o ON o.indrelid = t.relid AND o.indpred IS NOT NULL
                         JOIN pg_class r ON r.oid = o.indexrelid
                         JOIN pg_am m ON m.oid = r.relam AND m.amname IN ('hnsw', 'ivfflat')
                         WHERE x.indexrelid = i.index_relation) THEN condition
                ELSE format('CASE WHEN %s THEN true ELSE false END', condition) END
$$;
