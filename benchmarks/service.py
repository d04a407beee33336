"""Measure the daemon under load: its effect on clients, and its memory over a million searches.

Run as `python -m benchmarks.service [--parts clients memory] [--json FILE]`, on an embedded server in a
temporary folder.

`clients` (8 minutes): pgbench with 32 clients searches WordNet's glosses, in shuffled blocks through
vectuned.search while the daemon records, replays and learns, by plain SQL at the same ef_search with no
daemon, and by plain SQL beside the daemon at work. The figures to watch: `ratio`, throughput over that of
plain SQL without a daemon, at least 0.9, and no failed search.

`memory` (6 minutes): the daemon drains a million recorded searches, written into the inbox in bulk, and
replays as many as its budget allows. The figure to watch: the peak memory of the second half equals that of
the first.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from psycopg.conninfo import conninfo_to_dict

from benchmarks.scratch import scratch_database
from vectuned.config.settings import load_settings
from vectuned.daemon.console import Console
from vectuned.daemon.demo.demo_data import (
    INDEX,
    RELATION,
    DemoSizes,
    build_index,
    embed_corpus,
    enable,
    load_table,
)
from vectuned.daemon.server.installation import find_binaries
from vectuned.daemon.work.worker import Worker
from vectuned.learning.model.vectors import Vector
from vectuned.reasoning.embedding.embedder import StaticEmbedder
from vectuned.reasoning.wordnet.corpus import load_wordnet
from vectuned.sql.install import migrate

K: Final = 10
ARMS: Final = ("plain", "vectuned", "plain beside the daemon")
BATCH: Final = 50_000
SEARCHES: Final = {
    "plain": f"SELECT count(*) FROM (SELECT id FROM {RELATION} ORDER BY embedding <=> "
    f"(SELECT query FROM asked WHERE n = :n) LIMIT {K}) s;",
    "vectuned": "SELECT count(*) FROM "
    f"vectuned.search('{RELATION}', (SELECT query FROM asked WHERE n = :n), {K});",
}


@contextmanager
def daemon(dsn: str, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `vectuned run`, with shorter intervals than usual."""
    busy = {"SCHEDULE__DRAIN_SECONDS": "5", "SCHEDULE__REPLAY_SECONDS": "5", "SCHEDULE__LEARN_SECONDS": "20"}
    environ = {**os.environ, **{f"VECTUNED_{name}": value for name, value in (busy | variables).items()}}
    command = [sys.executable, "-m", "vectuned.daemon", "run", "--dsn", dsn]
    with subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL) as process:
        try:
            time.sleep(3.0)
            assert process.poll() is None, "the daemon ended by itself"
            yield process
        finally:
            process.terminate()
            process.wait()


def pgbench(dsn: str, script: str, ef: int, clients: int, seconds: int, seed: int) -> dict[str, float]:
    """Run searches with pgbench; return searches per second, mean milliseconds and the number of failures."""
    place = {key: str(value) for key, value in conninfo_to_dict(dsn).items()}
    environ = {**os.environ, "PGOPTIONS": f"-c hnsw.ef_search={ef} -c jit=off"}
    for name, key in (("PGHOST", "host"), ("PGPORT", "port"), ("PGUSER", "user"), ("PGDATABASE", "dbname")):
        if key in place:
            environ[name] = place[key]
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(f"\\set n random(1, :queries)\n{script}\n")
        file.flush()
        program = shutil.which("pgbench") or str(find_binaries().program("pgbench"))
        said = subprocess.run(
            [
                program,
                "--no-vacuum",
                "--protocol=prepared",
                f"--client={clients}",
                "--jobs=2",
                f"--time={seconds}",
                f"--random-seed={seed}",
                "--define=queries=2000",
                f"--file={file.name}",
            ],
            env=environ,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    number = {
        "tps": r"tps = ([\d.]+)",
        "mean_ms": r"latency average = ([\d.]+)",
        "failed": r"failed transactions: (\d+)",
    }
    found = {name: re.search(pattern, said) for name, pattern in number.items()}
    return {name: float(match.group(1)) for name, match in found.items() if match is not None}


def clients(dsn: str, options: argparse.Namespace, talk: Console) -> dict[str, Any]:
    """Measure the cost of the daemon and of vectuned.search to clients that keep the server busy."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        migrate(conn)
        register_vector(conn)
        corpus = load_wordnet()
        rows, asked, _ = embed_corpus(corpus, StaticEmbedder(), DemoSizes(2000, 100, options.seed), talk)
        load_table(conn, corpus, rows, talk)
        build_index(conn, dsn, rows.shape, talk)
        conn.execute(f"CREATE TABLE asked (n int PRIMARY KEY, query vector({rows.shape[1]}))")
        with conn.cursor().copy("COPY asked FROM STDIN") as copy:
            for number, query in enumerate(asked.vectors, 1):
                copy.write_row((number, Vector(query).to_text()))
        conn.execute("VACUUM ANALYZE asked")
        tuned = enable(conn, target=0.95, sample_rate=1.0)
        worker = Worker(conn, load_settings(None, {}, {}))
        for query in asked.vectors[:800]:
            conn.execute("SELECT vectuned.search(%s, %s, %s)", (RELATION, Vector(query), K))
        worker.drain()
        worker.replay(tuned, 800)
        worker.learn(tuned)
        enable(conn, target=0.95, sample_rate=0.05)
        row = conn.execute(
            "SELECT ef_search, access_path FROM vectuned.bank WHERE k_class = %s", (K,)
        ).fetchone()
        assert row is not None
        ef, path = int(row[0]), str(row[1])
        conn.execute("SELECT pg_prewarm(%s)", (f"vectuned_demo.{INDEX}",)) if _prewarmed(conn) else None
        done: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
        rng = np.random.default_rng(options.seed)
        count = "SELECT count(*) FROM vectuned.replay"
        replayed = 0
        for block in range(options.blocks):
            for arm in rng.permutation(ARMS):
                before = conn.execute(count).fetchone()
                script = SEARCHES["vectuned" if arm == "vectuned" else "plain"]
                load = (dsn, script, ef, options.clients, options.seconds, options.seed + block)
                if arm == "plain":
                    done[arm].append(pgbench(*load))
                else:
                    with daemon(dsn):
                        done[arm].append(pgbench(*load))
                after = conn.execute(count).fetchone()
                assert before is not None
                assert after is not None
                replayed += after[0] - before[0]
                talk.say(f"block {block + 1}, {arm}: {done[arm][-1]}")
    tps = {arm: float(np.mean([each["tps"] for each in found])) for arm, found in done.items()}
    return {
        "clients": options.clients,
        "seconds_an_arm": options.blocks * options.seconds,
        "ef_search": ef,
        "path": path,
        "replayed_meanwhile": replayed,
        "tps": tps,
        "mean_ms": {arm: float(np.mean([each["mean_ms"] for each in found])) for arm, found in done.items()},
        "failed": sum(each["failed"] for found in done.values() for each in found),
        "ratio": tps["vectuned"] / tps["plain"],
        "ratio_beside_the_daemon": tps["vectuned"] / tps["plain beside the daemon"],
    }


def memory(dsn: str, options: argparse.Namespace, talk: Console) -> dict[str, Any]:
    """Measure the daemon's memory while it drains a million searches."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        migrate(conn)
        conn.execute("CREATE TABLE items (id bigint PRIMARY KEY, embedding vector(32))")
        conn.execute("SELECT setseed(0.5)")
        vector = "(SELECT array_agg(random() - 0.5 + 0 * (g + {})) FROM generate_series(1, 32) g)::vector"
        conn.execute(f"INSERT INTO items SELECT n, {vector.format('n')} FROM generate_series(1, 5000) n")
        conn.execute("CREATE INDEX ON items USING hnsw (embedding vector_cosine_ops)")
        conn.execute("SELECT vectuned.enable('items', 'embedding', sample_rate => 1.0)")
        peaks: list[float] = []
        with daemon(dsn, BUDGET__CORE_SHARE="0.5") as process:
            for batch in range(options.trajectories // BATCH):
                conn.execute(
                    "INSERT INTO vectuned.inbox (query_id, column_id, query, k, access_path, ef_search, "
                    f"result_ids, distances, latency_ms) SELECT gen_random_uuid(), 1, {vector.format('n')}, "
                    "10, 'hnsw', 40, array(SELECT i::text FROM generate_series(1, 10) i), "
                    "array(SELECT i / 100.0 FROM generate_series(1, 10) i), 1.0 "
                    "FROM generate_series(1, %s) n",
                    (BATCH,),
                )
                while (row := conn.execute("SELECT count(*) FROM vectuned.inbox").fetchone()) and row[0]:
                    assert process.poll() is None, "the daemon ended by itself"
                    time.sleep(0.2)
                status = Path(f"/proc/{process.pid}/status").read_text()
                peaks.append(int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) / 1024)
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # resets the peak
                talk.say(f"{(batch + 1) * BATCH:,} searches: peak {peaks[-1]:.0f} MB")
            row = conn.execute(
                "SELECT (SELECT count(*) FROM vectuned.trajectory), (SELECT count(*) FROM vectuned.replay)"
            ).fetchone()
            assert row is not None
    half = len(peaks) // 2
    return {
        "trajectories": row[0],
        "replays_kept": row[1],
        "peak_mb": [round(peak, 1) for peak in peaks],
        "first_half_mb": max(peaks[:half]),
        "second_half_mb": max(peaks[half:]),
    }


def _prewarmed(conn: psycopg.Connection[Any]) -> bool:
    """Return whether the indexes could be prewarmed."""
    row = conn.execute("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_prewarm'").fetchone()
    if row is None or not row[0]:
        return False
    conn.execute("CREATE EXTENSION IF NOT EXISTS pg_prewarm")
    return True


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and print its result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parts = ("clients", "memory")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="what to measure")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=60, help="of a block of an arm")
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--trajectories", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")
    options = parser.parse_args(arguments)
    talk = Console()
    result = {}
    for name, measure in (("clients", clients), ("memory", memory)):
        if name in options.parts:
            with scratch_database(None, {"shared_buffers": "512MB", "max_connections": "60"}) as dsn:
                result[name] = measure(dsn, options, talk)
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
