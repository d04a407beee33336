-- Statements that recognise the vector searches among the SQL that applications send.

-- name: statement_settings
-- Sets, to the end of the transaction, what makes plans show a statement as it is written: a sort over a scan of every
-- row, no pruned partitions. With row_security off, a policy that would hide rows is an error.
SELECT set_config('statement_timeout', %(timeout_ms)s, true), set_config('plan_cache_mode', %(plan_cache_mode)s, true),
       set_config('search_path', coalesce(%(search_path)s, current_setting('search_path')), true),
       set_config('enable_seqscan', 'on', true), set_config('enable_sort', 'on', true), set_config('jit', 'off', true),
       set_config('enable_indexscan', 'off', true), set_config('enable_indexonlyscan', 'off', true),
       set_config('enable_bitmapscan', 'off', true), set_config('enable_tidscan', 'off', true),
       set_config('max_parallel_workers_per_gather', '0', true), set_config('enable_incremental_sort', 'off', true),
       set_config('enable_partition_pruning', 'off', true), set_config('enable_partitionwise_aggregate', 'off', true),
       set_config('constraint_exclusion', 'off', true), set_config('row_security', 'off', true),
       set_config('standard_conforming_strings', 'on', true), set_config('transaction_read_only', 'on', true);

-- name: text_call_settings
-- Sets, to the end of the transaction, what a call is run with besides its access path: read only, within a time, with the
-- search_path of its role, and an error where a policy would hide rows.
SELECT set_config('statement_timeout', %(timeout_ms)s, true), set_config('plan_cache_mode', 'force_custom_plan', true),
       set_config('search_path', coalesce(%(search_path)s, current_setting('search_path')), true),
       set_config('row_security', 'off', true), set_config('standard_conforming_strings', 'on', true),
       set_config('transaction_read_only', 'on', true);

-- name: text_call_path
-- Sets, to the end of the savepoint, the settings by which a call takes an access path.
SELECT set_config(s.name, s.value, true) FROM jsonb_each_text(%(settings)s) AS s (name, value);

-- name: statement_parameters
-- The types of the parameters of a prepared statement, by number; qualified by their schema unless that is pg_catalog.
SELECT CASE WHEN n.nspname = 'pg_catalog' THEN format_type(t.oid, -1) ELSE format('%%I.%%I', n.nspname, t.typname) END AS type
FROM pg_prepared_statements p
CROSS JOIN LATERAL unnest(p.parameter_types::oid[]) WITH ORDINALITY AS a (oid, number)
JOIN pg_type t ON t.oid = a.oid
JOIN pg_namespace n ON n.oid = t.typnamespace
WHERE p.name = %(name)s
ORDER BY a.number;

-- name: statement_tables
-- The table of the scans of a plan, and its columns of pgvector's types. Partitions stand for the ancestor that has just
-- these leaves. No row if the scans are of anything else.
WITH scanned AS (
    SELECT array_agg(DISTINCT c.oid ORDER BY c.oid) AS oids
    FROM unnest(%(schemas)s::text[], %(tables)s::text[]) AS s (schema, name)
    JOIN pg_namespace n ON n.nspname = s.schema
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.name),
target AS (
    SELECT s.oids[1] AS oid FROM scanned s WHERE cardinality(s.oids) = 1
    UNION ALL
    SELECT a.relid::oid FROM scanned s CROSS JOIN LATERAL pg_partition_ancestors(s.oids[1]) a
    WHERE cardinality(s.oids) > 1
      AND s.oids = ARRAY(SELECT t.relid::oid FROM pg_partition_tree(a.relid) t WHERE t.isleaf ORDER BY t.relid::oid))
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS table, c.relkind IN ('r', 'p', 'm') AS is_table,
       c.relpersistence = 't' AS is_temporary, e.extension_schema,
       ARRAY(SELECT a.attname::text FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
               AND t.typname IN ('vector', 'halfvec') AND t.typnamespace = e.extension_namespace) AS vectors
FROM target t
JOIN pg_class c ON c.oid = t.oid
JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN (SELECT x.extnamespace AS extension_namespace, s.nspname AS extension_schema
            FROM pg_extension x JOIN pg_namespace s ON s.oid = x.extnamespace WHERE x.extname = 'vector') e
ORDER BY (SELECT count(*) FROM pg_partition_ancestors(c.oid))
LIMIT 1;

-- name: statement_searched
-- The columns of pgvector's types among those given, with the ancestors of their tables where these are partitions.
SELECT DISTINCT r.oid::bigint AS relation, s.name AS column
FROM unnest(%(schemas)s::text[], %(tables)s::text[], %(columns)s::text[]) AS s (schema, relation, name)
JOIN pg_namespace n ON n.nspname = s.schema
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.relation AND c.relpersistence <> 't'
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = s.name AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid AND t.typname IN ('vector', 'halfvec')
CROSS JOIN LATERAL (SELECT c.oid UNION SELECT p.relid FROM pg_partition_ancestors(c.oid) p) AS r (oid)
ORDER BY 1, 2;

-- name: statement_volatile
-- Those of the given names of functions that are volatile in any form: their results say nothing about a later run.
SELECT DISTINCT p.proname::text FROM pg_proc p WHERE p.proname = ANY (%(functions)s) AND p.provolatile = 'v' ORDER BY 1;

-- name: statement_untrusted
-- Why a text may not be planned or run with our rights: it may call a function that neither PostgreSQL nor an extension
-- brought, by its name, an operator, a cast, a domain, or the definition of a table. Only names are compared, so a row
-- says no more than that it may. `functions` are names followed by a bracket, `members` names after a dot, `names` all
-- names, `operators` all operators. Members of extensions count if a superuser owns them or they are written in C, because
-- the owner of an extension can add functions to it.
WITH RECURSIVE untrusted AS MATERIALIZED (
    SELECT p.oid, p.proname, p.pronargs - p.pronargdefaults AS required,
           p.proowner <> (SELECT r.oid FROM pg_roles r WHERE r.rolname = current_user) AND NOT o.rolsuper AS is_foreign
    FROM pg_proc p JOIN pg_roles o ON o.oid = p.proowner JOIN pg_language l ON l.oid = p.prolang
    WHERE p.oid >= 16384 AND p.pronamespace <> 'pg_catalog'::regnamespace
      AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
      AND NOT (EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
               AND (o.rolsuper OR l.lanname IN ('c', 'internal')))),
operators AS (
    SELECT o.oid, o.oprname, u.is_foreign FROM pg_operator o JOIN untrusted u ON u.oid = o.oprcode),
casts AS (
    -- Casts between types of PostgreSQL are its own.
    SELECT t.type FROM pg_cast c JOIN untrusted u ON u.oid = c.castfunc
    CROSS JOIN LATERAL unnest(ARRAY[c.castsource, c.casttarget]) t (type) WHERE t.type >= 16384),
dependent AS (
    SELECT d.classid, d.objid FROM pg_depend d JOIN untrusted u ON u.oid = d.refobjid
    WHERE d.refclassid = 'pg_proc'::regclass AND u.is_foreign
    UNION
    SELECT d.classid, d.objid FROM pg_depend d JOIN operators o ON o.oid = d.refobjid
    WHERE d.refclassid = 'pg_operator'::regclass AND o.is_foreign),
defined AS (
    SELECT coalesce(i.indrelid, d.objid) AS oid FROM dependent d LEFT JOIN pg_index i ON i.indexrelid = d.objid
    WHERE d.classid = 'pg_class'::regclass
    UNION SELECT c.conrelid FROM dependent d JOIN pg_constraint c ON c.oid = d.objid WHERE d.classid = 'pg_constraint'::regclass
    UNION SELECT r.ev_class FROM dependent d JOIN pg_rewrite r ON r.oid = d.objid WHERE d.classid = 'pg_rewrite'::regclass
    UNION SELECT p.polrelid FROM dependent d JOIN pg_policy p ON p.oid = d.objid WHERE d.classid = 'pg_policy'::regclass
    UNION SELECT s.stxrelid FROM dependent d JOIN pg_statistic_ext s ON s.oid = d.objid
    WHERE d.classid = 'pg_statistic_ext'::regclass
    -- Defaults are for writes only, except those of virtual columns.
    UNION SELECT a.attrelid FROM dependent d JOIN pg_attrdef f ON f.oid = d.objid
    JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum AND a.attgenerated = 'v'
    WHERE d.classid = 'pg_attrdef'::regclass
    UNION SELECT a.attrelid FROM casts c JOIN pg_attribute a ON a.atttypid = c.type AND NOT a.attisdropped
    UNION SELECT c.oid FROM pg_class c WHERE c.relkind = 'f'),
relations AS (
    SELECT d.oid FROM defined d
    UNION
    SELECT x.oid FROM relations r CROSS JOIN LATERAL (
        SELECT w.ev_class AS oid FROM pg_depend d JOIN pg_rewrite w ON w.oid = d.objid
        WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid
        UNION ALL SELECT i.inhparent FROM pg_inherits i WHERE i.inhrelid = r.oid) x),
types AS (
    SELECT c.type AS oid FROM casts c
    UNION SELECT n.contypid FROM dependent d JOIN pg_constraint n ON n.oid = d.objid
    WHERE d.classid = 'pg_constraint'::regclass AND n.contypid <> 0
    UNION SELECT r.rngtypid FROM pg_range r JOIN untrusted u ON u.oid IN (r.rngcanonical, r.rngsubdiff))
SELECT format('the function %%s', u.proname) AS reason FROM untrusted u
WHERE u.proname = ANY (%(functions)s) OR u.proname = ANY (%(members)s) AND u.required <= 1
UNION ALL
-- Functions of PostgreSQL that run SQL they are given, and are not volatile.
SELECT format('the function %%s', f.name) FROM unnest(%(functions)s::text[]) AS f (name)
WHERE f.name IN ('ts_rewrite', 'ts_stat') OR f.name LIKE '%%\_to\_xml%%'
UNION ALL
SELECT format('the operator %%s', o.oprname) FROM operators o
WHERE EXISTS (SELECT FROM unnest(%(operators)s::text[]) AS t (name) WHERE position(o.oprname IN t.name) > 0)
UNION ALL
SELECT format('the type %%s', y.typname) FROM types t JOIN pg_type y ON y.oid = t.oid
WHERE y.typname = ANY (%(names)s) OR y.typname LIKE '\_%%' AND substr(y.typname, 2) = ANY (%(names)s)
UNION ALL
SELECT format('the relation %%s', c.relname) FROM relations r JOIN pg_class c ON c.oid = r.oid
WHERE c.relname = ANY (%(names)s)
LIMIT 1;

-- name: statement_schemas
-- For each of the given names of operators, functions or types the first schema of the search_path, other than pg_catalog,
-- that has it; quoted.
SELECT DISTINCT ON (f.name) f.name, quote_ident(s.schema) AS schema
FROM unnest(current_schemas(false)) WITH ORDINALITY AS s (schema, position)
JOIN pg_namespace n ON n.nspname = s.schema AND n.nspname <> 'pg_catalog'
CROSS JOIN LATERAL (
    SELECT o.oprname::text AS name FROM pg_operator o WHERE o.oprnamespace = n.oid AND o.oprname = ANY (%(names)s)
    UNION SELECT p.proname FROM pg_proc p WHERE p.pronamespace = n.oid AND p.proname = ANY (%(names)s)
    UNION SELECT t.typname FROM pg_type t WHERE t.typnamespace = n.oid AND t.typname = ANY (%(names)s)) f
ORDER BY f.name, s.position;
