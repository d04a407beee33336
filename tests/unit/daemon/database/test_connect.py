"""`connect` and the messages of failed connections; a session does not need the embedded server."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from vectuned.config.errors import DatabaseUnavailableError
from vectuned.config.sections import DatabaseSettings
from vectuned.daemon.database.choice import LIBPQ_VARIABLES
from vectuned.daemon.database.connect import connect, redact
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


def test_connect_absent_server_raises_one_sentence_without_the_password(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailableError) as caught:
        connect(f"host={tmp_path} user=ann password=hunter2 dbname=shop")
    message = str(caught.value)
    assert str(tmp_path) in message
    assert "check that the server runs" in message
    assert "hunter2" not in message
    assert "\n" not in message
    assert caught.value.exit_code == 69
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


def test_connect_hides_a_password_that_the_server_quotes(tmp_path: Path) -> None:
    """A server may quote what it received; the error message must not repeat it."""
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
def password_prompt(folder: Path) -> Iterator[str]:
    """Yield the DSN of a server that answers one connection with a password request."""
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
    ("state", "explanation"),
    [
        ("missing", "there is no password file {file}"),
        (
            "open",
            "the password file {file} is accessible to group or others, "
            "so libpq ignores it: chmod 600 {file}",
        ),
        ("directory", "the password file {file} is not a regular file, so libpq ignores it"),
        ("no matching line", "the password file {file} has no line for this host, port, database and user"),
        ("below a file", "the password file {file} cannot be read (Not a directory)"),
    ],
)
def test_connect_without_password_explains_why_the_password_file_gave_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str, explanation: str, named_by: str
) -> None:
    file = tmp_path / ".pgpass"
    monkeypatch.setenv("HOME", str(tmp_path))
    if state == "directory":
        file.mkdir()
    elif state == "below a file":
        file.touch()
        monkeypatch.setenv("HOME", str(file))
        file /= ".pgpass"
    elif state != "missing":
        file.write_text("elsewhere:*:*:*:hunter2\n" if state == "no matching line" else "*:*:*:*:hunter2\n")
        file.chmod(0o644 if state == "open" else 0o600)
    if named_by == "variable":
        monkeypatch.setenv("PGPASSFILE", str(file))
    if named_by == "service":
        services = tmp_path / "services"
        services.write_text(f"[shop]\npassfile={file}\n")
        monkeypatch.setenv("PGSERVICEFILE", str(services))
    more = {"dsn": f" passfile={file}", "service": " service=shop"}.get(named_by, "")
    with password_prompt(tmp_path) as dsn, pytest.raises(DatabaseUnavailableError) as caught:
        connect(dsn + more)
    assert f"no password was given, and {explanation.format(file=file)}." in str(caught.value)
    assert str(caught.value).isprintable()


def test_connect_hides_the_password_of_a_service_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = tmp_path / "services"
    services.write_text(f"[shop]\nhost={tmp_path}/hunter2\npassword=hunter2\n")
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    with pytest.raises(DatabaseUnavailableError, match="No connection to service=shop") as caught:
        connect("service=shop")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(DatabaseUnavailableError, match=r'definition of service "none" not found'):
        connect("service=none")


@pytest.mark.parametrize(
    ("server", "pgvector", "message"),
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
def test_unmet_names_the_missing_requirement(server: int, pgvector: str | None, message: str | None) -> None:
    problem = unmet(server, pgvector)
    if message is None:
        assert problem is None
    else:
        assert problem is not None
        assert problem.startswith(message)


def test_connect_silent_server_raises_after_the_timeout(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / ".s.PGSQL.5432"))
        listener.listen()
        with pytest.raises(DatabaseUnavailableError, match="timeout"):
            connect(
                f"host={tmp_path} user=ann dbname=shop gssencmode=disable",
                DatabaseSettings(connect_timeout=2),
            )


def test_open_session_does_not_import_the_embedded_server() -> None:
    code = (
        "import sys, vectuned.daemon.database.session\n"
        "print([name for name in sys.modules if name.startswith(('vectuned.daemon.server', 'embedded'))])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout == "[]\n"


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://ann:hunter2@db:5433/shop?connect_timeout=3",
        "postgres://ann:hunter%32@db/shop",
        "postgresql://db/shop?password=hunter2",
        "host=db password=hunter2 dbname='a b' user=ann",
        r"password='hunter2 \'x' host=db",
        "host=db sslpassword=hunter2",
        "host=db oauth_client_secret=hunter2",
        "host=db scram_client_key=hunter2 scram_server_key=hunter2",
    ],
)
def test_redact_stars_only_the_secrets(dsn: str) -> None:
    redacted = redact(dsn)
    assert "hunter" not in redacted
    before, after = conninfo_to_dict(dsn), conninfo_to_dict(redacted)
    assert before.keys() == after.keys()
    changed = {name for name in before if before[name] != after[name]}
    assert changed
    assert {after[name] for name in changed} == {"****"}


@pytest.mark.parametrize("dsn", ["", "postgresql://ann@db/shop", "service=shop", "host=db  user=ann"])
def test_redact_returns_a_dsn_without_secrets_unchanged(dsn: str) -> None:
    assert redact(dsn) == dsn
