-- Validation of a document of patterns: the type and range of each value, and contradictions between values. Errors name the
-- place in the document.

-- Rejects a document: raises an error that names the place and the problem.

CREATE OR REPLACE FUNCTION vectuned._reject_document(place text, problem text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION '% %', place, problem
        USING ERRCODE = 'invalid_parameter_value', HINT = 'Nothing was imported. Import a document as vectuned.export_patterns wrote it.';
END
$$;

-- The problem of a value according to a rule; NULL if it is valid. Members of a rule: is (number, integer, text, boolean,
-- time, array, object, or numbers for a list of `count` numbers), from and to (limits of a number or a length), of (the
-- allowed texts), like (a regular expression for texts), null (null is allowed).
CREATE OR REPLACE FUNCTION vectuned._value_problem(value jsonb, rule jsonb) RETURNS text
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
        WHEN 'number' THEN kind IN ('number', 'integer') AND vectuned._number_fits(value::numeric, kind, low, high)
        WHEN 'boolean' THEN kind = 'boolean'
        WHEN 'object' THEN kind = 'object'
        WHEN 'string' THEN CASE kind
            WHEN 'time' THEN vectuned._parse_time(value #>> '{}') IS NOT NULL
            WHEN 'text' THEN length(value #>> '{}') BETWEEN low AND high AND (NOT rule ? 'of' OR rule -> 'of' ? (value #>> '{}'))
                             AND (NOT rule ? 'like' OR (value #>> '{}') ~ (rule ->> 'like'))
            ELSE false END
        WHEN 'array' THEN CASE kind
            WHEN 'array' THEN jsonb_array_length(value) <= high
            WHEN 'numbers' THEN jsonb_array_length(value) = (rule -> 'count')::int
                AND (SELECT bool_and(CASE jsonb_typeof(e.value) WHEN 'number'
                                     THEN vectuned._number_fits(e.value::numeric, coalesce(rule ->> 'each', 'number'), low, high)
                                     ELSE false END) FROM jsonb_array_elements(value) e)
            ELSE false END END;
    IF fits THEN
        RETURN NULL;
    END IF;
    RETURN CASE WHEN value IS NULL THEN 'is missing, it ' ELSE '' END || 'must be '
        || CASE kind
            WHEN 'integer' THEN format('a whole number from %s to %s', low, high)
            WHEN 'number' THEN format('a number from %s to %s', vectuned._brief_number(low), vectuned._brief_number(high))
            WHEN 'numbers' THEN format('a list of %s %s from %s to %s', rule ->> 'count',
                                       CASE rule ->> 'each' WHEN 'integer' THEN 'whole numbers' ELSE 'numbers' END,
                                       vectuned._brief_number(low), vectuned._brief_number(high))
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

-- Whether a number is in range, whole if `kind` is integer, and large enough for a real, which is about 1e-37.
CREATE OR REPLACE FUNCTION vectuned._number_fits(n numeric, kind text, low numeric, high numeric) RETURNS boolean
LANGUAGE sql IMMUTABLE
RETURN n BETWEEN low AND high AND (n = 0 OR abs(n) >= 1e-37) AND (kind <> 'integer' OR n = trunc(n));

-- A number as short text: in exponential notation from a million on.
CREATE OR REPLACE FUNCTION vectuned._brief_number(n numeric) RETURNS text
LANGUAGE sql IMMUTABLE
RETURN CASE WHEN abs(n) >= 1e6 THEN n::float8::text ELSE n::text END;

-- Checks the members of an object, or of each object in a list, by rules; rejects the document at the first problem.
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
        SELECT '' AS name, vectuned._value_problem(o.value, '{"is": "object"}') AS problem
        UNION ALL
        SELECT '.' || r.key, vectuned._value_problem(o.value -> r.key, r.value)
        FROM jsonb_each(rules) r WHERE jsonb_typeof(o.value) = 'object'
        UNION ALL
        SELECT '.' || left(k.key, 60), 'is unknown to this version'
        FROM jsonb_object_keys(CASE jsonb_typeof(o.value) WHEN 'object' THEN o.value ELSE '{}' END) AS k (key)
        WHERE NOT rules ? k.key) p
    WHERE p.problem IS NOT NULL
    ORDER BY o.number, p.name LIMIT 1;
    IF FOUND THEN
        PERFORM vectuned._reject_document(wrong.place, wrong.problem);
    END IF;
END
$$;

-- Checks a whole document, from SQL or from the command line; an error names the place and what is expected there.
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
        PERFORM vectuned._reject_document('$.format', 'must be "vectuned-patterns": this is not a document of vectuned');
    ELSIF document -> 'version' IS DISTINCT FROM '1' THEN
        PERFORM vectuned._reject_document('$.version', CASE jsonb_typeof(document -> 'version') WHEN 'number'
            THEN format('is %s: this vectuned reads version 1', left(document ->> 'version', 60)) ELSE 'must be 1' END);
    END IF;
    PERFORM vectuned._check_members('$', document, jsonb_build_object(
        'format', label, 'version', size, 'vectuned', label, 'created_at', moment, 'confidence', share,
        'ladder', '{"is": "numbers", "each": "integer", "count": 14, "from": 1, "to": 1000}'::jsonb,
        'provenance', '{"is": "object"}'::jsonb, 'indexes', anything || '{"to": 100}', 'classes', anything || '{"to": 7}',
        'paths', anything, 'statements', anything || '{"to": 1000}', 'checksum', '{"is": "text", "from": 71, "to": 71, "like": "^sha256:[0-9a-f]{64}$"}'::jsonb));
    IF document -> 'ladder' <> to_jsonb(vectuned._rungs()) THEN
        PERFORM vectuned._reject_document('$.ladder', 'has other rungs than this version, so efforts mean something else');
    ELSIF vectuned._parse_time(document ->> 'created_at') > clock_timestamp() + interval '1 day' THEN
        PERFORM vectuned._reject_document('$.created_at', 'is in the future');
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
        PERFORM vectuned._reject_document(format('$.provenance.witnesses[%s]', wrong.at), 'must be 16 hexadecimal digits');
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
        'access_path', '{"is": "text", "from": 1, "to": 63, "of": ["hnsw", "hnsw_continued", "ivfflat", "ivfflat_continued", "exact", "planner"]}'::jsonb,
        'index', count || maybe, 'effort', size || maybe, 'expected_recall', share || maybe, 'recall_bound', share || maybe,
        'proven', truth, 'ms', amount || maybe, 'samples', count, 'serves', truth));
    PERFORM vectuned._check_statements(document -> 'statements');
    SELECT r.place, r.problem INTO wrong FROM vectuned._contradictions(document) r LIMIT 1;
    IF FOUND THEN
        PERFORM vectuned._reject_document(wrong.place, wrong.problem);
    END IF;
    IF document ->> 'checksum' <> vectuned._checksum(document) THEN
        PERFORM vectuned._reject_document('$.checksum', 'does not match the document: it was damaged or changed after it was written');
    END IF;
END
$$;

-- Values that are valid by themselves but contradict each other.
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
    SELECT format('$.indexes[%s].number', i.at), 'is used by another index too'
    FROM index i WHERE EXISTS (SELECT FROM index o WHERE o.number = i.number AND o.at < i.at)
    UNION ALL
    SELECT format('$.indexes[%s].main', i.at), 'is true for another index too'
    FROM index i WHERE i.main AND EXISTS (SELECT FROM index o WHERE o.main AND o.at < i.at)
    UNION ALL
    SELECT format('$.indexes[%s].lists', i.at), 'must be set for an IVFFlat index, and null for others'
    FROM index i WHERE (i.method = 'ivfflat') <> (i.lists IS NOT NULL)
    UNION ALL
    SELECT format('$.classes[%s].%s', c.at, w.name), w.problem
    FROM class c
    CROSS JOIN LATERAL (VALUES
        ('k', c.k <> vectuned._k_class(c.k), 'must be one of 1, 3, 10, 30, 100, 300, 1000'),
        ('k', EXISTS (SELECT FROM class o WHERE o.k = c.k AND o.at < c.at), 'is used by another class too'),
        ('index', c.method IS NULL, 'is not the number of an index in $.indexes'),
        ('access_path', split_part(c.access_path, '_', 1) <> c.method, 'does not suit the method of its index'),
        ('ef_search', (c.ef_search IS NULL) <> (c.method = 'ivfflat'), 'must be set for HNSW, and null for IVFFlat'),
        ('probes', (c.probes IS NULL) <> (c.method = 'hnsw'), 'must be set for IVFFlat, and null for HNSW'),
        ('probes', c.probes > c.lists, 'must be no more than the lists of the index'),
        ('certified', c.certified AND c.samples = 0, 'must be false if there are no replays'),
        ('patterns', jsonb_array_length(c.patterns) > 0 AND num_nulls(c.probe_ef, c.center, c.weights, c.reach) > 0,
         'need a probe_ef, a center, weights and a reach'),
        ('patterns', c.access_path LIKE '%\_adaptive' AND jsonb_array_length(c.patterns) = 0, 'are missing, which its access path needs'),
        ('access_path', c.access_path LIKE '%\_adaptive' AND c.form <> 'plain', 'cannot be adaptive on an index of this form'),
        ('rungs', c.access_path = 'ivfflat_adaptive' AND c.rungs IS NULL, 'must be set')
    ) AS w (name, is_so, problem)
    WHERE w.is_so
    UNION ALL
    SELECT format('$.paths[%s].%s', p.at, w.name), w.problem
    FROM path p
    CROSS JOIN LATERAL (VALUES
        ('k', p.k <> vectuned._k_class(p.k), 'must be one of 1, 3, 10, 30, 100, 300, 1000'),
        ('bucket', (p.bucket IS NULL) <> (p.shape IS NULL), 'must be set for filtered searches, and null for others'),
        ('access_path', p.shape IS NULL AND p.access_path NOT IN ('hnsw', 'ivfflat'), 'is for filtered searches only'),
        ('index', p.index IS NOT NULL AND p.method IS NULL, 'is not the number of an index in $.indexes'),
        ('index', (p.index IS NULL) <> (p.access_path = 'exact'), 'must be null for exact search, and set for others'),
        ('access_path', p.access_path NOT IN ('exact', 'planner') AND split_part(p.access_path, '_', 1) <> p.method,
         'does not suit the method of its index'),
        ('effort', (p.effort IS NULL) <> (p.access_path IN ('exact', 'planner')), 'must be null for exact search and the planner''s choice, and set for others'),
        ('effort', p.access_path LIKE 'hnsw%' AND p.effort > 1000, 'must be at most 1000')
    ) AS w (name, is_so, problem)
    WHERE w.is_so
    UNION ALL
    SELECT format('$.paths[%s].serves', max(p.at)), 'is true for another path of the same filter too'
    FROM path p WHERE p.serves AND p.shape IS NOT NULL GROUP BY p.k, p.shape, p.bucket HAVING count(*) > 1
$$;
