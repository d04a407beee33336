-- Statements that install vectuned: extensions, migrations, roles.

-- name: extension
-- Schema and version of an extension; no row where it is missing.
SELECT n.nspname AS schema, e.extversion AS version
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = %(name)s;

-- name: act_as_owner
-- Acts as the schema's owner for the rest of the transaction, so that what is created belongs to it.
SELECT set_config('role', pg_get_userbyid(n.nspowner), true)
FROM pg_namespace n
WHERE n.nspname = 'vectuned' AND pg_get_userbyid(n.nspowner) <> current_user;

-- name: migration_table
-- Whether vectuned is installed.
SELECT to_regclass('vectuned.migration') IS NOT NULL;

-- name: migrations_done
-- The migrations that this database has had.
SELECT name FROM vectuned.migration;

-- name: note_migrations
-- Notes that migrations were applied.
INSERT INTO vectuned.migration (name) SELECT unnest(%(names)s::text[]);

-- name: missing_right
-- What somebody lacks to install vectuned, as the statement that gives it; NULL if it is something else.
SELECT CASE
    WHEN n.nspowner IS NOT NULL AND NOT pg_has_role(n.nspowner, 'MEMBER')
        THEN format('the schema vectuned belongs to %1$s; GRANT %1$I TO %2$I', pg_get_userbyid(n.nspowner), current_user)
    WHEN n.nspowner IS NULL AND NOT has_database_privilege(current_database(), 'CREATE')
        THEN format('GRANT CREATE ON DATABASE %I TO %I', current_database(), current_user)
    WHEN NOT has_schema_privilege(e.extnamespace, 'USAGE')
        THEN format('GRANT USAGE ON SCHEMA %I TO %I', x.nspname, current_user) END
FROM (VALUES (1)) one
LEFT JOIN pg_namespace n ON n.nspname = 'vectuned'
LEFT JOIN pg_extension e ON e.extname = 'vector'
LEFT JOIN pg_namespace x ON x.oid = e.extnamespace;

-- name: roles_missing
-- The roles of vectuned that the server lacks.
SELECT w.name
FROM unnest('{vectuned_admin,vectuned_daemon,vectuned_user}'::name[]) AS w (name)
WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = w.name)
ORDER BY w.name;

-- name: roles_installed
-- Whether the roles have rights in this database.
SELECT array_to_string(n.nspacl, ',') ~ 'vectuned_user=' FROM pg_namespace n WHERE n.nspname = 'vectuned';

-- name: close_to_public
-- Leaves searching to members of the roles.
REVOKE USAGE ON SCHEMA vectuned FROM PUBLIC;

-- name: open_to_public
-- Lets every role search.
GRANT USAGE ON SCHEMA vectuned TO PUBLIC;
