"""Which database `choose_database` takes, and what it says about that."""

from __future__ import annotations

import logging

import psycopg
import pytest

from vectuned.config.errors import UsageError
from vectuned.daemon.database.choice import choose_database, open_database


def test_choose_database_dsn_wins_over_the_environment() -> None:
    choice = choose_database("host=db.example dbname=shop", {"PGHOST": "elsewhere"})
    assert not choice.is_embedded
    assert choice.conninfo == "host=db.example dbname=shop"
    assert choice.reason == "the DSN names host=db.example dbname=shop"


@pytest.mark.parametrize("name", ["PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGSERVICE"])
def test_choose_database_variable_that_names_a_database_wins_over_the_embedded_server(name: str) -> None:
    choice = choose_database(None, {name: "x"})
    assert choice.conninfo == ""
    assert choice.reason == f"the environment sets {name}=x"


@pytest.mark.parametrize(
    "name", ["PGUSER", "PGPASSWORD", "PGSSLMODE", "PGOPTIONS", "PGAPPNAME", "PGSERVICEFILE", "PGDATA"]
)
def test_choose_database_other_libpq_variables_leave_the_embedded_server(name: str) -> None:
    choice = choose_database(None, {name: "x"})
    assert choice.is_embedded
    assert "PGHOST" in choice.reason


@pytest.mark.parametrize("dsn", [None, "", "  "])
def test_choose_database_without_dsn_and_variables_takes_the_embedded_server(dsn: str | None) -> None:
    assert choose_database(dsn, {}).is_embedded
    assert choose_database(dsn, {"PGHOST": ""}).is_embedded


@pytest.mark.parametrize(
    "dsn",
    ["postgresql://ann:hunter2@db.example/shop", "host=db.example user=ann password=hunter2 dbname=shop"],
)
def test_choose_database_reason_hides_the_password(dsn: str) -> None:
    choice = choose_database(dsn, {})
    assert choice.conninfo == dsn
    assert "db.example" in choice.reason
    assert "shop" in choice.reason
    assert "hunter2" not in choice.reason


@pytest.mark.parametrize("dsn", ["host=db.example hunter2", "postgresql://ann:hunter2@[db.example/shop"])
def test_choose_database_malformed_dsn_raises_usage_error_without_the_password(dsn: str) -> None:
    with pytest.raises(UsageError, match="not a connection string") as caught:
        choose_database(dsn, {})
    assert "hunter2" not in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg.ProgrammingError)


def test_open_database_logs_the_choice_and_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO),
        open_database(choose_database(None, {"PGDATABASE": "shop"})) as conninfo,
    ):
        assert conninfo == ""
    assert caplog.messages == ["Using an existing server: the environment sets PGDATABASE=shop"]
