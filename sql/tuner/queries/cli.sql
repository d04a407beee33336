-- Statements of the command line.

-- name: enable
SELECT vectuned.enable(%(relation)s::regclass, %(column_name)s, target_recall => %(target_recall)s,
                       sample_rate => %(sample_rate)s, trajectory_window => %(trajectory_window)s,
                       learning_rate => %(learning_rate)s, min_samples => %(min_samples)s,
                       store_vectors => %(store_vectors)s, max_tail => %(max_tail)s);

-- name: check_request
SELECT vectuned._check_request(%(kind)s, %(arguments)s::jsonb);

-- name: find_column
SELECT (vectuned._tuned_column(%(relation)s::regclass, %(column_name)s)).id;
