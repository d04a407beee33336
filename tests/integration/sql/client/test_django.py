"""The database backend for Django, in a process of its own, since Django's settings are made once."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.integration.client_helpers import QUERY, prepare, search
from tests.integration.embedded_helpers import PACKAGE
from tests.integration.table_helpers import Connection

pytest.importorskip("django", reason="Django is not installed")

CODE = """
import sys
name, user, host, port, engine, binding, statement, query = sys.argv[1:]
if engine == "psycopg2":  # Django prefers psycopg 3
    sys.modules["psycopg"] = None
import django
from django.conf import settings
own = engine == "django.db.backends.postgresql"
settings.configure(DATABASES={"default": {
    "ENGINE": engine if own else "vectuned.sql.client.django",
    "NAME": name, "USER": user, "HOST": host, "PORT": port,
    "OPTIONS": {"server_side_binding": True} if binding == "server" else {},
}}, USE_TZ=True)
django.setup()
from django.db import DataError, connection, transaction
if own:
    from vectuned import client
    snapshot = client.tune(connection)
else:
    snapshot = connection.vectuned

def fetch(statement, values=None, at=0):
    with connection.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchone()[at]

foreign = "SELECT current_setting('hnsw.ef_search', true)"
for _ in range(7):
    assert fetch(statement, (1, query, 5), 1) == "80"
    assert fetch(foreign) in ("40", None)
with transaction.atomic():
    fetch("SELECT set_config('hnsw.ef_search', '55', true)")
    assert fetch(statement, (1, query, 5), 1) == "80"
    assert fetch(foreign) == "55"
    try:
        with transaction.atomic():
            fetch(statement, (0, query, 5), 1)
    except DataError:
        pass
    else:
        raise AssertionError("no error")
    assert fetch(foreign) == "55"
assert fetch(foreign) == "40"
assert snapshot.counters.tuned >= 8, snapshot.counters
assert not snapshot.counters.failures, snapshot.counters
print("done")
"""


@pytest.mark.parametrize(
    ("engine", "binding"),
    [
        ("vectuned", "client"),
        ("vectuned", "server"),
        ("psycopg2", "client"),
        ("django.db.backends.postgresql", "client"),
    ],
)
def test_backend_sends_settings_and_leaves_none_behind(conn: Connection, engine: str, binding: str) -> None:
    if engine == "psycopg2":
        pytest.importorskip("psycopg2", reason="psycopg2 is not installed")
    prepare(conn)
    info = conn.info
    statement = search()
    if binding == "server":
        statement = statement.replace("+ %s", "+ %s::int")
    arguments = [info.dbname, info.user, info.host, str(info.port), engine, binding, statement, QUERY]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CODE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(PACKAGE.parent)},
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
