"""The choice between index and exact search is made on replays whose truth is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from vectuned.learning.filtering import (
    BUCKETS,
    EXACT,
    Choice,
    FilteredEvidence,
    buckets,
    choose_paths,
    efforts,
)
from vectuned.learning.ladder import RUNGS

SHAPE = np.array(RUNGS, dtype=np.float64)


def evidence(
    count: int, *, fraction: float = 0.3, k: int = 10, at: int = 56, exact_ms: float = 5.0, seed: int = 0
) -> FilteredEvidence:
    """Build replays whose recall is 1 from the rung `at` on and 0.5 below; a scan takes 0.01 ms a row."""
    rng = np.random.default_rng(seed)
    recall = np.tile(np.where(at <= SHAPE, 1.0, 0.5), (count, 1))
    scan_ms = 0.01 * SHAPE * rng.uniform(0.9, 1.1, (count, 1))
    everything = np.ones(recall.shape, dtype=np.bool_)
    return FilteredEvidence(
        k, np.full(count, fraction), recall, ~everything, everything, scan_ms, np.full(count, exact_ms)
    )


def only(found: tuple[Choice, ...]) -> Choice:
    """Return the only choice."""
    (choice,) = found
    return choice


def test_buckets_are_half_octaves() -> None:
    fractions = [1.5, 1.0, 0.71, 0.7, 0.5, 0.49, 0.25, 2.0**-10, 2.0**-19.5, 1e-9, 1e-300, 0.0, -1.0]
    assert buckets(np.array(fractions)).tolist() == [0, 0, 0, 1, 2, 2, 4, 20, 39, 39, 39, 39, 39]


def test_the_cheapest_proven_effort_is_chosen() -> None:
    choice = only(choose_paths(evidence(200), 0.95))
    assert (choice.bucket, choice.ef_search, choice.samples) == (3, 56, 200)
    assert choice.recall == 1
    assert 0.95 <= choice.bound < 1
    assert choice.ms == pytest.approx(0.56, rel=0.1)
    assert choice.exact_ms == 5


def test_exact_where_it_is_cheaper_or_nothing_is_proven() -> None:
    assert only(choose_paths(evidence(200, exact_ms=0.5), 0.95)).ef_search == EXACT
    assert only(choose_paths(evidence(200, exact_ms=0.7), 0.95)).ef_search == 56
    never = evidence(200)
    worse = replace(never, recall=np.full(never.recall.shape, 0.94))
    choice = only(choose_paths(worse, 0.95))
    assert (choice.ef_search, choice.recall, choice.bound, choice.ms) == (EXACT, 1, 1, 5)
    # 30 replays prove 0.9 and not 0.99.
    assert only(choose_paths(evidence(30), 0.8)).ef_search == 56
    assert only(choose_paths(evidence(30), 0.99)).ef_search == EXACT
    assert choose_paths(evidence(29), 0.8) == ()


def test_no_effort_below_k() -> None:
    assert only(choose_paths(evidence(200, k=100, at=20), 0.95)).ef_search == 112


def test_short_searches_are_exact_in_the_end_and_pay_for_both() -> None:
    given = evidence(200, at=10)
    short = np.zeros(given.short.shape, dtype=np.bool_)
    short[:80, :6] = True  # up to ef 56
    wrong = np.where(short, 0.1, 1.0)
    given = replace(given, short=short, recall=wrong)
    choice = only(choose_paths(given, 0.95))
    assert (choice.ef_search, choice.recall) == (80, 1)
    # Where every effort is short for two of five, the cheapest pays 0.1 + 2 ms, still less than 5.
    short[:80] = True
    given = replace(given, recall=np.where(short, 0.1, 1.0))
    choice = only(choose_paths(given, 0.95))
    assert (choice.ef_search, choice.recall) == (10, 1)
    assert choice.ms == pytest.approx(2.1, abs=0.05)
    short[:] = True
    assert only(choose_paths(given, 0.95)).ef_search == EXACT


def test_a_scan_given_up_is_not_credited_with_the_exact_answer() -> None:
    given = evidence(200, at=10)
    known = np.ones(given.known.shape, dtype=np.bool_)
    known[:40, 2:] = False
    short = np.zeros(known.shape, dtype=np.bool_)
    short[:40] = True
    recall = np.where(short, 0.3, 1.0)
    given = replace(given, known=known, short=short, recall=recall)
    # Beyond the second rung a fifth of the searches may have recall 0.3: only below is the mean proven, but
    # the sequence of tests starts above and ends there.
    assert only(choose_paths(given, 0.95)).ef_search == EXACT
    assert only(choose_paths(replace(given, known=np.ones_like(known)), 0.95)).ef_search == 10


def test_rungs_dearer_than_exact_search_do_not_spoil_the_proof() -> None:
    given = evidence(200, at=10, exact_ms=2.0)
    recall = given.recall.copy()
    recall[:, SHAPE > 250] = 0.5
    assert only(choose_paths(replace(given, recall=recall), 0.95)).ef_search == 10


def test_buckets_are_chosen_for_by_themselves() -> None:
    one, other, few = (
        evidence(100, fraction=0.3),
        evidence(100, fraction=0.01, at=2000),
        evidence(10, fraction=0.1),
    )
    names = ("fraction", "recall", "short", "known", "scan_ms", "exact_ms")
    mixed = {n: np.concatenate([getattr(e, n) for e in (other, few, one)]) for n in names}
    found = choose_paths(FilteredEvidence(10, **mixed), 0.9)
    assert [(c.bucket, c.ef_search, c.samples) for c in found] == [(3, 56, 100), (13, EXACT, 100)]
    spread = efforts(found)
    assert len(spread) == BUCKETS
    assert spread == [56] * 4 + [EXACT] * 36  # denser filters are served like the densest seen
    assert efforts(()) == [EXACT] * BUCKETS
    assert efforts(found[::-1]) == spread
    assert efforts(found[1:]) == [EXACT] * BUCKETS


def test_the_choice_holds_on_other_searches() -> None:
    # 200 times: recall drawn around a curve; a choice below the target may come up once in twenty.
    rng = np.random.default_rng(5)
    curve = 1 - 0.5 * np.exp(-SHAPE / 40)
    missed = 0
    for trial in range(200):
        given = evidence(150)
        recall = rng.binomial(10, curve, given.recall.shape) / 10
        choice = only(choose_paths(replace(given, recall=recall), 0.9, seed=trial))
        missed += choice.ef_search != EXACT and curve[RUNGS.index(choice.ef_search)] < 0.9
    assert missed <= 18
