"""How long searches take with each policy, measured where searches meet it: in the database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg
from psycopg import sql

from vectuned.learning.model.arrays import Floats, Singles
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.model.vectors import Vector
from vectuned.learning.patterns.optimizer import Policy

from .storage import read_bank, set_served_policy

# Blocks of searches between which the policy changes: they are what the bootstrap resamples.
_BLOCKS: Final = 24
# Seconds by which effort by query costs more where each search is a transaction of its own, which it is not
# while it is measured: PL/pgSQL prepares a function's expressions once a transaction. 0.05 to 0.12 ms were
# counted.
_PREPARE_SECONDS: Final = 1e-4
_EXACT_SEARCHES: Final = 24  # the mean of so many is known to a few per cent: exact searches hardly differ
_EXACT_SECONDS: Final = 2.0  # no exact search begins after that
_EXACT_TIMEOUT_MS: Final = 10_000  # milliseconds; no application waits longer for a search
_RESAMPLES: Final = 2000  # of the bootstrap: 100 of them lie below its 5 % quantile


def measure_saving(
    conn: psycopg.Connection[Any], tuned: TunedColumn, k: int, query_vectors: Singles, *, seed: int = 0
) -> float | None:
    """Measure the time of the fixed setting over that of effort by query, overheads included.

    Returns a lower bound of the ratio of mean times with 95 % confidence (bootstrap over blocks): a saving
    that the noise of the machine could have made does not count. None without query vectors.

    Must run in a transaction, with the adaptive bank in place, and leaves it serving. What effort by query
    costs only where each search is a transaction of its own is added to its time.
    """
    if not len(query_vectors):
        return None
    adaptive = read_bank(conn, tuned)[k][0]
    policies = [replace(adaptive, signature=None), adaptive]
    fixed_times, adaptive_times = measure_times(conn, tuned, policies, query_vectors, seed)
    adaptive_times = adaptive_times + _PREPARE_SECONDS * len(query_vectors) / len(adaptive_times)
    shape = (_RESAMPLES, len(fixed_times))
    drawn = np.random.default_rng(seed).integers(len(fixed_times), size=shape)
    # Means, not medians: adaptive effort spends its time on the few hard queries.
    ratios = fixed_times[drawn].sum(axis=1) / adaptive_times[drawn].sum(axis=1)
    return float(np.quantile(ratios, 0.05))


def measure_exact(
    conn: psycopg.Connection[Any], tuned: TunedColumn, policy: Policy, query_vectors: Singles
) -> float:
    """Return the mean time of an exact search in milliseconds; infinity if one takes over ten seconds.

    Must run in a transaction that is rolled back, with the class of the exact `policy` in the bank.
    """
    statement = _search_statement(tuned)
    conn.execute("SELECT set_config('vectuned.record', 'off', true)")
    conn.execute("SELECT set_config('statement_timeout', %s, true)", (str(_EXACT_TIMEOUT_MS),))
    times: list[float] = []
    began = perf_counter()
    for query in query_vectors[:_EXACT_SEARCHES]:
        started = perf_counter()
        conn.execute(statement, (Vector(query), policy.k_class)).fetchall()
        times.append(1000 * (perf_counter() - started))
        if times[-1] > 0.9 * _EXACT_TIMEOUT_MS:
            return float("inf")
        if perf_counter() - began > _EXACT_SECONDS:
            break
    return float(np.mean(times[1:] or times))  # the first one only warms plans and pages


def _search_statement(tuned: TunedColumn) -> sql.Composed:
    """Return the call of the column's function, whose parameters are the query vector and k."""
    name = sql.Identifier(f"_search_{tuned.column.id}")
    return sql.SQL("SELECT * FROM vectuned.{}(%s, %s)").format(name)


def measure_times(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    policies: Sequence[Policy],
    query_vectors: Singles,
    seed: int,
) -> list[Floats]:
    """Measure how long blocks of searches take with each of several policies of a class.

    All policies answer the same searches through the column's function, in blocks whose order is random; the
    pages are warm. Returns the seconds of each block, float64 (blocks,), by policy. A bank of the class must
    be in place; the last policy is left serving.
    """
    statement = _search_statement(tuned)
    rng = np.random.default_rng(seed)
    seconds: list[list[float]] = [[] for _ in policies]
    conn.execute("SELECT set_config('vectuned.record', 'off', true)")
    blocks = [b for b in np.array_split(rng.permutation(len(query_vectors)), _BLOCKS) if len(b)]
    for number, block in enumerate([blocks[0], *blocks]):
        for arm in rng.permutation(len(policies)):
            set_served_policy(conn, tuned, policies[arm])
            started = perf_counter()
            for i in block:
                conn.execute(statement, (Vector(query_vectors[i]), policies[0].k_class)).fetchall()
            if number:  # the first block only warms plans and pages
                seconds[arm].append(perf_counter() - started)
    set_served_policy(conn, tuned, policies[-1])
    return [np.array(times) for times in seconds]
