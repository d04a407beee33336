-- The template of _search_N, which answers the searches of column N. It uses static SQL, so that plans are kept.
-- It begins with a fixed search_path, so that _record can recognise it, and goes on with the caller's: policies and
-- functions of the table see that, as in any other statement. So every function, operator and type is qualified; a test
-- parses the generated text.
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
CREATE OR REPLACE FUNCTION vectuned.{name}(
    query @extschema@.vector, k int, caller_path text DEFAULT pg_catalog.current_setting('search_path'))
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
    -- Whether the policy is exact search, and there was no time for it.
    cut_short boolean;
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
    -- A row of the bank serves only through an index that exists; without the main index nothing here fits the table.
    SELECT pg_catalog.set_config('search_path', caller_path, true),
           vectuned._k_class(k), CASE WHEN {main_exists} THEN b.access_path WHEN {has_main} THEN 'none' ELSE 'exact' END,
           coalesce(b.index_no, {main_no}), least(greatest(b.ef_search, k), 1000), b.probes, b.rungs, b.version, b.generation,
           b.probe_ef, b.center, b.weights, b.reach
    INTO caller_path, class, path, index_no, ef, probes, rungs, version, generation, probe_ef, center, weights, reach
    FROM (SELECT) AS one
    LEFT JOIN vectuned.bank b ON b.column_id OPERATOR(pg_catalog.=) {id}
        AND b.k_class OPERATOR(pg_catalog.=) vectuned._k_class(k) AND {index_serves};
    IF path OPERATOR(pg_catalog.=) 'hnsw' THEN
        PERFORM pg_catalog.set_config('hnsw.ef_search', ef::pg_catalog.text, true);
    ELSE
        IF path OPERATOR(pg_catalog.=) 'none' THEN
            RETURN QUERY SELECT f.* FROM vectuned._search_changed({id}, query, k, NULL, caller_path) f;
            RETURN;
        END IF;
        IF path IS NULL THEN
            -- Nothing has been learned, or the index was dropped.
            index_no := {main_no};
            ef := least(greatest({main_ef}, k), 1000);
            probes := {main_probes};
        ELSIF path OPERATOR(pg_catalog.=) 'exact' THEN
            -- No setting of the index reaches the target, or there is none over all rows. Without the time for an exact search
            -- the index answers.
            cut_short := {has_main} AND NOT vectuned._has_time();
            IF NOT cut_short THEN
                {exact_search}
            END IF;
            IF cut_short THEN
                path := CASE WHEN probes IS NULL THEN 'hnsw' ELSE 'ivfflat' END;
            END IF;
        END IF;
        IF path OPERATOR(pg_catalog.=) 'hnsw_adaptive' AND probe_ef OPERATOR(pg_catalog.>=) (class OPERATOR(pg_catalog.+) 4)
            AND probe_ef OPERATOR(pg_catalog.<=) 1000 AND generation OPERATOR(pg_catalog.=) {main_generation}
        THEN
            -- Probe: the first rows of a relaxed scan. They come in order, and the search continues from them.
            bounds := ARRAY[pg_catalog.current_setting('hnsw.max_scan_tuples'), pg_catalog.current_setting('hnsw.scan_mem_multiplier')];
            PERFORM pg_catalog.set_config('hnsw.iterative_scan', 'relaxed_order', true),
                    pg_catalog.set_config('hnsw.max_scan_tuples', '20000', true), pg_catalog.set_config('hnsw.scan_mem_multiplier', '4', true),
                    pg_catalog.set_config('hnsw.ef_search', probe_ef::pg_catalog.text, true);
            total := 0;
            kth := '-Infinity';
            OPEN scan NO SCROLL FOR
                SELECT {key}, {distance} FROM {relation} t WHERE {narrow} ORDER BY {distance};
            -- It reads the ranks of the class of k, as the searches did from which the patterns were learned.
            FOR i IN 1 .. class LOOP
                FETCH scan INTO found_id, found_distance;
                EXIT WHEN NOT FOUND;
                total := total OPERATOR(pg_catalog.+) found_distance;
                IF i OPERATOR(pg_catalog.<=) k THEN
                    found_ids[i] := found_id;
                    found_distances[i] := found_distance;
                    disordered := disordered OR found_distance OPERATOR(pg_catalog.<) kth;
                    kth := greatest(kth, found_distance);
                ELSIF found_distance OPERATOR(pg_catalog.<) kth THEN
                    found_ids := pg_catalog.array_append(found_ids, found_id);
                    found_distances := pg_catalog.array_append(found_distances, found_distance);
                END IF;
            END LOOP;
            class_distance := found_distance;
            rest := probe_ef OPERATOR(pg_catalog.-) class;
            FETCH RELATIVE rest OPERATOR(pg_catalog./) 4 FROM scan INTO found_id, found_distance;
            probe_distances[1] := found_distance;
            FETCH RELATIVE (rest OPERATOR(pg_catalog./) 2) OPERATOR(pg_catalog.-) (rest OPERATOR(pg_catalog./) 4)
                FROM scan INTO found_id, found_distance;
            probe_distances[2] := found_distance;
            FETCH RELATIVE (rest OPERATOR(pg_catalog.*) 3 OPERATOR(pg_catalog./) 4) OPERATOR(pg_catalog.-) (rest OPERATOR(pg_catalog./) 2)
                FROM scan INTO found_id, found_distance;
            probe_distances[3] := found_distance;
            FETCH RELATIVE rest OPERATOR(pg_catalog.-) (rest OPERATOR(pg_catalog.*) 3 OPERATOR(pg_catalog./) 4)
                FROM scan INTO found_id, found_distance;
            IF FOUND THEN
                BEGIN
                    signature := vectuned._signature(found_distances[1], class_distance, probe_distances[1], probe_distances[2],
                                                     probe_distances[3], found_distance, total OPERATOR(pg_catalog./) class,
                                                     center, weights);
                    ef := coalesce((SELECT vectuned._ef_search(d.effort, k)
                                    FROM vectuned._decide({id}, class, signature, reach) d), ef);
                EXCEPTION WHEN others THEN
                    NULL;
                END;
                IF ef OPERATOR(pg_catalog.>) probe_ef THEN
                    PERFORM pg_catalog.set_config('hnsw.ef_search', (ef OPERATOR(pg_catalog.-) probe_ef)::pg_catalog.text, true);
                    FOR i IN 1 .. ef OPERATOR(pg_catalog.-) probe_ef LOOP
                        FETCH scan INTO found_id, found_distance;
                        -- A batch comes in order: no later row can be nearer.
                        EXIT WHEN NOT FOUND OR found_distance OPERATOR(pg_catalog.>=) kth;
                        found_ids := pg_catalog.array_append(found_ids, found_id);
                        found_distances := pg_catalog.array_append(found_distances, found_distance);
                    END LOOP;
                ELSE
                    ef := probe_ef;
                END IF;
                IF disordered OR pg_catalog.cardinality(found_ids) OPERATOR(pg_catalog.>) k THEN
                    SELECT pg_catalog.array_agg(n.id ORDER BY n.distance), pg_catalog.array_agg(n.distance ORDER BY n.distance)
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
        ELSIF path IS NULL OR path OPERATOR(pg_catalog.<>) 'exact' THEN
            IF path OPERATOR(pg_catalog.=) 'ivfflat_adaptive' AND probe_ef OPERATOR(pg_catalog.>=) (class OPERATOR(pg_catalog.+) 4)
                AND probe_ef OPERATOR(pg_catalog.<=) 1000 AND generation OPERATOR(pg_catalog.=) {main_generation}
            THEN
                -- Probe: the nearest list only. The scan cannot be continued; the search reads the list again.
                PERFORM pg_catalog.set_config('ivfflat.probes', '1', true){other_ef};
                SELECT pg_catalog.array_agg(n.distance) INTO probe_distances
                FROM (SELECT {distance} AS distance FROM {relation} t WHERE {narrow} ORDER BY {distance} LIMIT probe_ef) n;
                IF pg_catalog.cardinality(probe_distances) OPERATOR(pg_catalog.=) probe_ef THEN
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
                PERFORM pg_catalog.set_config('hnsw.ef_search', ef::pg_catalog.text, true);
            ELSE
                ef := NULL;
                -- The highest ef_search makes HNSW indexes look expensive to the planner: see vectuned._takes_index.
                PERFORM pg_catalog.set_config('ivfflat.probes', probes::pg_catalog.text, true){other_ef};
            END IF;
        END IF;
    END IF;

    IF path OPERATOR(pg_catalog.<>) ALL ('{hnsw_adaptive,exact}'::pg_catalog.text[]) THEN
        {searches}
        IF pg_catalog.cardinality(found_ids) OPERATOR(pg_catalog.=) k AND found_distances[k] OPERATOR(pg_catalog.<>) 'NaN'
            AND started IS NULL AND cut_short IS NOT TRUE
        THEN
            query_id := vectuned._query_id(false);
            RETURN QUERY SELECT u.id, u.distance, query_id FROM unnest(found_ids, found_distances) AS u (id, distance);
            RETURN;
        END IF;
        IF coalesce(pg_catalog.cardinality(found_ids), 0) OPERATOR(pg_catalog.<) k AND vectuned._has_time() THEN
            -- Fewer than k rows, because others are dead or hidden by a policy: continue the scan.
            bounds := ARRAY[pg_catalog.current_setting('hnsw.max_scan_tuples'), pg_catalog.current_setting('hnsw.scan_mem_multiplier')];
            BEGIN
                PERFORM pg_catalog.set_config('hnsw.iterative_scan', 'relaxed_order', true),{continue_ivfflat}
                        pg_catalog.set_config('hnsw.max_scan_tuples', '20000', true), pg_catalog.set_config('hnsw.scan_mem_multiplier', '4', true);
                {searches}
                SELECT pg_catalog.concat(path, '_continued'), pg_catalog.array_agg(u.id ORDER BY u.distance),
                       pg_catalog.array_agg(u.distance ORDER BY u.distance)
                INTO path, found_ids, found_distances
                FROM unnest(found_ids, found_distances) AS u (id, distance);
            EXCEPTION WHEN query_canceled THEN
                IF vectuned._has_time(0.9) THEN  -- it was no timeout
                    RAISE;
                END IF;
            END;
        END IF;
    END IF;
    IF bounds IS NOT NULL THEN
        PERFORM pg_catalog.set_config('hnsw.max_scan_tuples', bounds[1], true), pg_catalog.set_config('hnsw.scan_mem_multiplier', bounds[2], true);
    END IF;

    IF coalesce(pg_catalog.cardinality(found_ids), 0) OPERATOR(pg_catalog.<) k OR found_distances[k] OPERATOR(pg_catalog.=) 'NaN' THEN
        -- The index returned too few rows, or there is none. (Zero vectors have no cosine distance and are in no index.)
        IF {zero} THEN
            RAISE EXCEPTION 'the query vector is zero and has no cosine distance'
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        IF vectuned._has_time() THEN
            {exact_search}
        END IF;
        cut_short := path OPERATOR(pg_catalog.<>) 'exact';
    END IF;
    IF cut_short THEN
        PERFORM vectuned._warn_cut_short({relation_literal}, coalesce(pg_catalog.cardinality(found_ids), 0), k);
    END IF;

    recorded := started IS NOT NULL AND pg_catalog.current_setting('transaction_read_only') OPERATOR(pg_catalog.=) 'off'
        AND coalesce(pg_catalog.lower(pg_catalog.current_setting('vectuned.record', true)), '')
            OPERATOR(pg_catalog.<>) ALL ('{off,false,no,0}'::pg_catalog.text[]);
    IF recorded AND pg_catalog.row_security_active({relation_oid}::pg_catalog.oid) THEN
        PERFORM vectuned._count_unrecordable({id});
        recorded := false;
    END IF;
    query_id := vectuned._query_id(recorded);
    IF recorded THEN
        IF NOT vectuned._record(query_id, {id}, query, k, path, ef, version, signature, found_ids,
            found_distances, {elapsed_ms},
            index_no => index_no, probes => probes)
        THEN
            query_id := vectuned._query_id(false);
        END IF;
    END IF;
    RETURN QUERY SELECT u.id, u.distance, query_id FROM unnest(found_ids, found_distances) AS u (id, distance);
END
$@$
$template$;

-- The statement_timeout of the session; NULL = none.
CREATE OR REPLACE FUNCTION vectuned._statement_timeout() RETURNS interval
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN nullif(current_setting('statement_timeout'), '0')::interval;

-- Whether less than this share of the statement_timeout has passed. A search that found fewer than k rows begins to look
-- through the whole table only within the first half; if that runs into the timeout, what was found is the answer, as in
-- plain SQL. (A cancellation after 0.9 of it counts as the timeout: that runs from a little before statement_timestamp on.)
CREATE OR REPLACE FUNCTION vectuned._has_time(share float8 DEFAULT 0.5) RETURNS boolean
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
RETURN coalesce(clock_timestamp() - statement_timestamp() < share * vectuned._statement_timeout(), true);

-- Warns of an answer that may lack rows.
CREATE OR REPLACE FUNCTION vectuned._warn_cut_short(p_relation text, found int, k int) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE WARNING 'a search of % for % rows returns the % that the index found: statement_timeout (%) left no time for an exact search',
        p_relation, k, found, current_setting('statement_timeout')
        USING HINT = 'Rows may be missing. An index on the columns of the filter, or a longer statement_timeout, helps.';
END
$$;
