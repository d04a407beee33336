-- The efforts that a session has looked up and keeps in its settings, for vectuned.apply: reading the bank in every call costs
-- 0.05 ms.

-- vectuned.policy_change holds the id of the last transaction that changed what serves any column. What a session keeps holds
-- the value that it was looked up under, and serves as long as the two are equal. The value is that of a sequence, which
-- everybody sees at once and can read in 0.001 ms, also on a standby.

-- Sets vectuned.policy_change at the end of a transaction that changes what serves. The lock lets one such transaction commit
-- after the other: so a snapshot that sees the last one sees all before it.
CREATE OR REPLACE FUNCTION vectuned._policy_changed() RETURNS trigger
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    change constant bigint := pg_current_xact_id()::text::bigint;
BEGIN
    IF pg_sequence_last_value('vectuned.policy_change'::regclass) IS DISTINCT FROM change THEN
        PERFORM pg_advisory_xact_lock(hashtextextended('vectuned.policy_change', 0));
        PERFORM setval('vectuned.policy_change', change);
    END IF;
    RETURN NULL;
END
$$;

-- The triggers. They are deferred, because the lock must be the last of the transaction, and fire always, also where logical
-- replication writes the tables. (There is no OR REPLACE for triggers that are deferred.)
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

-- The name of the setting that keeps an effort, by the arguments of vectuned.apply. The names of two columns of a table may have
-- the same hash: then nothing is kept. This function and the next have a parsed body and no SET, so that they are inlined.
CREATE OR REPLACE FUNCTION vectuned._effort_setting(p_relation oid, p_column name, k bigint, filtered boolean) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat('vectuned.effort_', p_relation, '_', hashname(p_column)::oid, '_', k, '_', filtered);

-- What the session keeps: the value of policy_change and the dimensions of the column, the setting of pgvector, its value,
-- the bound of the hashes in the sample, and the id of the column. NULL if nothing. (A setting that was first set in a transaction rolled back since is
-- empty.)
CREATE OR REPLACE FUNCTION vectuned._kept_effort(p_relation oid, p_column name, k bigint, filtered boolean) RETURNS text[]
LANGUAGE sql STABLE PARALLEL SAFE
RETURN nullif(current_setting(vectuned._effort_setting(p_relation, p_column, k, filtered), true), '')::text[];

-- What vectuned.apply sets for a call without a filter in the language of vectuned.search; no row where the column is not as it
-- was last refreshed. kept: what the session may keep, NULL while a change is being committed that this snapshot does not see.
CREATE OR REPLACE FUNCTION vectuned._find_effort(
    p_relation oid, p_column name, k bigint, filtered boolean,
    OUT column_id int, OUT dimensions int, OUT cosine boolean, OUT setting text, OUT value text, OUT bound int, OUT kept text[])
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    -- One statement, so that everything is of one snapshot.
    SELECT c.id, c.dimensions, c.metric = 'cosine', s.setting, s.value, s.bound,
           CASE WHEN v.change = pg_current_xact_id_if_assigned()::text::bigint THEN NULL
                WHEN EXISTS (SELECT FROM pg_attribute o WHERE o.attrelid = c.relation AND o.attnum > 0 AND NOT o.attisdropped
                             AND o.attname <> p_column AND hashname(o.attname) = hashname(p_column)) THEN NULL
                -- A snapshot of a standby does not say which of the transactions in it were in progress.
                WHEN CASE WHEN pg_is_in_recovery() THEN v.change < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
                          ELSE pg_visible_in_snapshot(v.change::text::xid8, pg_current_snapshot()) END
                THEN ARRAY[concat(v.change, ' ', c.dimensions), s.setting, s.value, s.bound::text, c.id::text] END
    FROM (SELECT pg_sequence_last_value('vectuned.policy_change'::regclass) AS change) v
    JOIN vectuned.tuned_column c ON c.relation = p_relation AND c.missing_since IS NULL
        AND CASE WHEN p_column IS NULL THEN (SELECT count(*) FROM vectuned.tuned_column o WHERE o.relation = p_relation) = 1
                 ELSE c.column_name = p_column END
    JOIN pg_class r ON r.oid = c.relation AND r.relname = c.relation_name
    JOIN pg_namespace n ON n.oid = r.relnamespace AND n.nspname = c.relation_schema
    JOIN pg_attribute a ON a.attrelid = c.relation AND a.attnum = c.column_number AND a.attname = c.column_name
    CROSS JOIN LATERAL vectuned._main_effort(c.id, k) e
    CROSS JOIN LATERAL (SELECT coalesce(e.ef_search, e.probes) AS usual) d
    CROSS JOIN LATERAL (
        SELECT CASE WHEN e.probes IS NULL THEN 'hnsw.ef_search' ELSE 'ivfflat.probes' END AS setting,
               least(greatest(CASE WHEN filtered IS FALSE THEN coalesce(e.learned, d.usual) ELSE greatest(e.learned, d.usual) END,
                              CASE WHEN e.probes IS NULL THEN k END), CASE WHEN e.probes IS NULL THEN 1000 END)::text AS value,
               CASE WHEN filtered IS FALSE THEN (vectuned._draw_bound(vectuned._recorded_share(c)) >> 32)::int
                    ELSE -2147483648 END AS bound) s
    WHERE k BETWEEN 1 AND 1000
$$;
