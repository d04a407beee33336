-- Merging a document: which index here corresponds to which of the document, and which parts are imported as proven or as a
-- prior.

-- Rejects a document that is useless for a column: of other dimensions or another metric.
CREATE OR REPLACE FUNCTION vectuned._check_fit(c vectuned.tuned_column, document jsonb) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p constant jsonb := document -> 'provenance';
    column_text constant text := format('%s.%I', c.relation, c.column_name);
BEGIN
    IF (p -> 'dimensions')::int <> c.dimensions THEN
        PERFORM vectuned._reject_document('$.provenance.dimensions', format('is %s, %s has %s', p -> 'dimensions', column_text, c.dimensions));
    ELSIF p ->> 'metric' <> c.metric THEN
        PERFORM vectuned._reject_document('$.provenance.metric', format('is %s, %s is searched by %s', p ->> 'metric', column_text, c.metric));
    END IF;
END
$$;

-- Maps the indexes of a document, by their numbers in it, to indexes here. `same` says whether everything was learned on the
-- same index and table, so that it counts as proven; otherwise `why` gives the reason why not.
CREATE OR REPLACE FUNCTION vectuned._map_indexes(c vectuned.tuned_column, document jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p constant jsonb := document -> 'provenance';
    rows_here constant float8 := vectuned._row_estimate(c.relation);
    rows_there constant float8 := (p -> 'rows')::float8;
    first_rows constant jsonb := vectuned._first_rows(c);
    mapped jsonb;
    all_same boolean;
    why text;
BEGIN
    SELECT coalesce(jsonb_object_agg(d.number, jsonb_build_object('index_no', m.index_no, 'lists', m.lists, 'lists_there', d.lists))
                    FILTER (WHERE m.index_no IS NOT NULL), '{}'), coalesce(bool_and(m.same IS TRUE), false)
    INTO mapped, all_same
    FROM jsonb_to_recordset(document -> 'indexes') AS d (number int, main boolean, method text, form text, lists int, generation bigint)
    LEFT JOIN LATERAL (
        SELECT i.index_no, i.lists, s.same
        FROM vectuned.tuned_index i
        CROSS JOIN LATERAL (SELECT vectuned._generation(i.index_relation)::bigint = d.generation AND i.form = d.form
                                   AND i.lists IS NOT DISTINCT FROM d.lists AS same) s
        WHERE i.column_id = c.id AND i.requires IS NULL AND i.method = d.method AND s.same IS NOT NULL
          -- An index on halfvec needs the same effort as one on vector; an index on signs (bits) needs another.
          AND (i.form = d.form OR i.form <> 'bits' AND d.form <> 'bits')
        ORDER BY s.same DESC, i.form <> d.form, i.index_relation <> c.index_relation, i.index_no LIMIT 1) m ON true;
    why := CASE
        WHEN p ->> 'system' IS NULL OR p ->> 'system' IS DISTINCT FROM vectuned._system_digest() THEN 'it was learned on another server'
        WHEN NOT all_same THEN 'it was learned on another index'
        WHEN jsonb_array_length(first_rows) = 0 OR p ->> 'vector_type' <> c.vector_type
             OR (SELECT count(*) FROM jsonb_array_elements_text(first_rows) f WHERE p -> 'witnesses' ? f.value)
                < 0.8 * greatest(jsonb_array_length(first_rows), jsonb_array_length(p -> 'witnesses'))
             THEN 'it was learned on other rows'
        WHEN rows_here NOT BETWEEN 0.8 * rows_there AND 1.25 * rows_there THEN 'the table had another size'
        WHEN (p -> 'max_tail')::float8 > c.max_tail OR EXISTS (
            SELECT FROM jsonb_to_recordset(document -> 'classes') AS d (target_recall float8) WHERE d.target_recall < c.target_recall)
            THEN 'it was learned for a lower target'
        WHEN EXISTS (SELECT FROM vectuned.event e
                     WHERE e.column_id = c.id AND e.action IN ('alarm', 'rebuilt', 'growth', 'deletes', 'rewritten')
                       AND e.happened_at > (document ->> 'created_at')::timestamptz)
            THEN 'searches here have fallen back since' END;
    RETURN jsonb_build_object('indexes', mapped, 'same', why IS NULL, 'why', why, 'rows_here', rows_here, 'rows_there', rows_there);
END
$$;

-- An effort derived from one that was proven elsewhere. The effort grows in proportion to the ratio of the allowed misses, since
-- 1 - recall falls no faster than effort grows, but at most twice, since nothing is proven here; with the table's size to the
-- power of 0.38, since a tenfold table was measured to need 2.4 times the effort; and for IVFFlat with the number of lists, each
-- of which then holds fewer rows. It is at most the column's and the daemon's max_effort.
CREATE OR REPLACE FUNCTION vectuned._prior_effort(
    c vectuned.tuned_column, document jsonb, mapping jsonb, index_there int, p_target float8, effort int, at_least int, method text)
RETURNS int
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT least(greatest(ceil(effort * f.goal * f.size * CASE method WHEN 'ivfflat' THEN greatest(i.lists / i.lists_there, 1) ELSE 1 END),
                          at_least), c.max_effort, vectuned._effort_cap(), CASE method WHEN 'ivfflat' THEN i.lists ELSE 1000 END)::int
    FROM (SELECT least(greatest(1, (1 - p_target) / (1 - c.target_recall),
                                (document #> '{provenance,max_tail}')::float8 / c.max_tail), 2) AS goal,
                 CASE WHEN (mapping -> 'rows_there')::float8 > 0
                      THEN greatest(1, (mapping -> 'rows_here')::float8 / (mapping -> 'rows_there')::float8) ^ 0.38
                      ELSE 1 END AS size) f,
         (SELECT (m.value ->> 'lists')::float8 AS lists, (m.value ->> 'lists_there')::float8 AS lists_there
          FROM (SELECT mapping -> 'indexes' -> index_there::text AS value) m) i
$$;

-- Which of two imports wins: the earlier one `o`, whose results are stored here, or the document. Returns an action and its
-- reason, as _resolve_classes does.
CREATE OR REPLACE FUNCTION vectuned._resolve_import(o vectuned.imported, document jsonb, same boolean) RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN o.checksum = document ->> 'checksum' THEN ARRAY['unchanged', 'imported already']
        WHEN same AND o.proven_here AND document #>> '{provenance,database}' = current_database()
            THEN ARRAY['unchanged', 'it comes from here']
        WHEN NOT same AND o.proven_here THEN ARRAY['kept', 'imported as proven on this index']
        WHEN same AND NOT o.proven_here THEN ARRAY['merged', 'proven on this index']
        WHEN o.created_at >= (document ->> 'created_at')::timestamptz THEN ARRAY['kept', 'a later document was imported']
        ELSE ARRAY['merged', 'later than what was imported'] END
$$;

-- Identifies the column that a document comes from. A later document of the same column replaces an earlier one; documents of
-- other columns add to it.
CREATE OR REPLACE FUNCTION vectuned._document_origin(document jsonb) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT left(md5(jsonb_build_array(p -> 'system', p -> 'database', p -> 'schema', p -> 'relation', p -> 'column')::text), 16)
    FROM (SELECT document -> 'provenance' AS p) o
$$;

-- Combines the results of several sources for a class of k. The effort is the highest that any of them needs: at that effort all
-- their proofs hold. However the searches are divided among the sources, their mean recall is at least that of the source with
-- the lowest recall. So the smallest bound is wrong only if that source's own bound is wrong, and holds with the same confidence.
-- Numbers of replays are added up, and means are weighted by them.
CREATE OR REPLACE FUNCTION vectuned._combine_sources(
    sources jsonb, OUT effort int, OUT samples int, OUT expected_recall float8, OUT recall_bound float8, OUT tail float8,
    OUT tail_bound float8, OUT certified boolean, OUT target_recall float8, OUT origins text)
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT max(d.effort), least(sum(d.samples), 2147483647)::int,
           sum(d.expected_recall * d.samples) / nullif(sum(d.samples) FILTER (WHERE d.expected_recall IS NOT NULL), 0), min(d.recall_bound),
           sum(d.tail * d.samples) / nullif(sum(d.samples) FILTER (WHERE d.tail IS NOT NULL), 0),
           CASE WHEN bool_and(d.tail_bound IS NOT NULL) THEN max(d.tail_bound) END, bool_and(d.certified), min(d.target_recall),
           string_agg(d.source, ' and ' ORDER BY e.key)
    FROM jsonb_each(sources) e
    CROSS JOIN LATERAL jsonb_to_record(e.value) AS d (
        effort int, samples int, expected_recall float8, recall_bound float8, tail float8, tail_bound float8, certified boolean,
        target_recall float8, source text)
$$;

-- Decides for every class of k of a document whether it is merged, kept (what is here stays), unchanged or skipped, and why.
-- `sources` has the results for the class of this document, and of documents of other sources that were imported in the same way.
CREATE OR REPLACE FUNCTION vectuned._resolve_classes(c vectuned.tuned_column, document jsonb, mapping jsonb) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object(
               'k', d.k, 'action', s.resolved[1], 'why', s.resolved[2], 'index_no', m.index_no,
               -- Patterns of two banks are in different spaces, so several sources are served by one fixed setting.
               'access_path', CASE WHEN same AND t.others IS NULL THEN d.access_path ELSE m.method END,
               'ef_search', CASE m.method WHEN 'hnsw' THEN g.effort END, 'probes', CASE m.method WHEN 'ivfflat' THEN g.effort END,
               'patterns', CASE WHEN t.others IS NULL THEN jsonb_array_length(d.patterns) ELSE 0 END, 'sources', w.sources)
               ORDER BY d.k), '[]')
    FROM jsonb_to_recordset(document -> 'classes') AS d (
        k int, index int, access_path text, ef_search int, probes int, certified boolean, target_recall float8, generation bigint,
        samples int, expected_recall float8, recall_bound float8, tail float8, tail_bound float8, patterns jsonb)
    CROSS JOIN LATERAL (SELECT (mapping -> 'same')::boolean AS same,
                               (mapping -> 'indexes' -> d.index::text ->> 'index_no')::int AS index_no,
                               split_part(d.access_path, '_', 1) AS method) m
    LEFT JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_no = m.index_no
    LEFT JOIN vectuned.bank b ON b.column_id = c.id AND b.k_class = d.k
    LEFT JOIN vectuned.imported o ON o.import_no = b.import_no
    LEFT JOIN vectuned.tuned_index j ON j.column_id = c.id
        AND CASE WHEN b.index_no IS NULL THEN j.index_relation = c.index_relation ELSE j.index_no = b.index_no END
    CROSS JOIN LATERAL (SELECT CASE
        WHEN m.index_no IS NULL THEN NULL
        WHEN same THEN coalesce(d.ef_search, d.probes)
        -- The effort of an earlier import, or after an alarm, is not lowered.
        ELSE greatest(
            vectuned._prior_effort(c, document, mapping, d.index, d.target_recall, coalesce(d.ef_search, d.probes),
                                   CASE m.method WHEN 'hnsw' THEN greatest(c.default_ef, d.k) ELSE c.default_probes END, m.method),
            CASE WHEN b.import_no IS NOT NULL AND b.index_no = m.index_no THEN coalesce(b.ef_search, b.probes) END)
        END AS effort) e
    CROSS JOIN LATERAL (SELECT vectuned._document_origin(document) AS origin) v
    CROSS JOIN LATERAL (SELECT b.sources -> v.origin AS mine, CASE
        WHEN b.import_no IS NOT NULL AND o.proven_here = same AND b.index_no = m.index_no AND (b.probes IS NULL) = (m.method = 'hnsw')
        THEN nullif(b.sources - v.origin, '{}') END AS others) t
    CROSS JOIN LATERAL (SELECT coalesce(t.others, '{}') || jsonb_build_object(v.origin, jsonb_build_object(
        'source', vectuned._document_source(document), 'created_at', document -> 'created_at', 'checksum', document -> 'checksum',
        'effort', e.effort, 'samples', d.samples, 'expected_recall', d.expected_recall,
        -- Together the fixed setting serves, which is proven for the target alone where effort by query was learned.
        'recall_bound', CASE WHEN d.access_path LIKE '%\_adaptive' THEN least(d.recall_bound, d.target_recall) ELSE d.recall_bound END,
        'tail', d.tail, 'tail_bound', CASE WHEN d.access_path LIKE '%\_adaptive'
            THEN greatest(d.tail_bound, (document #>> '{provenance,max_tail}')::float8) ELSE d.tail_bound END,
        'certified', d.certified, 'target_recall', d.target_recall)) AS sources) w
    CROSS JOIN LATERAL vectuned._combine_sources(w.sources) g
    CROSS JOIN LATERAL (SELECT CASE
        WHEN m.index_no IS NULL THEN ARRAY['skipped', format('there is no such %s index here', m.method)]
        WHEN NOT same AND NOT d.certified THEN ARRAY['skipped', 'it was not proven there either']
        WHEN same AND d.generation <> vectuned._generation(i.index_relation)::bigint THEN ARRAY['skipped', 'it was outdated there']
        WHEN b.k_class IS NULL THEN ARRAY['merged', 'nothing was known here']
        WHEN b.import_no IS NULL AND b.samples > 0 AND (NOT same OR b.generation = vectuned._generation(j.index_relation))
            THEN ARRAY['kept', format('learned here from %s replays', b.samples)]
        WHEN b.import_no IS NULL AND b.samples > 0 THEN ARRAY['merged', 'what is here was learned on another index']
        WHEN b.import_no IS NULL THEN ARRAY['merged', 'what is here is a guess']
        WHEN t.mine ->> 'checksum' = document ->> 'checksum' THEN ARRAY['unchanged', 'imported already']
        WHEN t.others IS NULL OR same AND document #>> '{provenance,database}' = current_database()
            THEN vectuned._resolve_import(o, document, same)
        WHEN t.mine IS NULL
            THEN ARRAY['merged', format('together with what was imported from %s', (vectuned._combine_sources(t.others)).origins)]
        WHEN (t.mine ->> 'created_at')::timestamptz >= (document ->> 'created_at')::timestamptz
            THEN ARRAY['kept', 'a later document was imported']
        ELSE ARRAY['merged', 'later than what was imported'] END AS resolved) s
$$;

-- The same for every path of filtered searches. As a prior, exact search is imported only for a table of at most twice the
-- rows, and a path through an index only for filters that would not be answered exactly by default.
CREATE OR REPLACE FUNCTION vectuned._resolve_paths(c vectuned.tuned_column, document jsonb, mapping jsonb) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH known AS MATERIALIZED (
        SELECT t.k_class, t.shape, bool_or(t.import_no IS NULL) AS own, bool_or(o.checksum = document ->> 'checksum') AS already,
               max(o.created_at) AS created_at
        FROM vectuned.measured_path t LEFT JOIN vectuned.imported o ON o.import_no = t.import_no
        WHERE t.column_id = c.id AND t.shape IS NOT NULL GROUP BY t.k_class, t.shape),
    -- The default for filters of a bucket without any knowledge, for the most and the least selective of the bucket.
    unknown AS MATERIALIZED (
        SELECT o.k, o.bucket, dense.access_path, dense.effort AS dense, sparse.effort AS sparse
        FROM (SELECT DISTINCT (e.value -> 'k')::int AS k, (e.value -> 'bucket')::int AS bucket
              FROM jsonb_array_elements(document -> 'paths') e WHERE jsonb_typeof(e.value -> 'bucket') = 'number') o
        CROSS JOIN LATERAL vectuned._default_effort(c) g
        CROSS JOIN LATERAL vectuned._filtered_default(2 ^ (-o.bucket / 2.0), c.relation, o.k, g.ef_search, g.probes) dense
        CROSS JOIN LATERAL vectuned._filtered_default(2 ^ (-(o.bucket + 1) / 2.0), c.relation, o.k, g.ef_search, g.probes) sparse)
    SELECT coalesce(jsonb_agg(p.value || jsonb_build_object('action', s.resolved[1], 'why', s.resolved[2], 'index_no', m.index_no,
                                                            'effort', e.effort) ORDER BY p.number), '[]')
    FROM jsonb_array_elements(document -> 'paths') WITH ORDINALITY AS p (value, number)
    CROSS JOIN LATERAL jsonb_to_record(p.value) AS d (
        k int, shape text, bucket int, access_path text, index int, effort int, proven boolean, serves boolean)
    CROSS JOIN LATERAL (SELECT (mapping -> 'same')::boolean AS same, (document ->> 'created_at')::timestamptz AS created_at,
                               (mapping -> 'indexes' -> d.index::text ->> 'index_no')::int AS index_no,
                               split_part(d.access_path, '_', 1) AS method) m
    JOIN unknown u ON u.k = d.k AND u.bucket = d.bucket
    CROSS JOIN LATERAL (SELECT CASE
        WHEN same OR d.effort IS NULL OR m.index_no IS NULL THEN d.effort
        ELSE vectuned._prior_effort(c, document, mapping, d.index, (document #> '{provenance,target_recall}')::float8, d.effort,
                                    greatest(CASE WHEN split_part(u.access_path, '_', 1) = m.method THEN greatest(u.dense, u.sparse) END,
                                             CASE m.method WHEN 'hnsw' THEN greatest(c.default_ef, d.k) ELSE c.default_probes END),
                                    m.method) END AS effort) e
    LEFT JOIN known h ON h.k_class = d.k AND h.shape = d.shape
    CROSS JOIN LATERAL (SELECT CASE
        WHEN d.index IS NOT NULL AND m.index_no IS NULL THEN ARRAY['skipped', 'there is no such index here']
        WHEN NOT same AND d.access_path = 'planner' THEN ARRAY['skipped', 'the planner may choose otherwise here']
        WHEN NOT same AND d.access_path = 'exact' AND (mapping -> 'rows_here')::float8 > 2 * (mapping -> 'rows_there')::float8
            THEN ARRAY['skipped', 'the table is more than twice as large here']
        WHEN NOT same AND d.access_path <> 'exact' AND u.access_path = 'exact'
            THEN ARRAY['skipped', 'such filters are answered exactly until more is known']
        WHEN h.own THEN ARRAY['kept', 'learned here']
        WHEN h.already THEN ARRAY['unchanged', 'imported already']
        WHEN h.created_at >= m.created_at THEN ARRAY['kept', 'a later document was imported']
        WHEN h.created_at IS NULL THEN ARRAY['merged', 'nothing was known here']
        ELSE ARRAY['merged', 'later than what was imported'] END AS resolved) s
    WHERE d.shape IS NOT NULL AND (same OR d.serves AND d.proven)
$$;

-- Replaces the merged classes of k, with their patterns and unfiltered paths.
CREATE OR REPLACE FUNCTION vectuned._merge_classes(
    c vectuned.tuned_column, document jsonb, mapping jsonb, resolved jsonb, p_import_no bigint, p_version int) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    same constant boolean := mapping -> 'same';
    classes constant int[] := ARRAY(SELECT (e.value -> 'k')::int FROM jsonb_array_elements(resolved) e
                                    WHERE e.value ->> 'action' = 'merged');
BEGIN
    DELETE FROM vectuned.bank b WHERE b.column_id = c.id AND b.k_class = ANY (classes);
    DELETE FROM vectuned.measured_path p WHERE p.column_id = c.id AND p.k_class = ANY (classes) AND p.shape IS NULL;
    INSERT INTO vectuned.bank (
        column_id, k_class, version, generation, access_path, index_no, ef_search, probes, rungs, expected_recall, recall_bound,
        tail, tail_bound, certified, samples, target_recall, probe_ef, center, weights, reach, saving, reason, import_no, sources,
        published_at)
    SELECT c.id, d.k, p_version, vectuned._generation(i.index_relation), s.access_path, s.index_no, s.ef_search, s.probes, n.rungs,
           CASE WHEN same THEN d.expected_recall END, CASE WHEN same THEN d.recall_bound ELSE 0 END,
           CASE WHEN same THEN d.tail END, CASE WHEN same THEN d.tail_bound END, same AND d.certified,
           CASE WHEN same THEN d.samples ELSE 0 END, CASE WHEN same THEN d.target_recall ELSE c.target_recall END,
           n.probe_ef, n.center, n.weights, n.reach, CASE WHEN same THEN n.saving END,
           CASE WHEN same THEN d.reason ELSE format(
               'imported from %s, where %s was proven to reach recall %s with %s replays; not yet proven here',
               d.origins, d.setting, d.target_recall, d.samples)
           END, p_import_no, s.sources, CASE WHEN same THEN d.published_at ELSE now() END
    FROM jsonb_to_recordset(document -> 'classes') AS n (
        k int, ef_search int, probes int, rungs int[], expected_recall float8, recall_bound float8, tail float8, tail_bound float8,
        certified boolean, samples int, target_recall float8, probe_ef int, center float8[], weights float8[], reach float8,
        saving float8, reason text, published_at timestamptz)
    JOIN jsonb_to_recordset(resolved) AS s (k int, access_path text, index_no int, ef_search int, probes int, sources jsonb) ON s.k = n.k
    CROSS JOIN LATERAL vectuned._combine_sources(s.sources) g
    CROSS JOIN LATERAL (
        SELECT n.k, n.expected_recall, n.recall_bound, n.tail, n.tail_bound, n.certified, n.samples, n.target_recall, n.reason,
               vectuned._document_source(document) AS origins, coalesce('ef_search ' || n.ef_search, 'probes ' || n.probes) AS setting,
               n.published_at
        WHERE s.sources - vectuned._document_origin(document) = '{}'
        UNION ALL
        SELECT n.k, g.expected_recall, g.recall_bound, g.tail, g.tail_bound, g.certified, g.samples, g.target_recall,
               format('the highest effort that one of several sources needs, proven with %s replays: %s', g.samples, g.origins),
               g.origins, format('at most %s', coalesce('ef_search ' || s.ef_search, 'probes ' || s.probes)), now()
        WHERE s.sources - vectuned._document_origin(document) <> '{}') d
    JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_no = s.index_no
    WHERE n.k = ANY (classes);
    -- The patterns of a prior are not served yet, since effort by query is served only where it was measured to save. Patterns
    -- learned here later inherit their age and usage.
    INSERT INTO vectuned.pattern (column_id, k_class, pattern_no, centroid, effort, expected_recall, confidence, samples, usage,
                                  chances, recall, cost, created_at)
    SELECT c.id, (d.value -> 'k')::int, p.number - 1, t.centroid::@extschema@.vector, t.effort, t.expected_recall, t.confidence,
           t.samples, t.usage, t.chances, t.recall, t.cost, to_timestamp(t.born)
    FROM jsonb_array_elements(document -> 'classes') d
    CROSS JOIN LATERAL jsonb_array_elements(d.value -> 'patterns') WITH ORDINALITY AS p (value, number)
    CROSS JOIN LATERAL jsonb_to_record(p.value) AS t (
        centroid real[], effort float8, expected_recall float8, confidence float8, samples int, usage float8, chances float8,
        recall real[], cost real[], born float8)
    WHERE (d.value -> 'k')::int = ANY (classes) AND EXISTS (
        SELECT FROM jsonb_array_elements(resolved) r
        WHERE (r.value -> 'k') = (d.value -> 'k') AND (r.value -> 'sources') - vectuned._document_origin(document) = '{}');
    INSERT INTO vectuned.measured_path (column_id, k_class, access_path, index_no, effort, expected_recall, recall_bound, proven, ms,
                                        samples, serves)
    SELECT c.id, d.k, d.access_path, (mapping -> 'indexes' -> d.index::text ->> 'index_no')::int, d.effort, d.expected_recall,
           d.recall_bound, d.proven, d.ms, d.samples, d.serves
    FROM jsonb_to_recordset(document -> 'paths') AS d (
        k int, shape text, access_path text, index int, effort int, expected_recall float8, recall_bound float8, proven boolean,
        ms float8, samples int, serves boolean)
    WHERE same AND d.shape IS NULL AND d.k = ANY (classes);
END
$$;

-- Replaces the merged paths of filtered searches.
CREATE OR REPLACE FUNCTION vectuned._merge_paths(
    c vectuned.tuned_column, same boolean, resolved jsonb, p_import_no bigint) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM vectuned.measured_path t USING jsonb_to_recordset(resolved) AS d (k int, shape text, action text)
    WHERE t.column_id = c.id AND t.k_class = d.k AND t.shape = d.shape AND d.action = 'merged';
    INSERT INTO vectuned.measured_path (column_id, k_class, shape, bucket, access_path, index_no, effort, expected_recall,
                                        recall_bound, proven, ms, samples, serves, import_no)
    SELECT c.id, d.k, d.shape, d.bucket, d.access_path, d.index_no, d.effort,
           CASE WHEN same THEN d.expected_recall WHEN d.access_path = 'exact' THEN 1 END,
           CASE WHEN same THEN d.recall_bound WHEN d.access_path = 'exact' THEN 1 ELSE 0 END,
           same AND d.proven, CASE WHEN same THEN d.ms END, CASE WHEN same THEN d.samples ELSE 0 END, d.serves,
           CASE WHEN NOT same THEN p_import_no END
    FROM jsonb_to_recordset(resolved) AS d (
        action text, k int, shape text, bucket int, access_path text, index_no int, effort int, expected_recall float8,
        recall_bound float8, proven boolean, ms float8, samples int, serves boolean)
    WHERE d.action = 'merged';
$$;
