-- Generates the functions of a tuned column from their templates: _search_N and _filtered_N.

-- Fails where tuned_index holds a marker that _marker did not write: markers become part of statements as they stand.
CREATE OR REPLACE FUNCTION vectuned._check_markers(c vectuned.tuned_column) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation constant text := (vectuned._fragments(c)).relation;
    extension constant text := (SELECT n.nspname FROM pg_type y JOIN pg_namespace n ON n.oid = y.typnamespace
                                WHERE y.oid = '@extschema@.vector'::regtype);
    call constant text := format('%I.vector_dims(t.%I)', extension, c.column_name);
BEGIN
    IF EXISTS (SELECT FROM vectuned.tuned_index t
               WHERE t.column_id = c.id AND t.marker <> 'true'
                 AND replace(t.marker, call, '?') !~ '^(\? (>|>=|<>|=) \d{1,5}|\d{1,5} (<|<=|<>) \?)$')
    THEN
        RAISE EXCEPTION 'vectuned.tuned_index holds an invalid marker of %.%', relation, quote_ident(c.column_name)
            USING ERRCODE = 'data_corrupted', HINT = format('SELECT vectuned.refresh(%L, %L)', relation, c.column_name);
    END IF;
END
$$;

-- The variable of the generated functions that holds the query vector in the column's own type.
CREATE OR REPLACE FUNCTION vectuned._query_variable(c vectuned.tuned_column) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN (vectuned._fragments(c)).type LIKE '%.vector' THEN 'query' ELSE 'q' END
$$;

-- The indexes that the generated functions name. While the main index is missing, or where there is none over all rows, index
-- number 0 stands for it: its statement scans the table, until _refresh_indexes finds another main index.
CREATE OR REPLACE FUNCTION vectuned._searched_indexes(c vectuned.tuned_column) RETURNS SETOF vectuned.tuned_index
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.* FROM vectuned.tuned_index t WHERE t.column_id = c.id
    UNION ALL
    SELECT c.id, 0, c.index_relation, 'hnsw', 'plain', 'true', NULL, 1, NULL
    WHERE NOT EXISTS (SELECT FROM vectuned.tuned_index t WHERE t.column_id = c.id AND t.index_relation = c.index_relation)
$$;

-- The unfiltered search through one index: a static statement that fills found_ids and found_distances, nearest first.
CREATE OR REPLACE FUNCTION vectuned._search_statement(c vectuned.tuned_column, i vectuned.tuned_index) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN n.ranked
        THEN format('SELECT pg_catalog.array_agg(n.id%1$s), pg_catalog.array_agg(n.distance%1$s) INTO found_ids, found_distances '
                    'FROM (%2$s ORDER BY %3$s LIMIT k) n;', p.sorted, p.candidates, n.ordering)
        ELSE format('SELECT pg_catalog.array_agg(n.id), pg_catalog.array_agg(n.distance) INTO found_ids, found_distances '
                    'FROM (SELECT r.id, r.distance FROM (%s ORDER BY %s LIMIT %s) r '
                    'ORDER BY r.distance OPERATOR(pg_catalog.+) 0 LIMIT k) n;', p.candidates, n.ordering, n.nearest) END
    FROM vectuned._query_variable(c) v
    CROSS JOIN LATERAL vectuned._fragments(c, v) f
    CROSS JOIN LATERAL vectuned._index_fragments(c, i, v) n
    CROSS JOIN LATERAL (
        SELECT format('SELECT %s AS id, %s AS distance FROM %s t WHERE %s', f.key, f.distance, f.relation, n.narrow) AS candidates,
               -- A cosine index on halfvec orders by vectors normalised in half precision, so its rows are sorted again.
               CASE WHEN c.metric = 'cosine' AND f.type LIKE '%.halfvec' THEN ' ORDER BY n.distance OPERATOR(pg_catalog.+) 0'
                    ELSE '' END AS sorted) p
$$;

-- The filtered search through one index, for EXECUTE: the filter's condition goes between head and tail. $1 is the
-- query vector, $2 is k, $3 is the number of candidates that an index with coarser distances returns.
CREATE OR REPLACE FUNCTION vectuned._filtered_statement(
    c vectuned.tuned_column, i vectuned.tuned_index, OUT head text, OUT tail text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN n.ranked
               THEN 'SELECT pg_catalog.array_agg(n.id ORDER BY n.distance OPERATOR(pg_catalog.+) 0), '
                    'pg_catalog.array_agg(n.distance ORDER BY n.distance OPERATOR(pg_catalog.+) 0) FROM ('
               ELSE 'SELECT pg_catalog.array_agg(n.id), pg_catalog.array_agg(n.distance) FROM (SELECT r.id, r.distance FROM (' END
           || format('SELECT %s AS id, %s AS distance FROM %s t WHERE %s AND ', f.key, f.distance, f.relation, n.narrow),
           format(CASE WHEN n.ranked THEN ' ORDER BY %s LIMIT $2) n'
                       ELSE ' ORDER BY %s LIMIT $3) r ORDER BY r.distance OPERATOR(pg_catalog.+) 0 LIMIT $2) n' END, n.ordering)
    FROM vectuned._fragments(c) f CROSS JOIN LATERAL vectuned._index_fragments(c, i) n
$$;

-- The template tokens that depend on the column alone.
CREATE OR REPLACE FUNCTION vectuned._column_tokens(c vectuned.tuned_column) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    variable constant text := vectuned._query_variable(c);
    share constant float8 := vectuned._recorded_share(c);
    -- PostgreSQL restores on return what SET clauses changed; each clause costs a call about 0.005 ms. The highest probes make
    -- an IVFFlat index that is created beside an HNSW index look expensive, until a refresh finds it.
    settings constant text := 'SET search_path = pg_catalog, pg_temp SET plan_cache_mode = force_generic_plan SET jit = off '
        'SET hnsw.iterative_scan = off SET hnsw.ef_search = 40 SET ivfflat.probes = 32768';
    ivfflat_settings constant text := ' SET ivfflat.iterative_scan = off SET ivfflat.max_probes = 32768';
    both_methods constant boolean := vectuned._has_both_methods(c.relation);
    has_ivfflat constant boolean := EXISTS (
        SELECT FROM pg_index x JOIN pg_class r ON r.oid = x.indexrelid JOIN pg_am a ON a.oid = r.relam
        WHERE a.amname = 'ivfflat'
          AND (x.indrelid = c.relation OR x.indrelid IN (SELECT t.relid FROM pg_partition_tree(c.relation) t)));
    f record;
    every_head text;
BEGIN
    SELECT * INTO f FROM vectuned._fragments(c, variable);
    -- The statements for EXECUTE know the query vector as $1.
    every_head := (vectuned._fragments(c)).every_head;
    RETURN jsonb_build_object(
        'id', c.id, 'name', quote_ident('_search_' || c.id), 'filtered_name', quote_ident('_filtered_' || c.id),
        'settings', settings || CASE WHEN has_ivfflat THEN ivfflat_settings ELSE '' END
                    || CASE WHEN both_methods THEN ' SET random_page_cost = 0 SET seq_page_cost = 0' ELSE '' END,
        'all_settings', settings || ' SET hnsw.max_scan_tuples = 20000 SET hnsw.scan_mem_multiplier = 4' || ivfflat_settings,
        'free_pages', CASE WHEN both_methods THEN 'page_costs := vectuned._set_page_costs(''{0,0}'');' ELSE '' END,
        'restore_pages', CASE WHEN both_methods THEN ', vectuned._set_page_costs(page_costs)' ELSE '' END,
        'continue_ivfflat',
            CASE WHEN has_ivfflat THEN ' pg_catalog.set_config(''ivfflat.iterative_scan'', ''relaxed_order'', true),' ELSE '' END,
        'elapsed_ms', 'extract(epoch FROM pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) started)::pg_catalog.float8 '
                      'OPERATOR(pg_catalog.*) 1000',
        'relation_oid', c.relation::oid,
        'query', CASE variable WHEN 'q' THEN format(E'q %1$s := query::%1$s;\n    ', f.type) ELSE '' END,
        'relation_literal', quote_literal(f.relation), 'relation', f.relation,
        'key', f.key, 'distance', f.distance, 'zero', f.zero,
        -- If statement_timeout ends the search, cut_short is set.
        'exact_search', format($exact$BEGIN
                    PERFORM pg_catalog.set_config('enable_sort', 'on', true);
                    SELECT 'exact', pg_catalog.array_agg(n.id), pg_catalog.array_agg(n.distance) INTO path, found_ids, found_distances
                    FROM (SELECT o.id, o.distance FROM (SELECT %s AS id, %s AS distance FROM %s t WHERE %s OFFSET 0) o
                          ORDER BY o.distance LIMIT k) n;
                EXCEPTION WHEN query_canceled THEN
                    IF %s THEN  -- it was no timeout, or there is no index to answer instead
                        RAISE;
                    END IF;
                    cut_short := true;
                END;$exact$, f.key, f.distance, f.relation, f.exact,
            CASE WHEN c.index_relation = 0 THEN 'true' ELSE 'vectuned._has_time(0.9)' END),
        'every_head', quote_literal(every_head), 'every_tail', quote_literal(f.every_tail),
        'default_ef', c.default_ef, 'default_probes', c.default_probes,
        'sampled', vectuned._draw(share),
        'started', CASE share WHEN 0 THEN 'NULL' ELSE format('CASE WHEN %s THEN pg_catalog.clock_timestamp() END',
                                                                vectuned._draw(share)) END);
END
$$;

-- The template tokens that depend on the column's indexes. Those of several indexes are CASE or IF over index_no.
CREATE OR REPLACE FUNCTION vectuned._index_tokens(c vectuned.tuned_column) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH searched AS (
        SELECT i.index_no, i.index_relation, i.method, i.requires, i.lists, i.index_relation = c.index_relation AS is_main,
               i.index_no > 0 AS known,
               n.narrow, n.nearest, vectuned._search_statement(c, i) AS statement, e.head, e.tail,
               vectuned._condition_for(i, '%s') AS condition
        FROM vectuned._searched_indexes(c) i
        CROSS JOIN LATERAL vectuned._index_fragments(c, i) n
        CROSS JOIN LATERAL vectuned._filtered_statement(c, i) e),
    main AS (SELECT * FROM searched WHERE is_main),
    cases AS (
        SELECT bool_or(o.method = 'hnsw' AND o.known) AS has_hnsw,
               string_agg(format(' WHEN coalesce(b.index_no, %s) OPERATOR(pg_catalog.=) %s THEN b.probes IS %sNULL%s',
                                 (SELECT m.index_no FROM main m), o.index_no, CASE o.method WHEN 'hnsw' THEN '' ELSE 'NOT ' END,
                                 CASE WHEN o.is_main THEN ''
                                      ELSE format(' AND pg_catalog.pg_index_has_property(%s, ''clusterable'') IS NOT NULL',
                                                  o.index_relation) END),
                          '' ORDER BY o.is_main DESC, o.index_no) FILTER (WHERE o.requires IS NULL) AS serves,
               string_agg(format(E'IF index_no OPERATOR(pg_catalog.=) %s THEN\n                %s', o.index_no, o.statement), E'\n            ELS'
                          ORDER BY o.index_no) FILTER (WHERE NOT o.is_main AND o.requires IS NULL) AS branches,
               string_agg(format(' WHEN index_no OPERATOR(pg_catalog.=) %s THEN %L', o.index_no, o.head), '' ORDER BY o.is_main, o.index_no) AS heads,
               string_agg(format(' WHEN index_no OPERATOR(pg_catalog.=) %s THEN %L', o.index_no, o.tail), '' ORDER BY o.is_main, o.index_no) AS tails,
               string_agg(format(' WHEN index_no OPERATOR(pg_catalog.=) %s THEN %L', o.index_no, o.condition), '' ORDER BY o.is_main, o.index_no) AS conditions,
               string_agg(format(' WHEN index_no OPERATOR(pg_catalog.=) %s THEN %s', o.index_no, o.nearest), '' ORDER BY o.is_main, o.index_no) AS nearest,
               string_agg(format(' WHEN index_no OPERATOR(pg_catalog.=) %s THEN %s', o.index_no, o.index_relation), '' ORDER BY o.is_main, o.index_no) AS oids
        FROM searched o)
    SELECT jsonb_build_object(
        'searches', coalesce(s.branches || format(E'\n            ELSE\n                %s\n            END IF;', m.statement),
                             m.statement),
        'filtered_head', format('CASE%s END', s.heads), 'filtered_tail', format('CASE%s END', s.tails),
        'condition', format('CASE%s END', s.conditions), 'nearest', format('CASE%s END', s.nearest),
        'index_oid_by_no', format('CASE%s END', s.oids),
        'main_no', m.index_no, 'narrow', m.narrow,
        'main_ef', d.ef, 'main_probes', d.probes,
        'main_generation', format(CASE (SELECT r.relkind FROM pg_class r WHERE r.oid = c.index_relation)
            WHEN 'I' THEN 'vectuned._generation(%s)' ELSE 'pg_catalog.pg_relation_filenode(%s)' END, c.index_relation),
        'has_main', (c.index_relation <> 0)::text,
        -- The path for filters about which nothing has been learned yet.
        'unlearned_path', CASE WHEN c.index_relation = 0 THEN format('vectuned._partial_default(%s, filter, fraction, k)', c.id)
            ELSE format('(SELECT o.access_path, %s AS index_no, o.effort FROM vectuned._filtered_default('
                        'fraction, %s::pg_catalog.regclass, k, %s, %s) o)', m.index_no, c.relation::oid, d.ef, d.probes) END,
        -- An index that no longer exists has no properties.
        'main_exists', CASE WHEN m.known THEN format('pg_catalog.pg_index_has_property(%s, ''clusterable'') IS NOT NULL',
                                                     m.index_relation) ELSE 'false' END,
        'index_serves', format('CASE%s ELSE false END', s.serves),
        'other_ef', CASE WHEN s.has_hnsw THEN ', pg_catalog.set_config(''hnsw.ef_search'', ''1000'', true)' ELSE '' END)
    FROM main m CROSS JOIN cases s
    CROSS JOIN LATERAL (SELECT CASE WHEN m.lists IS NULL THEN c.default_ef::text ELSE 'NULL' END AS ef,
                               CASE WHEN m.lists IS NULL THEN 'NULL' ELSE least(c.default_probes, m.lists)::text END AS probes) d
$$;

-- The tag of a dollar quote that none of the texts holds.
CREATE OR REPLACE FUNCTION vectuned._unused_tag(tokens jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tag text := 'search';
BEGIN
    WHILE EXISTS (SELECT FROM jsonb_each_text(tokens) t WHERE position('$' || tag || '$' IN t.value) > 0) LOOP
        tag := tag || '_';
    END LOOP;
    RETURN tag;
END
$$;

-- A template with its tokens replaced, in one pass: a name may hold text that looks like another token.
CREATE OR REPLACE FUNCTION vectuned._fill_template(template text, tokens jsonb) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(p.part || coalesce(tokens ->> p.token[1], ''), '' ORDER BY p.place)
    FROM (SELECT replace(template, '$@$', '$' || vectuned._unused_tag(tokens) || '$') AS text) t
    CROSS JOIN LATERAL ROWS FROM (regexp_split_to_table(t.text, '\{[a-z_]+\}'), regexp_matches(t.text, '\{([a-z_]+)\}', 'g'))
        WITH ORDINALITY AS p (part, token, place)
$$;

-- Creates or replaces the two search functions of a column. It runs with the owner's rights, because only the schema's
-- owner may create functions in it. It reads catalogs and vectuned's own tables alone; every name it writes into SQL is
-- quoted or comes from a catalog, except markers, which it checks.
CREATE OR REPLACE FUNCTION vectuned._generate(column_id int) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    c vectuned.tuned_column;
    tokens jsonb;
    counter text;
BEGIN
    SELECT * INTO STRICT c FROM vectuned.tuned_column t WHERE t.id = column_id;
    PERFORM '[1]'::@extschema@.vector;  -- loads pgvector, whose settings the functions set
    PERFORM vectuned._check_markers(c);
    -- They count the sampled searches that were not recorded (_count_refused) and those that never are (_count_unrecordable).
    -- CREATE ... IF NOT EXISTS would send the caller a notice.
    FOREACH counter IN ARRAY ARRAY['_refused_', '_unrecordable_'] LOOP
        IF to_regclass(format('vectuned.%I', counter || c.id)) IS NULL THEN
            EXECUTE format('CREATE UNLOGGED SEQUENCE vectuned.%I', counter || c.id);
        END IF;
    END LOOP;
    tokens := vectuned._column_tokens(c) || vectuned._index_tokens(c);
    EXECUTE vectuned._fill_template(vectuned._search_template(), tokens);
    EXECUTE vectuned._fill_template(vectuned._filtered_template(), tokens);
    EXECUTE format('GRANT EXECUTE ON FUNCTION vectuned.%I, vectuned.%I TO PUBLIC', '_search_' || c.id, '_filtered_' || c.id);
END
$$;

-- Drops the functions of a column that is no longer tuned.
CREATE OR REPLACE FUNCTION vectuned._drop_generated(p_column_id int) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF p_column_id IS NULL OR EXISTS (SELECT FROM vectuned.tuned_column t WHERE t.id = p_column_id) THEN
        RAISE EXCEPTION 'column % is still tuned', coalesce(p_column_id::text, 'NULL')
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call vectuned.disable with forget => true.';
    END IF;
    EXECUTE format('DROP FUNCTION IF EXISTS vectuned.%I(@extschema@.vector, int, text)', '_search_' || p_column_id);
    EXECUTE format('DROP FUNCTION IF EXISTS vectuned.%I(@extschema@.vector, int, jsonb, text)', '_filtered_' || p_column_id);
    EXECUTE format('DROP SEQUENCE IF EXISTS vectuned.%I, vectuned.%I', '_refused_' || p_column_id, '_unrecordable_' || p_column_id);
END
$$;

-- Generates the functions of every column again: after an upgrade, or after a restore, which gives indexes new oids.
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
            PERFORM vectuned._update_column(c.id, true);
        EXCEPTION WHEN undefined_table OR undefined_column OR undefined_object OR wrong_object_type
                       OR insufficient_privilege THEN
            RAISE WARNING 'skipped the tuned column % of %: %', c.column_name, c.relation, SQLERRM;
        END;
    END LOOP;
    PERFORM vectuned._generate_dispatch();
END
$$;
