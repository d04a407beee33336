-- Efforts for vectuned.apply, kept in settings of the session. Reading them from the bank in every call would cost 0.05 ms.

-- The sequence vectuned.policy_change holds the id of the last transaction that changed the policy of any column. A kept effort
-- is stored with the value that the sequence had when it was looked up, and is valid while the two are equal. A sequence is used
-- because its value is visible to all sessions at once, and can be read in 0.001 ms, also on a standby.

-- Sets vectuned.policy_change at the end of a transaction that changes a policy. The lock makes such transactions commit one
-- after another, so that a snapshot that sees the last of them sees all earlier ones.
CREATE OR REPLACE FUNCTION vectuned._policy_changed() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    change constant bigint := pg_current_xact_id()::text::bigint;
BEGIN
    -- Always taken: a savepoint that was rolled back may have released it, while the sequence kept its value.
    PERFORM pg_advisory_xact_lock(hashtextextended('vectuned.policy_change', 0));
    IF pg_sequence_last_value('vectuned.policy_change'::regclass) IS DISTINCT FROM change THEN
        PERFORM setval('vectuned.policy_change', change);
    END IF;
    RETURN NULL;
END
$$;

-- The triggers. They are deferred, so that a transaction takes this lock last. They are ENABLE ALWAYS, so that they also fire
-- when logical replication writes the tables. (CREATE OR REPLACE does not exist for constraint triggers.)
DO $$
DECLARE
    source record;
BEGIN
    FOR source IN
        SELECT * FROM (VALUES ('tuned_column', 'INSERT OR UPDATE OR DELETE', 'true'), ('tuned_index', 'INSERT OR UPDATE OR DELETE', 'true'),
                              ('bank', 'INSERT OR UPDATE OR DELETE', 'true'), ('measured_path', 'INSERT OR UPDATE', 'NEW.shape IS NULL'),
                              ('measured_path', 'DELETE', 'OLD.shape IS NULL')) AS v (name, events, condition)
    LOOP
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_catalog.pg_trigger t
            WHERE t.tgrelid = pg_catalog.format('vectuned.%I', source.name)::pg_catalog.regclass
              AND t.tgname = 'policy_changed_' || pg_catalog.lower(pg_catalog.split_part(source.events, ' ', 1)));
        EXECUTE pg_catalog.format(
            'CREATE CONSTRAINT TRIGGER %1$I AFTER %2$s ON vectuned.%3$I DEFERRABLE INITIALLY DEFERRED '
            'FOR EACH ROW WHEN (%4$s) EXECUTE FUNCTION vectuned._policy_changed(); '
            'ALTER TABLE vectuned.%3$I ENABLE ALWAYS TRIGGER %1$I',
            'policy_changed_' || pg_catalog.lower(pg_catalog.split_part(source.events, ' ', 1)), source.events, source.name,
            source.condition);
    END LOOP;
END
$$;

-- The name of the setting that keeps the effort for given arguments of vectuned.apply. If the names of two columns of a table
-- have the same hash, nothing is kept for them. This function and the next have a SQL-standard body and no SET clause, so that
-- PostgreSQL can inline them.
CREATE OR REPLACE FUNCTION vectuned._effort_setting(p_relation oid, p_column name, k bigint, filtered boolean) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat('vectuned.effort_', p_relation, '_', hashname(p_column)::oid, '_', k, '_', filtered);

-- What the session keeps, NULL if nothing: [1] the value of policy_change and the dimensions of the column, [2] the setting of
-- pgvector and [3] its value, [4] the bound of the sample (calls with a smaller hash are in it), [5] the id of the column. (A
-- setting that was first set in a transaction that was rolled back is empty.)
CREATE OR REPLACE FUNCTION vectuned._kept_effort(p_relation oid, p_column name, k bigint, filtered boolean) RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE
-- Not as an array's text, whose cast would fail where something else was written into the setting.
RETURN string_to_array(nullif(current_setting(vectuned._effort_setting(p_relation, p_column, k, filtered), true), ''), '|');

-- What vectuned.apply sets for a call whose argument `filter` is NULL; no row if the column has changed since the last refresh.
-- kept: what the session may keep; NULL while a transaction that this snapshot does not see is changing a policy.
CREATE OR REPLACE FUNCTION vectuned._find_effort(
    p_relation oid, p_column name, k bigint, filtered boolean,
    OUT column_id int, OUT dimensions int, OUT cosine boolean, OUT setting text, OUT value text, OUT bound int, OUT kept text[])
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    -- All in one statement, so that all of it is read in one snapshot.
    SELECT c.id, c.dimensions, c.metric = 'cosine', s.setting, s.value, d.bound,
           CASE WHEN v.change = pg_current_xact_id_if_assigned()::text::bigint THEN NULL
                WHEN EXISTS (SELECT FROM pg_attribute o WHERE o.attrelid = c.relation AND o.attnum > 0 AND NOT o.attisdropped
                             AND o.attname <> p_column AND hashname(o.attname) = hashname(p_column)) THEN NULL
                -- On a standby, a snapshot does not say which transactions after its xmin were in progress.
                WHEN CASE WHEN pg_is_in_recovery() THEN v.change < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
                          ELSE pg_visible_in_snapshot(v.change::text::xid8, pg_current_snapshot()) END
                THEN ARRAY[concat(v.change, ' ', c.dimensions), s.setting, s.value, d.bound::text, c.id::text] END
    FROM (SELECT pg_sequence_last_value('vectuned.policy_change'::regclass) AS change) v
    JOIN vectuned.tuned_column c ON c.relation = p_relation AND c.missing_since IS NULL
        AND CASE WHEN p_column IS NULL THEN (SELECT count(*) FROM vectuned.tuned_column o WHERE o.relation = p_relation) = 1
                 ELSE c.column_name = p_column END
    JOIN pg_class r ON r.oid = c.relation AND r.relname = c.relation_name
    JOIN pg_namespace n ON n.oid = r.relnamespace AND n.nspname = c.relation_schema
    JOIN pg_attribute a ON a.attrelid = c.relation AND a.attnum = c.column_number AND a.attname = c.column_name
    CROSS JOIN LATERAL vectuned._main_effort(c.id, k) e
    CROSS JOIN LATERAL vectuned._effort_to_set(e.learned, e.ef_search, e.probes, k, filtered) s
    CROSS JOIN LATERAL (
        SELECT CASE WHEN filtered IS FALSE THEN (vectuned._draw_bound(vectuned._recorded_share(c)) >> 32)::int
                    ELSE -2147483648 END AS bound) d
    WHERE k BETWEEN 1 AND 1000
$$;
