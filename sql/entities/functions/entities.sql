-- Entities and their attributes.

-- Stores an entity and returns its id. Without an embedding it waits to be embedded (next_embedding_batch).
CREATE OR REPLACE FUNCTION vectuned_entities.insert_entity(
    entity_name text, embedding @extschema@.vector DEFAULT NULL, description text DEFAULT '', label text DEFAULT NULL,
    attributes jsonb DEFAULT '{}', language regconfig DEFAULT 'english', model_name text DEFAULT NULL,
    model_version text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    id bigint;
    model_id int;
    attribute record;
BEGIN
    PERFORM vectuned_entities._check_name('entity_name', entity_name, 1000, 'A name has 1 to 1000 characters.');
    PERFORM vectuned_entities._require('description', char_length(description) <= 100000, 'At most 100000 characters; '''' for none.');
    PERFORM vectuned_entities._require('label', coalesce(label, 'e') ~ '^[A-Za-z0-9_]{1,255}$', 'A label has 1 to 255 letters, digits and underscores.');
    PERFORM vectuned_entities._require('language', language IS NOT NULL, 'A text search configuration, such as english or simple.');
    PERFORM vectuned_entities._require('attributes', jsonb_typeof(attributes) = 'object', 'A JSON object: {"colour": "red", "size": ["s", "m"]}.');
    IF embedding IS NOT NULL THEN
        PERFORM vectuned_entities._check_embedding('embedding', embedding, vectuned_entities._dimensions());
        model_id := vectuned_entities._model_for(model_name, model_version);
    END IF;
    INSERT INTO vectuned_entities.entities AS e (name, description, label, language, embedding, embedding_model)
    VALUES (entity_name, description, label, language::text, embedding, model_id)
    RETURNING e.entity_id INTO id;
    FOR attribute IN
        SELECT a.key, v.value
        FROM jsonb_each(attributes) a
        CROSS JOIN LATERAL (
            SELECT i.value #>> '{}' AS value
            FROM jsonb_array_elements(CASE jsonb_typeof(a.value) WHEN 'array' THEN a.value ELSE jsonb_build_array(a.value) END) i
        ) v
    LOOP
        PERFORM vectuned_entities.set_entity_attribute(id, attribute.key, attribute.value);
    END LOOP;
    RETURN id;
EXCEPTION WHEN unique_violation THEN
    RAISE EXCEPTION 'there already is an entity with the label %', label
        USING ERRCODE = 'unique_violation', HINT = 'Omit the label, or choose another.';
END
$$;

-- Changes the name, description or language of an entity; NULL leaves each as it is. A new text makes the embedding out of date.
CREATE OR REPLACE FUNCTION vectuned_entities.update_entity(
    target_entity_id bigint, entity_name text DEFAULT NULL, description text DEFAULT NULL, language regconfig DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._check_entity('target_entity_id', target_entity_id);
    IF entity_name IS NOT NULL THEN
        PERFORM vectuned_entities._check_name('entity_name', entity_name, 1000, 'A name has 1 to 1000 characters.');
    END IF;
    PERFORM vectuned_entities._require('description', coalesce(char_length(description), 0) <= 100000, 'At most 100000 characters.');
    UPDATE vectuned_entities.entities e
    SET name = coalesce(entity_name, e.name), description = coalesce(description, e.description),
        language = coalesce(language::text, e.language)
    WHERE e.entity_id = target_entity_id;
END
$$;

-- Adds a value of an attribute to an entity, which may have several; idempotent.
CREATE OR REPLACE FUNCTION vectuned_entities.set_entity_attribute(target_entity_id bigint, attribute text, value text)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._check_entity('target_entity_id', target_entity_id);
    PERFORM vectuned_entities._check_name('attribute', attribute, 200, 'A name has 1 to 200 characters.');
    PERFORM vectuned_entities._require('value', octet_length(value) <= 2000, 'A value has at most 2000 bytes; longer texts are external resources.');
    INSERT INTO vectuned_entities.attributes (name)
    SELECT attribute WHERE NOT EXISTS (SELECT FROM vectuned_entities.attributes a WHERE a.name = attribute)
    ON CONFLICT ON CONSTRAINT attributes_name_key DO NOTHING;
    INSERT INTO vectuned_entities.attribute_values (value)
    SELECT value WHERE NOT EXISTS (SELECT FROM vectuned_entities.attribute_values v WHERE v.value = value)
    ON CONFLICT ON CONSTRAINT attribute_values_value_key DO NOTHING;
    INSERT INTO vectuned_entities.entity_attribute_link (entity_id, attribute_id, value_id)
    SELECT target_entity_id, a.attribute_id, v.value_id
    FROM vectuned_entities.attributes a, vectuned_entities.attribute_values v
    WHERE a.name = attribute AND v.value = value
    ON CONFLICT ON CONSTRAINT entity_attribute_link_pkey DO NOTHING;
END
$$;

-- Entities by id, in the order of the ids.
CREATE OR REPLACE FUNCTION vectuned_entities.get_entities(entity_ids bigint[])
RETURNS TABLE (entity_id bigint, label text, name text, description text, language text, status text, needs_embedding boolean,
               usage_count bigint, last_accessed timestamptz, created_at timestamptz, updated_at timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM vectuned_entities._check_array('entity_ids', entity_ids, 10000);
    RETURN QUERY
        SELECT e.entity_id, e.label, e.name, e.description, e.language, e.status, e.needs_embedding,
               coalesce(t.usage_count, 0), t.last_accessed, e.created_at, e.updated_at
        FROM (SELECT u.id, min(u.place) AS place FROM unnest(entity_ids) WITH ORDINALITY AS u (id, place) GROUP BY u.id) u
        JOIN vectuned_entities.entities e ON e.entity_id = u.id
        LEFT JOIN vectuned_entities.reference_tracking t ON t.entity_id = e.entity_id
        ORDER BY u.place;
END
$$;

-- The attributes of entities, all or those named.
CREATE OR REPLACE FUNCTION vectuned_entities.get_entity_attributes(entity_ids bigint[], attribute_names text[] DEFAULT NULL)
RETURNS TABLE (entity_id bigint, attribute text, value text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    PERFORM vectuned_entities._check_array('entity_ids', entity_ids, 10000),
            vectuned_entities._check_array('attribute_names', attribute_names, 1000, true);
    RETURN QUERY
        SELECT l.entity_id, a.name, v.value
        FROM vectuned_entities.entity_attribute_link l
        JOIN vectuned_entities.attributes a USING (attribute_id)
        JOIN vectuned_entities.attribute_values v USING (value_id)
        WHERE l.entity_id = ANY (entity_ids) AND (attribute_names IS NULL OR a.name = ANY (attribute_names))
        ORDER BY l.entity_id, a.name, v.value;
END
$$;

-- Active entities that have a value of an attribute.
CREATE OR REPLACE FUNCTION vectuned_entities.find_entities_by_attribute(attribute text, value text, max_results int DEFAULT 100)
RETURNS TABLE (entity_id bigint, name text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._require('attribute', attribute <> '', 'For example part_of_speech.'),
            vectuned_entities._require('value', value IS NOT NULL, 'The value to look for, as text.'),
            vectuned_entities._check_range('max_results', max_results, 1, 10000);
    RETURN QUERY
        SELECT e.entity_id, e.name
        FROM vectuned_entities.attribute_values v
        JOIN vectuned_entities.attributes a ON a.name = attribute
        JOIN vectuned_entities.entity_attribute_link l ON l.value_id = v.value_id AND l.attribute_id = a.attribute_id
        JOIN vectuned_entities.entities e ON e.entity_id = l.entity_id AND e.status = 'active'
        WHERE v.value = value
        ORDER BY l.entity_id LIMIT max_results;
END
$$;

-- Other entities with the same attribute values, those that share most first. Values that more than max_holders entities
-- have, such as a part of speech, say too little and are ignored, which also bounds the work.
CREATE OR REPLACE FUNCTION vectuned_entities.find_entities_sharing_attributes(
    start_entity_id bigint, attribute_names text[] DEFAULT NULL, max_results int DEFAULT 20, max_holders int DEFAULT 1000)
RETURNS TABLE (entity_id bigint, name text, shared int, shared_values text[])
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._check_entity('start_entity_id', start_entity_id),
            vectuned_entities._check_array('attribute_names', attribute_names, 1000, true),
            vectuned_entities._check_range('max_results', max_results, 1, 1000),
            vectuned_entities._check_range('max_holders', max_holders, 1, 10000);
    RETURN QUERY
        SELECT e.entity_id, e.name, o.shared, o.shared_values
        FROM (
            SELECT h.holder, count(*)::int AS shared, array_agg(a.name || ' = ' || v.value ORDER BY a.name, v.value) AS shared_values
            FROM vectuned_entities.entity_attribute_link l
            JOIN vectuned_entities.attributes a ON a.attribute_id = l.attribute_id
            JOIN vectuned_entities.attribute_values v ON v.value_id = l.value_id
            CROSS JOIN LATERAL (
                SELECT b.entity_id AS holder, count(*) OVER () AS holders
                FROM (SELECT s.entity_id FROM vectuned_entities.entity_attribute_link s
                      WHERE s.value_id = l.value_id AND s.attribute_id = l.attribute_id LIMIT max_holders + 1) b
            ) h
            WHERE l.entity_id = start_entity_id AND (attribute_names IS NULL OR a.name = ANY (attribute_names))
              AND h.holders <= max_holders AND h.holder <> start_entity_id
            GROUP BY h.holder
        ) o
        JOIN vectuned_entities.entities e ON e.entity_id = o.holder AND e.status = 'active'
        ORDER BY o.shared DESC, e.entity_id LIMIT max_results;
END
$$;
