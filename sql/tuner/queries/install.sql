-- Statements of the installation: extensions, migrations, roles.

-- name: extension
-- Schema and version of an extension; no row if it is not installed.
SELECT n.nspname AS schema, e.extversion AS version
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = %(name)s;

-- name: act_as_owner
-- Switches to the owner of the schema for the rest of the transaction, so that new objects belong to it.
SELECT set_config('role', pg_get_userbyid(n.nspowner), true) AS role
FROM pg_namespace n
WHERE n.nspname = 'vectuned' AND pg_get_userbyid(n.nspowner) <> current_user;

-- name: migration_table
-- Whether vectuned is installed.
SELECT to_regclass('vectuned.migration') IS NOT NULL AS installed;

-- name: migrations_done
-- Names of the migrations applied to this database.
SELECT name FROM vectuned.migration;

-- name: record_migrations
-- Records that migrations were applied.
INSERT INTO vectuned.migration (name) SELECT unnest(%(names)s::text[]);

-- name: missing_right
-- The privilege that the current role lacks to install vectuned, as the statement that grants it; NULL if none of these.
SELECT CASE
    WHEN n.nspowner IS NOT NULL AND NOT pg_has_role(n.nspowner, 'MEMBER')
        THEN format('the schema vectuned belongs to %1$s; GRANT %1$I TO %2$I', pg_get_userbyid(n.nspowner), current_user)
    WHEN n.nspowner IS NULL AND NOT has_database_privilege(current_database(), 'CREATE')
        THEN format('GRANT CREATE ON DATABASE %I TO %I', current_database(), current_user)
    WHEN NOT has_schema_privilege(e.extnamespace, 'USAGE')
        THEN format('GRANT USAGE ON SCHEMA %I TO %I', x.nspname, current_user) END AS advice
FROM (VALUES (1)) one
LEFT JOIN pg_namespace n ON n.nspname = 'vectuned'
LEFT JOIN pg_extension e ON e.extname = 'vector'
LEFT JOIN pg_namespace x ON x.oid = e.extnamespace;

-- name: roles_missing
-- Roles of vectuned that do not exist on the server.
SELECT w.name
FROM unnest('{vectuned_admin,vectuned_daemon,vectuned_user}'::name[]) AS w (name)
WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = w.name)
ORDER BY w.name;

-- name: roles_installed
-- Whether vectuned's roles have privileges in this database.
SELECT array_to_string(n.nspacl, ',') ~ 'vectuned_user=' AS installed FROM pg_namespace n WHERE n.nspname = 'vectuned';

-- name: revoke_from_public
-- Restricts searching to members of the roles.
REVOKE USAGE ON SCHEMA vectuned FROM PUBLIC;

-- name: grant_to_public
-- Allows every role to search.
GRANT USAGE ON SCHEMA vectuned TO PUBLIC;
