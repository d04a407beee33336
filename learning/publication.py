"""A bank in the database: published as a whole, read back, and measured where searches meet it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql
from psycopg.rows import namedtuple_row

from vectuned.sql.loader import queries

from .calibration import Candidate
from .catalogue import Care
from .neighbors import Floats, Singles
from .optimizer import Policy
from .reasoning_bank import Patterns, check
from .signature import COMPONENTS, FEATURES, Signature

_BLOCKS: Final = 24


@dataclass(frozen=True)
class Offer:
    """What a class of k may be served with: the fixed setting, and the adaptive one if one was proven."""

    fixed: Candidate
    adaptive: Candidate | None


@dataclass(frozen=True)
class Served:
    """What a class of k is served with after a publish, why, and what the measurement said."""

    policy: Policy
    patterns: int
    saving: float | None
    reason: str


def publish(
    conn: psycopg.Connection[Any],
    care: Care,
    offers: dict[int, Offer],
    sample: Singles,
    *,
    least_saving: float = 0.05,
    seed: int = 0,
) -> tuple[int, dict[int, Served]]:
    """Replace a column's bank in one transaction and tell listeners; return its version and what serves.

    `offers` by class of k. An adaptive offer is measured end to end against the fixed one, with searches of
    `sample` (n, d) through the column's own function, inside the transaction that publishes both: unless it
    saves `least_saving`, it steps aside. Searches of others see the old bank until the commit.
    """
    served: dict[int, Served] = {}
    with conn.transaction():
        row = conn.execute(queries()["next_version"], {"column_id": care.column.id}).fetchone()
        version = int(row[0]) if row else 1
        conn.execute(queries()["delete_bank"], {"column_id": care.column.id})
        for k, offer in offers.items():
            chosen = offer.adaptive or offer.fixed
            _insert(conn, care, version, chosen)
            saving = None
            if offer.adaptive is not None:
                saving = measure_saving(conn, care, k, sample, seed=seed)
                if saving < 1.0 + least_saving:
                    chosen = offer.fixed
            policy = chosen.policy
            reason = policy.reason
            if offer.adaptive is not None and saving is not None:
                reason = (
                    f"effort by what a short probe sees, measured to cost {1 / saving:.2f} of ef_search "
                    f"{offer.fixed.policy.fixed_ef}"
                    if chosen is offer.adaptive
                    else f"{reason}; effort by query was measured to cost {1 / saving:.2f} of that and stepped aside"
                )
            conn.execute(
                queries()["step_aside"],
                {
                    "column_id": care.column.id, "k_class": k, "access_path": policy.access_path,
                    "saving": saving, "expected_recall": policy.expected_recall,
                    "recall_bound": policy.recall_bound, "samples": policy.samples, "reason": reason,
                },
            )  # fmt: skip
            served[k] = Served(policy, len(chosen.patterns), saving, reason)
        details = {
            str(k): {"access_path": s.policy.access_path, "ef_search": s.policy.fixed_ef, "saving": s.saving}
            for k, s in served.items()
        }
        conn.execute(
            queries()["insert_event"],
            {
                "column_id": care.column.id,
                "action": "publish",
                "details": json.dumps({"version": version, "classes": details}),
            },
        )
        payload = json.dumps({"action": "publish", "column_id": care.column.id, "version": version})
        conn.execute(queries()["notify"], {"payload": payload})
    return version, served


def _insert(conn: psycopg.Connection[Any], care: Care, version: int, chosen: Candidate) -> None:
    policy, patterns, way = chosen.policy, chosen.patterns, chosen.policy.signature
    check(patterns)
    key = {"column_id": care.column.id, "k_class": policy.k_class}
    conn.execute(
        queries()["insert_bank"],
        {
            **key, "version": version, "generation": care.generation, "access_path": policy.access_path,
            "ef_search": policy.fixed_ef, "expected_recall": policy.expected_recall,
            "recall_bound": policy.recall_bound, "certified": policy.certified, "samples": policy.samples,
            "target_recall": policy.target_recall, "reason": policy.reason, "saving": None,
            "probe_ef": way.probe_ef if way else None,
            "center": way.center.tolist() if way else None,
            "weights": way.weights.ravel().tolist() if way else None,
            "reach": policy.reach if way else None,
        },
    )  # fmt: skip
    with conn.cursor() as cursor:
        cursor.executemany(
            queries()["insert_pattern"],
            [
                {
                    **key, "pattern_no": i, "centroid": Vector(patterns.centroids[i]),
                    "effort": float(patterns.effort[i]), "expected_recall": float(patterns.expected_recall[i]),
                    "confidence": float(patterns.confidence[i]), "samples": int(patterns.samples[i]),
                    "usage": int(patterns.usage[i]), "recall": patterns.recall[i].tolist(),
                    "cost": patterns.cost[i].tolist(),
                }
                for i in range(len(patterns))
            ],
        )  # fmt: skip


def measure_saving(
    conn: psycopg.Connection[Any], care: Care, k: int, sample: Singles, *, seed: int = 0
) -> float:
    """Measure mean time of the fixed setting over that of the adaptive one, overheads paid.

    Both arms answer the same searches through the column's function, in blocks whose order is drawn; the
    pages are warm. Must run in a transaction, with the adaptive bank in place, and leaves it serving.
    """
    key = {"column_id": care.column.id, "k_class": k}
    arms = {"hnsw": queries()["serve_fixed"], "hnsw_adaptive": queries()["serve_adaptive"]}
    statement = sql.SQL("SELECT * FROM vectuned.{}(%s, %s)").format(
        sql.Identifier(f"_search_{care.column.id}")
    )
    rng = np.random.default_rng(seed)
    spent: dict[str, list[float]] = {arm: [] for arm in arms}
    conn.execute("SELECT set_config('vectuned.record', 'off', true)")
    blocks = [b for b in np.array_split(rng.permutation(len(sample)), _BLOCKS) if len(b)]
    for number, block in enumerate([blocks[0], *blocks] if blocks else []):
        for arm in rng.permutation(list(arms)):
            conn.execute(arms[str(arm)], key)
            started = perf_counter()
            for i in block:
                conn.execute(statement, (Vector(sample[i]), k)).fetchall()
            if number:  # the first block only warms plans and pages
                spent[str(arm)].append(perf_counter() - started)
    conn.execute(arms["hnsw_adaptive"], key)
    if not spent["hnsw"]:
        return 1.0
    # The median of the blocks' ratios: a hiccup of the machine falls on one block of one arm.
    return float(np.median(np.array(spent["hnsw"]) / np.array(spent["hnsw_adaptive"])))


def read(conn: psycopg.Connection[Any], care: Care) -> dict[int, tuple[Policy, Patterns]]:
    """Read a column's published bank: policy and patterns by class of k."""
    cursor = conn.cursor(row_factory=namedtuple_row)
    found = {}
    for row in cursor.execute(queries()["bank"], {"column_id": care.column.id}).fetchall():
        way = None
        if row.access_path == "hnsw_adaptive":
            weights = np.array(row.weights, dtype=np.float64).reshape(FEATURES, COMPONENTS)
            way = Signature(row.k_class, row.probe_ef, np.array(row.center, dtype=np.float64), weights)
        policy = Policy(
            row.k_class, row.ef_search, row.expected_recall, row.recall_bound, row.certified, row.samples,
            row.target_recall, row.reason, way, row.reach or 0.0,
        )  # fmt: skip
        found[row.k_class] = (policy, _read_patterns(conn, care, row.k_class))
    return found


def _read_patterns(conn: psycopg.Connection[Any], care: Care, k: int) -> Patterns:
    cursor = conn.cursor(row_factory=namedtuple_row)
    rows = cursor.execute(queries()["patterns"], {"column_id": care.column.id, "k_class": k}).fetchall()
    if not rows:
        return Patterns.none()

    def floats(name: str) -> Floats:
        return np.array([getattr(row, name) for row in rows], dtype=np.float64)

    return Patterns(
        np.array([row.centroid.to_numpy() for row in rows], dtype=np.float32),
        floats("recall"), floats("cost"), floats("samples").astype(np.int64), floats("effort"),
        floats("expected_recall"), floats("confidence"), floats("usage").astype(np.int64),
    )  # fmt: skip


