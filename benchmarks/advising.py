"""What the advisor is worth: the usual index before, the advised one after, and what had been foreseen.

`vectuned advise --apply` runs as a user would run it, on recorded searches; then all arms answer held-out
queries side by side, those on the usual index too, which is still there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from time import monotonic
from typing import Any

from benchmarks.arena import RELATION, Arena, opened
from benchmarks.contest import PreparedSearch, Unfiltered, described, fixed_at, plain, raced, table, tuned
from benchmarks.policies import exact
from benchmarks.sets import load
from vectuned.config.errors import VectunedError
from vectuned.daemon.console import Console
from vectuned.daemon.database.session import snapshot
from vectuned.daemon.measure.fixed_setting import choose_best_fixed, compute_fixed_curve, list_fixed_efforts
from vectuned.daemon.measure.index_replay import replay_index
from vectuned.daemon.measure.intervals import time_ratios
from vectuned.daemon.measure.prepared_search import prepare_index_search
from vectuned.learning.model.tuned_columns import TunedIndex
from vectuned.learning.policy.storage import read_bank
from vectuned.learning.truth.truth import Truth
from vectuned.sql.files import trusted

_CHOOSING = 1000  # training queries by which the best fixed settings are chosen


def measure(options: dict[str, Any], console: Console, dsn: str | None) -> dict[str, Any]:
    """Measure before and after: `options` are the keys of its definition."""
    data, target = load(options["set"], console, options.get("rows")), float(options["target"])
    with opened(data, int(options.get("k", 10)), target, console, dsn) as arena:
        contest = Unfiltered(arena, options)
        before = described(arena)
        arena.record(contest.training)
        usual = arena.tuned.indexes[0]
        served_before = arena.learn(target)
        began = monotonic()
        advice = _advise(arena, target, options)
        seconds = monotonic() - began
        arena.tuned = arena.worker.refresh(arena.tuned)
        training = contest.training[:_CHOOSING]
        ways = _ways(arena, usual, training, exact(arena, training), target)
        found = raced(arena, ways, contest.heldout, contest.truth, contest.seed, "held-out")
        fixed, default = (found[f"{name}, usual index"][0].millis for name in ("best fixed", "default"))
        return {
            **before,
            "training": len(contest.training),
            "heldout": len(contest.heldout),
            "seed": contest.seed,
            "target": target,
            "served_before": served_before.reason,
            "advise_seconds": round(seconds, 1),
            **_foreseen(advice),
            **table(ways, found, arena.k, contest.seed),
            "vectuned_over_fixed": time_ratios(found["vectuned"][0].millis, fixed, contest.seed),
            "vectuned_over_default": time_ratios(found["vectuned"][0].millis, default, contest.seed),
        }


def _advise(arena: Arena, target: float, options: dict[str, Any]) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "vectuned.daemon",
        "advise",
        RELATION,
        "--dsn",
        arena.conninfo,
        "--json",
        "--apply",
        "--target",
        f"{target}",
        "--k",
        str(arena.k),
        "--queries",
        str(options.get("queries", 400)),
        "--seed",
        str(options.get("seed", 0)),
        *map(str, options.get("advise", [])),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise VectunedError(f"vectuned advise failed with exit code {done.returncode}: see above.")
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def _foreseen(advice: dict[str, Any]) -> dict[str, Any]:
    """Take out of the advice what was said beforehand of the index that was built, and what it was."""
    chosen = next((row for row in advice["candidates"] if row["definition"] == advice["winner"]), None)
    applied = advice["applied"]
    return {
        "summary": advice["summary"],
        "advised": None if chosen is None else chosen["statement"],
        "index_mb_foreseen": None if chosen is None else chosen["mb"],
        "build_seconds_foreseen": None if chosen is None else chosen["build_seconds"],
        "build_seconds_applied": None if applied is None else applied["built_seconds"],
        "forecast": None if applied is None else applied["measured"],
        "candidates": [
            {name: row[name] for name in ("definition", "current", "mb", "build_seconds", "curve")}
            for row in advice["candidates"]
        ],
    }


def _ways(
    arena: Arena, usual: TunedIndex, training: Any, truth: Truth, target: float
) -> dict[str, PreparedSearch]:
    column, k = arena.tuned.column, arena.k
    ways = {"default, usual index": PreparedSearch(plain(column, k), "ef_search 40", fixed_at(40))}
    for index in arena.tuned.indexes:
        fixed = _best(arena, index, training, truth, target)
        if index.number == usual.number:
            ways["best fixed, usual index"] = PreparedSearch(
                plain(column, k), f"ef_search {fixed}", fixed_at(fixed)
            )
        else:
            way = prepare_index_search(arena.conn, arena.tuned, index, k, fixed)
            statement = trusted(way.statement)
            ways["best fixed, advised index"] = PreparedSearch(
                statement, f"effort {fixed}", dict(way.settings)
            )
    served = read_bank(arena.conn, arena.tuned)[k][0]
    name = next((each.name for each in arena.tuned.indexes if each.number == served.index_no), usual.name)
    said = f"{served.description} of {name}"
    return {**ways, "vectuned": PreparedSearch(tuned(k), said)}


def _best(arena: Arena, index: TunedIndex, training: Any, truth: Truth, target: float) -> int:
    label = f"replaying through {index.name}"
    with snapshot(arena.conn), arena.console.progress(label, len(training)) as progress:
        seen = replay_index(arena.conn, arena.tuned, index, training, truth, arena.k, progress)
    return choose_best_fixed(
        compute_fixed_curve(seen.recall, list_fixed_efforts(index, arena.k), index.rungs), target
    )
