-- Embedding models. One of them is current, and constraints keep embeddings of any other model out of the tables.

-- The text that is embedded for an entity.
CREATE OR REPLACE FUNCTION vectuned_entities.entity_text(name text, description text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT CASE WHEN entity_text.description = '' THEN entity_text.name ELSE entity_text.name || ': ' || entity_text.description END $$;

-- Registers a model and returns its id; idempotent. The first model with the dimensions of the tables becomes current.
CREATE OR REPLACE FUNCTION vectuned_entities.register_embedding_model(model_name text, model_version text, dimensions int)
RETURNS int
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    model vectuned_entities.embedding_model_versions;
BEGIN
    PERFORM vectuned_entities._check_name('model_name', model_name, 200, 'For example all-MiniLM-L6-v2.');
    PERFORM vectuned_entities._check_name('model_version', model_version, 200, 'For example 1.0.0.');
    PERFORM vectuned_entities._check_range('dimensions', dimensions, 1, 2000);
    PERFORM pg_advisory_xact_lock(hashtextextended('vectuned_entities.model', 0));
    INSERT INTO vectuned_entities.embedding_model_versions (name, version, dimensions)
    VALUES (model_name, model_version, dimensions)
    ON CONFLICT ON CONSTRAINT embedding_model_versions_name_version_key DO NOTHING;
    SELECT * INTO STRICT model FROM vectuned_entities.embedding_model_versions m
    WHERE m.name = model_name AND m.version = model_version;
    IF model.dimensions <> dimensions THEN
        RAISE EXCEPTION 'model % % is registered with % dimensions, not %', model_name, model_version, model.dimensions, dimensions
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Register a model of other dimensions under another name or version.';
    END IF;
    IF dimensions = vectuned_entities._dimensions()
        AND NOT EXISTS (SELECT FROM vectuned_entities.embedding_model_versions m WHERE m.status = 'current')
    THEN
        PERFORM vectuned_entities._require_model('entities', 'embedding', model.model_id),
                vectuned_entities._require_model('external_resources', 'embedding', model.model_id);
        UPDATE vectuned_entities.embedding_model_versions m SET status = 'current', current_since = now()
        WHERE m.model_id = model.model_id;
    END IF;
    RETURN model.model_id;
END
$$;

-- Adds a constraint to a table that no row may hold an embedding of another model, however it is written.
CREATE OR REPLACE FUNCTION vectuned_entities._require_model(table_name name, column_name name, model_id int) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format('ALTER TABLE vectuned_entities.%I ADD CONSTRAINT %I CHECK (%I = %s)', table_name,
                   table_name || CASE column_name WHEN 'embedding' THEN '_one_model' ELSE '_next_model' END,
                   column_name || '_model', model_id);
END
$$;

-- The current model; all NULL if there is none.
CREATE OR REPLACE FUNCTION vectuned_entities.current_embedding_model(
    OUT model_id int, OUT name text, OUT version text, OUT dimensions int)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT m.model_id, m.name, m.version, m.dimensions
    FROM vectuned_entities.embedding_model_versions m WHERE m.status = 'current'
$$;

-- The id of the current model. Raises an error if another model is named, because their vectors are not comparable.
CREATE OR REPLACE FUNCTION vectuned_entities._model_for(model_name text, model_version text) RETURNS int
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    model record;
BEGIN
    SELECT * INTO model FROM vectuned_entities.current_embedding_model();
    IF model.model_id IS NULL THEN
        RAISE EXCEPTION 'the store has no embedding model yet'
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = 'SELECT vectuned_entities.register_embedding_model(name, version, dimensions)';
    END IF;
    IF coalesce(model_name, model.name) <> model.name OR coalesce(model_version, model.version) <> model.version THEN
        RAISE EXCEPTION 'the embedding is of model % %, but those of the store are of % %', left(coalesce(model_name, model.name), 200),
            left(coalesce(model_version, model.version), 200), model.name, model.version
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Embed with the model of the store, or move the store: vectuned entities rebase --model.';
    END IF;
    RETURN model.model_id;
END
$$;
