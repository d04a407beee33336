-- Statements of export and import.

-- name: export_patterns
SELECT vectuned.export_patterns(%(relation)s::regclass, %(column_name)s)::text;

-- name: import_patterns
SELECT vectuned.import_patterns(%(relation)s::regclass, %(column_name)s, %(document)s::jsonb, %(dry_run)s);

-- name: last_imported
SELECT max(created_at) FROM vectuned.imported WHERE column_id = %(column_id)s;
