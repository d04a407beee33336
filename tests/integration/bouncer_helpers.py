"""PgBouncer in front of a test's database, with one session of the server, so that every leak shows."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from tests.integration.table_helpers import Connection

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(
    PROGRAM is None, reason="pgbouncer is not installed (Debian package pgbouncer)"
)


@contextmanager
def pgbouncer(conn: Connection, pool_mode: str = "transaction") -> Iterator[str]:
    """Yield the connection string of a pool with one session."""
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
pool_mode = {pool_mode}
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
