"""The work of admins and of the daemon with only their roles, and errors that name a missing right."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from psycopg import errors, sql
from tests.integration.embedded_helpers import eventually
from tests.integration.role_helpers import QUERY, VECTORS, member, tuned_with_roles
from tests.integration.table_helpers import Connection, clustered, enable, make, one, raw, search, text

from vectuned.config.errors import VectunedError
from vectuned.config.settings import Settings, load_settings
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.daemon.service.requests import run_next_request
from vectuned.daemon.work.column_jobs import ColumnJobs
from vectuned.daemon.work.worker import Worker
from vectuned.sql.roles import install_roles


def settings(**values: object) -> Settings:
    return load_settings(None, {key.replace("__", "."): value for key, value in values.items()}, {})


@pytest.fixture(scope="module")
def owner(server: EmbeddedServer, template: str) -> Iterator[Connection]:
    """The owner's connection to a database with a tuned table, closed to PUBLIC."""
    with tuned_with_roles(server.dsn, template, "test_rights") as conn:
        yield conn


def test_vectuned_admin_tunes_readable_tables_and_sees_no_vectors(owner: Connection) -> None:
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
        for statement in (
            "SELECT query FROM vectuned.trajectory",
            "SELECT result_ids FROM vectuned.trajectory",
            "SELECT query FROM vectuned.inbox",
            "SELECT * FROM vectuned.replay",
            "UPDATE vectuned.bank SET ef_search = 1",
            "SELECT vectuned._drain(1)",
            "UPDATE vectuned.trajectory SET query = query",
            "DROP TABLE vectuned.event",
            "SELECT vectuned._replay(1, 1, '[1,2,3,4,5,6,7,8]', '{10}')",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                admin.execute(raw(statement))
        enable(admin, "shop", store_vectors=False)
        admin.execute("SELECT vectuned.disable('shop', 'embedding')")
        admin.execute("SELECT vectuned.disable('shop', 'embedding', forget => true)")
        assert one(owner, "SELECT to_regprocedure(%s)", f"vectuned._search_{column}(vector,int)") is None
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="still tuned"):
            admin.execute("SELECT vectuned._drop_generated(1)")


def test_vectuned_daemon_does_all_work_with_its_role_alone(
    owner: Connection, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Do the work of `vectuned run`: drain, replay, check, judge, learn, publish, requests, maintenance."""
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
        chosen = {
            "learning__batch_min": 5,
            "inbox__max_mb": 65,
            "learning__max_effort": 500,
            "budget__pause_above": 9,
        }
        folders = {"export__folder": str(tmp_path), "export__import_folder": str(tmp_path)}
        worker = Worker(session, settings(**chosen, **folders))
        # A column that failed pauses for ten times as long as it took; the clock skips more than any pause.
        worker.column_jobs = ColumnJobs(session, clock=itertools.count(step=1000.0).__next__)
        worker.prepare()
        assert one(owner, "SELECT vectuned._inbox_bytes()") == 65 * 1024 * 1024
        assert one(owner, "SELECT vectuned._effort_cap()") == 500
        assert 'GRANT pg_read_all_stats TO "test_rights_daemon"' in caplog.text
        assert worker.drain() == 80
        # Without rights on the tables it names the missing right for each column, and continues.
        assert worker.replay_all() == 0
        assert (
            "public.work.embedding is skipped: the role test_rights_daemon may not read public.work: "
            "GRANT SELECT ON public.work TO test_rights_daemon"
        ) in caplog.text
        assert "public.items.embedding is skipped" in caplog.text
        number = one(owner, "SELECT vectuned.benchmark_recall('work', sample_queries => 20)")
        assert run_next_request(session.info.dsn, settings())
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
        worker.export()
        worker.import_new()
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
        worker.report_backlog()

        def drain_shrinks_the_inbox() -> bool:
            search(owner, QUERY, relation="work")
            assert worker.drain() == 1
            return bool(one(owner, "SELECT pg_table_size('vectuned.inbox')") <= 5 * 8192)

        # Before PostgreSQL 17 only the inbox's owner may vacuum it. A snapshot of any session delays it.
        assert owner.info.server_version < 170000 or eventually(drain_shrinks_the_inbox)
        for call in (
            "auto_tune('work', sample_queries => 20)",
            "benchmark_recall('work', sample_queries => 20)",
            "benchmark_latency('work', sample_queries => 20)",
        ):
            number = one(owner, f"SELECT vectuned.{call}")
            assert run_next_request(session.info.dsn, settings())
            assert one(owner, "SELECT error FROM vectuned.request_result(%s)", number) is None
        assert [r.message for r in caplog.records if "denied" in r.message or "is skipped" in r.message] == []
        for statement in (
            "DELETE FROM items",
            "SELECT * FROM pg_authid",
            "DELETE FROM vectuned.trajectory",
            "UPDATE vectuned.tuned_column SET relation = 'pg_class'",
            "DROP TABLE vectuned.inbox",
            "ALTER TABLE vectuned.inbox DISABLE TRIGGER ALL",
            "SELECT vectuned.enable('items', 'embedding')",
            "CREATE TABLE public.mine (id int)",
            "CREATE FUNCTION vectuned.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                session.execute(raw(statement))
        for call in (
            "_partition(1, '1 hour')",
            "_partition(1, NULL)",
            "_partition(100000, '1 day')",
            "_bound_inbox(0)",
            "_cap_efforts(-1)",
        ):
            with pytest.raises(errors.InvalidParameterValue):
                session.execute(raw(f"SELECT vectuned.{call}"))
        # What the daemon may write becomes SQL that others run only if it is valid.
        session.execute(
            "UPDATE vectuned.tuned_index SET marker = 'true; SELECT 1' WHERE column_id = %s", (column,)
        )
        with pytest.raises(errors.DataCorrupted, match="holds an invalid marker"):
            session.execute("SELECT vectuned._generate(%s)", (column,))


def test_worker_without_the_daemon_role_gets_an_error(owner: Connection) -> None:
    with (
        member(owner, "vectuned_user") as user,
        pytest.raises(VectunedError, match=r"then GRANT vectuned_daemon TO"),
    ):
        Worker(user, settings()).prepare()


def test_drain_works_without_the_right_to_vacuum(owner: Connection) -> None:
    if owner.info.server_version < 170000:
        # PostgreSQL 17 introduced MAINTAIN, which this test revokes; before, only owners could vacuum.
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
