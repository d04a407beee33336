-- Statements of `reasoning.store.store.EntityStore`, most of which call one function of the schema vectuned_entities.
-- The columns have the names of the fields of the classes in reasoning/store/entities.py.

-- name: installed
-- Whether this database has an entity store.
SELECT to_regclass('vectuned_entities.store') IS NOT NULL AS installed;

-- name: current_model
-- The model of the store's vectors; one row of NULLs before the first model is registered.
SELECT model_id AS id, name, version, dimensions FROM vectuned_entities.current_embedding_model();

-- name: register_model
-- Registers a model if it is new and returns its id.
SELECT vectuned_entities.register_embedding_model(%(name)s, %(version)s, %(dimensions)s) AS model_id;

-- name: insert_entity
-- Inserts an entity with its attributes and returns its id.
SELECT vectuned_entities.insert_entity(%(name)s, %(embedding)s, %(description)s, %(label)s, %(attributes)s::jsonb, %(language)s,
                                       %(model_name)s, %(model_version)s) AS entity_id;

-- name: update_entity
-- Changes the text of an entity; NULL leaves a column as it is.
SELECT vectuned_entities.update_entity(%(entity_id)s, %(name)s, %(description)s, %(language)s);

-- name: set_attribute
-- Adds one value of an attribute to an entity.
SELECT vectuned_entities.set_entity_attribute(%(entity_id)s, %(attribute)s, %(value)s);

-- name: get_entities
-- Entities by id, in the order of the ids.
SELECT entity_id AS id, label, name, description, language, status, needs_embedding, usage_count, last_accessed, created_at,
       updated_at
FROM vectuned_entities.get_entities(%(entity_ids)s::bigint[]);

-- name: find_ids
-- Ids of the entities with these labels, without pruned ones.
SELECT label, entity_id FROM vectuned_entities.entities WHERE label = ANY (%(labels)s) AND status <> 'pruned';

-- name: get_attributes
-- Attribute values of entities; of all attributes if names is NULL.
SELECT entity_id, attribute, value FROM vectuned_entities.get_entity_attributes(%(entity_ids)s::bigint[], %(names)s::text[]);

-- name: find_by_attribute
-- Entities that have a value of an attribute.
SELECT entity_id AS id, name FROM vectuned_entities.find_entities_by_attribute(%(attribute)s, %(value)s, %(max_results)s);

-- name: find_sharing_attributes
-- Entities that share attribute values with one, those that share most first.
SELECT entity_id AS id, name, shared, shared_values
FROM vectuned_entities.find_entities_sharing_attributes(%(entity_id)s, %(names)s::text[], %(max_results)s);

-- name: find_similar
-- The entities nearest to a query vector, nearest first.
SELECT entity_id AS id, name, similarity, query_id
FROM vectuned_entities.find_similar_entities_ann(%(query)s, %(threshold)s, %(max_results)s, %(ef_search)s);

-- name: hybrid_search
-- Entities by words and by meaning, best first.
SELECT entity_id AS id, name, score, text_score, vector_score, query_id
FROM vectuned_entities.hybrid_entity_search(%(text)s, %(query)s, %(text_weight)s, %(vector_weight)s, %(max_results)s, %(language)s,
                                            %(fusion)s, %(candidates)s);

-- name: insert_relationship
-- Inserts a relationship or changes its confidence and path; returns its id.
SELECT vectuned_entities.insert_relationship(%(source_id)s, %(target_id)s, %(type)s, %(confidence)s, %(path)s) AS relationship_id;

-- name: get_relationships
-- Relationships of an entity, highest confidence first.
SELECT relationship_id AS id, direction_found AS direction, entity_id, name, relationship_type AS type, confidence, updated_at
FROM vectuned_entities.get_entity_relationships(%(entity_id)s, %(types)s::text[], %(direction)s, %(max_results)s);

-- name: find_relationships
-- Relationships at an ltree path and below it.
SELECT relationship_id AS id, path, source_id, target_id, relationship_type AS type, confidence
FROM vectuned_entities.find_relationships(%(prefix)s, %(max_results)s);

-- name: rebuild_paths
-- Computes the paths of a hierarchy again and returns their number.
SELECT vectuned_entities.rebuild_entity_paths(%(types)s::text[], %(hierarchy)s) AS paths;

-- name: get_paths
-- Paths of an entity in a hierarchy, shortest first.
SELECT path FROM vectuned_entities.get_entity_paths(%(entity_id)s, %(hierarchy)s);

-- name: find_ancestors
-- Entities above one in a hierarchy, nearest first.
SELECT entity_id AS id, name, distance FROM vectuned_entities.find_entity_ancestors(%(entity_id)s, %(hierarchy)s, %(max_results)s);

-- name: find_descendants
-- Entities below one in a hierarchy, nearest first.
SELECT entity_id AS id, name, distance
FROM vectuned_entities.find_entity_descendants(%(entity_id)s, %(hierarchy)s, %(max_depth)s, %(max_results)s);

-- name: find_siblings
-- Entities that share a parent with one in a hierarchy.
SELECT entity_id AS id, name, 0 AS distance FROM vectuned_entities.find_entity_siblings(%(entity_id)s, %(hierarchy)s, %(max_results)s);

-- name: find_by_path
-- Entities whose path matches an lquery.
SELECT entity_id AS id, name, path FROM vectuned_entities.find_entities_by_path(%(pattern)s, %(hierarchy)s, %(max_results)s);

-- name: find_connection_paths
-- Paths over relationships from one entity to another, highest confidence first.
SELECT path_entities AS entity_ids, path_names AS names, path_relationships AS types, confidence
FROM vectuned_entities.find_entity_connection_paths(%(start_id)s, %(end_id)s, %(max_hops)s, %(max_results)s, %(types)s::text[],
                                                    %(min_confidence)s);

-- name: find_relationship_patterns
-- Paths along relationships of given types, one after the other.
SELECT path_entities AS entity_ids, start_name, end_name, path_confidence AS confidence
FROM vectuned_entities.find_entities_by_relationship_pattern(%(types)s::text[], %(start_id)s, %(max_results)s);

-- name: insert_resource
-- Inserts a resource or replaces its content; returns its id.
SELECT vectuned_entities.insert_external_resource(%(uri)s, %(resource_type)s, %(content)s, %(embedding)s, %(model_name)s,
                                                  %(model_version)s) AS resource_id;

-- name: link_resource
-- Links a resource to an entity.
SELECT vectuned_entities.link_entity_resource(%(entity_id)s, %(resource_id)s, %(confidence)s);

-- name: get_entity_resources
-- Resources linked to entities, a row for each link.
SELECT resource_id AS id, ARRAY[entity_id] AS entity_ids, uri, resource_type AS type, content, confidence, similarity
FROM vectuned_entities.get_entity_resources(%(entity_ids)s::bigint[], %(max_results)s, %(query)s);

-- name: find_similar_resources
-- The resources nearest to a query vector, nearest first.
SELECT resource_id AS id, entity_ids, uri, resource_type AS type, content, NULL::float8 AS confidence, similarity
FROM vectuned_entities.find_similar_resources(%(query)s, %(threshold)s, %(max_results)s);

-- name: touch_entities
-- Counts one use of each entity and returns how many were counted.
SELECT vectuned_entities.touch_entities(%(entity_ids)s::bigint[]) AS touched;

-- name: find_hot
-- The entities used most within the last day.
SELECT entity_id AS id, name, usage_count, last_accessed FROM vectuned_entities.find_hot_entities(%(max_results)s);

-- name: archive
-- Archives an entity; false if it was archived already.
SELECT vectuned_entities.archive_entity(%(entity_id)s) AS archived;

-- name: restore
-- Makes an archived entity active again; false if it was active.
SELECT vectuned_entities.restore_entity(%(entity_id)s) AS restored;

-- name: prune
-- Deletes everything of an entity but its id, label and name; false if it was pruned already.
SELECT vectuned_entities.prune_entity(%(entity_id)s) AS pruned;

-- name: archive_inactive
-- Archives a batch of entities that were neither used nor changed for some time; returns their number.
SELECT vectuned_entities.archive_inactive_entities(%(unused_for)s, %(batch_size)s) AS archived;

-- name: prune_archived
-- Prunes a batch of entities that have been archived for some time; returns their number.
SELECT vectuned_entities.prune_archived_entities(%(archived_for)s, %(batch_size)s) AS pruned;
