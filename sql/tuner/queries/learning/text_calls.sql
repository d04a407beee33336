-- Calls of statements that are more than the rows of one table.

-- name: record_text_calls
-- Stores calls of a column to be replayed as text, as long as no more than `most` wait, and returns how many. A time in the
-- future, by a clock or time zone that is wrong, becomes now.
WITH stored AS (
    INSERT INTO vectuned.text_call (column_id, fingerprint, k_class, shape, recorded_at, source, latency_ms, text, parameters,
                                    search_path)
    SELECT c.id, r.fingerprint, r.k_class, r.shape, least(coalesce(r.recorded_at, now()), now()), %(source)s, r.latency_ms,
           r.text, r.parameters, r.search_path
    FROM vectuned.tuned_column c
    CROSS JOIN LATERAL jsonb_to_recordset(%(calls)s::jsonb) AS r (
        fingerprint text, k_class int, shape text, recorded_at timestamptz, latency_ms float8, text text, parameters text[],
        search_path text)
    WHERE c.id = %(column_id)s AND c.enabled
    ORDER BY r.recorded_at DESC NULLS FIRST
    LIMIT (SELECT greatest(%(most)s - count(*), 0) FROM vectuned.text_call t
           WHERE t.column_id = %(column_id)s AND t.replayed_at IS NULL)
    RETURNING 1)
SELECT count(*) FROM stored;

-- name: pending_text_calls
-- The newest calls of a column that wait to be replayed as text, or were replayed on indexes that are gone since.
SELECT t.call_no, t.k_class, t.text, t.parameters, t.search_path
FROM vectuned.text_call t
WHERE t.column_id = %(column_id)s AND t.text IS NOT NULL
  AND (t.replayed_at IS NULL OR t.outcomes IS NOT NULL AND t.generations IS DISTINCT FROM %(generations)s::oid[])
ORDER BY t.call_no DESC
LIMIT %(count)s;

-- name: count_pending_text_calls
-- How many calls of a column wait to be replayed as text.
SELECT count(*) FROM vectuned.text_call t
WHERE t.column_id = %(column_id)s AND t.text IS NOT NULL
  AND (t.replayed_at IS NULL OR t.outcomes IS NOT NULL AND t.generations IS DISTINCT FROM %(generations)s::oid[]);

-- name: store_text_replay
-- Stores what a replay of a call came to, and deletes its text and values unless the column stores vectors.
UPDATE vectuned.text_call t
SET replayed_at = now(), generations = %(generations)s::oid[], outcomes = %(outcomes)s::jsonb, failure = %(failure)s,
    text = CASE WHEN c.store_vectors THEN t.text END, parameters = CASE WHEN c.store_vectors THEN t.parameters END
FROM vectuned.tuned_column c
WHERE t.call_no = %(call_no)s AND c.id = t.column_id;

-- name: trim_text_calls
-- Deletes the replayed calls of a column beyond the newest of its window.
DELETE FROM vectuned.text_call t
WHERE t.column_id = %(column_id)s AND t.call_no < (
    SELECT o.call_no FROM vectuned.text_call o WHERE o.column_id = %(column_id)s
    ORDER BY o.call_no DESC OFFSET (SELECT c.trajectory_window - 1 FROM vectuned.tuned_column c WHERE c.id = %(column_id)s) LIMIT 1);

-- name: text_outcomes
-- What the replays of calls as text came to, on the present indexes of their columns.
SELECT t.column_id, t.fingerprint, t.k_class, t.shape, t.outcomes
FROM vectuned.text_call t
WHERE t.column_id = ANY (%(column_ids)s) AND t.outcomes IS NOT NULL
  AND t.generations = (SELECT array_agg(g.generation ORDER BY g.generation)
                       FROM (SELECT vectuned._generation(i.index_relation) AS generation FROM vectuned.tuned_index i
                             WHERE i.column_id = t.column_id) g
                       WHERE g.generation IS NOT NULL)
ORDER BY t.call_no DESC;
