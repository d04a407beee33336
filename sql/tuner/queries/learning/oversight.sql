-- Statements of verdicts, margins, promises, alarms and changes of tables.

-- name: replay_again
-- Queues the newest searches to be replayed again: through an index (generation) that did not exist when they were
-- replayed or, with a generation of NULL, because the table has changed. With `requires` only those that a partial index
-- answers.
UPDATE vectuned.trajectory t SET replayed_at = NULL
FROM (SELECT o.query_id, o.recorded_at FROM vectuned.trajectory o
      WHERE o.column_id = %(column_id)s AND o.query IS NOT NULL
        AND (%(requires)s::jsonb IS NULL OR o.filter @> %(requires)s::jsonb)
      ORDER BY o.recorded_at DESC LIMIT %(count)s) o
WHERE t.query_id = o.query_id AND t.recorded_at = o.recorded_at AND t.replayed_at IS NOT NULL
  AND NOT EXISTS (SELECT FROM vectuned.replay r WHERE r.column_id = %(column_id)s AND r.generation = %(generation)s);

-- name: searches_to_judge
-- Searches that were replayed but not judged since, and searches whose feedback has changed since they were judged, with
-- everything that a verdict depends on. Calls are not judged: their answers are not known.
WITH due AS (
    (SELECT t.query_id, t.recorded_at FROM vectuned.trajectory t
     WHERE t.column_id = %(column_id)s AND t.replayed_at IS NOT NULL AND t.verdict IS NULL AND t.source = 'function'
     LIMIT %(count)s)
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
-- Median and 95th percentile of the latency of the newest searches, in milliseconds, by class of k and whether they have
-- a filter; only where there are at least `least` of them.
SELECT vectuned._k_class(t.k) AS k_class, t.filtered,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY t.latency_ms) AS usual,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY t.latency_ms) AS slow
FROM (SELECT o.k, o.filter IS NOT NULL AS filtered, o.latency_ms FROM vectuned.trajectory o
      WHERE o.column_id = %(column_id)s AND o.source = 'function' ORDER BY o.recorded_at DESC LIMIT %(count)s) t
GROUP BY 1, 2 HAVING count(*) >= %(least)s;

-- name: store_verdicts
-- Stores verdicts and returns their number. Skips searches that were replayed again meanwhile, and marks as judged only
-- the revision of the feedback that was read.
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
SELECT count(*) AS stored FROM stored;

-- name: margins
-- The margin of each class of k, with the number of verdicts since it was last changed, on searches that a published bank
-- served, and the time of the newest of them. Where recall was measured, it alone decides: a search that found the nearest
-- rows succeeded, whatever users think of them. Otherwise only trusted feedback counts. (An exact search with a recall under
-- 1 shows that the table has changed since, and nothing about effort.)
SELECT p.k_class, p.margin,
       count(*) FILTER (WHERE CASE WHEN m.measured THEN t.verdict <> 'failure' ELSE t.verdict = 'success' AND f.trusted END) AS successes,
       count(*) FILTER (WHERE t.verdict = 'failure' AND (m.measured OR f.trusted)) AS failures, max(t.recorded_at) AS latest
FROM vectuned.promise p
LEFT JOIN vectuned.trajectory t ON t.column_id = p.column_id AND t.filter IS NULL AND vectuned._k_class(t.k) = p.k_class
    AND t.verdict IS NOT NULL AND t.bank_version IS NOT NULL AND (p.margin_since IS NULL OR t.recorded_at > p.margin_since)
LEFT JOIN vectuned.feedback f ON f.query_id = t.query_id AND f.recorded_at = t.recorded_at
CROSS JOIN LATERAL (SELECT t.recall BETWEEN 0 AND 1 AND NOT (t.access_path LIKE 'exact%%' AND t.recall < 1) AS measured) m
WHERE p.column_id = %(column_id)s AND p.shape = ''
GROUP BY p.k_class, p.margin ORDER BY p.k_class;

-- name: set_margin
-- Sets the margin of a class of k, in rungs, and the time up to which verdicts were counted for it.
UPDATE vectuned.promise SET margin = %(margin)s, margin_since = %(latest)s
WHERE column_id = %(column_id)s AND k_class = %(k_class)s AND shape = '';

-- name: raise_patterns
-- Raises the effort of all patterns of a class of k by some rungs, at most to the highest rung (13).
UPDATE vectuned.pattern SET effort = least(effort + %(rungs)s, 13) WHERE column_id = %(column_id)s AND k_class = %(k_class)s;

-- name: raise_effort
-- Sets the fixed setting of a class of k and adds to its reason.
UPDATE vectuned.bank SET ef_search = %(ef_search)s, probes = %(probes)s, reason = reason || %(why)s
WHERE column_id = %(column_id)s AND k_class = %(k_class)s;

-- name: changes_since_baseline
-- What has changed since the table was last learned about: `rebuilt`, the main index; `growth`, rows now over rows then
-- (NULL if the table was empty then); `gone` and `rewritten`, shares of the sampled rows; `upgraded_from`, the versions of
-- PostgreSQL and pgvector then, if they changed, and those of now. No row if there is no baseline.
SELECT rebuilt, growth, gone, rewritten, upgraded_from, vectuned._versions() AS versions FROM vectuned._since_baseline(%(column_id)s);

-- name: set_baseline
-- Makes the table as it is now the baseline.
SELECT vectuned._set_baseline(%(column_id)s);

-- name: set_alert
-- Starts or ends the alert of a column, during which more searches are recorded and checked.
SELECT vectuned._set_alert(%(column_id)s, %(alert)s);

-- name: fall_back
-- Serves a class of searches, or all of them with a k_class of NULL, without relying on what was learned.
SELECT vectuned._fall_back(%(column_id)s, %(k_class)s, %(shape)s, %(why)s, %(alarm)s, %(power)s, %(max_effort)s, %(max_ms)s);

-- name: restart_checks
-- Restarts the claim about the recall of a class of searches, or of all of them with a k_class of NULL.
SELECT vectuned._restart_checks(%(column_id)s, %(k_class)s, %(shape)s);

-- name: first_replay_since
-- The first replay of the searches that were checked from a given check on; the number of the next replay if there is none.
SELECT coalesce(min(r.replay_no), (SELECT coalesce(max(o.replay_no), 0) + 1 FROM vectuned.replay o)) AS replay_no
FROM vectuned.recall_check k
JOIN vectuned.replay r ON r.column_id = k.column_id AND r.query_id = k.query_id
WHERE k.column_id = %(column_id)s AND k.check_no >= %(check_no)s;

-- name: set_learn_from
-- Sets the first replay that is evidence about a class of searches.
UPDATE vectuned.promise SET learn_from = %(learn_from)s
WHERE column_id = %(column_id)s AND k_class = %(k_class)s AND shape = %(shape)s;

-- name: restart_evidence
-- Makes the next replay the first one on the table as it is now: earlier ones prove nothing about it.
UPDATE vectuned.baseline SET first_replay = (
    SELECT coalesce(max(r.replay_no), 0) + 1 FROM vectuned.replay r WHERE r.column_id = %(column_id)s)
WHERE column_id = %(column_id)s;

-- name: delete_query_vectors
-- Deletes the recorded query vectors: those of an embedding model that is no longer in use say nothing.
UPDATE vectuned.trajectory SET query = NULL, condition = NULL, replayed_at = coalesce(replayed_at, now())
WHERE column_id = %(column_id)s AND query IS NOT NULL;

-- name: set_baseline_versions
-- Makes the present versions of PostgreSQL and pgvector those of the baseline.
UPDATE vectuned.baseline SET versions = vectuned._versions() WHERE column_id = %(column_id)s;

-- name: delete_replays
-- Deletes all replays of a column, and the calls that are replayed as text.
WITH texts AS (DELETE FROM vectuned.text_call WHERE column_id = %(column_id)s)
DELETE FROM vectuned.replay WHERE column_id = %(column_id)s;

-- name: promises
-- The promise of each class of searches that has checks, and what serves the class now: path, index and effort, of filtered
-- searches for each selectivity bucket. Without a policy of its own a class is served with the default effort.
SELECT k.k_class, k.shape, p.first_check, p.since, p.served AS promised, p.target_recall AS promised_target,
       coalesce(b.target_recall, v.target_recall) AS target,
       coalesce(p.alarms, 0) AS alarms, coalesce(p.checks + p.unknown, 0) AS counted_checks, v.published_at,
       b.access_path IS NOT NULL OR EXISTS (
           SELECT FROM vectuned.measured_path m
           WHERE m.column_id = %(column_id)s AND m.k_class = k.k_class AND m.shape = k.shape) AS learned,
       CASE WHEN k.shape <> '' THEN
                (SELECT jsonb_agg(jsonb_build_object('bucket', m.bucket, 'path', m.access_path, 'index', m.index_no,
                                                     'effort', m.effort))
                 FROM vectuned.measured_path m
                 WHERE m.column_id = %(column_id)s AND m.k_class = k.k_class AND m.shape = k.shape AND m.serves)
            WHEN b.access_path IS NOT NULL THEN
                jsonb_build_array(jsonb_build_object('bucket', NULL, 'path', b.access_path, 'index', b.index_no,
                                                     'effort', coalesce(b.ef_search, b.probes))) END AS served
FROM (SELECT DISTINCT o.k_class, o.shape FROM vectuned.recall_check o WHERE o.column_id = %(column_id)s) k
CROSS JOIN (SELECT max(o.target_recall) AS target_recall, max(o.published_at) AS published_at
            FROM vectuned.bank o WHERE o.column_id = %(column_id)s) v
LEFT JOIN vectuned.promise p ON p.column_id = %(column_id)s AND p.k_class = k.k_class AND p.shape = k.shape
LEFT JOIN vectuned.bank b ON b.column_id = %(column_id)s AND b.k_class = k.k_class AND k.shape = ''
ORDER BY k.k_class, k.shape;

-- name: checks_of_class
-- The recall checks of a class of searches from a given check on, oldest first; only of searches recorded since a time.
SELECT check_no, recorded_at, checked_at, recall, hardness, filter_digest FROM vectuned.recall_check
WHERE column_id = %(column_id)s AND k_class = %(k_class)s AND shape = %(shape)s AND check_no >= %(first_check)s
  AND recorded_at >= coalesce(%(since)s::timestamptz, '-infinity')
ORDER BY check_no;

-- name: first_check
-- The first check of a class of searches by the bank that serves now; the number of the next check if there is none.
SELECT coalesce(min(k.check_no), (SELECT coalesce(max(o.check_no), 0) + 1 FROM vectuned.recall_check o)) AS check_no
FROM vectuned.recall_check k
WHERE k.column_id = %(column_id)s AND k.k_class = %(k_class)s AND k.shape = %(shape)s
  AND k.version = (SELECT max(b.version) FROM vectuned.bank b WHERE b.column_id = k.column_id);

-- name: upsert_promise
-- Stores the promise of a class of searches.
INSERT INTO vectuned.promise AS p (
    column_id, k_class, shape, first_check, since, served, target_recall, block, checks, unknown, recall, recall_bound,
    below_08, below_08_bound, epoch_recall, epoch_bound, epoch_ended, heavy_filters, e_value, alarms, confidence)
VALUES (%(column_id)s, %(k_class)s, %(shape)s, %(first_check)s, coalesce(%(since)s::timestamptz, now()), %(served)s, %(target)s, %(block)s,
        %(checks)s, %(unknown)s, %(recall)s, %(recall_bound)s, %(below_08)s, %(below_08_bound)s,
        %(epoch_recall)s, %(epoch_bound)s, %(epoch_ended)s, %(heavy_filters)s, %(e_value)s, %(alarms)s, %(confidence)s)
ON CONFLICT (column_id, k_class, shape) DO UPDATE SET
    first_check = excluded.first_check, since = excluded.since, served = excluded.served,
    target_recall = excluded.target_recall, block = excluded.block, checks = excluded.checks, unknown = excluded.unknown,
    recall = excluded.recall, recall_bound = excluded.recall_bound, below_08 = excluded.below_08,
    below_08_bound = excluded.below_08_bound, epoch_recall = excluded.epoch_recall, epoch_bound = excluded.epoch_bound,
    epoch_ended = excluded.epoch_ended, heavy_filters = excluded.heavy_filters, e_value = excluded.e_value, alarms = excluded.alarms,
    confidence = excluded.confidence, updated_at = now();

-- name: trim_checks
-- Deletes the checks that have left the column's window.
DELETE FROM vectuned.recall_check WHERE column_id = %(column_id)s AND check_no <= (
    SELECT o.check_no FROM vectuned.recall_check o WHERE o.column_id = %(column_id)s
    ORDER BY o.check_no DESC OFFSET %(window)s LIMIT 1);

-- name: all_classes_proven
-- Whether what serves is proven again: for every class of k that has enough replays, and for everything that has fallen back,
-- unless no search asks for it (no replay of the class itself) or no replay said enough about it in 10 * min_samples replays
-- since. Without an index over all rows no class of k is ever published: searches are exact.
WITH since AS (
    SELECT coalesce((SELECT b.first_replay FROM vectuned.baseline b WHERE b.column_id = %(column_id)s), 0) AS first_replay),
served AS (
    SELECT b.certified, b.learned_effort IS NOT NULL AS fell_back, b.k_class, '' AS shape FROM vectuned.bank b
    WHERE b.column_id = %(column_id)s
    UNION ALL
    SELECT DISTINCT false, true, m.k_class, m.shape FROM vectuned.measured_path m
    WHERE m.column_id = %(column_id)s AND m.fell_back AND m.serves AND m.shape IS NOT NULL)
SELECT (bool_or(s.certified) OR EXISTS (SELECT FROM vectuned.tuned_column c WHERE c.id = %(column_id)s AND c.index_relation = 0)) IS TRUE
   AND bool_or(NOT s.certified AND (NOT s.fell_back AND n.own >= %(min_samples)s
                                    OR s.fell_back AND n.own > 0 AND n.replays < 10 * %(min_samples)s)) IS NOT TRUE AS proven
FROM served s CROSS JOIN since
LEFT JOIN vectuned.promise p ON p.column_id = %(column_id)s AND p.k_class = s.k_class AND p.shape = s.shape
CROSS JOIN LATERAL (
    SELECT count(*) AS replays, count(*) FILTER (WHERE r.k_class = s.k_class AND (s.shape <> '' OR r.fraction IS NULL)) AS own FROM vectuned.replay r
    WHERE r.column_id = %(column_id)s AND r.replay_no >= greatest(since.first_replay, p.learn_from)) n;
