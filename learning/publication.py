"""A bank in the database: published as a whole, read back, and measured where searches meet it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql
from psycopg.rows import namedtuple_row

from vectuned.config.errors import VectunedError
from vectuned.sql.loader import queries

from .calibration import Candidate
from .catalogue import Care
from .filtering import Choice, efforts
from .neighbors import Singles
from .optimizer import Policy
from .reasoning_bank import Patterns, check
from .signature import COMPONENTS, FEATURES, Signature

_BLOCKS: Final = 24
_RESAMPLES: Final = 2000


@dataclass(frozen=True)
class Offer:
    """What a class of k may be served with: the fixed setting, and the adaptive one if one was proven.

    `filtered` says how filtered searches are answered, by the share of rows that match.
    """

    fixed: Candidate
    adaptive: Candidate | None
    filtered: tuple[Choice, ...] = ()


@dataclass(frozen=True)
class Served:
    """What a class of k is served with after a publish, and what the measurement said."""

    policy: Policy
    patterns: int
    saving: float | None
    filtered: tuple[Choice, ...] = ()


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
    saves `least_saving`, it steps aside. Searches of others see the old bank until the commit, and other
    publishers wait for it. Raises VectunedError if the column is no longer enabled.
    """
    served: dict[int, Served] = {}
    with conn.transaction():
        held = conn.execute(queries()["hold_column"], {"column_id": care.column.id}).fetchone()
        if held is None or not held[0]:
            raise VectunedError(f"{care.column} was disabled meanwhile: nothing is published for it.")
        row = conn.execute(queries()["next_version"], {"column_id": care.column.id}).fetchone()
        version = int(row[0]) if row else 1
        conn.execute(queries()["refresh_statistics"], {"column_id": care.column.id})
        conn.execute(queries()["delete_bank"], {"column_id": care.column.id})
        for k, offer in offers.items():
            chosen, saving = offer.fixed, None
            if offer.adaptive is not None:
                _insert(conn, care, version, offer.adaptive, None, ())
                saving = measure_saving(conn, care, k, sample, seed=seed)
                chosen = _judge(offer.fixed, offer.adaptive, saving, least_saving)
                conn.execute(queries()["delete_class"], {"column_id": care.column.id, "k_class": k})
            _insert(conn, care, version, chosen, saving, offer.filtered)
            served[k] = Served(chosen.policy, len(chosen.patterns), saving, offer.filtered)
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


def _judge(fixed: Candidate, adaptive: Candidate, saving: float | None, least_saving: float) -> Candidate:
    """Choose what serves by what was measured, and have its reason say so."""
    if saving is None:
        why = f"{fixed.policy.reason}; effort by query could not be measured without stored queries"
        return replace(fixed, policy=replace(fixed.policy, reason=why))
    if saving < 1.0 + least_saving:
        measured = f"effort by query may cost {1 / saving:.2f} of that by measurement, and stepped aside"
        why = f"{fixed.policy.reason}; {measured}"
        return replace(fixed, policy=replace(fixed.policy, reason=why))
    measured = f"measured to cost at most {1 / saving:.2f} of ef_search {fixed.policy.fixed_ef}"
    why = f"{adaptive.policy.reason}, {measured}"
    return replace(adaptive, policy=replace(adaptive.policy, reason=why))


def _insert(
    conn: psycopg.Connection[Any],
    care: Care,
    version: int,
    chosen: Candidate,
    saving: float | None,
    filtered: tuple[Choice, ...],
) -> None:
    policy, patterns, way = chosen.policy, chosen.patterns, chosen.policy.signature
    check(patterns)
    key = {"column_id": care.column.id, "k_class": policy.k_class}
    conn.execute(
        queries()["insert_bank"],
        {
            **key, "version": version, "generation": care.generation, "access_path": policy.access_path,
            "ef_search": policy.fixed_ef, "expected_recall": policy.expected_recall,
            "recall_bound": policy.recall_bound, "certified": policy.certified, "samples": policy.samples,
            "target_recall": policy.target_recall, "reason": policy.reason, "saving": saving,
            "probe_ef": way.probe_ef if way else None,
            "center": way.center.tolist() if way else None,
            "weights": way.weights.ravel().tolist() if way else None,
            "reach": policy.reach if way else None,
            "filtered_ef": efforts(filtered) if filtered else None,
            "filtered": json.dumps({c.bucket: asdict(c) for c in filtered}) if filtered else None,
        },
    )  # fmt: skip
    with conn.cursor() as cursor:
        cursor.executemany(
            queries()["insert_pattern"],
            [
                {
                    **key, "pattern_no": i, "centroid": Vector(patterns.centroids[i]),
                    "effort": float(patterns.effort[i]),
                    "expected_recall": float(patterns.expected_recall[i]),
                    "confidence": float(patterns.confidence[i]), "samples": int(patterns.samples[i]),
                    "usage": int(patterns.usage[i]), "recall": patterns.recall[i].tolist(),
                    "cost": patterns.cost[i].tolist(),
                }
                for i in range(len(patterns))
            ],
        )  # fmt: skip


def measure_saving(
    conn: psycopg.Connection[Any], care: Care, k: int, sample: Singles, *, seed: int = 0
) -> float | None:
    """Measure time of the fixed setting over that of the adaptive one, overheads paid; None without a sample.

    Returns what the ratio of mean times is at least, with 95 % confidence (bootstrap over blocks): a saving
    that the noise of the machine could have made is none. Both arms answer the same searches through the
    column's function, in blocks whose order is drawn; the pages are warm. Must run in a transaction, with
    the adaptive bank in place, and leaves it serving.
    """
    if not len(sample):
        return None
    key = {"column_id": care.column.id, "k_class": k}
    arms = {"hnsw": queries()["serve_fixed"], "hnsw_adaptive": queries()["serve_adaptive"]}
    statement = sql.SQL("SELECT * FROM vectuned.{}(%s, %s)").format(
        sql.Identifier(f"_search_{care.column.id}")
    )
    rng = np.random.default_rng(seed)
    spent: dict[str, list[float]] = {arm: [] for arm in arms}
    conn.execute("SELECT set_config('vectuned.record', 'off', true)")
    blocks = [b for b in np.array_split(rng.permutation(len(sample)), _BLOCKS) if len(b)]
    for number, block in enumerate([blocks[0], *blocks]):
        for arm in rng.permutation(list(arms)):
            conn.execute(arms[str(arm)], key)
            started = perf_counter()
            for i in block:
                conn.execute(statement, (Vector(sample[i]), k)).fetchall()
            if number:  # the first block only warms plans and pages
                spent[str(arm)].append(perf_counter() - started)
    conn.execute(arms["hnsw_adaptive"], key)
    # Means, for hard queries are what adaptive effort spends its time on.
    fixed, adaptive = np.array(spent["hnsw"]), np.array(spent["hnsw_adaptive"])
    drawn = rng.integers(len(fixed), size=(_RESAMPLES, len(fixed)))
    return float(np.quantile(fixed[drawn].sum(axis=1) / adaptive[drawn].sum(axis=1), 0.05))


def read(conn: psycopg.Connection[Any], care: Care) -> dict[int, tuple[Policy, Patterns]]:
    """Read a column's published bank: policy and patterns by class of k.

    Everything that decides a search comes back bit for bit; the price of effort is not published.
    """
    cursor: psycopg.Cursor[Any] = conn.cursor(row_factory=namedtuple_row)
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
        patterns = Patterns.none()
        if row.centroids is not None:
            patterns = Patterns(
                np.array(row.centroids, dtype=np.float32), np.array(row.recall, dtype=np.float32),
                np.array(row.cost, dtype=np.float32), np.array(row.pattern_samples, dtype=np.int64),
                np.array(row.effort, dtype=np.float64), np.array(row.pattern_recall, dtype=np.float64),
                np.array(row.confidence, dtype=np.float64), np.array(row.usage, dtype=np.int64),
            )  # fmt: skip
        found[row.k_class] = (policy, patterns)
    return found
