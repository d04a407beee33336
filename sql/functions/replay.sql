-- Searches once more with one continued scan and reports what every rung of effort saw and cost.

-- distances: in the order the scan gave them; counts[i]: how many of them had come at rungs[i];
-- blocks: buffers of the index fetched so far; ms: time so far. The plan is checked, not assumed.
-- Of a filtered search, whose condition this scan does not apply: matched says which rows meet it, exact_ms how
-- long the exact answer through the filter took.
-- Unless every rung is wanted, the scan ends at the rung where nothing more can be learned: goal rows no farther
-- than bound were seen, and of a filtered search filter_goal matching rows within filter_bound, or the scan took
-- half as long again as the exact answer. The arrays then end there.
CREATE OR REPLACE FUNCTION vectuned._replay(
    p_column_id int, query @extschema@.vector, rungs int[], condition text DEFAULT NULL, k int DEFAULT 10,
    goal int DEFAULT NULL, bound float8 DEFAULT NULL, filter_goal int DEFAULT NULL, filter_bound float8 DEFAULT NULL,
    OUT distances float8[], OUT counts int[], OUT blocks float8[], OUT ms float8[], OUT matched boolean[],
    OUT exact_ms float8)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET enable_sort = off
SET enable_seqscan = off
SET jit = off
SET hnsw.iterative_scan = relaxed_order
SET hnsw.ef_search = 40
SET hnsw.max_scan_tuples = 20000
SET hnsw.scan_mem_multiplier = 4
AS $$
DECLARE
    c vectuned.tuned_column;
    f record;
    statement text;
    plan json;
    used text;
    scan refcursor;
    rung int;
    reached int := 0;
    row_distance float8;
    row_matches boolean;
    hits int := 0;
    filter_hits int := 0;
    n int := 0;
    blocks_before bigint;
    started timestamptz;
BEGIN
    SELECT * INTO STRICT c FROM vectuned.tuned_column t WHERE t.id = p_column_id;
    SELECT * INTO f FROM vectuned._fragments(c);
    statement := format('SELECT %1$s, coalesce((%4$s), false) FROM %2$s t WHERE %3$s ORDER BY %1$s',
        f.distance, f.relation, f.present, coalesce(condition, 'true'));
    EXECUTE 'EXPLAIN (FORMAT JSON) ' || statement INTO plan USING query;
    used := plan -> 0 -> 'Plan' ->> 'Index Name';
    IF used IS NULL OR used IS DISTINCT FROM (SELECT r.relname FROM pg_class r WHERE r.oid = c.index_relation) THEN
        RAISE EXCEPTION 'a replay on %.% should scan index %, but the plan is % %', c.relation, c.column_name,
            c.index_relation::regclass, plan -> 0 -> 'Plan' ->> 'Node Type', coalesce('on ' || used, '')
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'Run vectuned.enable again if the column has another index now.';
    END IF;

    IF condition IS NOT NULL THEN
        PERFORM set_config('enable_sort', 'on', true), set_config('enable_seqscan', 'on', true);
        started := clock_timestamp();
        EXECUTE f.every_head || condition || f.every_tail USING query, k;
        exact_ms := extract(epoch FROM clock_timestamp() - started)::float8 * 1000;
        PERFORM set_config('enable_sort', 'off', true), set_config('enable_seqscan', 'off', true);
    END IF;

    PERFORM set_config('hnsw.ef_search', rungs[1]::text, true);
    blocks_before := pg_stat_get_xact_blocks_fetched(c.index_relation);
    started := clock_timestamp();
    OPEN scan NO SCROLL FOR EXECUTE statement USING query;
    FOREACH rung IN ARRAY rungs LOOP
        IF reached > 0 THEN
            PERFORM set_config('hnsw.ef_search', (rung - reached)::text, true);
        END IF;
        FOR i IN 1 .. rung - reached LOOP
            FETCH scan INTO row_distance, row_matches;
            EXIT WHEN NOT found;
            n := n + 1;
            distances[n] := row_distance;
            hits := hits + (row_distance <= bound)::int;
            IF condition IS NOT NULL THEN
                matched[n] := row_matches;
                filter_hits := filter_hits + (row_matches AND row_distance <= filter_bound)::int;
            END IF;
        END LOOP;
        reached := rung;
        counts := counts || n;
        blocks := blocks || (pg_stat_get_xact_blocks_fetched(c.index_relation) - blocks_before)::float8;
        ms := ms || extract(epoch FROM clock_timestamp() - started)::float8 * 1000;
        EXIT WHEN hits >= goal AND (condition IS NULL OR filter_hits >= filter_goal
                                    OR ms[cardinality(ms)] > 1.5 * exact_ms);
    END LOOP;
    CLOSE scan;
END
$$;
