-- Walks along several relationships. They write no table, so they work in read-only transactions. Each step follows only the
-- walks of highest confidence, up to a given width, which bounds the work.

-- Extends walks by one relationship, forwards or backwards, through active entities and through none twice.
CREATE OR REPLACE FUNCTION vectuned_entities._step(
    walks vectuned_entities._walk[], type_ids smallint[], backward boolean, width int, min_confidence float8)
RETURNS vectuned_entities._walk[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(ROW(n.nodes, n.types, n.confidence)::vectuned_entities._walk ORDER BY n.confidence DESC, n.nodes), '{}')
    FROM (
        SELECT w.nodes || x.next_id AS nodes, w.types || t.name AS types, w.confidence * x.confidence AS confidence
        FROM unnest(_step.walks) w
        CROSS JOIN LATERAL (
            SELECT o.next_id, o.type_id, o.confidence
            FROM (
                SELECT r.target_id AS next_id, r.type_id, r.confidence FROM vectuned_entities.relationships r
                WHERE NOT _step.backward AND r.source_id = w.nodes[cardinality(w.nodes)]
                UNION ALL
                SELECT r.source_id, r.type_id, r.confidence FROM vectuned_entities.relationships r
                WHERE _step.backward AND r.target_id = w.nodes[cardinality(w.nodes)]
            ) o
            JOIN vectuned_entities.entities e ON e.entity_id = o.next_id AND e.status = 'active'
            WHERE (_step.type_ids IS NULL OR o.type_id = ANY (_step.type_ids)) AND o.next_id <> ALL (w.nodes)
              AND o.confidence * w.confidence >= _step.min_confidence
            ORDER BY o.confidence DESC, o.next_id LIMIT _step.width
        ) x
        JOIN vectuned_entities.relationship_types t ON t.type_id = x.type_id
        ORDER BY confidence DESC, nodes LIMIT _step.width
    ) n
$$;

-- An array in reverse order.
CREATE OR REPLACE FUNCTION vectuned_entities._reverse(items anyarray) RETURNS anyarray
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT array_agg(u.item ORDER BY u.place DESC) FROM unnest(_reverse.items) WITH ORDINALITY AS u (item, place) $$;

-- Paths from one entity to another along relationships, none through an entity twice, in order of confidence, then length.
-- The confidence of a path is the product of those of its relationships. The search starts at both ends and meets in the
-- middle; a notice says if a step had more than max_width paths.
CREATE OR REPLACE FUNCTION vectuned_entities.find_entity_connection_paths(
    start_entity_id bigint, end_entity_id bigint, max_hops int DEFAULT 3, max_results int DEFAULT 10,
    relationship_types text[] DEFAULT NULL, min_confidence float8 DEFAULT 0, max_width int DEFAULT 2000)
RETURNS TABLE (path_entities bigint[], path_names text[], path_relationships text[], confidence float8, hops int)
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
#variable_conflict use_variable
DECLARE
    type_ids smallint[] := vectuned_entities._type_ids(relationship_types);
    forward vectuned_entities._walk[];
    backward vectuned_entities._walk[];
    met vectuned_entities._walk[];
    found vectuned_entities._walk[] := '{}';
    cut boolean := false;
BEGIN
    PERFORM vectuned_entities._check_entity('start_entity_id', start_entity_id),
            vectuned_entities._check_entity('end_entity_id', end_entity_id),
            vectuned_entities._require('end_entity_id', start_entity_id <> end_entity_id, 'It must differ from start_entity_id.'),
            vectuned_entities._check_range('max_hops', max_hops, 1, 6),
            vectuned_entities._check_range('max_results', max_results, 1, 1000),
            vectuned_entities._check_range('min_confidence', min_confidence, 0, 1),
            vectuned_entities._check_range('max_width', max_width, 10, 10000);
    forward := ARRAY[ROW(ARRAY[start_entity_id], '{}'::text[], 1::float8)::vectuned_entities._walk];
    backward := ARRAY[ROW(ARRAY[end_entity_id], '{}'::text[], 1::float8)::vectuned_entities._walk];
    FOR length IN 1 .. max_hops LOOP
        IF length % 2 = 1 THEN
            forward := vectuned_entities._step(forward, type_ids, false, max_width, min_confidence);
        ELSE
            backward := vectuned_entities._step(backward, type_ids, true, max_width, min_confidence);
        END IF;
        EXIT WHEN cardinality(forward) = 0 OR cardinality(backward) = 0;
        cut := cut OR cardinality(forward) = max_width OR cardinality(backward) = max_width;
        SELECT array_agg(ROW(m.nodes, m.types, m.confidence)::vectuned_entities._walk) INTO met
        FROM (
            SELECT p.nodes, p.types, p.confidence
            FROM (
                SELECT f.nodes || vectuned_entities._reverse(b.nodes[:cardinality(b.nodes) - 1]) AS nodes,
                       f.types || vectuned_entities._reverse(b.types) AS types, f.confidence * b.confidence AS confidence
                FROM unnest(forward) f
                JOIN unnest(backward) b ON b.nodes[cardinality(b.nodes)] = f.nodes[cardinality(f.nodes)]
                WHERE NOT f.nodes[:cardinality(f.nodes) - 1] && b.nodes[:cardinality(b.nodes) - 1]
                  AND f.confidence * b.confidence >= min_confidence
                LIMIT 50000
            ) p
            ORDER BY p.confidence DESC, p.nodes LIMIT max_results
        ) m;
        found := found || met;
    END LOOP;
    IF cut THEN
        RAISE NOTICE 'a step had more paths than the % that were followed', max_width
            USING HINT = 'Name relationship_types, or raise min_confidence or max_width.';
    END IF;
    RETURN QUERY
        SELECT w.nodes, ARRAY(SELECT e.name FROM unnest(w.nodes) WITH ORDINALITY AS u (id, place)
                              JOIN vectuned_entities.entities e ON e.entity_id = u.id ORDER BY u.place),
               w.types, w.confidence, cardinality(w.types)
        FROM unnest(found) w
        ORDER BY w.confidence DESC, cardinality(w.types), w.nodes LIMIT max_results;
END
$$;

-- Paths along relationships of the given types, in that order, from start_entity_id or, if it is NULL, from any entity.
CREATE OR REPLACE FUNCTION vectuned_entities.find_entities_by_relationship_pattern(
    relationship_types text[], start_entity_id bigint DEFAULT NULL, max_results int DEFAULT 100, max_width int DEFAULT 2000)
RETURNS TABLE (start_id bigint, start_name text, end_id bigint, end_name text, path_entities bigint[], path_confidence float8)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
#variable_conflict use_variable
DECLARE
    walks vectuned_entities._walk[];
    type_ids smallint[];
    cut boolean := false;
BEGIN
    PERFORM vectuned_entities._check_array('relationship_types', relationship_types, 8),
            vectuned_entities._check_range('max_results', max_results, 1, 10000),
            vectuned_entities._check_range('max_width', max_width, 10, 10000);
    IF start_entity_id IS NOT NULL THEN
        PERFORM vectuned_entities._check_entity('start_entity_id', start_entity_id);
        walks := ARRAY[ROW(ARRAY[start_entity_id], '{}'::text[], 1::float8)::vectuned_entities._walk];
    END IF;
    FOR position IN 1 .. cardinality(relationship_types) LOOP
        type_ids := vectuned_entities._type_ids(relationship_types[position:position]);
        IF walks IS NULL THEN
            SELECT coalesce(array_agg(ROW(ARRAY[r.source_id, r.target_id], relationship_types[1:1], r.confidence)::vectuned_entities._walk), '{}')
            INTO walks
            FROM (SELECT r.* FROM vectuned_entities.relationships r
                  JOIN vectuned_entities.entities s ON s.entity_id = r.source_id AND s.status = 'active'
                  JOIN vectuned_entities.entities t ON t.entity_id = r.target_id AND t.status = 'active'
                  WHERE r.type_id = type_ids[1] AND r.source_id <> r.target_id
                  ORDER BY r.confidence DESC, r.relationship_id LIMIT max_width) r;
        ELSE
            walks := vectuned_entities._step(walks, type_ids, false, max_width, 0);
        END IF;
        cut := cut OR cardinality(walks) = max_width;
    END LOOP;
    IF cut THEN
        RAISE NOTICE 'a step had more paths than the % that were followed', max_width
            USING HINT = 'Name a start_entity_id, or raise max_width.';
    END IF;
    RETURN QUERY
        SELECT s.entity_id, s.name, t.entity_id, t.name, w.nodes, w.confidence
        FROM unnest(walks) w
        JOIN vectuned_entities.entities s ON s.entity_id = w.nodes[1]
        JOIN vectuned_entities.entities t ON t.entity_id = w.nodes[cardinality(w.nodes)]
        ORDER BY w.confidence DESC, w.nodes LIMIT max_results;
END
$$;
