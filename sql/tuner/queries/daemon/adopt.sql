-- Statements of `vectuned adopt`: settings of a role or database, and the record of what was changed.

-- name: adopt_load_extension
-- Loads pgvector, whose settings the server knows only then.
SELECT {schema}.vector_dims('[1]'::{schema}.vector) AS dimensions;

-- name: adopt_extension_schema
-- The schema of pgvector.
SELECT n.nspname AS name FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector';

-- name: adopt_role
-- The oid of a role, as text; NULL if there is none of that name.
SELECT r.oid::text AS oid FROM pg_roles r WHERE r.rolname = %(role)s;

-- name: adopt_current
-- Settings in force for new sessions: `own` is the value of the role in this database, or without a role (0) of the
-- database, NULL if it has none; `in_force` the value that new sessions get.
WITH given AS (
    SELECT lower(split_part(c.entry, '=', 1)) AS name, substr(c.entry, strpos(c.entry, '=') + 1) AS value, s.setdatabase,
           s.setrole
    FROM pg_db_role_setting s CROSS JOIN LATERAL unnest(s.setconfig) AS c (entry)
    WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
      AND s.setrole IN (0, %(role_oid)s::oid))
SELECT p.name,
       (SELECT g.value FROM given g
        WHERE g.name = p.name AND g.setdatabase <> 0 AND g.setrole = %(role_oid)s::oid) AS own,
       coalesce((SELECT g.value FROM given g WHERE g.name = p.name
                 ORDER BY g.setrole <> 0 DESC, g.setdatabase <> 0 DESC LIMIT 1),
                CASE WHEN p.source IN ('configuration file', 'command line', 'environment variable') THEN p.reset_val
                     ELSE p.boot_val END) AS in_force
FROM pg_settings p WHERE p.name = ANY (%(names)s);

-- name: adopt_overrides
-- Roles with a value of their own for some of the settings, which a value of the database does not reach.
SELECT DISTINCT r.rolname AS role, lower(split_part(c.entry, '=', 1)) AS name
FROM pg_db_role_setting s
CROSS JOIN LATERAL unnest(s.setconfig) AS c (entry)
JOIN pg_roles r ON r.oid = s.setrole
WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
  AND lower(split_part(c.entry, '=', 1)) = ANY (%(names)s)
ORDER BY 1, 2;

-- name: adopt_record
-- Records what was applied, and the values before.
INSERT INTO vectuned.adoption (role_name, applied, previous, figures)
VALUES (%(role)s, %(applied)s, %(previous)s, %(figures)s);

-- name: adopt_in_force
-- What was applied to a role or the database and not reverted yet, the newest first.
SELECT a.adoption_no, a.applied, a.previous, a.applied_at, a.applied_by FROM vectuned.adoption a
WHERE a.role_name IS NOT DISTINCT FROM %(role)s AND a.reverted_at IS NULL
ORDER BY a.adoption_no DESC;

-- name: adopt_reverted
-- Records that the previous values are back.
UPDATE vectuned.adoption SET reverted_at = clock_timestamp() WHERE adoption_no = %(adoption_no)s;
