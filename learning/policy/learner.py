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
from vectuned.learning.model.ladder import HIGHEST_POSITION, K_CLASSES
from vectuned.learning.model.tuned_columns import TunedColumn, TunedIndex
from vectuned.learning.patterns.lineage import PreviousPolicy, count_lookups
from vectuned.learning.patterns.optimizer import Policy, raise_effort
from vectuned.learning.patterns.reasoning_bank import Patterns
from vectuned.learning.statistics.demand import AMPLE_FACTOR, Demand
from vectuned.learning.statistics.replay_sample import ReplaySample

from .calibration import Candidate, extrapolate_policy, find_fixed_policy, learn_adaptive_policy
from .choice import Offer
from .filtering import choose_paths
from .limits import MAX_RISE, NO_CAPS, NO_LIMITS, EffortCaps, EffortLimits
from .publication import ServedPolicy, publish
from .replays import Replays, load_replays
from .storage import (
    ServedEffort,
    read_bank,
    read_imported_classes,
    read_lookups,
    read_margins,
    read_recent_queries,
    read_served_efforts,
    trim_replays,
)

log = logging.getLogger(__name__)

# Patterns are offered only if the held-out replays predict at least this saving of index buffers: less could
# not pay for probe and lookup.
_LEAST_PREDICTED_SAVING = 1.05
# Part of the probability of error that effort by query may spend: it seldom serves, so that it gets less than
# the fixed setting, which then needs only 7 % more replays.
_ADAPTIVE_ERRORS = 0.2
# Query vectors that a bank is measured with: 24 blocks of 40 searches.
_MEASURED_QUERIES = 960


@dataclass(frozen=True)
class LearningOptions:
    """How to learn: `confidence` of every proof, `clusters` per bank, `seed`, `step_aside` and `caps`.

    A bank whose measured saving is under `step_aside`, a share of the time, does not serve. The `caps` hold
    for every column, beside its own.
    """

    confidence: float = 0.95
    clusters: int = 64
    seed: int = 0
    step_aside: float = 0.05
    caps: EffortCaps = NO_CAPS


@dataclass(frozen=True)
class LearningResult:
    """What a pass of learning came to; `version` is None where there were too few replays to publish."""

    replays: int
    version: int | None
    served: dict[int, ServedPolicy]


def learn(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    options: LearningOptions = LearningOptions(),
    *,
    former_target: float | None = None,
) -> LearningResult:
    """Learn from a column's replays and publish, if there are enough of them.

    `conn` must be in autocommit mode; the publish is one transaction. With `former_target` it also changes
    the target of the column from it to that of `tuned`.
    """
    replays = [(index, load_replays(conn, tuned, index)) for index in tuned.indexes]
    count = count_current(replays)
    if count < tuned.min_samples:
        log.info(
            "learning about %s waits: %d of %d replays",
            tuned.column,
            count,
            tuned.min_samples,
            extra={"action": "learn"},
        )
        return LearningResult(count, None, {})
    serving = read_served_efforts(conn, tuned)
    offers = build_offers(
        replays,
        tuned,
        options,
        counter_examples=load_replays(conn, tuned, tuned.indexes[0], counter_examples=True),
        past=_read_previous_policies(conn, tuned),
        serving=serving,
    )
    caps = _caps(tuned, options)
    for k, margin in read_margins(conn, tuned).items():
        if k in offers:
            offers[k] = _add_margin(offers[k], margin, caps)
    unchanged_classes = _unchanged_classes(conn, tuned, offers, replays, build_demand(tuned, options))
    unchanged_classes |= _classes_without_evidence(tuned, offers, serving)
    for k in unchanged_classes & offers.keys():
        offers[k] = replace(offers[k], fixed=(), adaptive=None)
    version, served = publish(
        conn,
        tuned,
        offers,
        read_recent_queries(conn, tuned, _MEASURED_QUERIES),
        least_saving=options.step_aside,
        seed=options.seed,
        unchanged_classes=unchanged_classes,
        former_target=former_target,
        max_ms=caps.max_ms,
    )
    log.info(
        "published version %d for %s from %d replays",
        version,
        tuned.column,
        count,
        extra={"action": "publish"},
    )
    trim_replays(conn, tuned)
    return LearningResult(count, version, served)


def count_current(replays: Sequence[tuple[TunedIndex, Replays]]) -> int:
    """Count the replays on the present table: of the main index or, if there is none, of the partial ones."""
    if not replays:
        return 0
    counted = replays if replays[0][0].requires is not None else replays[:1]
    return sum(int(np.count_nonzero(each.current)) for _, each in counted)


def build_offers(
    replays: Sequence[tuple[TunedIndex, Replays]],
    tuned: TunedColumn,
    options: LearningOptions,
    *,
    counter_examples: Replays | None = None,
    past: Mapping[int, PreviousPolicy] | None = None,
    serving: Mapping[int, ServedEffort] | None = None,
) -> dict[int, Offer]:
    """Work out what each class of k may be served with, from the replays by index, the main index first.

    Every class with enough replays gets its fixed setting on every index that holds all rows, by its own
    searches if those suffice, otherwise by all searches pooled, which proves nothing. Patterns are learned on
    the main index for the classes that enough searches belong to, if the held-out replays predict a saving.
    Classes above all that were replayed are extrapolated. Without an index over all rows, only paths of
    filtered searches are offered.

    `counter_examples` through the main index are learned from and prove nothing; patterns inherit their age
    from the `past` by class of k. What is not proven moves only within limits from what is `serving` the
    class; None or a class without an entry: the default setting.
    """
    main, main_replays = replays[0]
    demand, caps = build_demand(tuned, options), _caps(tuned, options)
    serving = serving or {}
    offers = {}
    for k in sorted({k for _, each in replays for k in each.k_classes}):
        limits = {index: _limits(tuned, index, k, serving.get(k), caps) for index, _ in replays}
        searches = main_replays.count_searches(k)
        worth_measuring = k in main_replays.k_classes and searches >= tuned.min_samples
        # Of fixed setting and effort by query one serves, so both together may err as often as one alone.
        by_query = worth_measuring and main.requires is None and bool(main_replays.probes)
        fixed_demand = demand.divide(1.0 / (1.0 - _ADAPTIVE_ERRORS)) if by_query else demand
        fixed = find_fixed_settings(replays, k, tuned, fixed_demand, limits)
        adaptive = None
        if by_query and fixed and fixed[0].policy.index_no == main.number:
            adaptive = _learn_adaptive(
                main_replays.sample(k, _enough_replays(tuned, demand)).own_only(),
                fixed[0],
                demand.divide(1.0 / _ADAPTIVE_ERRORS),
                options.clusters,
                _extra_training(main_replays, counter_examples, k),
                (past or {}).get(k),
                caps.max_effort,
            )
        filtered = choose_paths(
            [
                (index, each.filtered_sample(k, caps.max_effort))
                for index, each in replays
                if k in each.k_classes
            ],
            demand,
            has_main=main.requires is None,
        )
        offers[k] = Offer(fixed, adaptive, filtered, worth_measuring)
    if main.method == "hnsw":
        above = {k: _limits(tuned, main, k, serving.get(k), caps) for k in K_CLASSES}
        _extrapolate(offers, above)
    return offers


def _caps(tuned: TunedColumn, options: LearningOptions) -> EffortCaps:
    """Return the caps that hold for a column: its own and those of all columns."""
    return options.caps.tighten(tuned.max_effort, tuned.max_ms)


def _limits(
    tuned: TunedColumn, index: TunedIndex, k: int, serving: ServedEffort | None, caps: EffortCaps
) -> EffortLimits:
    """Return the limits of the effort of class `k` through an index; that of another index says nothing."""
    default = tuned.default_effort(index, k)
    served = default
    if serving is not None and tuned.find_index(serving.index_no) == index:
        served = serving.effort
    return EffortLimits(served, default, caps)


def _extrapolate(offers: dict[int, Offer], limits: Mapping[int, EffortLimits]) -> None:
    """Add a fixed setting, unproven, for the classes of k above all that have one."""
    learned = {k: offer.fixed[0].policy for k, offer in offers.items() if offer.fixed}
    if not learned:
        return
    for k in K_CLASSES:
        if k > max(learned):
            policy = extrapolate_policy(list(learned.values()), k, limits[k])
            guess = Candidate(policy, Patterns.empty(), np.nan, np.nan)
            offers[k] = replace(offers.get(k, Offer(())), fixed=(guess,))


def build_demand(tuned: TunedColumn, options: LearningOptions) -> Demand:
    """Return what every setting of a column has to be proven to give."""
    return Demand(tuned.target_recall, options.confidence, options.seed, tuned.max_tail)


def find_fixed_settings(
    replays: Sequence[tuple[TunedIndex, Replays]],
    k: int,
    tuned: TunedColumn,
    demand: Demand,
    limits: Mapping[TunedIndex, EffortLimits] | None = None,
) -> tuple[Candidate, ...]:
    """Find the fixed setting of a class of k on every index that holds all rows and has enough replays.

    What is not proven keeps within the `limits` of its index. As one of the indexes serves, each has its part
    of the probability of error.
    """
    eligible = [
        (index, each)
        for index, each in replays
        if index.requires is None and each.count_replays(k) >= tuned.min_samples
    ]
    divided = demand.divide(max(len(eligible), 1))
    return tuple(
        find_fixed_policy(
            each.sample(k, _enough_replays(tuned, divided)),
            divided,
            index=index,
            limits=NO_LIMITS if limits is None else limits[index],
        )
        for index, each in eligible
    )


def _enough_replays(tuned: TunedColumn, demand: Demand) -> int:
    """Return how many replays of its own a class of k needs to be judged by them alone."""
    return max(tuned.min_samples, AMPLE_FACTOR * demand.min_replays)


def _extra_training(replays: Replays, counter_examples: Replays | None, k: int) -> ReplaySample | None:
    """Return what patterns of class `k` are trained on beside the evidence; None if there is nothing.

    These are replays that are no evidence any more, and counter-examples with probes.
    """
    earlier = replays.earlier_sample(k)
    examples = earlier if len(earlier) else None
    if counter_examples and counter_examples.probes and k in counter_examples.k_classes:
        own = counter_examples.sample(k).own_only()
        examples = own if examples is None else examples.concatenate(own)
    return examples


def _learn_adaptive(
    sample: ReplaySample,
    fixed: Candidate,
    demand: Demand,
    clusters: int,
    counter_examples: ReplaySample | None,
    past: PreviousPolicy | None,
    max_effort: int | None,
) -> Candidate | None:
    """Learn effort by query; None unless it is proven and predicted to save something."""
    if not fixed.policy.certified:
        return None
    adaptive = learn_adaptive_policy(
        sample,
        fixed.policy,
        demand,
        clusters=clusters,
        counter_examples=counter_examples,
        past=past,
        max_effort=max_effort,
    )
    if adaptive is None or fixed.cost < _LEAST_PREDICTED_SAVING * adaptive.cost:
        return None
    return adaptive


def _unchanged_classes(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    offers: Mapping[int, Offer],
    replays: Sequence[tuple[TunedIndex, Replays]],
    demand: Demand,
) -> set[int]:
    """Return the classes that go on with what was imported (sql/tuner/functions/exchange/).

    These are the imported classes of which nothing is proven here, unless their own replays show that the
    imported setting misses the demand, or takes over twice the effort that they ask for.
    """
    imported = read_imported_classes(conn, tuned)
    bank = read_bank(conn, tuned) if imported else {}
    unchanged_classes = set()
    for k in imported:
        offer = offers.get(k)
        fixed = offer.fixed if offer is not None else ()
        proven_here = any(c.policy.certified for c in fixed)
        dear = any(
            c.policy.index_no == bank[k][0].index_no and bank[k][0].fixed_ef > MAX_RISE * c.policy.fixed_ef
            for c in fixed
            if k in bank and c.policy.samples
        )
        if k in bank and not proven_here and not dear and _meets_demand(bank[k][0], k, replays, demand):
            unchanged_classes.add(k)
    return unchanged_classes


def _classes_without_evidence(
    tuned: TunedColumn, offers: Mapping[int, Offer], serving: Mapping[int, ServedEffort]
) -> set[int]:
    """Return the learned classes that go on with what they have fallen back to, for want of evidence."""
    proposed = {k for k, offer in offers.items() if any(each.policy.samples for each in offer.fixed)}
    return {
        k
        for k, served in serving.items()
        if k not in proposed and served.samples and tuned.find_index(served.index_no) is not None
    }


def _meets_demand(
    policy: Policy, k: int, replays: Sequence[tuple[TunedIndex, Replays]], demand: Demand
) -> bool:
    """Say whether the replays through a policy's index, if there are any, meet the demand on average."""
    met = True
    for index, each in replays:
        # NULL is the main index, the first of `replays`.
        serves = index is replays[0][0] if policy.index_no is None else index.number == policy.index_no
        if serves and each.count_replays(k):
            effort = np.array([ladder.position_of(policy.fixed_ef, index.rungs)])
            met = bool(demand.is_met_by(*each.sample(k).recall_at(effort))[0])
    return met


def _read_previous_policies(conn: psycopg.Connection[Any], tuned: TunedColumn) -> dict[int, PreviousPolicy]:
    """Read the policies that serve by patterns, and count the lookups of their patterns since.

    A bank that was damaged passes nothing on, but must not stop the next one from being published.
    """
    try:
        k_classes, signatures = read_lookups(conn, tuned)
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


def _add_margin(offer: Offer, rungs: float, caps: EffortCaps) -> Offer:
    """Raise every setting of an offer by a margin, up to the caps; more than was proven is proven as well."""

    def lift(candidate: Candidate) -> Candidate:
        policy, patterns = raise_effort(candidate.policy, rungs), candidate.patterns
        highest = HIGHEST_POSITION
        if caps.max_effort is not None:
            least = policy.k_class if policy.method == "hnsw" else 1
            policy = replace(policy, fixed_ef=caps.cap(policy.fixed_ef, least))
            highest = float(ladder.position_of(caps.max_effort, policy.rungs))
        effort = np.minimum(patterns.effort + rungs, highest)
        why = f"{policy.reason}; {rungs:.2g} rungs more after failures"
        return replace(
            candidate, policy=replace(policy, reason=why), patterns=replace(patterns, effort=effort)
        )

    adaptive = None if offer.adaptive is None else lift(offer.adaptive)
    return replace(offer, fixed=tuple(lift(candidate) for candidate in offer.fixed), adaptive=adaptive)
