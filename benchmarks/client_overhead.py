"""Measure what `client.tune` adds to statements that are none of ours.

Run as `python -m benchmarks.client_overhead [--json] [--dsn DSN]`. One statement, SELECT of an integer by a
bind parameter, is executed over psycopg in shuffled blocks through an untuned connection, a tuned one, and a
tuned one that records a twentieth of the statements. Each arm has a connection and a text of its own. The
figure to watch: `added_us`, the median over that of the untuned connection, at most 5 microseconds.
"""

from __future__ import annotations

import argparse
import json
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg

from benchmarks.scratch import scratch_database
from vectuned import client
from vectuned.sql.client.snapshot import Snapshot
from vectuned.sql.install import migrate

ARMS: Final = ("untuned", "tuned", "recording")
BLOCKS: Final = 120  # an arm: the intervals of medians come from whole blocks
BLOCK: Final = 200  # executions of a block: some milliseconds, so that load drifts alike for all arms
RESAMPLES: Final = 2000  # of whole blocks, for the intervals


def measure(dsn: str, seed: int) -> dict[str, Any]:
    """Return p50 and p99 of every arm in microseconds, and what each adds to the untuned connection."""
    rng = np.random.default_rng(seed)
    conns = {arm: psycopg.connect(dsn, autocommit=True) for arm in ARMS}
    client.tune(conns["tuned"], snapshot=Snapshot())
    client.tune(conns["recording"], dsn=dsn, record=0.05, snapshot=Snapshot())
    texts = {arm: f"SELECT %s::int /* {arm} */" for arm in ARMS}
    us: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
    for block in range(BLOCKS + 2):  # the first two warm up: the driver prepares the statements
        for arm in rng.permutation(ARMS).tolist():
            conn, text, taken = conns[arm], texts[arm], []
            for number in range(BLOCK):
                started = perf_counter()
                conn.execute(text, (number,)).fetchone()
                taken.append(1e6 * (perf_counter() - started))
            if block >= 2:
                us[arm].append(taken)
    for conn in conns.values():
        conn.close()
    table = {arm: np.array(values) for arm, values in us.items()}
    picks = rng.integers(BLOCKS, size=(RESAMPLES, BLOCKS))
    found: dict[str, Any] = {"statements": BLOCKS * BLOCK, "arms": {}}
    for arm, values in table.items():
        medians = np.median(values, axis=1)
        added = medians - np.median(table["untuned"], axis=1)
        spread = np.quantile(np.median(added[picks], axis=1), [0.025, 0.975])
        found["arms"][arm] = {
            "p50_us": float(np.median(values)),
            "p99_us": float(np.quantile(values, 0.99)),
            "added_us": {
                "value": float(np.median(added)),
                "at_least": float(spread[0]),
                "at_most": float(spread[1]),
            },
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--dsn", help="a database to use (default: an embedded server)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with scratch_database(options.dsn) as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            migrate(conn)
        found = measure(dsn, options.seed)
    if options.json:
        print(json.dumps(found, indent=1))
        return
    for arm, figures in found["arms"].items():
        added = figures["added_us"]
        print(
            f"{arm:10} p50 {figures['p50_us']:.1f} us, p99 {figures['p99_us']:.1f} us, added "
            f"{added['value']:.2f} us ({added['at_least']:.2f} to {added['at_most']:.2f})"
        )


if __name__ == "__main__":
    main()
