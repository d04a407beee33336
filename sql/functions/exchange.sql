-- What was learned of a column, as a document that another database can take over: written, checked, merged.
-- It holds no values of rows or filters and no query vectors: shapes name columns and operators, and what tells the
-- first rows of the table are digests.

-- Writes what was learned of a column here. What was imported as a mere prior is not passed on.
CREATE OR REPLACE FUNCTION vectuned.export_patterns(relation regclass, column_name name DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET extra_float_digits = 1
SET timezone = 'UTC'
SET datestyle = 'ISO'
AS $$
#variable_conflict use_variable
DECLARE
    c vectuned.tuned_column := vectuned._exchanged(relation, column_name, 'export');
    document jsonb;
BEGIN
    document := jsonb_build_object(
        'format', 'vectuned-patterns', 'version', 1, 'vectuned', '@version@',
        'created_at', to_jsonb(clock_timestamp()), 'ladder', to_jsonb(vectuned._rungs()),
        'confidence', coalesce((SELECT min(p.confidence) FROM vectuned.promise p WHERE p.column_id = c.id), 0.95),
        'provenance', (
            SELECT jsonb_build_object(
                'system', vectuned._system(), 'database', current_database(), 'schema', n.nspname, 'relation', r.relname,
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
                'k', b.k_class, 'index', i.index_no, 'access_path', b.access_path, 'ef_search', b.ef_search,
                'probes', b.probes, 'rungs', b.rungs, 'expected_recall', b.expected_recall, 'recall_bound', b.recall_bound,
                'tail', b.tail, 'tail_bound', b.tail_bound, 'certified', b.certified, 'samples', b.samples,
                'target_recall', b.target_recall, 'generation', b.generation::bigint, 'probe_ef', b.probe_ef,
                'center', b.center, 'weights', b.weights, 'reach', b.reach, 'saving', b.saving, 'reason', b.reason,
                'published_at', b.published_at, 'patterns', p.patterns) ORDER BY b.k_class), '[]')
            FROM vectuned.bank b
            JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.requires IS NULL
                AND CASE WHEN b.index_no IS NULL THEN i.index_relation = c.index_relation ELSE i.index_no = b.index_no END
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
                  -- Of a partial index the values of its predicate would have to be told.
                  WHERE o.column_id = c.id AND o.requires IS NULL AND o.import_no IS NULL
                    AND (o.index_no IS NULL OR EXISTS (
                        SELECT FROM vectuned.tuned_index i WHERE i.column_id = c.id AND i.index_no = o.index_no
                        AND i.requires IS NULL AND vectuned._generation(i.index_relation) IS NOT NULL))
                  ORDER BY o.serves DESC, o.shape IS NOT NULL, o.k_class LIMIT 20000) m));
    RETURN document || jsonb_build_object('checksum', vectuned._checksum(document));
END
$$;

-- Takes over what a document says, and reports what that comes to; dry_run only reports. Twice is as good as once.
--
-- What was learned on this very index (same server, same building of the index, the same first rows, about as many
-- rows, a target at least as high) serves as it did there. Anything else is a prior: a setting to begin with, never
-- called proven, with at least the effort that was proven there and at least the default one.
--
-- By class of k: own evidence on the index as it is stays, whatever it says. A guess without replays gives way, and so
-- does an earlier import to a document that was written later; but a prior never takes the place of what was imported
-- as proven. The patterns of a class go with it, all of them: those of two banks lie in different spaces. The same
-- holds for the paths of filtered searches, by class of k and shape.
CREATE OR REPLACE FUNCTION vectuned.import_patterns(
    relation regclass, column_name name, patterns jsonb, dry_run boolean DEFAULT false) RETURNS jsonb
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    c vectuned.tuned_column := vectuned._exchanged(relation, column_name, 'import');
    mapping jsonb;
    settled record;
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
        -- No publish meanwhile.
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

    SELECT vectuned._settle_classes(c, patterns, mapping) AS classes, vectuned._settle_paths(c, patterns, mapping) AS paths
    INTO settled;
    changed := jsonb_path_exists(settled.classes, '$[*] ? (@.action == "merged")')
            OR jsonb_path_exists(settled.paths, '$[*] ? (@.action == "merged")');
    report := jsonb_build_object(
        'source', vectuned._source(patterns), 'created_at', patterns -> 'created_at', 'checksum', patterns -> 'checksum',
        'relation', c.relation::text, 'column', c.column_name,
        'as', CASE WHEN (mapping -> 'same')::boolean THEN 'proven' ELSE 'prior' END, 'why', mapping -> 'why',
        'dry_run', dry_run, 'changed', changed, 'classes', settled.classes,
        'filters', (SELECT coalesce(jsonb_agg(jsonb_build_object('k', f.k, 'shape', f.shape, 'action', f.action, 'why', f.why,
                                                                 'paths', f.paths) ORDER BY f.k, f.shape COLLATE "C", f.action, f.why), '[]')
                    FROM (SELECT e.value -> 'k' AS k, e.value ->> 'shape' AS shape, e.value ->> 'action' AS action,
                                 e.value ->> 'why' AS why, count(*) AS paths
                          FROM jsonb_array_elements(settled.paths) e GROUP BY 1, 2, 3, 4) f));
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
    PERFORM vectuned._merge_classes(c, patterns, mapping, settled.classes, number, new_version);
    PERFORM vectuned._merge_paths(c, (mapping -> 'same')::boolean, settled.paths, number);
    INSERT INTO vectuned.event (column_id, action, details)
    VALUES (c.id, 'import', jsonb_build_object(
        'why', format('took over %s, %s%s', report ->> 'source',
                      coalesce('k ' || (SELECT string_agg(e.value ->> 'k', ', ' ORDER BY (e.value -> 'k')::int)
                                        FROM jsonb_array_elements(settled.classes) e WHERE e.value ->> 'action' = 'merged'),
                               'filters'),
                      CASE WHEN (mapping -> 'same')::boolean THEN '' ELSE ', not proven here' END),
        'import_no', number, 'version', new_version) || (report - 'classes' - 'filters' - 'why'));
    PERFORM pg_notify('vectuned', jsonb_build_object('action', 'import', 'column_id', c.id, 'version', new_version)::text);
    RETURN report;
END
$$;

-- The column that a caller may export or import for.
CREATE OR REPLACE FUNCTION vectuned._exchanged(p_relation regclass, p_column name, p_verb text) RETURNS vectuned.tuned_column
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c vectuned.tuned_column := vectuned._tuned_column(p_relation, p_column);
BEGIN
    -- Those who take columns into care, and those who publish: a daemon.
    IF NOT (vectuned._may_tune(p_relation, vectuned._caller())
            OR has_table_privilege(vectuned._caller(), 'vectuned.bank', 'INSERT')) THEN
        RAISE EXCEPTION 'must be owner of % to % what was learned of it', p_relation, p_verb
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM vectuned._fragments(c);  -- says what is wrong where table or column are gone
    RETURN c;
END
$$;

-- sha256 of a document without its checksum, as PostgreSQL writes it out: keys ordered by length, then by bytes.
CREATE OR REPLACE FUNCTION vectuned._checksum(document jsonb) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN 'sha256:' || encode(sha256(convert_to((document - 'checksum')::text, 'UTF8')), 'hex');

-- What tells this server from others, physical copies excepted, without saying what it is; NULL where that is forbidden.
CREATE OR REPLACE FUNCTION vectuned._system() RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN encode(sha256(convert_to('vectuned ' || (SELECT s.system_identifier FROM pg_control_system() s), 'UTF8')), 'hex');
EXCEPTION WHEN insufficient_privilege THEN
    RETURN NULL;
END
$$;

-- Digests of the first hundred rows by their keys: servers that were made from one image have all else in common.
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

-- An option that an HNSW index was built with; NULL of others.
CREATE OR REPLACE FUNCTION vectuned._index_option(p_index oid, p_name text, p_default int) RETURNS int
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce((SELECT o.option_value::int FROM pg_options_to_table(r.reloptions) o WHERE o.option_name = p_name), p_default)
    FROM pg_class r JOIN pg_am m ON m.oid = r.relam WHERE r.oid = p_index AND m.amname = 'hnsw'
$$;

CREATE OR REPLACE FUNCTION vectuned._source(document jsonb) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET timezone = 'UTC'
AS $$
    SELECT format('%I.%I.%I of database %I as of %s', p ->> 'schema', p ->> 'relation', p ->> 'column', p ->> 'database',
                  to_char((document ->> 'created_at')::timestamptz, 'YYYY-MM-DD HH24:MI'))
    FROM (SELECT document -> 'provenance' AS p) o
$$;

-- NULL for what is no time.
CREATE OR REPLACE FUNCTION vectuned._time(written text) RETURNS timestamptz
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

CREATE OR REPLACE FUNCTION vectuned._refuse(place text, problem text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% %', place, problem
        USING ERRCODE = 'invalid_parameter_value', HINT = 'Nothing was imported. Take a document as vectuned.export_patterns wrote it.';
END
$$;

-- What is wrong with a value by a rule; NULL if nothing is. Rules: is (number, integer, text, boolean, time, array,
-- object, numbers: a list of count numbers), from and to (limits of a number, or of a length), of (all allowed texts),
-- like (an expression that texts match), null (may be null).
CREATE OR REPLACE FUNCTION vectuned._problem(value jsonb, rule jsonb) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kind constant text := rule ->> 'is';
    low constant numeric := rule -> 'from';
    high constant numeric := rule -> 'to';
    fits boolean;
BEGIN
    fits := CASE jsonb_typeof(value)
        WHEN 'null' THEN rule ? 'null'
        WHEN 'number' THEN kind IN ('number', 'integer') AND vectuned._fits(value::numeric, kind, low, high)
        WHEN 'boolean' THEN kind = 'boolean'
        WHEN 'object' THEN kind = 'object'
        WHEN 'string' THEN CASE kind
            WHEN 'time' THEN vectuned._time(value #>> '{}') IS NOT NULL
            WHEN 'text' THEN length(value #>> '{}') BETWEEN low AND high AND (NOT rule ? 'of' OR rule -> 'of' ? (value #>> '{}'))
                             AND (NOT rule ? 'like' OR (value #>> '{}') ~ (rule ->> 'like'))
            ELSE false END
        WHEN 'array' THEN CASE kind
            WHEN 'array' THEN jsonb_array_length(value) <= high
            WHEN 'numbers' THEN jsonb_array_length(value) = (rule -> 'count')::int
                AND (SELECT bool_and(CASE jsonb_typeof(e.value) WHEN 'number'
                                     THEN vectuned._fits(e.value::numeric, coalesce(rule ->> 'each', 'number'), low, high)
                                     ELSE false END) FROM jsonb_array_elements(value) e)
            ELSE false END END;
    IF fits THEN
        RETURN NULL;
    END IF;
    RETURN CASE WHEN value IS NULL THEN 'is missing, it ' ELSE '' END || 'must be '
        || CASE kind
            WHEN 'integer' THEN format('a whole number from %s to %s', low, high)
            WHEN 'number' THEN format('a number from %s to %s', vectuned._brief(low), vectuned._brief(high))
            WHEN 'numbers' THEN format('a list of %s %s from %s to %s', rule ->> 'count',
                                       CASE rule ->> 'each' WHEN 'integer' THEN 'whole numbers' ELSE 'numbers' END,
                                       vectuned._brief(low), vectuned._brief(high))
            WHEN 'boolean' THEN 'true or false'
            WHEN 'time' THEN 'a time such as "2026-11-21T10:00:00Z"'
            WHEN 'array' THEN format('a list of at most %s', high)
            WHEN 'object' THEN 'an object'
            ELSE CASE WHEN rule ? 'of' THEN 'one of ' || (SELECT string_agg(e.value, ', ') FROM jsonb_array_elements_text(rule -> 'of') e)
                      WHEN rule ? 'like' THEN 'a text like ' || (rule ->> 'like')
                      ELSE format('a text of %s to %s characters', low, high) END END
        || CASE WHEN rule ? 'null' THEN ' or null' ELSE '' END
        || CASE WHEN value IS NULL THEN ''
                WHEN jsonb_typeof(value) = 'array' AND kind IN ('array', 'numbers')
                    THEN format(', got a list of %s: %s', jsonb_array_length(value), left(value::text, 60))
                ELSE ', got ' || left(value::text, 60) END;
END
$$;

-- Numbers that a float8 or a real could not hold are as wrong as those out of range.
CREATE OR REPLACE FUNCTION vectuned._fits(n numeric, kind text, low numeric, high numeric) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN n BETWEEN low AND high AND (n = 0 OR abs(n) >= 1e-37) AND (kind <> 'integer' OR n = trunc(n));

CREATE OR REPLACE FUNCTION vectuned._brief(n numeric) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN abs(n) >= 1e6 THEN n::float8::text ELSE n::text END;

-- Checks the members of an object, or of each in a list, by rules; the first that is wrong is an error.
CREATE OR REPLACE FUNCTION vectuned._check_members(place text, members jsonb, rules jsonb) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    wrong record;
BEGIN
    SELECT o.place || p.name AS place, p.problem INTO wrong
    FROM (SELECT CASE jsonb_typeof(members) WHEN 'array' THEN format('%s[%s]', place, e.number - 1) ELSE place END AS place,
                 e.value, e.number
          FROM jsonb_array_elements(CASE jsonb_typeof(members) WHEN 'array' THEN members ELSE jsonb_build_array(members) END)
              WITH ORDINALITY AS e (value, number)) o
    CROSS JOIN LATERAL (
        SELECT '' AS name, vectuned._problem(o.value, '{"is": "object"}') AS problem
        UNION ALL
        SELECT '.' || r.key, vectuned._problem(o.value -> r.key, r.value)
        FROM jsonb_each(rules) r WHERE jsonb_typeof(o.value) = 'object'
        UNION ALL
        SELECT '.' || left(k.key, 60), 'is unknown to this version'
        FROM jsonb_object_keys(CASE jsonb_typeof(o.value) WHEN 'object' THEN o.value ELSE '{}' END) AS k (key)
        WHERE NOT rules ? k.key) p
    WHERE p.problem IS NOT NULL
    ORDER BY o.number, p.name LIMIT 1;
    IF FOUND THEN
        PERFORM vectuned._refuse(wrong.place, wrong.problem);
    END IF;
END
$$;

-- The one check of documents, whoever brings them: an error names the place and what is expected there.
CREATE OR REPLACE FUNCTION vectuned._check_document(document jsonb) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    limit_mb constant int := 64;
    count constant jsonb := '{"is": "integer", "from": 0, "to": 2147483647}';
    size constant jsonb := '{"is": "integer", "from": 1, "to": 32768}';
    maybe constant jsonb := '{"null": true}';
    share constant jsonb := '{"is": "number", "from": 0, "to": 1}';
    amount constant jsonb := '{"is": "number", "from": 0, "to": 1e300}';
    label constant jsonb := '{"is": "text", "from": 1, "to": 63}';
    long_text constant jsonb := '{"is": "text", "from": 0, "to": 10000}';
    truth constant jsonb := '{"is": "boolean"}';
    moment constant jsonb := '{"is": "time"}';
    generation constant jsonb := '{"is": "integer", "from": 0, "to": 4294967295}';
    anything constant jsonb := '{"is": "array", "to": 20000}';
    wrong record;
    class jsonb;
BEGIN
    IF octet_length(document::text) > limit_mb * 1024 * 1024 THEN
        RAISE EXCEPTION 'the document takes more than % MB', limit_mb USING ERRCODE = 'program_limit_exceeded';
    END IF;
    IF jsonb_typeof(document) <> 'object' OR document -> 'format' IS DISTINCT FROM '"vectuned-patterns"' THEN
        PERFORM vectuned._refuse('$.format', 'must be "vectuned-patterns": this is no document of vectuned');
    ELSIF document -> 'version' IS DISTINCT FROM '1' THEN
        PERFORM vectuned._refuse('$.version', CASE jsonb_typeof(document -> 'version') WHEN 'number'
            THEN format('is %s: this vectuned reads version 1', left(document ->> 'version', 60)) ELSE 'must be 1' END);
    END IF;
    PERFORM vectuned._check_members('$', document, jsonb_build_object(
        'format', label, 'version', size, 'vectuned', label, 'created_at', moment, 'confidence', share,
        'ladder', '{"is": "numbers", "each": "integer", "count": 14, "from": 1, "to": 1000}'::jsonb,
        'provenance', '{"is": "object"}'::jsonb, 'indexes', anything || '{"to": 100}', 'classes', anything || '{"to": 7}',
        'paths', anything, 'checksum', '{"is": "text", "from": 71, "to": 71, "like": "^sha256:[0-9a-f]{64}$"}'::jsonb));
    IF document -> 'ladder' <> to_jsonb(vectuned._rungs()) THEN
        PERFORM vectuned._refuse('$.ladder', 'has other rungs than this version: efforts mean something else');
    ELSIF vectuned._time(document ->> 'created_at') > clock_timestamp() + interval '1 day' THEN
        PERFORM vectuned._refuse('$.created_at', 'lies in the future');
    END IF;
    PERFORM vectuned._check_members('$.provenance', document -> 'provenance', jsonb_build_object(
        'system', '{"is": "text", "from": 64, "to": 64, "like": "^[0-9a-f]{64}$", "null": true}'::jsonb,
        'database', label, 'schema', label, 'relation', label, 'column', label,
        'vector_type', '{"is": "text", "from": 1, "to": 63, "of": ["vector", "halfvec"]}'::jsonb,
        'metric', '{"is": "text", "from": 1, "to": 63, "of": ["cosine", "l2", "ip"]}'::jsonb,
        'dimensions', size, 'target_recall', share || '{"from": 0.001, "to": 0.999999}', 'max_tail', share || '{"from": 0.000001}',
        'rows', '{"is": "integer", "from": 0, "to": 1e15}'::jsonb, 'witnesses', anything || '{"to": 100}'));
    SELECT w.number - 1 AS at INTO wrong FROM jsonb_array_elements(document #> '{provenance,witnesses}') WITH ORDINALITY AS w (value, number)
    WHERE (jsonb_typeof(w.value) = 'string' AND (w.value #>> '{}') ~ '^[0-9a-f]{16}$') IS NOT TRUE LIMIT 1;
    IF FOUND THEN
        PERFORM vectuned._refuse(format('$.provenance.witnesses[%s]', wrong.at), 'must be 16 hexadecimal digits');
    END IF;
    PERFORM vectuned._check_members('$.indexes', document -> 'indexes', jsonb_build_object(
        'number', count, 'main', truth, 'generation', generation, 'definition', long_text,
        'method', '{"is": "text", "from": 1, "to": 63, "of": ["hnsw", "ivfflat"]}'::jsonb,
        'form', '{"is": "text", "from": 1, "to": 63, "of": ["plain", "halfvec", "bits"]}'::jsonb,
        'lists', size || maybe, 'm', size || maybe, 'ef_construction', size || maybe));
    PERFORM vectuned._check_members('$.classes', document -> 'classes', jsonb_build_object(
        'k', '{"is": "integer", "from": 1, "to": 1000}'::jsonb, 'index', count,
        'access_path', '{"is": "text", "from": 1, "to": 63, "of": ["hnsw", "hnsw_adaptive", "ivfflat", "ivfflat_adaptive"]}'::jsonb,
        'ef_search', '{"is": "integer", "from": 1, "to": 1000, "null": true}'::jsonb, 'probes', size || maybe,
        'rungs', '{"is": "numbers", "each": "integer", "count": 14, "from": 1, "to": 32768, "null": true}'::jsonb,
        'expected_recall', share || maybe, 'recall_bound', share, 'tail', share || maybe, 'tail_bound', share || maybe,
        'certified', truth, 'samples', count, 'target_recall', share || '{"from": 0.001, "to": 0.999999}',
        'generation', generation,
        'probe_ef', '{"is": "integer", "from": 1, "to": 1000, "null": true}'::jsonb,
        'center', '{"is": "numbers", "count": 8, "from": -1e300, "to": 1e300, "null": true}'::jsonb,
        'weights', '{"is": "numbers", "count": 32, "from": -1e300, "to": 1e300, "null": true}'::jsonb,
        'reach', amount || maybe, 'saving', amount || maybe, 'reason', long_text, 'published_at', moment,
        'patterns', anything || '{"to": 4096}'));
    FOR class IN SELECT jsonb_build_object('at', e.number - 1, 'patterns', e.value -> 'patterns')
                 FROM jsonb_array_elements(document -> 'classes') WITH ORDINALITY AS e (value, number) LOOP
        PERFORM vectuned._check_members(format('$.classes[%s].patterns', class ->> 'at'), class -> 'patterns', jsonb_build_object(
            'centroid', '{"is": "numbers", "each": "integer", "count": 4, "from": -1000, "to": 1000}'::jsonb,
            'effort', '{"is": "number", "from": 0, "to": 13}'::jsonb, 'expected_recall', share, 'confidence', share,
            'samples', count, 'usage', amount, 'chances', amount,
            'recall', '{"is": "numbers", "count": 14, "from": 0, "to": 1}'::jsonb,
            'cost', '{"is": "numbers", "count": 14, "from": 0, "to": 1e37}'::jsonb,
            'born', '{"is": "number", "from": 0, "to": 1e11}'::jsonb));
    END LOOP;
    PERFORM vectuned._check_members('$.paths', document -> 'paths', jsonb_build_object(
        'k', '{"is": "integer", "from": 1, "to": 1000}'::jsonb, 'shape', long_text || maybe,
        'bucket', '{"is": "integer", "from": 0, "to": 39, "null": true}'::jsonb,
        'access_path', '{"is": "text", "from": 1, "to": 63, "of": ["hnsw", "hnsw_continued", "ivfflat", "exact", "planner"]}'::jsonb,
        'index', count || maybe, 'effort', size || maybe, 'expected_recall', share || maybe, 'recall_bound', share || maybe,
        'proven', truth, 'ms', amount || maybe, 'samples', count, 'serves', truth));
    SELECT r.place, r.problem INTO wrong FROM vectuned._contradictions(document) r LIMIT 1;
    IF FOUND THEN
        PERFORM vectuned._refuse(wrong.place, wrong.problem);
    END IF;
    IF document ->> 'checksum' <> vectuned._checksum(document) THEN
        PERFORM vectuned._refuse('$.checksum', 'does not fit the document: it was damaged, or changed since it was written');
    END IF;
END
$$;

-- What is right by itself and wrong together.
CREATE OR REPLACE FUNCTION vectuned._contradictions(document jsonb) RETURNS TABLE (place text, problem text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH index AS (
        SELECT i.*, e.number - 1 AS at
        FROM jsonb_array_elements(document -> 'indexes') WITH ORDINALITY AS e (value, number)
        CROSS JOIN LATERAL jsonb_to_record(e.value) AS i (number int, main boolean, method text, form text, lists int)),
    class AS (
        SELECT c.*, e.number - 1 AS at, i.method, i.form, i.lists
        FROM jsonb_array_elements(document -> 'classes') WITH ORDINALITY AS e (value, number)
        CROSS JOIN LATERAL jsonb_to_record(e.value) AS c (
            k int, index int, access_path text, ef_search int, probes int, rungs jsonb, certified boolean, samples int,
            probe_ef int, center jsonb, weights jsonb, reach float8, patterns jsonb)
        LEFT JOIN index i ON i.number = c.index),
    path AS (
        SELECT p.*, e.number - 1 AS at, i.method
        FROM jsonb_array_elements(document -> 'paths') WITH ORDINALITY AS e (value, number)
        CROSS JOIN LATERAL jsonb_to_record(e.value) AS p (
            k int, shape text, bucket int, access_path text, index int, effort int, serves boolean)
        LEFT JOIN index i ON i.number = p.index)
    SELECT format('$.indexes[%s].number', i.at), 'is that of another index as well'
    FROM index i WHERE EXISTS (SELECT FROM index o WHERE o.number = i.number AND o.at < i.at)
    UNION ALL
    SELECT format('$.indexes[%s].main', i.at), 'is true of another index as well'
    FROM index i WHERE i.main AND EXISTS (SELECT FROM index o WHERE o.main AND o.at < i.at)
    UNION ALL
    SELECT format('$.indexes[%s].lists', i.at), 'must be known of an IVFFlat index, and null of others'
    FROM index i WHERE (i.method = 'ivfflat') <> (i.lists IS NOT NULL)
    UNION ALL
    SELECT format('$.classes[%s].%s', c.at, w.name), w.problem
    FROM class c
    CROSS JOIN LATERAL (VALUES
        ('k', c.k <> vectuned._k_class(c.k), 'must be one of 1, 3, 10, 30, 100, 300, 1000'),
        ('k', EXISTS (SELECT FROM class o WHERE o.k = c.k AND o.at < c.at), 'is that of another class as well'),
        ('index', c.method IS NULL, 'is the number of no index in $.indexes'),
        ('access_path', split_part(c.access_path, '_', 1) <> c.method, 'is none of its index'),
        ('ef_search', (c.ef_search IS NULL) <> (c.method = 'ivfflat'), 'must be known of HNSW, and null of IVFFlat'),
        ('probes', (c.probes IS NULL) <> (c.method = 'hnsw'), 'must be known of IVFFlat, and null of HNSW'),
        ('probes', c.probes > c.lists, 'must be no more than the lists of the index'),
        ('certified', c.certified AND c.samples = 0, 'must be false where there are no replays'),
        ('patterns', jsonb_array_length(c.patterns) > 0 AND num_nulls(c.probe_ef, c.center, c.weights, c.reach) > 0,
         'need a probe_ef, a center, weights and a reach'),
        ('patterns', c.access_path LIKE '%\_adaptive' AND jsonb_array_length(c.patterns) = 0, 'are missing, by which it goes'),
        ('access_path', c.access_path LIKE '%\_adaptive' AND c.form <> 'plain', 'cannot go by patterns on such an index'),
        ('rungs', c.access_path = 'ivfflat_adaptive' AND c.rungs IS NULL, 'must be known')
    ) AS w (name, is_so, problem)
    WHERE w.is_so
    UNION ALL
    SELECT format('$.paths[%s].%s', p.at, w.name), w.problem
    FROM path p
    CROSS JOIN LATERAL (VALUES
        ('k', p.k <> vectuned._k_class(p.k), 'must be one of 1, 3, 10, 30, 100, 300, 1000'),
        ('bucket', (p.bucket IS NULL) <> (p.shape IS NULL), 'must be known of filters, and null of others'),
        ('access_path', p.shape IS NULL AND p.access_path NOT IN ('hnsw', 'ivfflat'), 'is one of filtered searches'),
        ('index', p.index IS NOT NULL AND p.method IS NULL, 'is the number of no index in $.indexes'),
        ('index', (p.index IS NULL) <> (p.access_path = 'exact'), 'must be null of exact search, and known of others'),
        ('access_path', p.access_path IN ('hnsw', 'hnsw_continued', 'ivfflat') AND split_part(p.access_path, '_', 1) <> p.method,
         'is none of its index'),
        ('effort', (p.effort IS NULL) <> (p.access_path IN ('exact', 'planner')), 'must be null of exact search and the planner''s way, and known of others'),
        ('effort', p.access_path LIKE 'hnsw%' AND p.effort > 1000, 'must be at most 1000')
    ) AS w (name, is_so, problem)
    WHERE w.is_so
    UNION ALL
    SELECT format('$.paths[%s].serves', max(p.at)), 'is true of another path of that filter as well'
    FROM path p WHERE p.serves AND p.shape IS NOT NULL GROUP BY p.k, p.shape, p.bucket HAVING count(*) > 1
$$;

-- What can be of no use to a column at all.
CREATE OR REPLACE FUNCTION vectuned._check_fit(c vectuned.tuned_column, document jsonb) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p constant jsonb := document -> 'provenance';
    column_text constant text := format('%s.%I', c.relation, c.column_name);
BEGIN
    IF (p -> 'dimensions')::int <> c.dimensions THEN
        PERFORM vectuned._refuse('$.provenance.dimensions', format('is %s, %s has %s', p -> 'dimensions', column_text, c.dimensions));
    ELSIF p ->> 'metric' <> c.metric THEN
        PERFORM vectuned._refuse('$.provenance.metric', format('is %s, %s is searched by %s', p ->> 'metric', column_text, c.metric));
    END IF;
END
$$;

-- Which index here stands for which of the document, by its number there; and whether all is the same, or why not.
CREATE OR REPLACE FUNCTION vectuned._map_indexes(c vectuned.tuned_column, document jsonb) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    p constant jsonb := document -> 'provenance';
    rows_here constant float8 := vectuned._row_estimate(c.relation);
    rows_there constant float8 := (p -> 'rows')::float8;
    first_rows constant jsonb := vectuned._first_rows(c);
    mapped jsonb;
    all_same boolean;
    why text;
BEGIN
    SELECT coalesce(jsonb_object_agg(d.number, jsonb_build_object('index_no', m.index_no, 'lists', m.lists, 'lists_there', d.lists))
                    FILTER (WHERE m.index_no IS NOT NULL), '{}'), coalesce(bool_and(m.same IS TRUE), false)
    INTO mapped, all_same
    FROM jsonb_to_recordset(document -> 'indexes') AS d (number int, main boolean, method text, form text, lists int, generation bigint)
    LEFT JOIN LATERAL (
        SELECT i.index_no, i.lists, s.same
        FROM vectuned.tuned_index i
        CROSS JOIN LATERAL (SELECT vectuned._generation(i.index_relation)::bigint = d.generation AND i.form = d.form
                                   AND i.lists IS NOT DISTINCT FROM d.lists AS same) s
        WHERE i.column_id = c.id AND i.requires IS NULL AND i.method = d.method AND s.same IS NOT NULL
          -- The half precision of a vector takes the same effort as the vector; its signs take another.
          AND (i.form = d.form OR i.form <> 'bits' AND d.form <> 'bits')
        ORDER BY s.same DESC, i.form <> d.form, i.index_relation <> c.index_relation, i.index_no LIMIT 1) m ON true;
    why := CASE
        WHEN p ->> 'system' IS NULL OR p ->> 'system' IS DISTINCT FROM vectuned._system() THEN 'it was learned on another server'
        WHEN NOT all_same THEN 'it was learned on another index'
        WHEN jsonb_array_length(first_rows) = 0 OR p ->> 'vector_type' <> c.vector_type
             OR (SELECT count(*) FROM jsonb_array_elements_text(first_rows) f WHERE p -> 'witnesses' ? f.value)
                < 0.8 * greatest(jsonb_array_length(first_rows), jsonb_array_length(p -> 'witnesses'))
             THEN 'it was learned of other rows'
        WHEN rows_here NOT BETWEEN 0.8 * rows_there AND 1.25 * rows_there THEN 'the table had another size then'
        WHEN (p -> 'max_tail')::float8 > c.max_tail OR EXISTS (
            SELECT FROM jsonb_to_recordset(document -> 'classes') AS d (target_recall float8) WHERE d.target_recall < c.target_recall)
            THEN 'it was learned for a lower target'
        WHEN EXISTS (SELECT FROM vectuned.event e
                     WHERE e.column_id = c.id AND e.action IN ('alarm', 'rebuilt', 'growth', 'deletes', 'rewritten')
                       AND e.happened_at > (document ->> 'created_at')::timestamptz)
            THEN 'searches here have fallen back since' END;
    RETURN jsonb_build_object('indexes', mapped, 'same', why IS NULL, 'why', why, 'rows_here', rows_here, 'rows_there', rows_there);
END
$$;

-- An effort that was proven elsewhere, on the safe side. What recall misses falls no faster than effort grows, and a
-- tenfold table was seen to take 2.4 times the time; an IVFFlat index of more lists has less in each of them.
CREATE OR REPLACE FUNCTION vectuned._prior_effort(
    c vectuned.tuned_column, document jsonb, mapping jsonb, index_there int, p_target float8, effort int, at_least int, method text)
RETURNS int
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT least(greatest(ceil(effort * f.goal * f.size * CASE method WHEN 'ivfflat' THEN greatest(i.lists / i.lists_there, 1) ELSE 1 END),
                          at_least), CASE method WHEN 'ivfflat' THEN i.lists ELSE 1000 END)::int
    FROM (SELECT greatest(1, (1 - p_target) / (1 - c.target_recall),
                          (document #> '{provenance,max_tail}')::float8 / c.max_tail) AS goal,
                 CASE WHEN (mapping -> 'rows_there')::float8 > 0
                      THEN greatest(1, (mapping -> 'rows_here')::float8 / (mapping -> 'rows_there')::float8) ^ 0.38
                      ELSE 1 END AS size) f,
         (SELECT (m.value ->> 'lists')::float8 AS lists, (m.value ->> 'lists_there')::float8 AS lists_there
          FROM (SELECT mapping -> 'indexes' -> index_there::text AS value) m) i
$$;

-- What becomes of every class of k of a document: merged, kept (what is here stays), unchanged or skipped; and why.
CREATE OR REPLACE FUNCTION vectuned._settle_classes(c vectuned.tuned_column, document jsonb, mapping jsonb) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(jsonb_agg(jsonb_build_object(
               'k', d.k, 'action', s.settled[1], 'why', s.settled[2], 'index_no', m.index_no,
               'access_path', CASE WHEN same THEN d.access_path ELSE m.method END,
               'ef_search', CASE m.method WHEN 'hnsw' THEN e.effort END, 'probes', CASE m.method WHEN 'ivfflat' THEN e.effort END,
               'patterns', jsonb_array_length(d.patterns)) ORDER BY d.k), '[]')
    FROM jsonb_to_recordset(document -> 'classes') AS d (
        k int, index int, access_path text, ef_search int, probes int, certified boolean, target_recall float8, generation bigint,
        patterns jsonb)
    CROSS JOIN LATERAL (SELECT (mapping -> 'same')::boolean AS same, (document ->> 'created_at')::timestamptz AS created_at,
                               (mapping -> 'indexes' -> d.index::text ->> 'index_no')::int AS index_no,
                               split_part(d.access_path, '_', 1) AS method) m
    LEFT JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_no = m.index_no
    LEFT JOIN vectuned.bank b ON b.column_id = c.id AND b.k_class = d.k
    LEFT JOIN vectuned.imported o ON o.import_no = b.import_no
    LEFT JOIN vectuned.tuned_index j ON j.column_id = c.id
        AND CASE WHEN b.index_no IS NULL THEN j.index_relation = c.index_relation ELSE j.index_no = b.index_no END
    CROSS JOIN LATERAL (SELECT CASE
        WHEN m.index_no IS NULL THEN NULL
        WHEN same THEN coalesce(d.ef_search, d.probes)
        -- What served here before, by another import or after an alarm, is not lowered.
        ELSE greatest(
            vectuned._prior_effort(c, document, mapping, d.index, d.target_recall, coalesce(d.ef_search, d.probes),
                                   CASE m.method WHEN 'hnsw' THEN greatest(c.default_ef, d.k) ELSE c.default_probes END, m.method),
            CASE WHEN b.import_no IS NOT NULL AND b.index_no = m.index_no THEN coalesce(b.ef_search, b.probes) END)
        END AS effort) e
    CROSS JOIN LATERAL (SELECT CASE
        WHEN m.index_no IS NULL THEN ARRAY['skipped', format('there is no such %s index here', m.method)]
        WHEN NOT same AND NOT d.certified THEN ARRAY['skipped', 'it was not proven there either']
        WHEN same AND d.generation <> vectuned._generation(i.index_relation)::bigint THEN ARRAY['skipped', 'it was outdated there']
        WHEN b.k_class IS NULL THEN ARRAY['merged', 'nothing was known here']
        WHEN b.import_no IS NULL AND b.samples > 0 AND (NOT same OR b.generation = vectuned._generation(j.index_relation))
            THEN ARRAY['kept', format('learned here from %s replays', b.samples)]
        WHEN b.import_no IS NULL AND b.samples > 0 THEN ARRAY['merged', 'what is here was learned on another index']
        WHEN b.import_no IS NULL THEN ARRAY['merged', 'what is here is a guess']
        WHEN o.checksum = document ->> 'checksum' THEN ARRAY['unchanged', 'imported already']
        WHEN same AND o.proven_here AND document #>> '{provenance,database}' = current_database()
            THEN ARRAY['unchanged', 'it comes from here']
        WHEN NOT same AND o.proven_here THEN ARRAY['kept', 'imported as proven on this index']
        WHEN same AND NOT o.proven_here THEN ARRAY['merged', 'proven on this index']
        WHEN o.created_at >= m.created_at THEN ARRAY['kept', 'a later document was imported']
        ELSE ARRAY['merged', 'later than what was imported'] END AS settled) s
$$;

-- The same of every path of filtered searches. As a prior exact search is taken over for tables of at most twice the
-- rows, and an index only where filters that nothing is known of would not be answered exactly.
CREATE OR REPLACE FUNCTION vectuned._settle_paths(c vectuned.tuned_column, document jsonb, mapping jsonb) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    WITH known AS MATERIALIZED (
        SELECT t.k_class, t.shape, bool_or(t.import_no IS NULL) AS own, bool_or(o.checksum = document ->> 'checksum') AS already,
               max(o.created_at) AS created_at
        FROM vectuned.measured_path t LEFT JOIN vectuned.imported o ON o.import_no = t.import_no
        WHERE t.column_id = c.id AND t.shape IS NOT NULL GROUP BY t.k_class, t.shape),
    -- What serves filters of a bucket of which nothing is known, those that match most of it and least.
    unknown AS MATERIALIZED (
        SELECT o.k, o.bucket, dense.access_path, dense.effort AS dense, sparse.effort AS sparse
        FROM (SELECT DISTINCT (e.value -> 'k')::int AS k, (e.value -> 'bucket')::int AS bucket
              FROM jsonb_array_elements(document -> 'paths') e WHERE jsonb_typeof(e.value -> 'bucket') = 'number') o
        CROSS JOIN LATERAL vectuned._default_effort(c) g
        CROSS JOIN LATERAL vectuned._filtered_default(2 ^ (-o.bucket / 2.0), c.relation, o.k, g.ef_search, g.probes) dense
        CROSS JOIN LATERAL vectuned._filtered_default(2 ^ (-(o.bucket + 1) / 2.0), c.relation, o.k, g.ef_search, g.probes) sparse)
    SELECT coalesce(jsonb_agg(p.value || jsonb_build_object('action', s.settled[1], 'why', s.settled[2], 'index_no', m.index_no,
                                                            'effort', e.effort) ORDER BY p.number), '[]')
    FROM jsonb_array_elements(document -> 'paths') WITH ORDINALITY AS p (value, number)
    CROSS JOIN LATERAL jsonb_to_record(p.value) AS d (
        k int, shape text, bucket int, access_path text, index int, effort int, proven boolean, serves boolean)
    CROSS JOIN LATERAL (SELECT (mapping -> 'same')::boolean AS same, (document ->> 'created_at')::timestamptz AS created_at,
                               (mapping -> 'indexes' -> d.index::text ->> 'index_no')::int AS index_no,
                               split_part(d.access_path, '_', 1) AS method) m
    JOIN unknown u ON u.k = d.k AND u.bucket = d.bucket
    CROSS JOIN LATERAL (SELECT CASE
        WHEN same OR d.effort IS NULL OR m.index_no IS NULL THEN d.effort
        ELSE vectuned._prior_effort(c, document, mapping, d.index, (document #> '{provenance,target_recall}')::float8, d.effort,
                                    greatest(CASE WHEN u.access_path = m.method THEN greatest(u.dense, u.sparse) END,
                                             CASE m.method WHEN 'hnsw' THEN greatest(c.default_ef, d.k) ELSE c.default_probes END),
                                    m.method) END AS effort) e
    LEFT JOIN known h ON h.k_class = d.k AND h.shape = d.shape
    CROSS JOIN LATERAL (SELECT CASE
        WHEN d.index IS NOT NULL AND m.index_no IS NULL THEN ARRAY['skipped', 'there is no such index here']
        WHEN NOT same AND d.access_path = 'planner' THEN ARRAY['skipped', 'the planner may choose otherwise here']
        WHEN NOT same AND d.access_path = 'exact' AND (mapping -> 'rows_here')::float8 > 2 * (mapping -> 'rows_there')::float8
            THEN ARRAY['skipped', 'the table is more than twice as large here']
        WHEN NOT same AND d.access_path <> 'exact' AND u.access_path = 'exact'
            THEN ARRAY['skipped', 'such filters are answered exactly until more is known']
        WHEN h.own THEN ARRAY['kept', 'learned here']
        WHEN h.already THEN ARRAY['unchanged', 'imported already']
        WHEN h.created_at >= m.created_at THEN ARRAY['kept', 'a later document was imported']
        WHEN h.created_at IS NULL THEN ARRAY['merged', 'nothing was known here']
        ELSE ARRAY['merged', 'later than what was imported'] END AS settled) s
    WHERE d.shape IS NOT NULL AND (same OR d.serves AND d.proven)
$$;

CREATE OR REPLACE FUNCTION vectuned._merge_classes(
    c vectuned.tuned_column, document jsonb, mapping jsonb, settled jsonb, p_import_no bigint, p_version int) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    same constant boolean := mapping -> 'same';
    classes constant int[] := ARRAY(SELECT (e.value -> 'k')::int FROM jsonb_array_elements(settled) e
                                    WHERE e.value ->> 'action' = 'merged');
BEGIN
    DELETE FROM vectuned.bank b WHERE b.column_id = c.id AND b.k_class = ANY (classes);
    DELETE FROM vectuned.measured_path p WHERE p.column_id = c.id AND p.k_class = ANY (classes) AND p.shape IS NULL;
    INSERT INTO vectuned.bank (
        column_id, k_class, version, generation, access_path, index_no, ef_search, probes, rungs, expected_recall, recall_bound,
        tail, tail_bound, certified, samples, target_recall, probe_ef, center, weights, reach, saving, reason, import_no, published_at)
    SELECT c.id, d.k, p_version, vectuned._generation(i.index_relation), s.access_path, s.index_no, s.ef_search, s.probes, d.rungs,
           CASE WHEN same THEN d.expected_recall END, CASE WHEN same THEN d.recall_bound ELSE 0 END,
           CASE WHEN same THEN d.tail END, CASE WHEN same THEN d.tail_bound END, same AND d.certified,
           CASE WHEN same THEN d.samples ELSE 0 END, CASE WHEN same THEN d.target_recall ELSE c.target_recall END,
           d.probe_ef, d.center, d.weights, d.reach, CASE WHEN same THEN d.saving END,
           CASE WHEN same THEN d.reason ELSE format(
               'imported from %s, where %s was proven to reach recall %s with %s replays; not yet proven here',
               vectuned._source(document), coalesce('ef_search ' || d.ef_search, 'probes ' || d.probes), d.target_recall, d.samples)
           END, p_import_no, CASE WHEN same THEN d.published_at ELSE now() END
    FROM jsonb_to_recordset(document -> 'classes') AS d (
        k int, ef_search int, probes int, rungs int[], expected_recall float8, recall_bound float8, tail float8, tail_bound float8,
        certified boolean, samples int, target_recall float8, probe_ef int, center float8[], weights float8[], reach float8,
        saving float8, reason text, published_at timestamptz)
    JOIN jsonb_to_recordset(settled) AS s (k int, access_path text, index_no int, ef_search int, probes int) ON s.k = d.k
    JOIN vectuned.tuned_index i ON i.column_id = c.id AND i.index_no = s.index_no
    WHERE d.k = ANY (classes);
    -- Of a prior they wait: effort by query serves only where it was measured to save. Those that will be learned here
    -- inherit their age and usage.
    INSERT INTO vectuned.pattern (column_id, k_class, pattern_no, centroid, effort, expected_recall, confidence, samples, usage,
                                  chances, recall, cost, created_at)
    SELECT c.id, (d.value -> 'k')::int, p.number - 1, t.centroid::@extschema@.vector, t.effort, t.expected_recall, t.confidence,
           t.samples, t.usage, t.chances, t.recall, t.cost, to_timestamp(t.born)
    FROM jsonb_array_elements(document -> 'classes') d
    CROSS JOIN LATERAL jsonb_array_elements(d.value -> 'patterns') WITH ORDINALITY AS p (value, number)
    CROSS JOIN LATERAL jsonb_to_record(p.value) AS t (
        centroid real[], effort float8, expected_recall float8, confidence float8, samples int, usage float8, chances float8,
        recall real[], cost real[], born float8)
    WHERE (d.value -> 'k')::int = ANY (classes);
    INSERT INTO vectuned.measured_path (column_id, k_class, access_path, index_no, effort, expected_recall, recall_bound, proven, ms,
                                        samples, serves)
    SELECT c.id, d.k, d.access_path, (mapping -> 'indexes' -> d.index::text ->> 'index_no')::int, d.effort, d.expected_recall,
           d.recall_bound, d.proven, d.ms, d.samples, d.serves
    FROM jsonb_to_recordset(document -> 'paths') AS d (
        k int, shape text, access_path text, index int, effort int, expected_recall float8, recall_bound float8, proven boolean,
        ms float8, samples int, serves boolean)
    WHERE same AND d.shape IS NULL AND d.k = ANY (classes);
END
$$;

CREATE OR REPLACE FUNCTION vectuned._merge_paths(
    c vectuned.tuned_column, same boolean, settled jsonb, p_import_no bigint) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM vectuned.measured_path t USING jsonb_to_recordset(settled) AS d (k int, shape text, action text)
    WHERE t.column_id = c.id AND t.k_class = d.k AND t.shape = d.shape AND d.action = 'merged';
    INSERT INTO vectuned.measured_path (column_id, k_class, shape, bucket, access_path, index_no, effort, expected_recall,
                                        recall_bound, proven, ms, samples, serves, import_no)
    SELECT c.id, d.k, d.shape, d.bucket, d.access_path, d.index_no, d.effort,
           CASE WHEN same THEN d.expected_recall WHEN d.access_path = 'exact' THEN 1 END,
           CASE WHEN same THEN d.recall_bound WHEN d.access_path = 'exact' THEN 1 ELSE 0 END,
           same AND d.proven, CASE WHEN same THEN d.ms END, CASE WHEN same THEN d.samples ELSE 0 END, d.serves,
           CASE WHEN NOT same THEN p_import_no END
    FROM jsonb_to_recordset(settled) AS d (
        action text, k int, shape text, bucket int, access_path text, index_no int, effort int, expected_recall float8,
        recall_bound float8, proven boolean, ms float8, samples int, serves boolean)
    WHERE d.action = 'merged';
$$;
