"""Which database is chosen, and what is said when it cannot be reached."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from vectuned.config.errors import DatabaseUnavailableError, UsageError
from vectuned.daemon.database.connect import LIBPQ_VARIABLES, choose_database, connect, open_database
from vectuned.sql.requirements import unmet


@pytest.fixture(autouse=True)
def _no_libpq_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        *LIBPQ_VARIABLES,
        "PGUSER",
        "PGPASSWORD",
        "PGCONNECT_TIMEOUT",
        "PGSERVICEFILE",
        "PGPASSFILE",
    ):
        monkeypatch.delenv(name, raising=False)


def test_dsn_wins_over_the_environment() -> None:
    choice = choose_database("host=db.example dbname=shop", {"PGHOST": "elsewhere"})
    assert not choice.is_embedded
    assert choice.conninfo == "host=db.example dbname=shop"
    assert choice.reason == "the DSN that was given names host=db.example dbname=shop"


@pytest.mark.parametrize("name", ["PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGSERVICE"])
def test_variable_that_names_a_database_switches_the_embedded_server_off(name: str) -> None:
    choice = choose_database(None, {name: "x"})
    assert choice.conninfo == ""
    assert choice.reason == f"the environment says {name}=x"


@pytest.mark.parametrize(
    "name", ["PGUSER", "PGPASSWORD", "PGSSLMODE", "PGOPTIONS", "PGAPPNAME", "PGSERVICEFILE", "PGDATA"]
)
def test_other_variables_leave_the_embedded_server_on(name: str) -> None:
    choice = choose_database(None, {name: "x"})
    assert choice.is_embedded
    assert "PGHOST" in choice.reason


@pytest.mark.parametrize("dsn", [None, "", "  "])
def test_nothing_given_means_the_embedded_server(dsn: str | None) -> None:
    assert choose_database(dsn, {}).is_embedded
    assert choose_database(dsn, {"PGHOST": ""}).is_embedded


@pytest.mark.parametrize(
    "dsn",
    ["postgresql://ann:hunter2@db.example/shop", "host=db.example user=ann password=hunter2 dbname=shop"],
)
def test_reason_hides_the_password(dsn: str) -> None:
    choice = choose_database(dsn, {})
    assert choice.conninfo == dsn
    assert "db.example" in choice.reason
    assert "shop" in choice.reason
    assert "hunter2" not in choice.reason


@pytest.mark.parametrize("dsn", ["host=db.example hunter2", "postgresql://ann:hunter2@[db.example/shop"])
def test_malformed_dsn_is_a_usage_error_without_the_password(dsn: str) -> None:
    with pytest.raises(UsageError, match="not a connection string") as caught:
        choose_database(dsn, {})
    assert "hunter2" not in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg.ProgrammingError)


def test_choice_is_logged_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO),
        open_database(choose_database(None, {"PGDATABASE": "shop"})) as conninfo,
    ):
        assert conninfo == ""
    assert caplog.messages == ["Using an existing server: the environment says PGDATABASE=shop"]


def test_absent_server_is_a_sentence_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailableError) as caught:
        connect(f"host={tmp_path} user=ann password=hunter2 dbname=shop")
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "check that the server runs" in message
    assert "hunter2" not in message
    assert "\n" not in message
    assert caught.value.exit_code == 69
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


def test_password_echoed_by_the_server_is_hidden(tmp_path: Path) -> None:
    """A server may quote what it was sent; the sentence must not pass it on."""
    text = b'no entry for "hunter2"'
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / ".s.PGSQL.5432"))
        listener.listen()

        def refuse() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                body = b"SFATAL\0C28000\0M" + text + b"\0\0"
                client.sendall(b"E" + (len(body) + 4).to_bytes(4, "big") + body)

        thread = threading.Thread(target=refuse)
        thread.start()
        with pytest.raises(DatabaseUnavailableError, match=r"no entry for \"\*\*\*\*\"") as caught:
            connect(f"host={tmp_path} user=ann password=hunter2 dbname=shop gssencmode=disable")
        thread.join()
    assert "hunter2" not in str(caught.value)


@contextmanager
def asking_for_a_password(folder: Path) -> Iterator[str]:
    """Answer the next connection by asking for a password."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / ".s.PGSQL.5432"))
        listener.listen()

        def ask() -> None:
            client, _ = listener.accept()
            with client:
                client.recv(1000)
                client.sendall(b"R\0\0\0\x08\0\0\0\x03")
                client.recv(1000)

        thread = threading.Thread(target=ask)
        thread.start()
        yield f"host={folder} user=ann dbname=shop gssencmode=disable"
        thread.join()


@pytest.mark.parametrize("named_by", ["dsn", "variable", "service", "nothing"])
@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("missing", "there is no password file {file}"),
        (
            "open",
            "the password file {file} is open to group or others, so libpq ignores it: chmod 600 {file}",
        ),
        ("a folder", "the password file {file} is no plain file, so libpq ignores it"),
        ("other", "the password file {file} has no line for this host, port, database and user"),
        ("below a file", "the password file {file} cannot be read (Not a directory)"),
    ],
)
def test_a_password_file_that_gives_none_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, told: str, named_by: str
) -> None:
    file = tmp_path / ".pgpass"
    monkeypatch.setenv("HOME", str(tmp_path))
    if state == "a folder":
        file.mkdir()
    elif state == "below a file":
        file.touch()
        monkeypatch.setenv("HOME", str(file))
        file /= ".pgpass"
    elif state != "missing":
        file.write_text("elsewhere:*:*:*:hunter2\n" if state == "other" else "*:*:*:*:hunter2\n")
        file.chmod(0o644 if state == "open" else 0o600)
    if named_by == "variable":
        monkeypatch.setenv("PGPASSFILE", str(file))
    if named_by == "service":
        services = tmp_path / "services"
        services.write_text(f"[shop]\npassfile={file}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(services))
    more = {"dsn": f" passfile={file}", "service": " service=shop"}.get(named_by, "")
    with asking_for_a_password(tmp_path) as dsn, pytest.raises(DatabaseUnavailableError) as caught:
        connect(dsn + more)
    assert f"no password was given, and {told.format(file=file)}." in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_password_of_a_service_is_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    services = tmp_path / "services"
    services.write_text(f"[shop]\nhost={tmp_path}/hunter2\npassword=hunter2\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    with pytest.raises(DatabaseUnavailableError, match="No connection to service=shop") as caught:
        connect("service=shop")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(DatabaseUnavailableError, match=r'definition of service "none" not found'):
        connect("service=none")


@pytest.mark.parametrize(
    ("server", "pgvector", "told"),
    [
        (150000, "0.8.0", None),
        (180006, "0.8", None),
        (190000, "0.10.1", None),
        (160004, "1.0.0", None),
        (140013, "0.8.0", "PostgreSQL 14 is too old; vectuned needs 15 or later."),
        (90624, None, "PostgreSQL 9 is too old"),
        (150000, None, "the extension vector is missing; vectuned needs pgvector 0.8 or later"),
        (150000, "0.7.4", "pgvector 0.7.4 is too old; vectuned needs 0.8 or later"),
        (150000, "0.5", "pgvector 0.5 is too old"),
    ],
)
def test_what_the_server_must_have(server: int, pgvector: str | None, told: str | None) -> None:
    problem = unmet(server, pgvector)
    if told is None:
        assert problem is None
    else:
        assert problem is not None
        assert problem.startswith(told)


def test_silent_server_is_given_up_after_the_timeout(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / ".s.PGSQL.5432"))
        listener.listen()
        with pytest.raises(DatabaseUnavailableError, match="timeout"):
            connect(f"host={tmp_path} user=ann dbname=shop gssencmode=disable", connect_timeout=2)
