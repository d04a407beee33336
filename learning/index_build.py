"""Give an index build the memory and the workers that it needs, and say beforehand what it will take."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Final

import psycopg
from psycopg import sql

from vectuned.config.errors import VectunedError
from vectuned.config.sections import IndexBuildSettings
from vectuned.learning.model.column import VectorType
from vectuned.sql.files import queries
from vectuned.sql.rows import execute, fetch_row, fetch_rows, fetch_value

from .advisor import Definition
from .index_cost import Build, estimate_build_bytes, estimate_build_seconds, slow_down

log = logging.getLogger(__name__)
Connection = psycopg.Connection[Any]

_DEFAULTS: Final = IndexBuildSettings()
_MARGIN: Final = 1.1  # over the bytes that a build is estimated to take
_FREE_SHARE: Final = 0.5  # of the machine's free memory that a build may take: the server needs the rest
_CACHE_SHARE: Final = 0.25  # of effective_cache_size, where the machine's memory is unknown
_PARALLEL_BYTES: Final = 32 << 20  # that PostgreSQL wants for each process of a parallel build
# Versions of pgvector in which a parallel HNSW build can overflow a buffer (CVE-2026-3172): from, before.
_UNSAFE_PARALLEL: Final = ((0, 6), (0, 8, 2))
_MEMINFO: Final = "/proc/meminfo"
# Limits of a container, version 2 and 1 of control groups.
_MEMORY_LIMITS: Final = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_CPUINFO: Final = "/proc/cpuinfo"
_CPU_LIMIT: Final = "/sys/fs/cgroup/cpu.max"
_MIB: Final = 1 << 20  # bytes
_SAMPLED_FROM: Final = 30_000  # rows: smaller tables are built in the time that a forecast takes
_SAMPLE_SIZES: Final = (3_000, 9_000)  # rows of the samples that a forecast is made from: a second or two


@dataclass(frozen=True)
class BuildServer:
    """What a server can give to an index build; bytes, and where `limit_bytes` comes from, in words.

    `maintenance_work_mem` is the server's own, and never taken below.
    """

    maintenance_work_mem: int
    limit_bytes: int
    limit_source: str
    workers: int


@dataclass(frozen=True)
class BuildPlan:
    """The memory and the parallel workers of one build over `rows` rows, and how long it is expected to take.

    `needed_bytes` is what the whole build would take; `seconds` is 0 where nothing like it was measured.
    """

    definition: Definition
    rows: int
    needed_bytes: int
    memory_bytes: int
    limit_source: str
    workers: int
    seconds: float = 0.0

    @property
    def fits(self) -> bool:
        """Say whether the build has all the memory that it needs."""
        return self.needed_bytes <= self.memory_bytes

    @property
    def memory(self) -> str:
        """Return the memory as a setting, as in 512MB."""
        return f"{math.ceil(self.memory_bytes / _MIB)}MB"

    @property
    def settings(self) -> dict[str, str]:
        """Return what the session is to be set to; PostgreSQL's threshold would deny small tables workers."""
        return {
            "maintenance_work_mem": self.memory,
            "max_parallel_maintenance_workers": str(self.workers),
            "min_parallel_table_scan_size": "0",
        }

    def describe(self) -> str:
        """Say what the build will take, in a sentence without its full stop."""
        workers = {0: "no parallel worker", 1: "1 parallel worker"}.get(
            self.workers, f"{self.workers} parallel workers"
        )
        time = f", about {self.seconds:,.0f} s" if self.seconds else ""
        return (
            f"{self.definition} over {self.rows:,} rows: maintenance_work_mem {self.memory} "
            f"(needs {_mb(self.needed_bytes)}), {workers}{time}"
        )

    def warning(self) -> str | None:
        """Say why the build will be slow, or why it must fail; None if it has the memory that it needs."""
        if self.fits:
            return None
        found = (
            f"{self.definition} over {self.rows:,} rows needs {_mb(self.needed_bytes)} of memory, but may "
            f"take {self.memory} ({self.limit_source})"
        )
        remedy = "increase memory_mb of [index_build] if the server has more"
        if self.definition.method == "ivfflat":
            return f"{found}: pgvector refuses to build it; use fewer lists, or {remedy}"
        share = 1.0 - self.memory_bytes / self.needed_bytes
        return (
            f"{found}: the last {share:.0%} of the rows are inserted on disk, several times slower; {remedy}"
        )

    def check(self) -> None:
        """Raise VectunedError if the server would refuse to build the index."""
        if self.definition.method == "ivfflat" and (found := self.warning()):
            raise VectunedError(f"{found}.")


def read_build_server(conn: Connection, limits: IndexBuildSettings = _DEFAULTS) -> BuildServer:
    """Read what the server and its machine can give to a build.

    The machine's free memory and cores are read through the server if the role may read its files, or
    directly where the connection is a local socket. Where they cannot be known, a quarter of
    effective_cache_size and the server's own number of workers are taken. `limits` go before all of that.
    """
    row = fetch_row(conn, "build_server")
    files = _MachineFiles(conn, may_read=row.reads_files)
    free = None if limits.memory_mb else files.free_memory()
    if limits.memory_mb:
        limit, source = limits.memory_mb * _MIB, "memory_mb of [index_build]"
    elif free is not None:
        limit, source = int(_FREE_SHARE * free), f"half of the {_mb(free)} that the server's machine has free"
    else:
        limit, source = int(_CACHE_SHARE * row.effective_cache_size), "a quarter of effective_cache_size"
    if limit <= row.maintenance_work_mem:
        limit, source = row.maintenance_work_mem, "the server's maintenance_work_mem"
    return BuildServer(row.maintenance_work_mem, limit, source, _workers(row, limits, files))


def plan_build(
    server: BuildServer,
    definition: Definition,
    rows: int,
    dimensions: int,
    vector_type: VectorType = "vector",
    builds: Sequence[Build] = (),
) -> BuildPlan:
    """Plan a build; its time is forecast from `builds`, measured with as many workers."""
    needed = round(_MARGIN * estimate_build_bytes(definition, rows, dimensions, vector_type))
    wanted = max(server.maintenance_work_mem, min(needed, server.limit_bytes))
    # With less, PostgreSQL would start fewer workers.
    parallel = min(_PARALLEL_BYTES * (server.workers + 1), server.limit_bytes)
    memory = max(wanted, parallel) if server.workers else wanted
    workers = min(server.workers, memory // _PARALLEL_BYTES - 1) if server.workers else 0
    seconds = estimate_build_seconds(builds, definition, rows) * slow_down(definition, needed, memory)
    return BuildPlan(definition, rows, needed, memory, server.limit_source, max(workers, 0), seconds)


@contextmanager
def build_session(conn: Connection, plan: BuildPlan) -> Iterator[None]:
    """Set up a session in autocommit mode for a build, without time limits, and set it back afterwards.

    A build may take hours, and CREATE INDEX CONCURRENTLY waits for other transactions: an index that a limit
    cuts off would stay behind, invalid. If this process dies, the server notices it within a second, where
    its operating system allows that check, and stops building.
    """
    before = {row.name: row.setting for row in fetch_rows(conn, "build_settings")}
    timeless = {"statement_timeout": "0", "lock_timeout": "0"}
    for name, value in {**plan.settings, **timeless}.items():
        _set(conn, name, value)
    with suppress(psycopg.Error):
        _set(conn, "client_connection_check_interval", "1s")
    try:
        yield
    finally:
        if not (conn.closed or conn.broken):
            for name, value in before.items():
                with suppress(psycopg.Error):
                    _set(conn, name, value)


def drop_unfinished_index(conn: Connection, index: sql.Identifier) -> None:
    """Drop an index that CREATE INDEX CONCURRENTLY left invalid, or say in the log that it is there."""
    name = index.as_string(None)
    if conn.closed or conn.broken:
        log.warning(
            "the connection was lost during the build of %s; if the index is there and invalid: DROP INDEX "
            "CONCURRENTLY %s",
            name,
            name,
            extra={"action": "index_build"},
        )
        return
    try:
        if fetch_value(conn, "unfinished_index", {"index": name}):
            execute(conn, sql.SQL("DROP INDEX CONCURRENTLY {}").format(index))
            log.warning("dropped %s, whose build did not end", name, extra={"action": "index_build"})
    except psycopg.Error as error:
        log.warning(
            "%s is left invalid (%s): DROP INDEX CONCURRENTLY %s",
            name,
            error.diag.message_primary or error,
            name,
            extra={"action": "index_build"},
        )


def time_sample_builds(
    conn: Connection,
    server: BuildServer,
    table: tuple[str, str],
    column: str,
    operators: sql.Identifier,
    definition: Definition,
    rows: int,
    dimensions: int,
) -> list[Build]:
    """Time HNSW builds over two samples of a table, its schema and name, for the forecast of `plan_build`.

    The samples are tables beside it, which the role must be allowed to create. Small tables are not sampled:
    their builds take no longer than a sample's.
    """
    if rows < _SAMPLED_FROM:
        return []
    schema, name = table
    sample = sql.Identifier(schema, f"{name[:40]}_build_sample")
    parts = {
        "sample": sample,
        "column": sql.Identifier(column),
        "relation": sql.Identifier(schema, name),
        "operators": operators,
    }
    options = {"m": sql.Literal(definition.m), "ef_construction": sql.Literal(definition.ef_construction)}
    statements, builds = queries(), []
    for size in _SAMPLE_SIZES:
        with build_session(conn, plan_build(server, definition, size, dimensions)):
            execute(conn, statements["drop_build_sample"].format(sample=sample))
            create = statements["create_build_sample"].format(**parts, rows=sql.Literal(size))
            try:
                execute(conn, create)
                began = monotonic()
                execute(conn, statements["create_sample_index"].format(**parts, **options))
                builds.append(Build(definition, size, monotonic() - began))
            finally:
                if not (conn.closed or conn.broken):
                    execute(conn, statements["drop_build_sample"].format(sample=sample))
    return builds


def _set(conn: Connection, name: str, value: str) -> None:
    execute(conn, "set_build_setting", {"name": name, "value": value})


class _MachineFiles:
    """Files of the server's machine that say what memory and cores it has."""

    def __init__(self, conn: Connection, *, may_read: bool) -> None:
        self._conn, self._may_read = conn, may_read
        self._is_local = (conn.info.host or "").startswith(os.sep)

    def free_memory(self) -> int | None:
        """Return the bytes that are free for programs, within the limit of a container; None if unknown."""
        found = re.search(r"^MemAvailable: +(\d+) kB", self._read(_MEMINFO), re.M)
        if found is None:
            return None
        free = int(found[1]) * 1024
        for path in _MEMORY_LIMITS:
            limit = self._read(path).strip()
            if limit.isdecimal():
                free = min(free, int(limit))
        return free

    def cores(self) -> int | None:
        """Return the number of cores that the server may use; None if unknown."""
        cores = len(re.findall(r"^processor\s*:", self._read(_CPUINFO), re.M))
        quota, _, period = self._read(_CPU_LIMIT).strip().partition(" ")
        if quota.isdecimal() and period.isdecimal():
            cores = min(cores, math.ceil(int(quota) / int(period)))
        return cores or None

    def _read(self, path: str) -> str:
        if self._may_read:
            with suppress(psycopg.Error), self._conn.transaction():
                return str(fetch_value(self._conn, "server_file", {"path": path}) or "")
            return ""
        if self._is_local:
            with suppress(OSError):
                return Path(path).read_text()
        return ""


def _workers(row: Any, limits: IndexBuildSettings, files: _MachineFiles) -> int:
    """Return how many parallel workers a build may have; searches keep a core of the machine."""
    version = tuple(int(part) for part in re.findall(r"\d+", row.pgvector or "")[:3])
    oldest, mended = _UNSAFE_PARALLEL
    if oldest <= version < mended:
        return 0
    if limits.workers >= 0:
        return min(limits.workers, int(row.most_workers))
    cores = files.cores()
    if cores is None:
        return int(row.parallel_workers)
    return max(min(cores - 1, int(row.most_workers)), 0)


def _mb(size: int) -> str:
    return f"{size / _MIB:,.0f} MB"
