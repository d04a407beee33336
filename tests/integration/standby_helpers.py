"""A primary server and a hot standby of it, made from the embedded server's programs."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from vectuned.daemon.server.embedded import DEFAULT_SETTINGS, EmbeddedServer
from vectuned.daemon.server.installation import (
    choose_account,
    find_binaries,
    make_private_folder,
    prepare_binaries,
)
from vectuned.daemon.server.postmaster import PORT, Postmaster, spawn
from vectuned.sql.install import migrate

SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "shared_buffers": "64MB",
    "max_wal_size": "200MB",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "hot_standby_feedback": "on",
    "wal_retrieve_retry_interval": "200ms",
}

_numbers = itertools.count(1)


class HotStandby:
    """A physical copy of a primary's data directory, and the server that replicates into it."""

    def __init__(self, primary: EmbeddedServer) -> None:
        self._home = primary.home
        self._primary = primary
        self._data = primary.home / "standby" / "data"
        self._sockets = primary.home / "standby-run"
        self._account = choose_account(self._data.parent)
        binaries = find_binaries()
        if self._account is not None:
            binaries = prepare_binaries(binaries, self._account, primary.home)
        self._binaries = binaries
        self._server: Postmaster | None = None

    def copy(self) -> None:
        """Copy the primary."""
        for folder in (self._data.parent, self._sockets):
            make_private_folder(folder, self._account)
        command: list[str | Path] = [
            self._binaries.program("pg_basebackup"),
            "--pgdata",
            self._data,
            "--write-recovery-conf",
            "--checkpoint=fast",
            "--wal-method=stream",
            "--dbname",
            self._primary.dsn,
        ]
        log = self._home / "basebackup.log"
        with log.open("wb") as output:
            process = spawn(command, self._account, stdin=subprocess.DEVNULL, output=output.fileno())
        assert process.wait() == 0, log.read_text()

    def start(self, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        """Start it, with more settings, and wait until it accepts connections."""
        self._server = Postmaster.start(
            self._binaries.program("postgres"),
            self._data,
            {
                **DEFAULT_SETTINGS,
                **SETTINGS,
                **settings,
                "listen_addresses": "",
                "port": str(PORT),
                "unix_socket_directories": str(self._sockets),
            },
            self._account,
            self._home / "standby.log",
            timeout=300,
            patience=20,
        )

    def stop(self) -> None:
        """Stop it if it is running."""
        if self._server is not None:
            self._server.stop(patience=20)
            self._server = None

    @property
    def log_folder(self) -> Path:
        """Return the folder of the files that its logging collector writes."""
        return self._data / "log"

    def dsn(self, database: str) -> str:
        """Return the connection string of one of its databases."""
        return make_conninfo(self._primary.dsn, host=str(self._sockets), dbname=database)


@contextmanager
def primary_and_standby() -> Iterator[tuple[EmbeddedServer, HotStandby]]:
    """Run both, with a database `template_standby` that has vectuned installed."""
    home = Path(tempfile.mkdtemp(prefix="vt-"))
    home.chmod(0o755)
    preferred = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("PG")}
    try:
        with EmbeddedServer(home, settings=SETTINGS) as primary:
            with psycopg.connect(primary.dsn, autocommit=True) as admin:
                admin.execute("CREATE DATABASE template_standby")
            with psycopg.connect(
                make_conninfo(primary.dsn, dbname="template_standby"), autocommit=True
            ) as conn:
                migrate(conn)
            standby = HotStandby(primary)
            standby.copy()
            standby.start()
            try:
                yield primary, standby
            finally:
                standby.stop()
    finally:
        os.environ.update(preferred)
        shutil.rmtree(home)


@contextmanager
def fresh_database(primary: EmbeddedServer) -> Iterator[str]:
    """Yield the name of a database with vectuned installed."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(primary.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template_standby").format(sql.Identifier(name)))
        try:
            yield name
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
