-- Searches once more through one index and reports what every rung of effort saw and cost.

-- An HNSW index is scanned once, the scan continued from rung to rung: distances are in the order the scan gave them
-- and counts[i] is how many of them had come at rungs[i], and entries[i] how many the index had given by then: more,
-- where it still holds rows that are dead. That scan does not apply the condition of a filtered search;
-- matched says which rows meet it. IVFFlat and the indexes of partitioned tables cannot be widened, they are searched
-- anew at every rung, the condition applied, for depth rows: counts[i] is where the distances of rungs[i] end.
-- Distances are those of the stored vectors, whatever the index compares.
-- blocks: buffers of the index fetched so far; ms: time so far (of a search anew: its own). The plan is checked.
-- Unless every rung is wanted, it ends where nothing more can be learned: goal rows no farther than bound were seen
-- (of a filtered search filter_goal matching rows within filter_bound as well), or it took half as long again as the
-- exact answer through the filter, exact_ms, which is measured here unless it is known. The arrays then end there.
-- thorough: of a filtered search, also what has no rungs: the planner's own choice, and two scans that go on until
-- they found k rows. other_distances are ended by other_counts, as above.
CREATE OR REPLACE FUNCTION vectuned._replay(
    p_column_id int, p_index_no int, query @extschema@.vector, rungs int[], condition text DEFAULT NULL,
    k int DEFAULT 10, depth int DEFAULT 100, goal int DEFAULT NULL, bound float8 DEFAULT NULL,
    filter_goal int DEFAULT NULL, filter_bound float8 DEFAULT NULL, thorough boolean DEFAULT false,
    known_exact_ms float8 DEFAULT NULL,
    OUT distances float8[], OUT counts int[], OUT blocks float8[], OUT ms float8[], OUT matched boolean[],
    OUT exact_ms float8, OUT other_distances float8[], OUT other_counts int[], OUT other_ms float8[], OUT entries bigint[])
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
AS $$
DECLARE
    c vectuned.tuned_column;
    i vectuned.tuned_index;
    f record;
    n record;
    anew boolean;
    required text := 'true';
    statement text;
    plan json;
    found_distances float8[];
    scan refcursor;
    rung int;
    reached int := 0;
    row_distance float8;
    row_matches boolean;
    hits int := 0;
    filter_hits int := 0;
    total int := 0;
    blocks_before bigint;
    entries_before bigint;
    started timestamptz;
BEGIN
    SELECT * INTO STRICT c FROM vectuned.tuned_column t WHERE t.id = p_column_id;
    SELECT * INTO STRICT i FROM vectuned.tuned_index t WHERE t.column_id = p_column_id AND t.index_no = p_index_no;
    SELECT * INTO f FROM vectuned._fragments(c);
    SELECT * INTO n FROM vectuned._index_fragments(c, i);
    anew := i.method = 'ivfflat' OR (SELECT r.relkind = 'I' FROM pg_class r WHERE r.oid = i.index_relation);
    IF i.requires IS NOT NULL THEN
        SELECT m.condition INTO required FROM vectuned._compile_filter(c.id, c.relation, i.requires) m;
    END IF;
    statement := CASE WHEN anew
        THEN format('SELECT %1$s AS distance FROM %2$s t WHERE %3$s AND %4$s AND %5$s ORDER BY %6$s LIMIT %7$s',
            f.distance, f.relation, n.narrow, required,
            vectuned._condition_for(i, coalesce(condition, 'true')), n.ordering,
            -- Of signs as many rows are ranked by their distances as a search takes.
            CASE i.form WHEN 'plain' THEN depth::text WHEN 'halfvec' THEN (depth + depth / 10 + 5)::text ELSE '$2' END)
        ELSE format('SELECT %1$s, coalesce((%5$s), false) FROM %2$s t WHERE %3$s AND %4$s ORDER BY %6$s',
            f.distance, f.relation, n.narrow, required, coalesce(condition, 'true'), n.ordering) END;
    -- At the highest effort, and indexes of the other method looking costly: vectuned._takes_index says why.
    IF i.method = 'ivfflat' THEN
        PERFORM set_config('ivfflat.probes', rungs[cardinality(rungs)]::text, true);
    END IF;
    EXECUTE 'EXPLAIN (FORMAT JSON) ' || statement INTO plan USING query, 1000;
    IF NOT vectuned._plan_reads(plan, i.index_relation) THEN
        RAISE EXCEPTION 'a replay on %.% should scan index %, but the plan is % %', c.relation, c.column_name,
            i.index_relation::regclass, plan -> 0 -> 'Plan' ->> 'Node Type',
            coalesce('on ' || nullif(array_to_string(vectuned._plan_indexes(plan), ', '), ''), '')
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Run vectuned.enable again if the column has another index now.';
    END IF;

    exact_ms := known_exact_ms;
    IF condition IS NOT NULL AND (exact_ms IS NULL OR thorough) THEN
        PERFORM set_config('enable_sort', 'on', true), set_config('enable_seqscan', 'on', true),
                set_config('enable_bitmapscan', 'on', true);
        started := clock_timestamp();
        EXECUTE f.every_head || condition || f.every_tail USING query, k;
        exact_ms := coalesce(exact_ms, extract(epoch FROM clock_timestamp() - started)::float8 * 1000);
        IF thorough THEN
            FOR attempt IN 1 .. 3 LOOP
                PERFORM set_config('hnsw.iterative_scan', CASE attempt WHEN 1 THEN 'off' ELSE 'relaxed_order' END, true),
                        set_config('hnsw.ef_search', greatest(k, CASE attempt WHEN 1 THEN c.default_ef WHEN 2 THEN 200 ELSE 800 END)::text, true),
                        set_config('hnsw.max_scan_tuples', CASE attempt WHEN 3 THEN '80000' ELSE '20000' END, true),
                        set_config('ivfflat.probes', c.default_probes::text, true),
                        set_config('enable_sort', CASE attempt WHEN 1 THEN 'on' ELSE 'off' END, true);
                started := clock_timestamp();
                EXECUTE format('SELECT array_agg(n.distance) FROM (SELECT %1$s AS distance FROM %2$s t WHERE %3$s AND %4$s '
                               'ORDER BY %5$s LIMIT $2) n', f.distance, f.relation, n.narrow, condition, n.ordering)
                INTO found_distances USING query, k;
                other_ms := other_ms || extract(epoch FROM clock_timestamp() - started)::float8 * 1000;
                other_distances := other_distances || found_distances;
                other_counts := other_counts || coalesce(cardinality(other_distances), 0);
                -- A scan that goes on takes at least twice as long each time: not tried where exact search is quicker.
                EXIT WHEN i.method = 'ivfflat' OR exact_ms < 2 * other_ms[attempt];
            END LOOP;
            PERFORM set_config('hnsw.iterative_scan', 'relaxed_order', true), set_config('hnsw.max_scan_tuples', '20000', true),
                    set_config('hnsw.ef_search', '1000', true), set_config('ivfflat.probes', '32768', true);
        END IF;
        PERFORM set_config('enable_sort', 'off', true), set_config('enable_seqscan', 'off', true),
                set_config('enable_bitmapscan', 'off', true);
    END IF;

    IF anew THEN
        PERFORM set_config('hnsw.iterative_scan', 'off', true);
        FOREACH rung IN ARRAY rungs LOOP
            PERFORM set_config(CASE i.method WHEN 'ivfflat' THEN 'ivfflat.probes' ELSE 'hnsw.ef_search' END, rung::text, true);
            blocks_before := pg_stat_get_xact_blocks_fetched(i.index_relation);
            started := clock_timestamp();
            EXECUTE format('SELECT array_agg(s.distance ORDER BY s.distance) FROM (%s) s', statement)
            INTO found_distances USING query, rung;
            ms := ms || extract(epoch FROM clock_timestamp() - started)::float8 * 1000;
            blocks := blocks || (pg_stat_get_xact_blocks_fetched(i.index_relation) - blocks_before)::float8;
            distances := distances || found_distances;
            counts := counts || coalesce(cardinality(distances), 0);
            SELECT count(*) FILTER (WHERE d <= bound), count(*) FILTER (WHERE d <= filter_bound) INTO hits, filter_hits
            FROM unnest(found_distances) d;
            EXIT WHEN CASE WHEN condition IS NULL THEN hits >= goal
                      ELSE filter_hits >= filter_goal OR goal IS NOT NULL AND ms[cardinality(ms)] > 1.5 * exact_ms END;
        END LOOP;
        RETURN;
    END IF;

    PERFORM set_config('hnsw.ef_search', rungs[1]::text, true);
    blocks_before := pg_stat_get_xact_blocks_fetched(i.index_relation);
    entries_before := pg_stat_get_xact_tuples_returned(i.index_relation);
    started := clock_timestamp();
    OPEN scan NO SCROLL FOR EXECUTE statement USING query;
    FOREACH rung IN ARRAY rungs LOOP
        IF reached > 0 THEN
            PERFORM set_config('hnsw.ef_search', (rung - reached)::text, true);
        END IF;
        FOR place IN 1 .. rung - reached LOOP
            FETCH scan INTO row_distance, row_matches;
            EXIT WHEN NOT found;
            total := total + 1;
            distances[total] := row_distance;
            hits := hits + (row_distance <= bound)::int;
            IF condition IS NOT NULL THEN
                matched[total] := row_matches;
                filter_hits := filter_hits + (row_matches AND row_distance <= filter_bound)::int;
            END IF;
        END LOOP;
        reached := rung;
        counts := counts || total;
        entries := entries || (pg_stat_get_xact_tuples_returned(i.index_relation) - entries_before);
        blocks := blocks || (pg_stat_get_xact_blocks_fetched(i.index_relation) - blocks_before)::float8;
        ms := ms || extract(epoch FROM clock_timestamp() - started)::float8 * 1000;
        EXIT WHEN goal IS NOT NULL AND (hits >= goal OR required <> 'true')
              AND (condition IS NULL OR filter_hits >= filter_goal OR ms[cardinality(ms)] > 1.5 * exact_ms);
    END LOOP;
    CLOSE scan;
END
$$;
