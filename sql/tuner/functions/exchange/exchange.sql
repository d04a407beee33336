-- Exchange of what was learned about a column, as a JSON document that another database can import. It contains no values of
-- rows or filters and no query vectors: shapes name columns and operators, and the first rows of the table are digests.

-- Exports what was learned about a column in this database. Leaves out what was imported as a prior.
CREATE OR REPLACE FUNCTION vectuned.export_patterns(relation regclass, column_name name DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET extra_float_digits = 1
SET timezone = 'UTC'
SET datestyle = 'ISO'
AS $$
#variable_conflict use_variable
DECLARE
    c vectuned.tuned_column := vectuned._exchange_column(relation, column_name, 'export');
    document jsonb;
BEGIN
    document := jsonb_build_object(
        'format', 'vectuned-patterns', 'version', 1, 'vectuned', '@version@',
        'created_at', to_jsonb(clock_timestamp()), 'ladder', to_jsonb(vectuned._rungs()),
        'confidence', coalesce((SELECT min(p.confidence) FROM vectuned.promise p WHERE p.column_id = c.id), 0.95),
        'provenance', (
            SELECT jsonb_build_object(
                'system', vectuned._system_digest(), 'database', current_database(), 'schema', n.nspname, 'relation', r.relname,
                'column', c.column_name, 'vector_type', c.vector_type, 'dimensions', c.dimensions, 'metric', c.metric,
                'target_recall', c.target_recall, 'max_tail', c.max_tail,
                'rows', round(vectuned._row_estimate(c.relation))::bigint, 'witnesses', vectuned._first_rows(c))
            FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace WHERE r.oid = c.relation),
        'indexes', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                'number', i.index_no, 'main', i.index_relation = c.index_relation, 'method', i.method, 'form', i.form,
                'lists', i.lists, 'generation', vectuned._generation(i.index_relation)::bigint,
                'definition', pg_get_indexdef(i.index_relation),
                'm', vectuned._index_option(i.index_relation, 'm', 16),
                'ef_construction', vectuned._index_option(i.index_relation, 'ef_construction', 64)) ORDER BY i.index_no), '[]')
            FROM vectuned.tuned_index i
            WHERE i.column_id = c.id AND i.requires IS NULL AND vectuned._generation(i.index_relation) IS NOT NULL),
        'classes', (
            SELECT coalesce(jsonb_agg(jsonb_build_object(
                -- Exact search is this table's; elsewhere its index serves, of which nothing is proven.
                'k', b.k_class, 'index', i.index_no, 'access_path', CASE WHEN e.exact THEN i.method ELSE b.access_path END,
                'ef_search', b.ef_search, 'probes', b.probes, 'rungs', b.rungs,
                'expected_recall', CASE WHEN NOT e.exact THEN b.expected_recall END,
                'recall_bound', CASE WHEN e.exact THEN 0 ELSE b.recall_bound END,
                'tail', CASE WHEN NOT e.exact THEN b.tail END, 'tail_bound', CASE WHEN NOT e.exact THEN b.tail_bound END,
                'certified', b.certified AND NOT e.exact, 'samples', b.samples,
                'target_recall', b.target_recall, 'generation', b.generation::bigint, 'probe_ef', b.probe_ef,
                'center', b.center, 'weights', b.weights, 'reach', b.reach, 'saving', b.saving, 'reason', b.reason,
                'published_at', b.published_at, 'patterns', p.patterns) ORDER BY b.k_class), '[]')
            FROM vectuned.bank b
            JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.requires IS NULL
                AND CASE WHEN b.index_no IS NULL THEN i.index_relation = c.index_relation ELSE i.index_no = b.index_no END
            CROSS JOIN LATERAL (SELECT b.access_path = 'exact' AS exact) e
            CROSS JOIN LATERAL (
                SELECT coalesce(jsonb_agg(jsonb_build_object(
                    'centroid', t.centroid::real[], 'effort', t.effort, 'expected_recall', t.expected_recall,
                    'confidence', t.confidence, 'samples', t.samples, 'usage', t.usage, 'chances', t.chances,
                    'recall', t.recall, 'cost', t.cost, 'born', extract(epoch FROM t.created_at)::float8)
                    ORDER BY t.pattern_no), '[]') AS patterns
                FROM vectuned.pattern t WHERE t.column_id = c.id AND t.k_class = b.k_class) p
            LEFT JOIN vectuned.imported m ON m.import_no = b.import_no
            WHERE b.column_id = c.id AND m.proven_here IS NOT FALSE AND vectuned._generation(i.index_relation) IS NOT NULL),
        'paths', (
            SELECT coalesce(jsonb_agg(m.path ORDER BY m.k_class, m.shape COLLATE "C" NULLS FIRST, m.bucket, m.access_path,
                                                      m.index_no, m.effort), '[]')
            FROM (SELECT o.k_class, o.shape, o.bucket, o.access_path, o.index_no, o.effort, jsonb_build_object(
                      'k', o.k_class, 'shape', o.shape, 'bucket', o.bucket, 'access_path', o.access_path,
                      'index', o.index_no, 'effort', o.effort, 'expected_recall', o.expected_recall,
                      'recall_bound', o.recall_bound, 'proven', o.proven, 'ms', o.ms, 'samples', o.samples,
                      'serves', o.serves) AS path
                  FROM vectuned.measured_path o
                  -- Not of partial indexes, which would disclose the values of their predicates.
                  WHERE o.column_id = c.id AND o.requires IS NULL AND o.import_no IS NULL
                    AND (o.index_no IS NULL OR EXISTS (
                        SELECT FROM vectuned.tuned_index i WHERE i.column_id = c.id AND i.index_no = o.index_no
                        AND i.requires IS NULL AND vectuned._generation(i.index_relation) IS NOT NULL))
                  ORDER BY o.serves DESC, o.shape IS NOT NULL, o.k_class LIMIT 20000) m),
        'statements', vectuned._export_statements(c));
    RETURN document || jsonb_build_object('checksum', vectuned._checksum(document));
END
$$;

-- Imports a document and reports the changes; dry_run only reports them. Importing a document twice changes nothing more.
--
-- What was learned on the same index (same server, same generation of the index, same first rows, about as many rows, a
-- target at least as high) is served as it was there. Anything else is a prior: an initial setting, never called proven,
-- with at least the effort that was proven there and at least the default effort.
--
-- Merging is by class of k. What was learned here by replays on the current index stays. A guess without replays is
-- replaced, and so is an earlier import by a document of the same column written later; but a prior never replaces what was
-- imported as proven. Documents of several columns, such as those of replicas or shards, add up: see _combine_sources. The
-- patterns of a class are replaced as a whole, because those of two banks are in different spaces. Paths of filtered
-- searches, by class of k and shape, and statements of applications are replaced by those of a later document of any column.
CREATE OR REPLACE FUNCTION vectuned.import_patterns(
    relation regclass, column_name name, patterns jsonb, dry_run boolean DEFAULT false) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    c vectuned.tuned_column := vectuned._exchange_column(relation, column_name, 'import');
    mapping jsonb;
    resolved record;
    report jsonb;
    changed boolean;
    number bigint;
    new_version int;
BEGIN
    IF patterns IS NULL OR dry_run IS NULL THEN
        RAISE EXCEPTION 'vectuned.import_patterns needs %, got NULL',
            CASE WHEN patterns IS NULL THEN 'a document' ELSE 'a dry_run of true or false' END
            USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF NOT dry_run THEN
        -- Blocks a concurrent publish.
        SELECT * INTO c FROM vectuned.tuned_column t WHERE t.id = c.id FOR NO KEY UPDATE;
    END IF;
    IF c.enabled IS NOT TRUE THEN
        RAISE EXCEPTION '%.% was disabled', c.relation, quote_ident(c.column_name)
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call vectuned.enable first.';
    END IF;
    PERFORM vectuned._check_document(patterns);
    PERFORM vectuned._check_fit(c, patterns);
    PERFORM '[1]'::@extschema@.vector;
    mapping := vectuned._map_indexes(c, patterns);

    SELECT vectuned._resolve_classes(c, patterns, mapping) AS classes, vectuned._resolve_paths(c, patterns, mapping) AS paths,
           vectuned._resolve_statements(c, patterns, mapping) AS statements
    INTO resolved;
    changed := jsonb_path_exists(resolved.classes, '$[*] ? (@.action == "merged")')
            OR jsonb_path_exists(resolved.paths, '$[*] ? (@.action == "merged")')
            OR jsonb_path_exists(resolved.statements, '$[*] ? (@.action == "merged")');
    report := jsonb_build_object(
        'source', vectuned._document_source(patterns), 'created_at', patterns -> 'created_at', 'checksum', patterns -> 'checksum',
        'relation', c.relation::text, 'column', c.column_name,
        'as', CASE WHEN (mapping -> 'same')::boolean THEN 'proven' ELSE 'prior' END, 'why', mapping -> 'why',
        'dry_run', dry_run, 'changed', changed, 'classes', resolved.classes,
        'filters', (SELECT coalesce(jsonb_agg(jsonb_build_object('k', f.k, 'shape', f.shape, 'action', f.action, 'why', f.why,
                                                                 'paths', f.paths) ORDER BY f.k, f.shape COLLATE "C", f.action, f.why), '[]')
                    FROM (SELECT e.value -> 'k' AS k, e.value ->> 'shape' AS shape, e.value ->> 'action' AS action,
                                 e.value ->> 'why' AS why, count(*) AS paths
                          FROM jsonb_array_elements(resolved.paths) e GROUP BY 1, 2, 3, 4) f),
        'statements', (SELECT coalesce(jsonb_agg(jsonb_build_object('action', s.action, 'why', s.why, 'statements', s.statements)
                                                 ORDER BY s.action, s.why), '[]')
                       FROM (SELECT e.value ->> 'action' AS action, e.value ->> 'why' AS why, count(*) AS statements
                             FROM jsonb_array_elements(resolved.statements) e GROUP BY 1, 2) s));
    IF dry_run OR NOT changed THEN
        RETURN report;
    END IF;
    INSERT INTO vectuned.imported (column_id, imported_by, created_at, checksum, source, proven_here, provenance, report)
    VALUES (c.id, vectuned._caller(), (patterns ->> 'created_at')::timestamptz, patterns ->> 'checksum',
            report ->> 'source', (mapping -> 'same')::boolean,
            patterns -> 'provenance' || jsonb_build_object('vectuned', patterns -> 'vectuned', 'indexes', patterns -> 'indexes'),
            report)
    RETURNING import_no INTO number;
    SELECT coalesce(max(b.version), 0) + 1 INTO new_version FROM vectuned.bank b WHERE b.column_id = c.id;
    PERFORM vectuned._merge_classes(c, patterns, mapping, resolved.classes, number, new_version);
    PERFORM vectuned._merge_paths(c, (mapping -> 'same')::boolean, resolved.paths, number);
    PERFORM vectuned._merge_statements(c, patterns, mapping, resolved.statements, number);
    INSERT INTO vectuned.event (column_id, action, details)
    VALUES (c.id, 'import', jsonb_build_object(
        'why', format('imported %s: %s%s', report ->> 'source',
                      coalesce('k ' || (SELECT string_agg(e.value ->> 'k', ', ' ORDER BY (e.value -> 'k')::int)
                                        FROM jsonb_array_elements(resolved.classes) e WHERE e.value ->> 'action' = 'merged'),
                               CASE WHEN jsonb_path_exists(resolved.paths, '$[*] ? (@.action == "merged")')
                                    THEN 'filters' ELSE 'statements' END),
                      CASE WHEN (mapping -> 'same')::boolean THEN '' ELSE ', not proven here' END),
        'import_no', number, 'version', new_version) || (report - 'classes' - 'filters' - 'statements' - 'why'));
    PERFORM pg_notify('vectuned', jsonb_build_object('action', 'import', 'column_id', c.id, 'version', new_version)::text);
    RETURN report;
END
$$;

-- The tuned column; an error if the caller may not export or import for it.
CREATE OR REPLACE FUNCTION vectuned._exchange_column(p_relation regclass, p_column name, p_verb text) RETURNS vectuned.tuned_column
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c vectuned.tuned_column := vectuned._tuned_column(p_relation, p_column);
BEGIN
    -- Roles that may enable columns, and roles that publish, such as the daemon's.
    IF NOT (vectuned._may_tune(p_relation, vectuned._caller())
            OR has_table_privilege(vectuned._caller(), 'vectuned.bank', 'INSERT')) THEN
        RAISE EXCEPTION 'must be owner of % to % what was learned about it', p_relation, p_verb
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM vectuned._fragments(c);  -- raises an error if the table or column no longer exists
    RETURN c;
END
$$;

-- SHA-256 of a document without its checksum, in the text form of jsonb: keys ordered by length, then by bytes.
CREATE OR REPLACE FUNCTION vectuned._checksum(document jsonb) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN 'sha256:' || encode(sha256(convert_to((document - 'checksum')::text, 'UTF8')), 'hex');

-- A digest that identifies this server, without disclosing its system identifier; physical copies have the same. NULL if the
-- role may not read it.
CREATE OR REPLACE FUNCTION vectuned._system_digest() RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN encode(sha256(convert_to('vectuned ' || (SELECT s.system_identifier FROM pg_control_system() s), 'UTF8')), 'hex');
EXCEPTION WHEN insufficient_privilege THEN
    RETURN NULL;
END
$$;

-- Digests of the first hundred rows by key. They distinguish servers cloned from one image, which have all else in common.
CREATE OR REPLACE FUNCTION vectuned._first_rows(c vectuned.tuned_column) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET row_security = off
AS $$
DECLARE
    keys constant text := (SELECT string_agg(format('t.%I', u.name), ', ' ORDER BY u.place)
                           FROM unnest(c.key_columns) WITH ORDINALITY AS u (name, place));
    digests jsonb;
BEGIN
    EXECUTE format(
        'SELECT coalesce(jsonb_agg(n.digest ORDER BY n.digest COLLATE "C"), ''[]'') FROM (SELECT left(encode(sha256(convert_to('
        'jsonb_build_array(%1$s, t.%2$I::text)::text, ''UTF8'')), ''hex''), 16) AS digest FROM %3$s t ORDER BY %1$s LIMIT 100) n',
        keys, c.column_name, (vectuned._fragments(c)).relation) INTO digests;
    RETURN digests;
EXCEPTION WHEN insufficient_privilege THEN
    RETURN '[]';
END
$$;

-- A storage option of an HNSW index, or its default; NULL for other indexes.
CREATE OR REPLACE FUNCTION vectuned._index_option(p_index oid, p_name text, p_default int) RETURNS int
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((SELECT o.option_value::int FROM pg_options_to_table(r.reloptions) o WHERE o.option_name = p_name), p_default)
    FROM pg_class r JOIN pg_am m ON m.oid = r.relam WHERE r.oid = p_index AND m.amname = 'hnsw'
$$;

-- The origin of a document in words: column, database and time.
CREATE OR REPLACE FUNCTION vectuned._document_source(document jsonb) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
    SELECT format('%I.%I.%I of database %I as of %s', p ->> 'schema', p ->> 'relation', p ->> 'column', p ->> 'database',
                  to_char((document ->> 'created_at')::timestamptz, 'YYYY-MM-DD HH24:MI'))
    FROM (SELECT document -> 'provenance' AS p) o
$$;

-- A time in ISO 8601 format; NULL for any other text.
CREATE OR REPLACE FUNCTION vectuned._parse_time(written text) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF written ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)$' THEN
        RETURN written::timestamptz;
    END IF;
    RETURN NULL;
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END
$$;
