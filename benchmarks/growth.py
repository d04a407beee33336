"""Measure how cost and recall change with the size of the table: a contest of a few arms at each size.

At each size the rows are the first rows of the set, whose order is random but fixed; index, replays and
settings are made again for each. The curve gives mean recall, index buffers and ms of each fixed ef_search.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from benchmarks.arena import Arena, open_arena
from benchmarks.contest import Arm, Unfiltered, describe, fixed_at, plain, race_arms
from benchmarks.sets import load
from vectuned.daemon.console import Console
from vectuned.learning.model.ladder import RUNGS
from vectuned.learning.truth.recall import recall_at_k

_CURVE: Final = (10, 20, 40, 80, 160, 320, 640)


def measure(options: dict[str, Any], console: Console, dsn: str | None) -> dict[str, Any]:
    """Run the contest at each size; `options` are the keys of the definition."""
    k, targets = int(options.get("k", 10)), options["targets"]
    found: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for size in options["sizes"]:
        console.say(f"{size:,} rows")
        with open_arena(load(options["set"], console, size), k, targets[0], console, dsn) as arena:
            contest = Unfiltered(arena, {"policies": [], **options})
            contest.learn()
            about = {**describe(arena), "training": len(contest.training), "heldout": len(contest.heldout)}
            found.append(
                {
                    "rows": size,
                    "build_seconds": about["build_seconds"],
                    "index_mb": about["index_mb"],
                    "replay_ms": round(arena.replay_ms, 2),
                    "curve": _curve(arena, contest),
                    "targets": {f"{target:g}": contest.at(target) for target in targets},
                }
            )
    return {**about, "seed": int(options.get("seed", 0)), "sizes": found}


def _curve(arena: Arena, contest: Unfiltered) -> list[dict[str, float]]:
    arms = {str(ef): Arm(plain(arena.tuned.column, arena.k), "", fixed_at(ef)) for ef in _CURVE}
    found = race_arms(arena, arms, contest.heldout, contest.truth, contest.seed, "fixed ef_search")
    blocks = contest.judged.blocks.mean(axis=0)
    return [
        {
            "ef_search": ef,
            "recall": round(float(recall_at_k(seen.distances, truth, arena.k).mean()), 4),
            "ms": round(float(seen.millis.mean()), 4),
            "buffers": round(float(np.interp(ef, RUNGS, blocks)), 1),
        }
        for ef, (seen, truth) in ((ef, found[str(ef)]) for ef in _CURVE)
    ]
