-- What the daemon can be asked for: a row in a queue, and what may be said of it. These run with the owner's rights, so
-- that callers need none on the queue; who may ask is who may change the table, or vectuned itself.

CREATE OR REPLACE FUNCTION vectuned._ask(p_relation regclass, p_column name, p_kind text, p_arguments jsonb) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    caller constant name := vectuned._caller();
    most constant int := 10;
    c vectuned.tuned_column := vectuned._tuned_column(p_relation, p_column);
    asked bigint;
BEGIN
    IF NOT vectuned._may_tune(p_relation, caller) THEN
        RAISE EXCEPTION 'must be owner of % to have it tuned or measured', p_relation
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM vectuned._check_request(p_kind, p_arguments);
    IF p_kind = 'auto_tune' AND NOT c.enabled THEN
        RAISE EXCEPTION '%.% was disabled', p_relation, quote_ident(c.column_name)
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call vectuned.enable first.';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('vectuned.ask', c.id));
    IF (SELECT count(*) FROM vectuned.request r WHERE r.column_id = c.id AND r.state IN ('queued', 'running')) >= most THEN
        RAISE EXCEPTION '% requests on %.% are waiting already', most, p_relation, quote_ident(c.column_name)
            USING ERRCODE = 'program_limit_exceeded', HINT = 'See vectuned.requests; vectuned.cancel_request takes one back.';
    END IF;
    INSERT INTO vectuned.request (column_id, kind, arguments, requested_by) VALUES (c.id, p_kind, p_arguments, caller)
    RETURNING request_id INTO asked;
    PERFORM pg_notify('vectuned', jsonb_build_object('action', 'request', 'column_id', c.id, 'request_id', asked)::text);
    IF NOT vectuned._daemon_runs() THEN
        RAISE NOTICE 'request % waits: no daemon is running here', asked
            USING HINT = 'Start `vectuned run`, or have `vectuned tune` and `vectuned benchmark` do it at once.';
    END IF;
    RETURN asked;
END
$$;

-- Raises an error for arguments that nothing can be done with; the command line asks the same.
CREATE OR REPLACE FUNCTION vectuned._check_request(p_kind text, p_arguments jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    required text[] := CASE p_kind WHEN 'auto_tune' THEN ARRAY['apply'] ELSE ARRAY['perturbed'] END;
    shares jsonb := p_arguments -> 'percentiles';
BEGIN
    PERFORM vectuned._check_range('sample_queries', (p_arguments ->> 'sample_queries')::float8,
                                  CASE p_kind WHEN 'auto_tune' THEN 0 ELSE 20 END, 10000);
    IF p_arguments ->> required[1] IS NULL THEN
        RAISE EXCEPTION '% must be true or false, got NULL', required[1] USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF p_kind = 'auto_tune' THEN
        IF (p_arguments ->> 'optimize_for' IN ('recall', 'latency', 'balanced')) IS NOT TRUE THEN
            RAISE EXCEPTION 'optimize_for must be recall, latency or balanced, got %', coalesce(p_arguments ->> 'optimize_for', 'NULL')
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
        RETURN;
    END IF;
    PERFORM vectuned._check_range('k', (p_arguments ->> 'k')::float8, 1, 1000);
    IF p_kind = 'benchmark_latency' THEN
        IF jsonb_typeof(shares) IS DISTINCT FROM 'array' OR jsonb_array_length(shares) NOT BETWEEN 1 AND 20
           OR EXISTS (SELECT FROM jsonb_array_elements(shares) e
                      WHERE CASE jsonb_typeof(e.value) WHEN 'number' THEN e.value::float8 NOT BETWEEN 0 AND 1 ELSE true END)
        THEN
            RAISE EXCEPTION 'percentiles must be 1 to 20 numbers between 0 and 1, got %', coalesce(shares::text, 'NULL')
                USING ERRCODE = 'invalid_parameter_value';
        END IF;
    END IF;
END
$$;

-- A request that the caller may see.
CREATE OR REPLACE FUNCTION vectuned._own_request(p_request_id bigint) RETURNS vectuned.request
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    r vectuned.request;
    relation regclass;
BEGIN
    SELECT o.* INTO r FROM vectuned.request o WHERE o.request_id = p_request_id;
    SELECT c.relation INTO relation FROM vectuned.tuned_column c WHERE c.id = r.column_id;
    IF relation IS NULL THEN
        RAISE EXCEPTION 'there is no request %', coalesce(p_request_id::text, 'NULL')
            USING ERRCODE = 'undefined_object', HINT = 'Finished ones are forgotten in time.';
    END IF;
    IF NOT vectuned._may_tune(relation, vectuned._caller()) THEN
        RAISE EXCEPTION 'must be owner of % to see request %', relation, p_request_id
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN r;
END
$$;

-- Who calls, also from within a function that runs with its owner's rights.
CREATE OR REPLACE FUNCTION vectuned._caller() RETURNS name
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END;

CREATE OR REPLACE FUNCTION vectuned._may_tune(p_relation regclass, p_role name) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN coalesce(pg_has_role(p_role, (SELECT r.relowner FROM pg_class r WHERE r.oid = p_relation), 'USAGE'), false)
    -- Who may take columns into care: vectuned's owner, and members of vectuned_admin.
    OR has_table_privilege(p_role, 'vectuned.tuned_column', 'INSERT');

-- Raises an error unless the caller may see what was recorded of a table.
CREATE OR REPLACE FUNCTION vectuned._check_may_see(p_relation regclass) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    caller constant name := vectuned._caller();
BEGIN
    IF NOT (vectuned._may_tune(p_relation, caller) OR has_table_privilege(caller, 'vectuned.trajectory', 'SELECT')) THEN
        RAISE EXCEPTION 'must be owner of % to see what was recorded of it', p_relation
            USING ERRCODE = 'insufficient_privilege';
    END IF;
END
$$;

-- A daemon holds this lock, shared, as long as it is connected.
CREATE OR REPLACE FUNCTION vectuned._daemon_runs() RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN EXISTS (
    SELECT FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
      AND (l.classid::bigint << 32) | l.objid::bigint = hashtextextended('vectuned.daemon', 0));

-- Replays recorded searches, learns and publishes now, for an objective. Returns the number of the request at once.
CREATE OR REPLACE FUNCTION vectuned.auto_tune(
    relation regclass, column_name name DEFAULT NULL, optimize_for text DEFAULT 'balanced',
    sample_queries int DEFAULT 1000, apply boolean DEFAULT true)
RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT vectuned._ask(relation, column_name, 'auto_tune', jsonb_build_object(
        'optimize_for', optimize_for, 'sample_queries', sample_queries, 'apply', apply))
$$;

-- Measures the recall of what serves next to that of plain SQL. filtered: searches recorded without a filter (false),
-- with one (true), or both (NULL).
CREATE OR REPLACE FUNCTION vectuned.benchmark_recall(
    relation regclass, column_name name DEFAULT NULL, k int DEFAULT 10, sample_queries int DEFAULT 200,
    filtered boolean DEFAULT false, perturbed boolean DEFAULT false)
RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT vectuned._ask(relation, column_name, 'benchmark_recall', jsonb_build_object(
        'k', k, 'sample_queries', sample_queries, 'filtered', filtered, 'perturbed', perturbed))
$$;

-- Measures the latency of what serves next to that of plain SQL, as the daemon sees it, and the recall of both.
CREATE OR REPLACE FUNCTION vectuned.benchmark_latency(
    relation regclass, column_name name DEFAULT NULL, k int DEFAULT 10, sample_queries int DEFAULT 200,
    percentiles float8[] DEFAULT '{0.5,0.9,0.99}', filtered boolean DEFAULT false, perturbed boolean DEFAULT false)
RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT vectuned._ask(relation, column_name, 'benchmark_latency', jsonb_build_object(
        'k', k, 'sample_queries', sample_queries, 'percentiles', percentiles, 'filtered', filtered, 'perturbed', perturbed))
$$;

-- How a request stands, waiting for its end as long as is said. A session sees another's work only as that is committed,
-- and the daemon this request only when it is: call it in a statement of its own, after the one that asked.
CREATE OR REPLACE FUNCTION vectuned.request_result(
    request_id bigint, wait interval DEFAULT '0',
    OUT state text, OUT done int, OUT total int, OUT result jsonb, OUT error text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    until timestamptz := clock_timestamp() + wait;
    r vectuned.request := vectuned._own_request(request_id);
BEGIN
    IF wait IS NULL OR wait < '0' OR wait > '1 hour' THEN
        RAISE EXCEPTION 'wait must be between 0 and 1 hour, got %', coalesce(wait::text, 'NULL')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF wait > '0' AND r.state IN ('queued', 'running') THEN
        IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
            RAISE EXCEPTION 'a % transaction never sees the daemon''s progress', current_setting('transaction_isolation')
                USING ERRCODE = 'active_sql_transaction', HINT = 'Wait in a statement of its own.';
        END IF;
        IF (SELECT o.xmin = pg_current_xact_id_if_assigned()::xid FROM vectuned.request o WHERE o.request_id = request_id) THEN
            RAISE EXCEPTION 'the daemon sees request % only once it is committed', request_id
                USING ERRCODE = 'active_sql_transaction', HINT = 'Commit, then wait in a statement of its own.';
        END IF;
    END IF;
    WHILE r.state IN ('queued', 'running') AND clock_timestamp() < until LOOP
        PERFORM pg_sleep(least(0.2, extract(epoch FROM until - clock_timestamp())));
        r := vectuned._own_request(request_id);
    END LOOP;
    state := r.state;
    done := r.done;
    total := r.total;
    result := r.result;
    error := r.error;
END
$$;

-- Takes a request back: 'cancelled' if it had not begun, 'cancelling' if the daemon is at it and will stop within a
-- second or so, and else how it ended.
CREATE OR REPLACE FUNCTION vectuned.cancel_request(request_id bigint) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    r vectuned.request := vectuned._own_request(request_id);
    outcome text;
BEGIN
    UPDATE vectuned.request o
    SET cancelling = true, state = CASE o.state WHEN 'queued' THEN 'cancelled' ELSE o.state END,
        finished_at = CASE o.state WHEN 'queued' THEN clock_timestamp() END
    WHERE o.request_id = request_id AND o.state IN ('queued', 'running')
    RETURNING CASE o.state WHEN 'running' THEN 'cancelling' ELSE o.state END INTO outcome;
    RETURN coalesce(outcome, (vectuned._own_request(r.request_id)).state);
END
$$;

-- Every request on the tables that the reader may change, the newest first.
CREATE OR REPLACE VIEW vectuned.requests WITH (security_barrier) AS
SELECT r.request_id, c.relation, c.column_name, r.kind, r.arguments,
       CASE WHEN r.state = 'running' AND r.cancelling THEN 'cancelling' ELSE r.state END AS state,
       r.done, r.total, r.result, r.error,
       CASE WHEN r.state IN ('queued', 'running') AND NOT vectuned._daemon_runs()
            THEN 'no daemon is running here: start `vectuned run`' END AS note,
       r.requested_by, r.requested_at, r.started_at, r.finished_at
FROM vectuned.request r
JOIN vectuned.tuned_column c ON c.id = r.column_id
WHERE vectuned._may_tune(c.relation, current_user)
ORDER BY r.request_id DESC;
