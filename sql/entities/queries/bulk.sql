-- Statements that load many rows at once, build vector indexes, and install, describe or drop the entity store.

-- name: reserve_ids
-- Takes the next ids of a table's sequence.
SELECT nextval(pg_get_serial_sequence(%(table)s, %(column)s)) AS id FROM generate_series(1, %(count)s);

-- name: copy_entities
-- Loads entities with their embeddings.
COPY vectuned_entities.entities (entity_id, label, name, description, language, embedding, embedding_model)
FROM STDIN (FORMAT BINARY);

-- name: copy_values
-- Loads attribute values.
COPY vectuned_entities.attribute_values (value_id, value) FROM STDIN (FORMAT BINARY);

-- name: copy_attribute_links
-- Loads which entity has which attribute value.
COPY vectuned_entities.entity_attribute_link (entity_id, attribute_id, value_id) FROM STDIN (FORMAT BINARY);

-- name: copy_relationships
-- Loads relationships.
COPY vectuned_entities.relationships (source_id, target_id, type_id, confidence) FROM STDIN (FORMAT BINARY);

-- name: copy_resources
-- Loads resources with their embeddings.
COPY vectuned_entities.external_resources (resource_id, uri, resource_type, content, embedding, embedding_model)
FROM STDIN (FORMAT BINARY);

-- name: copy_resource_links
-- Loads which resource is linked to which entity.
COPY vectuned_entities.entity_resource_link (entity_id, resource_id, confidence) FROM STDIN (FORMAT BINARY);

-- name: attribute_ids
-- Inserts the attributes that are missing and returns the ids of all that are named.
WITH inserted AS (
    INSERT INTO vectuned_entities.attributes (name) SELECT unnest(%(names)s::text[])
    ON CONFLICT ON CONSTRAINT attributes_name_key DO NOTHING RETURNING name, attribute_id)
SELECT name, attribute_id AS id FROM inserted
UNION ALL SELECT name, attribute_id FROM vectuned_entities.attributes WHERE name = ANY (%(names)s::text[]);

-- name: value_ids
-- Ids of the attribute values that exist.
SELECT v.value AS name, v.value_id AS id
FROM unnest(%(values)s::text[]) AS u (value) JOIN vectuned_entities.attribute_values v USING (value);

-- name: type_ids
-- Inserts the relationship types that are missing and returns the ids of all that are named.
WITH inserted AS (
    INSERT INTO vectuned_entities.relationship_types (name) SELECT unnest(%(names)s::text[])
    ON CONFLICT ON CONSTRAINT relationship_types_name_key DO NOTHING RETURNING name, type_id)
SELECT name, type_id AS id FROM inserted
UNION ALL SELECT name, type_id FROM vectuned_entities.relationship_types WHERE name = ANY (%(names)s::text[]);

-- name: relationship_types
-- Names of all relationship types.
SELECT name FROM vectuned_entities.relationship_types;

-- name: lock_values
-- Lets one bulk load at a time look up and insert attribute values.
LOCK TABLE vectuned_entities.attribute_values IN SHARE ROW EXCLUSIVE MODE;

-- name: index_valid
-- Whether an index is valid: false if its build was interrupted; no row if there is none.
SELECT x.indisvalid AS valid FROM pg_index x WHERE x.indexrelid = to_regclass(%(index)s);

-- name: count_rows
-- Number of rows of a table.
SELECT count(*) AS rows FROM {table};

-- name: has_rows
-- Whether a table has any row.
SELECT EXISTS (SELECT FROM {table}) AS has_rows;

-- name: create_index
-- Builds an HNSW index with pgvector's defaults (m = 16, ef_construction = 64).
CREATE INDEX {concurrently} IF NOT EXISTS {index} ON {table} USING hnsw ({column} {operators});

-- name: drop_index
-- Drops an index.
DROP INDEX IF EXISTS {index};

-- name: analyze
-- Updates the planner's statistics of a table.
ANALYZE {table};

-- name: counts
-- Number of rows of each kind, and the size of all tables.
SELECT (SELECT count(*) FROM vectuned_entities.entities WHERE status = 'active') AS active,
       (SELECT count(*) FROM vectuned_entities.entities WHERE status = 'archived') AS archived,
       (SELECT count(*) FROM vectuned_entities.entities WHERE status = 'pruned') AS pruned,
       (SELECT count(*) FROM vectuned_entities.entity_attribute_link) AS attributes,
       (SELECT count(*) FROM vectuned_entities.relationships) AS relationships,
       (SELECT count(*) FROM vectuned_entities.relationship_types) AS relationship_types,
       (SELECT count(*) FROM vectuned_entities.entity_paths) AS paths,
       (SELECT count(*) FROM vectuned_entities.external_resources) AS resources,
       (SELECT count(*) FROM vectuned_entities.embedding_history) AS history,
       pg_size_pretty(sum(pg_total_relation_size(c.oid))) AS size
FROM pg_class c WHERE c.relnamespace = 'vectuned_entities'::regnamespace AND c.relkind = 'r';

-- name: stages
-- The finished stages of a corpus load and the rows of each.
SELECT stage, rows FROM vectuned_entities.corpus_loads WHERE corpus = %(corpus)s ORDER BY finished_at;

-- name: finish_stage
-- Records that a stage of a corpus load is finished.
INSERT INTO vectuned_entities.corpus_loads (corpus, stage, rows) VALUES (%(corpus)s, %(stage)s, %(rows)s);

-- name: drop_store
-- Drops the entity store.
DROP SCHEMA vectuned_entities CASCADE;

-- name: tuning_known
-- Whether vectuned knows the column of embeddings, tuned or disabled.
SELECT EXISTS (SELECT FROM vectuned.tuned_column c
               WHERE c.relation = 'vectuned_entities.entities'::regclass AND c.column_name = 'embedding') AS known;

-- name: tuned
-- Whether vectuned tunes the column of embeddings.
SELECT EXISTS (SELECT FROM vectuned.tuned_column c
               WHERE c.relation = 'vectuned_entities.entities'::regclass AND c.column_name = 'embedding' AND c.enabled) AS tuned;

-- name: enable_tuning
-- Starts to tune the column of embeddings.
SELECT vectuned.enable('vectuned_entities.entities', 'embedding');

-- name: forget_tuning
-- Deletes what vectuned knows of the store's columns; to run before the store is dropped.
SELECT vectuned.disable(c.relation, c.column_name, true) FROM vectuned.tuned_column c JOIN pg_class r ON r.oid = c.relation
WHERE r.relnamespace = 'vectuned_entities'::regnamespace;

-- name: extension_schemas
-- The schemas of pgvector and ltree in this database.
SELECT e.extname AS extension, n.nspname AS schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname IN ('vector', 'ltree');

-- name: stored_dimensions
-- Length of the vectors in the entity store; no row where there is no store.
SELECT a.atttypmod AS dimensions
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = 'entities' AND a.attname = 'embedding';

-- name: store_version
-- Version of entities/schema.sql that created the store.
SELECT version FROM vectuned_entities.store;
