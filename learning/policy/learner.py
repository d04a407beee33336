"""One pass of learning for a column: from its replays to a published bank."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psycopg

from vectuned.config.errors import UsageError
from vectuned.learning.model import ladder
from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.ladder import HIGHEST_POSITION, K_CLASSES
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.patterns.lineage import PreviousPolicy, count_lookups
from vectuned.learning.patterns.optimizer import raise_effort
from vectuned.learning.patterns.reasoning_bank import Patterns
from vectuned.learning.patterns.signature import COMPONENTS
from vectuned.learning.statistics.demand import AMPLE_FACTOR, Demand
from vectuned.sql.files import queries

from .calibration import Candidate, ReplaySample, extrapolate_policy, find_fixed_policy, learn_adaptive_policy
from .filtering import choose_paths
from .publication import Offer, ServedPolicy, publish, read_bank
from .replays import Replays, load_replays

log = logging.getLogger(__name__)

_LEAST_PREDICTED_SAVING = 1.05
_SAMPLE = 960


@dataclass(frozen=True)
class LearningOptions:
    """How to learn: `confidence` of every proof, `clusters` per bank, `seed`, and `step_aside`.

    A bank whose measured saving is under `step_aside` does not serve.
    """

    confidence: float = 0.95
    clusters: int = 64
    seed: int = 0
    step_aside: float = 0.05


@dataclass(frozen=True)
class LearningResult:
    """What a pass of learning came to; `version` is None where there were too few replays to publish."""

    replays: int
    version: int | None
    served: dict[int, ServedPolicy]


def build_offers(
    replays: Sequence[tuple[TunedIndex, Replays]],
    tuned: TunedColumn,
    options: LearningOptions,
    *,
    counter_examples: Replays | None = None,
    past: Mapping[int, PreviousPolicy] | None = None,
) -> dict[int, Offer]:
    """Work out what each class of k may be served with, from the replays by index, the main one first.

    Every class that enough replays looked at gets its fixed setting on every index that holds all rows, by
    its own searches if those suffice, else by all pooled. Patterns are learned on the main index for the
    classes that searches really belong to, if the held-out replays promise that they save anything. Classes
    above all that were looked at are extrapolated.

    `counter_examples` through the main index are learned from and prove nothing; patterns inherit their age
    from the `past` by class of k.
    """
    main, seen = replays[0]
    demand = build_demand(tuned, options)
    found = {}
    for k in sorted({k for _, each in replays for k in each.k_classes}):
        fixed = find_fixed_settings(replays, k, tuned, demand)
        worth_measuring = k in seen.k_classes and bool((seen.search_classes == k).sum() >= tuned.min_samples)
        adaptive = None
        if worth_measuring and seen.probes and fixed and fixed[0].policy.index_no == main.number:
            examples = counter_examples
            adaptive = _adaptive(
                seen.sample(k, _enough(tuned, demand)),
                fixed[0],
                demand,
                options.clusters,
                examples.sample(k).own_only()
                if examples and examples.probes and k in examples.k_classes
                else None,
                (past or {}).get(k),
            )
        filtered = choose_paths(
            [(index, each.filtered_sample(k)) for index, each in replays if k in each.k_classes],
            demand,
        )
        found[k] = Offer(fixed, adaptive, filtered, worth_measuring)
    learned = {k: offer.fixed[0].policy for k, offer in found.items() if offer.fixed}
    for k in K_CLASSES:
        if k not in learned and learned and k > max(learned) and main.method == "hnsw":
            policy = extrapolate_policy(list(learned.values()), k)
            found[k] = replace(
                found.get(k, Offer(())), fixed=(Candidate(policy, Patterns.empty(), np.nan, np.nan),)
            )
    return found


def build_demand(tuned: TunedColumn, options: LearningOptions) -> Demand:
    """Return what every setting of a column has to be proven to give."""
    return Demand(tuned.target_recall, options.confidence, options.seed, tuned.max_tail)


def find_fixed_settings(
    replays: Sequence[tuple[TunedIndex, Replays]], k: int, tuned: TunedColumn, demand: Demand
) -> tuple[Candidate, ...]:
    """Find the fixed setting of a class of k on every index that holds all rows and was looked at enough."""
    return tuple(
        find_fixed_policy(each.sample(k, _enough(tuned, demand)), demand, index=index)
        for index, each in replays
        if index.requires is None and each.count_replays(k) >= tuned.min_samples
    )


def _enough(tuned: TunedColumn, demand: Demand) -> int:
    """Return how many searches of a class of k speak for it by themselves."""
    return max(tuned.min_samples, AMPLE_FACTOR * demand.min_replays)


def _adaptive(
    sample: ReplaySample,
    fixed: Candidate,
    demand: Demand,
    clusters: int,
    counter_examples: ReplaySample | None,
    past: PreviousPolicy | None,
) -> Candidate | None:
    """Learn effort by query where it promises to save anything."""
    if not fixed.policy.certified:
        return None
    adaptive = learn_adaptive_policy(
        sample, fixed.policy, demand, clusters=clusters, counter_examples=counter_examples, past=past
    )
    if adaptive is None or fixed.cost < _LEAST_PREDICTED_SAVING * adaptive.cost:
        return None
    return adaptive


def learn(
    conn: psycopg.Connection[Any], tuned: TunedColumn, options: LearningOptions = LearningOptions()
) -> LearningResult:
    """Learn from a column's replays and publish, if there are enough of them.

    `conn` must be in autocommit mode; the publish is one transaction.
    """
    replays = [(index, load_replays(conn, tuned, index)) for index in tuned.indexes]
    count = len(replays[0][1]) if replays else 0
    if count < tuned.min_samples:
        log.info(
            "learning about %s waits: %d of %d replays",
            tuned.column,
            count,
            tuned.min_samples,
            extra={"action": "learn"},
        )
        return LearningResult(count, None, {})
    counter_examples = load_replays(conn, tuned, tuned.indexes[0], counter_examples=True)
    offered = build_offers(
        replays, tuned, options, counter_examples=counter_examples, past=_past(conn, tuned)
    )
    for k, margin in conn.execute(queries()["margins_in_force"], {"column_id": tuned.column.id}).fetchall():
        if k in offered:
            offered[k] = _with_margin(offered[k], margin)
    unchanged_classes = _priors(conn, tuned, offered, replays, build_demand(tuned, options))
    for k in unchanged_classes & offered.keys():
        offered[k] = replace(offered[k], fixed=(), adaptive=None)
    sample = _recent_queries(conn, tuned, _SAMPLE)
    version, served = publish(
        conn,
        tuned,
        offered,
        sample,
        least_saving=options.step_aside,
        seed=options.seed,
        unchanged_classes=unchanged_classes,
    )
    conn.execute(
        queries()["trim_replays"],
        {"column_id": tuned.column.id, "window": tuned.trajectory_window, "generations": tuned.generations},
    )
    log.info(
        "published version %d for %s from %d replays",
        version,
        tuned.column,
        count,
        extra={"action": "publish"},
    )
    return LearningResult(count, version, served)


def _priors(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    offered: Mapping[int, Offer],
    replays: Sequence[tuple[TunedIndex, Replays]],
    demand: Demand,
) -> set[int]:
    """Return the classes that go on with what was imported (sql/tuner/functions/exchange/).

    Those of which nothing is proven here, as long as their own replays, if there are any, do not speak
    against the imported setting.
    """
    rows = conn.execute(queries()["priors"], {"column_id": tuned.column.id}).fetchall()
    serving = read_bank(conn, tuned) if rows else {}
    unchanged_classes = set()
    for (k,) in rows:
        offer = offered.get(k)
        if k not in serving or (offer is not None and any(c.policy.certified for c in offer.fixed)):
            continue
        policy, met = serving[k][0], True
        for index, each in replays:
            if index.number == policy.index_no and each.count_replays(k):
                effort = np.array([ladder.position_of(policy.fixed_ef, index.rungs)])
                met = bool(demand.is_met_by(*each.sample(k).recall_at(effort))[0])
        if met:
            unchanged_classes.add(k)
    return unchanged_classes


def _past(conn: psycopg.Connection[Any], tuned: TunedColumn) -> dict[int, PreviousPolicy]:
    """Read what serves by patterns, and count what searches that were recorded since made of them.

    A bank that something broke has no heirs, but must not stand in the way of the next one.
    """
    values = {"column_id": tuned.column.id, "count": tuned.trajectory_window}
    rows = conn.execute(queries()["lookups"], values).fetchall()
    k_classes = np.array([row[0] for row in rows], dtype=np.int64)
    try:
        signatures = np.array([row[1] for row in rows], dtype=np.float32).reshape(-1, COMPONENTS)
        return {
            k: PreviousPolicy(
                policy,
                count_lookups(patterns, signatures[k_classes == k], tuned.learning_rate, tuned.min_samples),
            )
            for k, (policy, patterns) in read_bank(conn, tuned, waiting=True).items()
            if policy.signature is not None
        }
    except (UsageError, ValueError, TypeError) as error:
        log.warning("the bank of %s is unusable: %s", tuned.column, error, extra={"action": "learn"})
        return {}


def _with_margin(offer: Offer, rungs: float) -> Offer:
    """Raise whatever is offered by a margin; more effort than was proven is proven as well."""

    def lift(candidate: Candidate) -> Candidate:
        policy, patterns = raise_effort(candidate.policy, rungs), candidate.patterns
        effort = np.minimum(patterns.effort + rungs, HIGHEST_POSITION)
        why = f"{policy.reason}; {rungs:.2g} rungs more after failures"
        return replace(
            candidate, policy=replace(policy, reason=why), patterns=replace(patterns, effort=effort)
        )

    adaptive = None if offer.adaptive is None else lift(offer.adaptive)
    return replace(offer, fixed=tuple(lift(candidate) for candidate in offer.fixed), adaptive=adaptive)


def _recent_queries(conn: psycopg.Connection[Any], tuned: TunedColumn, count: int) -> Singles:
    rows = conn.execute(
        queries()["recent_queries"], {"column_id": tuned.column.id, "count": count}
    ).fetchall()
    vectors = np.array([row[0].to_numpy() for row in rows], dtype=np.float32)
    return vectors.reshape(len(rows), tuned.column.dimensions)
