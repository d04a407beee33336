-- Which indexes can answer a column's searches: found in the catalogs, and confirmed by the planner.

-- The marker of an index: its predicate, if every row meets it, as a condition over t. NULL for other predicates.
CREATE OR REPLACE FUNCTION vectuned._marker(predicate text, column_text text, extension text, dimensions int) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    predicate_text constant text := translate(predicate, '()', '');
    call constant text := translate(extension || '.vector_dims' || column_text, '()', '');
    marker_call constant text := extension || '.vector_dims(t.' || column_text || ')';
    rest text;
BEGIN
    IF predicate_text = translate(column_text, '()', '') || ' IS NOT NULL' THEN
        RETURN 'true';
    ELSIF starts_with(predicate_text, call) THEN
        rest := substr(predicate_text, length(call) + 1);
        IF rest ~ '^ (>|>=|<>) \d{1,5}$' AND substring(rest FROM '\d+')::int < dimensions OR rest = ' = ' || dimensions THEN
            RETURN marker_call || rest;
        END IF;
    ELSIF right(predicate_text, length(call)) = call THEN
        rest := left(predicate_text, length(predicate_text) - length(call));
        IF rest ~ '^\d{1,5} (<|<=|<>) $' AND substring(rest FROM '\d+')::int < dimensions THEN
            RETURN rest || marker_call;
        END IF;
    END IF;
    RETURN NULL;
END
$$;

-- The filter equivalent to the predicate of a partial index; NULL unless the predicate consists of equalities and null
-- tests joined by AND (and perhaps a marker). It only decides which index to try: every statement holds the whole condition.
CREATE OR REPLACE FUNCTION vectuned._predicate_filter(predicate text, p_relation regclass) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name constant text := '("(?:[^"]|"")+"|[a-z_][a-z0-9_$]*)';
    -- Conditions as PostgreSQL deparses them. Groups: the whole match, the column, the value.
    equality constant text := '^(\({0,2}' || name || '\)?(?:::[a-z]+(?: varying)?)? = \(?(''(?:[^'']|'''')*''|-?[0-9.]+|true|false)\)?'
                              '(?:::[a-z_" .]+(?:\(\d+\))?)?\)(?: AND |$))';
    missing constant text := '^(\(' || name || ' IS (NULL)\)(?: AND |$))';
    negation constant text := '^(\(NOT ' || name || '()\)(?: AND |$))';
    boolean_column constant text := '^(' || name || '()(?: AND |$))';
    marker constant text := '^(\([^ ]+\.vector_dims\([^ ]+\) (?:>|>=|<>) \d+\)(?: AND |$))';
    rest text := predicate;
    part text[];
    literal text;
    attribute record;
    filter jsonb := '{}';
BEGIN
    -- Strip the outer parentheses of a list of conditions. A single condition can begin with as many parentheses, and its
    -- string can contain " AND ".
    IF rest !~ replace(equality, '(?: AND |$)', '$')
       AND (rest ~ ('^\((\(|' || name || ' AND ).* AND ') OR rest ~ ('^\(' || name || ' AND '))
    THEN
        rest := substr(rest, 2, length(rest) - 2);
    END IF;
    WHILE rest <> '' LOOP
        part := regexp_match(rest, marker);
        IF part IS NOT NULL THEN
            rest := substr(rest, length(part[1]) + 1);
            CONTINUE;
        END IF;
        part := coalesce(regexp_match(rest, equality), regexp_match(rest, missing),
                         regexp_match(rest, negation), regexp_match(rest, boolean_column));
        SELECT y.typcategory, a.attname INTO attribute
        FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid
        WHERE a.attrelid = p_relation AND quote_ident(a.attname) = part[2] AND NOT a.attisdropped;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        literal := CASE WHEN part[3] = '' THEN (part[1] !~ '^\(NOT ')::text
                        WHEN part[3] LIKE '''%' THEN replace(substr(part[3], 2, length(part[3]) - 2), '''''', '''')
                        ELSE part[3] END;
        filter := filter || jsonb_build_object(attribute.attname, CASE
            WHEN part[3] = 'NULL' THEN 'null' WHEN attribute.typcategory IN ('N', 'B') THEN literal::jsonb
            ELSE to_jsonb(literal) END);
        rest := substr(rest, length(part[1]) + 1);
    END LOOP;
    RETURN nullif(filter, '{}');
EXCEPTION WHEN invalid_text_representation THEN
    RETURN NULL;
END
$$;

-- The dimensions of a vector column: those of its type or, where that says none, those of the cast that an index over all rows
-- is over, such as embedding::vector(1536): no row can have others then. NULL without either.
CREATE OR REPLACE FUNCTION vectuned._column_dimensions(p_relation oid, p_column name) RETURNS int
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET quote_all_identifiers = off
AS $$
    SELECT CASE WHEN a.atttypmod > 0 THEN a.atttypmod ELSE (
        SELECT substring(e.text FROM '\d+$')::int
        FROM pg_index x
        JOIN pg_class i ON i.oid = x.indexrelid
        JOIN pg_am m ON m.oid = i.relam AND m.amname IN ('hnsw', 'ivfflat')
        CROSS JOIN LATERAL (SELECT translate(pg_get_indexdef(x.indexrelid, 1, false), '()', '') AS text) e
        WHERE x.indrelid = a.attrelid AND x.indkey[0] = 0 AND x.indisvalid AND x.indpred IS NULL
          AND regexp_replace(e.text, '\d+$', '') IN (
              translate(format('%I::%I.%s', a.attname, n.nspname, y.typname), '()', ''),
              translate(format('%I::%I.halfvec', a.attname, n.nspname), '()', ''),
              translate(format('%I.binary_quantize%I::bit', n.nspname, a.attname), '()', ''))
        ORDER BY x.indexrelid LIMIT 1) END
    FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid JOIN pg_namespace n ON n.oid = y.typnamespace
    WHERE a.attrelid = p_relation AND a.attname = p_column AND NOT a.attisdropped
$$;

-- Every valid HNSW and IVFFlat index over a column: on the column itself or, where its type says no dimensions, on its cast to
-- a type with them (embedding::vector(n)), on its half precision
-- (embedding::halfvec(n)) or on its signs (binary_quantize(embedding)::bit(n)). The best default comes first.
CREATE OR REPLACE FUNCTION vectuned._vector_indexes(p_relation regclass, p_column name)
RETURNS TABLE (index_relation oid, method text, form text, metric text, marker text, requires jsonb, lists int)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
-- So that predicates are deparsed in the same form in every session.
SET datestyle = 'ISO'
SET timezone = 'UTC'
SET quote_all_identifiers = off
AS $$
    WITH subject AS (
        SELECT a.attrelid, a.attnum, vectuned._column_dimensions(a.attrelid, a.attname) AS dimensions, y.typname AS type,
               a.atttypmod < 1 AS untyped, quote_ident(a.attname) AS name,
               quote_ident(n.nspname) AS extension
        FROM pg_attribute a JOIN pg_type y ON y.oid = a.atttypid JOIN pg_namespace n ON n.oid = y.typnamespace
        WHERE a.attrelid = p_relation AND a.attname = p_column AND NOT a.attisdropped),
    candidate AS (
        SELECT x.indexrelid, m.amname::text AS method, s.dimensions, s.name, s.extension, i.reloptions, o.opcname,
               CASE WHEN x.indkey[0] = s.attnum
                      OR s.untyped AND e.text = translate(format('%s::%s.%s%s', s.name, s.extension, s.type, s.dimensions), '()', '')
                        THEN 'plain'
                    -- Deparsed expressions differ in parentheses between versions.
                    WHEN e.text = translate(format('%s::%s.halfvec%s', s.name, s.extension, s.dimensions), '()', '') THEN 'halfvec'
                    WHEN e.text = translate(format('%s.binary_quantize%s::bit%s', s.extension, s.name, s.dimensions), '()', '')
                        THEN 'bits' END AS form,
               pg_get_expr(x.indpred, x.indrelid) AS predicate
        FROM subject s
        JOIN pg_index x ON x.indrelid = s.attrelid AND x.indisvalid AND x.indisready
        JOIN pg_class i ON i.oid = x.indexrelid
        JOIN pg_am m ON m.oid = i.relam AND m.amname IN ('hnsw', 'ivfflat')
        JOIN pg_opclass o ON o.oid = x.indclass[0]
        CROSS JOIN LATERAL (SELECT translate(pg_get_indexdef(x.indexrelid, 1, false), '()', '') AS text) e),
    recognised AS (
        SELECT c.*, CASE WHEN c.predicate IS NULL THEN 'true'
                         ELSE vectuned._marker(c.predicate, c.name, c.extension, c.dimensions) END AS marker
        FROM candidate c WHERE c.form IS NOT NULL)
    SELECT t.indexrelid, t.method, t.form,
           CASE WHEN t.opcname LIKE '%\_cosine\_ops' THEN 'cosine' WHEN t.opcname LIKE '%\_l2\_ops' THEN 'l2'
                WHEN t.opcname LIKE '%\_ip\_ops' THEN 'ip' END,
           coalesce(t.marker, r.marker, 'true'), r.requires,
           CASE t.method WHEN 'ivfflat' THEN coalesce(substring(array_to_string(t.reloptions, ',') FROM 'lists=(\d+)')::int, 100) END
    FROM recognised t
    CROSS JOIN LATERAL (
        SELECT CASE WHEN t.marker IS NULL THEN vectuned._predicate_filter(t.predicate, p_relation) END AS requires,
               vectuned._marker(substring(t.predicate FROM '\(([^ ]+\.vector_dims\([^ ]+\) (?:>|>=|<>) \d+)\)'),
                                t.name, t.extension, t.dimensions) AS marker,
               t.predicate ~ '\([^ ]+\.vector_dims\(' AS marked) r
    WHERE (t.marker IS NOT NULL OR r.requires IS NOT NULL AND (NOT r.marked OR r.marker IS NOT NULL))
      AND CASE t.form WHEN 'bits' THEN t.opcname = 'bit_hamming_ops' AND t.method = 'hnsw'
                      ELSE t.opcname ~ '_(cosine|l2|ip)_ops$' END
    ORDER BY r.requires IS NOT NULL, t.form = 'bits', t.method <> 'hnsw', t.form = 'halfvec', t.indexrelid DESC
$$;

-- The generation of an index, which changes when it is rebuilt: its filenode; for a partitioned index a hash over the
-- filenodes of its partitions. NULL if the index does not exist.
CREATE OR REPLACE FUNCTION vectuned._generation(p_index oid) RETURNS oid
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE r.relkind
        WHEN 'I' THEN (SELECT (hashtextextended(string_agg(pg_relation_filenode(t.relid)::text, ',' ORDER BY t.relid), 0)
                               & 2147483647)::oid
                       FROM pg_partition_tree(p_index) t WHERE t.isleaf)
        ELSE pg_relation_filenode(p_index) END
    FROM pg_class r WHERE r.oid = p_index
$$;

-- The names of the indexes in a plan.
CREATE OR REPLACE FUNCTION vectuned._plan_indexes(plan json) RETURNS text[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(array_agg(DISTINCT n #>> '{}'), '{}') FROM jsonb_path_query(plan::jsonb, 'strict $.**."Index Name"') n
$$;

-- Whether a plan reads only this index (or the partitions of it), or nothing because no row can match.
CREATE OR REPLACE FUNCTION vectuned._plan_reads(plan json, p_index oid) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (used <> '{}' OR NOT jsonb_path_exists(plan::jsonb, 'strict $.**."Relation Name"')) AND used <@ ARRAY(
        SELECT r.relname::text FROM pg_class r WHERE r.oid = p_index AND r.relkind = 'i'
        UNION ALL
        SELECT r.relname::text FROM pg_class o CROSS JOIN LATERAL pg_partition_tree(o.oid) t JOIN pg_class r ON r.oid = t.relid
        WHERE o.oid = p_index AND o.relkind = 'I' AND t.isleaf)
    FROM vectuned._plan_indexes(plan) used
$$;

-- Whether a table has valid vector indexes of both methods. The planner then chooses between them by cost, and every
-- statement that is written for one of them is planned with pages that cost nothing (_set_page_costs): then the costs of two
-- indexes differ only by the share of the entries that each reads, and an index at its highest setting reads most.
CREATE OR REPLACE FUNCTION vectuned._has_both_methods(p_relation oid) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT count(DISTINCT m.amname) = 2
    FROM (SELECT p_relation AS relid UNION SELECT t.relid FROM pg_partition_tree(p_relation) t) r
    JOIN pg_index x ON x.indrelid = r.relid AND x.indisvalid
    JOIN pg_class i ON i.oid = x.indexrelid
    JOIN pg_am m ON m.oid = i.relam AND m.amname IN ('hnsw', 'ivfflat')
$$;

-- Sets what reading a page costs in plans, random and sequential, until the transaction ends; returns the former costs. NULL
-- changes nothing.
CREATE OR REPLACE FUNCTION vectuned._set_page_costs(costs text[]) RETURNS text[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    former constant text[] := ARRAY[current_setting('random_page_cost'), current_setting('seq_page_cost')];
BEGIN
    IF costs IS NOT NULL THEN
        PERFORM set_config('random_page_cost', costs[1], true), set_config('seq_page_cost', costs[2], true);
    END IF;
    RETURN former;
END
$$;

-- Whether the planner chooses an index for the statements written for it, at the lowest and at the highest effort: another
-- index may answer the same statement, and its estimated cost may grow differently with effort (with m, for example). Here
-- and in every search, the highest setting of the other method makes its indexes look as expensive as possible.
CREATE OR REPLACE FUNCTION vectuned._takes_index(c vectuned.tuned_column, i vectuned.tuned_index, condition text)
RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_sort = off
SET enable_bitmapscan = off
SET hnsw.ef_search = 1000
SET ivfflat.probes = 32768
AS $$
DECLARE
    f record;
    effort int;
    row_limit text;
    plan json;
BEGIN
    SELECT * INTO f FROM vectuned._index_fragments(c, i);
    -- The lowest and highest rungs: RUNGS and probe_rungs in learning/model/ladder.py.
    FOREACH effort IN ARRAY CASE i.method WHEN 'hnsw' THEN ARRAY[10, 1000]
                            ELSE ARRAY[1, least(i.lists, greatest(128, round(8 * sqrt(i.lists))))::int] END LOOP
        PERFORM set_config(CASE i.method WHEN 'hnsw' THEN 'hnsw.ef_search' ELSE 'ivfflat.probes' END, effort::text, true);
        -- As filtered searches are planned, with k known, and as unfiltered ones are, for any k.
        FOREACH row_limit IN ARRAY ARRAY['10', '(SELECT 10)'] LOOP
            EXECUTE format('EXPLAIN (FORMAT JSON) SELECT FROM %s t WHERE %s AND %s ORDER BY %s LIMIT %s',
                           (vectuned._fragments(c)).relation, f.narrow, condition, f.ordering, row_limit)
                INTO plan USING array_fill(1::real, ARRAY[c.dimensions])::@extschema@.vector;
            IF NOT vectuned._plan_reads(plan, i.index_relation) THEN
                RETURN false;
            END IF;
        END LOOP;
    END LOOP;
    RETURN true;
END
$$;

-- An index over all rows of a column that was created since the last refresh: until the next one the planner may choose it.
CREATE OR REPLACE FUNCTION vectuned._added_index(c vectuned.tuned_column) RETURNS regclass
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT v.index_relation::regclass FROM vectuned._vector_indexes(c.relation, c.column_name) v
    WHERE v.requires IS NULL AND (v.metric = c.metric OR v.form = 'bits') AND v.index_relation <> ALL (c.passed_over)
      AND NOT EXISTS (SELECT FROM vectuned.tuned_index t WHERE t.column_id = c.id AND t.index_relation = v.index_relation)
    ORDER BY v.index_relation LIMIT 1
$$;

-- Updates tuned_index from the catalogs, and the main index if that was dropped. Returns whether anything changed. Of several
-- indexes that no statement can distinguish, only the one that the planner chooses is listed.
CREATE OR REPLACE FUNCTION vectuned._refresh_indexes(p_column_id int) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    c vectuned.tuned_column;
    entry vectuned.tuned_index;
    condition text;
    listed oid[] := '{}';
    others oid[] := '{}';
    changed boolean := false;
    main oid;
    same boolean;
    number int;
    page_costs text[];
BEGIN
    SELECT * INTO STRICT c FROM vectuned.tuned_column t WHERE t.id = p_column_id;
    page_costs := vectuned._set_page_costs(CASE WHEN vectuned._has_both_methods(c.relation) THEN '{0,0}'::text[] END);
    FOR entry IN
        SELECT c.id, 0, v.index_relation, v.method, v.form, v.marker, v.requires, 1, v.lists
        FROM vectuned._vector_indexes(c.relation, c.column_name) v WHERE v.metric = c.metric OR v.form = 'bits'
    LOOP
        condition := 'true';
        IF entry.requires IS NOT NULL THEN
            SELECT m.condition, least(greatest(m.fraction, 1e-9), 1) INTO condition, entry.share
            FROM vectuned._compile_filter(c.id, c.relation, entry.requires) m;
        END IF;
        IF NOT vectuned._takes_index(c, entry, condition) THEN
            others := others || entry.index_relation;
            CONTINUE;
        END IF;
        listed := listed || entry.index_relation;
        main := coalesce(main, CASE WHEN entry.requires IS NULL THEN entry.index_relation END);
        -- The entry of this index; or that of an equal index that no longer exists, which it was before a restore or a
        -- rebuild: then it takes over the number, so that what was learned continues to serve.
        SELECT t.index_no, t.index_relation = entry.index_relation INTO number, same
        FROM vectuned.tuned_index t
        WHERE t.column_id = c.id AND t.marker = entry.marker AND t.requires IS NOT DISTINCT FROM entry.requires
          AND t.form = entry.form AND t.method = entry.method AND t.lists IS NOT DISTINCT FROM entry.lists
          AND (t.index_relation = entry.index_relation
               OR NOT EXISTS (SELECT FROM pg_index x WHERE x.indexrelid = t.index_relation AND x.indrelid = c.relation))
        ORDER BY t.index_relation <> entry.index_relation, t.index_no LIMIT 1;
        IF same IS NOT TRUE THEN
            DELETE FROM vectuned.tuned_index t WHERE t.column_id = c.id AND t.index_relation = entry.index_relation;
            changed := true;
        END IF;
        UPDATE vectuned.tuned_index t SET index_relation = entry.index_relation, share = entry.share
        WHERE t.column_id = c.id AND t.index_no = number;
        CONTINUE WHEN FOUND;
        -- Numbers are never reused: what is known of a dropped index must not apply to another.
        UPDATE vectuned.tuned_column t SET last_index_no = t.last_index_no + 1 WHERE t.id = c.id
        RETURNING t.last_index_no INTO number;
        INSERT INTO vectuned.tuned_index
        VALUES (c.id, number, entry.index_relation, entry.method, entry.form, entry.marker, entry.requires, entry.share,
                entry.lists);
    END LOOP;
    PERFORM vectuned._set_page_costs(page_costs);
    UPDATE vectuned.tuned_column t SET passed_over = others WHERE t.id = c.id AND t.passed_over <> others;
    changed := changed OR FOUND;
    DELETE FROM vectuned.tuned_index t WHERE t.column_id = c.id AND t.index_relation <> ALL (listed);
    changed := changed OR FOUND;
    IF changed THEN
        -- What was learned about an index goes with it. NULL stands for the main index, which may now be of another method.
        DELETE FROM vectuned.bank b
        WHERE b.column_id = c.id AND NOT EXISTS (
            SELECT FROM vectuned.tuned_index t
            WHERE t.column_id = c.id AND (t.method = 'ivfflat') = (b.probes IS NOT NULL)
              AND CASE WHEN b.index_no IS NULL THEN t.index_relation = CASE WHEN c.index_relation = ANY (listed) THEN c.index_relation ELSE main END
                       ELSE t.index_no = b.index_no END);
        DELETE FROM vectuned.measured_path p
        WHERE p.column_id = c.id AND p.index_no IS NOT NULL AND NOT EXISTS (
            SELECT FROM vectuned.tuned_index t WHERE t.column_id = c.id AND t.index_no = p.index_no);
    END IF;
    IF c.index_relation <> ALL (listed) AND main IS NOT NULL THEN
        UPDATE vectuned.tuned_column t SET index_relation = main WHERE t.id = c.id;
        changed := true;
    END IF;
    UPDATE vectuned.tuned_column t
    SET default_probes = greatest(current_setting('ivfflat.probes')::int, ceil(sqrt(i.lists))::int)
    FROM vectuned.tuned_index i
    WHERE t.id = c.id AND i.column_id = c.id AND i.index_relation = t.index_relation AND i.lists IS NOT NULL
      AND t.default_probes <> greatest(current_setting('ivfflat.probes')::int, ceil(sqrt(i.lists))::int);
    RETURN changed;
END
$$;
