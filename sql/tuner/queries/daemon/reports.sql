-- Statements of status, report and metrics.

-- name: recommend
-- Recommended search parameters, indexes and statistics of a column, with reasons and statements.
SELECT * FROM vectuned.recommend_params(%(relation)s::regclass, %(column_name)s);

-- name: stats
-- Counters of a column: searches, replays, verdicts, feedback, recent recall and latency.
SELECT * FROM vectuned.stats(%(relation)s::regclass, %(column_name)s);

-- name: observations
-- What observing the statements of applications came to, by source; nothing for roles that may not read it.
SELECT o.source, o.statements, o.searches, o.stored, o.left_out, o.not_planned, o.other_databases, o.damaged, o.observed_at
FROM vectuned.observation o ORDER BY o.source;

-- name: may_read_observations
-- Whether this role may read what observing and adopting came to.
SELECT has_table_privilege('vectuned.observation', 'SELECT') AND has_table_privilege('vectuned.adoption', 'SELECT');

-- name: statements_served
-- The number of statements of applications that have proven settings, over all columns.
SELECT count(*) FROM vectuned.statement s WHERE s.settings IS NOT NULL;

-- name: statements_to_adopt
-- How many statements of a column have proven settings that a role can have, ask for more than this database gives, and were not
-- adopted yet. Exact search is no setting for a role. Roles may have other values: `vectuned adopt` says what becomes of each.
SELECT count(*) AS statements
FROM vectuned.statement s
WHERE s.column_id = %(column_id)s AND s.certified AND s.settings ->> 'enable_indexscan' IS DISTINCT FROM 'off'
  AND ((s.settings ->> 'hnsw.ef_search')::int > coalesce(nullif(current_setting('hnsw.ef_search', true), '')::int, 40)
       OR (s.settings ->> 'ivfflat.probes')::int > coalesce(nullif(current_setting('ivfflat.probes', true), '')::int, 1)
       OR s.settings ->> 'hnsw.iterative_scan' <> 'off' AND coalesce(nullif(current_setting('hnsw.iterative_scan', true), ''), 'off') = 'off'
       OR s.settings ->> 'ivfflat.iterative_scan' <> 'off'
          AND coalesce(nullif(current_setting('ivfflat.iterative_scan', true), ''), 'off') = 'off')
  AND NOT EXISTS (
      SELECT FROM vectuned.adoption a
      CROSS JOIN LATERAL jsonb_to_recordset(a.figures) AS f (
          fingerprint text, column_id int, k_class int, shape text, reaches_target boolean)
      WHERE a.reverted_at IS NULL AND f.reaches_target AND f.fingerprint = s.fingerprint AND f.column_id = s.column_id
        AND f.k_class = s.k_class AND f.shape = s.shape
        AND NOT a.alarms @> jsonb_build_array(jsonb_build_object('fingerprint', s.fingerprint)));

-- name: adoptions
-- What `vectuned adopt --apply` set and is in force, with its alarms.
SELECT a.role_name::text AS role, a.applied, a.applied_at, a.alarms FROM vectuned.adoption a
WHERE a.reverted_at IS NULL ORDER BY a.adoption_no;

-- name: status
-- Settings of every tuned column, and the policy of each class of k in one row; k_class is NULL before anything is learned.
-- relation_oid stands for the relation in further statements: its name cannot be used without rights on its schema.
SELECT c.id, c.relation::oid::text AS relation_oid, s.relation::text, s.column_name, s.enabled, s.metric, s.dimensions,
       s.index_relation::text AS index, s.target_recall, s.max_tail, s.sample_rate, s.alert, s.state, s.notes,
       s.k_class, s.access_path, s.path_index::text, s.ef_search, s.probes, s.expected_recall, s.recall_bound, s.tail, s.tail_bound,
       s.certified, s.samples, s.saving, s.patterns, s.version, s.published_at, s.reason, s.imported_from
FROM vectuned.status s JOIN vectuned.tuned_column c ON c.relation = s.relation AND c.column_name = s.column_name
ORDER BY c.id, s.k_class;

-- name: table_read
-- What was read of the table for exact answers: in all, in this hour, and in the hour before.
SELECT coalesce(r.total_bytes, 0) AS read_bytes,
       CASE WHEN r.hour = n.hour THEN r.hour_bytes ELSE 0 END AS read_bytes_this_hour,
       CASE WHEN r.hour = n.hour THEN r.previous_bytes WHEN r.hour = n.hour - interval '1 hour' THEN r.hour_bytes ELSE 0 END
           AS read_bytes_last_hour
FROM (SELECT date_trunc('hour', clock_timestamp()) AS hour) n
LEFT JOIN vectuned.table_read r ON r.column_id = %(column_id)s;

-- name: failing_jobs
-- The work on a column that failed the last time.
SELECT job, failures, error, since, last_run FROM vectuned.column_failure WHERE column_id = %(column_id)s ORDER BY job;

-- name: column_promises
-- What exact checks prove about the recall of each class of served searches of a column.
SELECT k_class, filter, since, checks, unknown, recall, recall_bound, below_08, below_08_bound, epoch_recall, epoch_bound, epoch_ended, confidence, e_value, alarms,
       claim
FROM vectuned.promises WHERE relation = %(relation)s::regclass AND column_name = %(column_name)s;

-- name: events
-- The newest events of a column.
SELECT e.happened_at, e.action, e.details FROM vectuned.event e JOIN vectuned.tuned_column c ON c.id = e.column_id
WHERE c.relation = %(relation)s::regclass AND c.column_name = %(column_name)s ORDER BY e.id DESC LIMIT %(count)s;

-- name: server_versions
-- The database and the versions of its server and of pgvector.
SELECT current_database() AS database, current_setting('server_version') AS postgresql,
       (SELECT extversion FROM pg_extension WHERE extname = 'vector') AS pgvector;

-- name: checks_of_promise
-- The exact checks since a promise last started over, oldest first: the evidence behind its present claim.
SELECT k.checked_at, k.recall, k.hardness FROM vectuned.recall_check k
JOIN vectuned.promise p ON p.column_id = k.column_id AND p.k_class = k.k_class AND p.shape = k.shape
WHERE k.column_id = %(column_id)s AND k.k_class = %(k_class)s AND k.shape = %(shape)s AND k.check_no >= p.first_check
  AND k.recorded_at >= p.since
ORDER BY k.check_no;

-- name: served_figures
-- What each kind of search gets from the access paths that serve it, by replays: mean recall and milliseconds. Searches that a
-- partial index serves are among those of the general paths too, whose mean stands for the remaining ones.
WITH served AS (
    SELECT p.k_class, p.shape, p.requires IS NOT NULL AS is_partial, sum(p.samples) AS samples,
           sum(p.expected_recall * p.samples) / sum(p.samples) AS recall, sum(p.ms * p.samples) / sum(p.samples) AS ms
    FROM vectuned.measured_path p
    WHERE p.column_id = %(column_id)s AND p.serves AND p.samples > 0 AND p.expected_recall IS NOT NULL AND p.ms IS NOT NULL
    GROUP BY p.k_class, p.shape, p.requires IS NOT NULL)
SELECT g.k_class, g.shape, g.recall + (coalesce(p.recall, g.recall) - g.recall) * s.share AS recall,
       g.ms + (coalesce(p.ms, g.ms) - g.ms) * s.share AS ms
FROM served g
LEFT JOIN served p ON p.is_partial AND p.k_class = g.k_class AND p.shape = g.shape
CROSS JOIN LATERAL (SELECT least(coalesce(p.samples, 0)::float8 / g.samples, 1) AS share) s
WHERE NOT g.is_partial
ORDER BY g.k_class, g.shape;

-- name: patterns
-- The published patterns of a column.
SELECT k_class, pattern_no, effort, expected_recall, confidence, samples, usage, chances, created_at
FROM vectuned.pattern WHERE column_id = %(column_id)s ORDER BY k_class, pattern_no;

-- name: jobs
-- The jobs of the daemon and their last runs.
SELECT name, last_run, last_success, duration_ms, runs, failures, last_error, next_run, columns_failing
FROM vectuned.job ORDER BY name;

-- name: daemon_runs
-- Whether a daemon works on this database.
SELECT vectuned._daemon_runs() AS runs;
