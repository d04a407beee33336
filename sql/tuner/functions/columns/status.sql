-- Views and counters for people and dashboards: status, stats, promises.

-- How many sampled searches of a column since the last crash of the server were of a kind that is never recorded; NULL on a
-- standby, which cannot read unlogged sequences.
CREATE OR REPLACE FUNCTION vectuned._unrecordable(p_column_id int) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF pg_is_in_recovery() THEN
        RETURN NULL;
    END IF;
    RETURN coalesce(pg_sequence_last_value(to_regclass('vectuned._unrecordable_' || p_column_id)), 0);
END
$$;

-- What concerns a whole column beyond its state: work that fails on it, and searches that nothing is learned from, because they
-- cannot be recorded: the catalogs show which there may be, and a counter how many of the sampled ones there were, except on
-- standbys and in read-only transactions, which cannot count. Errors are quoted only
-- to those who may see the column's recorded searches. It runs with the owner's rights, for the view below.
CREATE OR REPLACE FUNCTION vectuned._notes(p_column_id int) RETURNS text[]
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_remove(ARRAY[
        vectuned._policy_note(c.relation),
        CASE WHEN EXISTS (SELECT FROM vectuned.promise p WHERE p.column_id = c.id AND p.shape <> '')
             THEN 'nothing is learned from searches with a filter over 64 kB: they are answered, but not recorded' END,
        (SELECT format('%s sampled searches were of a kind that is never recorded: under row level security, or with a filter over '
                       '64 kB', to_char(n.number, 'FM999,999,999,999'))
         FROM (SELECT vectuned._unrecordable(c.id) AS number) n WHERE n.number > 0),
        CASE WHEN pg_is_in_recovery() THEN 'nothing is learned from searches on this standby: it cannot record them'
             WHEN EXISTS (SELECT FROM pg_stat_replication r WHERE r.state = 'streaming')
             THEN 'nothing is learned from searches on standbys: these cannot record them' END,
        (SELECT format('nothing is learned from searches in read-only transactions, the default of %s',
                       string_agg(coalesce('role ' || quote_ident(r.rolname), 'this database'), ', ' ORDER BY r.rolname))
         FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole
         WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
           AND EXISTS (SELECT FROM unnest(s.setconfig) o WHERE o ~ '^default_transaction_read_only=(on|true|yes|1)$')
         HAVING count(*) > 0)], NULL)
    || ARRAY(
        SELECT format('%s fails since %s%s', f.job, to_char(f.since, 'YYYY-MM-DD HH24:MI'),
                      CASE WHEN m.may THEN ': ' || f.error ELSE '' END)
        FROM vectuned.column_failure f WHERE f.column_id = c.id ORDER BY f.job)
    || ARRAY(SELECT vectuned._illnesses(c))
    FROM vectuned.tuned_column c
    CROSS JOIN LATERAL (SELECT vectuned._may_tune(c.relation, vectuned._caller())
                               OR has_table_privilege(vectuned._caller(), 'vectuned.trajectory', 'SELECT') AS may) m
    WHERE c.id = p_column_id
$$;

-- What serves each column and class of k, and in which state; one row per column while nothing has been learned.
CREATE OR REPLACE VIEW vectuned.status AS
SELECT l.relation, l.column_name, c.enabled, c.metric, l.dimensions, x.index_relation::regclass, c.target_recall,
       c.max_tail, c.sample_rate, c.alert,
       b.k_class,
       CASE WHEN x.index_relation IS NULL THEN 'exact' WHEN b.index_relation IS NOT NULL THEN b.access_path
            WHEN x.method = 'hnsw' THEN 'hnsw' ELSE 'ivfflat' END AS access_path,
       CASE WHEN x.index_relation IS NULL THEN NULL WHEN b.access_path = 'exact' THEN NULL WHEN b.index_relation IS NOT NULL THEN b.ef_search
            ELSE e.ef_search END AS ef_search,
       CASE WHEN x.index_relation IS NULL THEN NULL WHEN b.access_path = 'exact' THEN NULL WHEN b.index_relation IS NOT NULL THEN b.probes
            ELSE e.probes END AS probes,
       coalesce(b.index_relation, x.index_relation)::regclass AS path_index,
       b.expected_recall, b.recall_bound, b.tail, b.tail_bound, b.certified, b.samples, b.saving, b.patterns, b.version, b.published_at,
       CASE WHEN m.part IN ('table missing', 'column missing')
                THEN format('%s: forgotten a day after it was missed; at once by vectuned.disable(%s, %L, forget => true)',
                            m.part, l.relation::oid, l.column_name)
            WHEN m.part IS NOT NULL THEN m.part || ', so searches fail as plain SQL does; once that is mended, the daemon follows'
            WHEN NOT c.enabled THEN 'disabled'
            WHEN o.change IS NOT NULL
                THEN format('%s: searches take a slower path until the daemon, or vectuned.refresh(%L, %L), follows',
                            o.change, l.relation, l.column_name)
            WHEN x.index_relation IS NULL AND c.index_relation = 0
                 AND EXISTS (SELECT FROM vectuned.tuned_index t JOIN pg_class r ON r.oid = t.index_relation WHERE t.column_id = c.id)
                THEN 'partial indexes only: they serve filters that imply their predicates, all other searches are exact'
            WHEN x.index_relation IS NULL
                THEN format('index missing: searches scan the table; the daemon, or vectuned.refresh(%L, %L), takes the next index '
                            'over all rows%s', l.relation, l.column_name,
                            CASE WHEN g.other IS NOT NULL THEN format(' for %s distance (that on %s is for another: vectuned.enable(%L, %L) '
                                                                      'takes it)', c.metric, g.other, l.relation, l.column_name)
                                 ELSE '' END)
            WHEN x.index_relation <> c.index_relation OR x.index_no = 0
                THEN format('index replaced: searches take a slower path until the daemon, or vectuned.refresh(%L, %L), follows',
                            l.relation, l.column_name)
            WHEN n.added IS NOT NULL
                THEN format('index added: the planner may choose %s until the daemon, or vectuned.refresh(%L, %L), follows',
                            n.added, l.relation, l.column_name)
            WHEN b.k_class IS NULL THEN 'learning'
            WHEN b.index_relation IS NULL
                THEN 'outdated: the index it was learned on is gone, the default setting serves until relearned'
            WHEN b.generation <> vectuned._generation(b.index_relation)
                THEN 'outdated: the index was rebuilt since, the fixed setting serves until relearned'
            WHEN b.defect IS NOT NULL THEN 'corrupt bank: ' || b.defect || ', the fixed setting serves'
            WHEN NOT b.proven_here THEN 'imported: not proven here yet'
            ELSE 'serving' END AS state,
       b.reason, b.source AS imported_from, vectuned._notes(c.id) AS notes
FROM vectuned.tuned_column c
CROSS JOIN LATERAL vectuned._live(c) l
CROSS JOIN LATERAL (SELECT vectuned._missing_part(l) AS part) m
CROSS JOIN LATERAL (SELECT CASE WHEN m.part IS NULL THEN vectuned._outdated(c, l) END AS change) o
LEFT JOIN LATERAL vectuned._present_index(l) x ON m.part IS NULL
CROSS JOIN LATERAL (SELECT CASE WHEN m.part IS NULL THEN vectuned._added_index(l) END AS added) n
LEFT JOIN LATERAL (
    SELECT v.index_relation::regclass AS other FROM vectuned._vector_indexes(l.relation, l.column_name) v
    WHERE v.requires IS NULL ORDER BY v.index_relation DESC LIMIT 1) g ON x.index_relation IS NULL AND m.part IS NULL
LEFT JOIN LATERAL (
    SELECT k.*, p.patterns, m.source, m.proven_here, i.index_relation,
           CASE WHEN k.access_path NOT LIKE '%\_adaptive' THEN NULL
                WHEN p.patterns = 0 THEN 'no patterns'
                WHEN p.misfits > 0 THEN p.misfits || ' patterns that no search can use'
                WHEN k.probe_ef IS NULL OR k.probe_ef NOT BETWEEN 1 AND 1000
                     OR (k.reach >= 0 AND k.reach < 'Infinity') IS NOT TRUE OR cardinality(k.center) IS DISTINCT FROM 8
                     OR cardinality(k.weights) IS DISTINCT FROM 32
                     OR EXISTS (SELECT FROM unnest(k.center || k.weights) n WHERE (abs(n) < 'Infinity') IS NOT TRUE)
                    THEN 'an incomplete signature' END AS defect
    FROM vectuned.bank k
    LEFT JOIN (vectuned.tuned_index i JOIN pg_class r ON r.oid = i.index_relation)
        ON i.column_id = k.column_id AND (i.method = 'ivfflat') = (k.probes IS NOT NULL)
       AND CASE WHEN k.index_no IS NULL THEN i.index_relation = c.index_relation ELSE i.index_no = k.index_no END
       -- While the generated functions do not fit, only the present index serves.
       AND (i.index_relation = x.index_relation OR o.change IS NULL AND x.index_relation = c.index_relation)
    LEFT JOIN vectuned.imported m ON m.import_no = k.import_no
    CROSS JOIN LATERAL (
        SELECT count(*) AS patterns,
               count(*) FILTER (WHERE @extschema@.vector_dims(p.centroid) <> 4
                                   OR p.effort = 'NaN' OR p.effort NOT BETWEEN 0 AND 13) AS misfits
        FROM vectuned.pattern p WHERE p.column_id = k.column_id AND p.k_class = k.k_class) p
    WHERE k.column_id = c.id) b ON true
LEFT JOIN LATERAL vectuned._present_effort(l, x, coalesce(b.k_class, 1), NULL) e ON x.index_relation IS NOT NULL
ORDER BY c.id, b.k_class;

-- How far replaying is behind, and what would help; NULL if it keeps up. p_waiting: number of searches to be replayed.
CREATE OR REPLACE FUNCTION vectuned._behind(p_column_id int, p_waiting bigint) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN p_waiting = 0 THEN NULL
        WHEN s.action = 'standby_waits' THEN format('%s searches wait: %s', n.waiting, s.details ->> 'why')
        WHEN e.action = 'behind' THEN format('%s searches wait%s; %s', n.waiting,
            CASE WHEN r.minutes IS NULL THEN ' and none was replayed lately'
                 WHEN r.minutes < 120 THEN format(', %s minutes at the present rate', greatest(round(r.minutes), 1))
                 ELSE format(', %s hours at the present rate', to_char(r.minutes / 60, 'FM999,999,990')) END,
            e.details ->> 'advice') END
    FROM (SELECT to_char(p_waiting, 'FM999,999,999,999') AS waiting) n
    LEFT JOIN LATERAL (
        SELECT v.action, v.details FROM vectuned.event v
        WHERE v.column_id IS NULL AND v.action IN ('standby_waits', 'standby_ready') ORDER BY v.id DESC LIMIT 1) s ON true
    LEFT JOIN LATERAL (
        SELECT v.action, v.details FROM vectuned.event v
        WHERE v.column_id = p_column_id AND v.action IN ('behind', 'caught_up') ORDER BY v.id DESC LIMIT 1) e ON true
    CROSS JOIN LATERAL (SELECT p_waiting / nullif((e.details ->> 'per_minute')::numeric, 0) AS minutes) r
$$;

-- Counters of one tuned column. successes, failures and unknown count the verdicts on the searches of its window; searches
-- not judged yet are in none of them. feedback counts the searches with feedback. behind is NULL if replaying keeps up.
-- recorded_share is the share of the searches that is recorded now. refused counts the sampled searches since the last crash of
-- the server that were not recorded, because the inbox was full or locked, or its transaction had recorded its share;
-- unrecordable those of a kind that is never recorded, under row level security or with a filter over 64 kB. in_inbox, refused
-- and unrecordable are NULL on a standby, which cannot read unlogged tables. It runs with the owner's rights, so that callers
-- need no right to the recorded vectors.
CREATE OR REPLACE FUNCTION vectuned.stats(
    relation regclass, column_name name DEFAULT NULL,
    OUT trajectories bigint, OUT awaiting_replay bigint, OUT in_inbox bigint, OUT replays bigint, OUT patterns bigint,
    OUT bank_version int, OUT recent_recall float8, OUT recent_below_08 float8, OUT max_tail float8,
    OUT recent_latency_ms float8,
    OUT last_search timestamptz, OUT last_published timestamptz,
    OUT successes bigint, OUT failures bigint, OUT unknown bigint, OUT feedback bigint,
    OUT behind text, OUT refused bigint, OUT recorded_share float8, OUT unrecordable bigint,
    OUT statements bigint, OUT statements_served bigint, OUT statement_calls bigint, OUT texts_awaiting_replay bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    c vectuned.tuned_column := vectuned._tuned_column(relation, column_name);
BEGIN
    PERFORM vectuned._check_may_see(c.relation);
    max_tail := c.max_tail;
    recorded_share := vectuned._recorded_share(c);
    SELECT coalesce(sum(r.searches), 0) INTO trajectories FROM vectuned.recorded r WHERE r.column_id = c.id;
    SELECT count(*) INTO awaiting_replay
    FROM vectuned.trajectory t WHERE t.column_id = c.id AND t.replayed_at IS NULL AND t.query IS NOT NULL;
    SELECT t.recorded_at INTO last_search
    FROM vectuned.trajectory t WHERE t.column_id = c.id ORDER BY t.recorded_at DESC LIMIT 1;
    SELECT avg(t.recall), avg((t.recall < 0.8)::int) INTO recent_recall, recent_below_08
    FROM (SELECT r.recall FROM vectuned.trajectory r WHERE r.column_id = c.id AND r.recall IS NOT NULL
          ORDER BY r.recorded_at DESC LIMIT 1000) t;
    SELECT avg(t.latency_ms) INTO recent_latency_ms
    FROM (SELECT r.latency_ms FROM vectuned.trajectory r WHERE r.column_id = c.id AND r.source = 'function'
          ORDER BY r.recorded_at DESC LIMIT 1000) t;
    SELECT count(*) FILTER (WHERE t.verdict = 'success'), count(*) FILTER (WHERE t.verdict = 'failure'),
           count(*) FILTER (WHERE t.verdict = 'unknown')
    INTO successes, failures, unknown
    FROM (SELECT r.verdict FROM vectuned.trajectory r WHERE r.column_id = c.id
          ORDER BY r.recorded_at DESC LIMIT c.trajectory_window) t;
    SELECT count(*) INTO feedback FROM vectuned.feedback f WHERE f.column_id = c.id;
    IF NOT pg_is_in_recovery() THEN
        SELECT count(*), greatest(max(i.recorded_at), last_search) INTO in_inbox, last_search
        FROM vectuned.inbox i WHERE i.column_id = c.id;
        refused := coalesce(pg_sequence_last_value(to_regclass('vectuned._refused_' || c.id)), 0);
    END IF;
    unrecordable := vectuned._unrecordable(c.id);
    behind := vectuned._behind(c.id, awaiting_replay);
    SELECT count(*) INTO replays FROM vectuned.replay r WHERE r.column_id = c.id;
    SELECT count(*) INTO patterns FROM vectuned.pattern p WHERE p.column_id = c.id;
    SELECT max(b.version), max(b.published_at) INTO bank_version, last_published
    FROM vectuned.bank b WHERE b.column_id = c.id;
    SELECT count(*), count(s.settings), coalesce(sum(s.calls), 0) INTO statements, statements_served, statement_calls
    FROM vectuned.statement s WHERE s.column_id = c.id;
    SELECT count(*) INTO texts_awaiting_replay
    FROM vectuned.text_call t WHERE t.column_id = c.id AND t.replayed_at IS NULL AND t.text IS NOT NULL;
END
$$;

-- What exact checks prove about the recall of the searches served, by class of k and kind of filter: figures, and the claim
-- in a sentence.
CREATE OR REPLACE VIEW vectuned.promises AS
SELECT c.relation, c.column_name, p.k_class, nullif(p.shape, '') AS filter, p.since, p.checks, p.unknown, p.recall,
       p.recall_bound, p.below_08, p.below_08_bound, p.epoch_recall, p.epoch_bound, p.epoch_ended, p.heavy_filters, p.confidence, p.e_value, p.alarms,
       format('recall of the searches for up to %s rows%s served since %s: %s, at least %s with %s %% confidence, from %s exact checks',
              p.k_class, ' by ' || nullif(p.shape, ''), to_char(p.since, 'YYYY-MM-DD HH24:MI'),
              coalesce(round(p.recall::numeric, 3)::text, 'unknown'), trunc(p.recall_bound::numeric, 3),
              round(100 * p.confidence::numeric, 3)::float8, p.checks)
       || CASE WHEN p.block > 1 THEN format(' in blocks of %s, because recall comes in bursts', p.block) ELSE '' END
       || CASE WHEN p.epoch_ended IS NULL THEN ''
               ELSE format('; the last epoch of 500 checks, up to %s: %s, at least %s', to_char(p.epoch_ended, 'YYYY-MM-DD HH24:MI'),
                           round(p.epoch_recall::numeric, 3), trunc(p.epoch_bound::numeric, 3)) END
       || coalesce((SELECT '; of filter values with a twentieth of the checks or more, ' || string_agg(format('%s (%s %% of them): %s, at least %s',
                        h.value ->> 'digest', round(100 * (h.value -> 'share')::numeric), round((h.value -> 'recall')::numeric, 3),
                        trunc((h.value -> 'recall_bound')::numeric, 3)), ', ' ORDER BY h.number)
                    FROM jsonb_array_elements(p.heavy_filters) WITH ORDINALITY AS h (value, number)), '')
       || CASE WHEN l.checked_at < now() - interval '1 hour'
               THEN format('; no check since %s', to_char(l.checked_at, 'YYYY-MM-DD HH24:MI')) ELSE '' END
       || '; searches in read-only or rolled-back transactions, on standbys, under row level security or with filters over '
          '64 kB are never recorded, and so not part of this' AS claim,
       l.checked_at AS last_check
FROM vectuned.promise p JOIN vectuned.tuned_column c ON c.id = p.column_id
LEFT JOIN LATERAL (
    SELECT k.checked_at FROM vectuned.recall_check k
    WHERE k.column_id = p.column_id AND k.k_class = p.k_class AND k.shape = p.shape ORDER BY k.check_no DESC LIMIT 1) l ON true
ORDER BY c.id, p.shape, p.k_class;
