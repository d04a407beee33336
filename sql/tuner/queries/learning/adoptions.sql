-- What `vectuned adopt --apply` set, and whether it still holds.

-- name: adopted_statements
-- The statements of a column that settings in force were adopted for as proven: the newest adoption of each role.
SELECT a.adoption_no, a.role_name, a.applied_at, a.alarms, f.fingerprint, f.column_id, f.k_class, f.shape, f.as_text, f.statement,
       f.path, f.effort, f.settings::text AS settings
FROM (SELECT DISTINCT ON (o.role_name) o.* FROM vectuned.adoption o WHERE o.reverted_at IS NULL
      ORDER BY o.role_name, o.adoption_no DESC) a
CROSS JOIN LATERAL jsonb_to_recordset(a.figures) AS f (
    fingerprint text, column_id int, k_class int, shape text, as_text boolean, statement text, reaches_target boolean, path text,
    effort int, settings jsonb)
WHERE f.reaches_target AND f.column_id = %(column_id)s AND f.settings IS NOT NULL
ORDER BY a.adoption_no, f.fingerprint, f.k_class, f.shape;

-- name: calls_since_adoption
-- Replays of calls of a class that were recorded since a time, in order: recall by rung of the main index, and of the paths
-- without rungs.
SELECT r.asked_recall, r.other_recall, r.takes_index
FROM vectuned.replay r
JOIN vectuned.trajectory t ON t.query_id = r.query_id AND t.recorded_at = r.recorded_at AND t.source <> 'function'
WHERE r.column_id = %(column_id)s AND r.generation = %(generation)s AND r.k_class = %(k_class)s
  AND r.shape IS NOT DISTINCT FROM nullif(%(shape)s, '') AND NOT r.is_counter_example AND r.recorded_at > %(since)s
ORDER BY r.replay_no;

-- name: texts_since_adoption
-- What the replays of a statement as text came to that was recorded since a time, in order.
SELECT t.outcomes
FROM vectuned.text_call t
WHERE t.column_id = %(column_id)s AND t.fingerprint = %(fingerprint)s AND t.k_class = %(k_class)s AND t.shape = %(shape)s
  AND t.outcomes IS NOT NULL AND t.recorded_at > %(since)s
ORDER BY t.call_no;

-- name: table_change_since
-- The newest change of a table since a time after which nothing that was learned before counts as proven, in words.
SELECT e.details ->> 'why' FROM vectuned.event e
WHERE e.column_id = %(column_id)s AND e.action = ANY (%(actions)s) AND e.happened_at > %(since)s
ORDER BY e.id DESC LIMIT 1;

-- name: add_adoption_alarm
-- Records an alarm of an adoption, one for each statement; returns whether it is new.
UPDATE vectuned.adoption a
SET alarms = a.alarms || jsonb_build_object('fingerprint', %(fingerprint)s::text, 'at', now(), 'why', %(why)s::text)
WHERE a.adoption_no = %(adoption_no)s
  AND NOT a.alarms @> jsonb_build_array(jsonb_build_object('fingerprint', %(fingerprint)s::text));
