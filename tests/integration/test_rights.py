"""Who may do what: each role all it needs and nothing else, and what is said where a right is missing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import errors, sql

from vectuned.config.errors import UsageError, VectunedError
from vectuned.config.settings import Settings, load_settings
from vectuned.daemon.cli import main
from vectuned.daemon.embedded import EmbeddedServer
from vectuned.daemon.requests import serve_request
from vectuned.daemon.session import open_session
from vectuned.daemon.worker import Worker
from vectuned.sql.loader import MigrationError, install_roles, migrate

from .roles import GROUPS, database_with_roles, member
from .tables import Connection, clustered, enable, exact, make, one, plain_role, raw, search, text

VECTORS = clustered(400, 8, seed=1)
QUERY = VECTORS[0] + 0.1

# What each role may execute besides the owner. What is not named here is the owner's alone.
SEARCHING = """
    _rungs _k_class _ef_search _signature _decide _decide_by_probe _record _inbox_bytes _compile_filter
    _filter_test _filter_operator _filter_share _filter_number _common_share _is_bigint _filtered_default
    _served_path _filter_bucket _search_function _search_anew _check_query _tuned_column _fragments
    _index_fragments _generation _probe _default_effort params apply search search_rows record_feedback
    _may_tune _daemon_runs _search_1 _filtered_1
"""
INDEXES = """
    _refresh_indexes _refresh_statistics _vector_indexes _marker _predicate_filter _takes_index _plan_reads
    _plan_indexes _condition_for _generate _check_range _check_request _unreadable stats recommend_params
    export_patterns import_patterns
"""
FUNCTIONS = {
    "vectuned_user": SEARCHING,
    "vectuned_admin": f"""{SEARCHING} {INDEXES}
        enable disable auto_tune benchmark_recall benchmark_latency request_result cancel_request _inspect
        _generate_dispatch _drop_generated""",
    "vectuned_daemon": f"""{SEARCHING} {INDEXES}
        _drain _partition _bound_inbox _refresh_column _set_alert _fall_back _begin_anew _row_estimate
        _set_baseline _since_baseline _replay""",
}

# The same of tables and views, by privilege; with columns in parentheses where it is those alone.
PUBLISHED = """tuned_column tuned_index bank measured_path pattern status readable_statistics
    imported(column_id,created_at,import_no,proven_here,source)"""
TABLES = {
    "vectuned_user": {"SELECT": PUBLISHED},
    "vectuned_admin": {
        "SELECT": f"""{PUBLISHED} promises requests event promise job
            filter_statistics(attribute,column_id) inbox(column_id) feedback(column_id)
            trajectory(column_id,replayed_at)
            recall_check(check_no,checked_at,column_id,k_class,recall,shape,version)
            replay(blocks,column_id,exact_ms,filtered_recall,fraction,generation,k_class,k_classes,kept,\
matches,ms,other_ms,other_recall,probe,recall,replay_no,replayed_at,shape)""",
        "INSERT": "tuned_column tuned_index filter_statistics event",
        "UPDATE": "tuned_column tuned_index filter_statistics trajectory(query,replayed_at)",
        "DELETE": "tuned_column tuned_index bank measured_path promise inbox feedback imported",
    },
    "vectuned_daemon": {
        "SELECT": f"""{PUBLISHED} inbox trajectory feedback replay recall_check promise promises baseline
            event request job filter_statistics(attribute,column_id)""",
        "INSERT": """trajectory baseline promise filter_statistics tuned_index bank pattern measured_path
            replay event recall_check job""",
        "UPDATE": """inbox trajectory baseline promise filter_statistics tuned_index bank pattern
            measured_path replay request job feedback(judged)
            tuned_column(alert,default_probes,index_relation,learn_from,target_recall)""",
        "DELETE": "inbox tuned_index bank pattern measured_path replay event recall_check request job",
        "MAINTAIN": "inbox",
    },
}

# Functions that run with the owner's rights, and why they must.
DEFINERS = {
    "_record": "callers have no right to the inbox",
    "record_feedback": "callers have no right to what was recorded",
    "_generate": "only the schema's owner may create functions in it",
    "_generate_dispatch": "the same",
    "_drop_generated": "only their owner may drop functions",
    "_bound_inbox": "only its owner may replace a function",
    "_partition": "only its owner may add and drop partitions of a table",
    "auto_tune": "callers have no right to the queue of requests",
    "benchmark_recall": "the same",
    "benchmark_latency": "the same",
    "request_result": "the same",
    "cancel_request": "the same",
    "stats": "counts what its callers may not read",
    "recommend_params": "the same",
    "export_patterns": "reads and writes what is learned, for owners of tables, too",
    "import_patterns": "the same",
}


def settings(**values: object) -> Settings:
    return load_settings(None, {key.replace("__", "."): value for key, value in values.items()}, {})


@pytest.fixture(scope="module")
def owner(server: EmbeddedServer, template: str) -> Iterator[Connection]:
    """The owner's connection to a database with a tuned table, closed to PUBLIC."""
    with database_with_roles(server.dsn, template, "test_rights") as conn:
        make(conn, VECTORS)
        conn.execute("ALTER TABLE items ADD COLUMN kind int")
        conn.execute("UPDATE items SET kind = id % 4")
        conn.execute("ANALYZE items")
        assert enable(conn, sample_rate=1.0, min_samples=20) == 1
        yield conn


def test_who_may_not_create_roles_gets_the_statements(plain_conn: Connection, plain_database: str) -> None:
    # The first test here: those that follow have the roles, which belong to the server.
    database = sql.Identifier(plain_conn.info.dbname).as_string()
    with plain_role(plain_conn, plain_database, f"CREATE ON DATABASE {database}") as someone:
        migrate(someone)
        before = one(someone, "SELECT nspacl::text FROM pg_namespace WHERE nspname = 'vectuned'")
        with pytest.raises(
            MigrationError, match=r'run CREATE ROLE "vectuned_admin" NOLOGIN; CREATE ROLE'
        ) as refused:
            install_roles(someone)
        assert one(someone, "SELECT nspacl::text FROM pg_namespace WHERE nspname = 'vectuned'") == before
        try:
            plain_conn.execute(raw(str(refused.value).partition(" run ")[2].partition("; then")[0]))
            assert install_roles(someone) == ()
            assert one(
                someone, "SELECT has_function_privilege('vectuned_daemon', 'vectuned._drain(int)', 'EXECUTE')"
            )
        finally:
            plain_conn.execute("DROP OWNED BY vectuned_user, vectuned_admin, vectuned_daemon")
            plain_conn.execute("DROP ROLE vectuned_user, vectuned_admin, vectuned_daemon")


@pytest.mark.parametrize("role", GROUPS)
def test_each_role_may_execute_what_it_needs_and_nothing_else(owner: Connection, role: str) -> None:
    rows = owner.execute(
        "SELECT proname, has_function_privilege(%s, oid, 'EXECUTE') FROM pg_proc "
        "WHERE pronamespace = 'vectuned'::regnamespace", (role,)
    ).fetchall()  # fmt: skip
    assert {name for name, may in rows if may} == set(FUNCTIONS[role].split())
    assert {name for name, _ in rows} > set(FUNCTIONS[role].split())


@pytest.mark.parametrize("role", GROUPS)
def test_each_role_may_touch_what_it_needs_and_nothing_else(owner: Connection, role: str) -> None:
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
def test_the_roles_have_nothing_elsewhere(owner: Connection, role: str) -> None:
    assert owner.execute(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, "
        "has_database_privilege(rolname, current_database(), 'CREATE'), has_schema_privilege(rolname, "
        "'vectuned', "
        "'CREATE'), has_table_privilege(rolname, 'items', 'SELECT'), "
        "EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid), "
        "EXISTS (SELECT FROM pg_class c WHERE c.relowner = r.oid), "
        "EXISTS (SELECT FROM pg_sequence s WHERE has_sequence_privilege(rolname, s.seqrelid, 'USAGE, "
        "SELECT, UPDATE')) "
        "FROM pg_roles r WHERE rolname = %s", (role,)
    ).fetchone() == (False,) * 12  # fmt: skip


def test_functions_with_the_owners_rights_are_those_that_must_have_them(owner: Connection) -> None:
    rows = owner.execute(
        "SELECT proname, prosecdef, EXISTS (SELECT FROM unnest(proconfig) s WHERE s ~ "
        "'^search_path=pg_catalog, '), "
        "prosqlbody IS NOT NULL FROM pg_proc WHERE pronamespace = 'vectuned'::regnamespace"
    ).fetchall()
    assert {name for name, definer, _, _ in rows if definer} == set(DEFINERS)
    # What is written RETURN or BEGIN ATOMIC was parsed when it was created: a search_path means nothing to
    # it.
    assert [name for name, definer, pinned, parsed in rows if not pinned and (definer or not parsed)] == []


def test_views_apply_their_readers_rights_or_hold_nothing_of_rows(owner: Connection) -> None:
    views = {
        r[0] for r in owner.execute("SELECT viewname FROM pg_views WHERE schemaname = 'vectuned'").fetchall()
    }
    barred = owner.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'vectuned'::regnamespace AND relkind = 'v' "
        "AND reloptions @> '{security_barrier=true}'"
    ).fetchall()
    assert {r[0] for r in barred} == {"requests", "readable_statistics"}
    assert views == {"requests", "readable_statistics", "status", "promises"}


def test_without_a_role_nothing_works_once_closed_to_the_public(owner: Connection) -> None:
    with plain_role(owner, owner.info.dsn, "SELECT ON items") as stranger:
        for statement in ("SELECT * FROM vectuned.search('items', '[1,2,3,4,5,6,7,8]')",
                          "SELECT * FROM vectuned.status", "SELECT vectuned._k_class(1)",
                          "SELECT * FROM vectuned.bank"):  # fmt: skip
            with pytest.raises(errors.InsufficientPrivilege, match="schema vectuned"):
                stranger.execute(raw(statement))
        with pytest.raises(UsageError, match=r'GRANT vectuned_user TO "test_rights_reader"'):
            open_session(stranger.info.dsn)
        migrate(owner)  # does not open it again, and leaves the roles their rights
        with pytest.raises(errors.InsufficientPrivilege, match="schema vectuned"):
            search(stranger, QUERY)
    assert one(owner, "SELECT has_table_privilege('vectuned_daemon', 'vectuned.trajectory', 'INSERT')")


def test_a_user_searches_and_is_denied_the_rest(owner: Connection) -> None:
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
            "SELECT * FROM vectuned.inbox", "SELECT * FROM vectuned.trajectory",
            "SELECT * FROM vectuned.feedback",
            "SELECT * FROM vectuned.filter_statistics", "SELECT * FROM vectuned.event",
            "DELETE FROM vectuned.bank",
            "SELECT vectuned.enable('items', 'embedding')", "SELECT vectuned.stats('items')",
            "SELECT vectuned._generate(1)", "SELECT vectuned._partition(1, '1 day')",
            "SELECT vectuned._drain(1)",
            "CREATE FUNCTION vectuned.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        ):  # fmt: skip
            with pytest.raises(errors.InsufficientPrivilege):
                user.execute(raw(statement))


def test_nobody_forges_what_was_recorded(owner: Connection) -> None:
    owner.execute("DELETE FROM vectuned.inbox")
    call = (
        "vectuned._record(gen_random_uuid(), 1, '[1,2,3,4,5,6,7,8]', 10, 'hnsw', 40, NULL, NULL, '{1}', "
        "'{0}', 1)"
    )
    with member(owner, "vectuned_user") as user:
        role = sql.Identifier(user.info.user)
        owner.execute(sql.SQL("CREATE SCHEMA AUTHORIZATION {}").format(role))
        # Names that read like ours in the call stack: a line of its own, a schema that ends alike, a type.
        names = (
            ("_search_1",), ("x\nPL/pgSQL function vectuned._search_1(public.vector,integer) line 9 at IF",),
            ("x vectuned._search_1(",),
        )  # fmt: skip
        assert one(user, f"SELECT {call}") is False
        assert one(user, f"SELECT bool_or({call}) FROM generate_series(1, 3)") is False
        for (name,) in names:
            function = sql.Identifier(user.info.user, name)
            body = f"BEGIN RETURN {call}; END"
            user.execute(
                sql.SQL("CREATE FUNCTION {}() RETURNS boolean LANGUAGE plpgsql SET search_path = "
                "pg_catalog, public AS {}")
                .format(function, sql.Literal(body))
            )  # fmt: skip
            assert user.execute(sql.SQL("SELECT {}()").format(function)).fetchone() == (False,)
        assert one(owner, "SELECT count(*) FROM vectuned.inbox") == 0
        owner.execute(sql.SQL("GRANT SELECT ON items TO {}").format(role))
        search(user, QUERY)
        long = '{"kind": [' + "1," * 40000 + "1]}"
        user.execute("SELECT vectuned.search('items', %s, 10, %s::jsonb)", (text(QUERY), long))
        assert one(owner, "SELECT count(*) FROM vectuned.inbox") == 1


def test_an_admin_tunes_what_it_may_read_and_sees_no_vectors(owner: Connection) -> None:
    make(owner, VECTORS, table="shop")
    with member(owner, "vectuned_admin") as admin:
        with pytest.raises(errors.InsufficientPrivilege, match="permission denied for table shop"):
            enable(admin, "shop")
        owner.execute(sql.SQL("GRANT SELECT ON shop TO {}").format(sql.Identifier(admin.info.user)))
        notices: list[str] = []
        admin.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
        column = enable(admin, "shop", sample_rate=1.0)
        assert notices == [
            "the role vectuned_daemon may not read public.shop: GRANT SELECT ON public.shop TO "
            "vectuned_daemon"
        ]
        search(admin, QUERY, relation="shop")
        search(admin, QUERY, relation="shop")
        owner.execute("SELECT vectuned._drain(1)")
        assert one(admin, "SELECT in_inbox + trajectories FROM vectuned.stats('shop')") >= 2
        admin.execute("SELECT * FROM vectuned.recommend_params('shop')")
        for wanted in ("auto_tune('shop')", "benchmark_recall('shop')", "benchmark_latency('shop')"):
            number = one(admin, f"SELECT vectuned.{wanted}")
            assert one(admin, "SELECT vectuned.cancel_request(%s)", number) == "cancelled"
        assert one(admin, "SELECT count(*) FROM vectuned.requests") == 3
        for statement in ("SELECT query FROM vectuned.trajectory",
                          "SELECT result_ids FROM vectuned.trajectory",
                          "SELECT query FROM vectuned.inbox", "SELECT * FROM vectuned.replay",
                          "UPDATE vectuned.bank SET ef_search = 1", "SELECT vectuned._drain(1)",
                          "UPDATE vectuned.trajectory SET query = query", "DROP TABLE vectuned.event",
                          "SELECT vectuned._replay(1, 1, '[1,2,3,4,5,6,7,8]', '{10}')"):  # fmt: skip
            with pytest.raises(errors.InsufficientPrivilege):
                admin.execute(raw(statement))
        enable(admin, "shop", store_vectors=False)
        admin.execute("SELECT vectuned.disable('shop', 'embedding')")
        admin.execute("SELECT vectuned.disable('shop', 'embedding', forget => true)")
        assert one(owner, "SELECT to_regprocedure(%s)", f"vectuned._search_{column}(vector,int)") is None
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="still tuned"):
            admin.execute("SELECT vectuned._drop_generated(1)")


def test_the_daemon_does_all_its_work_with_its_role_alone(
    owner: Connection, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Drain, replay, check, judge, learn, publish, fall back, requests, upkeep: as `vectuned run` does."""
    make(owner, clustered(800, 8, seed=1), table="work")
    owner.execute("ALTER TABLE work ADD COLUMN kind int")
    owner.execute("UPDATE work SET kind = id % 4")
    owner.execute("VACUUM ANALYZE work")
    column = enable(owner, "work", sample_rate=1.0, min_samples=20)
    owner.execute("DELETE FROM vectuned.inbox; DELETE FROM vectuned.trajectory")
    for number, query in enumerate(clustered(60, 8, seed=2)):
        search(owner, query, relation="work")
        if number % 3 == 0:
            owner.execute("SELECT vectuned.search('work', %s, 10, '{\"kind\": 1}')", (text(query),))
    caplog.set_level(logging.WARNING, logger="vectuned")
    with member(owner, "vectuned_daemon", name="daemon") as session:
        chosen = {"learning__batch_min": 5, "inbox__max_mb": 65, "budget__pause_above": 9}
        folders = {"export__folder": str(tmp_path), "export__import_folder": str(tmp_path)}
        worker = Worker(session, settings(**chosen, **folders))
        worker.prepare()
        assert one(owner, "SELECT vectuned._inbox_bytes()") == 65 * 1024 * 1024
        assert 'GRANT pg_read_all_stats TO "test_rights_daemon"' in caplog.text
        assert worker.drain() == 80
        # Without the right to the tables it says which one is missing, column by column, and goes on.
        assert worker.replay_all() == 0
        assert (
            "public.work.embedding is passed over: the role test_rights_daemon may not read public.work: "
            "GRANT SELECT ON public.work TO test_rights_daemon"
        ) in caplog.text
        assert "public.items.embedding is passed over" in caplog.text
        number = one(owner, "SELECT vectuned.benchmark_recall('work', sample_queries => 20)")
        assert serve_request(session.info.dsn, settings())
        refused = one(owner, "SELECT error FROM vectuned.request_result(%s)", number)
        assert refused.endswith("GRANT SELECT ON public.work TO test_rights_daemon")
        caplog.clear()
        owner.execute("GRANT SELECT ON work, items TO vectuned_daemon")
        owner.execute("ALTER TABLE work ENABLE ROW LEVEL SECURITY")
        assert worker.replay_all() == 0
        policy = "CREATE POLICY vectuned ON public.work FOR SELECT TO test_rights_daemon USING (true)"
        assert f"exact answers need all of them: {policy}" in caplog.text
        owner.execute(raw(policy))
        owner.execute("CREATE POLICY few ON work AS RESTRICTIVE USING (id > 0)")
        assert worker.replay_all() == 0
        owner.execute("DROP POLICY few ON work")
        caplog.clear()
        assert worker.replay_all() == 80
        assert worker.judge() >= 80
        assert worker.learn_all() == 1
        worker.exchange()
        assert len(list(tmp_path.iterdir())) == 1
        assert one(owner, "SELECT count(*) FROM vectuned.bank WHERE column_id = %s", column) > 0
        owner.execute("CREATE INDEX ON work USING hnsw ((embedding::halfvec(8)) halfvec_cosine_ops)")
        assert worker.replay_all() >= 60
        worker.learn_all()
        owner.execute("DELETE FROM work WHERE id % 2 = 0")
        owner.execute("ANALYZE work")
        worker.replay_all()
        assert one(owner, "SELECT count(*) FROM vectuned.event WHERE action = 'deletes'") == 1
        assert one(owner, "SELECT alert FROM vectuned.tuned_column WHERE id = %s", column)
        worker.maintain()
        worker.watch_backlog()
        search(owner, QUERY, relation="work")
        assert worker.drain() == 1
        assert one(owner, "SELECT pg_table_size('vectuned.inbox')") <= 5 * 8192
        for call in ("auto_tune('work', sample_queries => 20)",
                     "benchmark_recall('work', sample_queries => 20)",
                     "benchmark_latency('work', sample_queries => 20)"):  # fmt: skip
            number = one(owner, f"SELECT vectuned.{call}")
            assert serve_request(session.info.dsn, settings())
            assert one(owner, "SELECT error FROM vectuned.request_result(%s)", number) is None
        assert [
            r.message for r in caplog.records if "denied" in r.message or "passed over" in r.message
        ] == []
        for statement in ("DELETE FROM items", "SELECT * FROM pg_authid", "DELETE FROM vectuned.trajectory",
                          "UPDATE vectuned.tuned_column SET relation = 'pg_class'",
                          "DROP TABLE vectuned.inbox",
                          "ALTER TABLE vectuned.inbox DISABLE TRIGGER ALL",
                          "SELECT vectuned.enable('items', 'embedding')",
                          "CREATE TABLE public.mine (id int)",
                          "CREATE FUNCTION vectuned.mine() RETURNS int LANGUAGE sql AS 'SELECT "
                          "1'"):  # fmt: skip
            with pytest.raises(errors.InsufficientPrivilege):
                session.execute(raw(statement))
        for call in (
            "_partition(1, '1 hour')",
            "_partition(1, NULL)",
            "_partition(100000, '1 day')",
            "_bound_inbox(0)",
        ):
            with pytest.raises(errors.InvalidParameterValue):
                session.execute(raw(f"SELECT vectuned.{call}"))
        # What it may write becomes SQL of others only where it is what it should be.
        session.execute(
            "UPDATE vectuned.tuned_index SET marker = 'true; SELECT 1' WHERE column_id = %s", (column,)
        )
        with pytest.raises(errors.DataCorrupted, match="holds a marker"):
            session.execute("SELECT vectuned._generate(%s)", (column,))


def test_a_login_that_is_no_daemon_is_told(owner: Connection) -> None:
    with (
        member(owner, "vectuned_user") as user,
        pytest.raises(VectunedError, match=r"then GRANT vectuned_daemon TO"),
    ):
        Worker(user, settings()).prepare()


def test_the_inbox_is_drained_where_it_may_not_be_vacuumed(owner: Connection) -> None:
    if owner.info.server_version < 170000:
        pytest.skip("before PostgreSQL 17 this is how it always is")
    owner.execute("REVOKE MAINTAIN ON vectuned.inbox FROM vectuned_daemon")
    search(owner, QUERY)
    with member(owner, "vectuned_daemon", name="daemon") as session:
        notices: list[str] = []
        session.add_notice_handler(lambda notice: notices.append(str(notice.message_primary)))
        assert Worker(session, settings()).drain() >= 1
        assert notices == []
    install_roles(owner)
    assert one(owner, "SELECT has_table_privilege('vectuned_daemon', 'vectuned.inbox', 'MAINTAIN')")


def test_installing_the_roles_by_the_command_line(
    owner: Connection, database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["migrate", "--dsn", database, "--roles"]) == 0
    assert "roles: there already; their rights are granted" in capsys.readouterr().out
    with psycopg.connect(database, autocommit=True) as conn:
        make(conn, VECTORS)
        enable(conn)
        with plain_role(conn, database, "SELECT ON items") as anyone:
            assert search(anyone, QUERY)
            assert main(["migrate", "--dsn", database, "--roles", "--no-public"]) == 0
            with pytest.raises(errors.InsufficientPrivilege):
                search(anyone, QUERY)
            assert main(["migrate", "--dsn", database, "--roles", "--public"]) == 0
            assert search(anyone, QUERY)
            assert main(["enable", "--dsn", anyone.info.dsn, "items", "embedding"]) == 2
    assert "a member of the role vectuned_admin" in capsys.readouterr().err
    assert main(["migrate", "--dsn", database, "--public"]) == 2


def test_what_is_missing_to_install_is_named(plain_conn: Connection, plain_database: str) -> None:
    name = plain_conn.info.dbname
    with plain_role(plain_conn, plain_database) as someone:
        with pytest.raises(MigrationError, match=rf"GRANT CREATE ON DATABASE {name} TO {name}_reader"):
            migrate(someone)
        plain_conn.execute("DROP EXTENSION vector")
        with pytest.raises(MigrationError, match=rf'have a superuser run CREATE EXTENSION vector, or GRANT '
        rf'CREATE ON '
                                                 rf'DATABASE "{name}" TO "{name}_reader"'):  # fmt: skip
            migrate(someone)
        plain_conn.execute("CREATE SCHEMA ext; CREATE EXTENSION vector SCHEMA ext")
        plain_conn.execute(f"GRANT CREATE ON DATABASE {name} TO {name}_reader".encode())
        with pytest.raises(MigrationError, match=rf"GRANT USAGE ON SCHEMA ext TO {name}_reader"):
            migrate(someone)
        migrate(plain_conn)
        with pytest.raises(
            MigrationError, match=rf"the schema vectuned belongs to postgres; GRANT postgres TO {name}_reader"
        ):
            migrate(someone)


def test_what_a_superuser_upgrades_stays_its_owners(plain_conn: Connection, plain_database: str) -> None:
    name = sql.Identifier(plain_conn.info.dbname).as_string()
    with plain_role(plain_conn, plain_database, f"CREATE ON DATABASE {name}") as someone:
        migrate(someone)
        someone.execute("DROP FUNCTION vectuned._bound_inbox")
        migrate(plain_conn)
        owners = (
            "SELECT DISTINCT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = "
            "'vectuned'::regnamespace"
        )
        assert plain_conn.execute(owners.encode()).fetchall() == [(someone.info.user,)]
        assert one(plain_conn, "SELECT current_user") == "postgres"
