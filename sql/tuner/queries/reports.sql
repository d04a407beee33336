-- Statements of status, report and metrics.

-- name: recommend
SELECT * FROM vectuned.recommend_params(%(relation)s::regclass, %(column_name)s);

-- name: stats
SELECT * FROM vectuned.stats(%(relation)s::regclass, %(column_name)s);

-- name: status
SELECT relation::text, column_name, enabled, metric, dimensions, index_relation::text AS index, target_recall, max_tail, sample_rate,
       alert,
       state, k_class, access_path, path_index::text, ef_search, probes, expected_recall, recall_bound, tail, tail_bound, certified,
       samples, saving, patterns, version, published_at, reason, imported_from
FROM vectuned.status;

-- name: said
-- What exact checks prove of a column's classes of searches.
SELECT k_class, filter, since, checks, unknown, recall, recall_bound, below_08, below_08_bound, confidence, e_value, alarms,
       claim
FROM vectuned.promises WHERE relation = %(relation)s::regclass AND column_name = %(column_name)s;

-- name: events
SELECT e.happened_at, e.action, e.details FROM vectuned.event e JOIN vectuned.tuned_column c ON c.id = e.column_id
WHERE c.relation = %(relation)s::regclass AND c.column_name = %(column_name)s ORDER BY e.id DESC LIMIT %(count)s;

-- name: about_server
SELECT current_database(), current_setting('server_version'), (SELECT extversion FROM pg_extension WHERE extname = 'vector');

-- name: relation_text
SELECT %(relation)s::regclass::text;

-- name: checks_since
-- The checks behind what is said of a class now.
SELECT k.checked_at, k.recall FROM vectuned.recall_check k
JOIN vectuned.promise p ON p.column_id = k.column_id AND p.k_class = k.k_class AND p.shape = k.shape
WHERE k.column_id = %(column_id)s AND k.k_class = %(k_class)s AND k.shape = %(shape)s AND k.check_no >= p.first_check
ORDER BY k.check_no;

-- name: patterns
SELECT k_class, pattern_no, effort, expected_recall, confidence, samples, usage, chances, created_at
FROM vectuned.pattern WHERE column_id = %(column_id)s ORDER BY k_class, pattern_no;

-- name: jobs
SELECT name, last_run, last_success, duration_ms, runs, failures, last_error, next_run FROM vectuned.job ORDER BY name;

-- name: daemon_runs
SELECT vectuned._daemon_runs();
