-- Statements of replays.

-- name: replay_search
-- One search through one index at every rung of effort; vectuned._replay describes the columns.
SELECT r.distances, r.counts, r.blocks, r.ms, r.matched, r.exact_ms, r.other_distances, r.other_counts, r.other_ms,
       r.entries, r.fresh_place, r.fresh_ms, r.takes_index
FROM vectuned._replay(
    %(column_id)s, %(index_no)s, %(query)s, %(rungs)s, %(condition)s, %(k)s, %(depth)s, %(goal)s, %(bound)s,
    %(filter_goal)s, %(filter_bound)s, %(thorough)s, %(exact_ms)s) r;

-- name: probe_search
-- The distances that the short searches of a probe return, one column for each length in PROBES of
-- learning/model/ladder.py.
SELECT vectuned._probe(c, %(query)s, %(probe_0)s) AS probe_0, vectuned._probe(c, %(query)s, %(probe_1)s) AS probe_1,
       vectuned._probe(c, %(query)s, %(probe_2)s) AS probe_2
FROM vectuned.tuned_column c WHERE c.id = %(column_id)s;

-- name: replayed
-- Which of these searches were already replayed on a generation of an index, on the table as it is now.
SELECT r.query_id FROM vectuned.replay r
WHERE r.column_id = %(column_id)s AND r.generation = %(generation)s AND r.query_id = ANY (%(query_ids)s)
  AND r.replay_no >= coalesce((SELECT b.first_replay FROM vectuned.baseline b WHERE b.column_id = %(column_id)s), 0);

-- name: compile_filter
-- The SQL condition and the shape of a filter; condition is NULL if the filter does not fit the table.
SELECT m.condition, m.shape FROM vectuned.tuned_column c, vectuned._compile_filter(c.id, c.relation, %(filter)s::jsonb) m
WHERE c.id = %(column_id)s;

-- name: count_complete
-- The number of complete replays on the index that has the fewest, of those that are evidence about every class of k. Only
-- replays through every rung know the class 100, or a larger one, whatever their own k is.
SELECT min(n.count) AS complete FROM unnest(%(generations)s::oid[]) g
CROSS JOIN LATERAL (
    SELECT count(*) FROM vectuned.replay r
    WHERE r.column_id = %(column_id)s AND r.generation = g AND 100 = ANY (r.k_classes)
      AND r.replay_no >= greatest(
          (SELECT b.first_replay FROM vectuned.baseline b WHERE b.column_id = %(column_id)s),
          (SELECT max(p.learn_from) FROM vectuned.promise p WHERE p.column_id = %(column_id)s AND p.shape = ''), 0)) n;

-- name: generation
-- The present generation of an index; NULL, or no row, if the index is gone.
SELECT vectuned._generation(i.index_relation) AS generation FROM vectuned.tuned_index i
WHERE i.column_id = %(column_id)s AND i.index_no = %(index_no)s;

-- name: table_bytes
-- The bytes of a table without what is stored out of line, those of its partitions together.
SELECT coalesce(sum(pg_relation_size(t.relid)), 0)::bigint AS bytes
FROM (SELECT %(relation)s::regclass AS relid UNION SELECT p.relid FROM pg_partition_tree(%(relation)s::regclass) p) t;

-- name: add_table_read
-- Adds what a pass over a table of a column read.
INSERT INTO vectuned.table_read AS t (column_id, total_bytes, hour, hour_bytes)
VALUES (%(column_id)s, %(bytes)s, date_trunc('hour', clock_timestamp()), %(bytes)s)
ON CONFLICT (column_id) DO UPDATE SET
    total_bytes = t.total_bytes + excluded.total_bytes,
    hour = excluded.hour,
    hour_bytes = excluded.hour_bytes + CASE WHEN t.hour = excluded.hour THEN t.hour_bytes ELSE 0 END,
    previous_bytes = CASE WHEN t.hour = excluded.hour THEN t.previous_bytes
                          WHEN t.hour = excluded.hour - interval '1 hour' THEN t.hour_bytes ELSE 0 END;

-- name: limit_statement
-- Sets the statement timeout for the rest of the transaction.
SELECT set_config('statement_timeout', %(milliseconds)s, true);

-- name: insert_replay
-- Stores the replay of one search on one index, unless it is there already; one of the table as it was before it changed is
-- replaced.
WITH base AS (SELECT b.rows, b.first_replay FROM vectuned.baseline b WHERE b.column_id = %(column_id)s)
INSERT INTO vectuned.replay AS o (query_id, column_id, recorded_at, generation, k, k_class, k_classes, probe, recall, blocks, ms,
                                  shape, fraction, filtered_recall, matches, exact_ms, other_recall, other_ms, takes_index,
                                  asked_recall, asked_filtered_recall, rows, fresh_place, fresh_ms)
VALUES (%(query_id)s, %(column_id)s, %(recorded_at)s, %(generation)s, %(k)s, %(k_class)s, %(k_classes)s, %(probe)s, %(recall)s,
        %(blocks)s, %(ms)s, %(shape)s, %(fraction)s, %(filtered_recall)s, %(matches)s, %(exact_ms)s,
        %(other_recall)s, %(other_ms)s, %(takes_index)s, %(asked_recall)s, %(asked_filtered_recall)s,
        (SELECT b.rows FROM base b), %(fresh_place)s, %(fresh_ms)s)
ON CONFLICT (column_id, query_id, generation) DO UPDATE SET
    replay_no = DEFAULT, replayed_at = now(), k_class = excluded.k_class, k_classes = excluded.k_classes, probe = excluded.probe,
    recall = excluded.recall, blocks = excluded.blocks, ms = excluded.ms, shape = excluded.shape, fraction = excluded.fraction,
    filtered_recall = excluded.filtered_recall, matches = excluded.matches, exact_ms = excluded.exact_ms,
    other_recall = excluded.other_recall, other_ms = excluded.other_ms, takes_index = excluded.takes_index,
    k = excluded.k,
    asked_recall = excluded.asked_recall, asked_filtered_recall = excluded.asked_filtered_recall, rows = excluded.rows,
    fresh_place = excluded.fresh_place, fresh_ms = excluded.fresh_ms, is_counter_example = false
WHERE o.replay_no < (SELECT b.first_replay FROM base b);

-- name: mark_replayed
-- Marks a search replayed and stores the recall it was served with. If its recall was unknown before, its verdict is
-- removed, so that it is judged again. A recall that was known stays: the table may have changed since, and its exact
-- answers now do not show what the answer was worth then.
UPDATE vectuned.trajectory
SET replayed_at = now(), claimed_by = NULL, query = CASE WHEN %(keep)s THEN query END,
    condition = CASE WHEN %(keep)s THEN condition END, recall = coalesce(recall, %(recall)s),
    verdict = CASE WHEN recall IS NOT NULL THEN verdict END,
    verdict_confidence = CASE WHEN recall IS NOT NULL THEN verdict_confidence END,
    recommendation = CASE WHEN recall IS NOT NULL THEN recommendation END
WHERE query_id = %(query_id)s AND recorded_at = %(recorded_at)s;

-- name: check_search
-- The distances of a search as it is served now, ascending; the search is not recorded.
SELECT coalesce(array_agg(s.distance ORDER BY s.distance), '{}') AS distances
FROM (SELECT set_config('vectuned.record', 'off', true)) o
CROSS JOIN LATERAL vectuned.search(%(relation)s::regclass, %(query)s, %(k)s, %(filter)s::jsonb, %(column_name)s) s;

-- name: insert_check
-- Stores the recall of a search as it is served now, NULL where the check failed.
INSERT INTO vectuned.recall_check (column_id, query_id, recorded_at, k_class, shape, version, recall, hardness, filter_digest)
VALUES (%(column_id)s, %(query_id)s, %(recorded_at)s, %(k_class)s, %(shape)s, %(version)s, %(recall)s, %(hardness)s,
        left(md5(%(filter)s::jsonb::text), 16));

-- name: bank_version
-- The version of the bank in service; NULL without one.
SELECT max(b.version) AS version FROM vectuned.bank b WHERE b.column_id = %(column_id)s;

-- name: others_wait
-- Whether another session waits for a lock that the session `pid` holds, or for the end of its snapshot. pg_blocking_pids
-- is called for waiting sessions only: it stops the lock manager for a moment.
SELECT EXISTS (SELECT FROM pg_locks l WHERE NOT l.granted AND %(pid)s = ANY (pg_blocking_pids(l.pid))) AS waiting;
