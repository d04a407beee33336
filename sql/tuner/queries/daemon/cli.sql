-- Statements of the command line.

-- name: enable
-- Starts to tune a column, or changes the options that are not NULL; returns a message for the user.
SELECT vectuned.enable(%(relation)s::regclass, %(column_name)s, target_recall => %(target_recall)s,
                       sample_rate => %(sample_rate)s, trajectory_window => %(trajectory_window)s,
                       learning_rate => %(learning_rate)s, min_samples => %(min_samples)s,
                       store_vectors => %(store_vectors)s, max_tail => %(max_tail)s,
                       max_effort => %(max_effort)s, max_ms => %(max_ms)s,
                       exact_if_unreachable => %(exact_if_unreachable)s) AS message;

-- name: column_options
-- The options of a tuned column.
SELECT c.target_recall, c.max_tail, c.sample_rate, c.trajectory_window, c.learning_rate, c.min_samples, c.store_vectors,
       c.max_effort, c.max_ms, c.exact_if_unreachable
FROM vectuned.tuned_column c WHERE c.relation = %(relation)s::regclass AND c.column_name = %(column_name)s;

-- name: check_request
-- Raises an error if the arguments (JSON) of a request of this kind are invalid.
SELECT vectuned._check_request(%(kind)s, %(arguments)s::jsonb);

-- name: find_column
-- The id of a tuned column; the column may be NULL if the relation has only one. An error says what is wrong with the name.
SELECT (vectuned._tuned_column(%(relation)s::regclass, %(column_name)s)).id;

-- name: matching_columns
-- The ids of all tuned columns of a relation, or of the one with this name.
SELECT id FROM vectuned.tuned_column
WHERE relation = %(relation)s::regclass AND column_name = coalesce(%(column_name)s, column_name)
ORDER BY id;
