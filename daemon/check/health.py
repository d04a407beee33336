"""What is wrong with indexes and tables by the catalogue alone: no search is run for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from itertools import groupby
from typing import Final

from psycopg import sql

from .catalogue import Server, VectorIndex, VectorTable
from .findings import Finding
from .partitions import check_servers

# Rows from which a scan of the whole table is slow enough, some 10 ms at 384 dimensions, to want an index.
SMALL_TABLE: Final = 10_000
# Share of dead rows from which a scan passes over them noticeably; autovacuum's own default is a fifth.
_DEAD_SHARE: Final = 0.25
# Rows a list of an IVFFlat index: pgvector recommends 1,000; a tenth or ten times that is another index.
_FEWEST_ROWS_A_LIST: Final = 100
_MOST_ROWS_A_LIST: Final = 10_000  # rows
# Time after which an index without a scan counts as unused: a day holds most jobs that run daily.
_UNUSED_AFTER: Final = timedelta(days=1)
# Dimensions that pgvector indexes at the most, by type.
_LARGEST: Final = {"vector": 2000, "halfvec": 4000}
_MIB: Final = 1 << 20  # bytes


def check_version(server: Server, tables: Sequence[VectorTable]) -> Iterator[Finding]:
    """Find defects of pgvector's version that concern the indexes that are there.

    Source: pgvector's change log up to 0.8.7.
    """
    version, name = server.pgvector_number, f"pgvector {server.pgvector}"
    methods = {index.method for table in tables for index in table.indexes}
    if not version:
        return
    if version < (0, 8):
        yield Finding(
            "warning",
            "old-pgvector",
            name,
            "has no iterative scans: a filtered search returns only what is left of the first ef_search rows",
            "install pgvector 0.8 or later, then",
            "ALTER EXTENSION vector UPDATE",
        )
    if "hnsw" in methods and (0, 6) <= version < (0, 8, 2):
        yield Finding(
            "warning",
            "parallel-build-overflow",
            name,
            "can overflow a buffer when an HNSW index is built in parallel (CVE-2026-3172, fixed in 0.8.2)",
            "update pgvector; until then build with",
            "SET max_parallel_maintenance_workers = 0",
        )
    if version < (0, 8, 4):
        for table in tables:
            for index in table.indexes:
                if index.method == "hnsw" and table.vacuums:
                    yield Finding(
                        "warning",
                        "vacuum-corruption",
                        str(index),
                        f"may have been damaged by one of {table.vacuums} vacuums: {name} can corrupt HNSW "
                        "indexes while rows are inserted during a vacuum (fixed in 0.8.3 and 0.8.4)",
                        "update pgvector, then",
                        f"REINDEX INDEX CONCURRENTLY {index.quoted}",
                    )
    if "ivfflat" in methods and version < (0, 8, 7):
        yield Finding(
            "note",
            "ivfflat-build-overflow",
            name,
            "can overflow a buffer when an IVFFlat index is built (fixed in 0.8.7)",
            "update pgvector before the next build",
        )


def check_table(server: Server, table: VectorTable) -> Iterator[Finding]:
    """Find what is wrong with a table and its vector indexes."""
    yield from _check_validity(table)
    yield from _check_duplicates(table)
    for index in table.indexes:
        if index.is_valid:
            yield from _check_index(server, table, index)
    yield from check_servers(str(table), table.foreign)
    # An invalid index is to be built again, not given a second one beside it. If some partitions are on other
    # servers, an index of the parent would leave them out.
    if not table.indexes and not table.parts and not table.foreign and table.rows >= SMALL_TABLE:
        yield _missing_index(table)
    if table.rows < 0 and table.bytes:
        yield Finding(
            "warning",
            "never-analyzed",
            str(table),
            "was never analyzed: the planner guesses how many rows there are and how many match a filter",
            "run",
            f"ANALYZE {table.quoted}",
        )
    dead, live = table.dead_rows or 0, table.live_rows or 0
    if dead > _DEAD_SHARE * (dead + live) and dead > SMALL_TABLE / 10:
        yield Finding(
            "warning",
            "dead-rows",
            str(table),
            f"holds {dead:,} dead rows beside {live:,} live ones; every search passes over them",
            "run",
            f"VACUUM {table.quoted}",
        )


def _check_validity(table: VectorTable) -> Iterator[Finding]:
    for index in table.indexes:
        if index.is_valid or index.is_building:
            continue
        twin = next((i for i in table.indexes if i.is_valid and _kind(i) == _kind(index)), None)
        yield Finding(
            "problem",
            "invalid-index",
            str(index),
            "is invalid, left by a CREATE or REINDEX INDEX CONCURRENTLY that did not end: no search uses it"
            + (f", while every write pays for its {_size(index.bytes)}" if index.is_ready else ""),
            f"{twin} serves instead: drop it with" if twin else "build it again with",
            f"DROP INDEX CONCURRENTLY {index.quoted}"
            if twin
            else f"REINDEX INDEX CONCURRENTLY {index.quoted}",
        )


def _check_duplicates(table: VectorTable) -> Iterator[Finding]:
    valid = sorted((index for index in table.indexes if index.is_valid), key=_kind)
    for _, alike in groupby(valid, key=_kind):
        first, *others = sorted(alike, key=lambda index: (-index.scans, index.name))
        for other in others:
            if other.build == first.build:
                message = f"is a duplicate of {first}: writes and {_size(other.bytes)} are spent for nothing"
            else:
                message = (
                    f"is over the same expression as {first} ({other.build} and {first.build}): "
                    "the planner takes either, and not by their recall"
                )
            yield Finding(
                "warning",
                "duplicate-index",
                str(other),
                message,
                f"it was scanned {other.scans:,} times, {first.name} {first.scans:,} times; drop one:",
                f"DROP INDEX CONCURRENTLY {other.quoted}",
            )


def _check_index(server: Server, table: VectorTable, index: VectorIndex) -> Iterator[Finding]:
    rows_a_list = table.rows / (index.lists or 100)
    suits = _FEWEST_ROWS_A_LIST <= rows_a_list <= _MOST_ROWS_A_LIST
    if index.method == "ivfflat" and table.rows >= SMALL_TABLE and not suits:
        lists = max(round(table.rows / 1000 if table.rows <= 1e6 else table.rows**0.5), 10)
        yield Finding(
            "warning",
            "ivfflat-lists",
            str(index),
            f"has {index.lists or 100:,} lists for {table.rows:,.0f} rows; about {lists:,} are usual",
            "build it again with more suitable lists, or as HNSW; `vectuned advise` measures both",
        )
    if index.bytes > server.shared_buffers:
        yield Finding(
            "note",
            "larger-than-memory",
            str(index),
            f"takes {_size(index.bytes)}, shared_buffers {_size(server.shared_buffers)}: searches wait for "
            "pages from outside of PostgreSQL's memory",
            "half precision halves it: see `vectuned advise`",
        )
    if index.scans == 0 and server.statistics_age > _UNUSED_AFTER:
        yield Finding(
            "note",
            "unused-index",
            str(index),
            f"was not scanned in {server.statistics_age.days} days, and takes {_size(index.bytes)}",
            "if no standby uses it either",
            f"DROP INDEX CONCURRENTLY {index.quoted}",
        )


def _missing_index(table: VectorTable) -> Finding:
    name = sql.Identifier(table.column).as_string(None)
    dimensions = table.dimensions
    # PostgreSQL cannot build an index of a partitioned table concurrently.
    create = "CREATE INDEX" if table.is_partitioned else "CREATE INDEX CONCURRENTLY"
    if dimensions is None:
        return Finding(
            "warning",
            "no-index",
            str(table),
            f"has no vector index ({table.rows:,.0f} rows), and its type says no dimensions, so only an "
            "expression can be indexed",
            "if all vectors are of one length n, give the column a type with dimensions, which rewrites the "
            "table, or index the cast and order by it",
            f"{create} ON {table.quoted} USING hnsw (({name}::{table.type}(n)) {table.type}_cosine_ops)",
        )
    if dimensions <= _LARGEST[table.type]:
        expression, operators = name, f"{table.type}_cosine_ops"
    elif dimensions <= _LARGEST["halfvec"]:
        expression, operators = f"({name}::halfvec({dimensions}))", "halfvec_cosine_ops"
    else:
        expression, operators = f"(binary_quantize({name})::bit({dimensions}))", "bit_hamming_ops"
    return Finding(
        "warning",
        "no-index",
        str(table),
        f"has no vector index: every search reads all {table.rows:,.0f} rows ({_size(table.bytes)})",
        "by the distance that your statements order by, for example",
        f"{create} ON {table.quoted} USING hnsw ({expression} {operators})",
    )


def _kind(index: VectorIndex) -> tuple[str, str, str, str]:
    return index.method, index.expression, index.operator_class, index.predicate or ""


def _size(size: int) -> str:
    return f"{size / _MIB:,.0f} MB" if size >= _MIB else f"{size / 1024:,.0f} kB"
