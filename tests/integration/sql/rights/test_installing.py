"""Installing the schema and the roles: required rights, errors that name missing ones, and ownership."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from psycopg import errors, sql
from tests.integration.role_helpers import QUERY, VECTORS, database_with_roles
from tests.integration.table_helpers import Connection, enable, make, one, plain_role, raw, search

from vectuned.daemon.cli.main import main
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.sql.install import migrate
from vectuned.sql.requirements import MigrationError
from vectuned.sql.roles import install_roles


@pytest.fixture(scope="module")
def roles(server: EmbeddedServer, template: str) -> Iterator[None]:
    """The roles, which belong to the server."""
    with database_with_roles(server.dsn, template, "test_rights"):
        yield


def test_grant_roles_without_the_right_gives_the_statements(
    plain_conn: Connection, plain_database: str
) -> None:
    # This must be the first test here: the later ones create the roles.
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


@pytest.mark.usefixtures("roles")
def test_migrate_roles_by_the_command_line(database: str, capsys: pytest.CaptureFixture[str]) -> None:
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
            assert (
                main(["enable", "--dsn", anyone.info.dsn, "items", "embedding"]) == 1
            )  # a missing right is no wrong usage
    assert "a member of the role vectuned_admin" in capsys.readouterr().err
    assert main(["migrate", "--dsn", database, "--public"]) == 2


def test_migrate_names_the_missing_right(plain_conn: Connection, plain_database: str) -> None:
    name = plain_conn.info.dbname
    with plain_role(plain_conn, plain_database) as someone:
        with pytest.raises(MigrationError, match=rf"GRANT CREATE ON DATABASE {name} TO {name}_reader"):
            migrate(someone)
        plain_conn.execute("DROP EXTENSION vector")
        with pytest.raises(
            MigrationError,
            match=rf"then run CREATE EXTENSION vector as a superuser, or GRANT "
            rf"CREATE ON "
            rf'DATABASE "{name}" TO "{name}_reader"',
        ):
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


def test_migrate_by_a_superuser_keeps_the_owner(plain_conn: Connection, plain_database: str) -> None:
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
