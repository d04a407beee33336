-- Rungs of effort, classes of k, and the way from a position on the ladder to an ef_search.
-- learning/ladder.py holds the same numbers; a test compares the two.

-- Loads pgvector: without it only a superuser could attach its settings to the functions that follow.
SELECT '[1]'::@extschema@.vector;

CREATE OR REPLACE FUNCTION vectuned._rungs() RETURNS int[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN ARRAY[10, 14, 20, 28, 40, 56, 80, 112, 160, 224, 320, 448, 640, 1000];

CREATE OR REPLACE FUNCTION vectuned._k_class(k int) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN k <= 1 THEN 1 WHEN k <= 3 THEN 3 WHEN k <= 10 THEN 10 WHEN k <= 30 THEN 30
            WHEN k <= 100 THEN 100 WHEN k <= 300 THEN 300 ELSE 1000 END;

-- Between two rungs the effort is interpolated linearly; never under k, never over the highest rung, which is
-- pgvector's 1000. The same with the rungs of an IVFFlat index and k = 1 gives probes. NULL for
-- an effort that is no number, so that a broken bank falls back on the fixed setting and not on the dearest.
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
