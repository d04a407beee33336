"""What the settings pass on to a real server, hostile texts included, and the server's requirements."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.hostile_helpers import HOSTILE
from tests.integration.embedded_helpers import FAST, ask, copy_home, open_folder

from vectuned.config.errors import ConfigurationError, DatabaseUnavailableError, UsageError
from vectuned.config.settings import load_settings
from vectuned.daemon.database.choice import choose_database, open_database
from vectuned.daemon.database.connect import connect
from vectuned.daemon.database.session import open_session
from vectuned.daemon.server.embedded import EmbeddedServer


def test_connect_passes_every_valid_application_name_unchanged(server: EmbeddedServer) -> None:
    valid = 0
    for text in HOSTILE:
        try:
            name = load_settings(overrides={"database.application_name": text}, environ={}).database
        except ConfigurationError:
            continue
        with connect(server.dsn, name) as conn:
            row = conn.execute(
                "SELECT current_setting('application_name'), application_name"
                " FROM pg_stat_activity WHERE pid = pg_backend_pid()"
            ).fetchone()
            assert row == (text, text)
            valid += 1
    assert valid > 50


@pytest.mark.parametrize("part", ["dbname", "user"])
def test_connect_hostile_part_of_a_dsn_raises_one_sentence(server: EmbeddedServer, part: str) -> None:
    tried = 0
    for text in HOSTILE:
        try:
            dsn = make_conninfo(server.dsn, **{part: text.replace("\0", "'\0'")})
            settings = load_settings(overrides={"database.dsn": dsn}, environ={})
        except (ConfigurationError, UnicodeEncodeError):
            continue
        if not text:  # libpq takes the user's name for it
            continue
        choice = choose_database(settings.database.dsn, {})
        with (
            open_database(choice) as conninfo,
            pytest.raises(DatabaseUnavailableError, match=r"^No connection to ") as caught,
        ):
            connect(conninfo)
        assert "\n" not in str(caught.value)
        tried += 1
    assert tried > 80


@pytest.mark.parametrize(
    "name",
    [
        'it\'s a "home", 100% {x} $HOME; é 🦊',
        "-D *",
        "a, b",
        "\\' options='-c x=y",
        "x" * 200,
        "\u202e\u2028",
    ],
    ids=ascii,
)
def test_embedded_server_home_may_have_any_name(name: str) -> None:
    with open_folder() as folder:
        home = copy_home(folder).rename(folder / name)
        settings = load_settings(overrides={"embedded.home": str(home)}, environ={})
        with EmbeddedServer(Path(settings.embedded.home), settings=FAST) as server:
            assert ask(server.dsn, "SHOW data_directory") == str(home / "data-18")
        assert {entry.name for entry in folder.iterdir()} == {name}


@pytest.mark.parametrize(
    ("home", "message"),
    [
        ("x" * 4096, "cannot be created (File name too long)"),
        ("/dev/null/x", "cannot be created (Not a directory)"),
        ("/dev/null", "cannot be used (Not a directory)"),
        ("/proc/none", "cannot be created (No such file or directory)"),
    ],
)
def test_embedded_server_impossible_home_is_refused(home: str, message: str) -> None:
    settings = load_settings(overrides={"embedded.home": home}, environ={})
    with pytest.raises(DatabaseUnavailableError) as caught:
        EmbeddedServer(Path(settings.embedded.home)).start()
    assert message in str(caught.value)


def test_open_session_requires_a_recent_pgvector(database: str) -> None:
    with open_session(database) as conn:
        conn.execute("UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'")
    with pytest.raises(
        UsageError, match=r"^On database test_\d+: pgvector 0\.7\.4 is too old; .* 0\.8 or later"
    ):
        open_session(database)
    with psycopg.connect(database, autocommit=True) as conn:
        conn.execute("DROP EXTENSION vector CASCADE")
    with pytest.raises(UsageError, match=r"the extension vector is missing; .* CREATE EXTENSION vector\.$"):
        open_session(database)
