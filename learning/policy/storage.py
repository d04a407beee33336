"""The published bank in the database, and what else learning reads and writes there."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psycopg

from vectuned.learning.model.arrays import Ints, Singles
from vectuned.learning.model.ladder import RUNGS
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.model.vectors import Vector, to_array
from vectuned.learning.patterns.optimizer import Policy
from vectuned.learning.patterns.reasoning_bank import Patterns, check_patterns
from vectuned.learning.patterns.signature import COMPONENTS, FEATURES, Signature
from vectuned.sql.files import queries
from vectuned.sql.rows import execute, fetch_rows, fetch_value, fetch_values

from .calibration import Candidate
from .filtering import MeasuredPath


def read_bank(
    conn: psycopg.Connection[Any], tuned: TunedColumn, *, waiting: bool = False
) -> dict[int, tuple[Policy, Patterns]]:
    """Read a column's published bank: policy and patterns by class of k.

    Everything that decides a search comes back bit for bit; the price of effort is not published. Imported
    patterns that wait to be proven decide nothing: their policies have a signature only with `waiting`.
    """
    rows = fetch_rows(conn, "published_bank", {"column_id": tuned.column.id})
    return {row.k_class: (_policy(row, waiting=waiting), _patterns(row)) for row in rows}


def _policy(row: Any, *, waiting: bool) -> Policy:
    """Build the policy of a class from its row of the bank."""
    signature = None
    if row.access_path.endswith("_adaptive") or (waiting and row.center is not None):
        weights = np.array(row.weights, dtype=np.float64).reshape(FEATURES, COMPONENTS)
        signature = Signature(row.k_class, row.probe_ef, np.array(row.center, dtype=np.float64), weights)
    return Policy(
        row.k_class,
        row.ef_search or row.probes,
        np.nan if row.expected_recall is None else row.expected_recall,
        row.recall_bound,
        row.certified,
        row.samples,
        row.target_recall,
        row.reason,
        signature,
        row.reach or 0.0,
        index_no=row.index_no,
        method="hnsw" if row.probes is None else "ivfflat",
        rungs=RUNGS if row.rungs is None else tuple(row.rungs),
        tail=row.tail,
        tail_bound=row.tail_bound,
        asked_effort=row.asked_effort,
        exact=row.access_path == "exact",
    )


def _patterns(row: Any) -> Patterns:
    """Build the patterns of a class from its row of the bank."""
    if row.centroids is None:
        return Patterns.empty()
    return Patterns(
        np.array(row.centroids, dtype=np.float32),
        np.array(row.recall, dtype=np.float32),
        np.array(row.cost, dtype=np.float32),
        np.array(row.pattern_samples, dtype=np.int64),
        np.array(row.effort, dtype=np.float64),
        np.array(row.pattern_recall, dtype=np.float64),
        np.array(row.confidence, dtype=np.float64),
        np.array(row.usage, dtype=np.float64),
        np.array(row.chances, dtype=np.float64),
        np.array(row.born, dtype=np.float64),
    )


def insert_class(
    conn: psycopg.Connection[Any], tuned: TunedColumn, version: int, chosen: Candidate, saving: float | None
) -> None:
    """Add a class of k to the bank: its policy, its patterns and the `saving` measured for it."""
    policy, signature = chosen.policy, chosen.policy.signature
    check_patterns(chosen.patterns)
    key = {"column_id": tuned.column.id, "k_class": policy.k_class}
    generation = next((i.generation for i in tuned.indexes if i.number == policy.index_no), tuned.generation)
    values = {
        **key,
        **policy.path_columns,
        "version": version,
        "generation": generation,
        "rungs": list(policy.rungs) if signature and policy.method == "ivfflat" else None,
        "expected_recall": _finite(policy.expected_recall),
        "recall_bound": policy.recall_bound,
        "tail": policy.tail,
        "tail_bound": policy.tail_bound,
        "certified": policy.certified,
        "samples": policy.samples,
        "target_recall": policy.target_recall,
        "reason": policy.reason,
        "asked_effort": policy.asked_effort,
        "exact_ms": chosen.exact_ms,
        "saving": saving,
        "probe_ef": signature.probe_ef if signature else None,
        "center": signature.center.tolist() if signature else None,
        "weights": signature.weights.ravel().tolist() if signature else None,
        "reach": policy.reach if signature else None,
    }
    execute(conn, "insert_class", values)
    with conn.cursor() as cursor:
        cursor.executemany(queries()["insert_pattern"], [{**key, **row} for row in _rows(chosen.patterns)])


def _rows(patterns: Patterns) -> Iterable[dict[str, Any]]:
    """Yield each pattern by the names of its columns."""
    for i in range(len(patterns)):
        yield {
            "pattern_no": i,
            "centroid": Vector(patterns.centroids[i]),
            "effort": float(patterns.effort[i]),
            "expected_recall": float(patterns.expected_recall[i]),
            "confidence": float(patterns.confidence[i]),
            "samples": int(patterns.samples[i]),
            "usage": float(patterns.usage[i]),
            "chances": float(patterns.chances[i]),
            "born": float(patterns.born[i]),
            "recall": patterns.recall[i].tolist(),
            "cost": patterns.cost[i].tolist(),
        }


def delete_class(conn: psycopg.Connection[Any], tuned: TunedColumn, k: int) -> None:
    """Take a class of k out of the bank."""
    execute(conn, "delete_class", {"column_id": tuned.column.id, "k_class": k})


def delete_bank(conn: psycopg.Connection[Any], tuned: TunedColumn, unchanged: Collection[int]) -> None:
    """Delete a column's bank, except its `unchanged` classes, and what was measured here of its paths.

    What filters have fallen back to stays until they are measured again.
    """
    classes = {"column_id": tuned.column.id, "unchanged_classes": list(unchanged)}
    execute(conn, "delete_bank", classes)
    execute(conn, "delete_measured_paths", classes)


def set_served_policy(conn: psycopg.Connection[Any], tuned: TunedColumn, policy: Policy) -> None:
    """Serve a class of k with the path and setting of a policy from now on; its bank must be in place."""
    key = {"column_id": tuned.column.id, "k_class": policy.k_class}
    execute(conn, "set_served_path", {**key, **policy.path_columns})


def insert_measured_paths(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    k: int,
    fixed: Iterable[Candidate],
    filtered: Iterable[MeasuredPath],
    served: Policy | None,
) -> None:
    """Write down what every path gave for a class of k; filtered searches are served from these rows.

    `fixed` holds the settings for searches without a filter, of which the `served` policy's index serves.
    """
    unfiltered = [
        {
            "shape": None,
            "bucket": None,
            "access_path": c.policy.method,
            "index_no": c.policy.index_no,
            "effort": c.policy.fixed_ef,
            "requires": None,
            "share": 1.0,
            "recall": c.policy.expected_recall,
            "bound": c.policy.recall_bound,
            "proven": c.policy.certified,
            "ms": c.ms,
            "samples": c.policy.samples,
            "serves": served is not None and c.policy.index_no == served.index_no,
        }
        for c in fixed
    ]
    key = {"column_id": tuned.column.id, "k_class": k}
    rows = [
        {**key, **row, "recall": _finite(row["recall"]), "ms": _finite(row["ms"])}
        for row in [*unfiltered, *map(asdict, filtered)]
    ]
    with conn.cursor() as cursor:
        cursor.executemany(queries()["insert_measured_path"], rows)


def read_margins(conn: psycopg.Connection[Any], tuned: TunedColumn) -> dict[int, float]:
    """Return the margins of effort that apply, in rungs, by class of k."""
    rows = fetch_rows(conn, "active_margins", {"column_id": tuned.column.id})
    return {row.k_class: row.margin for row in rows}


@dataclass(frozen=True)
class ServedEffort:
    """The effort that serves a class of k: an ef_search or probes through an index, None for the main one.

    `samples` replays decided it; 0 for a guess.
    """

    index_no: int | None
    effort: int
    samples: int = 0


def read_served_efforts(conn: psycopg.Connection[Any], tuned: TunedColumn) -> dict[int, ServedEffort]:
    """Return the effort that serves each class of k, by the published bank."""
    rows = fetch_rows(conn, "served_efforts", {"column_id": tuned.column.id})
    return {row.k_class: ServedEffort(row.index_no, row.effort, row.samples) for row in rows}


def read_imported_classes(conn: psycopg.Connection[Any], tuned: TunedColumn) -> list[int]:
    """Return the classes of k that serve what was learned on another index."""
    classes: list[int] = fetch_values(conn, "imported_classes", {"column_id": tuned.column.id})
    return classes


def read_lookups(conn: psycopg.Connection[Any], tuned: TunedColumn) -> tuple[Ints, Singles]:
    """Read the newest searches that the present bank's patterns answered, up to the column's window.

    Returns their classes of k, int64 (n,), and their signatures, float32 (n, 4). Raises ValueError or
    TypeError for signatures that something else than vectuned has changed.
    """
    values = {"column_id": tuned.column.id, "count": tuned.trajectory_window}
    rows = fetch_rows(conn, "recent_lookups", values)
    k_classes = np.array([row.k_class for row in rows], dtype=np.int64)
    signatures = np.array([row.signature for row in rows], dtype=np.float32)
    return k_classes, signatures.reshape(-1, COMPONENTS)


def read_recent_queries(conn: psycopg.Connection[Any], tuned: TunedColumn, count: int) -> Singles:
    """Read the query vectors of the newest recorded searches, float32 (n, d), n at most `count`."""
    vectors = fetch_values(conn, "recent_queries", {"column_id": tuned.column.id, "count": count})
    array = np.array([to_array(vector) for vector in vectors], dtype=np.float32)
    return array.reshape(len(vectors), tuned.column.dimensions)


def trim_replays(conn: psycopg.Connection[Any], tuned: TunedColumn) -> None:
    """Delete replays outside of the column's window, and keep some as counter-examples."""
    window = {"column_id": tuned.column.id, "window": tuned.trajectory_window}
    execute(conn, "trim_replays", {**window, "generations": tuned.generations})


def set_target(conn: psycopg.Connection[Any], tuned: TunedColumn, former: float) -> bool:
    """Change the target recall of a column from `former` to that of `tuned`; False if it has changed."""
    values = {"column_id": tuned.column.id, "old": former, "new": tuned.target_recall}
    return execute(conn, "set_target", values) == 1


def read_next_version(conn: psycopg.Connection[Any], tuned: TunedColumn) -> int:
    """Return the version of the bank that is published next."""
    return int(fetch_value(conn, "next_bank_version", {"column_id": tuned.column.id}))


def read_last_replay(conn: psycopg.Connection[Any], tuned: TunedColumn) -> int:
    """Return the number of the newest replay, 0 without any."""
    return int(fetch_value(conn, "last_replay", {"column_id": tuned.column.id}))


def _finite(value: float) -> float | None:
    """Return None, which is stored as NULL, for a value that is not known."""
    return value if np.isfinite(value) else None
