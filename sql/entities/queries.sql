-- Statements that Python runs on the entity store.

-- name: installed
-- Whether the entity store is installed.
SELECT to_regclass('vectuned_entities.store') IS NOT NULL AS installed;

-- name: current_model
-- The current embedding model; all NULL if there is none.
SELECT model_id, name, version, dimensions FROM vectuned_entities.current_embedding_model();

-- name: register_model
-- Registers an embedding model; returns its id.
SELECT vectuned_entities.register_embedding_model(%(name)s, %(version)s, %(dimensions)s) AS model_id;

-- name: insert_entity
-- Stores an entity; returns its id.
SELECT vectuned_entities.insert_entity(%(name)s, %(embedding)s, %(description)s, %(label)s, %(attributes)s::jsonb, %(language)s,
                                       %(model_name)s, %(model_version)s) AS entity_id;

-- name: update_entity
-- Changes the name, description or language of an entity.
SELECT vectuned_entities.update_entity(%(entity_id)s, %(name)s, %(description)s, %(language)s);

-- name: set_attribute
-- Adds a value of an attribute to an entity.
SELECT vectuned_entities.set_entity_attribute(%(entity_id)s, %(attribute)s, %(value)s);

-- name: get_entities
-- Entities by id.
SELECT entity_id, label, name, description, language, status, needs_embedding, usage_count, last_accessed, created_at, updated_at
FROM vectuned_entities.get_entities(%(entity_ids)s::bigint[]);

-- name: by_label
-- Ids of entities by label.
SELECT label, entity_id FROM vectuned_entities.entities WHERE label = ANY (%(labels)s) AND status <> 'pruned';

-- name: get_attributes
-- Attributes of entities, all or those named.
SELECT entity_id, attribute, value FROM vectuned_entities.get_entity_attributes(%(entity_ids)s::bigint[], %(names)s::text[]);

-- name: by_attribute
-- Entities that have a value of an attribute.
SELECT entity_id, name FROM vectuned_entities.find_entities_by_attribute(%(attribute)s, %(value)s, %(max_results)s);

-- name: sharing_attributes
-- Other entities with the same attribute values, and how many they share.
SELECT entity_id, name, shared, shared_values
FROM vectuned_entities.find_entities_sharing_attributes(%(entity_id)s, %(names)s::text[], %(max_results)s);

-- name: find_similar
-- Entities similar to a query vector.
SELECT entity_id, name, similarity, query_id
FROM vectuned_entities.find_similar_entities_ann(%(query)s, %(threshold)s, %(max_results)s, %(ef_search)s);

-- name: hybrid_search
-- Entities by full text and by vector, fused into one ranking.
SELECT entity_id, name, score, text_score, vector_score, query_id
FROM vectuned_entities.hybrid_entity_search(%(text)s, %(query)s, %(text_weight)s, %(vector_weight)s, %(max_results)s, %(language)s,
                                            %(fusion)s, %(candidates)s);

-- name: insert_relationship
-- Stores a relationship; returns its id.
SELECT vectuned_entities.insert_relationship(%(source_id)s, %(target_id)s, %(type)s, %(confidence)s, %(path)s) AS relationship_id;

-- name: relationships
-- Relationships of an entity, and the entity at the other end of each.
SELECT relationship_id, direction_found, entity_id, name, relationship_type, confidence, updated_at
FROM vectuned_entities.get_entity_relationships(%(entity_id)s, %(types)s::text[], %(direction)s, %(max_results)s);

-- name: find_relationships
-- Relationships at a path and below it.
SELECT relationship_id, path, source_id, target_id, relationship_type, confidence
FROM vectuned_entities.find_relationships(%(prefix)s, %(max_results)s);

-- name: rebuild_paths
-- Recomputes the paths of a hierarchy; returns how many there are.
SELECT vectuned_entities.rebuild_entity_paths(%(types)s::text[], %(hierarchy)s) AS paths;

-- name: paths
-- Paths of an entity in a hierarchy, shortest first.
SELECT path FROM vectuned_entities.get_entity_paths(%(entity_id)s, %(hierarchy)s);

-- name: ancestors
-- Entities above an entity, nearest first.
SELECT entity_id, name, distance FROM vectuned_entities.find_entity_ancestors(%(entity_id)s, %(hierarchy)s, %(max_results)s);

-- name: descendants
-- Entities below an entity, nearest first.
SELECT entity_id, name, distance
FROM vectuned_entities.find_entity_descendants(%(entity_id)s, %(hierarchy)s, %(max_depth)s, %(max_results)s);

-- name: siblings
-- Other entities under the same parents.
SELECT entity_id, name, 0 AS distance FROM vectuned_entities.find_entity_siblings(%(entity_id)s, %(hierarchy)s, %(max_results)s);

-- name: by_path
-- Entities whose path matches an lquery.
SELECT entity_id, name, path FROM vectuned_entities.find_entities_by_path(%(pattern)s, %(hierarchy)s, %(max_results)s);

-- name: connection_paths
-- Paths from one entity to another along relationships.
SELECT path_entities, path_names, path_relationships, confidence
FROM vectuned_entities.find_entity_connection_paths(%(start_id)s, %(end_id)s, %(max_hops)s, %(max_results)s, %(types)s::text[],
                                                    %(min_confidence)s);

-- name: relationship_pattern
-- Paths along relationships of given types, in that order.
SELECT path_entities, start_name, end_name, path_confidence
FROM vectuned_entities.find_entities_by_relationship_pattern(%(types)s::text[], %(start_id)s, %(max_results)s);

-- name: insert_resource
-- Stores an external resource; returns its id.
SELECT vectuned_entities.insert_external_resource(%(uri)s, %(resource_type)s, %(content)s, %(embedding)s, %(model_name)s,
                                                  %(model_version)s) AS resource_id;

-- name: link_resource
-- Links a resource to an entity.
SELECT vectuned_entities.link_entity_resource(%(entity_id)s, %(resource_id)s, %(confidence)s);

-- name: entity_resources
-- Resources linked to entities.
SELECT resource_id, ARRAY[entity_id] AS entity_ids, uri, resource_type, content, confidence, similarity
FROM vectuned_entities.get_entity_resources(%(entity_ids)s::bigint[], %(max_results)s, %(query)s);

-- name: similar_resources
-- Resources similar to a query vector.
SELECT resource_id, entity_ids, uri, resource_type, content, NULL::float8 AS confidence, similarity
FROM vectuned_entities.find_similar_resources(%(query)s, %(threshold)s, %(max_results)s);

-- name: touch
-- Counts a use of entities; returns how many exist.
SELECT vectuned_entities.touch_entities(%(entity_ids)s::bigint[]) AS touched;

-- name: hot
-- Entities used most often.
SELECT entity_id, name, usage_count, last_accessed FROM vectuned_entities.find_hot_entities(%(max_results)s);

-- name: archive
-- Archives an entity; returns whether it was active.
SELECT vectuned_entities.archive_entity(%(entity_id)s) AS archived;

-- name: restore
-- Makes an archived entity active; returns whether it was archived.
SELECT vectuned_entities.restore_entity(%(entity_id)s) AS restored;

-- name: prune
-- Prunes an entity; returns whether it was not pruned already.
SELECT vectuned_entities.prune_entity(%(entity_id)s) AS pruned;

-- name: archive_inactive
-- Archives a batch of unused entities; returns how many.
SELECT vectuned_entities.archive_inactive_entities(%(unused_for)s, %(batch_size)s) AS archived;

-- name: prune_archived
-- Prunes a batch of entities archived long ago; returns how many.
SELECT vectuned_entities.prune_archived_entities(%(archived_for)s, %(batch_size)s) AS pruned;

-- name: update_embedding
-- Replaces the embedding of an entity.
SELECT vectuned_entities.update_entity_embedding(%(entity_id)s, %(embedding)s, %(model_name)s, %(model_version)s);

-- name: next_batch
-- The next texts to embed.
SELECT id, content, text_hash
FROM vectuned_entities.next_embedding_batch(%(kind)s, %(batch_size)s, %(after_id)s, %(job_id)s, %(stripe)s);

-- name: put_batch
-- Stores embeddings of a batch of texts; returns how many.
SELECT vectuned_entities.put_embedding_batch(%(kind)s, %(ids)s::bigint[], %(embeddings)b, %(hashes)s::bigint[], %(model_id)s,
                                             %(job_id)s) AS stored;

-- name: waiting
-- How many texts have no embedding of their current content.
SELECT (SELECT count(*) FROM vectuned_entities.entities WHERE needs_embedding AND status = 'active')
     + (SELECT count(*) FROM vectuned_entities.external_resources WHERE needs_embedding AND content <> '') AS waiting;

-- name: rebase_start
-- Starts or resumes a move to another model; returns the number of the job.
SELECT vectuned_entities.rebase_all_embeddings(%(name)s, %(version)s, %(dimensions)s) AS job_id;

-- name: rebase_switch
-- Makes the model of a finished rebase the current one.
SELECT vectuned_entities.rebase_switch(%(job_id)s);

-- name: rebase_cancel
-- Cancels a rebase.
SELECT vectuned_entities.rebase_cancel(%(job_id)s);

-- name: rebase_job
-- The running rebase, otherwise the last one.
SELECT j.job_id, m.name, m.version, m.dimensions, j.model_id, j.state, j.total, j.embedded, j.started_at, j.progress_at, j.finished_at
FROM vectuned_entities.rebase_jobs j JOIN vectuned_entities.embedding_model_versions m USING (model_id)
ORDER BY j.state = 'running' DESC, j.job_id DESC LIMIT 1;

-- name: rebase_lock
-- Takes the lock of a rebase, which one process at a time may hold and which ends with its connection; returns whether it
-- was free.
SELECT pg_try_advisory_lock(hashtextextended('vectuned_entities.rebase', 0)) AS locked;

-- name: rebase_unlock
-- Releases the lock of a rebase.
SELECT pg_advisory_unlock(hashtextextended('vectuned_entities.rebase', 0)) AS unlocked;

-- name: tuning_known
-- Whether vectuned has a record of the column of embeddings, enabled or not.
SELECT EXISTS (SELECT FROM vectuned.tuned_column c
               WHERE c.relation = 'vectuned_entities.entities'::regclass AND c.column_name = 'embedding') AS known;

-- name: tuned
-- Whether vectuned tunes the column of embeddings.
SELECT EXISTS (SELECT FROM vectuned.tuned_column c
               WHERE c.relation = 'vectuned_entities.entities'::regclass AND c.column_name = 'embedding' AND c.enabled) AS tuned;

-- name: reserve_ids
-- Reserves ids from the sequence of a column.
SELECT nextval(pg_get_serial_sequence(%(table)s, %(column)s)) AS id FROM generate_series(1, %(count)s);

-- name: copy_entities
-- Bulk loads entities.
COPY vectuned_entities.entities (entity_id, label, name, description, language, embedding, embedding_model)
FROM STDIN (FORMAT BINARY);

-- name: copy_values
-- Bulk loads attribute values.
COPY vectuned_entities.attribute_values (value_id, value) FROM STDIN (FORMAT BINARY);

-- name: copy_attribute_links
-- Bulk loads the attribute values of entities.
COPY vectuned_entities.entity_attribute_link (entity_id, attribute_id, value_id) FROM STDIN (FORMAT BINARY);

-- name: copy_relationships
-- Bulk loads relationships.
COPY vectuned_entities.relationships (source_id, target_id, type_id, confidence) FROM STDIN (FORMAT BINARY);

-- name: copy_resources
-- Bulk loads external resources.
COPY vectuned_entities.external_resources (resource_id, uri, resource_type, content, embedding, embedding_model)
FROM STDIN (FORMAT BINARY);

-- name: copy_resource_links
-- Bulk loads links between entities and resources.
COPY vectuned_entities.entity_resource_link (entity_id, resource_id, confidence) FROM STDIN (FORMAT BINARY);

-- name: attribute_ids
-- Ids of attributes by name; stores those that are missing.
WITH made AS (
    INSERT INTO vectuned_entities.attributes (name) SELECT unnest(%(names)s::text[])
    ON CONFLICT ON CONSTRAINT attributes_name_key DO NOTHING RETURNING name, attribute_id)
SELECT name, attribute_id FROM made
UNION ALL SELECT name, attribute_id FROM vectuned_entities.attributes WHERE name = ANY (%(names)s::text[]);

-- name: value_ids
-- Ids of attribute values that exist.
SELECT v.value, v.value_id FROM unnest(%(values)s::text[]) AS u (value) JOIN vectuned_entities.attribute_values v USING (value);

-- name: type_ids
-- Ids of relationship types by name; stores those that are missing.
WITH made AS (
    INSERT INTO vectuned_entities.relationship_types (name) SELECT unnest(%(names)s::text[])
    ON CONFLICT ON CONSTRAINT relationship_types_name_key DO NOTHING RETURNING name, type_id)
SELECT name, type_id FROM made
UNION ALL SELECT name, type_id FROM vectuned_entities.relationship_types WHERE name = ANY (%(names)s::text[]);

-- name: lock_values
-- Lets only one bulk load at a time look up and add attribute values.
LOCK TABLE vectuned_entities.attribute_values IN SHARE ROW EXCLUSIVE MODE;

-- name: extension_schema
-- Schema of pgvector.
SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector';

-- name: index_valid
-- Whether an index is valid; false if building it was interrupted, no row if it does not exist.
SELECT x.indisvalid FROM pg_index x WHERE x.indexrelid = to_regclass(%(index)s);

-- name: index_memory
-- Sets maintenance_work_mem high enough to build the HNSW graph in memory, at most 1 GB; a build that does not fit takes
-- several times as long. 700 bytes a row are for links and overhead.
SELECT set_config('maintenance_work_mem', greatest(
    pg_size_bytes(current_setting('maintenance_work_mem')) / 1024,
    least(1048576, %(rows)s * (%(dimensions)s * 4 + 700) / 1024))::text || 'kB', false) AS maintenance_work_mem;

-- name: create_index
-- Builds an HNSW index unless it exists.
CREATE INDEX {concurrently} IF NOT EXISTS {index} ON {table} USING hnsw ({column} {operators});

-- name: drop_index
-- Drops an index if it exists.
DROP INDEX IF EXISTS {index};

-- name: counts
-- Number of rows of each kind, and size of the store.
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
-- Finished stages of loading a corpus.
SELECT stage, rows FROM vectuned_entities.corpus_loads WHERE corpus = %(corpus)s ORDER BY finished_at;

-- name: finish_stage
-- Records that a stage of loading a corpus is finished.
INSERT INTO vectuned_entities.corpus_loads (corpus, stage, rows) VALUES (%(corpus)s, %(stage)s, %(rows)s);

-- name: drop_store
-- Drops the entity store and everything in it.
DROP SCHEMA vectuned_entities CASCADE;

-- name: forget_tuning
-- Deletes what vectuned learned about the columns of the store, before the store is dropped.
SELECT vectuned.disable(c.relation, c.column_name, true) FROM vectuned.tuned_column c JOIN pg_class r ON r.oid = c.relation
WHERE r.relnamespace = 'vectuned_entities'::regnamespace;

-- name: enable_tuning
-- Enables tuning of the column of embeddings.
SELECT vectuned.enable('vectuned_entities.entities', 'embedding') AS column_id;

-- name: store_version
-- Version of entities/schema.sql that created the store.
SELECT version FROM vectuned_entities.store;

-- name: stored_dimensions
-- Length of the vectors in the entity store; no row if there is no store.
SELECT a.atttypmod AS dimensions
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = 'entities' AND a.attname = 'embedding';
