"""One pass of learning for a column: from its replays to a published bank."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg

from vectuned.sql.loader import queries

from .calibration import adaptive_policy, fixed_policy
from .catalogue import Care
from .filtering import choose_paths
from .neighbors import Singles
from .publication import Offer, Served, publish
from .replay import Replays, load

log = logging.getLogger(__name__)

_LEAST_PREDICTED_SAVING = 1.05
_SAMPLE = 960


@dataclass(frozen=True)
class Options:
    """How to learn: `confidence` of every proof, `clusters` per bank, `seed`, and `step_aside`.

    A bank whose measured saving is under `step_aside` does not serve.
    """

    confidence: float = 0.95
    clusters: int = 64
    seed: int = 0
    step_aside: float = 0.05


@dataclass(frozen=True)
class Lesson:
    """What a pass of learning came to; `version` is None where there were too few replays to publish."""

    replays: int
    version: int | None
    served: dict[int, Served]


def offers(replays: Replays, care: Care, options: Options) -> dict[int, Offer]:
    """Work out what each class of k may be served with.

    Every class that enough replays looked at gets its fixed setting. Patterns are learned for the classes
    that searches really belong to, if the held-out replays promise that they save anything.
    """
    found = {}
    for k in replays.k_classes:
        evidence = replays.evidence(k)
        if len(evidence) < care.min_samples:
            continue
        fixed = fixed_policy(evidence, care.target_recall, options.confidence, options.seed)
        adaptive = None
        if fixed.policy.certified and (replays.asked == k).sum() >= care.min_samples:
            adaptive = adaptive_policy(
                evidence,
                fixed.policy,
                clusters=options.clusters,
                confidence=options.confidence,
                seed=options.seed,
            )
        if adaptive is not None and fixed.cost < _LEAST_PREDICTED_SAVING * adaptive.cost:
            adaptive = None
        filtered = choose_paths(
            replays.filtered_evidence(k), care.target_recall, options.confidence, options.seed
        )
        found[k] = Offer(fixed, adaptive, filtered)
    return found


def learn(conn: psycopg.Connection[Any], care: Care, options: Options = Options()) -> Lesson:
    """Learn from a column's replays and publish, if there are enough of them.

    `conn` must be in autocommit mode; the publish is one transaction.
    """
    replays = load(conn, care)
    if len(replays) < care.min_samples:
        log.info(
            "learning about %s waits: %d of %d replays", care.column, len(replays), care.min_samples,
            extra={"action": "learn"},
        )  # fmt: skip
        return Lesson(len(replays), None, {})
    offered = offers(replays, care, options)
    sample = _recent_queries(conn, care, _SAMPLE)
    version, served = publish(conn, care, offered, sample, least_saving=options.step_aside, seed=options.seed)
    conn.execute(queries()["trim_replays"], {"column_id": care.column.id, "window": care.trajectory_window})
    log.info(
        "published version %d for %s from %d replays", version, care.column, len(replays),
        extra={"action": "publish"},
    )  # fmt: skip
    return Lesson(len(replays), version, served)


def _recent_queries(conn: psycopg.Connection[Any], care: Care, count: int) -> Singles:
    rows = conn.execute(queries()["recent_queries"], {"column_id": care.column.id, "count": count}).fetchall()
    vectors = np.array([row[0].to_numpy() for row in rows], dtype=np.float32)
    return vectors.reshape(len(rows), care.column.dimensions)
