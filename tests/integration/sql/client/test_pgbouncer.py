"""Tuned connections through PgBouncer in transaction mode: sessions of the server are shared."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.integration.client_helpers import DEFAULT, FOREIGN, QUERY, prepare, search
from tests.integration.table_helpers import Connection

from vectuned import client
from vectuned.sql.client.snapshot import Snapshot

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="pgbouncer is not installed (Debian package pgbouncer)"
)

VALUES = (1, QUERY, 5)
FAILING = (0, QUERY, 5)


@pytest.fixture
def bouncer(conn: Connection) -> Iterator[str]:
    """The connection string of a pool with one session, so that every leak would show."""
    prepare(conn)
    owner = pwd.getpwuid(Path(conn.info.host, f".s.PGSQL.{conn.info.port}").stat().st_uid)
    folder = Path(tempfile.mkdtemp(prefix="vectuned-pgbouncer-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"""
[databases]
* = host={conn.info.host} port={conn.info.port} user={conn.info.user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 1
ignore_startup_parameters = extra_float_digits
"""
    )
    if os.geteuid() == 0:
        for path in (folder, config):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    as_owner = ["-u", owner.pw_name] if os.geteuid() == 0 else []
    command = [str(PROGRAM), "-q", *as_owner, str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        dsn = make_conninfo(
            host="127.0.0.1", port=port, user=conn.info.user, dbname=conn.info.dbname, gssencmode="disable"
        )
        deadline = time.monotonic() + 300
        while True:
            try:
                psycopg.connect(dsn).close()
                break
            except psycopg.OperationalError:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield dsn
    finally:
        process.terminate()
        process.communicate()
        shutil.rmtree(folder)


def value(connection: Any, statement: str, values: Any = None, at: int = 0) -> Any:
    return connection.execute(statement, values).fetchone()[at]


@pytest.mark.parametrize("autocommit", [True, False])
def test_psycopg_leaks_nothing_into_the_sessions_of_others(bouncer: str, autocommit: bool) -> None:
    with ExitStack() as stack:
        ours, other = (
            stack.enter_context(psycopg.connect(bouncer, autocommit=autocommit, prepare_threshold=None))
            for _ in range(2)
        )
        snapshot = client.tune(ours, snapshot=Snapshot())
        for _ in range(7):
            assert value(ours, search(), VALUES, 1) == "80"
            if not autocommit:
                assert value(ours, FOREIGN) == DEFAULT
                ours.commit()
            assert value(other, FOREIGN) == DEFAULT
            other.commit()
        with pytest.raises(psycopg.errors.DivisionByZero):
            value(ours, search(), FAILING)
        ours.rollback()
        assert value(other, FOREIGN) == DEFAULT
        other.commit()
        cursor, foreign = ours.cursor(), ours.cursor()
        with ours.pipeline():
            cursor.execute(search(), VALUES)
            foreign.execute(FOREIGN)
        assert cursor.fetchall()[0][1] == "80"
        assert foreign.fetchone() == (DEFAULT,)
        ours.commit()
        assert value(other, FOREIGN) == DEFAULT
        assert snapshot.counters.failures == {}


@pytest.mark.parametrize("autocommit", [True, False])
def test_psycopg2_leaks_nothing_into_the_sessions_of_others(bouncer: str, autocommit: bool) -> None:
    psycopg2 = pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    ours, other = psycopg2.connect(bouncer), psycopg2.connect(bouncer)
    ours.autocommit = other.autocommit = autocommit
    client.tune(ours, snapshot=Snapshot())
    mine, theirs = ours.cursor(), other.cursor()
    for _ in range(3):
        mine.execute(search(), VALUES)
        assert mine.fetchone()[1] == "80"
        ours.commit()
        theirs.execute(FOREIGN)
        assert theirs.fetchone()[0] == DEFAULT
        other.commit()
    ours.close()
    other.close()
