-- Requests to the daemon, which are rows in a queue. The public functions run with the owner's rights, so that callers need
-- none on the queue. The owner of a table, vectuned's owner and members of vectuned_admin may make requests for it.

-- Queues a request and notifies the daemon; returns its number.

CREATE OR REPLACE FUNCTION vectuned._queue_request(p_relation regclass, p_column name, p_kind text, p_arguments jsonb) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    caller constant name := vectuned._caller();
    max_waiting constant int := 10;  -- requests of a column; bounds the queue
    c vectuned.tuned_column := vectuned._tuned_column(p_relation, p_column);
    new_id bigint;
BEGIN
    IF NOT vectuned._may_tune(p_relation, caller) THEN
        RAISE EXCEPTION 'must be owner of % to request tuning or a benchmark', p_relation
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM vectuned._check_request(p_kind, p_arguments);
    IF p_kind = 'auto_tune' AND NOT c.enabled THEN
        RAISE EXCEPTION '%.% was disabled', p_relation, quote_ident(c.column_name)
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Call vectuned.enable first.';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('vectuned.ask', c.id));
    IF (SELECT count(*) FROM vectuned.request r WHERE r.column_id = c.id AND r.state IN ('queued', 'running')) >= max_waiting THEN
        RAISE EXCEPTION '% requests on %.% are already waiting', max_waiting, p_relation, quote_ident(c.column_name)
            USING ERRCODE = 'program_limit_exceeded', HINT = 'See vectuned.requests; vectuned.cancel_request cancels one.';
    END IF;
    INSERT INTO vectuned.request (column_id, kind, arguments, requested_by) VALUES (c.id, p_kind, p_arguments, caller)
    RETURNING request_id INTO new_id;
    PERFORM pg_notify('vectuned', jsonb_build_object('action', 'request', 'column_id', c.id, 'request_id', new_id)::text);
    PERFORM vectuned._wake();
    IF NOT vectuned._daemon_runs() THEN
        RAISE NOTICE 'request % waits: no daemon is running in this database', new_id
            USING HINT = 'Start `vectuned run`, or run `vectuned tune` or `vectuned benchmark` instead.';
    END IF;
    RETURN new_id;
END
$$;

-- Raises an error for invalid arguments of a request; the command line uses it too.
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

-- A request; an error if it does not exist or the caller may not see it.
CREATE OR REPLACE FUNCTION vectuned._visible_request(p_request_id bigint) RETURNS vectuned.request
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
            USING ERRCODE = 'undefined_object', HINT = 'Old finished requests are deleted.';
    END IF;
    IF NOT vectuned._may_tune(relation, vectuned._caller()) THEN
        RAISE EXCEPTION 'must be owner of % to see request %', relation, p_request_id
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN r;
END
$$;

-- The role of the caller, also inside a function that runs with its owner's rights.
CREATE OR REPLACE FUNCTION vectuned._caller() RETURNS name
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END;

-- Whether a role may enable and tune columns of a table: the owner of the table, vectuned's owner and vectuned_admin.
CREATE OR REPLACE FUNCTION vectuned._may_tune(p_relation regclass, p_role name) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN coalesce(pg_has_role(p_role, (SELECT r.relowner FROM pg_class r WHERE r.oid = p_relation), 'USAGE'), false)
    -- INSERT is granted to vectuned's owner and to members of vectuned_admin only.
    OR has_table_privilege(p_role, 'vectuned.tuned_column', 'INSERT');

-- Raises an error unless the caller may see the recorded searches of a table.
CREATE OR REPLACE FUNCTION vectuned._check_may_see(p_relation regclass) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    caller constant name := vectuned._caller();
BEGIN
    IF NOT (vectuned._may_tune(p_relation, caller) OR has_table_privilege(caller, 'vectuned.trajectory', 'SELECT')) THEN
        RAISE EXCEPTION 'must be owner of % to see its recorded searches', p_relation
            USING ERRCODE = 'insufficient_privilege';
    END IF;
END
$$;

-- Whether a daemon is connected to this database: it holds this lock, shared, as long as it is.
CREATE OR REPLACE FUNCTION vectuned._daemon_runs() RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
RETURN EXISTS (
    SELECT FROM pg_locks l
    WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
      AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
      AND (l.classid::bigint << 32) | l.objid::bigint = hashtextextended('vectuned.daemon', 0));

-- Requests that the daemon replay recorded searches, learn and publish now, for an objective. Returns the number of the
-- request without waiting.
CREATE OR REPLACE FUNCTION vectuned.auto_tune(
    relation regclass, column_name name DEFAULT NULL, optimize_for text DEFAULT 'balanced',
    sample_queries int DEFAULT 1000, apply boolean DEFAULT true)
RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT vectuned._queue_request(relation, column_name, 'auto_tune', jsonb_build_object(
        'optimize_for', optimize_for, 'sample_queries', sample_queries, 'apply', apply))
$$;

-- Requests a benchmark of the recall of vectuned's searches against plain SQL. filtered: searches recorded without a filter
-- (false), with one (true), or both (NULL).
CREATE OR REPLACE FUNCTION vectuned.benchmark_recall(
    relation regclass, column_name name DEFAULT NULL, k int DEFAULT 10, sample_queries int DEFAULT 200,
    filtered boolean DEFAULT false, perturbed boolean DEFAULT false)
RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT vectuned._queue_request(relation, column_name, 'benchmark_recall', jsonb_build_object(
        'k', k, 'sample_queries', sample_queries, 'filtered', filtered, 'perturbed', perturbed))
$$;

-- Requests a benchmark of the latency of vectuned's searches against plain SQL, as seen by the daemon, and of the recall of
-- both.
CREATE OR REPLACE FUNCTION vectuned.benchmark_latency(
    relation regclass, column_name name DEFAULT NULL, k int DEFAULT 10, sample_queries int DEFAULT 200,
    percentiles float8[] DEFAULT '{0.5,0.9,0.99}', filtered boolean DEFAULT false, perturbed boolean DEFAULT false)
RETURNS bigint
LANGUAGE sql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT vectuned._queue_request(relation, column_name, 'benchmark_latency', jsonb_build_object(
        'k', k, 'sample_queries', sample_queries, 'percentiles', percentiles, 'filtered', filtered, 'perturbed', perturbed))
$$;

-- The state of a request, after waiting up to `wait` for it to finish. The daemon sees the request only after the request's
-- transaction has committed, so call this in a later statement of its own.
CREATE OR REPLACE FUNCTION vectuned.request_result(
    request_id bigint, wait interval DEFAULT '0',
    OUT state text, OUT done int, OUT total int, OUT result jsonb, OUT error text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    until timestamptz := clock_timestamp() + wait;
    r vectuned.request := vectuned._visible_request(request_id);
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
        r := vectuned._visible_request(request_id);
    END LOOP;
    state := r.state;
    done := r.done;
    total := r.total;
    result := r.result;
    error := r.error;
END
$$;

-- Cancels a request. Returns 'cancelled' if it had not started, 'cancelling' if the daemon is working on it and will stop
-- within about a second, and otherwise the state in which it ended.
CREATE OR REPLACE FUNCTION vectuned.cancel_request(request_id bigint) RETURNS text
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    r vectuned.request := vectuned._visible_request(request_id);
    new_state text;
BEGIN
    UPDATE vectuned.request o
    SET cancelling = true, state = CASE o.state WHEN 'queued' THEN 'cancelled' ELSE o.state END,
        finished_at = CASE o.state WHEN 'queued' THEN clock_timestamp() END
    WHERE o.request_id = request_id AND o.state IN ('queued', 'running')
    RETURNING CASE o.state WHEN 'running' THEN 'cancelling' ELSE o.state END INTO new_state;
    RETURN coalesce(new_state, (vectuned._visible_request(r.request_id)).state);
END
$$;

-- Requests on the tables that the reader may tune, newest first.
CREATE OR REPLACE VIEW vectuned.requests WITH (security_barrier) AS
SELECT r.request_id, c.relation, c.column_name, r.kind, r.arguments,
       CASE WHEN r.state = 'running' AND r.cancelling THEN 'cancelling' ELSE r.state END AS state,
       r.done, r.total, r.result, r.error,
       CASE WHEN r.state IN ('queued', 'running') AND NOT vectuned._daemon_runs()
            THEN 'no daemon is running in this database: start `vectuned run`' END AS note,
       r.requested_by, r.requested_at, r.started_at, r.finished_at
FROM vectuned.request r
JOIN vectuned.tuned_column c ON c.id = r.column_id
WHERE vectuned._may_tune(c.relation, current_user)
ORDER BY r.request_id DESC;
