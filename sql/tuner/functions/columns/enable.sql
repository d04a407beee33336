-- Enabling and disabling columns, and finding the tuned column that an argument names.

-- Starts tuning a vector column, or changes its options; idempotent. An option that is NULL keeps its value; of a column that
-- is not tuned yet it gets its default. max_tail, the highest tolerated share of searches with a recall under 0.8, follows the
-- target until it is given. max_effort (ef_search or probes) and max_ms (mean milliseconds of a search, by its replays) cap what
-- serves, proven or not; without them there is no cap, and 0 lifts one. max_ms is about searches without a filter: those with
-- one are served by the quickest path proven. exact_if_unreachable: where no setting of the index reaches the target, exact
-- search serves, unless it takes more than max_ms; otherwise the best that the index gives.
CREATE OR REPLACE FUNCTION vectuned.enable(
    relation regclass, column_name name, target_recall float8 DEFAULT NULL, sample_rate float8 DEFAULT NULL,
    trajectory_window int DEFAULT NULL, learning_rate float8 DEFAULT NULL, min_samples int DEFAULT NULL,
    store_vectors boolean DEFAULT NULL, max_tail float8 DEFAULT NULL, max_effort int DEFAULT NULL, max_ms float8 DEFAULT NULL,
    exact_if_unreachable boolean DEFAULT NULL)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    properties record;
    known vectuned.tuned_column;
    column_id int;
BEGIN
    IF relation IS NULL OR column_name IS NULL THEN
        RAISE EXCEPTION 'vectuned.enable needs a %, got NULL',
            CASE WHEN relation IS NULL THEN 'relation' ELSE 'column_name' END
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM '[1]'::@extschema@.vector;  -- loads pgvector, which defines hnsw.ef_search and the like
    PERFORM pg_advisory_xact_lock(hashtextextended('vectuned.enable', 0));
    SELECT * INTO properties FROM vectuned._inspect(relation, column_name);
    SELECT t.* INTO known FROM vectuned._stored_columns(relation) t, vectuned._live(t) l
    WHERE l.relation = relation AND l.column_number = properties.column_number;

    target_recall := coalesce(target_recall, known.target_recall, 0.95);
    max_tail := coalesce(max_tail, nullif(known.max_tail, vectuned._default_tail(known.target_recall)),
                         vectuned._default_tail(target_recall));
    sample_rate := coalesce(sample_rate, known.sample_rate, 0.05);
    trajectory_window := coalesce(trajectory_window, known.trajectory_window, 10000);
    learning_rate := coalesce(learning_rate, known.learning_rate, 0.1);
    min_samples := coalesce(min_samples, known.min_samples, 200);
    store_vectors := coalesce(store_vectors, known.store_vectors, true);
    PERFORM vectuned._check_range('max_effort', coalesce(max_effort, 0), 0, 1000000);
    PERFORM vectuned._check_range('max_ms', coalesce(max_ms, 0), 0, 1e9);
    max_effort := nullif(coalesce(max_effort, known.max_effort), 0);
    max_ms := nullif(coalesce(max_ms, known.max_ms), 0);
    exact_if_unreachable := coalesce(exact_if_unreachable, known.exact_if_unreachable, false);
    PERFORM vectuned._check_range('target_recall', target_recall, 0.5, 0.999);
    PERFORM vectuned._check_range('max_tail', max_tail, 0.001, 1);
    PERFORM vectuned._check_range('sample_rate', sample_rate, 0, 1);
    PERFORM vectuned._check_range('trajectory_window', trajectory_window, 100, 10000000);
    PERFORM vectuned._check_range('learning_rate', learning_rate, 0.001, 1);
    PERFORM vectuned._check_range('min_samples', min_samples, 20, 1000000);

    IF known.id IS NULL THEN
        INSERT INTO vectuned.tuned_column AS c (
            relation, relation_schema, relation_name, column_name, column_number, home, vector_type, dimensions, metric,
            key_columns, index_relation, default_ef, target_recall, max_tail, sample_rate, trajectory_window, learning_rate,
            min_samples, store_vectors, max_effort, max_ms, exact_if_unreachable)
        SELECT r.oid, n.nspname, r.relname, column_name, properties.column_number, vectuned._home(), properties.vector_type,
               properties.dimensions, properties.metric, properties.key_columns, coalesce(properties.index_relation, 0),
               current_setting('hnsw.ef_search')::int, target_recall, max_tail, sample_rate, trajectory_window, learning_rate,
               min_samples, store_vectors, max_effort, max_ms, exact_if_unreachable
        FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace WHERE r.oid = relation
        RETURNING c.id INTO column_id;
    ELSE
        column_id := known.id;
        PERFORM vectuned._follow_column(column_id);
        UPDATE vectuned.tuned_column c SET
            metric = properties.metric, index_relation = coalesce(properties.index_relation, 0), target_recall = target_recall,
            max_tail = max_tail, sample_rate = sample_rate, trajectory_window = trajectory_window,
            learning_rate = learning_rate, min_samples = min_samples, store_vectors = store_vectors,
            max_effort = max_effort, max_ms = max_ms, exact_if_unreachable = exact_if_unreachable, enabled = true
        WHERE c.id = column_id;
    END IF;

    IF NOT store_vectors THEN
        UPDATE vectuned.trajectory t SET query = NULL, condition = NULL
        WHERE t.column_id = column_id AND t.replayed_at IS NOT NULL;
        UPDATE vectuned.text_call t SET text = NULL, parameters = NULL
        WHERE t.column_id = column_id AND t.replayed_at IS NOT NULL;
        DELETE FROM vectuned.condition_share s WHERE s.column_id = column_id;
        PERFORM vectuned._redact_inbox();
    END IF;
    PERFORM vectuned._refresh_statistics(column_id);
    PERFORM vectuned._refresh_indexes(column_id);
    PERFORM vectuned._generate(column_id);
    PERFORM vectuned._generate_dispatch(ARRAY[relation, known.relation]);
    INSERT INTO vectuned.event (column_id, action, details)
    VALUES (column_id, 'enable', jsonb_build_object('target_recall', target_recall, 'max_tail', max_tail,
                                                    'sample_rate', sample_rate));
    PERFORM pg_notify('vectuned', jsonb_build_object('action', 'enable', 'column_id', column_id)::text);
    PERFORM vectuned._wake();
    IF vectuned._unreadable(relation) IS NOT NULL THEN
        RAISE NOTICE '%', vectuned._unreadable(relation);
    END IF;
    IF vectuned._policy_note(relation) IS NOT NULL THEN
        RAISE NOTICE '%', vectuned._policy_note(relation);
    END IF;
    PERFORM vectuned._say_out_of_reach(column_id);
    RETURN format('tuning %s.%I: %s, %s dimensions, %s, row id %s, target recall %s, sample rate %s%s',
                  relation, column_name, properties.metric, properties.dimensions, vectuned._describe_indexes(column_id),
                  array_to_string(properties.key_columns, ', '), target_recall, sample_rate,
                  CASE WHEN store_vectors THEN '' ELSE ', query vectors are not kept' END);
END
$$;

-- The main index of a column in the words of `enable`; if there is none over all rows, the partial indexes.
CREATE OR REPLACE FUNCTION vectuned._describe_indexes(p_column_id int) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN c.index_relation <> 0 THEN format('index %s', c.index_relation::regclass)
                ELSE format('no index over all rows, so that searches without a filter are exact; for filters the partial indexes %s',
                            (SELECT string_agg(i.index_relation::regclass::text, ', ' ORDER BY i.index_no)
                             FROM vectuned.tuned_index i WHERE i.column_id = c.id)) END
    FROM vectuned.tuned_column c WHERE c.id = p_column_id
$$;

-- Says in a notice for which searches no setting of the index reaches the target, what serves them, and what exact search takes.
CREATE OR REPLACE FUNCTION vectuned._say_out_of_reach(p_column_id int) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    b vectuned.bank;
BEGIN
    FOR b IN SELECT * FROM vectuned.bank t WHERE t.column_id = p_column_id AND t.exact_ms IS NOT NULL ORDER BY t.k_class LOOP
        RAISE NOTICE 'searches for up to % rows: %', b.k_class, b.reason;
    END LOOP;
END
$$;

-- The default of max_tail: with HNSW at one fixed effort the share of searches with a recall under 0.8 was measured at 1.0 to
-- 1.3 times 1 - target_recall for k = 10, and up to 2.4 for k = 3.
CREATE OR REPLACE FUNCTION vectuned._default_tail(target_recall float8) RETURNS float8
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
RETURN least(1, round((2.5 * (1 - target_recall))::numeric, 6));

-- Stops recording and learning. Searches continue with the column's default effort. Trajectories and replays are kept, so
-- that `enable` can learn from them again; with forget, everything about the column is deleted.
CREATE OR REPLACE FUNCTION vectuned.disable(relation regclass, column_name name, forget boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    c vectuned.tuned_column;
BEGIN
    IF column_name IS NULL OR forget IS NULL THEN
        RAISE EXCEPTION 'vectuned.disable needs a %, got NULL',
            CASE WHEN column_name IS NULL THEN 'column_name' ELSE 'forget of true or false' END
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    PERFORM '[1]'::@extschema@.vector;
    PERFORM pg_advisory_xact_lock(hashtextextended('vectuned.enable', 0));
    c := vectuned._tuned_column(relation, column_name);
    IF forget THEN
        PERFORM vectuned._forget_column(c.id);
    ELSE
        UPDATE vectuned.tuned_column t SET enabled = false, alert = false WHERE t.id = c.id;
        -- A vector is deleted after its replay; as no more replays come, delete the waiting ones now.
        IF NOT c.store_vectors THEN
            DELETE FROM vectuned.inbox i WHERE i.column_id = c.id;
            UPDATE vectuned.trajectory t SET query = NULL, condition = NULL, replayed_at = now()
            WHERE t.column_id = c.id AND t.replayed_at IS NULL;
            DELETE FROM vectuned.condition_share s WHERE s.column_id = c.id;
            UPDATE vectuned.text_call t SET text = NULL, parameters = NULL, replayed_at = now()
            WHERE t.column_id = c.id AND t.replayed_at IS NULL;
        END IF;
        DELETE FROM vectuned.promise p WHERE p.column_id = c.id;
        DELETE FROM vectuned.bank b WHERE b.column_id = c.id;
        DELETE FROM vectuned.measured_path p WHERE p.column_id = c.id;
        DELETE FROM vectuned.imported m WHERE m.column_id = c.id;
        UPDATE vectuned.statement s
        SET settings = NULL, by_share = NULL, published_at = NULL, expected_recall = NULL, recall_bound = NULL, certified = false, figures = NULL
        WHERE s.column_id = c.id;
        PERFORM vectuned._follow_column(c.id);
        IF vectuned._missing_part(c) IS NULL THEN
            PERFORM vectuned._generate(c.id);
        END IF;
        INSERT INTO vectuned.event (column_id, action) VALUES (c.id, 'disable');
    END IF;
    PERFORM vectuned._generate_dispatch(ARRAY[relation, c.relation]);
    PERFORM pg_notify('vectuned', jsonb_build_object('action', 'disable', 'column_id', c.id)::text);
END
$$;

-- Why the daemon's role cannot read all of a table, with the statement that grants it; NULL if it can, or if the role is
-- not installed. p_role: the daemon's role, by default the one that `vectuned migrate --roles` creates.
CREATE OR REPLACE FUNCTION vectuned._unreadable(p_relation regclass, p_role name DEFAULT NULL) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN NOT has_schema_privilege(d.oid, n.oid, 'USAGE')
            THEN format('the role %s may not use the schema %s: GRANT USAGE ON SCHEMA %3$I TO %1$I',
                        d.rolname, n.nspname, n.nspname)
        WHEN NOT has_table_privilege(d.oid, r.oid, 'SELECT')
            THEN format('the role %1$s may not read %2$s: GRANT SELECT ON %2$s TO %1$I', d.rolname, t.name)
        WHEN r.relrowsecurity AND NOT d.rolsuper AND NOT d.rolbypassrls
             AND (r.relforcerowsecurity OR NOT pg_has_role(d.oid, r.relowner, 'USAGE'))
             AND NOT coalesce((
                 SELECT bool_or(p.polpermissive AND e.every) AND bool_and(p.polpermissive OR e.every)
                 FROM pg_policy p
                 CROSS JOIN LATERAL (SELECT pg_get_expr(p.polqual, p.polrelid) = 'true' AS every) e
                 WHERE p.polrelid = r.oid AND p.polcmd IN ('r', '*')
                   AND EXISTS (SELECT FROM unnest(p.polroles) o WHERE o = 0 OR pg_has_role(d.oid, o, 'USAGE'))), false)
            THEN format('policies hide rows of %2$s from the role %1$s, and exact answers need all of them: '
                        'CREATE POLICY vectuned ON %2$s FOR SELECT TO %1$I USING (true)', d.rolname, t.name) END
    FROM pg_class r
    JOIN pg_namespace n ON n.oid = r.relnamespace
    JOIN pg_roles d ON d.rolname = coalesce(p_role, 'vectuned_daemon')
    CROSS JOIN LATERAL (SELECT format('%I.%I', n.nspname, r.relname) AS name) t
    WHERE r.oid = p_relation AND (p_role IS NOT NULL OR has_table_privilege(d.oid, 'vectuned.inbox', 'DELETE'))
$$;

-- Says that policies keep searches from being recorded; NULL if the table has none. What a policy hides depends on the
-- caller, so a replay would compare such an answer with another one.
CREATE OR REPLACE FUNCTION vectuned._policy_note(p_relation regclass) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('nothing is learned from searches by roles under the row level security of %s (%s): they are answered, '
                  'but not recorded', p_relation, CASE (SELECT count(*) FROM pg_policy p WHERE p.polrelid = p_relation)
                  WHEN 0 THEN 'no policies' WHEN 1 THEN '1 policy'
                  ELSE (SELECT count(*) FROM pg_policy p WHERE p.polrelid = p_relation) || ' policies' END)
    FROM pg_class r WHERE r.oid = p_relation AND r.relrowsecurity
$$;

-- Raises an error if an argument is NULL, NaN or out of range.
CREATE OR REPLACE FUNCTION vectuned._check_range(name text, value float8, low float8, high float8) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF value IS NULL OR value <> value OR value < low OR value > high THEN
        RAISE EXCEPTION '% must be between % and %, got %', name, low, high, coalesce(value::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
END
$$;

-- Looks up a vector column in the catalogs. Raises an error that says why a column cannot be tuned. index_relation is NULL if
-- there are only partial indexes. These serve the filters that imply their predicates; all other searches are exact.
CREATE OR REPLACE FUNCTION vectuned._inspect(
    p_relation regclass, p_column name,
    OUT vector_type text, OUT dimensions int, OUT metric text, OUT key_columns name[], OUT index_relation regclass,
    OUT column_number smallint)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    class pg_class;
    attribute pg_attribute;
    advice record;
    unusable text;
BEGIN
    SELECT * INTO class FROM pg_class c WHERE c.oid = p_relation;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no relation with the oid %', p_relation USING ERRCODE = 'undefined_table';
    END IF;
    IF class.relkind NOT IN ('r', 'p') OR class.relpersistence = 't' THEN
        RAISE EXCEPTION '% is %; vectuned tunes columns of tables', p_relation,
            CASE class.relkind WHEN 'r' THEN 'a temporary table' WHEN 'v' THEN 'a view' WHEN 'm' THEN 'a materialized view'
                               WHEN 'f' THEN 'a foreign table' WHEN 'i' THEN 'an index' WHEN 'I' THEN 'an index'
                               WHEN 'S' THEN 'a sequence' ELSE 'a relation of another kind' END
            USING ERRCODE = 'wrong_object_type';
    END IF;
    SELECT * INTO attribute FROM pg_attribute a
    WHERE a.attrelid = p_relation AND a.attname = p_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'column "%" of % does not exist', p_column, p_relation USING ERRCODE = 'undefined_column';
    END IF;
    vector_type := CASE attribute.atttypid WHEN '@extschema@.vector'::regtype THEN 'vector'
                                           WHEN '@extschema@.halfvec'::regtype THEN 'halfvec' END;
    IF vector_type IS NULL THEN
        RAISE EXCEPTION 'column "%" of % is of type %; vectuned tunes columns of type vector and halfvec',
            p_column, p_relation, format_type(attribute.atttypid, attribute.atttypmod)
            USING ERRCODE = 'wrong_object_type';
    END IF;
    PERFORM vectuned._refuse_foreign_partitions(p_relation, p_column);
    dimensions := vectuned._column_dimensions(p_relation, p_column);
    column_number := attribute.attnum;

    -- A column that is tuned already keeps its metric as long as that has an index.
    SELECT CASE WHEN v.requires IS NULL THEN v.index_relation::regclass END, coalesce(v.metric, c.metric, 'cosine')
    INTO index_relation, metric
    FROM vectuned._vector_indexes(p_relation, p_column)
        WITH ORDINALITY AS v (index_relation, method, form, metric, marker, requires, lists, place)
    LEFT JOIN LATERAL (SELECT l.metric FROM vectuned._stored_columns(p_relation) t, vectuned._live(t) l
                       WHERE l.relation = p_relation AND l.column_number = attribute.attnum) c ON true
    ORDER BY v.requires IS NOT NULL, coalesce(v.metric <> c.metric, false), v.place LIMIT 1;
    IF NOT FOUND THEN
        SELECT * INTO advice FROM vectuned._index_advice(p_relation, attribute);
        RAISE EXCEPTION 'column "%" of % has no valid HNSW or IVFFlat index over all its rows', p_column, p_relation
            USING ERRCODE = 'undefined_object', DETAIL = coalesce(advice.why, ''), HINT = coalesce(advice.statement, '');
    END IF;

    SELECT k.names, k.unusable INTO key_columns, unusable FROM vectuned._key_columns(p_relation) k;
    IF key_columns IS NULL THEN
        RAISE EXCEPTION '% has no primary key, so vectuned.search could not say which rows it found', p_relation
            USING ERRCODE = 'undefined_object',
                  HINT = format('ALTER TABLE %s ADD PRIMARY KEY %s', p_relation, coalesce(
                      -- Columns with a unique index that are not null.
                      (SELECT '(' || (SELECT string_agg(quote_ident(t.attname), ', ' ORDER BY k.place)
                                      FROM unnest(x.indkey::int2[]) WITH ORDINALITY k (attnum, place)
                                      JOIN pg_attribute t ON t.attrelid = x.indrelid AND t.attnum = k.attnum
                                      WHERE k.place <= x.indnkeyatts) || ')'
                       FROM pg_index x
                       WHERE x.indrelid = p_relation AND x.indisunique AND x.indisvalid AND x.indpred IS NULL
                         AND NOT EXISTS (
                             SELECT FROM unnest(x.indkey::int2[]) k (attnum)
                             LEFT JOIN pg_attribute t ON t.attrelid = x.indrelid AND t.attnum = k.attnum
                             WHERE t.attnotnull IS NOT TRUE)
                       ORDER BY x.indexrelid LIMIT 1), '(...), over columns that are unique'));
    END IF;
    IF unusable IS NOT NULL THEN
        RAISE EXCEPTION 'the primary key of % has the column %, which vectuned cannot return as a row id',
            p_relation, unusable
            USING ERRCODE = 'feature_not_supported',
                  HINT = 'Keys may be smallint, int, bigint, uuid, text, varchar, and composites of these.';
    END IF;
END
$$;

-- Raises an error for a table with partitions on other servers. An index of such a table would leave those partitions out, and
-- PostgreSQL allows no primary key on it. Each partition is tuned on its own server.
CREATE OR REPLACE FUNCTION vectuned._refuse_foreign_partitions(p_relation regclass, p_column name) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    elsewhere text;
    here boolean;
BEGIN
    SELECT string_agg(format('%s on server %I', c.oid::regclass, s.srvname), ', ' ORDER BY c.oid::regclass::text)
               FILTER (WHERE c.relkind = 'f'), bool_or(c.relkind = 'r')
    INTO elsewhere, here
    FROM pg_partition_tree(p_relation) t
    JOIN pg_class c ON c.oid = t.relid
    LEFT JOIN (pg_foreign_table f JOIN pg_foreign_server s ON s.oid = f.ftserver) ON f.ftrelid = c.oid
    WHERE t.isleaf;
    IF elsewhere IS NOT NULL THEN
        RAISE EXCEPTION '% has partitions on other servers, and each is tuned on its own server', p_relation
            USING ERRCODE = 'feature_not_supported', DETAIL = format('These are %s. Call vectuned.enable there.', elsewhere),
                  HINT = CASE WHEN here THEN format(
                      'SELECT vectuned.enable(t.relid, %L) FROM pg_partition_tree(%L) t JOIN pg_class c ON c.oid = t.relid '
                      'WHERE t.isleaf AND c.relkind = ''r''', p_column, p_relation::text) ELSE '' END;
    END IF;
END
$$;

-- Why a column has no index that vectuned can use, and the statement that helps; NULL where there is none.
CREATE OR REPLACE FUNCTION vectuned._index_advice(p_relation regclass, attribute pg_attribute, OUT why text, OUT statement text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    type_name constant text := (SELECT y.typname FROM pg_type y WHERE y.oid = attribute.atttypid);
    found record;
    width int := nullif(attribute.atttypmod, -1);
    mixed boolean;
    metric text := 'cosine';
BEGIN
    -- The index that comes closest: an invalid one, a partial one, one of another kind.
    SELECT r.oid::regclass AS name, x.indisvalid AND x.indisready AS valid, x.indpred IS NOT NULL AS partial, x.indkey[0] = 0 AS expression,
           o.opcname, pg_get_indexdef(x.indexrelid, 1, false) AS definition
    INTO found
    FROM pg_index x JOIN pg_class r ON r.oid = x.indexrelid JOIN pg_am m ON m.oid = r.relam AND m.amname IN ('hnsw', 'ivfflat')
    JOIN pg_opclass o ON o.oid = x.indclass[0]
    WHERE x.indrelid = p_relation AND (x.indkey[0] = attribute.attnum OR EXISTS (
        SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = x.indexrelid
          AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p_relation AND d.refobjsubid = attribute.attnum))
    ORDER BY o.opcname !~ '_(cosine|l2|ip|hamming)_ops$', x.indkey[0] = 0, x.indisvalid, x.indpred IS NOT NULL, r.oid LIMIT 1;
    metric := coalesce(substring(found.opcname FROM '_(cosine|l2|ip)_ops$'), metric);

    IF width IS NULL THEN
        why := 'The column has no number of dimensions, and no index over all rows is on its cast to one.';
        width := substring(found.definition FROM '::[^()]*vec(?:tor)?\((\d+)\)');
        IF width IS NULL THEN
            EXECUTE format('SELECT @extschema@.vector_dims(t.%1$I) FROM %2$s t WHERE t.%1$I IS NOT NULL LIMIT 1',
                           attribute.attname, p_relation) INTO width;
        END IF;
        EXECUTE format('SELECT EXISTS (SELECT FROM %s t WHERE @extschema@.vector_dims(t.%I) <> $1)', p_relation, attribute.attname)
        INTO mixed USING width;
        IF width IS NULL THEN
            why := why || ' Declare it as ' || type_name || '(n); as it holds no vectors, n is not known here.';
        ELSIF mixed THEN
            why := why || ' Its vectors have different numbers of dimensions: keep those of each number in a column of their own.';
        ELSE
            statement := format('ALTER TABLE %s ALTER COLUMN %I TYPE @extschema@.%I(%s)', p_relation, attribute.attname, type_name, width);
        END IF;
        RETURN;
    END IF;
    IF found.opcname ~ '_(l1|jaccard)_ops$' THEN
        why := format('The index %s is for %s distance, which vectuned does not tune: it tunes cosine and L2 distance and inner product.',
                      found.name, upper(substring(found.opcname FROM '_(l1|jaccard)_ops$')));
        RETURN;
    ELSIF NOT found.valid AND NOT found.partial THEN
        why := format('The index %s is invalid: a build that was cut off left it behind.', found.name);
        statement := format('REINDEX INDEX CONCURRENTLY %s', found.name);
        RETURN;
    ELSIF found.partial THEN
        why := format('vectuned cannot tell which filters imply the predicate of its partial index %s, as it can for a predicate '
                      'of equalities; so the column needs an index over all rows.', found.name);
    ELSIF found.expression THEN
        why := format('The index %s is over an expression that does not stand for the whole column.', found.name);
    ELSIF found.name IS NOT NULL THEN
        why := format('The index %s cannot be used for it.', found.name);
    END IF;
    -- pgvector indexes at most 2,000 dimensions of vector, 4,000 of halfvec and 64,000 bits.
    statement := format('CREATE INDEX ON %s USING hnsw (%s)', p_relation, CASE
        WHEN width <= 2000 OR type_name = 'halfvec' AND width <= 4000
            THEN format('%I @extschema@.%s_%s_ops', attribute.attname, type_name, metric)
        WHEN width <= 4000
            THEN format('(%I::@extschema@.halfvec(%s)) @extschema@.halfvec_%s_ops', attribute.attname, width, metric)
        ELSE format('(@extschema@.binary_quantize(%I)::bit(%s)) @extschema@.bit_hamming_ops', attribute.attname, width) END);
END
$$;

-- The tuned column of a relation, as the catalogs describe it now. The column name may be NULL if the relation has only one
-- tuned column. A table that replaced a tuned one under its name counts as that.
CREATE OR REPLACE FUNCTION vectuned._tuned_column(p_relation regclass, p_column name DEFAULT NULL)
RETURNS vectuned.tuned_column
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    matches vectuned.tuned_column[];
BEGIN
    IF p_relation IS NULL THEN
        RAISE EXCEPTION 'the relation is NULL' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    SELECT array_agg(l ORDER BY l.column_number IS NULL, l.id) INTO matches
    FROM vectuned._stored_columns(p_relation) c
    CROSS JOIN LATERAL vectuned._live(c) l
    WHERE p_column IS NULL OR l.column_name = p_column;
    -- A column that is there comes before a missing one of the same name.
    IF matches[1].column_number IS NOT NULL THEN
        SELECT array_agg(m) INTO matches FROM unnest(matches) m WHERE m.column_number IS NOT NULL;
    END IF;
    IF matches IS NULL THEN
        IF p_column IS NOT NULL AND NOT EXISTS (
            SELECT FROM pg_attribute a WHERE a.attrelid = p_relation AND a.attname = p_column AND NOT a.attisdropped)
        THEN
            RAISE EXCEPTION 'column "%" of % does not exist', p_column, p_relation USING ERRCODE = 'undefined_column';
        END IF;
        RAISE EXCEPTION '%has no column that vectuned tunes',
            p_relation || ' ' || coalesce('(asked for "' || p_column || '") ', '')
            USING ERRCODE = 'undefined_object',
                  HINT = coalesce((
                      SELECT format('SELECT vectuned.enable(%L, %L)', p_relation::text, a.attname) FROM pg_attribute a
                      WHERE a.attrelid = p_relation AND NOT a.attisdropped AND a.attname = coalesce(p_column, a.attname)
                        AND a.atttypid IN ('@extschema@.vector'::regtype, '@extschema@.halfvec'::regtype)
                      ORDER BY a.attnum LIMIT 1), 'It has no vector column.');
    END IF;
    IF cardinality(matches) > 1 THEN
        RAISE EXCEPTION '% has % tuned columns; say which one by column_name', p_relation, cardinality(matches)
            USING ERRCODE = 'ambiguous_column';
    END IF;
    RETURN matches[1];
END
$$;
