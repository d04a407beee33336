-- Statements of replays.

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
