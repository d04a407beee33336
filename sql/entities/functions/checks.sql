-- Argument checks shared by all functions. They raise SQLSTATE 22023 with a hint for an invalid argument, and P0002 for an
-- entity that does not exist.

-- Raises an error unless an argument is valid; `valid` is false or NULL where it is missing, empty or too long.
CREATE OR REPLACE FUNCTION vectuned_entities._require(argument text, valid boolean, hint text) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF valid IS NOT TRUE THEN
        RAISE EXCEPTION '% is missing or invalid', argument
            USING ERRCODE = 'invalid_parameter_value', HINT = hint;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION vectuned_entities._check_name(argument text, name text, most int, hint text) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned_entities._require(argument, btrim(name) <> '' AND char_length(name) <= most, hint);
END
$$;

CREATE OR REPLACE FUNCTION vectuned_entities._check_range(argument text, value float8, low float8, high float8) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF value IS NULL OR value < low OR value > high THEN
        RAISE EXCEPTION '% must be between % and %, got %', argument, low, high, coalesce(value::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Omit it to use the default, if it has one.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION vectuned_entities._check_choice(argument text, value text, choices text[]) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (value = ANY (choices)) IS NOT TRUE THEN
        RAISE EXCEPTION '% must be one of %, got %', argument, array_to_string(choices, ', '), coalesce(left(value, 100), 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Omit it to use the default, if it has one.';
    END IF;
END
$$;

-- Requires an array of 1 to `most` elements without NULLs. If `optional`, NULL is allowed too.
CREATE OR REPLACE FUNCTION vectuned_entities._check_array(argument text, value anyarray, most int, optional boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF value IS NULL AND optional THEN
        RETURN;
    END IF;
    IF value IS NULL OR array_ndims(value) > 1 OR cardinality(value) NOT BETWEEN 1 AND most OR array_position(value, NULL) IS NOT NULL THEN
        RAISE EXCEPTION '% must be an array of 1 to % values that are not NULL', argument, most
            USING ERRCODE = 'invalid_parameter_value', HINT = 'For example ARRAY[1, 2] or ''{hypernym}''.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION vectuned_entities._check_entity(argument text, id bigint) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned_entities._require(argument, id IS NOT NULL, 'Name the entity by its entity_id.');
    IF NOT EXISTS (SELECT FROM vectuned_entities.entities e WHERE e.entity_id = id AND e.status <> 'pruned') THEN
        RAISE EXCEPTION 'there is no entity %', id
            USING ERRCODE = 'no_data_found', HINT = 'It was never stored, or it was pruned.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION vectuned_entities._check_embedding(argument text, embedding @extschema@.vector, expected int)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned_entities._require(argument, embedding IS NOT NULL, 'Embed the text with the model of the store.');
    IF @extschema@.vector_dims(embedding) <> expected THEN
        RAISE EXCEPTION '% has % dimensions, but those of the store have %', argument, @extschema@.vector_dims(embedding), expected
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Embed the text with the model of the store.';
    END IF;
    IF @extschema@.vector_norm(embedding) = 0 THEN
        RAISE EXCEPTION '% is the zero vector, which has no cosine distance', argument
            USING ERRCODE = 'invalid_parameter_value', HINT = 'The model found nothing to embed in the text.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION vectuned_entities._check_query(query @extschema@.vector) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned_entities._check_embedding('query', query, vectuned_entities._dimensions());
END
$$;

CREATE OR REPLACE FUNCTION vectuned_entities._check_path(argument text, path @ltree@.ltree) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned_entities._require(argument, @ltree@.nlevel(path) > 0, 'For example n00001740.n00001930.');
END
$$;

CREATE OR REPLACE FUNCTION vectuned_entities._check_hierarchy(hierarchy text) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned_entities._require('hierarchy', hierarchy <> '', 'The name of the paths, such as is_a.');
END
$$;

-- The number of dimensions of the vectors in the store.
CREATE OR REPLACE FUNCTION vectuned_entities._dimensions() RETURNS int
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.atttypmod FROM pg_attribute a
    WHERE a.attrelid = 'vectuned_entities.entities'::regclass AND a.attname = 'embedding' AND NOT a.attisdropped
$$;
