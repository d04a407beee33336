-- Statements of learning: reading replays, reading and publishing banks.

-- name: recent_replays
-- The newest replays through one build of an index (generation), newest first; or, with is_counter_example, the
-- counter-examples kept of it. Replays that were taken with another probe length are left out.
SELECT replay_no, rows, recorded_at, k, k_class, k_classes, probe, recall, blocks, ms, fraction, filtered_recall, matches,
       exact_ms, other_recall, other_ms, asked_recall, asked_filtered_recall, shape, fresh_place, fresh_ms
FROM vectuned.replay
WHERE column_id = %(column_id)s AND generation = %(generation)s AND cardinality(probe) IN (0, %(width)s)
  AND is_counter_example = %(is_counter_example)s
ORDER BY replay_no DESC LIMIT %(count)s;

-- name: trim_replays
-- Deletes the replays that have left the window of an index, and all replays of indexes that no longer exist. Exception:
-- if a published bank served the search, without a filter, with a recall under 0.8, a probed replay becomes a
-- counter-example instead. The newest counter-examples of each index stay, at most a tenth of the window.
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

-- name: active_margins
-- The classes of k whose effort is raised by a margin, in rungs.
SELECT k_class, margin FROM vectuned.promise WHERE column_id = %(column_id)s AND shape = '' AND margin > 0;

-- name: recent_lookups
-- Signatures of the newest searches that were answered by the patterns of the bank now in service.
SELECT vectuned._k_class(t.k) AS k_class, t.signature::real[] AS signature
FROM vectuned.trajectory t
JOIN (SELECT max(b.version) AS version, min(b.published_at) AS published_at
      FROM vectuned.bank b WHERE b.column_id = %(column_id)s) b ON b.version = t.bank_version
WHERE t.column_id = %(column_id)s AND t.recorded_at >= b.published_at AND t.signature IS NOT NULL
ORDER BY t.recorded_at DESC LIMIT %(count)s;

-- name: recent_queries
-- Query vectors of the newest recorded searches, to measure a bank with.
SELECT query FROM vectuned.trajectory
WHERE column_id = %(column_id)s AND query IS NOT NULL ORDER BY recorded_at DESC LIMIT %(count)s;

-- name: served_efforts
-- The effort that serves each class of k, from how many replays (0 for a guess), and through which index; index_no is NULL for
-- the main one.
SELECT k_class, index_no, coalesce(ef_search, probes) AS effort, samples FROM vectuned.bank WHERE column_id = %(column_id)s;

-- name: evidence_limits
-- The table as it is now, by its baseline: its rows, and the first replay on it. No row without a baseline.
SELECT rows, first_replay FROM vectuned.baseline WHERE column_id = %(column_id)s;

-- name: evidence_starts
-- The first replay that is evidence about each class of searches that had an alarm.
SELECT k_class, shape, learn_from FROM vectuned.promise WHERE column_id = %(column_id)s AND learn_from > 0;

-- name: imported_classes
-- Classes of k that serve an imported policy which was learned on another index.
SELECT b.k_class FROM vectuned.bank b JOIN vectuned.imported m ON m.import_no = b.import_no
WHERE b.column_id = %(column_id)s AND NOT m.proven_here;

-- name: lock_column
-- Whether the column is enabled. The row lock lets one publish run at a time and none while the column is being disabled.
SELECT enabled FROM vectuned.tuned_column WHERE id = %(column_id)s FOR NO KEY UPDATE;

-- name: set_target
-- Sets the target recall of a column, unless it has changed meanwhile.
UPDATE vectuned.tuned_column SET target_recall = %(new)s WHERE id = %(column_id)s AND target_recall = %(old)s;

-- name: next_bank_version
-- The version of the bank that is published next.
SELECT coalesce(max(b.version), 0) + 1 AS version FROM vectuned.bank b WHERE b.column_id = %(column_id)s;

-- name: last_replay
-- The number of the newest replay, 0 without any.
SELECT coalesce(max(replay_no), 0) AS replay_no FROM vectuned.replay WHERE column_id = %(column_id)s;

-- name: refresh_statistics
-- Copies the planner's statistics on filtered columns to where searches look them up.
SELECT vectuned._refresh_statistics(%(column_id)s);

-- name: published_bank
-- The bank by class of k, each with its patterns as arrays. One statement, so that a publish by another session cannot mix
-- two banks.
SELECT b.k_class, b.version, b.generation, b.access_path, b.index_no, b.ef_search, b.probes, b.rungs, b.expected_recall, b.recall_bound, b.tail, b.tail_bound,
       b.certified, b.samples, b.target_recall, b.probe_ef, b.center, b.weights, b.reach, b.saving, b.reason, b.asked_effort, p.*
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

-- name: delete_bank
-- Deletes the bank of a column, except the classes that go on unchanged.
DELETE FROM vectuned.bank WHERE column_id = %(column_id)s AND k_class <> ALL (%(unchanged_classes)s::int[]);

-- name: delete_class
-- Deletes one class of k from the bank; its patterns go with it.
DELETE FROM vectuned.bank WHERE column_id = %(column_id)s AND k_class = %(k_class)s;

-- name: insert_class
-- Adds one class of k to the bank.
INSERT INTO vectuned.bank (column_id, k_class, version, generation, access_path, index_no, ef_search, probes,
                           rungs, expected_recall, recall_bound, tail, tail_bound, certified, samples, target_recall, probe_ef, center, weights,
                           reach, saving, reason, asked_effort, exact_ms)
VALUES (%(column_id)s, %(k_class)s, %(version)s, %(generation)s, %(access_path)s, %(index_no)s, %(ef_search)s, %(probes)s,
        %(rungs)s, %(expected_recall)s, %(recall_bound)s, %(tail)s, %(tail_bound)s, %(certified)s, %(samples)s, %(target_recall)s, %(probe_ef)s,
        %(center)s, %(weights)s, %(reach)s, %(saving)s, %(reason)s, %(asked_effort)s, %(exact_ms)s);

-- name: insert_pattern
-- Adds one pattern to a class of the bank; it keeps the date of birth that it inherited.
INSERT INTO vectuned.pattern (column_id, k_class, pattern_no, centroid, effort, expected_recall, confidence, samples,
                              usage, chances, recall, cost, created_at)
VALUES (%(column_id)s, %(k_class)s, %(pattern_no)s, %(centroid)s, %(effort)s, %(expected_recall)s, %(confidence)s,
        %(samples)s, %(usage)s, %(chances)s, %(recall)s, %(cost)s, coalesce(to_timestamp(nullif(%(born)s::float8, 0)), now()));

-- name: set_served_path
-- Changes the access path and setting that serve a class of k.
UPDATE vectuned.bank SET access_path = %(access_path)s, index_no = %(index_no)s, ef_search = %(ef_search)s, probes = %(probes)s
WHERE column_id = %(column_id)s AND k_class = %(k_class)s;

-- name: delete_measured_paths
-- Deletes what was measured here of every access path, not what was imported. What filters have fallen back to stays until they
-- are measured again, and so does what unchanged classes of k are served from.
DELETE FROM vectuned.measured_path
WHERE column_id = %(column_id)s AND import_no IS NULL
  AND CASE WHEN shape IS NULL THEN k_class <> ALL (%(unchanged_classes)s::int[]) ELSE NOT fell_back END;

-- name: insert_measured_path
-- Adds what one access path was measured to give.
INSERT INTO vectuned.measured_path (column_id, k_class, shape, bucket, access_path, index_no, effort, requires, share,
                                    expected_recall, recall_bound, proven, ms, samples, serves)
VALUES (%(column_id)s, %(k_class)s, %(shape)s, %(bucket)s, %(access_path)s, %(index_no)s, %(effort)s, %(requires)s, %(share)s,
        %(recall)s, %(bound)s, %(proven)s, %(ms)s, %(samples)s, %(serves)s);

-- name: delete_superseded_paths
-- Deletes imported paths, and those that have fallen back, for the filter shapes and buckets that were measured here: they serve
-- only until then.
DELETE FROM vectuned.measured_path p
WHERE p.column_id = %(column_id)s AND (p.import_no IS NOT NULL OR p.fell_back) AND EXISTS (
    SELECT FROM vectuned.measured_path o
    WHERE o.column_id = p.column_id AND o.k_class = p.k_class AND o.shape = p.shape AND o.bucket = p.bucket
      AND o.import_no IS NULL AND NOT o.fell_back);
