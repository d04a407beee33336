-- Identity columns: logical replication, as in a blue/green deployment, copies rows and not the sequences that number them.

-- Advances the sequence of every identity column to the largest number in use.
CREATE OR REPLACE FUNCTION vectuned._advance_identities() RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    numbered record;
BEGIN
    FOR numbered IN
        SELECT c.oid::regclass AS relation, a.attname, pg_get_serial_sequence(c.oid::regclass::text, a.attname) AS sequence
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'vectuned'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
          AND a.attidentity <> ''
    LOOP
        EXECUTE format('SELECT setval(%L, m.largest) FROM (SELECT max(t.%I) AS largest FROM %s t) m CROSS JOIN %s s '
                       'WHERE m.largest > CASE WHEN s.is_called THEN s.last_value ELSE s.last_value - 1 END',
                       numbered.sequence, numbered.attname, numbered.relation, numbered.sequence);
    END LOOP;
END
$$;
