-- What every function says of arguments that make no sense: SQLSTATE 22023 and a hint; 'P0002' where there is no such thing.

CREATE OR REPLACE FUNCTION vectuned_entities._check_given(argument text, given boolean, hint text) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF given IS NOT TRUE THEN
        RAISE EXCEPTION '% must be given, and not empty', argument
            USING ERRCODE = 'invalid_parameter_value', HINT = hint;
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION vectuned_entities._check_name(argument text, name text, most int, hint text) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned_entities._check_given(argument, btrim(name) <> '' AND char_length(name) <= most, hint);
END
$$;

CREATE OR REPLACE FUNCTION vectuned_entities._check_range(argument text, value float8, low float8, high float8) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF value IS NULL OR value < low OR value > high THEN
        RAISE EXCEPTION '% must be between % and %, got %', argument, low, high, coalesce(value::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out where it has a default.';
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
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave it out where it has a default.';
    END IF;
END
$$;

-- An array of at most so many elements, none of them NULL; NULL and empty arrays only where they are allowed.
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
    PERFORM vectuned_entities._check_given(argument, id IS NOT NULL, 'Name the entity by its entity_id.');
    IF NOT EXISTS (SELECT FROM vectuned_entities.entities e WHERE e.entity_id = id AND e.status <> 'pruned') THEN
        RAISE EXCEPTION 'there is no entity %', id
            USING ERRCODE = 'no_data_found', HINT = 'It never was, or it was pruned.';
    END IF;
END
$$;

CREATE OR REPLACE FUNCTION vectuned_entities._check_embedding(argument text, embedding @extschema@.vector, expected int)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned_entities._check_given(argument, embedding IS NOT NULL, 'Embed the text with the model of the store.');
    IF @extschema@.vector_dims(embedding) <> expected THEN
        RAISE EXCEPTION '% has % dimensions, those of the store have %', argument, @extschema@.vector_dims(embedding), expected
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Embed the text with the model of the store.';
    END IF;
    IF @extschema@.vector_norm(embedding) = 0 THEN
        RAISE EXCEPTION '% is the zero vector, which has no cosine distance', argument
            USING ERRCODE = 'invalid_parameter_value', HINT = 'The text has nothing to embed.';
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
    PERFORM vectuned_entities._check_given(argument, @ltree@.nlevel(path) > 0, 'For example n00001740.n00001930.');
END
$$;

CREATE OR REPLACE FUNCTION vectuned_entities._check_hierarchy(hierarchy text) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM vectuned_entities._check_given('hierarchy', hierarchy <> '', 'The name of the paths, such as is_a.');
END
$$;

-- The length of the vectors that are searched.
CREATE OR REPLACE FUNCTION vectuned_entities._dimensions() RETURNS int
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.atttypmod FROM pg_attribute a
    WHERE a.attrelid = 'vectuned_entities.entities'::regclass AND a.attname = 'embedding' AND NOT a.attisdropped
$$;
