"""The rights of each role: all it needs and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from psycopg import errors, sql
from tests.integration.role_helpers import GROUPS, QUERY, member, tuned_with_roles
from tests.integration.table_helpers import Connection, exact, one, plain_role, raw, search, text

from vectuned.config.errors import UsageError
from vectuned.daemon.database.session import open_session
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.sql.install import migrate

# The functions that each role may execute. All others are for the owner only.
SEARCHING = """
    _rungs _k_class _ef_search _signature _decide _decide_by_probe _record _inbox_bytes _effort_cap
    _compile_filter _filter_test _filter_operator _filter_share _filter_number _common_share _is_bigint
    _filtered_default _partial_default _served_path _filter_bucket _search_function _search_fallback
    _check_query
    _tuned_column _fragments _index_fragments _generation _probe _default_effort params _filtered_params
    _unfiltered_params apply search search_rows record_feedback _may_tune _daemon_runs _notes
    _count_unrecordable _query_id _search_1 _filtered_1
    _search_changed _present_index _present_effort
    _added_index _has_both_methods _set_page_costs _has_time _statement_timeout _warn_cut_short _home
    _key_columns _live _stored_columns _missing_part _outdated _vector_indexes _marker _predicate_filter
    _filtered_statement _column_dimensions
    record_statements condition_shares _condition_for _params _changed_params _row_relation _rows_statement
    _search_page _check_page _nearest_thousand _apply_checked _main_effort _effort_to_set _continue_scans
    _apply_looked_up _effort_setting _kept_effort _find_effort _record_call _recorded_share _draw_bound
"""
INDEXES = """
    _refresh_indexes _refresh_statistics _takes_index _plan_reads _plan_indexes _generate _generate_dispatch
    _follow_column _update_column _refresh_column _check_range _check_request _unreadable stats
    recommend_params export_patterns import_patterns
"""
FUNCTIONS = {
    "vectuned_user": SEARCHING,
    "vectuned_admin": f"""{SEARCHING} {INDEXES}
        enable disable refresh _wake _redact_inbox _default_tail auto_tune benchmark_recall benchmark_latency
        request_result cancel_request _inspect _index_advice _policy_note _drop_generated _forget_column
        _say_out_of_reach _refuse_foreign_partitions _describe_indexes""",
    "vectuned_daemon": f"""{SEARCHING} {INDEXES}
        _drain _recorded_searches _settle_inbox _trim_trajectories _limit_recording
        _partition _bound_inbox _cap_efforts _wake _want_wake _daemon_sleeps _refresh_missing _set_alert
        _fall_back
        _fallback_effort _restart_checks _row_estimate _set_baseline _since_baseline _versions
        _replay _replay_statement
        _check_replay_plan _replay_exact _replay_other_paths _replay_restarted _replay_continued
        _replay_fresh _elapsed_ms _record_calls""",
}

# Rights on tables and views, by privilege; columns in parentheses if the right is limited to them.
PUBLISHED = """tuned_column tuned_index bank measured_path pattern status readable_statistics
    imported(column_id,created_at,import_no,imported_at,proven_here,source)"""
STATEMENTS = """statement(by_share,certified,column_id,expected_recall,fingerprint,k_class,published_at,\
recall_bound,settings,shape)"""
TABLES = {
    "vectuned_user": {"SELECT": f"{PUBLISHED} {STATEMENTS}"},
    "vectuned_admin": {
        "SELECT": f"""{PUBLISHED} promises requests event promise job column_failure table_read statement
            adoption observation condition_share(column_id) baseline(column_id,first_replay)
            text_call(column_id,failure,fingerprint,generations,k_class,latency_ms,outcomes,recorded_at,\
replayed_at,shape,source)
            filter_statistics(attribute,column_id) inbox(column_id) feedback(column_id)
            trajectory(column_id,replayed_at)
            recall_check(check_no,checked_at,column_id,filter_digest,hardness,k_class,recall,recorded_at,shape,\
version)
            replay(asked_filtered_recall,asked_recall,blocks,column_id,exact_ms,filtered_recall,fraction,\
fresh_ms,fresh_place,generation,is_counter_example,k,k_class,k_classes,matches,ms,other_ms,other_recall,\
probe,recall,recorded_at,replay_no,replayed_at,shape,takes_index)""",
        "INSERT": "tuned_column tuned_index filter_statistics event adoption",
        "UPDATE": """tuned_column tuned_index filter_statistics adoption
            trajectory(condition,query,replayed_at)
            text_call(parameters,replayed_at,text)
            statement(by_share,certified,expected_recall,figures,published_at,recall_bound,settings)""",
        "DELETE": """tuned_column tuned_index bank measured_path promise inbox feedback imported text_call
            condition_share""",
    },
    "vectuned_daemon": {
        "SELECT": f"""{PUBLISHED.replace("proven_here,", "proven_here,provenance,")}
            inbox trajectory feedback replay recall_check promise promises baseline
            recorded event request job column_failure table_read statement adoption log_position
            statement_inbox condition_share observation text_call
            filter_statistics(attribute,column_id)""",
        "INSERT": """trajectory baseline promise filter_statistics tuned_index bank pattern measured_path
            recorded replay event recall_check job column_failure table_read statement log_position
            condition_share observation text_call""",
        "UPDATE": """inbox trajectory baseline promise filter_statistics tuned_index bank pattern
            recorded measured_path replay request job column_failure table_read statement log_position
            feedback(judged) observation text_call adoption(alarms)
            tuned_column(alert,default_probes,index_relation,last_index_no,passed_over,record_at_most,\
target_recall)""",
        "DELETE": "inbox tuned_index bank pattern measured_path replay event recall_check request job \
            column_failure statement log_position statement_inbox condition_share text_call",
        "MAINTAIN": "inbox",
    },
}

# Functions that run with the owner's rights, and why they must.
DEFINERS = {
    "_record": "callers have no right to the inbox",
    "record_feedback": "callers have no right to what was recorded",
    "record_statements": "the same",
    "condition_shares": "the same, except for tables that they may read",
    "_generate": "only the schema's owner may create functions in it",
    "_generate_dispatch": "the same",
    "_policy_changed": "no other role may write sequences",
    "_follow_column": "the daemon may not point a tuned column to another table",
    "_refresh_missing": "the daemon may not delete tuned columns",
    "_drop_generated": "only their owner may drop functions",
    "_count_unrecordable": "the same of searches that cannot be recorded",
    "_recorded_searches": "no other role has rights on sequences",
    "_trim_trajectories": "no other role may delete what was recorded",
    "_settle_inbox": "only its owner may truncate a table and set sequences",
    "_bound_inbox": "only its owner may replace a function",
    "_cap_efforts": "the same",
    "_redact_inbox": "no other role may read the statements that wait",
    "_wake": "no other role has rights on sequences",
    "_want_wake": "the same",
    "_daemon_sleeps": "the same",
    "_partition": "only its owner may add and drop partitions of a table",
    "auto_tune": "callers have no right to the queue of requests",
    "benchmark_recall": "the same",
    "benchmark_latency": "the same",
    "request_result": "the same",
    "cancel_request": "the same",
    "_notes": "tells each caller what it may know",
    "stats": "counts what its callers may not read",
    "recommend_params": "the same",
    "export_patterns": "reads and writes what is learned, for owners of tables, too",
    "import_patterns": "the same",
}


@pytest.fixture(scope="module")
def owner(server: EmbeddedServer, template: str) -> Iterator[Connection]:
    """The owner's connection to a database with a tuned table, closed to PUBLIC."""
    with tuned_with_roles(server.dsn, template, "test_rights") as conn:
        yield conn


@pytest.mark.parametrize("role", GROUPS)
def test_roles_may_execute_only_what_they_need(owner: Connection, role: str) -> None:
    rows = owner.execute(
        "SELECT proname, has_function_privilege(%s, oid, 'EXECUTE') FROM pg_proc "
        "WHERE pronamespace = 'vectuned'::regnamespace",
        (role,),
    ).fetchall()
    assert {name for name, may in rows if may} == set(FUNCTIONS[role].split())
    assert {name for name, _ in rows} > set(FUNCTIONS[role].split())


@pytest.mark.parametrize("role", GROUPS)
def test_roles_have_only_the_table_rights_they_need(owner: Connection, role: str) -> None:
    server = owner.info.server_version
    kinds = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "TRIGGER", "REFERENCES"]
    for kind in kinds + ["MAINTAIN"] * (server >= 170000):
        by_column = kind in ("SELECT", "INSERT", "UPDATE", "REFERENCES")
        columns = (
            "(SELECT string_agg(a.attname, ',' ORDER BY a.attname) FROM pg_attribute a WHERE a.attrelid = "
            "c.oid "
            "AND a.attnum > 0 AND has_column_privilege(%(role)s, c.oid, a.attnum, %(kind)s))"
        )
        rows = owner.execute(
            "SELECT c.relname, has_table_privilege(%(role)s, c.oid, %(kind)s), "
            f"{columns if by_column else 'NULL'} FROM pg_class c "
            "WHERE c.relnamespace = 'vectuned'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', "
            "'f')".encode(),
            {"role": role, "kind": kind},
        ).fetchall()
        may = {name if whole else f"{name}({some})" for name, whole, some in rows if whole or some}
        assert may == set(TABLES[role].get(kind, "").split()), kind
        assert len(rows) > 25


@pytest.mark.parametrize("role", GROUPS)
def test_roles_have_no_rights_elsewhere(owner: Connection, role: str) -> None:
    assert (
        owner.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, "
            "has_database_privilege(rolname, current_database(), 'CREATE'), has_schema_privilege(rolname, "
            "'vectuned', "
            "'CREATE'), has_table_privilege(rolname, 'items', 'SELECT'), "
            "EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid), "
            "EXISTS (SELECT FROM pg_class c WHERE c.relowner = r.oid), "
            "EXISTS (SELECT FROM pg_sequence s WHERE has_sequence_privilege(rolname, s.seqrelid, 'USAGE, "
            "SELECT, UPDATE') AND s.seqrelid <> 'vectuned.policy_change'::regclass) "
            "FROM pg_roles r WHERE rolname = %s",
            (role,),
        ).fetchone()
        == (False,) * 12
    )


def test_security_definer_functions_are_the_listed_ones(owner: Connection) -> None:
    rows = owner.execute(
        "SELECT proname, prosecdef, EXISTS (SELECT FROM unnest(proconfig) s WHERE s ~ "
        "'^search_path=pg_catalog, '), "
        "prosqlbody IS NOT NULL FROM pg_proc WHERE pronamespace = 'vectuned'::regnamespace"
    ).fetchall()
    assert {name for name, definer, _, _ in rows if definer} == set(DEFINERS)
    # Bodies written as RETURN or BEGIN ATOMIC are parsed at creation, so they need no search_path.
    # Those that the application calls run its policies and functions under its own search_path; see
    # test_bodies_that_run_under_the_callers_search_path_are_qualified.
    unpinned = {name for name, definer, pinned, parsed in rows if not pinned and (definer or not parsed)}
    assert unpinned == {
        "search",
        "search_rows",
        "params",
        "apply",
        "_continue_scans",
        "_search_page",
        "_nearest_thousand",
    }


def test_declarations_under_the_callers_search_path_are_qualified(owner: Connection) -> None:
    # PL/pgSQL resolves their types once a session: a domain found by the first call would run in the others.
    bodies = owner.execute(
        "SELECT proname, prosrc FROM pg_proc JOIN pg_language l ON l.oid = prolang AND lanname = 'plpgsql' "
        "WHERE pronamespace = 'vectuned'::regnamespace "
        "AND coalesce(proconfig::text, '') NOT LIKE '%search_path%'"
    ).fetchall()
    declared = [
        (name, line.split()[1])
        for name, body in bodies
        for declarations in re.findall(r"DECLARE\n(.*?)\nBEGIN", body, re.DOTALL)
        for line in declarations.splitlines()
    ]
    assert {name for name, _ in declared} == {"apply", "search_rows", "_nearest_thousand"}
    assert [each for each in declared if not each[1].startswith("pg_catalog.")] == []


def test_views_show_no_rows_beyond_the_readers_rights(owner: Connection) -> None:
    views = {
        r[0] for r in owner.execute("SELECT viewname FROM pg_views WHERE schemaname = 'vectuned'").fetchall()
    }
    barred = owner.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'vectuned'::regnamespace AND relkind = 'v' "
        "AND reloptions @> '{security_barrier=true}'"
    ).fetchall()
    assert {r[0] for r in barred} == {"requests", "readable_statistics"}
    assert views == {"requests", "readable_statistics", "status", "promises"}


def test_search_without_a_role_fails_once_revoked_from_public(owner: Connection) -> None:
    with plain_role(owner, owner.info.dsn, "SELECT ON items") as stranger:
        for statement in (
            "SELECT * FROM vectuned.search('items', '[1,2,3,4,5,6,7,8]')",
            "SELECT * FROM vectuned.status",
            "SELECT vectuned._k_class(1)",
            "SELECT * FROM vectuned.bank",
        ):
            with pytest.raises(errors.InsufficientPrivilege, match="schema vectuned"):
                stranger.execute(raw(statement))
        with pytest.raises(UsageError, match=r'GRANT vectuned_user TO "test_rights_reader"'):
            open_session(stranger.info.dsn)
        migrate(owner)  # neither grants it to PUBLIC again nor revokes rights of the roles
        with pytest.raises(errors.InsufficientPrivilege, match="schema vectuned"):
            search(stranger, QUERY)
    assert one(owner, "SELECT has_table_privilege('vectuned_daemon', 'vectuned.trajectory', 'INSERT')")


def test_vectuned_user_may_search_and_nothing_else(owner: Connection) -> None:
    with member(owner, "vectuned_user") as user:
        with pytest.raises(errors.InsufficientPrivilege, match="table items"):
            search(user, QUERY)
        owner.execute(sql.SQL("GRANT SELECT ON items TO {}").format(sql.Identifier(user.info.user)))
        found = user.execute(
            "SELECT id, query_id FROM vectuned.search('items', %s)", (text(QUERY),)
        ).fetchall()
        assert [r[0] for r in found] == [key for key, _ in exact(owner, QUERY)]
        assert (
            len(
                user.execute(
                    "SELECT * FROM vectuned.search_rows(NULL::items, %s, 3)", (text(QUERY),)
                ).fetchall()
            )
            == 3
        )
        assert one(user, "SELECT vectuned.apply('items', %s)::text", text(QUERY))
        assert one(
            user, "SELECT access_path FROM vectuned.params('items', %s, 3, '{\"kind\": 1}')", text(QUERY)
        )
        assert one(user, "SELECT vectuned.record_feedback(%s, %s)", found[0][1], [found[0][0]]) == "recorded"
        for statement in (
            "SELECT * FROM vectuned.inbox",
            "SELECT * FROM vectuned.trajectory",
            "SELECT * FROM vectuned.feedback",
            "SELECT * FROM vectuned.filter_statistics",
            "SELECT * FROM vectuned.event",
            "DELETE FROM vectuned.bank",
            "SELECT vectuned.enable('items', 'embedding')",
            "SELECT vectuned.stats('items')",
            "SELECT vectuned._generate(1)",
            "SELECT vectuned._partition(1, '1 day')",
            "SELECT vectuned._drain(1)",
            "CREATE FUNCTION vectuned.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                user.execute(raw(statement))


def test_record_refuses_forged_searches(owner: Connection) -> None:
    owner.execute("DELETE FROM vectuned.inbox")
    call = (
        "vectuned._record(gen_random_uuid(), 1, '[1,2,3,4,5,6,7,8]', 10, 'hnsw', 40, NULL, NULL, '{1}', "
        "'{0}', 1)"
    )
    with member(owner, "vectuned_user") as user:
        role = sql.Identifier(user.info.user)
        owner.execute(sql.SQL("CREATE SCHEMA AUTHORIZATION {}").format(role))
        # Names that look like generated functions in the call stack: a line break, a similar schema, a type.
        names = (
            ("_search_1",),
            ("x\nPL/pgSQL function vectuned._search_1(public.vector,integer) line 9 at IF",),
            ("x vectuned._search_1(",),
        )
        assert one(user, f"SELECT {call}") is False
        assert one(user, f"SELECT bool_or({call}) FROM generate_series(1, 3)") is False
        for (name,) in names:
            function = sql.Identifier(user.info.user, name)
            body = f"BEGIN RETURN {call}; END"
            user.execute(
                sql.SQL(
                    "CREATE FUNCTION {}() RETURNS boolean LANGUAGE plpgsql SET search_path = "
                    "pg_catalog, public AS {}"
                ).format(function, sql.Literal(body))
            )
            assert user.execute(sql.SQL("SELECT {}()").format(function)).fetchone() == (False,)
        assert one(owner, "SELECT count(*) FROM vectuned.inbox") == 0
        owner.execute(sql.SQL("GRANT SELECT ON items TO {}").format(role))
        search(user, QUERY)
        long = '{"kind": [' + "1," * 40000 + "1]}"
        user.execute("SELECT vectuned.search('items', %s, 10, %s::jsonb)", (text(QUERY), long))
        assert one(owner, "SELECT count(*) FROM vectuned.inbox") == 1
