"""Measure what the one line `client.tune` adds to a statement, and what observing costs a busy server.

`added`: the same statement over a plain and a tuned connection of psycopg, in shuffled blocks. Its settings,
where it has some, are those in force anyway, so that the search itself does the same work. Goal, at the
median over a local socket: at most 0.03 ms for a statement without settings, 0.06 ms for one with them.

`throughput`: pgbench with many clients, in shuffled blocks: as it is; with 5 % of the statements logged; and
with `vectuned observe --follow` reading that log.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg

from benchmarks.application_kinds import K, Place, name_of
from benchmarks.applications import LOGGING
from benchmarks.scratch import scratch_database
from benchmarks.sets import VectorSet, load
from vectuned import client
from vectuned.config.errors import VectunedError
from vectuned.daemon.console import Console
from vectuned.daemon.measure.arms import race
from vectuned.daemon.measure.intervals import bootstrap_interval
from vectuned.daemon.server.installation import find_binaries
from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.vectors import Vector
from vectuned.sql.client.fingerprint import fingerprint, normalize
from vectuned.sql.client.snapshot import Snapshot
from vectuned.sql.install import migrate

_SEARCH: Final = (
    "SELECT id, embedding <=> %s AS distance FROM items "
    "WHERE category = %s ORDER BY embedding <=> %s LIMIT 10"
)
_UNKNOWN: Final = _SEARCH.replace("id,", "id, category,")  # a vector search that nothing is published for
_SAME: Final = {"hnsw.ef_search": "40", "hnsw.iterative_scan": "off", "hnsw.max_scan_tuples": "20000"}
_SCRIPTS: Final = 100  # different statements for pgbench, which takes 128 files
_RATE: Final = 0.05  # of the statements that are logged
_ROLES: Final = {"as it is": "bench_plain", "logged": "bench_logged", "observed": "bench_logged"}


def measure(options: dict[str, Any], console: Console, dsn: str | None) -> dict[str, Any]:
    """Run both parts; `options` are the keys of the definition."""
    if dsn is not None:
        console.say("Costs are measured on a server of their own, whose log is read.")
    data, seed = load(options["set"], console, options.get("rows")), int(options.get("seed", 0))
    with (
        scratch_database(None, LOGGING) as conninfo,
        psycopg.connect(conninfo, autocommit=True) as conn,
    ):
        place = Place(conninfo)
        _prepare(conn, data, console)
        return {
            "set": data.name,
            "rows": len(data.rows),
            "dimensions": data.rows.shape[1],
            "searches": options["searches"],
            "added": _measure_added(place, conn.info.user, data, int(options["searches"]), seed),
            "clients": options["clients"],
            "seconds_an_arm": options["blocks"] * options["seconds"],
            "rate": _RATE,
            "throughput": _measure_throughput(place, data, options, seed, console),
        }


def _prepare(conn: psycopg.Connection[Any], data: VectorSet, console: Console) -> None:
    """Create a table, and publish settings for a statement that are in force anyway."""
    migrate(conn)
    conn.execute(
        f"CREATE TABLE items (id int PRIMARY KEY, category text, embedding vector({data.rows.shape[1]}))"
    )
    with conn.cursor().copy("COPY items FROM STDIN") as copy:
        for number, (category, vector) in enumerate(zip(data.categories, data.rows, strict=True)):
            copy.write_row((number, name_of(int(category)), Vector(vector).to_text()))
    console.say("indexing")
    conn.execute("CREATE INDEX ON items USING hnsw (embedding vector_cosine_ops)")
    conn.execute("CREATE INDEX ON items (category)")
    conn.execute("VACUUM ANALYZE items")
    conn.execute("SELECT vectuned.enable('items', 'embedding')")
    conn.execute(
        "INSERT INTO vectuned.statement "
        "(fingerprint, column_id, k_class, shape, text, settings, published_at) "
        "SELECT %s, id, 10, '', %s, %s, now() FROM vectuned.tuned_column",
        (fingerprint(_SEARCH), normalize(_SEARCH), json.dumps(_SAME)),
    )
    for role in set(_ROLES.values()):
        conn.execute(f"CREATE ROLE {role} LOGIN".encode())
    conn.execute("GRANT SELECT ON items TO PUBLIC")
    conn.execute("ALTER ROLE bench_logged SET log_min_duration_sample = 0")
    conn.execute(f"ALTER ROLE bench_logged SET log_statement_sample_rate = {_RATE}".encode())


def _measure_added(place: Place, role: str, data: VectorSet, count: int, seed: int) -> dict[str, Any]:
    """Race plain and tuned connections, each statement outside of a transaction and within one."""
    queries = np.random.default_rng(seed).integers(len(data.heldout), size=count)
    searches = [
        (Vector(data.heldout[at]).to_text(), name_of(int(data.heldout_categories[at]))) for at in queries
    ]
    found: dict[str, Any] = {}
    for name, autocommit in (("autocommit", True), ("in a transaction", False)):
        found[name] = {}
        for label, statement in (("without settings", _UNKNOWN), ("with settings", _SEARCH)):
            with ExitStack() as stack:
                arms = {}
                for arm in ("plain", "tuned", "plain again"):
                    conn = stack.enter_context(psycopg.connect(place.dsn(role), autocommit=autocommit))
                    if arm == "tuned":
                        client.tune(conn, snapshot=Snapshot())
                    arms[arm] = partial(_search, conn, statement.encode())
                seen = race(arms, searches, K, seed=seed)
            plain, tuned, again = (seen[arm].millis for arm in arms)
            found[name][label] = {
                "plain_p50_ms": float(np.median(plain)),
                "tuned_p50_ms": float(np.median(tuned)),
                "added_p50_ms": bootstrap_interval(_median_difference, (tuned, plain), seed),
                # The same connection twice: how far the figure can be trusted.
                "noise_p50_ms": bootstrap_interval(_median_difference, (again, plain), seed),
            }
    return found


def _search(conn: psycopg.Connection[Any], statement: bytes, vector: str, category: str) -> list[float]:
    return [row[-1] for row in conn.execute(statement, (vector, category, vector)).fetchall()]


def _median_difference(own: Floats, others: Floats) -> Floats:
    """Return the median of the differences, query by query."""
    return np.asarray(np.median(own - others, axis=-1))


def _measure_throughput(
    place: Place, data: VectorSet, options: dict[str, Any], seed: int, console: Console
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    tps: dict[str, list[float]] = {arm: [] for arm in _ROLES}
    with tempfile.TemporaryDirectory() as folder:
        scripts = _write_scripts(Path(folder), data)
        for block in range(options["blocks"]):
            for arm in rng.permutation(list(_ROLES)):
                with _observing(place) if arm == "observed" else ExitStack():
                    tps[arm].append(_pgbench(place.dsn(_ROLES[arm]), scripts, options, seed + block))
                console.say(f"block {block + 1}, {arm}: {tps[arm][-1]:.0f} statements a second")
    mean = {arm: float(np.mean(found)) for arm, found in tps.items()}
    return {
        arm: {"tps": value, "ratio": value / mean["as it is"], "blocks": tps[arm]}
        for arm, value in mean.items()
    }


def _write_scripts(folder: Path, data: VectorSet) -> list[Path]:
    """Write statements with their values, as psql or an ORM sends them."""
    scripts = []
    for number, (vector, category) in enumerate(
        zip(data.heldout[:_SCRIPTS], data.heldout_categories[:_SCRIPTS], strict=True)
    ):
        query = f"'{Vector(vector).to_text()}'"
        path = folder / f"{number}.sql"
        path.write_text(_SEARCH % (query, f"'{name_of(int(category))}'", query) + ";\n")
        scripts.append(path)
    return scripts


def _pgbench(dsn: str, scripts: list[Path], options: dict[str, Any], seed: int) -> float:
    """Return the statements a second of many clients; every statement is sent with its values."""
    program = shutil.which("pgbench") or str(find_binaries().program("pgbench"))
    said = subprocess.run(
        [
            program,
            "--no-vacuum",
            f"--client={options['clients']}",
            "--jobs=2",
            f"--time={options['seconds']}",
            f"--random-seed={seed}",
            *(f"--file={script}" for script in scripts),
            dsn,
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found = re.search(r"tps = ([\d.]+)", said)
    if found is None:
        raise VectunedError(f"pgbench said no tps: {said[-300:]}")
    return float(found[1])


@contextmanager
def _observing(place: Place) -> Iterator[None]:
    """Run `vectuned observe --follow` on the server's own log."""
    command = [sys.executable, "-m", "vectuned.daemon", "observe", "--follow", "--dsn", place.conninfo]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            time.sleep(2.0)
            if process.poll() is not None:
                raise VectunedError(f"vectuned observe ended by itself, with {process.returncode}.")
            yield
        finally:
            process.terminate()
            process.wait()
