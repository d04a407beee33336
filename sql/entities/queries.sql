-- Statements of the Python side on the entity store, by name.

-- name: installed
SELECT to_regclass('vectuned_entities.store') IS NOT NULL;

-- name: current_model
SELECT model_id, name, version, dimensions FROM vectuned_entities.current_embedding_model();

-- name: register_model
SELECT vectuned_entities.register_embedding_model(%(name)s, %(version)s, %(dimensions)s);

-- name: insert_entity
SELECT vectuned_entities.insert_entity(%(name)s, %(embedding)s, %(description)s, %(label)s, %(attributes)s::jsonb, %(language)s,
                                       %(model_name)s, %(model_version)s);

-- name: update_entity
SELECT vectuned_entities.update_entity(%(entity_id)s, %(name)s, %(description)s, %(language)s);

-- name: set_attribute
SELECT vectuned_entities.set_entity_attribute(%(entity_id)s, %(attribute)s, %(value)s);

-- name: get_entities
SELECT entity_id, label, name, description, language, status, needs_embedding, usage_count, last_accessed, created_at, updated_at
FROM vectuned_entities.get_entities(%(entity_ids)s::bigint[]);

-- name: by_label
SELECT label, entity_id FROM vectuned_entities.entities WHERE label = ANY (%(labels)s) AND status <> 'pruned';

-- name: get_attributes
SELECT entity_id, attribute, value FROM vectuned_entities.get_entity_attributes(%(entity_ids)s::bigint[], %(names)s::text[]);

-- name: by_attribute
SELECT entity_id, name FROM vectuned_entities.find_entities_by_attribute(%(attribute)s, %(value)s, %(max_results)s);

-- name: sharing_attributes
SELECT entity_id, name, shared, shared_values
FROM vectuned_entities.find_entities_sharing_attributes(%(entity_id)s, %(names)s::text[], %(max_results)s);

-- name: find_similar
SELECT entity_id, name, similarity, query_id
FROM vectuned_entities.find_similar_entities_ann(%(query)s, %(threshold)s, %(max_results)s, %(ef_search)s);

-- name: hybrid_search
SELECT entity_id, name, score, text_score, vector_score, query_id
FROM vectuned_entities.hybrid_entity_search(%(text)s, %(query)s, %(text_weight)s, %(vector_weight)s, %(max_results)s, %(language)s,
                                            %(fusion)s, %(candidates)s);

-- name: insert_relationship
SELECT vectuned_entities.insert_relationship(%(source_id)s, %(target_id)s, %(type)s, %(confidence)s, %(path)s);

-- name: relationships
SELECT relationship_id, direction_found, entity_id, name, relationship_type, confidence, updated_at
FROM vectuned_entities.get_entity_relationships(%(entity_id)s, %(types)s::text[], %(direction)s, %(max_results)s);

-- name: find_relationships
SELECT relationship_id, path, source_id, target_id, relationship_type, confidence
FROM vectuned_entities.find_relationships(%(prefix)s, %(max_results)s);

-- name: rebuild_paths
SELECT vectuned_entities.rebuild_entity_paths(%(types)s::text[], %(hierarchy)s);

-- name: paths
SELECT path FROM vectuned_entities.get_entity_paths(%(entity_id)s, %(hierarchy)s);

-- name: ancestors
SELECT entity_id, name, distance FROM vectuned_entities.find_entity_ancestors(%(entity_id)s, %(hierarchy)s, %(max_results)s);

-- name: descendants
SELECT entity_id, name, distance
FROM vectuned_entities.find_entity_descendants(%(entity_id)s, %(hierarchy)s, %(max_depth)s, %(max_results)s);

-- name: siblings
SELECT entity_id, name, 0 FROM vectuned_entities.find_entity_siblings(%(entity_id)s, %(hierarchy)s, %(max_results)s);

-- name: by_path
SELECT entity_id, name, path FROM vectuned_entities.find_entities_by_path(%(pattern)s, %(hierarchy)s, %(max_results)s);

-- name: connection_paths
SELECT path_entities, path_names, path_relationships, confidence
FROM vectuned_entities.find_entity_connection_paths(%(start_id)s, %(end_id)s, %(max_hops)s, %(max_results)s, %(types)s::text[],
                                                    %(min_confidence)s);

-- name: relationship_pattern
SELECT path_entities, start_name, end_name, path_confidence
FROM vectuned_entities.find_entities_by_relationship_pattern(%(types)s::text[], %(start_id)s, %(max_results)s);

-- name: insert_resource
SELECT vectuned_entities.insert_external_resource(%(uri)s, %(resource_type)s, %(content)s, %(embedding)s, %(model_name)s,
                                                  %(model_version)s);

-- name: link_resource
SELECT vectuned_entities.link_entity_resource(%(entity_id)s, %(resource_id)s, %(confidence)s);

-- name: entity_resources
SELECT resource_id, ARRAY[entity_id], uri, resource_type, content, confidence, similarity
FROM vectuned_entities.get_entity_resources(%(entity_ids)s::bigint[], %(max_results)s, %(query)s);

-- name: similar_resources
SELECT resource_id, entity_ids, uri, resource_type, content, NULL::float8, similarity
FROM vectuned_entities.find_similar_resources(%(query)s, %(threshold)s, %(max_results)s);

-- name: touch
SELECT vectuned_entities.touch_entities(%(entity_ids)s::bigint[]);

-- name: hot
SELECT entity_id, name, usage_count, last_accessed FROM vectuned_entities.find_hot_entities(%(max_results)s);

-- name: archive
SELECT vectuned_entities.archive_entity(%(entity_id)s);

-- name: restore
SELECT vectuned_entities.restore_entity(%(entity_id)s);

-- name: prune
SELECT vectuned_entities.prune_entity(%(entity_id)s);

-- name: archive_inactive
SELECT vectuned_entities.archive_inactive_entities(%(unused_for)s, %(batch_size)s);

-- name: prune_archived
SELECT vectuned_entities.prune_archived_entities(%(archived_for)s, %(batch_size)s);

-- name: update_embedding
SELECT vectuned_entities.update_entity_embedding(%(entity_id)s, %(embedding)s, %(model_name)s, %(model_version)s);

-- name: next_batch
SELECT id, content, text_hash
FROM vectuned_entities.next_embedding_batch(%(kind)s, %(batch_size)s, %(after_id)s, %(job_id)s, %(stripe)s);

-- name: put_batch
SELECT vectuned_entities.put_embedding_batch(%(kind)s, %(ids)s::bigint[], %(embeddings)b, %(hashes)s::bigint[], %(model_id)s,
                                             %(job_id)s);

-- name: waiting
-- Texts without an up-to-date embedding.
SELECT (SELECT count(*) FROM vectuned_entities.entities WHERE needs_embedding AND status = 'active')
     + (SELECT count(*) FROM vectuned_entities.external_resources WHERE needs_embedding AND content <> '');

-- name: rebase_start
SELECT vectuned_entities.rebase_all_embeddings(%(name)s, %(version)s, %(dimensions)s);

-- name: rebase_switch
SELECT vectuned_entities.rebase_switch(%(job_id)s);

-- name: rebase_cancel
SELECT vectuned_entities.rebase_cancel(%(job_id)s);

-- name: rebase_job
-- The one that runs, else the last.
SELECT j.job_id, m.name, m.version, m.dimensions, j.model_id, j.state, j.total, j.embedded, j.started_at, j.progress_at, j.finished_at
FROM vectuned_entities.rebase_jobs j JOIN vectuned_entities.embedding_model_versions m USING (model_id)
ORDER BY j.state = 'running' DESC, j.job_id DESC LIMIT 1;

-- name: rebase_lock
-- One process at a time; the lock goes with its connection.
SELECT pg_try_advisory_lock(hashtextextended('vectuned_entities.rebase', 0));

-- name: rebase_unlock
SELECT pg_advisory_unlock(hashtextextended('vectuned_entities.rebase', 0));

-- name: tuning_known
SELECT EXISTS (SELECT FROM vectuned.tuned_column c
               WHERE c.relation = 'vectuned_entities.entities'::regclass AND c.column_name = 'embedding');

-- name: tuned
SELECT EXISTS (SELECT FROM vectuned.tuned_column c
               WHERE c.relation = 'vectuned_entities.entities'::regclass AND c.column_name = 'embedding' AND c.enabled);

-- name: reserve_ids
SELECT nextval(pg_get_serial_sequence(%(table)s, %(column)s)) FROM generate_series(1, %(count)s);

-- name: copy_entities
COPY vectuned_entities.entities (entity_id, label, name, description, language, embedding, embedding_model)
FROM STDIN (FORMAT BINARY);

-- name: copy_values
COPY vectuned_entities.attribute_values (value_id, value) FROM STDIN (FORMAT BINARY);

-- name: copy_attribute_links
COPY vectuned_entities.entity_attribute_link (entity_id, attribute_id, value_id) FROM STDIN (FORMAT BINARY);

-- name: copy_relationships
COPY vectuned_entities.relationships (source_id, target_id, type_id, confidence) FROM STDIN (FORMAT BINARY);

-- name: copy_resources
COPY vectuned_entities.external_resources (resource_id, uri, resource_type, content, embedding, embedding_model)
FROM STDIN (FORMAT BINARY);

-- name: copy_resource_links
COPY vectuned_entities.entity_resource_link (entity_id, resource_id, confidence) FROM STDIN (FORMAT BINARY);

-- name: attribute_ids
-- Makes what is missing, and returns all that are named.
WITH made AS (
    INSERT INTO vectuned_entities.attributes (name) SELECT unnest(%(names)s::text[])
    ON CONFLICT ON CONSTRAINT attributes_name_key DO NOTHING RETURNING name, attribute_id)
SELECT name, attribute_id FROM made
UNION ALL SELECT name, attribute_id FROM vectuned_entities.attributes WHERE name = ANY (%(names)s::text[]);

-- name: value_ids
SELECT v.value, v.value_id FROM unnest(%(values)s::text[]) AS u (value) JOIN vectuned_entities.attribute_values v USING (value);

-- name: type_ids
WITH made AS (
    INSERT INTO vectuned_entities.relationship_types (name) SELECT unnest(%(names)s::text[])
    ON CONFLICT ON CONSTRAINT relationship_types_name_key DO NOTHING RETURNING name, type_id)
SELECT name, type_id FROM made
UNION ALL SELECT name, type_id FROM vectuned_entities.relationship_types WHERE name = ANY (%(names)s::text[]);

-- name: lock_values
-- Bulk loads look up and add values: one at a time.
LOCK TABLE vectuned_entities.attribute_values IN SHARE ROW EXCLUSIVE MODE;

-- name: extension_schema
SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector';

-- name: index_valid
-- Of an index that was being built when its builder died: false.
SELECT x.indisvalid FROM pg_index x WHERE x.indexrelid = to_regclass(%(index)s);

-- name: index_memory
-- Building a graph in memory takes its vectors and links; without it takes several times as long.
SELECT set_config('maintenance_work_mem', greatest(
    pg_size_bytes(current_setting('maintenance_work_mem')) / 1024,
    least(1048576, %(rows)s * (%(dimensions)s * 4 + 700) / 1024))::text || 'kB', false);

-- name: create_index
CREATE INDEX {concurrently} IF NOT EXISTS {index} ON {table} USING hnsw ({column} {operators});

-- name: drop_index
DROP INDEX IF EXISTS {index};

-- name: counts
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
SELECT stage, rows FROM vectuned_entities.corpus_loads WHERE corpus = %(corpus)s ORDER BY finished_at;

-- name: finish_stage
INSERT INTO vectuned_entities.corpus_loads (corpus, stage, rows) VALUES (%(corpus)s, %(stage)s, %(rows)s);

-- name: drop_store
DROP SCHEMA vectuned_entities CASCADE;

-- name: forget_tuning
-- Before the store goes: what vectuned knows of its columns.
SELECT vectuned.disable(c.relation, c.column_name, true) FROM vectuned.tuned_column c JOIN pg_class r ON r.oid = c.relation
WHERE r.relnamespace = 'vectuned_entities'::regnamespace;

-- name: enable_tuning
SELECT vectuned.enable('vectuned_entities.entities', 'embedding');

-- name: stored_dimensions
-- Length of the vectors in the entity store; no row where there is no store.
SELECT a.atttypmod
FROM pg_attribute a
JOIN pg_class c ON c.oid = a.attrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = 'entities' AND a.attname = 'embedding';
