-- Triggers maintain the columns that depend on the row itself, so that COPY and plain UPDATE work as well as the functions.
-- The triggers on entities and resources have no column list, because a move to another model drops and renames columns.

-- Sets the label, text search document, needs_embedding and times of an entity.
CREATE OR REPLACE FUNCTION vectuned_entities._entity_changed() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    new_text boolean := TG_OP = 'INSERT' OR (OLD.name, OLD.description) <> (NEW.name, NEW.description);
    new_embedding boolean;
BEGIN
    NEW.label := coalesce(NEW.label, 'e' || NEW.entity_id);
    IF new_text OR OLD.language <> NEW.language THEN
        NEW.language := NEW.language::regconfig::text;
        NEW.document := setweight(to_tsvector(NEW.language::regconfig, NEW.name), 'A')
            || setweight(to_tsvector(NEW.language::regconfig, NEW.description), 'B');
    END IF;
    IF TG_OP = 'INSERT' THEN
        NEW.needs_embedding := NEW.embedding IS NULL;
        RETURN NEW;
    END IF;
    new_embedding := coalesce(OLD.embedding OPERATOR(@extschema@.<>) NEW.embedding,
                              (OLD.embedding IS NULL) <> (NEW.embedding IS NULL));
    IF new_text THEN
        NEW.embedding_next := NULL;
        NEW.embedding_next_model := NULL;
    END IF;
    IF new_embedding OR new_text THEN
        NEW.needs_embedding := NEW.embedding IS NULL OR NOT new_embedding;
    END IF;
    IF NEW.status <> OLD.status THEN
        NEW.status_changed_at := now();
    END IF;
    -- A change of embedding_next alone does not count: it has no effect until the switch.
    IF new_text OR new_embedding OR NEW.status <> OLD.status OR (OLD.label, OLD.language) <> (NEW.label, NEW.language) THEN
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER entity_changed BEFORE INSERT OR UPDATE ON vectuned_entities.entities
    FOR EACH ROW EXECUTE FUNCTION vectuned_entities._entity_changed();

-- Sets needs_embedding and updated_at of a resource.
CREATE OR REPLACE FUNCTION vectuned_entities._resource_changed() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    new_text boolean := TG_OP = 'INSERT' OR OLD.content <> NEW.content;
    new_embedding boolean;
BEGIN
    IF TG_OP = 'INSERT' THEN
        NEW.needs_embedding := NEW.embedding IS NULL;
        RETURN NEW;
    END IF;
    new_embedding := coalesce(OLD.embedding OPERATOR(@extschema@.<>) NEW.embedding,
                              (OLD.embedding IS NULL) <> (NEW.embedding IS NULL));
    IF new_text THEN
        NEW.embedding_next := NULL;
        NEW.embedding_next_model := NULL;
    END IF;
    IF new_embedding OR new_text THEN
        NEW.needs_embedding := NEW.embedding IS NULL OR NOT new_embedding;
    END IF;
    IF new_text OR new_embedding OR (OLD.uri, OLD.resource_type) <> (NEW.uri, NEW.resource_type) THEN
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER resource_changed BEFORE INSERT OR UPDATE ON vectuned_entities.external_resources
    FOR EACH ROW EXECUTE FUNCTION vectuned_entities._resource_changed();

-- Sets updated_at of a relationship.
CREATE OR REPLACE FUNCTION vectuned_entities._relationship_changed() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

CREATE OR REPLACE TRIGGER relationship_changed
    BEFORE UPDATE OF confidence, type_id, source_id, target_id ON vectuned_entities.relationships
    FOR EACH ROW EXECUTE FUNCTION vectuned_entities._relationship_changed();
