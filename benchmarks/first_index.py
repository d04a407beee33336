"""Measure two commands on a bare table: `vectuned migrate`, and `vectuned advise` with a file of queries.

The advisor builds the index that it found best, tunes the column and proves its recall. Then held-out queries
show whether its forecast of the build, of the recall and of the cost was right, and what searches get.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, Final

import numpy as np

from benchmarks.arena import RELATION, SERVER, Arena, load_rows, tuned_columns
from benchmarks.contest import Arm, Unfiltered, race_arms, tabulate, tuned
from benchmarks.scratch import scratch_database
from benchmarks.sets import VectorSet, load
from vectuned.config.errors import VectunedError
from vectuned.config.settings import load_settings
from vectuned.daemon.console import Console
from vectuned.daemon.database.session import open_session
from vectuned.daemon.measure.prepared_search import prepare_index_search
from vectuned.daemon.work.worker import Worker
from vectuned.learning.policy.storage import read_bank
from vectuned.sql.files import trusted

_FORESEEN: Final = "effort of the forecast"


def measure(options: dict[str, Any], console: Console, dsn: str | None) -> dict[str, Any]:
    """Measure both commands and what they lead to; `options` are the keys of the definition."""
    data, target, k = load(options["set"], console, options.get("rows")), float(options["target"]), 10
    # Without generous settings for builds: the advisor is to see to these.
    settings = {**SERVER, "maintenance_work_mem": "64MB", **options.get("server", {})}
    with scratch_database(dsn, settings) as conninfo:
        seconds, _ = _run_command(conninfo, "migrate")
        with open_session(conninfo) as conn:
            load_rows(conn, data, console)
            conn.execute("VACUUM ANALYZE vectuned_bench.vectors")
        advise_seconds, output = _advise(conninfo, data, target, options)
        advice: dict[str, Any] = json.loads(output)
        (chosen,) = [row for row in advice["candidates"] if row["definition"] == advice["winner"]]
        with open_session(conninfo) as conn:
            worker = Worker(conn, load_settings(None, {}, {}))
            (column,) = tuned_columns(conn)
            arena = Arena(
                conninfo, conn, worker, column, data, k, console, advice["applied"]["built_seconds"]
            )
            contest = Unfiltered(arena, options)
            foreseen = chosen["at_target"]
            effort = int(foreseen.get("ef_search") or foreseen["probes"])
            search = prepare_index_search(conn, column, column.indexes[0], k, effort)
            served = read_bank(conn, column)[k][0]
            arms = {
                _FORESEEN: Arm(trusted(search.statement), f"effort {effort}", dict(search.settings)),
                "vectuned": Arm(tuned(k), served.description),
            }
            found = race_arms(arena, arms, contest.heldout, contest.truth, contest.seed, "held-out")
            table = tabulate(arms, found, k, contest.seed)
            return {
                "set": data.name,
                "rows": len(data.rows),
                "dimensions": data.rows.shape[1],
                "metric": data.metric,
                "k": k,
                "target": target,
                "server": arena.server(),
                "server_settings": settings,
                "heldout": len(contest.heldout),
                "seed": contest.seed,
                "migrate_seconds": round(seconds, 1),
                "advise_seconds": round(advise_seconds, 1),
                "advised": chosen["statement"],
                "build": {
                    **chosen["build"],
                    "foreseen_seconds": advice["applied"]["forecast_seconds"],
                    "seconds": advice["applied"]["built_seconds"],
                    "foreseen_mb": chosen["mb"],
                    "mb": arena.index_mb(),
                },
                "forecast": {
                    "effort": effort,
                    "predicted": {"recall": foreseen["recall"], "ms": foreseen["ms"]},
                    "measured": {
                        "recall": table["arms"][_FORESEEN]["recall"]["value"],
                        "ms": table["arms"][_FORESEEN]["mean_ms"]["value"],
                    },
                },
                "serving": advice["applied"]["serving"],
                "exact_ms_foreseen": advice["exact_ms"],
                "summary": advice["summary"],
                **table,
            }


def _advise(conninfo: str, data: VectorSet, target: float, options: dict[str, Any]) -> tuple[float, str]:
    """Run the advisor with a file of training queries; return its seconds and its report."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "queries.npy"
        np.save(file, data.training[: int(options.get("queries", 800))])
        return _run_command(
            conninfo,
            *("advise", RELATION, "embedding", "--queries", str(file), "--metric", data.metric),
            *("--target", f"{target}", "--apply", "--json", "--seed", str(options.get("seed", 0))),
            *map(str, options.get("advise", [])),
        )


def _run_command(conninfo: str, *arguments: str) -> tuple[float, str]:
    """Run a command as a user does; return its seconds and what it printed."""
    began = monotonic()
    command = [sys.executable, "-m", "vectuned.daemon", *arguments, "--dsn", conninfo]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise VectunedError(f"vectuned {arguments[0]} failed with exit code {done.returncode}: see above.")
    return monotonic() - began, done.stdout
