-- The ladder: rungs of effort, classes of k, and ef_search or probes by position on the ladder.
-- learning/model/ladder.py holds the same numbers; a test compares the two.

-- Loads pgvector: until it is loaded only superusers may name its settings in SET clauses of functions.
SELECT '[1]'::@extschema@.vector;

-- The values of ef_search that replays measure: steps of about sqrt(2), from 10 to pgvector's limit.
CREATE OR REPLACE FUNCTION vectuned._rungs() RETURNS int[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN ARRAY[10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 1000];

-- The class of k: the smallest of 1, 3, 10, 30, 100, 300 and 1000 that is at least k. A class shares its policy.
CREATE OR REPLACE FUNCTION vectuned._k_class(k int) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN k <= 1 THEN 1 WHEN k <= 3 THEN 3 WHEN k <= 10 THEN 10 WHEN k <= 30 THEN 30
            WHEN k <= 100 THEN 100 WHEN k <= 300 THEN 300 ELSE 1000 END;

-- The ef_search at a position on the ladder, interpolated linearly between rungs; at least k, at most the highest rung,
-- 1000, which is pgvector's limit. With the rungs of an IVFFlat index and k = 1 it returns probes. NULL if the effort is not
-- finite, so that a broken bank falls back to the fixed setting instead of the most expensive one.
CREATE OR REPLACE FUNCTION vectuned._ef_search(effort float8, k int, p_rungs int[] DEFAULT NULL) RETURNS int
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rungs constant int[] := coalesce(p_rungs, vectuned._rungs());
    highest constant int := cardinality(rungs) - 1;
    position constant float8 := least(greatest(effort, 0), highest);
    low constant int := least(floor(position)::int, highest - 1);
BEGIN
    IF (abs(effort) < 'Infinity') IS NOT TRUE THEN
        RETURN NULL;
    END IF;
    RETURN least(greatest(
        round(rungs[low + 1] + (position - low) * (rungs[low + 2] - rungs[low + 1]))::int, k), rungs[highest + 1]);
END
$$;
