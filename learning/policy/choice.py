"""The choice of what serves a class of k: which index, and a fixed setting or effort by query."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import psycopg

from vectuned.learning.model.arrays import Singles
from vectuned.learning.model.tuned_columns import TunedColumn

from .calibration import Candidate
from .filtering import MeasuredPath
from .savings import measure_exact, measure_saving, measure_times
from .storage import delete_class, insert_class

# Query vectors that indexes are compared with: half of what a saving is measured with, since there may be
# many indexes.
_INDEX_QUERIES: Final = 480
# An index replaces the main one only if its searches take less than this share of the main one's time: within
# 5 % a difference may be noise, and every change makes caches cold.
_CLEARLY_QUICKER: Final = 0.95


@dataclass(frozen=True)
class Offer:
    """What a class of k may be served with.

    `fixed` holds the fixed setting of each index, the main one first, and `adaptive` effort by query, None if
    it was not proven; `filtered` what every path for filtered searches gave. `worth_measuring`: enough
    searches belong to the class for its speed to be worth measuring.
    """

    fixed: tuple[Candidate, ...]
    adaptive: Candidate | None = None
    filtered: tuple[MeasuredPath, ...] = ()
    worth_measuring: bool = False


@dataclass(frozen=True)
class PublishRun:
    """A publish under way: its connection, column and bank version, and the queries to measure with.

    `query_vectors` float32 (n, d) may be empty; then nothing can be measured. Exact search serves only if it
    takes at most `max_ms` milliseconds; None: no cap.
    """

    conn: psycopg.Connection[Any]
    tuned: TunedColumn
    version: int
    query_vectors: Singles
    seed: int
    max_ms: float | None = None


def choose_candidate(run: PublishRun, offer: Offer, least_saving: float) -> tuple[Candidate, float | None]:
    """Choose the index, then between its fixed setting, effort by query and exact search.

    Returns the choice and the saving that was measured, None if none was. What is published for the
    measurement is taken back.
    """
    fixed = choose_index(run, offer)
    if all(candidate.shortfall for candidate in offer.fixed):
        return choose_exact(run, fixed), None
    if offer.adaptive is None or fixed.policy.index_no != offer.fixed[0].policy.index_no:
        return fixed, None
    if not len(run.query_vectors):
        return choose_between(fixed, offer.adaptive, None, least_saving), None
    insert_class(run.conn, run.tuned, run.version, offer.adaptive, None)
    saving = measure_saving(run.conn, run.tuned, fixed.policy.k_class, run.query_vectors, seed=run.seed)
    delete_class(run.conn, run.tuned, fixed.policy.k_class)
    return choose_between(fixed, offer.adaptive, saving, least_saving), saving


def choose_index(run: PublishRun, offer: Offer) -> Candidate:
    """Choose the quickest index of those whose fixed setting is proven; the main index if none is.

    If none is proven, settings that pooled searches would prove are chosen from in the same way. If the class
    is worth measuring, indexes are measured end to end, otherwise compared by their replays. To replace a
    proven main index, another has to be 5 % quicker.
    """
    main = offer.fixed[0]
    proven = [candidate for candidate in offer.fixed if candidate.policy.certified]
    proven = proven or [candidate for candidate in offer.fixed if candidate.pooled]
    if len(proven) < 2:
        return proven[0] if proven else main
    if offer.worth_measuring and len(run.query_vectors):
        millis = _measure_indexes(run, proven)
    else:
        millis = [candidate.ms for candidate in proven]
    quickest = int(np.argmin(millis))
    main_stays = proven[0] is main and millis[quickest] > _CLEARLY_QUICKER * millis[0]
    best = 0 if main_stays else quickest
    rank = "the quickest" if best == quickest else "hardly slower than the quickest"
    return _with_reason(proven[best], f"; {rank} of {len(proven)} indexes, {millis[best]:.2f} ms")


def choose_exact(run: PublishRun, best: Candidate) -> Candidate:
    """Choose between exact search and the best that an index gives, where none reaches the target.

    The owner decides (`exact_if_unreachable` of the column), within `max_ms` of the run. The reason says what
    each gives and takes.
    """
    policy = best.policy
    exact = replace(
        policy,
        exact=True,
        certified=True,
        expected_recall=1.0,
        recall_bound=1.0,
        tail=0.0,
        tail_bound=0.0,
    )
    ms = _measure_exact(run, replace(best, policy=exact))
    limit = "" if policy.method == "hnsw" else f" up to {policy.rungs[-1]}"
    given = (
        f"no {policy.effort_name}{limit} reaches {policy.target_recall:g}: "
        f"{policy.rungs[-1]} gives {best.shortfall}"
    )
    index = f"{policy.setting} takes {best.ms:.3g} ms"
    advice = "another index may reach it, `vectuned advise` measures which"
    took = (
        "could not be measured"
        if ms is None
        else f"takes {ms:.3g} ms"
        if np.isfinite(ms)
        else "takes over 10 s"
    )
    allowed = ms is None or np.isfinite(ms)
    if run.max_ms is not None:
        allowed = ms is not None and ms <= run.max_ms
    if run.tuned.exact_if_unreachable and allowed:
        reason = f"exact search serves and {took}, because {given}, and {index}; {advice}"
        return replace(best, policy=replace(exact, reason=reason), exact_ms=ms)
    option = f"exact search {took}; exact_if_unreachable of vectuned.enable serves it"
    if run.tuned.exact_if_unreachable:
        option = f"exact search {took}, " + (
            f"not within max_ms {run.max_ms:g}" if run.max_ms else "too long to serve"
        )
    chosen = _with_reason(best, f"; {given}, and {index}; {option}; {advice}")
    return replace(chosen, exact_ms=ms)


def _measure_exact(run: PublishRun, exact: Candidate) -> float | None:
    """Return the mean time of an exact search in milliseconds, None without queries to search for."""
    if not len(run.query_vectors):
        return None
    insert_class(run.conn, run.tuned, run.version, exact, None)
    ms = measure_exact(run.conn, run.tuned, exact.policy, run.query_vectors)
    delete_class(run.conn, run.tuned, exact.policy.k_class)
    return ms


def _measure_indexes(run: PublishRun, candidates: list[Candidate]) -> list[float]:
    """Return the mean time of a search with each candidate, in milliseconds."""
    query_vectors = run.query_vectors[:_INDEX_QUERIES]
    policies = [candidate.policy for candidate in candidates]
    insert_class(run.conn, run.tuned, run.version, candidates[0], None)
    seconds = measure_times(run.conn, run.tuned, policies, query_vectors, run.seed)
    delete_class(run.conn, run.tuned, policies[0].k_class)
    return [float(times.sum()) / len(query_vectors) * 1000 for times in seconds]


def choose_between(
    fixed: Candidate, adaptive: Candidate, saving: float | None, least_saving: float
) -> Candidate:
    """Choose the adaptive candidate if its measured saving is large enough; say why in the reason."""
    if saving is None:
        return _with_reason(fixed, "; effort by query could not be measured without stored queries")
    if saving < 1.0 + least_saving:
        cost = f"may cost {1 / saving:.2f} of that by measurement"
        return _with_reason(fixed, f"; effort by query {cost}, and stepped aside")
    cost = f"measured to cost at most {1 / saving:.2f} of {fixed.policy.setting}"
    return _with_reason(adaptive, f", {cost}")


def _with_reason(candidate: Candidate, addition: str) -> Candidate:
    """Return the candidate with an addition to its policy's reason."""
    policy = candidate.policy
    return replace(candidate, policy=replace(policy, reason=f"{policy.reason}{addition}"))
