-- External resources: texts from other sources, linked to the entities they describe.

-- Stores a resource and returns its id. An existing resource with the same uri gets the new content.
CREATE OR REPLACE FUNCTION vectuned_entities.insert_external_resource(
    uri text, resource_type text, content text DEFAULT '', embedding @extschema@.vector DEFAULT NULL,
    model_name text DEFAULT NULL, model_version text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    id bigint;
    model_id int;
BEGIN
    PERFORM vectuned_entities._require('uri', btrim(uri) <> '' AND octet_length(uri) <= 2000, 'At most 2000 bytes, such as https://example.org/page.'),
            vectuned_entities._check_name('resource_type', resource_type, 200, 'For example example, document, page.'),
            vectuned_entities._require('content', char_length(content) <= 1000000, 'At most 1000000 characters; '''' if only the uri is known.');
    IF embedding IS NOT NULL THEN
        PERFORM vectuned_entities._check_embedding('embedding', embedding, vectuned_entities._dimensions());
        model_id := vectuned_entities._model_for(model_name, model_version);
    END IF;
    INSERT INTO vectuned_entities.external_resources AS r (uri, resource_type, content, embedding, embedding_model)
    VALUES (uri, resource_type, content, embedding, model_id)
    ON CONFLICT ON CONSTRAINT external_resources_uri_key DO UPDATE
        SET resource_type = excluded.resource_type, content = excluded.content,
            embedding = coalesce(excluded.embedding, CASE WHEN r.content = excluded.content THEN r.embedding END),
            embedding_model = coalesce(excluded.embedding_model, CASE WHEN r.content = excluded.content THEN r.embedding_model END)
    RETURNING r.resource_id INTO id;
    RETURN id;
END
$$;

-- Links a resource to an entity, or changes the confidence of an existing link.
CREATE OR REPLACE FUNCTION vectuned_entities.link_entity_resource(
    target_entity_id bigint, resource_id bigint, confidence float8 DEFAULT 1)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._check_entity('target_entity_id', target_entity_id),
            vectuned_entities._require('resource_id', resource_id IS NOT NULL, 'Name the resource by its resource_id.'),
            vectuned_entities._check_range('confidence', confidence, 0, 1);
    IF NOT EXISTS (SELECT FROM vectuned_entities.external_resources r WHERE r.resource_id = resource_id) THEN
        RAISE EXCEPTION 'there is no external resource %', resource_id
            USING ERRCODE = 'no_data_found', HINT = 'SELECT vectuned_entities.insert_external_resource(uri, resource_type, content)';
    END IF;
    INSERT INTO vectuned_entities.entity_resource_link (entity_id, resource_id, confidence)
    VALUES (target_entity_id, resource_id, confidence)
    ON CONFLICT ON CONSTRAINT entity_resource_link_pkey DO UPDATE SET confidence = excluded.confidence;
END
$$;

-- The resources linked to entities, in order of confidence; with a query vector, the most similar first.
CREATE OR REPLACE FUNCTION vectuned_entities.get_entity_resources(
    entity_ids bigint[], max_results int DEFAULT 20, query @extschema@.vector DEFAULT NULL)
RETURNS TABLE (resource_id bigint, entity_id bigint, uri text, resource_type text, content text, confidence float8, similarity float8)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._check_array('entity_ids', entity_ids, 10000),
            vectuned_entities._check_range('max_results', max_results, 1, 1000);
    IF query IS NOT NULL THEN
        PERFORM vectuned_entities._check_query(query);
    END IF;
    RETURN QUERY
        SELECT r.resource_id, l.entity_id, r.uri, r.resource_type, r.content, l.confidence,
               1 - (r.embedding OPERATOR(@extschema@.<=>) query)
        FROM vectuned_entities.entity_resource_link l
        JOIN vectuned_entities.entities e ON e.entity_id = l.entity_id AND e.status = 'active'
        JOIN vectuned_entities.external_resources r ON r.resource_id = l.resource_id
        WHERE l.entity_id = ANY (entity_ids)
        ORDER BY r.embedding OPERATOR(@extschema@.<=>) query, l.confidence DESC, r.resource_id LIMIT max_results;
END
$$;

-- The resources most similar to a query vector, whatever they are linked to.
CREATE OR REPLACE FUNCTION vectuned_entities.find_similar_resources(
    query @extschema@.vector, similarity_threshold float8 DEFAULT 0, max_results int DEFAULT 10, ef_search int DEFAULT NULL)
RETURNS TABLE (resource_id bigint, uri text, resource_type text, content text, similarity float8, entity_ids bigint[])
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._check_query(query),
            vectuned_entities._check_range('similarity_threshold', similarity_threshold, -1, 1),
            vectuned_entities._check_range('max_results', max_results, 1, 1000),
            vectuned_entities._check_range('ef_search', coalesce(ef_search, 1), 1, 1000);
    RETURN QUERY
        SELECT r.resource_id, r.uri, r.resource_type, r.content, 1 - n.distance,
               ARRAY(SELECT l.entity_id FROM vectuned_entities.entity_resource_link l
                     JOIN vectuned_entities.entities e ON e.entity_id = l.entity_id AND e.status = 'active'
                     WHERE l.resource_id = r.resource_id ORDER BY l.confidence DESC, l.entity_id LIMIT 100)
        FROM vectuned_entities._scan_resources(query, max_results, vectuned_entities._effort(max_results, ef_search)) n
        JOIN vectuned_entities.external_resources r ON r.resource_id = n.id
        WHERE 1 - n.distance >= similarity_threshold
        ORDER BY n.distance, r.resource_id;
END
$$;

-- The k nearest resources by the HNSW index; see _scan_entities.
CREATE OR REPLACE FUNCTION vectuned_entities._scan_resources(query @extschema@.vector, k int, ef_search int)
RETURNS TABLE (id bigint, distance float8)
LANGUAGE plpgsql STABLE ROWS 20
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan
SET enable_sort = off
SET jit = off
SET hnsw.ef_search = 40
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM set_config('hnsw.ef_search', least(ef_search, 1000)::text, true);
    RETURN QUERY
        SELECT r.resource_id, r.embedding OPERATOR(@extschema@.<=>) query
        FROM vectuned_entities.external_resources r
        WHERE r.embedding IS NOT NULL
        ORDER BY r.embedding OPERATOR(@extschema@.<=>) query
        LIMIT k;
END
$$;
