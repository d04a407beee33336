"""Measure the advisor: searches on the usual index and on the advised one, and how good its forecast was.

Runs `vectuned advise --apply` as a user would, on recorded searches. Then all arms answer held-out queries
side by side, including those on the usual index, which still exists.
"""

from __future__ import annotations

import json
import subprocess
import sys
from time import monotonic
from typing import Any

from benchmarks.arena import RELATION, Arena, open_arena
from benchmarks.contest import Arm, Unfiltered, describe, fixed_at, plain, race_arms, tabulate, tuned
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
    """Measure before and after the advice; `options` are the keys of the definition."""
    data, target = load(options["set"], console, options.get("rows")), float(options["target"])
    with open_arena(data, int(options.get("k", 10)), target, console, dsn) as arena:
        contest = Unfiltered(arena, options)
        before = describe(arena)
        arena.record(contest.training)
        usual = arena.tuned.indexes[0]
        served_before = arena.learn(target)
        began = monotonic()
        advice = _advise(arena, target, options)
        seconds = monotonic() - began
        arena.tuned = arena.worker.refresh(arena.tuned)
        training = contest.training[:_CHOOSING]
        arms = _make_arms(arena, usual, training, exact(arena, training), target)
        found = race_arms(arena, arms, contest.heldout, contest.truth, contest.seed, "held-out")
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
            **tabulate(arms, found, arena.k, contest.seed),
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
    """Extract from the advice the forecast for the index that was built, and that index."""
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


def _make_arms(arena: Arena, usual: TunedIndex, training: Any, truth: Truth, target: float) -> dict[str, Arm]:
    column, k = arena.tuned.column, arena.k
    arms = {"default, usual index": Arm(plain(column, k), "ef_search 40", fixed_at(40))}
    for index in arena.tuned.indexes:
        fixed = _best(arena, index, training, truth, target)
        if index.number == usual.number:
            arms["best fixed, usual index"] = Arm(plain(column, k), f"ef_search {fixed}", fixed_at(fixed))
        else:
            arm = prepare_index_search(arena.conn, arena.tuned, index, k, fixed)
            statement = trusted(arm.statement)
            arms["best fixed, advised index"] = Arm(statement, f"effort {fixed}", dict(arm.settings))
    served = read_bank(arena.conn, arena.tuned)[k][0]
    name = next((each.name for each in arena.tuned.indexes if each.number == served.index_no), usual.name)
    description = f"{served.description} of {name}"
    return {**arms, "vectuned": Arm(tuned(k), description)}


def _best(arena: Arena, index: TunedIndex, training: Any, truth: Truth, target: float) -> int:
    label = f"replaying through {index.name}"
    with snapshot(arena.conn), arena.console.progress(label, len(training)) as progress:
        seen = replay_index(arena.conn, arena.tuned, index, training, truth, arena.k, progress)
    return choose_best_fixed(
        compute_fixed_curve(seen.recall, list_fixed_efforts(index, arena.k), index.rungs), target
    )
