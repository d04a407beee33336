-- Hierarchies of entities, by the paths from a root to each entity.

-- Recomputes the paths of a hierarchy, level by level, from the relationships of the given types; the source of a
-- relationship is below its target. Keeps the max_paths shortest paths of an entity and max_depth levels, and cuts a cycle
-- where it closes. Sets the path of the relationships of these types. Returns the number of paths.
CREATE OR REPLACE FUNCTION vectuned_entities.rebuild_entity_paths(
    relationship_types text[] DEFAULT '{hypernym,instance_hypernym}', hierarchy text DEFAULT 'is_a', max_paths int DEFAULT 16,
    max_depth int DEFAULT 64)
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    type_ids smallint[] := vectuned_entities._type_ids(relationship_types);
    added bigint := 0;
    depth int := 1;
BEGIN
    PERFORM vectuned_entities._check_array('relationship_types', relationship_types, 100),
            vectuned_entities._check_name('hierarchy', hierarchy, 200, 'A name for the paths, such as is_a.'),
            vectuned_entities._check_range('max_paths', max_paths, 1, 1000),
            vectuned_entities._check_range('max_depth', max_depth, 2, 64);
    PERFORM pg_advisory_xact_lock(hashtextextended('vectuned_entities.paths ' || hierarchy, 0));
    DELETE FROM vectuned_entities.entity_paths p WHERE p.hierarchy = hierarchy;
    -- Roots: entities above another and below none.
    INSERT INTO vectuned_entities.entity_paths (entity_id, hierarchy, path_no, path)
    SELECT e.entity_id, hierarchy, 1, @ltree@.text2ltree(e.label) FROM vectuned_entities.entities e
    WHERE e.entity_id IN (SELECT r.target_id FROM vectuned_entities.relationships r WHERE r.type_id = ANY (type_ids))
      AND NOT EXISTS (SELECT FROM vectuned_entities.relationships r WHERE r.source_id = e.entity_id AND r.type_id = ANY (type_ids));
    LOOP
        WHILE depth < max_depth LOOP
            INSERT INTO vectuned_entities.entity_paths (entity_id, hierarchy, path_no, path)
            SELECT n.entity_id, hierarchy, n.path_no, n.path
            FROM (
                SELECT c.entity_id, c.path,
                       row_number() OVER (PARTITION BY c.entity_id ORDER BY c.path)
                       + (SELECT count(*) FROM vectuned_entities.entity_paths o
                          WHERE o.entity_id = c.entity_id AND o.hierarchy = hierarchy) AS path_no
                FROM (
                    SELECT DISTINCT e.entity_id, p.path OPERATOR(@ltree@.||) @ltree@.text2ltree(e.label) AS path
                    FROM vectuned_entities.entity_paths p
                    JOIN vectuned_entities.relationships r ON r.target_id = p.entity_id AND r.type_id = ANY (type_ids)
                    JOIN vectuned_entities.entities e ON e.entity_id = r.source_id
                    WHERE p.hierarchy = hierarchy AND p.level = depth
                      AND @ltree@.index(p.path, @ltree@.text2ltree(e.label)) < 0
                ) c
                -- A longer path does not fit into an index entry.
                WHERE octet_length(@ltree@.ltree2text(c.path)) <= 1500
                  AND NOT EXISTS (SELECT FROM vectuned_entities.entity_paths o WHERE o.entity_id = c.entity_id
                                  AND o.hierarchy = hierarchy AND o.path OPERATOR(@ltree@.=) c.path)
            ) n
            WHERE n.path_no <= max_paths;
            GET DIAGNOSTICS added = ROW_COUNT;
            EXIT WHEN added = 0;
            depth := depth + 1;
        END LOOP;
        -- Entities that no root leads to are on or below a cycle, or too deep: use one of them as a root.
        EXIT WHEN added > 0;
        INSERT INTO vectuned_entities.entity_paths (entity_id, hierarchy, path_no, path)
        SELECT e.entity_id, hierarchy, 1, @ltree@.text2ltree(e.label) FROM vectuned_entities.entities e
        WHERE e.entity_id = (
            SELECT min(r.target_id) FROM vectuned_entities.relationships r
            WHERE r.type_id = ANY (type_ids)
              AND NOT EXISTS (SELECT FROM vectuned_entities.entity_paths p WHERE p.entity_id = r.target_id AND p.hierarchy = hierarchy));
        EXIT WHEN NOT FOUND;
        depth := 1;
    END LOOP;
    UPDATE vectuned_entities.relationships r SET path = n.path
    FROM (
        SELECT o.relationship_id, p.path OPERATOR(@ltree@.||) @ltree@.text2ltree(e.label) AS path
        FROM vectuned_entities.relationships o
        JOIN vectuned_entities.entities e ON e.entity_id = o.source_id
        LEFT JOIN vectuned_entities.entity_paths p
            ON p.entity_id = o.target_id AND p.hierarchy = hierarchy AND p.path_no = 1
            AND @ltree@.index(p.path, @ltree@.text2ltree(e.label)) < 0 AND octet_length(@ltree@.ltree2text(p.path)) <= 1200
        WHERE o.type_id = ANY (type_ids)
    ) n
    WHERE r.relationship_id = n.relationship_id
      AND coalesce(r.path OPERATOR(@ltree@.<>) n.path, (r.path IS NULL) <> (n.path IS NULL));
    RETURN (SELECT count(*) FROM vectuned_entities.entity_paths p WHERE p.hierarchy = hierarchy);
END
$$;

-- The paths of an entity in a hierarchy, shortest first.
CREATE OR REPLACE FUNCTION vectuned_entities.get_entity_paths(start_entity_id bigint, hierarchy text DEFAULT 'is_a')
RETURNS TABLE (path_no int, path @ltree@.ltree)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._check_entity('start_entity_id', start_entity_id),
            vectuned_entities._check_hierarchy(hierarchy);
    RETURN QUERY SELECT p.path_no, p.path FROM vectuned_entities.entity_paths p
        WHERE p.entity_id = start_entity_id AND p.hierarchy = hierarchy ORDER BY p.path_no;
END
$$;

-- The entities above an entity, by any of its paths, nearest first; distance is the number of steps of the shortest path.
CREATE OR REPLACE FUNCTION vectuned_entities.find_entity_ancestors(
    start_entity_id bigint, hierarchy text DEFAULT 'is_a', max_results int DEFAULT 100)
RETURNS TABLE (entity_id bigint, name text, distance int)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._check_entity('start_entity_id', start_entity_id),
            vectuned_entities._check_hierarchy(hierarchy),
            vectuned_entities._check_range('max_results', max_results, 1, 10000);
    RETURN QUERY
        SELECT e.entity_id, e.name, min(p.level - u.place)::int AS distance
        FROM vectuned_entities.entity_paths p
        CROSS JOIN LATERAL unnest(string_to_array(@ltree@.ltree2text(p.parent), '.')) WITH ORDINALITY AS u (label, place)
        JOIN vectuned_entities.entities e ON e.label = u.label AND e.status = 'active'
        WHERE p.entity_id = start_entity_id AND p.hierarchy = hierarchy
        GROUP BY e.entity_id ORDER BY 3, e.entity_id LIMIT max_results;
END
$$;

-- The entities below an entity, nearest first. Descends level by level until it has max_results.
CREATE OR REPLACE FUNCTION vectuned_entities.find_entity_descendants(
    start_entity_id bigint, hierarchy text DEFAULT 'is_a', max_depth int DEFAULT 64, max_results int DEFAULT 100)
RETURNS TABLE (entity_id bigint, name text, distance int)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    parents @ltree@.ltree[];
    level bigint[];
    found bigint[] := '{}';
    distances int[] := '{}';
BEGIN
    PERFORM vectuned_entities._check_entity('start_entity_id', start_entity_id),
            vectuned_entities._check_hierarchy(hierarchy),
            vectuned_entities._check_range('max_depth', max_depth, 1, 64),
            vectuned_entities._check_range('max_results', max_results, 1, 10000);
    parents := ARRAY(SELECT p.path FROM vectuned_entities.entity_paths p
                     WHERE p.entity_id = start_entity_id AND p.hierarchy = hierarchy);
    FOR depth IN 1 .. max_depth LOOP
        SELECT array_agg(p.path), array_agg(DISTINCT p.entity_id) FILTER (WHERE p.entity_id <> ALL (found) AND e.status = 'active')
        INTO parents, level
        FROM vectuned_entities.entity_paths p JOIN vectuned_entities.entities e ON e.entity_id = p.entity_id
        WHERE p.parent OPERATOR(@ltree@.=) ANY (parents) AND p.hierarchy = hierarchy;
        found := found || level;
        distances := distances || array_fill(depth, ARRAY[coalesce(cardinality(level), 0)]);
        EXIT WHEN parents IS NULL OR cardinality(found) >= max_results;
    END LOOP;
    RETURN QUERY
        SELECT e.entity_id, e.name, u.distance
        FROM unnest(found, distances) AS u (id, distance)
        JOIN vectuned_entities.entities e ON e.entity_id = u.id
        ORDER BY u.distance, e.entity_id LIMIT max_results;
END
$$;

-- The other entities under any parent of an entity; for a root, the other roots.
CREATE OR REPLACE FUNCTION vectuned_entities.find_entity_siblings(
    start_entity_id bigint, hierarchy text DEFAULT 'is_a', max_results int DEFAULT 100)
RETURNS TABLE (entity_id bigint, name text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._check_entity('start_entity_id', start_entity_id),
            vectuned_entities._check_hierarchy(hierarchy),
            vectuned_entities._check_range('max_results', max_results, 1, 10000);
    RETURN QUERY
        SELECT DISTINCT e.entity_id, e.name
        FROM vectuned_entities.entity_paths o
        JOIN vectuned_entities.entity_paths p
            ON p.parent OPERATOR(@ltree@.=) o.parent AND p.hierarchy = o.hierarchy AND p.entity_id <> o.entity_id
        JOIN vectuned_entities.entities e ON e.entity_id = p.entity_id AND e.status = 'active'
        WHERE o.entity_id = start_entity_id AND o.hierarchy = hierarchy
        ORDER BY e.entity_id LIMIT max_results;
END
$$;

-- Entities whose path matches an lquery over labels; for example *.n02084071.*{1} matches those one step below.
CREATE OR REPLACE FUNCTION vectuned_entities.find_entities_by_path(
    pattern @ltree@.lquery, hierarchy text DEFAULT 'is_a', max_results int DEFAULT 100)
RETURNS TABLE (entity_id bigint, name text, path @ltree@.ltree)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM vectuned_entities._require('pattern', pattern IS NOT NULL, 'An lquery, such as n00001740.*.'),
            vectuned_entities._check_hierarchy(hierarchy),
            vectuned_entities._check_range('max_results', max_results, 1, 10000);
    RETURN QUERY
        SELECT e.entity_id, e.name, p.path
        FROM vectuned_entities.entity_paths p
        JOIN vectuned_entities.entities e ON e.entity_id = p.entity_id AND e.status = 'active'
        WHERE p.path OPERATOR(@ltree@.~) pattern AND p.hierarchy = hierarchy
        ORDER BY p.level, p.path LIMIT max_results;
END
$$;
