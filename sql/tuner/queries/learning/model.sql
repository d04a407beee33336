-- Statements of tuned columns, trajectories and events.

-- name: tuned_columns
-- Every tuned column, or the one with an id, that is not missing, in the order they were enabled.
SELECT c.id, n.nspname, r.relname, c.column_name, c.metric, c.vector_type, c.dimensions, c.key_columns,
       x.nspname AS extension_schema, c.target_recall, c.max_tail, c.sample_rate, c.trajectory_window, c.learning_rate,
       c.min_samples, c.store_vectors, c.max_effort, c.max_ms, c.exact_if_unreachable, c.enabled, c.default_ef, c.default_probes, c.alert,
       r.relkind = 'p' AS partitioned,
       EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.relation AND a.attname = c.column_name AND a.atttypmod < 1) AS untyped
FROM vectuned.tuned_column c
JOIN pg_class r ON r.oid = c.relation
JOIN pg_namespace n ON n.oid = r.relnamespace
CROSS JOIN (SELECT s.nspname FROM pg_extension e JOIN pg_namespace s ON s.oid = e.extnamespace
            WHERE e.extname = 'vector') x
WHERE c.missing_since IS NULL AND (%(column_id)s::int IS NULL OR c.id = %(column_id)s)
ORDER BY c.id;

-- name: tuned_indexes
-- The indexes of a tuned column that still exist; the main index, used until something has been learned, comes first. None
-- while the main one is missing: nothing can be learned then, even if partial ones are left. A column that was enabled with only
-- partial indexes has no main index: its index_relation is 0.
SELECT i.index_no, i.index_relation::regclass::text AS name, i.method, i.form, i.requires::text, i.share, i.lists,
       vectuned._generation(i.index_relation) AS generation
FROM vectuned.tuned_index i JOIN vectuned.tuned_column c ON c.id = i.column_id
WHERE i.column_id = %(column_id)s AND vectuned._generation(i.index_relation) IS NOT NULL
  AND (c.index_relation = 0 OR EXISTS (
          SELECT FROM vectuned.tuned_index m JOIN pg_class r ON r.oid = m.index_relation
          WHERE m.column_id = c.id AND m.requires IS NULL))
ORDER BY i.index_relation = c.index_relation DESC, i.requires IS NOT NULL, i.index_no;

-- name: drain
-- Moves up to `batch` recorded searches from the inbox to the trajectories and returns how many.
SELECT vectuned._drain(%(batch)s) AS moved;

-- name: claim_pending
-- Sampled searches that were not replayed yet, the newest first, because these say most about the present workload. They are
-- claimed for this session: another one that replays meanwhile takes others. The answer of a call is not known.
WITH chosen AS (
    SELECT t.query_id, t.recorded_at FROM vectuned.trajectory t
    WHERE t.column_id = %(column_id)s AND t.replayed_at IS NULL AND t.query IS NOT NULL
      AND (t.claimed_by IS NULL OR t.claimed_by = pg_backend_pid()
           OR t.claimed_by <> ALL (ARRAY(SELECT a.pid FROM pg_stat_activity a)))
    ORDER BY t.recorded_at DESC LIMIT %(count)s FOR UPDATE SKIP LOCKED),
claimed AS (
    UPDATE vectuned.trajectory t SET claimed_by = pg_backend_pid() FROM chosen c
    WHERE t.query_id = c.query_id AND t.recorded_at = c.recorded_at
    RETURNING t.query_id, t.query, t.k, t.distances, t.recorded_at, t.filter::text, t.fraction, t.recall IS NULL AS fresh,
              t.condition, t.shape, t.source = 'function' AS is_answered)
SELECT * FROM claimed ORDER BY recorded_at DESC;

-- name: release_pending
-- Gives the searches that this session has claimed and not replayed to other sessions.
UPDATE vectuned.trajectory SET claimed_by = NULL
WHERE column_id = %(column_id)s AND replayed_at IS NULL AND claimed_by = pg_backend_pid();

-- name: lock_tuning
-- Takes the lock of vectuned.enable and vectuned.disable until the end of the transaction. A transaction that changes what
-- serves takes it first, before it locks any row, so that no two of them wait for each other.
SELECT pg_advisory_xact_lock(hashtextextended('vectuned.enable', 0));

-- name: notify
-- Sends a notification on the channel `vectuned` when the transaction commits.
SELECT pg_notify('vectuned', %(payload)s);

-- name: insert_event
-- Adds an event; column_id is NULL for one that concerns no single column.
INSERT INTO vectuned.event (column_id, action, details) VALUES (%(column_id)s, %(action)s, %(details)s);
