-- Makes the static function of a column, and the dispatcher over all of them.

-- SQL for parts of a column's statements; t is the table, query_text how the query vector is written there.
-- meaning: what the names and types were, by which a function generated earlier is known to fit still.
CREATE OR REPLACE FUNCTION vectuned._fragments(
    c vectuned.tuned_column, query_text text DEFAULT '$1',
    OUT relation text, OUT key text, OUT distance text, OUT present text, OUT exact text, OUT zero text, OUT type text,
    OUT every_head text, OUT every_tail text,
    OUT dimensions int, OUT meaning text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    vector_type text;
    norm text;
BEGIN
    SELECT format('%I.%I', n.nspname, r.relname) INTO relation
    FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace WHERE r.oid = c.relation;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the table of tuned column % no longer exists', c.id
            USING ERRCODE = 'undefined_table';
    END IF;
    SELECT a.atttypmod, y.typname INTO dimensions, vector_type
    FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
    WHERE a.attrelid = c.relation AND a.attname = c.column_name AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'column "%" of % does not exist', c.column_name, c.relation
            USING ERRCODE = 'undefined_column';
    END IF;
    key := CASE cardinality(c.key_columns)
        WHEN 1 THEN format('t.%I::text', c.key_columns[1])
        ELSE (SELECT 'jsonb_build_array(' || string_agg(format('t.%I', u.name), ', ' ORDER BY u.place) || ')::text'
              FROM unnest(c.key_columns) WITH ORDINALITY AS u (name, place)) END;
    type := format('@extschema@.%I', vector_type);
    distance := format('t.%I OPERATOR(@extschema@.%s) %s', c.column_name,
                       CASE c.metric WHEN 'cosine' THEN '<=>' WHEN 'l2' THEN '<->' ELSE '<#>' END,
                       CASE query_text WHEN '$1' THEN format('$1::%s', type) ELSE query_text END);
    present := format('t.%I IS NOT NULL', c.column_name);
    exact := present;
    zero := 'false';
    IF c.metric = 'cosine' THEN
        -- A zero vector has no cosine distance and is in no cosine index.
        norm := CASE vector_type WHEN 'vector' THEN '@extschema@.vector_norm' ELSE '@extschema@.l2_norm' END;
        exact := exact || format(' AND %s(t.%I) > 0', norm, c.column_name);
        zero := format('%s(%s::%s) = 0', norm, query_text, type);
    END IF;
    -- The exact answer among the rows that meet a condition, to be put between head and tail; $2 is k. Ids become
    -- text, and zero vectors are told by their distance, only after the rows were ranked: both cost too much a row.
    SELECT format('SELECT array_agg(%s) FILTER (WHERE n.distance <> ''NaN''), array_agg(n.distance) FILTER (WHERE n.distance <> ''NaN'') '
                  'FROM (SELECT o.* FROM (SELECT %s, %s FROM %s t WHERE %s AND ',
                  CASE cardinality(c.key_columns) WHEN 1 THEN 'n.k1::text'
                       ELSE 'jsonb_build_array(' || string_agg('n.k' || u.place, ', ' ORDER BY u.place) || ')::text' END,
                  string_agg(format('t.%I', u.name), ', ' ORDER BY u.place), distance, relation, present),
           format(' OFFSET 0) AS o (%s, distance) ORDER BY o.distance LIMIT $2) n',
                  string_agg('k' || u.place, ', ' ORDER BY u.place))
    INTO every_head, every_tail
    FROM unnest(c.key_columns) WITH ORDINALITY AS u (name, place);
    meaning := format('Searches %s.%I, %s(%s), by %s.', relation, c.column_name, type, dimensions, key);
END
$$;

-- Runs with the owner's rights, as whoever makes a function owns it. It reads nothing but catalogues and tables of
-- vectuned's, and what becomes SQL is quoted or made from the catalogue; but for markers, which are looked at.
CREATE OR REPLACE FUNCTION vectuned._generate(column_id int) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    c vectuned.tuned_column;
    f record;
    given record;
    known text;
    tokens jsonb;
    template text;
    quote text := 'search';
    -- What a function sets is restored when it returns, at some 0.005 ms each.
    settings constant text := 'SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off '
        'SET hnsw.iterative_scan = off SET hnsw.ef_search = 40';
    of_lists constant text := 'SET ivfflat.iterative_scan = off SET ivfflat.probes = 32768';
    lists boolean;
    several boolean := false;
    share float8;
    body text;
    i record;
    main record;
    searches text := '';
    heads text := '';
    tails text := '';
    nearest text := '';
    conditions text := '';
    oids text := '';
    statement text;
    -- An index on halfvec compares vectors that were normalised in half precision, and orders by that.
    sorted text;
BEGIN
    SELECT * INTO STRICT c FROM vectuned.tuned_column t WHERE t.id = column_id;
    -- Static SQL knows the query as a variable, statements that are executed as $1.
    SELECT * INTO given FROM vectuned._fragments(c);
    lists := EXISTS (SELECT FROM pg_index x JOIN pg_class r ON r.oid = x.indexrelid JOIN pg_am a ON a.oid = r.relam
                     WHERE a.amname = 'ivfflat'
                       AND (x.indrelid = c.relation OR x.indrelid IN (SELECT t.relid FROM pg_partition_tree(c.relation) t)));
    known := CASE WHEN given.type LIKE '%.vector' THEN 'query' ELSE 'q' END;
    SELECT * INTO f FROM vectuned._fragments(c, known);
    PERFORM '[1]'::@extschema@.vector;
    IF EXISTS (SELECT FROM vectuned.tuned_index t
               WHERE t.column_id = c.id AND t.marker <> 'true'
                 AND replace(t.marker, format('%I.vector_dims(t.%I)', (SELECT n.nspname FROM pg_type y
                                 JOIN pg_namespace n ON n.oid = y.typnamespace
                                 WHERE y.oid = '@extschema@.vector'::regtype), c.column_name), '?')
                     !~ '^(\? (>|>=|<>|=) \d{1,5}|\d{1,5} (<|<=|<>) \?)$')
    THEN
        RAISE EXCEPTION 'vectuned.tuned_index holds a marker of %.% that is none', f.relation, quote_ident(c.column_name)
            USING ERRCODE = 'data_corrupted', HINT = 'Call vectuned.enable again.';
    END IF;
    sorted := CASE WHEN c.metric = 'cosine' AND f.type LIKE '%.halfvec' THEN ' ORDER BY n.distance + 0' ELSE '' END;
    FOR i IN
        SELECT n.*, n.index_relation = c.index_relation AS is_main, s.*,
               vectuned._condition_for(r.entry, '%s') AS condition, e.ordering AS ordering_by_parameter
        FROM (SELECT t.* FROM vectuned.tuned_index t WHERE t.column_id = c.id
              -- The main index is gone: the table is scanned, until there is one and it is found.
              UNION ALL
              SELECT c.id, 0, c.index_relation, 'hnsw', 'plain', 'true', NULL, 1, NULL
              WHERE NOT EXISTS (SELECT FROM vectuned.tuned_index t
                                WHERE t.column_id = c.id AND t.index_relation = c.index_relation)) n
        CROSS JOIN LATERAL (SELECT ROW(n.*)::vectuned.tuned_index AS entry) r
        CROSS JOIN LATERAL vectuned._index_fragments(c, r.entry, known) s
        CROSS JOIN LATERAL vectuned._index_fragments(c, r.entry) e
        ORDER BY is_main, n.index_no
    LOOP
        statement := format(CASE WHEN i.ranked
            THEN 'SELECT array_agg(n.id%7$s), array_agg(n.distance%7$s) INTO found_ids, found_distances '
                 'FROM (SELECT %1$s AS id, %2$s AS distance FROM %3$s t WHERE %4$s ORDER BY %5$s LIMIT k) n;'
            ELSE 'SELECT array_agg(n.id), array_agg(n.distance) INTO found_ids, found_distances '
                 'FROM (SELECT r.id, r.distance FROM (SELECT %1$s AS id, %2$s AS distance FROM %3$s t WHERE %4$s '
                 'ORDER BY %5$s LIMIT %6$s) r ORDER BY r.distance + 0 LIMIT k) n;' END,
            f.key, f.distance, f.relation, i.narrow, i.ordering, i.nearest, sorted);
        IF i.requires IS NULL THEN
            searches := searches || CASE WHEN NOT i.is_main
                THEN format(E'IF index_no = %s THEN\n                %s\n            ELS', i.index_no, statement)
                WHEN searches = '' THEN statement
                ELSE format(E'E\n                %s\n            END IF;', statement) END;
        END IF;
        heads := heads || format(' WHEN %s THEN %L', i.index_no, format(CASE WHEN i.ranked
            THEN 'SELECT array_agg(n.id ORDER BY n.distance + 0), array_agg(n.distance ORDER BY n.distance + 0) '
                 'FROM (SELECT %1$s AS id, %2$s AS distance FROM %3$s t WHERE %4$s AND '
            ELSE 'SELECT array_agg(n.id), array_agg(n.distance) FROM (SELECT r.id, r.distance '
                 'FROM (SELECT %1$s AS id, %2$s AS distance FROM %3$s t WHERE %4$s AND ' END,
            f.key, given.distance, f.relation, i.narrow));
        tails := tails || format(' WHEN %s THEN %L', i.index_no, format(CASE WHEN i.ranked
            THEN ' ORDER BY %s LIMIT $2) n'
            ELSE ' ORDER BY %s LIMIT $3) r ORDER BY r.distance + 0 LIMIT $2) n' END, i.ordering_by_parameter));
        conditions := conditions || format(' WHEN %s THEN %L', i.index_no, i.condition);
        nearest := nearest || format(' WHEN %s THEN %s', i.index_no, i.nearest);
        several := several OR NOT i.is_main;
        oids := oids || format(' WHEN %s THEN %s', i.index_no, i.index_relation);
        IF i.is_main THEN
            main := i;
        END IF;
    END LOOP;
    share := CASE WHEN NOT c.enabled THEN 0
        -- At least every fifth search until what serves is proven again, unless none is to be recorded at all.
        WHEN c.alert AND c.sample_rate > 0 THEN least(greatest(5 * c.sample_rate, 0.2), 1) ELSE c.sample_rate END;
    tokens := jsonb_build_object(
        'name', quote_ident('_search_' || c.id), 'filtered_name', quote_ident('_filtered_' || c.id),
        'every_head', quote_literal(given.every_head), 'every_tail', quote_literal(f.every_tail),
        'settings', settings || CASE WHEN lists THEN ' ' || of_lists ELSE '' END,
        'all_settings', settings || ' SET hnsw.max_scan_tuples = 20000 SET hnsw.scan_mem_multiplier = 4 ' || of_lists,
        'continuing', CASE WHEN lists THEN ' set_config(''ivfflat.iterative_scan'', ''relaxed_order'', true),' ELSE '' END,
        'id', c.id, 'type', f.type,
        'query', CASE known WHEN 'q' THEN format(E'q %1$s := query::%1$s;\n    ', f.type) ELSE '' END,
        'relation_literal', quote_literal(f.relation), 'relation', f.relation, 'key', f.key,
        'distance', f.distance, 'narrow', main.narrow, 'exact', f.exact, 'zero', f.zero,
        'searches', searches,
        'filtered_head', format('CASE index_no%s END', heads), 'filtered_tail', format('CASE index_no%s END', tails),
        'nearest', format('CASE index_no%s END', nearest), 'condition', format('CASE index_no%s END', conditions),
        'index_oid_by_no', format('CASE index_no%s END', oids),
        'main_no', main.index_no,
        -- Another index than the main one may have gone: then it has no properties.
        'look', CASE WHEN several THEN format(
            'IF index_no <> %s AND pg_index_has_property(CASE index_no%s END, ''clusterable'') IS NULL THEN '
            'path := NULL; END IF;', main.index_no, oids) ELSE '' END,
        'main_generation', format(CASE (SELECT r.relkind FROM pg_class r WHERE r.oid = c.index_relation)
            WHEN 'I' THEN 'vectuned._generation(%s)' ELSE 'pg_relation_filenode(%s)' END, c.index_relation),
        'default_ef', c.default_ef, 'default_probes', c.default_probes,
        'main_ef', CASE WHEN main.lists IS NULL THEN c.default_ef::text ELSE 'NULL' END,
        'main_probes', CASE WHEN main.lists IS NULL THEN 'NULL' ELSE least(c.default_probes, main.lists)::text END,
        'sample_rate', share, 'drawn', CASE share WHEN 0 THEN 'NULL'
            ELSE format('CASE WHEN random() < %s THEN clock_timestamp() END', share) END);
    WHILE position('$' || quote || '$' IN f.relation || f.key || f.distance || given.every_head || searches || heads) > 0 LOOP
        quote := quote || '_';
    END LOOP;
    FOREACH template IN ARRAY ARRAY[vectuned._search_template(), vectuned._filtered_template()] LOOP
        template := replace(template, '$@$', '$' || quote || '$');
        -- In one pass: a name may hold what looks like another token.
        SELECT string_agg(p.part || coalesce(tokens ->> p.tokens[1], ''), '' ORDER BY p.place) INTO STRICT body
        FROM ROWS FROM (regexp_split_to_table(template, '\{[a-z_]+\}'), regexp_matches(template, '\{([a-z_]+)\}', 'g'))
            WITH ORDINALITY AS p (part, tokens, place);
        EXECUTE body;
    END LOOP;
    EXECUTE format('GRANT EXECUTE ON FUNCTION vectuned.%I, vectuned.%I TO PUBLIC', '_search_' || c.id, '_filtered_' || c.id);
    EXECUTE format('COMMENT ON FUNCTION vectuned.%I(@extschema@.vector, int) IS %L', '_search_' || c.id, f.meaning);
END
$$;

-- Drops the functions of a column that is in nobody's care any more.
CREATE OR REPLACE FUNCTION vectuned._drop_generated(p_column_id int) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_column_id IS NULL OR EXISTS (SELECT FROM vectuned.tuned_column t WHERE t.id = p_column_id) THEN
        RAISE EXCEPTION 'column % is still tuned', coalesce(p_column_id::text, 'NULL')
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call vectuned.disable with forget => true.';
    END IF;
    EXECUTE format('DROP FUNCTION IF EXISTS vectuned.%I(@extschema@.vector, int)', '_search_' || p_column_id);
    EXECUTE format('DROP FUNCTION IF EXISTS vectuned.%I(@extschema@.vector, int, jsonb)', '_filtered_' || p_column_id);
END
$$;

-- A chain of comparisons with constants is the quickest way from a relation to its function. Names are compared
-- too: the functions hold them, a table may have been renamed since, and after a restore an oid may be another's.
-- Whatever the chain does not know goes the long way, which has the error messages.
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

-- The long way of a search: every argument checked, and where the generated function no longer fits (the table
-- was renamed or its column altered since), statements written anew. Those are not recorded.
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

-- The name of the function that answers a search, after every argument was checked; NULL if it no longer fits.
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

-- Brings every generated function up to date, after an upgrade or a restore, which gives indexes new oids.
CREATE OR REPLACE FUNCTION vectuned._generate_all() RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c vectuned.tuned_column;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('vectuned.enable', 0));
    FOR c IN SELECT * FROM vectuned.tuned_column t ORDER BY t.id LOOP
        BEGIN
            PERFORM vectuned._refresh_indexes(c.id);
            PERFORM vectuned._generate(c.id);
        EXCEPTION WHEN undefined_table OR undefined_column OR undefined_object OR wrong_object_type
                       OR insufficient_privilege THEN
            RAISE WARNING 'the tuned column % of % is passed over: %', c.column_name, c.relation, SQLERRM;
        END;
    END LOOP;
    PERFORM vectuned._generate_dispatch();
END
$$;
