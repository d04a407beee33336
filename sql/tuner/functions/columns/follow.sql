-- Following a tuned column: its table and columns may be renamed, moved, altered, dropped, or replaced by others of the same
-- name. Searches look the present names up when the generated functions no longer fit; a refresh makes these fit again.

-- Identifies this server and database: a restored copy has another one.
CREATE OR REPLACE FUNCTION vectuned._home() RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    database constant oid := (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
BEGIN
    RETURN (SELECT s.system_identifier FROM pg_control_system() s) || '/' || database;
EXCEPTION WHEN insufficient_privilege THEN
    RETURN database::text;
END
$$;

-- The columns of a table's primary key; unusable names those whose types a row id cannot have.
CREATE OR REPLACE FUNCTION vectuned._key_columns(p_relation oid, OUT names name[], OUT unusable text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(a.attname ORDER BY u.place),
           string_agg(format('"%s" of type %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ')
               FILTER (WHERE a.atttypid NOT IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype, 'uuid'::regtype,
                                                'text'::regtype, 'varchar'::regtype))
    FROM pg_index x
    CROSS JOIN unnest(x.indkey::int2[]) WITH ORDINALITY AS u (attnum, place)
    JOIN pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = u.attnum
    WHERE x.indrelid = p_relation AND x.indisprimary AND u.place <= x.indnkeyatts
$$;

-- A tuned column as the catalogs describe it now. It follows the table by its oid and the column by its number, and those
-- that are gone or were restored from a dump, which may number columns differently, by name. NULL if missing: relation_name
-- for the table, column_number for the column, vector_type if it is no vector column any more, key_columns for the row id.
CREATE OR REPLACE FUNCTION vectuned._live(c vectuned.tuned_column) RETURNS vectuned.tuned_column
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r record;
    a record;
    names name[];
    same_table boolean;
BEGIN
    SELECT o.oid, n.nspname, o.relname INTO r
    FROM pg_class o JOIN pg_namespace n ON n.oid = o.relnamespace WHERE o.oid = c.relation;
    same_table := FOUND;
    IF NOT FOUND THEN
        SELECT o.oid, n.nspname, o.relname INTO r
        FROM pg_class o JOIN pg_namespace n ON n.oid = o.relnamespace
        WHERE n.nspname = c.relation_schema AND o.relname = c.relation_name AND o.relkind IN ('r', 'p')
          AND NOT EXISTS (SELECT FROM vectuned.tuned_column t WHERE t.relation = o.oid);
    END IF;
    IF NOT FOUND THEN
        c.relation_name := NULL;
        c.column_number := NULL;
        RETURN c;
    END IF;
    c.relation := r.oid;
    c.relation_schema := r.nspname;
    c.relation_name := r.relname;

    SELECT t.attname, t.attnum, t.atttypid, t.atttypmod INTO a FROM pg_attribute t
    WHERE t.attrelid = r.oid AND t.attnum = c.column_number AND NOT t.attisdropped AND same_table;
    IF NOT FOUND OR a.attname <> c.column_name AND c.home IS DISTINCT FROM vectuned._home() THEN
        SELECT t.attname, t.attnum, t.atttypid, t.atttypmod INTO a FROM pg_attribute t
        WHERE t.attrelid = r.oid AND t.attname = c.column_name AND t.attnum > 0 AND NOT t.attisdropped
          AND NOT EXISTS (SELECT FROM vectuned.tuned_column o
                          WHERE o.relation = r.oid AND o.column_number = t.attnum AND o.id <> c.id
                            AND o.home = vectuned._home());
    END IF;
    c.column_number := a.attnum;
    c.column_name := coalesce(a.attname, c.column_name);
    c.vector_type := CASE a.atttypid WHEN '@extschema@.vector'::regtype THEN 'vector' WHEN '@extschema@.halfvec'::regtype THEN 'halfvec' END;
    -- Where the type says none, an index over the cast did; without it, searches go on exactly.
    c.dimensions := coalesce(vectuned._column_dimensions(r.oid, a.attname), c.dimensions);
    SELECT k.names INTO names FROM vectuned._key_columns(r.oid) k WHERE k.unusable IS NULL;
    IF names IS NOT NULL THEN
        c.key_columns := names;
    ELSIF EXISTS (SELECT FROM unnest(c.key_columns) u (name)
                  WHERE NOT EXISTS (SELECT FROM pg_attribute t
                                    WHERE t.attrelid = r.oid AND t.attname = u.name AND NOT t.attisdropped)) THEN
        c.key_columns := NULL;
    END IF;
    RETURN c;
END
$$;

-- The tuned columns that may be of a table: those of its oid, and those of its name whose own table is gone. Few, so that
-- vectuned._live has not to look at every tuned column.
CREATE OR REPLACE FUNCTION vectuned._stored_columns(p_relation oid) RETURNS SETOF vectuned.tuned_column
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.* FROM vectuned.tuned_column t WHERE t.relation = p_relation
    UNION ALL
    SELECT t.* FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace
    JOIN vectuned.tuned_column t ON (t.relation_schema, t.relation_name) = (n.nspname, r.relname)
    WHERE r.oid = p_relation AND NOT EXISTS (SELECT FROM pg_class o WHERE o.oid = t.relation)
$$;

-- Why a column cannot be searched, as vectuned._live describes it; NULL if it can.
CREATE OR REPLACE FUNCTION vectuned._missing_part(live vectuned.tuned_column) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN live.relation_name IS NULL THEN 'table missing'
            WHEN live.column_number IS NULL THEN 'column missing'
            WHEN live.vector_type IS NULL THEN 'the column is not of type vector or halfvec'
            WHEN live.key_columns IS NULL THEN 'the primary key is missing' END;

-- What has changed since the generated functions of a column were made, in a word: the state that `status` shows, and a
-- refresh ends. NULL if they fit.
CREATE OR REPLACE FUNCTION vectuned._outdated(stored vectuned.tuned_column, live vectuned.tuned_column) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE WHEN stored.relation <> live.relation THEN 'table replaced'
            WHEN (stored.relation_schema, stored.relation_name) <> (live.relation_schema, live.relation_name) THEN 'table renamed'
            WHEN stored.column_name <> live.column_name THEN 'column renamed'
            WHEN stored.column_number <> live.column_number THEN 'column replaced'
            WHEN (stored.vector_type, stored.dimensions) <> (live.vector_type, live.dimensions) THEN 'type of the column changed'
            WHEN stored.key_columns <> live.key_columns THEN 'primary key changed'
            WHEN to_regproc('vectuned._search_' || stored.id) IS NULL THEN 'search functions missing' END;

-- Brings the row of a tuned column up to date with the catalogs. Returns whether anything changed. It runs with the owner's
-- rights, so that the daemon follows a table without the right to point a tuned column to any other.
CREATE OR REPLACE FUNCTION vectuned._follow_column(p_column_id int) RETURNS boolean
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stored vectuned.tuned_column;
    live vectuned.tuned_column;
    missing text;
    change text;
BEGIN
    SELECT * INTO STRICT stored FROM vectuned.tuned_column t WHERE t.id = p_column_id;
    live := vectuned._live(stored);
    missing := vectuned._missing_part(live);
    IF missing IS NOT NULL THEN
        UPDATE vectuned.tuned_column t SET missing_since = now() WHERE t.id = stored.id AND t.missing_since IS NULL;
        IF FOUND THEN
            INSERT INTO vectuned.event (column_id, action, details)
            VALUES (stored.id, 'missing', jsonb_build_object('why', missing));
        END IF;
        RETURN FOUND;
    END IF;
    live.home := vectuned._home();
    live.missing_since := NULL;
    IF live IS NOT DISTINCT FROM stored THEN
        RETURN false;
    END IF;
    UPDATE vectuned.tuned_column t
    SET relation = live.relation, relation_schema = live.relation_schema, relation_name = live.relation_name,
        column_name = live.column_name, column_number = live.column_number, vector_type = live.vector_type,
        dimensions = live.dimensions, key_columns = live.key_columns, home = live.home, missing_since = NULL
    WHERE t.id = stored.id;
    IF stored.dimensions <> live.dimensions THEN
        -- Recorded searches have vectors of another length, which cannot be searched for any more.
        DELETE FROM vectuned.inbox i WHERE i.column_id = stored.id;
        UPDATE vectuned.trajectory t SET query = NULL, condition = NULL, replayed_at = coalesce(t.replayed_at, now())
        WHERE t.column_id = stored.id AND t.query IS NOT NULL;
        DELETE FROM vectuned.text_call t WHERE t.column_id = stored.id;
    END IF;
    change := vectuned._outdated(stored, live);
    IF change IS NOT NULL THEN
        INSERT INTO vectuned.event (column_id, action, details)
        VALUES (stored.id, 'followed', jsonb_build_object('why', change,
            'column', format('%I.%I.%I', live.relation_schema, live.relation_name, live.column_name)));
    END IF;
    RETURN true;
END
$$;

-- Updates what is known of a column, its indexes and its statistics, and generates its search functions again if they no
-- longer fit, or with p_generate anyway. Returns whether the column changed, and whether its indexes did.
CREATE OR REPLACE FUNCTION vectuned._update_column(p_column_id int, p_generate boolean, OUT followed boolean, OUT indexes boolean)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM '[1]'::@extschema@.vector;
    PERFORM pg_advisory_xact_lock(hashtextextended('vectuned.enable', 0));
    followed := vectuned._follow_column(p_column_id);
    indexes := false;
    IF EXISTS (SELECT FROM vectuned.tuned_column t WHERE t.id = p_column_id AND t.missing_since IS NOT NULL) THEN
        RETURN;
    END IF;
    PERFORM vectuned._refresh_statistics(p_column_id);
    indexes := vectuned._refresh_indexes(p_column_id);
    IF followed OR indexes OR p_generate THEN
        PERFORM vectuned._generate(p_column_id);
    END IF;
    IF indexes THEN
        INSERT INTO vectuned.event (column_id, action, details)
        SELECT p_column_id, 'indexes', jsonb_build_object('indexes', coalesce(jsonb_agg(i.index_relation::regclass::text
                                                                                        ORDER BY i.index_no), '[]'))
        FROM vectuned.tuned_index i WHERE i.column_id = p_column_id;
    END IF;
END
$$;

-- The same, and the dispatch to the functions; the daemon calls it before it works on a column, and once a minute. Returns
-- whether the column or its indexes changed.
CREATE OR REPLACE FUNCTION vectuned._refresh_column(p_column_id int, p_generate boolean DEFAULT false) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    u record;
    former oid := (SELECT t.relation FROM vectuned.tuned_column t WHERE t.id = p_column_id);
BEGIN
    SELECT * INTO u FROM vectuned._update_column(p_column_id, p_generate);
    IF u.followed OR p_generate THEN
        PERFORM vectuned._generate_dispatch(former || ARRAY(SELECT t.relation::oid FROM vectuned.tuned_column t
                                                            WHERE t.id = p_column_id));
    END IF;
    RETURN u.followed OR u.indexes;
END
$$;

-- Follows the columns whose table or column is missing, and forgets those that have been missing for a day: by then the
-- table is not being replaced or restored. Returns the number of columns changed. It runs with the owner's rights, because
-- the daemon may not delete tuned columns otherwise.
CREATE OR REPLACE FUNCTION vectuned._refresh_missing() RETURNS int
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c vectuned.tuned_column;
    changed int := 0;
BEGIN
    FOR c IN
        SELECT t.* FROM vectuned.tuned_column t
        WHERE t.missing_since IS NOT NULL OR NOT EXISTS (SELECT FROM pg_class r WHERE r.oid = t.relation) ORDER BY t.id
    LOOP
        changed := changed + vectuned._refresh_column(c.id)::int;
        IF EXISTS (SELECT FROM vectuned.tuned_column t, vectuned._live(t) l
                   WHERE t.id = c.id AND t.missing_since < now() - interval '1 day' AND l.column_number IS NULL) THEN
            PERFORM vectuned._forget_column(c.id);
            PERFORM vectuned._generate_dispatch(ARRAY[c.relation]);
        END IF;
    END LOOP;
    RETURN changed;
END
$$;

-- Deletes everything about a column.
CREATE OR REPLACE FUNCTION vectuned._forget_column(p_column_id int) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    DELETE FROM vectuned.tuned_column t WHERE t.id = p_column_id;
    DELETE FROM vectuned.inbox i WHERE i.column_id = p_column_id;
    DELETE FROM vectuned.feedback f WHERE f.column_id = p_column_id;
    PERFORM vectuned._drop_generated(p_column_id);
END
$$;

-- Follows what happened to a table, its vector columns and their indexes, or to one of the columns, without waiting for the
-- daemon, which does the same once a minute. No option of vectuned.enable changes. Returns what serves the columns now.
CREATE OR REPLACE FUNCTION vectuned.refresh(relation regclass, column_name name DEFAULT NULL) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    columns int[];
    number int;
BEGIN
    PERFORM '[1]'::@extschema@.vector;
    PERFORM pg_advisory_xact_lock(hashtextextended('vectuned.enable', 0));
    IF column_name IS NULL THEN
        SELECT array_agg(t.id ORDER BY t.id) INTO columns
        FROM vectuned._stored_columns(relation) t, vectuned._live(t) l WHERE l.relation = relation;
    END IF;
    columns := coalesce(columns, ARRAY[(vectuned._tuned_column(relation, column_name)).id]);
    FOREACH number IN ARRAY columns LOOP
        PERFORM vectuned._refresh_column(number, true);
    END LOOP;
    RETURN (SELECT string_agg(DISTINCT format('%s.%I: %s', s.relation, s.column_name, s.state), '; ')
            FROM vectuned.status s JOIN vectuned.tuned_column t ON t.relation = s.relation AND t.column_name = s.column_name
            WHERE t.id = ANY (columns));
END
$$;
