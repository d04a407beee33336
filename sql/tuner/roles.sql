-- The roles of vectuned, and what their members may do in this database. `vectuned migrate --roles` runs this script. A DBA
-- may run it in psql instead, as the owner of the schema with the right to create roles (or after the roles were created).
-- Roles belong to the server, rights to a database: run it once in each database. Until then `vectuned migrate` grants
-- nothing to the roles. Running it again is safe, and revokes what an earlier version granted.

DO $$
DECLARE
    role name;
BEGIN
    FOREACH role IN ARRAY '{vectuned_admin,vectuned_daemon,vectuned_user}'::name[] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = role) THEN
            EXECUTE pg_catalog.format('CREATE ROLE %I NOLOGIN', role);
        END IF;
    END LOOP;
END
$$;

REVOKE ALL ON ALL TABLES IN SCHEMA vectuned FROM vectuned_user, vectuned_admin, vectuned_daemon;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA vectuned FROM vectuned_user, vectuned_admin, vectuned_daemon;

-- vectuned_user: what PUBLIC may do (grants.sql), and nothing else.
GRANT USAGE ON SCHEMA vectuned TO vectuned_user, vectuned_admin, vectuned_daemon;

-- vectuned_admin: enables and disables columns, requests work, and reads figures. It may count and delete what was
-- recorded, but not read it.
GRANT EXECUTE ON FUNCTION vectuned.enable, vectuned.disable, vectuned.refresh, vectuned.stats, vectuned.recommend_params, vectuned.auto_tune,
    vectuned.benchmark_recall, vectuned.benchmark_latency, vectuned.request_result, vectuned.cancel_request,
    vectuned.export_patterns, vectuned.import_patterns,
    vectuned._check_range, vectuned._check_request, vectuned._default_tail, vectuned._inspect, vectuned._unreadable,
    vectuned._policy_note, vectuned._index_advice,
    vectuned._follow_column, vectuned._update_column, vectuned._refresh_column, vectuned._refresh_indexes,
    vectuned._refresh_statistics, vectuned._takes_index, vectuned._plan_reads, vectuned._plan_indexes, vectuned._generate,
    vectuned._generate_dispatch, vectuned._drop_generated, vectuned._forget_column, vectuned._say_out_of_reach, vectuned._wake, vectuned._redact_inbox,
    vectuned._refuse_foreign_partitions, vectuned._describe_indexes
    TO vectuned_admin;
GRANT SELECT ON vectuned.promise, vectuned.promises, vectuned.requests, vectuned.event, vectuned.job,
    vectuned.column_failure, vectuned.table_read, vectuned.statement, vectuned.observation TO vectuned_admin;
GRANT SELECT, INSERT, UPDATE ON vectuned.adoption TO vectuned_admin;
GRANT DELETE ON vectuned.condition_share TO vectuned_admin;
GRANT SELECT (column_id) ON vectuned.condition_share TO vectuned_admin;
GRANT SELECT (column_id, first_replay) ON vectuned.baseline TO vectuned_admin;
GRANT UPDATE (settings, by_share, published_at, expected_recall, recall_bound, certified, figures) ON vectuned.statement TO vectuned_admin;
-- `vectuned report` needs the measurements, but not which search each belongs to.
GRANT SELECT (replay_no, column_id, replayed_at, generation, k_class, k_classes, probe, recall, blocks, ms, shape, fraction,
              filtered_recall, matches, exact_ms, other_recall, other_ms, takes_index, recorded_at, k, asked_recall,
              asked_filtered_recall, fresh_place, fresh_ms, is_counter_example) ON vectuned.replay TO vectuned_admin;
GRANT SELECT (check_no, column_id, recorded_at, checked_at, k_class, shape, version, recall, hardness, filter_digest) ON vectuned.recall_check TO vectuned_admin;
GRANT INSERT, UPDATE, DELETE ON vectuned.tuned_column, vectuned.tuned_index TO vectuned_admin;
GRANT INSERT, UPDATE ON vectuned.filter_statistics TO vectuned_admin;
GRANT INSERT ON vectuned.event TO vectuned_admin;
GRANT DELETE ON vectuned.bank, vectuned.measured_path, vectuned.promise, vectuned.inbox, vectuned.feedback, vectuned.imported
    TO vectuned_admin;
GRANT SELECT (column_id) ON vectuned.inbox, vectuned.feedback TO vectuned_admin;
GRANT SELECT (column_id, replayed_at), UPDATE (query, condition, replayed_at) ON vectuned.trajectory TO vectuned_admin;
GRANT SELECT (column_id, fingerprint, k_class, shape, recorded_at, source, latency_ms, replayed_at, generations, outcomes, failure),
    UPDATE (text, parameters, replayed_at), DELETE ON vectuned.text_call TO vectuned_admin;

-- vectuned_daemon: what `vectuned run` needs. It also needs SELECT on the tuned tables, which their owners grant.
GRANT EXECUTE ON FUNCTION vectuned._drain, vectuned._record_calls, vectuned._recorded_searches, vectuned._settle_inbox,
    vectuned._trim_trajectories, vectuned._limit_recording, vectuned._partition, vectuned._bound_inbox, vectuned._cap_efforts, vectuned._wake, vectuned._want_wake, vectuned._daemon_sleeps, vectuned._refresh_column,
    vectuned._follow_column, vectuned._update_column, vectuned._refresh_missing, vectuned._refresh_indexes,
    vectuned._refresh_statistics, vectuned._takes_index, vectuned._plan_reads, vectuned._plan_indexes,
    vectuned._generate, vectuned._generate_dispatch, vectuned._set_alert, vectuned._fall_back, vectuned._fallback_effort, vectuned._restart_checks,
    vectuned._row_estimate, vectuned._set_baseline, vectuned._since_baseline, vectuned._versions, vectuned._replay, vectuned._replay_statement,
    vectuned._check_replay_plan, vectuned._replay_exact, vectuned._replay_other_paths, vectuned._replay_restarted,
    vectuned._replay_continued, vectuned._replay_fresh, vectuned._elapsed_ms, vectuned._unreadable,
    vectuned._check_range, vectuned._check_request, vectuned.stats, vectuned.recommend_params,
    vectuned.export_patterns, vectuned.import_patterns
    TO vectuned_daemon;
GRANT SELECT ON vectuned.inbox, vectuned.trajectory, vectuned.feedback, vectuned.replay, vectuned.recall_check,
    vectuned.promise, vectuned.promises, vectuned.baseline, vectuned.event, vectuned.request, vectuned.job,
    vectuned.column_failure, vectuned.adoption TO vectuned_daemon;
GRANT SELECT (column_id, attribute) ON vectuned.filter_statistics TO vectuned_admin, vectuned_daemon;
-- UPDATE on the inbox is for FOR UPDATE, which locks rows while they are moved.
GRANT UPDATE, DELETE ON vectuned.inbox TO vectuned_daemon;
GRANT INSERT, UPDATE ON vectuned.trajectory, vectuned.baseline, vectuned.promise, vectuned.filter_statistics
    TO vectuned_daemon;
GRANT SELECT, INSERT, UPDATE ON vectuned.recorded, vectuned.table_read TO vectuned_daemon;
GRANT UPDATE (judged) ON vectuned.feedback TO vectuned_daemon;
GRANT UPDATE (index_relation, last_index_no, passed_over, default_probes, target_recall, alert, record_at_most)
    ON vectuned.tuned_column TO vectuned_daemon;
GRANT INSERT, UPDATE, DELETE ON vectuned.tuned_index, vectuned.bank, vectuned.pattern, vectuned.measured_path,
    vectuned.replay, vectuned.job, vectuned.column_failure TO vectuned_daemon;
GRANT UPDATE (alarms) ON vectuned.adoption TO vectuned_daemon;
GRANT SELECT (provenance) ON vectuned.imported TO vectuned_daemon;
GRANT SELECT, INSERT, UPDATE, DELETE ON vectuned.statement, vectuned.text_call, vectuned.log_position TO vectuned_daemon;
GRANT SELECT, INSERT, DELETE ON vectuned.condition_share TO vectuned_daemon;
GRANT SELECT, INSERT, UPDATE ON vectuned.observation TO vectuned_daemon;
GRANT SELECT, DELETE ON vectuned.statement_inbox TO vectuned_daemon;
GRANT INSERT, DELETE ON vectuned.event, vectuned.recall_check TO vectuned_daemon;
GRANT UPDATE, DELETE ON vectuned.request TO vectuned_daemon;
DO $$
BEGIN
    -- PostgreSQL before 17 has no MAINTAIN; there autovacuum truncates the inbox.
    IF current_setting('server_version_num')::int >= 170000 THEN
        GRANT MAINTAIN ON vectuned.inbox TO vectuned_daemon;
    END IF;
END
$$;
