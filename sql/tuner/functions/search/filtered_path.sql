-- Which access path answers a filtered search.

-- Selectivity bucket: floor(-2 log2(matching share)), from 0 (over 70 % match) to 39 (almost none).
-- learning/policy/filtering.py computes the same.
CREATE OR REPLACE FUNCTION vectuned._filter_bucket(fraction float8) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN fraction <= 0 THEN 39
            ELSE least(greatest(pg_catalog.floor(-2 * pg_catalog.ln(fraction) / pg_catalog.ln(2::float8)), 0), 39)::int END;

-- The access path learned for filters of this shape and selectivity: the cheapest proven one, but a partial index that
-- is proven cheaper than exact search comes first. No row if nothing has been learned about such filters.
CREATE OR REPLACE FUNCTION vectuned._served_path(
    p_column_id int, p_k_class int, filter jsonb, p_shape text, fraction float8)
RETURNS TABLE (access_path text, index_no int, effort int, expected_recall float8, recall_bound float8, ms float8, samples int)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT p.access_path, p.index_no, p.effort, p.expected_recall, p.recall_bound, p.ms, p.samples
    FROM vectuned.measured_path p
    WHERE p.column_id = p_column_id AND p.k_class = p_k_class AND p.serves AND p.shape = p_shape
      AND p.bucket = vectuned._filter_bucket(fraction / p.share) AND (p.requires IS NULL OR filter @> p.requires)
    ORDER BY p.requires IS NULL, p.ms LIMIT 1;
END;

-- The highest effort of any column, NULL for no cap. The daemon replaces the function to apply its configuration
-- (_cap_efforts): a constant costs searches nothing.
CREATE OR REPLACE FUNCTION vectuned._effort_cap() RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN NULL::int;

-- Sets the highest effort of any column; 0 or NULL lifts the cap.
CREATE OR REPLACE FUNCTION vectuned._cap_efforts(cap int) RETURNS void
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned._check_range('max_effort', coalesce(cap, 0), 0, 1000000);
    IF nullif(cap, 0) IS DISTINCT FROM vectuned._effort_cap() THEN
        EXECUTE format('CREATE OR REPLACE FUNCTION vectuned._effort_cap() RETURNS int LANGUAGE sql IMMUTABLE '
                       'PARALLEL SAFE SET search_path = pg_catalog, pg_temp RETURN %s::int', coalesce(nullif(cap, 0)::text, 'NULL'));
    END IF;
END
$$;

-- The access path for filters about which nothing has been learned: exact search if up to 10,000 rows match, otherwise the
-- main index, with three times the effort at which k rows would match if filter and query were independent. An ef_search
-- rises to ten times the default at most, and no effort above the column's or the daemon's max_effort: where that is less, the scan goes on
-- only until k rows match, so that nothing unproven costs more than it has to. share: of the table's rows, those in the index,
-- which is 1 unless the index is partial.
CREATE OR REPLACE FUNCTION vectuned._filtered_default(
    fraction float8, relation regclass, k int, default_ef int, default_probes int, share float8 DEFAULT 1,
    OUT access_path text, OUT effort int)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rows float8;
    wanted float8;
    cap int;
BEGIN
    access_path := 'exact';
    SELECT r.reltuples INTO rows FROM pg_class r WHERE r.oid = relation;
    IF rows < 0 THEN
        -- Never analyzed. Autovacuum analyzes the partitions, but not the partitioned table.
        SELECT sum(greatest(r.reltuples, 0)) INTO rows
        FROM pg_partition_tree(relation) t JOIN pg_class r ON r.oid = t.relid WHERE t.isleaf;
    END IF;
    IF fraction <= 0 OR fraction * coalesce(rows, 0) <= 10000 THEN
        RETURN;
    END IF;
    SELECT least(min(t.max_effort), vectuned._effort_cap()) INTO cap FROM vectuned.tuned_column t WHERE t.relation = $2;
    IF default_probes IS NULL THEN
        wanted := greatest(default_ef, ceil(3 * k * share / fraction));
        effort := least(wanted, greatest(least(10 * default_ef, cap, 1000), k));
        access_path := CASE WHEN effort < wanted THEN 'hnsw_continued' ELSE 'hnsw' END;
    ELSE
        access_path := 'ivfflat';
        effort := least(3 * default_probes, cap);
    END IF;
END
$$;

-- The default path for a column without an index over all rows: the smallest partial index whose predicate the filter implies.
-- If there is none, exact search.
CREATE OR REPLACE FUNCTION vectuned._partial_default(
    p_column_id int, filter jsonb, fraction float8, k int, OUT access_path text, OUT index_no int, OUT effort int)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(d.access_path, 'exact'), i.index_no, d.effort
    FROM vectuned.tuned_column c
    LEFT JOIN LATERAL (
        SELECT t.index_no, t.share, t.lists FROM vectuned.tuned_index t JOIN pg_class r ON r.oid = t.index_relation
        WHERE t.column_id = c.id AND filter @> t.requires ORDER BY t.share, t.index_no LIMIT 1) i ON true
    LEFT JOIN LATERAL vectuned._filtered_default(
        fraction, c.relation, k, CASE WHEN i.lists IS NULL THEN c.default_ef END,
        CASE WHEN i.lists IS NOT NULL THEN least(greatest(c.default_probes, ceil(sqrt(i.lists))::int), i.lists) END, i.share) d
        ON i.index_no IS NOT NULL
    WHERE c.id = p_column_id
$$;
