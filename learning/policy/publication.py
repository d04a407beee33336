"""A bank in the database: published as a whole, read back, and measured where searches meet it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from time import perf_counter
from typing import Any, Final

import numpy as np
import psycopg
from pgvector import Vector
from psycopg import sql
from psycopg.rows import namedtuple_row

from vectuned.config.errors import VectunedError
from vectuned.learning.model.arrays import Floats, Singles
from vectuned.learning.model.events import notify, record_event
from vectuned.learning.model.ladder import RUNGS
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.patterns.optimizer import Policy
from vectuned.learning.patterns.reasoning_bank import Patterns, check_patterns
from vectuned.learning.patterns.signature import COMPONENTS, FEATURES, Signature
from vectuned.sql.files import queries

from .calibration import Candidate
from .filtering import MeasuredPath

_BLOCKS: Final = 24
_INDEX_SAMPLE: Final = 480
_CLEARLY: Final = 0.95
# Seconds that effort by query costs more where each search is a transaction, as it is not while it is
# measured: PL/pgSQL prepares a function's expressions anew in each. 0.05 to 0.12 ms were counted.
_PREPARED_ANEW: Final = 1e-4
_RESAMPLES: Final = 2000


@dataclass(frozen=True)
class Offer:
    """What a class of k may be served with: the fixed setting of each index, the main one first.

    And the adaptive setting, if one was proven; `filtered` says what every way to answer filtered searches
    gave. `worth_measuring`: enough searches belong to the class for its speed to be worth measuring.
    """

    fixed: tuple[Candidate, ...]
    adaptive: Candidate | None = None
    filtered: tuple[MeasuredPath, ...] = ()
    worth_measuring: bool = False


@dataclass(frozen=True)
class ServedPolicy:
    """What a class of k is served with after a publish, and what the measurement said."""

    policy: Policy
    patterns: int
    saving: float | None
    filtered: tuple[MeasuredPath, ...] = ()


def publish(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    offers: dict[int, Offer],
    query_vectors: Singles,
    *,
    least_saving: float = 0.05,
    seed: int = 0,
    unchanged_classes: Collection[int] = (),
) -> tuple[int, dict[int, ServedPolicy]]:
    """Replace a column's bank in one transaction and tell listeners; return its version and what serves.

    `offers` by class of k. Indexes, and an adaptive offer against the fixed one, are measured end to end by
    searching for `query_vectors` (n, d) through the column's own function, inside the transaction that
    publishes them. Adaptive effort steps aside unless it saves `least_saving`. Other sessions see the old
    bank until the commit, and other publishers wait for it. The classes in `unchanged_classes` stay as they
    are.

    Raises VectunedError if the column is no longer enabled.
    """
    served: dict[int, ServedPolicy] = {}
    column = {"column_id": tuned.column.id}
    with conn.transaction():
        held = conn.execute(queries()["hold_column"], column).fetchone()
        if held is None or not held[0]:
            raise VectunedError(f"{tuned.column} was disabled meanwhile: nothing is published for it.")
        row = conn.execute(queries()["next_version"], column).fetchone()
        version = int(row[0]) if row else 1
        row = conn.execute(queries()["last_replay"], column).fetchone()
        last_replay = int(row[0]) if row else 0
        conn.execute(queries()["refresh_statistics"], column)
        conn.execute(queries()["delete_bank"], {**column, "unchanged_classes": list(unchanged_classes)})
        conn.execute(queries()["delete_measured"], column)
        for k, offer in offers.items():
            chosen, saving = None, None
            if offer.fixed:
                chosen, saving = _choose(conn, tuned, version, offer, query_vectors, least_saving, seed)
                _insert(conn, tuned, version, chosen, saving)
                served[k] = ServedPolicy(chosen.policy, len(chosen.patterns), saving, offer.filtered)
            _insert_measured(conn, tuned, k, offer, chosen)
        conn.execute(queries()["delete_superseded"], column)
        details = {str(k): {**s.policy.path_columns, "saving": s.saving} for k, s in served.items()}
        record_event(
            conn,
            tuned.column.id,
            "publish",
            {
                "version": version,
                "classes": details,
                "generations": tuned.generations,
                "target_recall": tuned.target_recall,
                "max_tail": tuned.max_tail,
                "last_replay": last_replay,
            },
        )
        notify(conn, tuned.column.id, "publish", version=version)
    return version, served


def _choose(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    version: int,
    offer: Offer,
    query_vectors: Singles,
    least_saving: float,
    seed: int,
) -> tuple[Candidate, float | None]:
    """Choose the index, then between its fixed setting and effort by query; nothing of it stays published."""
    fixed = _choose_index(conn, tuned, version, offer, query_vectors, seed)
    if offer.adaptive is None or fixed.policy.index_no != offer.fixed[0].policy.index_no:
        return fixed, None
    _insert(conn, tuned, version, offer.adaptive, None)
    saving = measure_saving(conn, tuned, fixed.policy.k_class, query_vectors, seed=seed)
    _withdraw(conn, tuned, fixed.policy.k_class)
    return _choose_between(fixed, offer.adaptive, saving, least_saving), saving


def _choose_index(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    version: int,
    offer: Offer,
    query_vectors: Singles,
    seed: int,
) -> Candidate:
    """Choose the quickest of the indexes whose fixed setting is proven; the main one if none is.

    Where the class is asked for they are measured end to end, else by their replays. To take the place of
    the main index, if that is proven, another has to be 5 % quicker.
    """
    main = offer.fixed[0]
    proven = [candidate for candidate in offer.fixed if candidate.policy.certified]
    if len(proven) < 2:
        return proven[0] if proven else main
    millis = [candidate.ms for candidate in proven]
    if offer.worth_measuring and len(query_vectors):
        _insert(conn, tuned, version, proven[0], None)
        policies = [candidate.policy for candidate in proven]
        spent = measure_times(conn, tuned, policies, query_vectors[:_INDEX_SAMPLE], seed)
        millis = [float(times.sum()) / len(query_vectors[:_INDEX_SAMPLE]) * 1000 for times in spent]
        _withdraw(conn, tuned, policies[0].k_class)
    quickest = int(np.argmin(millis))
    stays = proven[0] is main and millis[quickest] > _CLEARLY * millis[0]
    best = 0 if stays else quickest
    place = "the quickest" if best == quickest else "hardly slower than the quickest"
    policy = proven[best].policy
    why = f"{policy.reason}; {place} of {len(proven)} indexes, {millis[best]:.2f} ms"
    return replace(proven[best], policy=replace(policy, reason=why))


def _choose_between(
    fixed: Candidate, adaptive: Candidate, saving: float | None, least_saving: float
) -> Candidate:
    """Choose what serves by what was measured, and have its reason say so."""
    if saving is None:
        why = f"{fixed.policy.reason}; effort by query could not be measured without stored queries"
        return replace(fixed, policy=replace(fixed.policy, reason=why))
    if saving < 1.0 + least_saving:
        measured = f"effort by query may cost {1 / saving:.2f} of that by measurement, and stepped aside"
        why = f"{fixed.policy.reason}; {measured}"
        return replace(fixed, policy=replace(fixed.policy, reason=why))
    measured = f"measured to cost at most {1 / saving:.2f} of {fixed.policy.setting}"
    why = f"{adaptive.policy.reason}, {measured}"
    return replace(adaptive, policy=replace(adaptive.policy, reason=why))


def _insert(
    conn: psycopg.Connection[Any], tuned: TunedColumn, version: int, chosen: Candidate, saving: float | None
) -> None:
    policy, patterns, way = chosen.policy, chosen.patterns, chosen.policy.signature
    check_patterns(patterns)
    key = {"column_id": tuned.column.id, "k_class": policy.k_class}
    generation = next((i.generation for i in tuned.indexes if i.number == policy.index_no), tuned.generation)
    known = np.isfinite(policy.expected_recall)
    conn.execute(
        queries()["insert_bank"],
        {
            **key,
            **policy.path_columns,
            "version": version,
            "generation": generation,
            "rungs": list(policy.rungs) if way and policy.method == "ivfflat" else None,
            "expected_recall": policy.expected_recall if known else None,
            "recall_bound": policy.recall_bound,
            "tail": policy.tail,
            "tail_bound": policy.tail_bound,
            "certified": policy.certified,
            "samples": policy.samples,
            "target_recall": policy.target_recall,
            "reason": policy.reason,
            "saving": saving,
            "probe_ef": way.probe_ef if way else None,
            "center": way.center.tolist() if way else None,
            "weights": way.weights.ravel().tolist() if way else None,
            "reach": policy.reach if way else None,
        },
    )
    with conn.cursor() as cursor:
        cursor.executemany(
            queries()["insert_pattern"],
            [
                {
                    **key,
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
                for i in range(len(patterns))
            ],
        )


def _insert_measured(
    conn: psycopg.Connection[Any], tuned: TunedColumn, k: int, offer: Offer, chosen: Candidate | None
) -> None:
    """Publish what every path gave, and with that what filtered searches are served with."""
    key = {"column_id": tuned.column.id, "k_class": k}
    rows: list[dict[str, Any]] = [
        {
            **key,
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
            "serves": chosen is not None and c.policy.index_no == chosen.policy.index_no,
        }
        for c in offer.fixed
    ]
    rows += [{**key, **asdict(way)} for way in offer.filtered]
    for row in rows:
        row["recall"] = row["recall"] if np.isfinite(row["recall"]) else None
        row["ms"] = row["ms"] if np.isfinite(row["ms"]) else None
    with conn.cursor() as cursor:
        cursor.executemany(queries()["insert_measured"], rows)


def _withdraw(conn: psycopg.Connection[Any], tuned: TunedColumn, k: int) -> None:
    conn.execute(queries()["delete_class"], {"column_id": tuned.column.id, "k_class": k})


def measure_saving(
    conn: psycopg.Connection[Any], tuned: TunedColumn, k: int, query_vectors: Singles, *, seed: int = 0
) -> float | None:
    """Measure time of the fixed setting over that of the adaptive one, overheads paid; None without a sample.

    Returns what the ratio of mean times is at least, with 95 % confidence (bootstrap over blocks): a saving
    that the noise of the machine could have made is none. Must run in a transaction, with the adaptive bank
    in place, and leaves it serving; what effort by query costs only where searches have transactions of their
    own is added.
    """
    if not len(query_vectors):
        return None
    adaptive = read_bank(conn, tuned)[k][0]
    fixed, effort_by_query = measure_times(
        conn, tuned, [replace(adaptive, signature=None), adaptive], query_vectors, seed
    )
    effort_by_query = effort_by_query + _PREPARED_ANEW * len(query_vectors) / len(effort_by_query)
    drawn = np.random.default_rng(seed).integers(len(fixed), size=(_RESAMPLES, len(fixed)))
    # Means, for hard queries are what adaptive effort spends its time on.
    return float(np.quantile(fixed[drawn].sum(axis=1) / effort_by_query[drawn].sum(axis=1), 0.05))


def measure_times(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    policies: Sequence[Policy],
    query_vectors: Singles,
    seed: int,
) -> list[Floats]:
    """Measure the time that blocks of searches take with each of some policies of a class, in seconds.

    All answer the same searches through the column's function, in blocks whose order is drawn; the pages are
    warm. A bank of the class must be in place; the last policy is left serving.
    """
    statement = sql.SQL("SELECT * FROM vectuned.{}(%s, %s)").format(
        sql.Identifier(f"_search_{tuned.column.id}")
    )
    rng = np.random.default_rng(seed)
    spent: list[list[float]] = [[] for _ in policies]
    conn.execute("SELECT set_config('vectuned.record', 'off', true)")
    blocks = [b for b in np.array_split(rng.permutation(len(query_vectors)), _BLOCKS) if len(b)]
    for number, block in enumerate([blocks[0], *blocks]):
        for arm in rng.permutation(len(policies)):
            set_served_policy(conn, tuned, policies[arm])
            started = perf_counter()
            for i in block:
                conn.execute(statement, (Vector(query_vectors[i]), policies[0].k_class)).fetchall()
            if number:  # the first block only warms plans and pages
                spent[arm].append(perf_counter() - started)
    set_served_policy(conn, tuned, policies[-1])
    return [np.array(times) for times in spent]


def set_served_policy(conn: psycopg.Connection[Any], tuned: TunedColumn, policy: Policy) -> None:
    """Have a class be served with a policy from now on, whose bank must be in place."""
    key = {"column_id": tuned.column.id, "k_class": policy.k_class}
    conn.execute(queries()["serve_path"], {**key, **policy.path_columns})


def read_bank(
    conn: psycopg.Connection[Any], tuned: TunedColumn, *, waiting: bool = False
) -> dict[int, tuple[Policy, Patterns]]:
    """Read a column's published bank: policy and patterns by class of k.

    Everything that decides a search comes back bit for bit; the price of effort is not published. Imported
    patterns may wait and decide nothing: only if asked for `waiting` ones, policies have their signature.
    """
    cursor: psycopg.Cursor[Any] = conn.cursor(row_factory=namedtuple_row)
    found = {}
    for row in cursor.execute(queries()["bank"], {"column_id": tuned.column.id}).fetchall():
        way = None
        if row.access_path.endswith("_adaptive") or (waiting and row.center is not None):
            weights = np.array(row.weights, dtype=np.float64).reshape(FEATURES, COMPONENTS)
            way = Signature(row.k_class, row.probe_ef, np.array(row.center, dtype=np.float64), weights)
        policy = Policy(
            row.k_class,
            row.ef_search or row.probes,
            np.nan if row.expected_recall is None else row.expected_recall,
            row.recall_bound,
            row.certified,
            row.samples,
            row.target_recall,
            row.reason,
            way,
            row.reach or 0.0,
            index_no=row.index_no,
            method="hnsw" if row.probes is None else "ivfflat",
            rungs=RUNGS if row.rungs is None else tuple(row.rungs),
            tail=row.tail,
            tail_bound=row.tail_bound,
        )
        patterns = Patterns.empty()
        if row.centroids is not None:
            patterns = Patterns(
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
        found[row.k_class] = (policy, patterns)
    return found
