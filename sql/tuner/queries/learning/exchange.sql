-- Statements of export and import.

-- name: export_patterns
-- The document of what was learned about a column, as JSON text.
SELECT vectuned.export_patterns(%(relation)s::regclass, %(column_name)s)::text AS document;

-- name: import_patterns
-- Merges a document into what is known about a column, unless dry_run, and returns a report as JSON.
SELECT vectuned.import_patterns(%(relation)s::regclass, %(column_name)s, %(document)s::jsonb, %(dry_run)s) AS report;

-- name: last_imports
-- For each database whose documents were imported for a column: when the newest of them was written.
SELECT provenance ->> 'database' AS database, max(created_at) AS created_at FROM vectuned.imported
WHERE column_id = %(column_id)s GROUP BY 1;
