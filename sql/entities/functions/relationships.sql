-- Relationships between two entities, and their paths in hierarchies.

-- Ids of relationship types by name; NULL, for any type, if names is NULL.
CREATE OR REPLACE FUNCTION vectuned_entities._type_ids(names text[]) RETURNS smallint[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    found smallint[];
    unknown text;
BEGIN
    PERFORM vectuned_entities._check_array('relationship types', names, 100, true);
    IF names IS NULL THEN
        RETURN NULL;
    END IF;
    SELECT array_agg(t.type_id), min(u.name) FILTER (WHERE t.type_id IS NULL) INTO found, unknown
    FROM unnest(names) AS u (name) LEFT JOIN vectuned_entities.relationship_types t ON t.name = u.name;
    IF unknown IS NOT NULL THEN
        RAISE EXCEPTION 'there is no relationship type %', quote_ident(left(unknown, 200))
            USING ERRCODE = 'invalid_parameter_value', HINT = 'SELECT name FROM vectuned_entities.relationship_types';
    END IF;
    RETURN found;
END
$$;

-- Stores a relationship and returns its id. An existing one gets the new confidence and, if not NULL, the new path.
CREATE OR REPLACE FUNCTION vectuned_entities.insert_relationship(
    source_id bigint, target_id bigint, relationship_type text, confidence float8 DEFAULT 1, path @ltree@.ltree DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    id bigint;
BEGIN
    PERFORM vectuned_entities._check_entity('source_id', source_id), vectuned_entities._check_entity('target_id', target_id),
            vectuned_entities._check_name('relationship_type', relationship_type, 200, 'A name has 1 to 200 characters.'),
            vectuned_entities._check_range('confidence', confidence, 0, 1);
    IF path IS NOT NULL THEN
        PERFORM vectuned_entities._check_path('path', path);
    END IF;
    INSERT INTO vectuned_entities.relationship_types (name)
    SELECT relationship_type WHERE NOT EXISTS (SELECT FROM vectuned_entities.relationship_types t WHERE t.name = relationship_type)
    ON CONFLICT ON CONSTRAINT relationship_types_name_key DO NOTHING;
    INSERT INTO vectuned_entities.relationships AS r (source_id, target_id, type_id, confidence, path)
    SELECT source_id, target_id, t.type_id, confidence, path
    FROM vectuned_entities.relationship_types t WHERE t.name = relationship_type
    ON CONFLICT ON CONSTRAINT relationships_source_target_type_key
        DO UPDATE SET confidence = excluded.confidence, path = coalesce(excluded.path, r.path)
    RETURNING r.relationship_id INTO id;
    RETURN id;
END
$$;

-- The relationships of an entity to others ('out'), of others to it ('in'), or both, in order of confidence.
CREATE OR REPLACE FUNCTION vectuned_entities.get_entity_relationships(
    start_entity_id bigint, relationship_types text[] DEFAULT NULL, direction text DEFAULT 'out', max_results int DEFAULT 100)
RETURNS TABLE (relationship_id bigint, direction_found text, entity_id bigint, name text, relationship_type text, confidence float8,
               updated_at timestamptz)
LANGUAGE plpgsql STABLE ROWS 20
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    type_ids smallint[] := vectuned_entities._type_ids(relationship_types);
BEGIN
    PERFORM vectuned_entities._check_entity('start_entity_id', start_entity_id),
            vectuned_entities._check_choice('direction', direction, '{out,in,both}'),
            vectuned_entities._check_range('max_results', max_results, 1, 10000);
    RETURN QUERY
        SELECT b.relationship_id, b.direction_found, b.other_id, e.name, t.name, b.confidence, b.updated_at
        FROM (
            (SELECT r.relationship_id, 'out' AS direction_found, r.target_id AS other_id, r.type_id, r.confidence, r.updated_at
             FROM vectuned_entities.relationships r
             WHERE direction <> 'in' AND r.source_id = start_entity_id AND (type_ids IS NULL OR r.type_id = ANY (type_ids))
               AND EXISTS (SELECT FROM vectuned_entities.entities a WHERE a.entity_id = r.target_id AND a.status = 'active')
             ORDER BY r.confidence DESC, r.relationship_id LIMIT max_results)
            UNION ALL
            (SELECT r.relationship_id, 'in', r.source_id, r.type_id, r.confidence, r.updated_at
             FROM vectuned_entities.relationships r
             WHERE direction <> 'out' AND r.target_id = start_entity_id AND (type_ids IS NULL OR r.type_id = ANY (type_ids))
               AND EXISTS (SELECT FROM vectuned_entities.entities a WHERE a.entity_id = r.source_id AND a.status = 'active')
             ORDER BY r.confidence DESC, r.relationship_id LIMIT max_results)
        ) b
        JOIN vectuned_entities.relationship_types t ON t.type_id = b.type_id
        JOIN vectuned_entities.entities e ON e.entity_id = b.other_id
        ORDER BY b.confidence DESC, b.relationship_id LIMIT max_results;
END
$$;

-- Relationships at a path and below it. Those without a path are in no hierarchy and are not found.
CREATE OR REPLACE FUNCTION vectuned_entities.find_relationships(prefix @ltree@.ltree, max_results int DEFAULT 100)
RETURNS TABLE (relationship_id bigint, path @ltree@.ltree, source_id bigint, target_id bigint, relationship_type text, confidence float8)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._check_path('prefix', prefix), vectuned_entities._check_range('max_results', max_results, 1, 10000);
    RETURN QUERY
        SELECT r.relationship_id, r.path, r.source_id, r.target_id, t.name, r.confidence
        FROM vectuned_entities.relationships r JOIN vectuned_entities.relationship_types t ON t.type_id = r.type_id
        WHERE r.path OPERATOR(@ltree@.<@) prefix
        ORDER BY r.confidence DESC, @ltree@.nlevel(r.path), r.path, r.relationship_id LIMIT max_results;
END
$$;

-- The relationships from a root down to a path, inclusive.
CREATE OR REPLACE FUNCTION vectuned_entities.find_relationship_ancestors(target_path @ltree@.ltree, max_results int DEFAULT 100)
RETURNS TABLE (relationship_id bigint, path @ltree@.ltree, source_id bigint, target_id bigint, relationship_type text, confidence float8)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._check_path('target_path', target_path), vectuned_entities._check_range('max_results', max_results, 1, 10000);
    RETURN QUERY
        SELECT r.relationship_id, r.path, r.source_id, r.target_id, t.name, r.confidence
        FROM vectuned_entities.relationships r JOIN vectuned_entities.relationship_types t ON t.type_id = r.type_id
        WHERE r.path OPERATOR(@ltree@.@>) target_path
        ORDER BY @ltree@.nlevel(r.path), r.path, r.relationship_id LIMIT max_results;
END
$$;

-- The relationships below a path.
CREATE OR REPLACE FUNCTION vectuned_entities.find_relationship_descendants(parent_path @ltree@.ltree, max_results int DEFAULT 100)
RETURNS TABLE (relationship_id bigint, path @ltree@.ltree, source_id bigint, target_id bigint, relationship_type text, confidence float8)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._check_path('parent_path', parent_path), vectuned_entities._check_range('max_results', max_results, 1, 10000);
    RETURN QUERY
        SELECT r.relationship_id, r.path, r.source_id, r.target_id, t.name, r.confidence
        FROM vectuned_entities.relationships r JOIN vectuned_entities.relationship_types t ON t.type_id = r.type_id
        WHERE r.path OPERATOR(@ltree@.<@) parent_path AND r.path OPERATOR(@ltree@.<>) parent_path
        ORDER BY @ltree@.nlevel(r.path), r.path, r.relationship_id LIMIT max_results;
END
$$;

-- The relationships one level below the parent of a path, without the path itself; for a root, the other roots.
CREATE OR REPLACE FUNCTION vectuned_entities.find_relationship_siblings(entity_path @ltree@.ltree, max_results int DEFAULT 100)
RETURNS TABLE (relationship_id bigint, path @ltree@.ltree, source_id bigint, target_id bigint, relationship_type text, confidence float8)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._check_path('entity_path', entity_path), vectuned_entities._check_range('max_results', max_results, 1, 10000);
    RETURN QUERY
        SELECT r.relationship_id, r.path, r.source_id, r.target_id, t.name, r.confidence
        FROM vectuned_entities.relationships r JOIN vectuned_entities.relationship_types t ON t.type_id = r.type_id
        WHERE r.path OPERATOR(@ltree@.<@) @ltree@.subpath(entity_path, 0, -1)
          AND @ltree@.nlevel(r.path) = @ltree@.nlevel(entity_path) AND r.path OPERATOR(@ltree@.<>) entity_path
        ORDER BY r.path, r.relationship_id LIMIT max_results;
END
$$;

-- Relationships whose path matches an lquery, such as n00001740.*{2}.n02084071.* or *.!n02084071.*
CREATE OR REPLACE FUNCTION vectuned_entities.find_relationships_by_pattern(pattern @ltree@.lquery, max_results int DEFAULT 100)
RETURNS TABLE (relationship_id bigint, path @ltree@.ltree, source_id bigint, target_id bigint, relationship_type text, confidence float8)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._require('pattern', pattern IS NOT NULL, 'An lquery, such as n00001740.*.'),
            vectuned_entities._check_range('max_results', max_results, 1, 10000);
    RETURN QUERY
        SELECT r.relationship_id, r.path, r.source_id, r.target_id, t.name, r.confidence
        FROM vectuned_entities.relationships r JOIN vectuned_entities.relationship_types t ON t.type_id = r.type_id
        WHERE r.path OPERATOR(@ltree@.~) pattern
        ORDER BY @ltree@.nlevel(r.path), r.path, r.relationship_id LIMIT max_results;
END
$$;
