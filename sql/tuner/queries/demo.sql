-- Statements of the demonstration.

-- name: disable
SELECT vectuned.disable(%(relation)s::regclass, %(column_name)s, forget => %(forget)s);
