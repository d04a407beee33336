"""Installing the schema: new or by migrations, repeatedly, with unusual names, and after a restore."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.integration.table_helpers import clustered, enable, exact, make, one, plain_role, search, text

from vectuned.daemon.server.installation import find_binaries
from vectuned.sql import requirements
from vectuned.sql.install import migrate, migrations
from vectuned.sql.requirements import MigrationError

Connection = psycopg.Connection[Any]

CATALOGUE = {
    "columns": """
        SELECT c.relname, c.relkind, c.relpersistence, a.attname, format_type(a.atttypid, a.atttypmod),
               a.attnotnull, a.attidentity, pg_get_expr(d.adbin, d.adrelid), col_description(c.oid, a.attnum)
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
        WHERE c.relnamespace = 'vectuned'::regnamespace AND c.relkind <> 'i' ORDER BY 1, a.attnum""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'vectuned'::regnamespace ORDER BY 1, 2""",
    "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'vectuned' ORDER BY 1",
    "functions": """
        SELECT p.oid::regprocedure::text, pg_get_functiondef(p.oid),
               ARRAY(SELECT a::text FROM unnest(p.proacl) a ORDER BY 1), obj_description(p.oid)
        FROM pg_proc p WHERE p.pronamespace = 'vectuned'::regnamespace ORDER BY 1""",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'vectuned' ORDER BY 1",
    "grants": """
        SELECT relname, relacl::text, obj_description(oid) FROM pg_class
        WHERE relnamespace = 'vectuned'::regnamespace ORDER BY 1""",
    "schema": "SELECT nspacl::text FROM pg_namespace WHERE nspname = 'vectuned'",
    "migrations": "SELECT name FROM vectuned.migration ORDER BY 1",
}


def catalogue(conn: Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Read the definition of the schema; partitions by day count once, since they depend on the date."""
    return {
        name: list(dict.fromkeys(without_days(row) for row in conn.execute(query.encode()).fetchall()))
        for name, query in CATALOGUE.items()
    }


def without_days(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Replace the day in the names of partitions by DAY, and lists by text."""
    return tuple(
        re.sub(r"_20\d{6}(?!\d)", "_DAY", str(each)) if isinstance(each, str | list) else each for each in row
    )


def test_migrate_by_migrations_gives_the_same_schema(conn: Connection, plain_conn: Connection) -> None:
    done = migrate(plain_conn, fresh_from_schema=False)
    assert list(done.applied) == [name for name, _ in migrations()]
    stepwise, fresh = catalogue(plain_conn), catalogue(conn)
    assert len(fresh["columns"]) > 80
    assert len(fresh["functions"]) > 20
    for part in CATALOGUE:
        assert stepwise[part] == fresh[part], part


def test_migrate_again_changes_nothing(conn: Connection) -> None:
    make(conn, clustered(50, 4, seed=1))
    enable(conn)
    before = catalogue(conn)
    assert migrate(conn).applied == ()
    assert catalogue(conn) == before


def test_migrate_again_preserves_grants_and_views(conn: Connection, database: str) -> None:
    make(conn, clustered(50, 4, seed=1))
    enable(conn)
    conn.execute("CREATE VIEW dashboard AS SELECT relation, state FROM vectuned.status")
    migrate(conn)
    assert one(conn, "SELECT state FROM dashboard") == "learning"
    with plain_role(conn, database, "SELECT ON items") as reader:
        assert len(search(reader, [1, 2, 3, 4])) == 10


def test_migrate_rejects_a_database_of_a_newer_version(conn: Connection) -> None:
    conn.execute("INSERT INTO vectuned.migration (name) VALUES ('9999-from-the-future')")
    before = catalogue(conn)
    with pytest.raises(MigrationError, match=r"newer vectuned.*9999-from-the-future"):
        migrate(conn)
    assert catalogue(conn) == before


def test_migrate_leaves_a_changed_schema_alone_and_explains(conn: Connection) -> None:
    conn.execute("DROP FUNCTION vectuned._k_class(int) CASCADE")
    conn.execute("CREATE FUNCTION vectuned._k_class(k int) RETURNS text LANGUAGE sql RETURN 'ten'")
    before = catalogue(conn)
    with pytest.raises(MigrationError, match=r"\(cannot change return type.*DROP SCHEMA vectuned CASCADE"):
        migrate(conn)
    assert catalogue(conn) == before


def test_migrate_rejects_an_old_pgvector(plain_conn: Connection) -> None:
    plain_conn.execute("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
    with pytest.raises(MigrationError, match=r"pgvector 0\.7\.4 is too old.*ALTER EXTENSION vector UPDATE"):
        migrate(plain_conn)
    assert one(plain_conn, "SELECT to_regnamespace('vectuned')") is None


def test_migrate_rejects_an_old_server(plain_conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requirements, "MIN_SERVER", plain_conn.info.server_version + 10000)
    with pytest.raises(MigrationError, match=r"PostgreSQL \d+ is too old"):
        migrate(plain_conn)
    assert one(plain_conn, "SELECT to_regnamespace('vectuned')") is None


def test_migrate_creates_a_missing_extension(plain_conn: Connection) -> None:
    plain_conn.execute("DROP EXTENSION vector")
    assert migrate(plain_conn).extension_schema == "public"


def test_migrate_names_the_missing_privilege(plain_conn: Connection, plain_database: str) -> None:
    with (
        plain_role(plain_conn, plain_database) as nobody,
        pytest.raises(MigrationError, match=r"may not install vectuned.*permission denied.*vectuned migrate"),
    ):
        migrate(nobody)


def test_migrate_and_enable_work_for_an_ordinary_role(plain_conn: Connection, plain_database: str) -> None:
    database = sql.Identifier(plain_conn.info.dbname).as_string()
    rights = (f"CREATE ON DATABASE {database}", "CREATE ON SCHEMA public")
    with plain_role(plain_conn, plain_database, *rights) as owner:
        migrate(owner)
        make(owner, clustered(50, 4, seed=1))
        enable(owner, sample_rate=1.0)
        assert search(owner, [1, 2, 3, 4]) == exact(owner, [1, 2, 3, 4])
        assert one(owner, "SELECT vectuned._drain(100)") == 1
        with psycopg.connect(owner.info.dsn, autocommit=True) as again:
            assert migrate(again).applied == ()


AWKWARD = ["My Items", 'quo"ted', "it's", "$search$", "$$", "{key}", "a.b", "select", "k", "ünï"]


@pytest.mark.parametrize("schema", ["public", "My Ext"])
@pytest.mark.parametrize("name", AWKWARD)
def test_functions_work_with_names_that_need_quoting(plain_conn: Connection, schema: str, name: str) -> None:
    conn = plain_conn
    if schema != "public":
        ext = sql.Identifier(schema)
        conn.execute("DROP EXTENSION vector")
        conn.execute(sql.SQL("CREATE SCHEMA {}").format(ext))
        conn.execute(sql.SQL("CREATE EXTENSION vector SCHEMA {}").format(ext))
    migrate(conn)
    conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(name)))
    table = sql.Identifier(name, name)
    make(conn, clustered(60, 4, seed=1), table=table, column=name, key=f"{name} id", extension=schema)
    relation = table.as_string()
    enable(conn, relation, name, sample_rate=1.0)
    check_all_functions(conn, relation, f"{name} id")


@pytest.mark.parametrize(
    "column", ["k", "q", "query", "id", "distance", "t", "n", "o", "sampled", "found", "scan"]
)
def test_functions_work_with_columns_named_like_their_variables(conn: Connection, column: str) -> None:
    key = "key" if column == "id" else "id"
    make(conn, clustered(60, 4, seed=1), column=column, key=key)
    enable(conn, column=column, sample_rate=1.0)
    check_all_functions(conn, "items", key)


@pytest.mark.parametrize("key", ["k", "q", "query", "distance", "t", "n", "path", "u", "s"])
def test_functions_work_with_keys_named_like_their_variables(conn: Connection, key: str) -> None:
    make(conn, clustered(60, 4, seed=1), key=key)
    enable(conn, sample_rate=1.0)
    check_all_functions(conn, "items", key)


def check_all_functions(conn: Connection, relation: str, key: str) -> None:
    """Search, apply, drain and replay on a column that records every search."""
    extension = one(
        conn, "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
    )
    query = "[1,-1,0.5,2]"
    found = conn.execute("SELECT id FROM vectuned.search(%s::regclass, %s, 5)", (relation, query)).fetchall()
    assert len({row[0] for row in found}) == 5
    rows = conn.execute(
        f"SELECT r.* FROM vectuned.search_rows(NULL::{relation}, %s, 5) r".encode(), (query,)
    ).fetchall()
    assert [str(row[0]) for row in rows] == [row[0] for row in found]
    assert one(conn, "SELECT ef_search FROM vectuned.params(%s::regclass, %s, 5)", relation, query) == 40
    with conn.transaction():
        assert one(conn, "SELECT vectuned.apply(%s::regclass, %s, 50)::text", relation, query) == query
        assert one(conn, "SELECT current_setting('hnsw.ef_search')") == "50"
    assert one(conn, "SELECT vectuned._drain(10)") == 2
    assert one(conn, "SELECT trajectories FROM vectuned.stats(%s::regclass)", relation) == 2
    assert one(
        conn,
        f"SELECT counts FROM vectuned._replay(1, 1, %s::text::{extension}.vector, '{{10,20,1000}}')",
        query,
    ) == [10, 20, 60]
    assert one(conn, "SELECT state FROM vectuned.status") == "learning"
    assert one(conn, f"SELECT count(*) FROM {relation} WHERE {sql.Identifier(key).as_string()} IS NULL") == 0


@pytest.fixture
def restored(conn: Connection, database: str, plain_database: str) -> Iterator[tuple[Connection, str]]:
    """A database restored from a dump with different oids, and its column enabled."""
    make(conn, clustered(300, 8, seed=1))
    make(conn, clustered(200, 8, seed=2), table="others", metric="l2", key_type="int")
    enable(conn, sample_rate=1.0)
    enable(conn, "others", sample_rate=1.0)
    search(conn, [1, 2, 3, 4, 5, 6, 7, 8])
    conn.execute("SELECT vectuned._drain(10)")
    with psycopg.connect(plain_database, autocommit=True) as target:
        # The restored tables must get other oids, and the old oids must belong to other objects.
        for number in range(40):
            target.execute(f"CREATE TABLE filler_{number} (id int PRIMARY KEY, t text)".encode())
        target.execute("DROP EXTENSION vector")
        dump(database, plain_database)
        yield target, plain_database


def dump(source: str, target: str) -> None:
    binaries = find_binaries()
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    text = subprocess.run(
        [binaries.program("pg_dump"), "--dbname", source], env=environ, check=True, capture_output=True
    ).stdout
    subprocess.run(
        [binaries.program("psql"), "--quiet", "--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--dbname", target],
        env=environ,
        input=text,
        check=True,
        capture_output=True,
    )


def test_migrate_repairs_a_restored_database(
    restored: tuple[Connection, str],
) -> None:
    target, conninfo = restored
    assert conninfo_to_dict(conninfo)["dbname"] == target.info.dbname
    query = [1, 2, 3, 4, 5, 6, 7, 8]
    with psycopg.connect(make_conninfo(conninfo), autocommit=True) as fresh:
        assert search(fresh, query) == exact(fresh, query)
        assert search(fresh, query, relation="others") == exact(fresh, query, metric="l2", relation="others")
        assert one(fresh, "SELECT trajectories FROM vectuned.stats('items')") == 1
        assert migrate(fresh).applied == ()
        assert search(fresh, query) == exact(fresh, query)
        for column, (relation, rows) in enumerate({"items": 300, "others": 200}.items(), start=1):
            numbers = fresh.execute(
                "SELECT i.index_no FROM vectuned.tuned_index i "
                "JOIN vectuned.tuned_column c ON c.id = i.column_id "
                "WHERE c.id = %s AND i.index_relation = c.index_relation "
                "AND i.index_relation = (%s || '_embedding_idx')::regclass",
                (column, relation),
            ).fetchall()
            ((number,),) = numbers
            counts = one(
                fresh,
                f"SELECT counts FROM vectuned._replay({column}, {number}, %s, '{{10,1000}}')",
                text(query),
            )
            assert counts == [10, rows]
        assert one(fresh, "SELECT count(*) FROM vectuned.tuned_index") == 2
        states = fresh.execute("SELECT state FROM vectuned.status").fetchall()
        assert states == [("learning",), ("learning",)]
        with plain_role(fresh, conninfo, "SELECT ON items") as reader:
            assert search(reader, query) == exact(fresh, query)


def test_migrate_finds_an_extension_in_another_schema(conn: Connection) -> None:
    make(conn, clustered(50, 4, seed=1))
    enable(conn)
    conn.execute("CREATE SCHEMA ext; ALTER EXTENSION vector SET SCHEMA ext")
    migrate(conn)
    fresh = conn.execute("SELECT id FROM vectuned.search('items', '[1,2,3,4]', 5)").fetchall()
    assert len(fresh) == 5


def test_migrate_twice_at_once_installs_once(plain_conn: Connection, plain_database: str) -> None:
    def install() -> int:
        with psycopg.connect(plain_database, autocommit=True) as conn:
            return len(migrate(conn).applied)

    with ThreadPoolExecutor(4) as pool:
        applied = sorted(future.result() for future in [pool.submit(install) for _ in range(4)])
    assert applied == [0, 0, 0, len(migrations())]
    assert one(plain_conn, "SELECT count(*) FROM vectuned.migration") == len(migrations())
