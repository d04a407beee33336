"""The choice of access path for filters, on simulated replays whose true recall is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.filtered_replays_helpers import (
    MAIN,
    OTHER_PATHS,
    SHAPE,
    chosen,
    filtered_replays,
    in_part,
    joined,
    only,
    only_path,
    order,
    others,
)
from tests.unit.samples_helpers import hnsw, ivfflat, partial

from vectuned.learning.model.ladder import RUNGS, probe_rungs
from vectuned.learning.policy.filtering import choose_paths, selectivity_buckets
from vectuned.learning.statistics.demand import Demand


def test_selectivity_buckets_are_half_octaves() -> None:
    fractions = [1.5, 1.0, 0.71, 0.7, 0.5, 0.49, 0.25, 2.0**-10, 2.0**-19.5, 1e-9, 1e-300, 0.0, -1.0]
    assert selectivity_buckets(np.array(fractions)).tolist() == [0, 0, 0, 1, 2, 2, 4, 20, 39, 39, 39, 39, 39]


def test_choose_paths_takes_the_cheapest_proven_effort() -> None:
    found = choose_paths([(MAIN, filtered_replays(200))], Demand(0.95))
    choice = only(found)
    assert (choice.shape, choice.bucket, choice.samples) == ("kind =", 3, 200)
    assert (choice.access_path, choice.index_no, choice.effort, choice.proven) == ("hnsw", 1, 56, True)
    assert (choice.requires, choice.share) == (None, 1.0)
    assert choice.recall == 1
    assert 0.95 <= choice.bound < 1
    assert choice.ms == pytest.approx(0.56, rel=0.1)
    exact = only_path(found, None, "exact")
    assert (exact.effort, exact.recall, exact.bound, exact.proven, exact.ms) == (None, 1, 1, True, 5)
    assert not exact.serves


def test_choose_paths_takes_exact_search_if_cheaper_or_nothing_is_proven() -> None:
    assert chosen(filtered_replays(200, exact_ms=0.5), 0.95).access_path == "exact"
    assert chosen(filtered_replays(200, exact_ms=0.7), 0.95).effort == 56
    never = filtered_replays(200)
    worse = replace(never, recall=np.full(never.recall.shape, 0.94))
    found = choose_paths([(MAIN, worse)], Demand(0.95))
    choice = only(found)
    assert (choice.access_path, choice.effort, choice.index_no) == ("exact", None, None)
    assert (choice.recall, choice.bound, choice.ms) == (1, 1, 5)
    # The index is listed all the same, at its highest effort.
    index = only_path(found, 1, "hnsw")
    assert (index.effort, index.proven, index.serves) == (10, False, False)  # no effort brings more
    assert index.recall == pytest.approx(0.94)
    assert index.bound < 0.95
    # 30 replays prove 0.9 and not 0.99.
    assert chosen(filtered_replays(30), 0.8).effort == 56
    assert chosen(filtered_replays(30), 0.99).access_path == "exact"
    assert choose_paths([(MAIN, filtered_replays(29))], Demand(0.8)) == ()
    assert choose_paths([(MAIN, filtered_replays(0))], Demand(0.8)) == ()
    assert choose_paths([], Demand(0.8)) == ()


def test_choose_paths_takes_no_ef_search_below_k() -> None:
    assert chosen(filtered_replays(200, k=100, at=20), 0.95).effort == 112
    lists = ivfflat(1, lists=100)
    seen = filtered_replays(200, k=100, at=4, effort_ms=0.04, rungs=lists.rungs)
    choice = only(choose_paths([(lists, seen)], Demand(0.95)))
    assert (choice.access_path, choice.effort) == ("ivfflat", 4)
    assert 4 in probe_rungs(100)


def test_choose_paths_charges_short_scans_for_exact_search_too() -> None:
    given = filtered_replays(200, at=10)
    short = np.zeros(given.short.shape, dtype=np.bool_)
    short[:80, :6] = True  # up to ef 56
    wrong = np.where(short, 0.1, 1.0)
    given = replace(given, short=short, recall=wrong)
    choice = chosen(given, 0.95)
    assert (choice.effort, choice.recall) == (80, 1)
    # If every effort is short for two of five, the cheapest costs 0.1 + 2 ms, still less than 5.
    short[:80] = True
    given = replace(given, recall=np.where(short, 0.1, 1.0))
    choice = chosen(given, 0.95)
    assert (choice.effort, choice.recall) == (10, 1)
    assert choice.ms == pytest.approx(2.1, abs=0.05)
    short[:] = True
    assert chosen(given, 0.95).access_path == "exact"


def test_choose_paths_does_not_credit_abandoned_scans_with_the_exact_answer() -> None:
    given = filtered_replays(200, at=10)
    known = np.ones(given.known.shape, dtype=np.bool_)
    known[:40, 2:] = False
    short = np.zeros(known.shape, dtype=np.bool_)
    short[:40] = True
    recall = np.where(short, 0.3, 1.0)
    given = replace(given, known=known, short=short, recall=recall)
    # Beyond the second rung a fifth of the searches may have recall 0.3: only below is the mean proven, but
    # the sequence of tests starts above and ends there.
    assert chosen(given, 0.95).access_path == "exact"
    assert chosen(replace(given, known=np.ones_like(known)), 0.95).effort == 10


def test_choose_paths_leaves_out_rungs_slower_than_exact_search() -> None:
    given = filtered_replays(200, at=10, exact_ms=2.0)
    recall = given.recall.copy()
    recall[:, SHAPE > 250] = 0.5
    assert chosen(replace(given, recall=recall), 0.95).effort == 10


def test_choose_paths_for_each_bucket() -> None:
    one, other, few = (
        filtered_replays(100, fraction=0.3),
        filtered_replays(100, fraction=0.01, at=2000),
        filtered_replays(10, fraction=0.1),
    )
    found = choose_paths([(MAIN, joined((other, few, one)))], Demand(0.9))
    serving = [w for w in found if w.serves and w.samples]
    assert [(w.bucket, w.access_path, w.effort, w.samples) for w in serving] == [
        (3, "hnsw", 56, 100),
        (13, "exact", None, 100),
    ]
    # Denser filters are served like the densest replayed; no path serves buckets between and beyond.
    spread = [w for w in found if not w.samples]
    assert spread == [
        replace(serving[0], bucket=bucket, samples=0, proven=False, bound=0.0) for bucket in (0, 1, 2)
    ]
    assert {w.bucket for w in found} == {0, 1, 2, 3, 13}
    assert [w.bucket for w in found] == sorted(w.bucket for w in found)
    assert choose_paths([(MAIN, joined((one, few, other)))], Demand(0.9)) == found


def test_choose_paths_extends_only_index_scans_to_denser_filters() -> None:
    # The time of exact search in 1 % of the rows says nothing about that in half of the rows.
    found = choose_paths([(MAIN, filtered_replays(100, fraction=0.01, at=2000))], Demand(0.9))
    assert only(found).access_path == "exact"
    assert {w.bucket for w in found} == {13}
    planned = others(filtered_replays(100, fraction=0.01), 0, 100, recall=1.0, ms=0.1)
    found = choose_paths([(MAIN, planned)], Demand(0.9))
    assert only(found).access_path == "planner"
    assert {w.bucket for w in found} == {13}


def test_choose_paths_for_each_shape() -> None:
    related = filtered_replays(100, shape="kind =", at=20)
    unrelated = filtered_replays(100, shape="tenant =", at=320)
    few = filtered_replays(29, shape="kind =, tenant =", at=10)
    found = choose_paths([(MAIN, joined((unrelated, few, related)))], Demand(0.9))
    assert {(w.shape, w.effort) for w in found if w.serves} == {("kind =", 20), ("tenant =", 320)}
    assert {(w.shape, w.bucket) for w in found} == {(s, b) for s in ("kind =", "tenant =") for b in range(4)}


def test_choose_paths_takes_the_cheapest_of_several_indexes() -> None:
    half, lists = hnsw(2, form="halfvec"), ivfflat(5)
    seen = [
        (MAIN, filtered_replays(200)),
        (half, filtered_replays(200, effort_ms=0.004)),
        (lists, filtered_replays(200, at=8, effort_ms=0.04, rungs=lists.rungs)),
    ]
    found = choose_paths(seen, Demand(0.95))
    assert {(w.access_path, w.index_no, w.effort) for w in found if w.bucket == 3} == {
        ("exact", None, None),
        ("hnsw", 1, 56),
        ("hnsw", 2, 56),
        ("ivfflat", 5, 8),
    }
    assert all(w.proven for w in found if w.samples)
    assert (only(found).index_no, only(found).ms) == (2, only_path(found, 2, "hnsw").ms)
    assert only_path(found, 2, "hnsw").ms < only_path(found, 5, "ivfflat").ms < only_path(found, 1, "hnsw").ms
    assert {(w.access_path, w.index_no, w.effort) for w in found if w.bucket < 3} == {("hnsw", 2, 56)}
    # If another index is the cheapest, it serves.
    seen[2] = (lists, filtered_replays(200, at=2, effort_ms=0.04, rungs=lists.rungs))
    choice = only(choose_paths(seen, Demand(0.95)))
    assert (choice.access_path, choice.index_no, choice.effort) == ("ivfflat", 5, 2)


def test_choose_paths_never_takes_an_unproven_index() -> None:
    half = hnsw(2, form="halfvec")
    cheap = filtered_replays(200, effort_ms=0.0001)
    cheap = replace(cheap, recall=np.full(cheap.recall.shape, 0.94))
    found = choose_paths([(MAIN, filtered_replays(200)), (half, cheap)], Demand(0.95))
    assert only(found).index_no == 1
    other = only_path(found, 2, "hnsw")
    assert (other.effort, other.proven, other.serves) == (10, False, False)
    assert other.ms < only(found).ms


def test_choose_paths_takes_an_index_with_replays_where_the_main_one_has_few() -> None:
    half = hnsw(2, form="halfvec")
    found = choose_paths(
        [(MAIN, filtered_replays(10)), (half, filtered_replays(100, effort_ms=0.004))], Demand(0.9)
    )
    assert {(w.access_path, w.index_no) for w in found if w.bucket == 3} == {("exact", None), ("hnsw", 2)}
    assert only(found).index_no == 2


def test_choose_paths_takes_a_partial_index_for_its_filters() -> None:
    index = partial(3, '{"kind": 1}', 0.25)
    found = choose_paths([(MAIN, filtered_replays(100)), in_part(index)], Demand(0.9))
    choice = only_path(found, 3, "hnsw", bucket=0)  # the bucket counts the rows in the index
    assert (choice.effort, choice.proven, choice.serves) == (20, True, True)
    assert (choice.requires, choice.share) == ('{"kind": 1}', 0.25)
    assert {(w.access_path, w.index_no, w.requires) for w in found if w.bucket == 0 and w.serves} == {
        ("hnsw", 1, None),
        ("hnsw", 3, '{"kind": 1}'),
    }
    assert [w for w in found if w.access_path == "exact" and w.requires is not None] == []
    # It serves neither denser filters nor filters for other rows.
    sparse = choose_paths([(MAIN, filtered_replays(10)), in_part(index, 0.3)], Demand(0.9))
    assert [(w.bucket, w.index_no) for w in sparse] == [(3, 3)]


def test_choose_paths_without_a_main_index_serves_a_partial_one_or_exact_search() -> None:
    index = partial(3, '{"kind": 1}', 0.25)
    for effort_ms, expected in ((None, ("hnsw", 3)), (1.0, ("exact", None))):
        seen = in_part(index) if effort_ms is None else in_part(index, effort_ms=effort_ms)
        found = choose_paths([seen], Demand(0.9), has_main=False)
        assert {w.access_path for w in found} == {"hnsw", "exact"}
        assert [(w.access_path, w.index_no) for w in found if w.serves] == [expected]
        assert {(w.requires, w.share, w.bucket) for w in found} == {('{"kind": 1}', 0.25, 0)}


def test_choose_paths_leaves_out_a_slow_or_unproven_partial_index() -> None:
    index = partial(3, '{"kind": 1}', 0.25)
    dear = choose_paths([in_part(MAIN), in_part(index, effort_ms=1.0)], Demand(0.9))
    assert not only_path(dear, 3, "hnsw", bucket=0).serves
    assert only(dear).index_no == 1
    _, seen = in_part(index)
    worse = replace(seen, recall=np.full(seen.recall.shape, 0.85))
    unproven = only_path(choose_paths([in_part(MAIN), (index, worse)], Demand(0.9)), 3, "hnsw", bucket=0)
    assert (unproven.proven, unproven.serves, unproven.effort) == (False, False, 10)


def test_choose_paths_considers_paths_without_rungs_where_tried() -> None:
    given = others(filtered_replays(200), 0, 40, recall=1.0, ms=0.2)
    found = choose_paths([(MAIN, given)], Demand(0.9))
    planner = only_path(found, 1, "planner")
    assert (planner.effort, planner.samples, planner.recall, planner.proven) == (None, 40, 1, True)
    assert planner.ms == pytest.approx(0.2)
    assert planner.serves
    assert {w.access_path for w in found if w.bucket == 3} == {"exact", "hnsw", "planner"}
    # It serves neither if it is slower nor if its recall is too low, and 29 trials do not count.
    assert chosen(others(filtered_replays(200), 0, 40, recall=1.0, ms=0.7), 0.9).access_path == "hnsw"
    wrong = choose_paths([(MAIN, others(filtered_replays(200), 0, 40, recall=0.85, ms=0.2))], Demand(0.9))
    assert only(wrong).access_path == "hnsw"
    assert not only_path(wrong, 1, "planner").proven
    few = choose_paths([(MAIN, others(filtered_replays(200), 0, 29, recall=1.0, ms=0.2))], Demand(0.9))
    assert {w.access_path for w in few} == {"exact", "hnsw"}


def test_choose_paths_distinguishes_continued_scans_by_effort() -> None:
    given = filtered_replays(200, at=2000)
    for place, (recall, ms) in enumerate([(0.5, 4.0), (0.6, 0.5), (1.0, 1.0), (1.0, 2.0), (1.0, 6.0)]):
        given = others(given, place, 60, recall=recall, ms=ms)
    found = choose_paths([(MAIN, given)], Demand(0.9))
    tried = [(w.access_path, w.effort, w.proven, w.serves) for w in found if w.bucket == 3]
    assert tried == [
        ("hnsw", 10, False, False),
        ("hnsw_continued", 40, False, False),
        ("hnsw_continued", 80, True, True),
        ("hnsw_continued", 140, True, False),
        ("planner", None, False, False),
        ("exact", None, True, False),
        # Slower than exact search, and those above it were not tried.
        ("hnsw_continued", 240, False, False),
        ("hnsw_continued", 400, False, False),
        ("hnsw_continued", 800, False, False),
    ]
    # A continued scan finds more of denser filters' rows, too.
    assert {(w.access_path, w.effort) for w in found if w.bucket < 3} == {("hnsw_continued", 80)}


def test_choose_paths_takes_scans_left_out_for_the_one_before() -> None:
    # All replays tried the lowest effort; exact search was quicker for some of them, which stopped there.
    given = others(filtered_replays(200, at=2000), 0, 200, recall=0.5, ms=4.0)
    given = others(others(given, 1, 200, recall=0.9, ms=6.0), 2, 150, recall=1.0, ms=3.0)
    found = {
        w.effort: w for w in choose_paths([(MAIN, given)], Demand(0.9)) if w.access_path == "hnsw_continued"
    }
    assert found[80].recall == pytest.approx(0.75 * 1.0 + 0.25 * 0.9)
    assert found[80].ms == pytest.approx(0.75 * 3.0 + 0.25 * 6.0)
    assert [found[effort].samples for effort in (40, 80, 800)] == [200, 200, 200]


def test_choose_paths_counts_paths_without_rungs_once() -> None:
    half = hnsw(2, form="halfvec")
    given = others(filtered_replays(200), 0, 60, recall=1.0, ms=0.2)
    found = choose_paths(
        [(MAIN, given), (half, others(filtered_replays(200), 0, 60, recall=1.0, ms=0.1))], Demand(0.9)
    )
    assert [w.access_path for w in found if w.bucket == 3].count("exact") == 1
    assert only_path(found, 1, "planner").ms == pytest.approx(0.2)
    assert [w for w in found if w.index_no == 2 and w.access_path != "hnsw"] == []


def test_choose_paths_serves_the_cheapest_proven_path() -> None:
    rng = np.random.default_rng(11)
    indexes = [MAIN, hnsw(2, form="halfvec"), ivfflat(3), partial(4, '{"kind": 1}', 0.5)]
    seen_paths = set()
    for trial in range(60):
        seen = []
        for index in indexes:
            parts = []
            for fraction in (0.6, 0.2, 0.02):
                one = filtered_replays(
                    int(rng.integers(20, 80)),
                    fraction=fraction,
                    exact_ms=float(rng.uniform(0.1, 6)),
                    effort_ms=float(rng.uniform(0.001, 0.05)),
                    rungs=index.rungs,
                    seed=trial,
                )
                curve = np.sort(rng.uniform(0.7, 1.02, one.recall.shape[1])).clip(0, 1)
                one = replace(
                    one,
                    recall=(rng.random(one.recall.shape) * 0.1 + curve - 0.05).clip(0, 1),
                    short=rng.random(one.short.shape) < 0.1,
                )
                if index is MAIN:
                    for place in range(len(OTHER_PATHS)):
                        one = others(
                            one,
                            place,
                            len(one),
                            recall=float(rng.uniform(0.8, 1)),
                            ms=float(rng.uniform(0.1, 6)),
                        )
                parts.append(one)
            seen.append((index, joined(parts)))
        found = choose_paths(seen, Demand(0.9, seed=trial))
        for requires in (None, '{"kind": 1}'):
            for bucket in {w.bucket for w in found}:
                paths = [w for w in found if w.bucket == bucket and w.requires == requires]
                serving = [w for w in paths if w.serves]
                assert len(serving) == (1 if requires is None and paths else len(serving)) <= 1
                for w in serving:
                    if not w.samples:  # as of the densest measured, and nothing is claimed
                        assert (w.proven, w.bound) == (False, 0)
                        continue
                    assert w.proven or w.pooled
                    assert w.bound >= 0.9 or w.pooled
                    assert w.ms == min(v.ms for v in paths if v.proven or v.pooled)
                    seen_paths.add((w.access_path, w.index_no))
    assert {path for path, _ in seen_paths} == {"hnsw", "ivfflat", "exact", "planner", "hnsw_continued"}
    assert {index for _, index in seen_paths} == {None, 1, 2, 3, 4}


def test_choose_paths_holds_on_other_searches() -> None:
    # 200 times: recall drawn around a curve; a choice below the target may come up once in twenty.
    rng = np.random.default_rng(5)
    curve = 1 - 0.5 * np.exp(-SHAPE / 40)
    missed = 0
    for trial in range(200):
        given = filtered_replays(150)
        recall = rng.binomial(10, curve, given.recall.shape) / 10
        choice = only(choose_paths([(MAIN, replace(given, recall=recall))], Demand(0.9, seed=trial)))
        missed += choice.effort is not None and curve[RUNGS.index(choice.effort)] < 0.9
    assert missed <= 18


def test_choose_paths_proves_the_tail_too() -> None:
    given = filtered_replays(200, at=10)
    recall = given.recall.copy()
    recall[np.ix_(order(200)[:30], SHAPE < 100)] = 0.79  # of three searches in twenty
    given = replace(given, recall=recall)
    assert only(choose_paths([(MAIN, given)], Demand(0.9))).effort == 10
    assert only(choose_paths([(MAIN, given)], Demand(0.9, max_tail=0.3))).effort == 10
    assert only(choose_paths([(MAIN, given)], Demand(0.9, max_tail=0.1))).effort == 112
    planned = others(filtered_replays(200), 0, 100, recall=1.0, ms=0.2)
    assert only(choose_paths([(MAIN, planned)], Demand(0.9, max_tail=0.1))).access_path == "planner"
    planned.other_recall[order(100)[:15], 0] = 0.79
    assert only(choose_paths([(MAIN, planned)], Demand(0.9))).access_path == "planner"
    assert only(choose_paths([(MAIN, planned)], Demand(0.9, max_tail=0.1))).access_path == "hnsw"


def test_choose_paths_takes_no_effort_above_the_cap() -> None:
    free = choose_paths([(MAIN, filtered_replays(200))], Demand(0.9))
    effort = only(free).effort
    assert effort is not None
    for cap, least in ((effort, effort), (effort // 2, 10), (1, 10)):
        capped = choose_paths([(MAIN, replace(filtered_replays(200), max_effort=cap))], Demand(0.9))
        assert all(least <= (path.effort or least) <= max(cap, 10) for path in capped)
        assert (only(capped).effort == effort) == (cap >= effort)
