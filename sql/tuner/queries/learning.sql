-- What learning reads and writes: columns, trajectories, replays, checks, banks.

-- name: tuned_columns
SELECT c.id, n.nspname, r.relname, c.column_name, c.metric, c.vector_type, c.dimensions, c.key_columns,
       x.nspname AS extension_schema, c.target_recall, c.max_tail, c.sample_rate, c.trajectory_window, c.learning_rate,
       c.min_samples, c.store_vectors, c.enabled, c.default_ef, c.default_probes, c.alert, c.learn_from,
       r.relkind = 'p' AS partitioned
FROM vectuned.tuned_column c
JOIN pg_class r ON r.oid = c.relation
JOIN pg_namespace n ON n.oid = r.relnamespace
CROSS JOIN (SELECT s.nspname FROM pg_extension e JOIN pg_namespace s ON s.oid = e.extnamespace
            WHERE e.extname = 'vector') x
WHERE %(column_id)s::int IS NULL OR c.id = %(column_id)s
ORDER BY c.id;

-- name: tuned_indexes
-- The one that searches until something was learned comes first.
SELECT i.index_no, i.index_relation::regclass::text AS name, i.method, i.form, i.requires::text, i.share, i.lists,
       vectuned._generation(i.index_relation) AS generation
FROM vectuned.tuned_index i JOIN vectuned.tuned_column c ON c.id = i.column_id
WHERE i.column_id = %(column_id)s AND vectuned._generation(i.index_relation) IS NOT NULL
ORDER BY i.index_relation = c.index_relation DESC, i.index_no;

-- name: reopen
-- Has the latest searches replayed again: on an index (generation) that was not there when they were, or, without one,
-- on a table that is not what it was.
UPDATE vectuned.trajectory t SET replayed_at = NULL
FROM (SELECT o.query_id, o.recorded_at FROM vectuned.trajectory o
      WHERE o.column_id = %(column_id)s AND o.query IS NOT NULL
        AND (%(requires)s::jsonb IS NULL OR o.filter @> %(requires)s::jsonb)
      ORDER BY o.recorded_at DESC LIMIT %(count)s) o
WHERE t.query_id = o.query_id AND t.recorded_at = o.recorded_at AND t.replayed_at IS NOT NULL
  AND NOT EXISTS (SELECT FROM vectuned.replay r WHERE r.column_id = %(column_id)s AND r.generation = %(generation)s);

-- name: drain
SELECT vectuned._drain(%(batch)s);

-- name: pending
-- Sampled searches not yet replayed, the newest first: they say most about what is asked now.
SELECT query_id, query, k, distances, recorded_at, filter::text, fraction, recall IS NULL AS fresh FROM vectuned.trajectory
WHERE column_id = %(column_id)s AND replayed_at IS NULL AND query IS NOT NULL
ORDER BY recorded_at DESC LIMIT %(count)s;

-- name: replay_search
SELECT r.distances, r.counts, r.blocks, r.ms, r.matched, r.exact_ms, r.other_distances, r.other_counts, r.other_ms,
       r.entries
FROM vectuned._replay(
    %(column_id)s, %(index_no)s, %(query)s, %(rungs)s, %(condition)s, %(k)s, %(depth)s, %(goal)s, %(bound)s,
    %(filter_goal)s, %(filter_bound)s, %(thorough)s, %(exact_ms)s) r;

-- name: probe_search
-- What short searches see: learning/ladder.py, PROBES.
SELECT vectuned._probe(c, %(query)s, %(probe_0)s), vectuned._probe(c, %(query)s, %(probe_1)s),
       vectuned._probe(c, %(query)s, %(probe_2)s)
FROM vectuned.tuned_column c WHERE c.id = %(column_id)s;

-- name: replayed
-- Which of some searches were replayed on an index as it is.
SELECT r.query_id FROM vectuned.replay r
WHERE r.column_id = %(column_id)s AND r.generation = %(generation)s AND r.query_id = ANY (%(query_ids)s);

-- name: compile_filter
SELECT m.condition, m.shape FROM vectuned.tuned_column c, vectuned._compile_filter(c.id, c.relation, %(filter)s::jsonb) m
WHERE c.id = %(column_id)s;

-- name: count_complete
-- Replays that went through every rung, of the index with the fewest: only these know the largest classes of k.
SELECT min(n.count) FROM unnest(%(generations)s::oid[]) g
CROSS JOIN LATERAL (
    SELECT count(*) FROM vectuned.replay r
    WHERE r.column_id = %(column_id)s AND r.generation = g AND 100 = ANY (r.k_classes)) n;

-- name: generation
SELECT vectuned._generation(i.index_relation) FROM vectuned.tuned_index i
WHERE i.column_id = %(column_id)s AND i.index_no = %(index_no)s;

-- name: limit_statement
SELECT set_config('statement_timeout', %(milliseconds)s, true);

-- name: insert_replay
INSERT INTO vectuned.replay (query_id, column_id, generation, k_class, k_classes, probe, recall, blocks, ms,
                             shape, fraction, filtered_recall, matches, exact_ms, other_recall, other_ms)
VALUES (%(query_id)s, %(column_id)s, %(generation)s, %(k_class)s, %(k_classes)s, %(probe)s, %(recall)s,
        %(blocks)s, %(ms)s, %(shape)s, %(fraction)s, %(filtered_recall)s, %(matches)s, %(exact_ms)s,
        %(other_recall)s, %(other_ms)s)
ON CONFLICT (column_id, query_id, generation) DO NOTHING;

-- name: mark_replayed
-- Where its recall was not known before, the search is to be judged anew. A table that has changed since says nothing
-- of what an answer was worth at its time.
UPDATE vectuned.trajectory
SET replayed_at = now(), query = CASE WHEN %(keep)s THEN query END, recall = coalesce(recall, %(recall)s),
    verdict = CASE WHEN recall IS NOT NULL THEN verdict END,
    verdict_confidence = CASE WHEN recall IS NOT NULL THEN verdict_confidence END,
    recommendation = CASE WHEN recall IS NOT NULL THEN recommendation END
WHERE query_id = %(query_id)s AND recorded_at = %(recorded_at)s;

-- name: unjudged
-- Searches that were replayed and not judged since, and those on which there is other feedback than was judged.
WITH due AS (
    (SELECT t.query_id, t.recorded_at FROM vectuned.trajectory t
     WHERE t.column_id = %(column_id)s AND t.replayed_at IS NOT NULL AND t.verdict IS NULL LIMIT %(count)s)
    UNION
    (SELECT t.query_id, t.recorded_at FROM vectuned.feedback f
     JOIN vectuned.trajectory t ON t.query_id = f.query_id AND t.recorded_at = f.recorded_at
     WHERE f.column_id = %(column_id)s AND f.judged < f.revision LIMIT %(count)s))
SELECT t.query_id, t.recorded_at, t.recall, t.k, vectuned._k_class(t.k) AS k_class, t.filter IS NOT NULL AS filtered, t.distances,
       t.latency_ms, t.access_path, t.ef_search, t.probes, t.index_no,
       coalesce(cardinality(f.relevant), 0) AS relevant, coalesce(cardinality(f.irrelevant), 0) AS irrelevant,
       coalesce(f.revision, 0) AS revision, b.certified IS TRUE AS certified,
       EXISTS (SELECT FROM jsonb_object_keys(CASE jsonb_typeof(t.filter) WHEN 'object' THEN t.filter ELSE '{}' END) AS n (name)
               JOIN pg_attribute a ON a.attrelid = c.relation AND a.attname = n.name AND NOT a.attisdropped
               WHERE NOT EXISTS (SELECT FROM pg_index x WHERE x.indrelid = c.relation AND x.indisvalid AND x.indpred IS NULL
                                 AND x.indkey[0] = a.attnum)) AS index_missing
FROM due d
JOIN vectuned.trajectory t ON t.query_id = d.query_id AND t.recorded_at = d.recorded_at
JOIN vectuned.tuned_column c ON c.id = t.column_id
LEFT JOIN vectuned.feedback f ON f.query_id = t.query_id AND f.recorded_at = t.recorded_at
LEFT JOIN vectuned.bank b ON b.column_id = t.column_id AND b.k_class = vectuned._k_class(t.k) AND b.version = t.bank_version;

-- name: usual_latency
-- Median and 95th percentile of the latest searches of each class of k, with and without filters; of few, nothing.
SELECT vectuned._k_class(t.k) AS k_class, t.filtered,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY t.latency_ms) AS usual,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY t.latency_ms) AS slow
FROM (SELECT o.k, o.filter IS NOT NULL AS filtered, o.latency_ms FROM vectuned.trajectory o
      WHERE o.column_id = %(column_id)s ORDER BY o.recorded_at DESC LIMIT %(count)s) t
GROUP BY 1, 2 HAVING count(*) >= %(least)s;

-- name: store_verdicts
-- Not where the search was replayed again meanwhile, and of the feedback only what was read.
WITH judged AS (
    SELECT * FROM unnest(%(query_ids)s::uuid[], %(recorded_at)s::timestamptz[], %(recalls)s::real[], %(outcomes)s::text[],
                         %(confidences)s::real[], %(recommendations)s::text[], %(revisions)s::int[])
        AS u (query_id, recorded_at, recall, outcome, confidence, recommendation, revision)),
stored AS (
    UPDATE vectuned.trajectory t
    SET verdict = j.outcome, verdict_confidence = j.confidence, recommendation = j.recommendation
    FROM judged j
    WHERE t.query_id = j.query_id AND t.recorded_at = j.recorded_at AND t.recall IS NOT DISTINCT FROM j.recall
    RETURNING j.query_id, j.recorded_at, j.revision),
noted AS (
    UPDATE vectuned.feedback f SET judged = s.revision FROM stored s
    WHERE f.query_id = s.query_id AND f.recorded_at = s.recorded_at AND f.judged < s.revision)
SELECT count(*) FROM stored;

-- name: verdict_counts
-- Of the latest searches, by class of k, with and without filters.
SELECT vectuned._k_class(t.k) AS k_class, t.filtered, count(*) FILTER (WHERE t.verdict = 'success') AS successes,
       count(*) FILTER (WHERE t.verdict = 'failure') AS failures, count(*) FILTER (WHERE t.verdict = 'unknown') AS unknown
FROM (SELECT o.k, o.filter IS NOT NULL AS filtered, o.verdict FROM vectuned.trajectory o
      WHERE o.column_id = %(column_id)s ORDER BY o.recorded_at DESC LIMIT %(count)s) t
WHERE t.verdict IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2;

-- name: margins
-- Of each class of k: its margin, and the verdicts since that was last moved on searches that a bank served.
SELECT p.k_class, p.margin, count(t.*) FILTER (WHERE t.verdict = 'success') AS successes,
       count(t.*) FILTER (WHERE t.verdict = 'failure') AS failures, max(t.recorded_at) AS latest
FROM vectuned.promise p
LEFT JOIN vectuned.trajectory t ON t.column_id = p.column_id AND t.filter IS NULL AND vectuned._k_class(t.k) = p.k_class
    AND t.verdict IS NOT NULL AND t.bank_version IS NOT NULL AND (p.margin_since IS NULL OR t.recorded_at > p.margin_since)
WHERE p.column_id = %(column_id)s AND p.shape = ''
GROUP BY p.k_class, p.margin ORDER BY p.k_class;

-- name: margins_in_force
SELECT k_class, margin FROM vectuned.promise WHERE column_id = %(column_id)s AND shape = '' AND margin > 0;

-- name: set_margin
UPDATE vectuned.promise SET margin = %(margin)s, margin_since = %(latest)s
WHERE column_id = %(column_id)s AND k_class = %(k_class)s AND shape = '';

-- name: raise_patterns
UPDATE vectuned.pattern SET effort = least(effort + %(rungs)s, 13) WHERE column_id = %(column_id)s AND k_class = %(k_class)s;

-- name: raise_effort
UPDATE vectuned.bank SET ef_search = %(ef_search)s, probes = %(probes)s, reason = reason || %(why)s
WHERE column_id = %(column_id)s AND k_class = %(k_class)s;

-- name: replays
SELECT k_class, k_classes, probe, recall, blocks, ms, fraction, filtered_recall, matches, exact_ms, other_recall, other_ms,
       shape
FROM vectuned.replay
WHERE column_id = %(column_id)s AND generation = %(generation)s AND cardinality(probe) IN (0, %(width)s)
  AND replay_no >= %(learn_from)s AND is_counter_example = %(is_counter_example)s
ORDER BY replay_no DESC LIMIT %(count)s;

-- name: trim_replays
-- Of each index its newest; of one that is gone, none. Searches that a bank served with a recall under 0.8 are kept as
-- counter-examples when they leave the window, the newest of them, up to a tenth of it.
WITH placed AS (
    SELECT p.query_id, p.generation, p.is_counter_example, p.replay_no, p.probe <> '{}' AS probed,
           row_number() OVER (PARTITION BY p.generation, p.is_counter_example ORDER BY p.replay_no DESC) AS place
    FROM vectuned.replay p WHERE p.column_id = %(column_id)s),
leaving AS (
    SELECT l.query_id, l.generation, l.is_counter_example, l.replay_no,
           l.generation = ANY (%(generations)s::oid[]) AND (l.is_counter_example OR l.probed AND EXISTS (
               SELECT FROM vectuned.trajectory t
               WHERE t.query_id = l.query_id AND t.column_id = %(column_id)s AND t.bank_version IS NOT NULL
                 AND t.filter IS NULL AND t.recall < 0.8)) AS failed
    FROM placed l
    WHERE l.is_counter_example OR l.place > %(window)s OR l.generation <> ALL (%(generations)s::oid[])),
ranked AS (
    SELECT l.*, row_number() OVER (PARTITION BY l.generation, l.failed ORDER BY l.replay_no DESC) AS place FROM leaving l),
settled AS (
    SELECT r.query_id, r.generation, r.is_counter_example, r.failed AND r.place <= %(window)s / 10 AS stays FROM ranked r),
saved AS (
    UPDATE vectuned.replay r SET is_counter_example = true FROM settled s
    WHERE r.column_id = %(column_id)s AND r.query_id = s.query_id AND r.generation = s.generation AND s.stays AND NOT s.is_counter_example)
DELETE FROM vectuned.replay r USING settled s
WHERE r.column_id = %(column_id)s AND r.query_id = s.query_id AND r.generation = s.generation AND NOT s.stays;

-- name: lookups
-- What searches saw whom the bank that serves now answered by its patterns.
SELECT vectuned._k_class(t.k), t.signature::real[]
FROM vectuned.trajectory t
JOIN (SELECT max(b.version) AS version, min(b.published_at) AS published_at
      FROM vectuned.bank b WHERE b.column_id = %(column_id)s) b ON b.version = t.bank_version
WHERE t.column_id = %(column_id)s AND t.recorded_at >= b.published_at AND t.signature IS NOT NULL
ORDER BY t.recorded_at DESC LIMIT %(count)s;

-- name: hold_column
-- One publish at a time, and none on a column that is being disabled.
SELECT enabled FROM vectuned.tuned_column WHERE id = %(column_id)s FOR NO KEY UPDATE;

-- name: next_version
SELECT coalesce(max(b.version), 0) + 1 FROM vectuned.bank b WHERE b.column_id = %(column_id)s;

-- name: delete_bank
-- But for imported classes that nothing was proven of here.
DELETE FROM vectuned.bank WHERE column_id = %(column_id)s AND k_class <> ALL (%(unchanged_classes)s::int[]);

-- name: delete_class
DELETE FROM vectuned.bank WHERE column_id = %(column_id)s AND k_class = %(k_class)s;

-- name: insert_bank
INSERT INTO vectuned.bank (column_id, k_class, version, generation, access_path, index_no, ef_search, probes,
                           rungs, expected_recall, recall_bound, tail, tail_bound, certified, samples, target_recall, probe_ef, center, weights,
                           reach, saving, reason)
VALUES (%(column_id)s, %(k_class)s, %(version)s, %(generation)s, %(access_path)s, %(index_no)s, %(ef_search)s, %(probes)s,
        %(rungs)s, %(expected_recall)s, %(recall_bound)s, %(tail)s, %(tail_bound)s, %(certified)s, %(samples)s, %(target_recall)s, %(probe_ef)s,
        %(center)s, %(weights)s, %(reach)s, %(saving)s, %(reason)s);

-- name: delete_measured
DELETE FROM vectuned.measured_path WHERE column_id = %(column_id)s AND import_no IS NULL;

-- name: delete_superseded
-- What was imported of filtered searches serves until such filters are learned of here.
DELETE FROM vectuned.measured_path p WHERE p.column_id = %(column_id)s AND p.import_no IS NOT NULL AND EXISTS (
    SELECT FROM vectuned.measured_path o
    WHERE o.column_id = p.column_id AND o.k_class = p.k_class AND o.shape = p.shape AND o.bucket = p.bucket AND o.import_no IS NULL);

-- name: export_patterns
SELECT vectuned.export_patterns(%(relation)s::regclass, %(column_name)s)::text;

-- name: import_patterns
SELECT vectuned.import_patterns(%(relation)s::regclass, %(column_name)s, %(document)s::jsonb, %(dry_run)s);

-- name: priors
-- Classes that were imported and are not proven here.
SELECT b.k_class FROM vectuned.bank b JOIN vectuned.imported m ON m.import_no = b.import_no
WHERE b.column_id = %(column_id)s AND NOT m.proven_here;

-- name: last_imported
SELECT max(created_at) FROM vectuned.imported WHERE column_id = %(column_id)s;

-- name: insert_measured
INSERT INTO vectuned.measured_path (column_id, k_class, shape, bucket, access_path, index_no, effort, requires, share,
                                    expected_recall, recall_bound, proven, ms, samples, serves)
VALUES (%(column_id)s, %(k_class)s, %(shape)s, %(bucket)s, %(access_path)s, %(index_no)s, %(effort)s, %(requires)s, %(share)s,
        %(recall)s, %(bound)s, %(proven)s, %(ms)s, %(samples)s, %(serves)s);

-- name: refresh_statistics
SELECT vectuned._refresh_statistics(%(column_id)s);

-- name: insert_pattern
INSERT INTO vectuned.pattern (column_id, k_class, pattern_no, centroid, effort, expected_recall, confidence, samples,
                              usage, chances, recall, cost, created_at)
VALUES (%(column_id)s, %(k_class)s, %(pattern_no)s, %(centroid)s, %(effort)s, %(expected_recall)s, %(confidence)s,
        %(samples)s, %(usage)s, %(chances)s, %(recall)s, %(cost)s, coalesce(to_timestamp(nullif(%(born)s::float8, 0)), now()));

-- name: bank
-- One statement, so that a publish meanwhile cannot mix two banks.
SELECT b.k_class, b.version, b.generation, b.access_path, b.index_no, b.ef_search, b.probes, b.rungs, b.expected_recall, b.recall_bound, b.tail, b.tail_bound,
       b.certified, b.samples, b.target_recall, b.probe_ef, b.center, b.weights, b.reach, b.saving, b.reason, p.*
FROM vectuned.bank b
CROSS JOIN LATERAL (
    SELECT array_agg(t.centroid::real[] ORDER BY t.pattern_no) AS centroids,
           array_agg(t.recall ORDER BY t.pattern_no) AS recall, array_agg(t.cost ORDER BY t.pattern_no) AS cost,
           array_agg(t.samples ORDER BY t.pattern_no) AS pattern_samples,
           array_agg(t.effort ORDER BY t.pattern_no) AS effort,
           array_agg(t.expected_recall ORDER BY t.pattern_no) AS pattern_recall,
           array_agg(t.confidence ORDER BY t.pattern_no) AS confidence,
           array_agg(t.usage ORDER BY t.pattern_no) AS usage,
           array_agg(t.chances ORDER BY t.pattern_no) AS chances,
           array_agg(extract(epoch FROM t.created_at)::float8 ORDER BY t.pattern_no) AS born
    FROM vectuned.pattern t WHERE t.column_id = b.column_id AND t.k_class = b.k_class) p
WHERE b.column_id = %(column_id)s ORDER BY b.k_class;

-- name: serve_path
UPDATE vectuned.bank SET access_path = %(access_path)s, index_no = %(index_no)s, ef_search = %(ef_search)s, probes = %(probes)s
WHERE column_id = %(column_id)s AND k_class = %(k_class)s;

-- name: notify
SELECT pg_notify('vectuned', %(payload)s);

-- name: insert_event
INSERT INTO vectuned.event (column_id, action, details) VALUES (%(column_id)s, %(action)s, %(details)s);

-- name: recent_queries
SELECT query FROM vectuned.trajectory
WHERE column_id = %(column_id)s AND query IS NOT NULL ORDER BY recorded_at DESC LIMIT %(count)s;

-- name: last_replay
SELECT coalesce(max(replay_no), 0) FROM vectuned.replay WHERE column_id = %(column_id)s;

-- name: check_search
-- A search as it is served now; nothing is recorded of it.
SELECT coalesce(array_agg(s.distance ORDER BY s.distance), '{}')
FROM (SELECT set_config('vectuned.record', 'off', true)) o
CROSS JOIN LATERAL vectuned.search(%(relation)s::regclass, %(query)s, %(k)s, %(filter)s::jsonb, %(column_name)s) s;

-- name: insert_check
INSERT INTO vectuned.recall_check (column_id, query_id, k_class, shape, version, recall)
VALUES (%(column_id)s, %(query_id)s, %(k_class)s, %(shape)s,
        %(version)s, %(recall)s);

-- name: bank_version
SELECT max(b.version) FROM vectuned.bank b WHERE b.column_id = %(column_id)s;

-- name: since_baseline
SELECT rebuilt, growth, gone, rewritten FROM vectuned._since_baseline(%(column_id)s);

-- name: set_baseline
SELECT vectuned._set_baseline(%(column_id)s);

-- name: set_alert
SELECT vectuned._set_alert(%(column_id)s, %(alert)s);

-- name: fall_back
SELECT vectuned._fall_back(%(column_id)s, %(k_class)s, %(shape)s, %(why)s);

-- name: restart_checks
SELECT vectuned._restart_checks(%(column_id)s, %(k_class)s, %(shape)s);

-- name: learn_from
UPDATE vectuned.tuned_column SET learn_from = %(learn_from)s WHERE id = %(column_id)s;

-- name: first_replay_since
-- The first replay of the searches that were checked from a check on; the next one there will be, if there is none.
SELECT coalesce(min(r.replay_no), (SELECT coalesce(max(o.replay_no), 0) + 1 FROM vectuned.replay o))
FROM vectuned.recall_check k
JOIN vectuned.replay r ON r.column_id = k.column_id AND r.query_id = k.query_id
WHERE k.column_id = %(column_id)s AND k.check_no >= %(check_no)s;

-- name: forget_queries
-- Queries of an embedding model that is no longer in use say nothing.
UPDATE vectuned.trajectory SET query = NULL, replayed_at = coalesce(replayed_at, now())
WHERE column_id = %(column_id)s AND query IS NOT NULL;

-- name: delete_replays
DELETE FROM vectuned.replay WHERE column_id = %(column_id)s;

-- name: promises
-- Of each class that was ever checked, the statement as it stands and what serves it now.
SELECT k.k_class, k.shape, p.first_check, p.access_path AS promised_path, p.index_no AS promised_index,
       p.effort AS promised_effort, p.target_recall AS promised_target,
       coalesce(b.target_recall, (SELECT max(o.target_recall) FROM vectuned.bank o WHERE o.column_id = %(column_id)s)) AS target,
       coalesce(p.alarms, 0) AS alarms, coalesce(p.checks + p.unknown, 0) AS seen,
       b.access_path, b.index_no, coalesce(b.ef_search, b.probes) AS effort,
       b.access_path IS NOT NULL OR EXISTS (
           SELECT FROM vectuned.measured_path m
           WHERE m.column_id = %(column_id)s AND m.k_class = k.k_class AND m.shape = k.shape) AS learned
FROM (SELECT DISTINCT o.k_class, o.shape FROM vectuned.recall_check o WHERE o.column_id = %(column_id)s) k
LEFT JOIN vectuned.promise p ON p.column_id = %(column_id)s AND p.k_class = k.k_class AND p.shape = k.shape
LEFT JOIN vectuned.bank b ON b.column_id = %(column_id)s AND b.k_class = k.k_class AND k.shape = ''
ORDER BY k.k_class, k.shape;

-- name: checks
SELECT check_no, recall FROM vectuned.recall_check
WHERE column_id = %(column_id)s AND k_class = %(k_class)s AND shape = %(shape)s AND check_no >= %(first_check)s
ORDER BY check_no;

-- name: first_check
-- The first check of what is served now, of a class; the next one there will be, if there is none.
SELECT coalesce(min(k.check_no), (SELECT coalesce(max(o.check_no), 0) + 1 FROM vectuned.recall_check o))
FROM vectuned.recall_check k
WHERE k.column_id = %(column_id)s AND k.k_class = %(k_class)s AND k.shape = %(shape)s
  AND k.version = (SELECT max(b.version) FROM vectuned.bank b WHERE b.column_id = k.column_id);

-- name: upsert_promise
INSERT INTO vectuned.promise AS p (column_id, k_class, shape, first_check, access_path, index_no, effort, target_recall, checks, unknown,
                                   recall, recall_bound, below_08, below_08_bound, evidence, alarms, confidence)
VALUES (%(column_id)s, %(k_class)s, %(shape)s, %(first_check)s, %(access_path)s, %(index_no)s, %(effort)s, %(target)s,
        %(checks)s, %(unknown)s, %(recall)s, %(recall_bound)s, %(below_08)s, %(below_08_bound)s, %(evidence)s, %(alarms)s, %(confidence)s)
ON CONFLICT (column_id, k_class, shape) DO UPDATE SET
    since = CASE WHEN p.first_check = excluded.first_check THEN p.since ELSE now() END,
    first_check = excluded.first_check, access_path = excluded.access_path, index_no = excluded.index_no,
    effort = excluded.effort, target_recall = excluded.target_recall, checks = excluded.checks, unknown = excluded.unknown, recall = excluded.recall,
    recall_bound = excluded.recall_bound, below_08 = excluded.below_08, below_08_bound = excluded.below_08_bound,
    evidence = excluded.evidence, alarms = excluded.alarms, confidence = excluded.confidence, updated_at = now();

-- name: trim_checks
DELETE FROM vectuned.recall_check WHERE column_id = %(column_id)s AND check_no <= (
    SELECT o.check_no FROM vectuned.recall_check o WHERE o.column_id = %(column_id)s
    ORDER BY o.check_no DESC OFFSET %(window)s LIMIT 1);

-- name: promise_kept
-- Whether what serves is proven, for every class of searches without a filter that is asked for.
SELECT coalesce(bool_and(b.certified), false) FROM vectuned.bank b
WHERE b.column_id = %(column_id)s AND b.k_class IN (
    SELECT r.k_class FROM vectuned.replay r WHERE r.column_id = %(column_id)s AND r.replay_no >= %(learn_from)s
    GROUP BY r.k_class HAVING count(*) >= %(min_samples)s);
