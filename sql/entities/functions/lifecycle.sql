-- The life cycle of entities: active, archived, pruned. Searches find only active ones. Archived ones keep everything but
-- their place in the vector index, and restore_entity makes them active again. Pruned ones keep only id, label and name.

-- Counts a use of each entity and returns how many were counted. Ignores ids that do not exist; in a read-only transaction
-- it counts nothing.
CREATE OR REPLACE FUNCTION vectuned_entities.touch_entities(entity_ids bigint[]) RETURNS int
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    touched int;
BEGIN
    PERFORM vectuned_entities._check_array('entity_ids', entity_ids, 10000);
    IF current_setting('transaction_read_only')::boolean THEN
        RETURN 0;
    END IF;
    -- In order of id, so that two callers cannot deadlock.
    INSERT INTO vectuned_entities.reference_tracking AS t (entity_id, usage_count)
    SELECT e.entity_id, u.uses
    FROM (SELECT i.id, count(*) AS uses FROM unnest(entity_ids) AS i (id) GROUP BY i.id) u
    JOIN vectuned_entities.entities e ON e.entity_id = u.id AND e.status <> 'pruned'
    ORDER BY e.entity_id
    ON CONFLICT ON CONSTRAINT reference_tracking_pkey
        DO UPDATE SET usage_count = t.usage_count + excluded.usage_count, last_accessed = now();
    GET DIAGNOSTICS touched = ROW_COUNT;
    RETURN touched;
END
$$;

-- The entities used most often, which are worth caching.
CREATE OR REPLACE FUNCTION vectuned_entities.find_hot_entities(max_results int DEFAULT 100, used_within interval DEFAULT '1 day')
RETURNS TABLE (entity_id bigint, name text, usage_count bigint, last_accessed timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._check_range('max_results', max_results, 1, 10000),
            vectuned_entities._require('used_within', used_within > interval '0', 'An interval above zero, such as 1 day.');
    RETURN QUERY
        SELECT e.entity_id, e.name, t.usage_count, t.last_accessed
        FROM vectuned_entities.reference_tracking t
        JOIN vectuned_entities.entities e ON e.entity_id = t.entity_id AND e.status = 'active'
        WHERE t.last_accessed > now() - used_within
        ORDER BY t.usage_count DESC, e.entity_id LIMIT max_results;
END
$$;

-- Archives an entity. Returns whether it was active.
CREATE OR REPLACE FUNCTION vectuned_entities.archive_entity(target_entity_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned_entities._check_entity('target_entity_id', target_entity_id);
    RETURN vectuned_entities._archive(ARRAY[target_entity_id]) = 1;
END
$$;

-- Archives the active ones among some entities, with their embeddings in the history. Returns how many.
CREATE OR REPLACE FUNCTION vectuned_entities._archive(entity_ids bigint[]) RETURNS int
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    archived int;
BEGIN
    PERFORM FROM vectuned_entities.entities e WHERE e.entity_id = ANY (entity_ids) ORDER BY e.entity_id FOR UPDATE;
    INSERT INTO vectuned_entities.embedding_history (entity_id, embedding, model_id, reason)
    SELECT e.entity_id, e.embedding, e.embedding_model, 'archived' FROM vectuned_entities.entities e
    -- An out-of-date embedding would not be restored.
    WHERE e.entity_id = ANY (entity_ids) AND e.status = 'active' AND e.embedding IS NOT NULL AND NOT e.needs_embedding;
    UPDATE vectuned_entities.entities e
    SET status = 'archived', embedding = NULL, embedding_model = NULL, embedding_next = NULL, embedding_next_model = NULL
    WHERE e.entity_id = ANY (entity_ids) AND e.status = 'active';
    GET DIAGNOSTICS archived = ROW_COUNT;
    RETURN archived;
END
$$;

-- Makes an archived entity active again. It gets its embedding back if that is of the current model; otherwise it waits to
-- be embedded. Returns whether it was archived.
CREATE OR REPLACE FUNCTION vectuned_entities.restore_entity(target_entity_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    archived vectuned_entities.entities;
BEGIN
    PERFORM vectuned_entities._check_entity('target_entity_id', target_entity_id);
    SELECT * INTO archived FROM vectuned_entities.entities e
    WHERE e.entity_id = target_entity_id AND e.status = 'archived' FOR UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE vectuned_entities.entities e
    SET status = 'active', embedding = h.embedding, embedding_model = h.model_id
    FROM (VALUES (1)) one
    LEFT JOIN LATERAL (
        SELECT i.embedding, i.model_id, i.replaced_at FROM vectuned_entities.embedding_history i
        WHERE i.entity_id = target_entity_id AND i.reason = 'archived' ORDER BY i.history_id DESC LIMIT 1
    ) h ON h.model_id = (SELECT m.model_id FROM vectuned_entities.current_embedding_model() m)
       -- Only if the entity has not changed since.
       AND archived.updated_at = archived.status_changed_at AND h.replaced_at >= archived.status_changed_at
    WHERE e.entity_id = target_entity_id;
    DELETE FROM vectuned_entities.embedding_history h WHERE h.entity_id = target_entity_id AND h.reason = 'archived';
    RETURN true;
END
$$;

-- Deletes the relationships, attributes, paths, links, usage and history of an entity; its id is not reused. Returns whether
-- it was not pruned already.
CREATE OR REPLACE FUNCTION vectuned_entities.prune_entity(target_entity_id bigint) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned_entities._require('target_entity_id', target_entity_id IS NOT NULL, 'Name the entity by its entity_id.');
    IF NOT EXISTS (SELECT FROM vectuned_entities.entities e WHERE e.entity_id = target_entity_id AND e.status = 'pruned') THEN
        PERFORM vectuned_entities._check_entity('target_entity_id', target_entity_id);
    END IF;
    RETURN vectuned_entities._prune(ARRAY[target_entity_id]) = 1;
END
$$;

-- Prunes entities; returns how many.
CREATE OR REPLACE FUNCTION vectuned_entities._prune(entity_ids bigint[]) RETURNS int
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    pruned int;
BEGIN
    PERFORM FROM vectuned_entities.entities e WHERE e.entity_id = ANY (entity_ids) ORDER BY e.entity_id FOR UPDATE;
    DELETE FROM vectuned_entities.relationships r WHERE r.source_id = ANY (entity_ids);
    DELETE FROM vectuned_entities.relationships r WHERE r.target_id = ANY (entity_ids);
    DELETE FROM vectuned_entities.entity_attribute_link l WHERE l.entity_id = ANY (entity_ids);
    DELETE FROM vectuned_entities.entity_resource_link l WHERE l.entity_id = ANY (entity_ids);
    DELETE FROM vectuned_entities.entity_paths p WHERE p.entity_id = ANY (entity_ids);
    DELETE FROM vectuned_entities.reference_tracking t WHERE t.entity_id = ANY (entity_ids);
    DELETE FROM vectuned_entities.answer_feedback f WHERE f.entity_id = ANY (entity_ids);
    DELETE FROM vectuned_entities.embedding_history h WHERE h.entity_id = ANY (entity_ids);
    UPDATE vectuned_entities.entities e
    SET status = 'pruned', description = '', embedding = NULL, embedding_model = NULL, embedding_next = NULL, embedding_next_model = NULL
    WHERE e.entity_id = ANY (entity_ids) AND e.status <> 'pruned';
    GET DIAGNOSTICS pruned = ROW_COUNT;
    RETURN pruned;
END
$$;

-- Archives at most batch_size entities that have been neither used nor changed for unused_for, those unused longest first.
-- Returns how many; repeat it until it returns 0.
CREATE OR REPLACE FUNCTION vectuned_entities.archive_inactive_entities(
    unused_for interval DEFAULT '90 days', batch_size int DEFAULT 1000)
RETURNS int
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._require('unused_for', unused_for > interval '0', 'An interval above zero, such as 90 days.'),
            vectuned_entities._check_range('batch_size', batch_size, 1, 10000);
    RETURN vectuned_entities._archive(ARRAY(
        SELECT e.entity_id
        FROM vectuned_entities.entities e
        LEFT JOIN vectuned_entities.reference_tracking t ON t.entity_id = e.entity_id
        WHERE e.status = 'active' AND greatest(t.last_accessed, e.updated_at) < now() - unused_for
        ORDER BY greatest(t.last_accessed, e.updated_at), e.entity_id LIMIT batch_size));
END
$$;

-- Prunes at most batch_size entities that have been archived for archived_for, the oldest first. Returns how many; repeat it
-- until it returns 0.
CREATE OR REPLACE FUNCTION vectuned_entities.prune_archived_entities(
    archived_for interval DEFAULT '365 days', batch_size int DEFAULT 1000)
RETURNS int
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._require('archived_for', archived_for > interval '0', 'An interval above zero, such as 365 days.'),
            vectuned_entities._check_range('batch_size', batch_size, 1, 10000);
    RETURN vectuned_entities._prune(ARRAY(
        SELECT e.entity_id FROM vectuned_entities.entities e
        WHERE e.status = 'archived' AND e.status_changed_at < now() - archived_for
        ORDER BY e.status_changed_at, e.entity_id LIMIT batch_size));
END
$$;
