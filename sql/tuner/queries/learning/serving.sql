-- Statements of applications: which there are, and the settings that serve them.

-- name: count_statement_calls
-- Adds calls of a statement, which becomes known with the first.
INSERT INTO vectuned.statement AS s (fingerprint, column_id, k_class, shape, text, as_text, calls, first_seen,
                                     last_seen)
VALUES (%(fingerprint)s, %(column_id)s, %(k_class)s, %(shape)s, %(text)s, %(as_text)s, %(calls)s, %(first_seen)s,
        %(last_seen)s)
ON CONFLICT (fingerprint, column_id, k_class, shape) DO UPDATE
SET calls = s.calls + excluded.calls, first_seen = least(s.first_seen, excluded.first_seen),
    last_seen = greatest(s.last_seen, excluded.last_seen);

-- name: served_statements
-- Every statement of a column, and of other columns where these have the same text. NULL = every statement. `imported` is what
-- was measured elsewhere, as long as nothing has changed since the import.
SELECT s.fingerprint, s.column_id, s.k_class, s.shape, s.text, s.as_text, s.calls, s.settings, s.certified,
       CASE WHEN m.import_no IS NOT NULL AND NOT EXISTS (
                 SELECT FROM vectuned.event e
                 WHERE e.column_id = s.column_id AND e.happened_at > m.imported_at
                   AND e.action IN ('alarm', 'rebuilt', 'growth', 'deletes', 'rewritten')) THEN s.figures END AS imported
FROM vectuned.statement s
LEFT JOIN vectuned.imported m ON m.import_no = s.import_no
WHERE %(column_id)s::int IS NULL
   OR s.fingerprint IN (SELECT o.fingerprint FROM vectuned.statement o WHERE o.column_id = %(column_id)s)
ORDER BY s.fingerprint, s.column_id, s.k_class, s.shape;

-- name: condition_calls
-- Replayed calls with each condition through the main index, in order of time, at most the newest 2,000 of each condition:
-- what the paths gave that settings alone can choose. None of a table that has changed since, nor from before an alarm.
SELECT n.column_id, n.k_class, n.shape, n.bucket, n.exact_ms, n.other_recall, n.other_ms, n.takes_index
FROM (SELECT r.column_id, r.k_class, r.shape, vectuned._filter_bucket(r.fraction) AS bucket, r.exact_ms, r.other_recall, r.other_ms,
             r.takes_index, r.replay_no,
             row_number() OVER (PARTITION BY r.column_id, r.k_class, r.shape ORDER BY r.replay_no DESC) AS place
      FROM (SELECT t.id, vectuned._generation(t.index_relation) AS generation
            FROM vectuned.tuned_column t WHERE t.id = ANY (%(column_ids)s) OFFSET 0) c
      JOIN vectuned.replay r ON r.column_id = c.id AND r.generation = c.generation
      LEFT JOIN vectuned.baseline b ON b.column_id = c.id
      LEFT JOIN vectuned.promise p ON p.column_id = c.id AND p.k_class = r.k_class AND p.shape = r.shape
      WHERE r.shape IS NOT NULL AND NOT r.is_counter_example AND r.other_ms IS NOT NULL
        AND r.replay_no >= greatest(b.first_replay, p.learn_from, 0)) n
WHERE n.place <= 2000
ORDER BY n.replay_no;

-- name: forget_condition_shares
-- Deletes the buckets of values of a column, NULL of all, before publish_condition_shares counts them again.
DELETE FROM vectuned.condition_share s WHERE %(column_id)s::int IS NULL OR s.column_id = %(column_id)s;

-- name: publish_condition_shares
-- Stores which selectivity bucket the values of replayed calls fall into, of the commonest 5,000 of each column.
INSERT INTO vectuned.condition_share (column_id, value_key, bucket, calls)
SELECT n.column_id, n.value_key, n.bucket, n.calls
FROM (SELECT r.column_id, t.value_key, vectuned._filter_bucket(avg(r.fraction)) AS bucket, count(*) AS calls,
             row_number() OVER (PARTITION BY r.column_id ORDER BY count(*) DESC, max(r.replay_no) DESC) AS place
      FROM vectuned.replay r
      JOIN vectuned.trajectory t ON t.query_id = r.query_id AND t.recorded_at = r.recorded_at
      JOIN vectuned.tuned_column c ON c.id = r.column_id AND c.store_vectors
      WHERE t.value_key IS NOT NULL AND r.fraction IS NOT NULL AND (%(column_id)s::int IS NULL OR r.column_id = %(column_id)s)
      GROUP BY r.column_id, t.value_key) n
WHERE n.place <= 5000;

-- name: plain_index_paths
-- What the indexes give that a statement without a condition can use as it is: complete ones over the column itself. The
-- bank comes first, because it holds the margins added since the publish.
SELECT i.column_id, p.k_class, i.method, p.ms, p.samples,
       CASE WHEN b.column_id IS NULL THEN p.effort ELSE coalesce(b.ef_search, b.probes) END AS effort,
       CASE WHEN b.column_id IS NULL THEN p.expected_recall ELSE b.expected_recall END AS expected_recall,
       CASE WHEN b.column_id IS NULL THEN p.recall_bound ELSE b.recall_bound END AS recall_bound,
       CASE WHEN b.column_id IS NULL THEN p.proven ELSE b.certified END AS proven
FROM vectuned.tuned_index i
JOIN vectuned.tuned_column c ON c.id = i.column_id
LEFT JOIN vectuned.tuned_index m ON m.column_id = c.id AND m.index_relation = c.index_relation
JOIN vectuned.measured_path p ON p.column_id = i.column_id AND p.index_no = i.index_no AND p.shape IS NULL
LEFT JOIN vectuned.bank b
       ON b.column_id = i.column_id AND b.k_class = p.k_class AND coalesce(b.index_no, m.index_no) = i.index_no
      AND b.access_path <> 'exact'
WHERE i.column_id = ANY (%(column_ids)s) AND i.form = 'plain' AND i.requires IS NULL AND i.marker = 'true';

-- name: statement_columns
-- What the choice of settings needs to know about columns: targets, the highest effort that the column and the daemon allow,
-- and the efforts until something was learned.
SELECT c.id, c.target_recall, c.max_tail, least(c.max_effort, vectuned._effort_cap()) AS max_effort, c.default_ef,
       c.default_probes, i.method
FROM vectuned.tuned_column c
JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_relation = c.index_relation
WHERE c.id = ANY (%(column_ids)s);

-- name: publish_statement_settings
-- Sets what serves a statement; settings NULL = it goes out as it is.
UPDATE vectuned.statement
SET settings = %(settings)s, by_share = %(by_share)s, expected_recall = %(expected_recall)s, recall_bound = %(recall_bound)s,
    certified = %(certified)s, figures = %(figures)s, import_no = NULL,
    published_at = CASE WHEN %(settings)s::jsonb IS NULL THEN NULL ELSE now() END
WHERE fingerprint = %(fingerprint)s AND column_id = %(column_id)s AND k_class = %(k_class)s AND shape = %(shape)s;
