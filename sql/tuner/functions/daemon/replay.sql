-- Counterfactual replay: runs one recorded search again through one index and reports what it would have seen, and what
-- it would have cost, at every rung of effort.

-- Milliseconds since a time of clock_timestamp().
CREATE OR REPLACE FUNCTION vectuned._elapsed_ms(started timestamptz) RETURNS float8
LANGUAGE sql VOLATILE
RETURN extract(epoch FROM clock_timestamp() - started)::float8 * 1000;

-- The statement that is replayed; $1 is the query vector. A continued scan fetches the distance of every row and whether
-- it meets the condition. A restarted scan applies the condition and fetches `depth` rows, or as many more as a search
-- fetches from an index that orders by less than the distance; $2 is the effort.
CREATE OR REPLACE FUNCTION vectuned._replay_statement(
    c vectuned.tuned_column, i vectuned.tuned_index, condition text, required text, resumable boolean, depth int) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    f record;
    n record;
BEGIN
    SELECT * INTO f FROM vectuned._fragments(c);
    SELECT * INTO n FROM vectuned._index_fragments(c, i);
    IF resumable THEN
        RETURN format('SELECT %s AS distance, coalesce((%s), false) AS matches FROM %s t WHERE %s AND %s ORDER BY %s',
                      f.distance, condition, f.relation, n.narrow, required, n.ordering);
    END IF;
    RETURN format('SELECT %s AS distance FROM %s t WHERE %s AND %s AND %s ORDER BY %s LIMIT %s',
                  f.distance, f.relation, n.narrow, required, vectuned._condition_for(i, condition), n.ordering,
                  CASE i.form WHEN 'plain' THEN depth::text
                              WHEN 'halfvec' THEN (depth + depth / 10 + 5)::text
                              -- Of an index on signs, a search ranks as many rows by their distances as its effort.
                              ELSE '$2' END);
END
$$;

-- Raises an error unless the planner takes the index for a statement, with the settings of the caller. A resumable statement
-- is planned as a cursor, which it is run as: the planner then looks for the first rows only.
CREATE OR REPLACE FUNCTION vectuned._check_replay_plan(
    c vectuned.tuned_column, i vectuned.tuned_index, statement text, resumable boolean, query @extschema@.vector) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT JSON) ' || CASE WHEN resumable THEN 'DECLARE scan NO SCROLL CURSOR FOR ' ELSE '' END || statement
    INTO plan USING query, 1000;
    IF NOT vectuned._plan_reads(plan, i.index_relation) THEN
        RAISE EXCEPTION 'a replay on %.% should scan index %, but the plan is % %', c.relation, c.column_name,
            i.index_relation::regclass, plan -> 0 -> 'Plan' ->> 'Node Type',
            coalesce('on ' || nullif(array_to_string(vectuned._plan_indexes(plan), ', '), ''), '')
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('SELECT vectuned.refresh(%L, %L) lists the indexes again.', c.relation, c.column_name);
    END IF;
END
$$;

-- Milliseconds that the exact answer of a filtered search takes, without the vector index.
CREATE OR REPLACE FUNCTION vectuned._replay_exact(c vectuned.tuned_column, query @extschema@.vector, condition text, k int)
RETURNS float8
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_sort = on
SET enable_seqscan = on
SET enable_bitmapscan = on
AS $$
DECLARE
    f record;
    started timestamptz;
BEGIN
    SELECT * INTO f FROM vectuned._fragments(c);
    started := clock_timestamp();
    EXECUTE f.every_head || condition || f.every_tail USING query, k;
    RETURN vectuned._elapsed_ms(started);
END
$$;

-- Answers a filtered search by the access paths that have no rungs: the planner's own choice, and iterative scans that go on
-- until they found k matching rows. counts[n] is where the distances of the n-th end, ms[n] how long it took. They ascend in
-- effort, and so in time: none is tried once exact search is quicker than the scan before. The statement is plain SQL, so
-- the planner may take a partial index whose predicate the condition implies.
-- Settings of a role cannot choose exact search for a statement of an application. If there are such statements, all efforts
-- are tried that the planner, free to choose, does not sort instead: takes_index[n] says whether it scans a vector index.
-- Otherwise takes_index is NULL.
CREATE OR REPLACE FUNCTION vectuned._replay_other_paths(
    c vectuned.tuned_column, i vectuned.tuned_index, query @extschema@.vector, condition text, k int, exact_ms float8,
    OUT distances float8[], OUT counts int[], OUT ms float8[], OUT takes_index boolean[])
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_sort = on
SET enable_seqscan = on
SET enable_bitmapscan = on
SET hnsw.iterative_scan = off
SET hnsw.ef_search = 40
SET hnsw.max_scan_tuples = 20000
SET ivfflat.iterative_scan = off
SET ivfflat.max_probes = 32768
SET ivfflat.probes = 1
AS $$
DECLARE
    f record;
    n record;
    path record;
    statement text;
    plan json;
    started timestamptz;
    path_distances float8[];
    for_statements constant boolean := EXISTS (
        SELECT FROM vectuned.statement s WHERE s.column_id = c.id AND s.shape <> '' AND NOT s.as_text);
BEGIN
    SELECT * INTO f FROM vectuned._fragments(c);
    SELECT * INTO n FROM vectuned._index_fragments(c, i);
    statement := format('SELECT array_agg(n.distance) FROM (SELECT %s AS distance FROM %s t WHERE %s AND %s ORDER BY %s LIMIT $2) n',
                        f.distance, f.relation, n.narrow, condition, n.ordering);
    PERFORM set_config('ivfflat.probes', c.default_probes::text, true);
    -- The efforts of learning/model/scan_settings.py; a test compares the two.
    FOR path IN
        SELECT p.number, p.effort
        FROM unnest(CASE i.method WHEN 'ivfflat' THEN ARRAY[NULL, 1, 3, 8, 20, 50]
                                  ELSE ARRAY[NULL, 40, 80, 140, 240, 400, 800] END) WITH ORDINALITY AS p (effort, number)
        ORDER BY p.number
    LOOP
        IF path.effort IS NULL THEN
            PERFORM set_config('hnsw.ef_search', greatest(k, c.default_ef)::text, true);
        ELSIF i.method = 'ivfflat' THEN
            PERFORM set_config('ivfflat.iterative_scan', 'relaxed_order', true),
                    set_config('ivfflat.probes', path.effort::text, true);
        ELSE
            PERFORM set_config('hnsw.iterative_scan', 'relaxed_order', true),
                    set_config('hnsw.ef_search', greatest(k, path.effort)::text, true),
                    set_config('hnsw.max_scan_tuples', greatest(20000, 100 * path.effort)::text, true);
        END IF;
        IF for_statements THEN
            PERFORM set_config('enable_sort', 'on', true);
            EXECUTE concat('EXPLAIN (FORMAT JSON) ', statement) INTO plan USING query, k;
            takes_index := takes_index || (strpos(plan::text, '"Order By":') > 0);
        END IF;
        IF path.effort IS NOT NULL THEN
            PERFORM set_config('enable_sort', 'off', true);
        END IF;
        started := clock_timestamp();
        EXECUTE statement INTO path_distances USING query, k;
        ms := ms || vectuned._elapsed_ms(started);
        distances := distances || path_distances;
        counts := counts || coalesce(cardinality(distances), 0);
        EXIT WHEN path.effort IS NOT NULL AND exact_ms < ms[path.number] AND takes_index[path.number] IS NOT TRUE;
    END LOOP;
END
$$;

-- Searches once for every rung: IVFFlat indexes and the indexes of partitioned tables, whose scans cannot be continued.
-- distances holds the searches one after the other, each in ascending order, and counts[i] is where that of rungs[i]
-- ends. blocks and ms are those of each search by itself.
CREATE OR REPLACE FUNCTION vectuned._replay_restarted(
    i vectuned.tuned_index, statement text, query @extschema@.vector, rungs int[], filtered boolean,
    goal vectuned._scan_goal, exact_ms float8,
    OUT distances float8[], OUT counts int[], OUT blocks float8[], OUT ms float8[])
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET hnsw.iterative_scan = off
AS $$
DECLARE
    rung_setting constant text := CASE i.method WHEN 'ivfflat' THEN 'ivfflat.probes' ELSE 'hnsw.ef_search' END;
    rung int;
    rung_distances float8[];
    near int;
    near_filtered int;
    blocks_before bigint;
    started timestamptz;
BEGIN
    FOREACH rung IN ARRAY rungs LOOP
        PERFORM set_config(rung_setting, rung::text, true);
        blocks_before := pg_stat_get_xact_blocks_fetched(i.index_relation);
        started := clock_timestamp();
        EXECUTE format('SELECT array_agg(s.distance ORDER BY s.distance) FROM (%s) s', statement)
        INTO rung_distances USING query, rung;
        ms := ms || vectuned._elapsed_ms(started);
        blocks := blocks || (pg_stat_get_xact_blocks_fetched(i.index_relation) - blocks_before)::float8;
        distances := distances || rung_distances;
        counts := counts || coalesce(cardinality(distances), 0);
        SELECT count(*) FILTER (WHERE d <= goal.bound), count(*) FILTER (WHERE d <= goal.filter_bound)
        INTO near, near_filtered FROM unnest(rung_distances) d;
        EXIT WHEN CASE WHEN filtered
                  THEN near_filtered >= goal.filter_rows OR goal.rows IS NOT NULL AND ms[cardinality(ms)] > 1.5 * exact_ms
                  ELSE near >= goal.rows END;
    END LOOP;
END
$$;

-- Scans an HNSW index once and continues the scan from rung to rung. The scan does not apply the condition of a filtered
-- search: matched says of each distance whether its row meets it. distances are in the order of the scan, and counts[i]
-- of them had come at rungs[i]. entries[i] is how many entries the index had returned by then: more than counts[i] where
-- it still holds dead rows. blocks and ms count from the start of the scan.
CREATE OR REPLACE FUNCTION vectuned._replay_continued(
    i vectuned.tuned_index, statement text, query @extschema@.vector, rungs int[], filtered boolean,
    goal vectuned._scan_goal, exact_ms float8,
    OUT distances float8[], OUT counts int[], OUT blocks float8[], OUT ms float8[], OUT matched boolean[], OUT entries bigint[])
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET hnsw.ef_search = 40
AS $$
DECLARE
    scan refcursor;
    rung int;
    previous_rung int := 0;
    distance float8;
    matches boolean;
    total int := 0;
    near int := 0;
    near_filtered int := 0;
    blocks_before constant bigint := pg_stat_get_xact_blocks_fetched(i.index_relation);
    entries_before constant bigint := pg_stat_get_xact_tuples_returned(i.index_relation);
    started timestamptz;
BEGIN
    PERFORM set_config('hnsw.ef_search', rungs[1]::text, true);
    started := clock_timestamp();
    OPEN scan NO SCROLL FOR EXECUTE statement USING query;
    FOREACH rung IN ARRAY rungs LOOP
        IF previous_rung > 0 THEN
            PERFORM set_config('hnsw.ef_search', (rung - previous_rung)::text, true);
        END IF;
        FOR row_no IN 1 .. rung - previous_rung LOOP
            FETCH scan INTO distance, matches;
            EXIT WHEN NOT found;
            total := total + 1;
            distances[total] := distance;
            near := near + (distance <= goal.bound)::int;
            IF filtered THEN
                matched[total] := matches;
                near_filtered := near_filtered + (matches AND distance <= goal.filter_bound)::int;
            END IF;
        END LOOP;
        previous_rung := rung;
        counts := counts || total;
        entries := entries || (pg_stat_get_xact_tuples_returned(i.index_relation) - entries_before);
        blocks := blocks || (pg_stat_get_xact_blocks_fetched(i.index_relation) - blocks_before)::float8;
        ms := ms || vectuned._elapsed_ms(started);
        EXIT WHEN near >= goal.rows
              AND (NOT filtered OR near_filtered >= goal.filter_rows OR ms[cardinality(ms)] > 1.5 * exact_ms);
    END LOOP;
    CLOSE scan;
END
$$;

-- Runs one search by itself, as searches with a fixed effort do, at a rung drawn from those that the continued scan reached and
-- that are no less than k. fresh_place is NULL if there is none. A continued scan hands over its rows one by one and looks at
-- rows that such a search skips, so its own time says too much; _replay_exact and _replay_other_paths time statements.
CREATE OR REPLACE FUNCTION vectuned._replay_fresh(
    statement text, query @extschema@.vector, rungs int[], reached int, k int, OUT fresh_place int, OUT fresh_ms float8)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET hnsw.iterative_scan = off
SET hnsw.ef_search = 40
AS $$
DECLARE
    started timestamptz;
BEGIN
    SELECT u.place - 1 INTO fresh_place
    FROM unnest(rungs[:reached]) WITH ORDINALITY AS u (rung, place) WHERE u.rung >= k ORDER BY random() LIMIT 1;
    IF fresh_place IS NOT NULL THEN
        PERFORM set_config('hnsw.ef_search', rungs[fresh_place + 1]::text, true);
        started := clock_timestamp();
        EXECUTE format('SELECT array_agg(s.distance) FROM (%s) s', statement) USING query, rungs[fresh_place + 1];
        fresh_ms := vectuned._elapsed_ms(started);
    END IF;
END
$$;

-- Replays a search through one index, after checking that the plan scans it. Returns, by name:
--   distances, counts, blocks, ms, and for continued scans matched and entries: see _replay_continued and
--     _replay_restarted. Distances are those of the stored vectors, whatever the index compares; blocks are buffers of the
--     index.
--   exact_ms: milliseconds of the exact answer through the filter; measured unless known_exact_ms is given.
--   other_distances, other_counts, other_ms, takes_index: with `thorough`, of a filtered search; see _replay_other_paths.
--   fresh_place, fresh_ms: of a continued scan; see _replay_fresh.
-- Without `goal` the replay goes through every rung. With it, it stops at the first rung that leaves nothing to learn, and
-- the arrays end there: `goal` rows were seen within the distance `bound`, and of a filtered search also `filter_goal`
-- matching rows within `filter_bound`, or the scan took half as long again as the exact answer.
CREATE OR REPLACE FUNCTION vectuned._replay(
    p_column_id int, p_index_no int, query @extschema@.vector, rungs int[], condition text DEFAULT NULL,
    k int DEFAULT 10, depth int DEFAULT 100, goal int DEFAULT NULL, bound float8 DEFAULT NULL,
    filter_goal int DEFAULT NULL, filter_bound float8 DEFAULT NULL, thorough boolean DEFAULT false,
    known_exact_ms float8 DEFAULT NULL,
    OUT distances float8[], OUT counts int[], OUT blocks float8[], OUT ms float8[], OUT matched boolean[],
    OUT exact_ms float8, OUT other_distances float8[], OUT other_counts int[], OUT other_ms float8[], OUT entries bigint[],
    OUT fresh_place int, OUT fresh_ms float8, OUT takes_index boolean[])
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET enable_sort = off
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
SET hnsw.iterative_scan = relaxed_order
SET hnsw.ef_search = 1000
SET hnsw.max_scan_tuples = 20000
SET hnsw.scan_mem_multiplier = 4
SET ivfflat.iterative_scan = off
SET ivfflat.probes = 32768
SET cursor_tuple_fraction = 0.1
AS $$
DECLARE
    c vectuned.tuned_column;
    i vectuned.tuned_index;
    filtered constant boolean := condition IS NOT NULL;
    resumable boolean;
    required text := 'true';
    statement text;
    scan_goal vectuned._scan_goal := ROW(goal, bound, filter_goal, filter_bound);
    cheap text[];
    page_costs text[];
BEGIN
    SELECT * INTO STRICT c FROM vectuned.tuned_column t WHERE t.id = p_column_id;
    SELECT * INTO STRICT i FROM vectuned.tuned_index t WHERE t.column_id = p_column_id AND t.index_no = p_index_no;
    resumable := i.method = 'hnsw' AND NOT EXISTS (
        SELECT FROM pg_class r WHERE r.oid = i.index_relation AND r.relkind = 'I');
    IF i.requires IS NOT NULL THEN
        SELECT m.condition INTO required FROM vectuned._compile_filter(c.id, c.relation, i.requires) m;
    END IF;
    statement := vectuned._replay_statement(c, i, coalesce(condition, 'true'), required, resumable, depth);
    cheap := CASE WHEN vectuned._has_both_methods(c.relation) THEN '{0,0}'::text[] END;
    -- The plan is checked at the highest effort of a restarted scan and at the lowest of a continued one, at which it begins,
    -- while indexes of the other method look as costly as can be; see vectuned._takes_index.
    PERFORM set_config(CASE i.method WHEN 'ivfflat' THEN 'ivfflat.probes' ELSE 'hnsw.ef_search' END,
                       CASE WHEN resumable THEN rungs[1] ELSE rungs[cardinality(rungs)] END::text, true);
    page_costs := vectuned._set_page_costs(cheap);
    PERFORM vectuned._check_replay_plan(c, i, statement, resumable, query);
    PERFORM vectuned._set_page_costs(page_costs), set_config('hnsw.ef_search', '1000', true);

    exact_ms := known_exact_ms;
    IF filtered AND exact_ms IS NULL THEN
        exact_ms := vectuned._replay_exact(c, query, condition, k);
    END IF;
    IF filtered AND thorough THEN
        SELECT o.distances, o.counts, o.ms, o.takes_index INTO other_distances, other_counts, other_ms, takes_index
        FROM vectuned._replay_other_paths(c, i, query, condition, k, exact_ms) o;
    END IF;
    PERFORM vectuned._set_page_costs(cheap);
    IF resumable THEN
        IF required <> 'true' THEN
            scan_goal.rows := least(scan_goal.rows, 0);  -- a partial index does not hold the rows of the unfiltered answer
        END IF;
        SELECT s.distances, s.counts, s.blocks, s.ms, s.matched, s.entries INTO distances, counts, blocks, ms, matched, entries
        FROM vectuned._replay_continued(i, statement, query, rungs, filtered, scan_goal, exact_ms) s;
        SELECT s.fresh_place, s.fresh_ms INTO fresh_place, fresh_ms
        FROM vectuned._replay_fresh(vectuned._replay_statement(c, i, coalesce(condition, 'true'), required, false, k),
                                    query, rungs, cardinality(counts), k) s;
    ELSE
        SELECT s.distances, s.counts, s.blocks, s.ms INTO distances, counts, blocks, ms
        FROM vectuned._replay_restarted(i, statement, query, rungs, filtered, scan_goal, exact_ms) s;
    END IF;
    PERFORM vectuned._set_page_costs(page_costs);
END
$$;
