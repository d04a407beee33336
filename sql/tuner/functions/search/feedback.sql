-- Stores a user's feedback on the results of a search. It runs with the owner's rights, so that callers need none on what
-- was recorded. Anyone who has a query_id may give feedback on that search, and learns only these answers:
--   recorded             stored, or stored before; for each id the latest feedback counts
--   recorded, N ignored  the same, except that N ids were not in the result
--   empty                no id to store (", N ignored" if some were not in the result)
--   unsampled            the search was not recorded, like most searches: there is nothing to attach feedback to
--   unknown              no such search: expired, rolled back, lost in a crash, or never run
--   full                 not stored: the feedback on searches of that day has reached its size limit
-- Feedback of roles that may not tune the table is kept and counted, and changes no effort.
-- Errors: null_value_not_allowed without a query_id; invalid_parameter_value for more than 1,000 ids, or an id in both
-- lists; read_only_sql_transaction for feedback on a recorded search in a read-only transaction.
CREATE OR REPLACE FUNCTION vectuned.record_feedback(
    query_id uuid, relevant_ids text[] DEFAULT '{}', irrelevant_ids text[] DEFAULT '{}')
RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    contradiction text;
    search record;
    stored record;
    good text[];
    bad text[];
    ignored bigint;
    suffix text;
    trusted boolean;
BEGIN
    IF query_id IS NULL THEN
        RAISE EXCEPTION 'vectuned.record_feedback needs a query_id, got NULL'
            USING ERRCODE = 'null_value_not_allowed', HINT = 'vectuned.search returns it with every row.';
    END IF;
    IF coalesce(cardinality(relevant_ids), 0) + coalesce(cardinality(irrelevant_ids), 0) > 1000 THEN
        RAISE EXCEPTION 'feedback on % ids, but no search returns more than 1000',
            coalesce(cardinality(relevant_ids), 0) + coalesce(cardinality(irrelevant_ids), 0)
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    SELECT r.id INTO contradiction FROM unnest(relevant_ids) AS r (id) WHERE r.id = ANY (irrelevant_ids) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the id % is given as relevant and as irrelevant', contradiction
            USING ERRCODE = 'invalid_parameter_value', HINT = 'Give each id in one of the two lists.';
    END IF;

    -- The last hexadecimal digit says whether the search was recorded.
    CASE right(query_id::text, 1)
        WHEN '0' THEN RETURN 'unsampled';
        WHEN '1' THEN NULL;
        ELSE RETURN 'unknown';
    END CASE;
    IF current_setting('transaction_read_only') = 'on' THEN
        RAISE EXCEPTION 'feedback cannot be recorded in a read-only transaction'
            USING ERRCODE = 'read_only_sql_transaction',
                  HINT = 'Call vectuned.record_feedback in a transaction that may write, on the primary server.';
    END IF;
    -- One statement, so one snapshot: a search that is just being drained is in exactly one of the two tables.
    SELECT f.* INTO search
    FROM (SELECT i.column_id, i.recorded_at, i.result_ids FROM vectuned.inbox i WHERE i.query_id = query_id
          UNION ALL
          SELECT t.column_id, t.recorded_at, t.result_ids FROM vectuned.trajectory t WHERE t.query_id = query_id) f
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN 'unknown';
    END IF;

    good := ARRAY(SELECT unnest(relevant_ids) INTERSECT SELECT unnest(search.result_ids) ORDER BY 1);
    bad := ARRAY(SELECT unnest(irrelevant_ids) INTERSECT SELECT unnest(search.result_ids) ORDER BY 1);
    SELECT count(*) INTO ignored
    FROM ((SELECT unnest(relevant_ids) UNION SELECT unnest(irrelevant_ids)) EXCEPT SELECT unnest(search.result_ids)) o;
    suffix := CASE WHEN ignored > 0 THEN format(', %s ignored', ignored) ELSE '' END;
    IF good = '{}' AND bad = '{}' THEN
        RETURN 'empty' || suffix;
    END IF;
    trusted := vectuned._may_tune((SELECT c.relation FROM vectuned.tuned_column c WHERE c.id = search.column_id), vectuned._caller());
    SELECT f.relevant, f.irrelevant INTO stored
    FROM vectuned.feedback f WHERE f.query_id = query_id AND f.recorded_at = search.recorded_at;
    IF good <@ stored.relevant AND bad <@ stored.irrelevant THEN
        RETURN 'recorded' || suffix;
    END IF;
    IF pg_table_size(coalesce(
           to_regclass('vectuned.feedback_' || to_char(search.recorded_at AT TIME ZONE 'UTC', 'YYYYMMDD')),
           'vectuned.feedback_default')) > vectuned._feedback_bytes()
    THEN
        RETURN 'full';
    END IF;
    INSERT INTO vectuned.feedback AS f (query_id, column_id, recorded_at, relevant, irrelevant, trusted)
    VALUES (query_id, search.column_id, search.recorded_at, good, bad, trusted)
    ON CONFLICT ON CONSTRAINT feedback_pkey DO UPDATE
    SET relevant = ARRAY((SELECT unnest(f.relevant) EXCEPT SELECT unnest(excluded.irrelevant))
                         UNION SELECT unnest(excluded.relevant) ORDER BY 1),
        irrelevant = ARRAY((SELECT unnest(f.irrelevant) EXCEPT SELECT unnest(excluded.relevant))
                           UNION SELECT unnest(excluded.irrelevant) ORDER BY 1),
        trusted = f.trusted AND excluded.trusted, given_at = clock_timestamp(), revision = f.revision + 1
    WHERE NOT (excluded.relevant <@ f.relevant AND excluded.irrelevant <@ f.irrelevant);
    PERFORM vectuned._wake();
    RETURN 'recorded' || suffix;
END
$$;

-- Size limit, in bytes, of the feedback on the searches of one day.
CREATE OR REPLACE FUNCTION vectuned._feedback_bytes() RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
RETURN 64 * 1024 * 1024::bigint;
