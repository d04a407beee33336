-- The template of _search_N, which answers the searches of column N. It uses static SQL, so that plans are kept.
-- vectuned._generate replaces the tokens in braces; $@$ becomes a dollar quote that none of the texts holds. The table is t,
-- its columns are always written t.column, and every other unqualified name is a variable.
-- Sampling: `started` is set for a random share of the searches, sample_rate; those are recorded at the end.
-- Speed: if each search is its own transaction, PL/pgSQL prepares every expression that it executes again, also the defaults
-- of variables: about 0.005 ms each, 0.02 ms with a subquery. So the common search, with a fixed ef_search, executes as few
-- as possible.

CREATE OR REPLACE FUNCTION vectuned._search_template() RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN $template$
CREATE OR REPLACE FUNCTION vectuned.{name}(query @extschema@.vector, k int)
RETURNS TABLE (id text, distance float8, query_id uuid)
LANGUAGE plpgsql STABLE ROWS 10
{settings}
SET enable_sort = off
AS $@$
#variable_conflict use_variable
DECLARE
    {query}-- When the search began, if it is in the sample to be recorded; otherwise NULL.
    started timestamptz := {started};
    recorded boolean;
    class int;
    path text;
    index_no int;
    ef int;
    probes int;
    rungs int[];
    version int;
    generation oid;
    probe_ef int;
    center float8[];
    weights float8[];
    reach float8;
    found_ids text[];
    found_distances float8[];
    found_id text;
    found_distance float8;
    total float8;
    probe_distances float8[];
    kth float8;
    class_distance float8;
    disordered boolean;
    rest int;
    signature @extschema@.vector;
    scan refcursor;
    -- Former values of two settings, changed only for continued scans. SET clauses of the function would cost every search.
    bounds text[];
BEGIN
    SELECT vectuned._k_class(k), b.access_path, coalesce(b.index_no, {main_no}), least(greatest(b.ef_search, k), 1000),
           b.probes, b.rungs, b.version, b.generation, b.probe_ef, b.center, b.weights, b.reach
    INTO class, path, index_no, ef, probes, rungs, version, generation, probe_ef, center, weights, reach
    FROM vectuned.bank b WHERE b.column_id = {id} AND b.k_class = vectuned._k_class(k);
    {check_index}
    IF path = 'hnsw' THEN
        PERFORM set_config('hnsw.ef_search', ef::text, true);
    ELSE
        IF path IS NULL THEN
            -- Nothing has been learned, or the index was dropped.
            class := vectuned._k_class(k);
            index_no := {main_no};
            ef := least(greatest({main_ef}, k), 1000);
            probes := {main_probes};
        END IF;
        IF path = 'hnsw_adaptive' AND probe_ef BETWEEN class + 4 AND 1000 AND generation = {main_generation} THEN
            -- Probe: the first rows of a relaxed scan. They come in order, and the search continues from them.
            bounds := ARRAY[current_setting('hnsw.max_scan_tuples'), current_setting('hnsw.scan_mem_multiplier')];
            PERFORM set_config('hnsw.iterative_scan', 'relaxed_order', true),
                    set_config('hnsw.max_scan_tuples', '20000', true), set_config('hnsw.scan_mem_multiplier', '4', true),
                    set_config('hnsw.ef_search', probe_ef::text, true);
            total := 0;
            kth := '-Infinity';
            OPEN scan NO SCROLL FOR
                SELECT {key}, {distance} FROM {relation} t WHERE {narrow} ORDER BY {distance};
            -- It reads the ranks of the class of k, as the searches did from which the patterns were learned.
            FOR i IN 1 .. class LOOP
                FETCH scan INTO found_id, found_distance;
                EXIT WHEN NOT FOUND;
                total := total + found_distance;
                IF i <= k THEN
                    found_ids[i] := found_id;
                    found_distances[i] := found_distance;
                    disordered := disordered OR found_distance < kth;
                    kth := greatest(kth, found_distance);
                ELSIF found_distance < kth THEN
                    found_ids := found_ids || found_id;
                    found_distances := found_distances || found_distance;
                END IF;
            END LOOP;
            class_distance := found_distance;
            rest := probe_ef - class;
            FETCH RELATIVE rest / 4 FROM scan INTO found_id, found_distance;
            probe_distances[1] := found_distance;
            FETCH RELATIVE rest / 2 - rest / 4 FROM scan INTO found_id, found_distance;
            probe_distances[2] := found_distance;
            FETCH RELATIVE rest * 3 / 4 - rest / 2 FROM scan INTO found_id, found_distance;
            probe_distances[3] := found_distance;
            FETCH RELATIVE rest - rest * 3 / 4 FROM scan INTO found_id, found_distance;
            IF FOUND THEN
                BEGIN
                    signature := vectuned._signature(found_distances[1], class_distance, probe_distances[1], probe_distances[2],
                                                     probe_distances[3], found_distance, total / class, center, weights);
                    ef := coalesce((SELECT vectuned._ef_search(d.effort, k)
                                    FROM vectuned._decide({id}, class, signature, reach) d), ef);
                EXCEPTION WHEN others THEN
                    NULL;
                END;
                IF ef > probe_ef THEN
                    PERFORM set_config('hnsw.ef_search', (ef - probe_ef)::text, true);
                    FOR i IN 1 .. ef - probe_ef LOOP
                        FETCH scan INTO found_id, found_distance;
                        -- A batch comes in order: no later row can be nearer.
                        EXIT WHEN NOT FOUND OR found_distance >= kth;
                        found_ids := found_ids || found_id;
                        found_distances := found_distances || found_distance;
                    END LOOP;
                ELSE
                    ef := probe_ef;
                END IF;
                IF disordered OR cardinality(found_ids) > k THEN
                    SELECT array_agg(n.id ORDER BY n.distance), array_agg(n.distance ORDER BY n.distance)
                    INTO found_ids, found_distances
                    FROM (SELECT u.id, u.distance
                          FROM unnest(found_ids, found_distances) AS u (id, distance)
                          ORDER BY u.distance LIMIT k) n;
                END IF;
            ELSE
                -- The scan ended, perhaps after several batches: skipped rows may be nearer, so search again.
                found_ids := NULL;
                found_distances := NULL;
            END IF;
            CLOSE scan;
        ELSE
            IF path = 'ivfflat_adaptive' AND probe_ef BETWEEN class + 4 AND 1000 AND generation = {main_generation} THEN
                -- Probe: the nearest list only. The scan cannot be continued; the search reads the list again.
                PERFORM set_config('ivfflat.probes', '1', true), set_config('hnsw.ef_search', '1000', true);
                SELECT array_agg(n.distance) INTO probe_distances
                FROM (SELECT {distance} AS distance FROM {relation} t WHERE {narrow} ORDER BY {distance} LIMIT probe_ef) n;
                IF cardinality(probe_distances) = probe_ef THEN
                    BEGIN
                        SELECT d.signature, coalesce(vectuned._ef_search(d.effort, 1, rungs), probes) INTO signature, probes
                        FROM vectuned._decide_by_probe({id}, class, probe_distances, center, weights, reach) d;
                    EXCEPTION WHEN others THEN
                        NULL;
                    END;
                END IF;
            END IF;
            path := CASE WHEN signature IS NOT NULL THEN path WHEN probes IS NULL THEN 'hnsw' ELSE 'ivfflat' END;
            IF probes IS NULL THEN
                PERFORM set_config('hnsw.ef_search', ef::text, true);
            ELSE
                ef := NULL;
                -- The highest ef_search makes HNSW indexes look expensive to the planner: see vectuned._takes_index.
                PERFORM set_config('ivfflat.probes', probes::text, true), set_config('hnsw.ef_search', '1000', true);
            END IF;
        END IF;
    END IF;

    WHILE path <> 'hnsw_adaptive' LOOP
        {searches}
        IF cardinality(found_ids) = k AND found_distances[k] <> 'NaN' AND started IS NULL AND bounds IS NULL THEN
            query_id := vectuned._query_id(false);
            RETURN QUERY SELECT u.id, u.distance, query_id FROM unnest(found_ids, found_distances) AS u (id, distance);
            RETURN;
        END IF;
        IF bounds IS NOT NULL THEN
            SELECT array_agg(u.id ORDER BY u.distance), array_agg(u.distance ORDER BY u.distance)
            INTO found_ids, found_distances
            FROM unnest(found_ids, found_distances) AS u (id, distance);
            EXIT;
        END IF;
        EXIT WHEN cardinality(found_ids) = k;
        -- Fewer than k rows, because others are dead or hidden by a policy: continue the scan.
        path := path || '_continued';
        bounds := ARRAY[current_setting('hnsw.max_scan_tuples'), current_setting('hnsw.scan_mem_multiplier')];
        PERFORM set_config('hnsw.iterative_scan', 'relaxed_order', true),{continue_ivfflat}
                set_config('hnsw.max_scan_tuples', '20000', true), set_config('hnsw.scan_mem_multiplier', '4', true);
    END LOOP;
    IF bounds IS NOT NULL THEN
        PERFORM set_config('hnsw.max_scan_tuples', bounds[1], true), set_config('hnsw.scan_mem_multiplier', bounds[2], true);
    END IF;

    IF coalesce(cardinality(found_ids), 0) < k OR found_distances[k] = 'NaN' THEN
        -- The index returned too few rows, or there is none. (Zero vectors have no cosine distance and are in no index.)
        IF {zero} THEN
            RAISE EXCEPTION 'the query vector is zero and has no cosine distance'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        path := 'exact';
        PERFORM set_config('enable_sort', 'on', true);
        SELECT array_agg(n.id), array_agg(n.distance) INTO found_ids, found_distances
        FROM (SELECT o.id, o.distance
              FROM (SELECT {key} AS id, {distance} AS distance FROM {relation} t WHERE {exact} OFFSET 0) o
              ORDER BY o.distance LIMIT k) n;
    END IF;

    recorded := started IS NOT NULL AND current_setting('transaction_read_only') = 'off'
        AND coalesce(lower(current_setting('vectuned.record', true)), '') NOT IN ('off', 'false', 'no', '0')
        AND NOT row_security_active({relation_literal}::regclass::oid);
    query_id := vectuned._query_id(recorded);
    IF recorded THEN
        IF NOT vectuned._record(query_id, {id}, query, k, path, ef, version, signature, found_ids,
            found_distances, extract(epoch FROM clock_timestamp() - started)::float8 * 1000,
            index_no => index_no, probes => probes)
        THEN
            query_id := vectuned._query_id(false);
        END IF;
    END IF;
    RETURN QUERY SELECT u.id, u.distance, query_id FROM unnest(found_ids, found_distances) AS u (id, distance);
END
$@$
$template$;
