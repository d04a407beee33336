"""Verdicts: signals that decide, signals that only add confidence, and unknown ones, which do not count."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import comb
from typing import Any

import numpy as np
import pytest

from vectuned.learning.model.ladder import HIGHEST_POSITION
from vectuned.learning.oversight.verdict import (
    SIGNALS,
    WEIGHTS,
    Signals,
    Verdict,
    Verdicts,
    allowed_misses,
    diversity,
    judge_signals,
)

UNKNOWN: dict[str, Any] = {
    "recall": np.nan,
    "k": 10,
    "returned": 10,
    "matching": np.nan,
    "diversity": np.nan,
    "latency_ms": np.nan,
    "usual_ms": np.nan,
    "slow_ms": np.nan,
    "relevant": 0,
    "irrelevant": 0,
    "effort": 5.0,
    "exact": False,
    "certified": False,
    "index_missing": False,
}
QUICK = {"latency_ms": 1.0, "usual_ms": 1.0, "slow_ms": 2.0}
SLOW = {"latency_ms": 9.0, "usual_ms": 1.0, "slow_ms": 2.0}


def signals(*searches: dict[str, Any]) -> Signals:
    """Make signals of searches, unknown except for those passed."""
    whole = [{**UNKNOWN, **search} for search in searches]
    return Signals(**{name: np.array([search[name] for search in whole]) for name in UNKNOWN})


def verdict(target: float = 0.95, **search: Any) -> Verdict:
    """Judge one search."""
    return judge_signals(signals(search), target)[0]


def everything() -> Signals:
    """Return every combination of signals of a search, and some thousand more at random."""
    grid = [
        dict(zip(("recall", "relevant", "irrelevant", "diversity", "exact", "returned"), values, strict=True))
        | speed
        for values in product(
            (np.nan, 0.0, 0.5, 0.8, 0.9, 1.0),
            (0, 1, 3),
            (0, 1, 3),
            (np.nan, 0.3, 1.0),
            (False, True),
            (0, 7, 10),
        )
        for speed in ({}, QUICK, SLOW)
    ]
    rng = np.random.default_rng(1)
    for _ in range(3000):
        k = int(rng.integers(1, 1001))
        grid.append(
            {
                "recall": rng.choice([np.nan, rng.random() ** 0.1]),
                "k": k,
                "returned": int(rng.integers(0, k + 1)),
                "relevant": int(rng.integers(0, 3)),
                "matching": rng.choice([np.nan, float(rng.integers(0, 2 * k))]),
                "irrelevant": int(rng.integers(0, 3)),
                "effort": rng.choice([np.nan, 0.0, HIGHEST_POSITION]),
                "certified": bool(rng.random() < 0.5),
                "index_missing": bool(rng.random() < 0.2),
                "diversity": rng.choice([np.nan, rng.random()]),
                "latency_ms": rng.choice([np.nan, -1.0, 9.0]),
                "usual_ms": rng.choice([np.nan, 1.0]),
                "slow_ms": rng.choice([np.nan, 2.0, 20.0]),
            }
        )
    return signals(*grid)


def test_judge_signals_by_recall_alone() -> None:
    good = verdict(recall=1.0)
    assert (good.outcome, good.signals, good.recommendation) == ("success", ("recall",), "nothing")
    assert good.confidence == pytest.approx(0.5)
    bad = verdict(recall=0.6)
    assert (bad.outcome, bad.recommendation) == ("failure", "raise_effort")
    assert bad.reason.endswith(": search with more effort")


def test_judge_signals_without_signals_is_unknown() -> None:
    nothing = verdict()
    assert nothing == Verdict(
        "unknown", 0.0, (), "nothing", "neither its recall nor any feedback on it is known"
    )


@pytest.mark.parametrize("speed", [QUICK, SLOW, {}])
@pytest.mark.parametrize("share", [0.1, 1.0, np.nan])
def test_judge_signals_by_latency_and_diversity_alone_is_unknown(
    speed: dict[str, float], share: float
) -> None:
    found = verdict(**speed, diversity=share)
    assert (found.outcome, found.confidence, found.recommendation) == ("unknown", 0.0, "nothing")
    assert found.signals == (("latency",) if speed else ()) + (() if np.isnan(share) else ("diversity",))


@pytest.mark.parametrize(
    ("said", "outcome"),
    [((1, 0), "success"), ((3, 2), "success"), ((0, 1), "failure"), ((2, 3), "failure"), ((2, 2), "unknown")],
)
def test_judge_signals_by_feedback_alone(said: tuple[int, int], outcome: str) -> None:
    found = verdict(relevant=said[0], irrelevant=said[1])
    assert (found.outcome, found.signals) == (outcome, ("feedback",))
    assert found.confidence == pytest.approx(0.0 if outcome == "unknown" else 0.3)


def test_judge_signals_with_missed_rows_fails_despite_good_feedback() -> None:
    found = verdict(recall=0.3, relevant=5)
    assert found.outcome == "failure"
    assert found.confidence == pytest.approx(0.5)


def test_judge_signals_with_disliked_nearest_rows_is_unknown() -> None:
    for search in ({"recall": 1.0}, {"exact": True}, {"exact": True, "recall": 0.2}):
        found = verdict(irrelevant=5, **search)
        assert (found.outcome, found.recommendation, found.confidence) == ("unknown", "nothing", 0.0)
        assert "no effort can change" in found.reason


def test_judge_signals_ignores_checks_of_exact_searches_after_changes() -> None:
    assert verdict(exact=True, recall=0.4).outcome == "unknown"
    assert verdict(exact=True, recall=1.0).outcome == "success"


@pytest.mark.parametrize(
    ("returned", "matching", "recall", "outcome"),
    [
        (9, np.nan, 0.9, "failure"),
        (9, 20, 0.9, "failure"),
        (9, 9, 0.9, "success"),
        (9, 9, 1.0, "success"),
        (0, 0, 1.0, "success"),
        (0, np.nan, 1.0, "success"),
        (0, 5, 0.0, "failure"),
        (9, 20, np.nan, "unknown"),
    ],
)
def test_judge_signals_of_short_results(returned: int, matching: float, recall: float, outcome: str) -> None:
    assert verdict(returned=returned, matching=matching, recall=recall).outcome == outcome


def test_allowed_misses_follows_the_binomial_distribution() -> None:
    assert [allowed_misses(rows, 0.95) for rows in (0, 1, 3, 10, 100)] == [0, 0, 1, 2, 9]
    for rows, target in product((1, 2, 3, 10, 31, 100, 1000), (0.5, 0.9, 0.95, 0.98, 0.999)):
        allowed = allowed_misses(rows, target)
        chances = [
            float(comb(rows, missed)) * (1 - target) ** missed * target ** (rows - missed)
            for missed in range(allowed + 1)
        ]
        assert sum(chances) >= target - 1e-9
        assert sum(chances[:-1]) < target + 1e-9


@pytest.mark.parametrize(("k", "target"), [(1, 0.95), (10, 0.95), (10, 0.99), (100, 0.9), (1000, 0.98)])
def test_judge_signals_with_one_miss_too_many_fails(k: int, target: float) -> None:
    allowed = allowed_misses(k, target)
    recalls = np.array([(k - missed) / k for missed in range(k + 1)], dtype=np.float32)
    outcomes = [verdict(target, k=k, returned=k, recall=recall).outcome for recall in recalls]
    assert outcomes == ["success"] * (allowed + 1) + ["failure"] * (k - allowed)


def test_judge_signals_at_the_target_fails_no_more_often_than_allowed() -> None:
    rng = np.random.default_rng(3)
    for k, target in product((1, 3, 10, 100), (0.9, 0.95, 0.98)):
        recall = rng.binomial(k, target, size=4000) / k
        judged = judge_signals(signals(*({"k": k, "returned": k, "recall": r} for r in recall)), target)
        share = np.mean(judged.outcome == "success")
        assert share > target - 4 * np.sqrt(target * (1 - target) / 4000)


def test_judge_signals_is_more_confident_with_each_agreeing_signal() -> None:
    steps: list[dict[str, Any]] = [{"recall": 1.0}, {"relevant": 2}, QUICK, {"diversity": 1.0}]
    known: dict[str, Any] = {}
    confidences = []
    for step in steps:
        known |= step
        confidences.append(verdict(**known).confidence)
    assert confidences == pytest.approx(np.cumsum(WEIGHTS))
    assert verdict(**known | SLOW | {"diversity": 0.2}).confidence == pytest.approx(0.8)


def test_judge_signals_is_never_more_confident_with_an_unknown_signal() -> None:
    whole = everything()
    target = 0.95
    before = judge_signals(whole, target)
    nan, none = np.full(len(whole), np.nan), np.zeros(len(whole), dtype=np.int64)
    hidden = {
        "recall": replace(whole, recall=nan),
        "feedback": replace(whole, relevant=none, irrelevant=none),
        "latency": replace(whole, latency_ms=nan),
        "diversity": replace(whole, diversity=nan),
    }
    for place, name in enumerate(SIGNALS):
        after = judge_signals(hidden[name], target)
        assert not after.known[:, place].any()
        same = before.outcome == after.outcome
        assert (after.confidence[same] <= before.confidence[same] + 1e-12).all()
        if name in ("latency", "diversity"):
            assert same.all()
        else:
            # Without the signal that decided it, the outcome of a search is unknown.
            lost = (before.outcome == "success") & ~same
            assert (after.outcome[lost] == "unknown").all() or name == "recall"


def test_judge_signals_keeps_its_rules_for_every_search() -> None:
    whole = everything()
    judged = judge_signals(whole, 0.95)
    known = dict(zip(SIGNALS, judged.known.T, strict=True))
    success, failure = judged.outcome == "success", judged.outcome == "failure"
    decided = success | failure
    assert set(judged.outcome) == {"success", "failure", "unknown"}
    assert set(judged.recommendation) == {
        "raise_effort",
        "change_path",
        "reindex",
        "add_filter_index",
        "nothing",
    }
    assert (known["recall"] | known["feedback"])[decided].all()
    assert (judged.confidence[~decided] == 0).all()
    assert ((judged.confidence[decided] > 0) & (judged.confidence[decided] <= 1)).all()
    assert (judged.recommendation[judged.outcome == "unknown"] == "nothing").all()
    assert (judged.recommendation[failure] != "nothing").all()
    assert not (failure & whole.exact).any()
    short = known["recall"] & (whole.recall < 1) & (whole.returned < np.fmin(whole.k, whole.matching))
    assert failure[short].all()
    assert not np.isnan(judged.confidence).any()


def test_judge_signals_with_more_recall_is_never_worse() -> None:
    order = {"failure": 0, "unknown": 1, "success": 2}
    whole = replace(everything(), exact=np.zeros(len(everything()), dtype=np.bool_))
    ranks = []
    for recall in (0.0, 0.3, 0.7, 0.9, 0.95, 0.99, 1.0):
        judged = judge_signals(replace(whole, recall=np.full(len(whole), recall)), 0.95)
        ranks.append([order[outcome] for outcome in judged.outcome])
    assert (np.diff(ranks, axis=0) >= 0).all()


def test_judge_signals_judges_many_as_each_alone() -> None:
    whole = everything()
    judged = judge_signals(whole, 0.95)
    assert len(judged) == len(whole)
    for i in range(0, len(whole), 97):
        part = Signals(**{name: getattr(whole, name)[i : i + 1] for name in UNKNOWN})
        assert judge_signals(part, 0.95)[0] == judged[i]


def test_judge_signals_accepts_no_searches() -> None:
    judged = judge_signals(
        Signals(**{name: np.empty(0, np.array(value).dtype) for name, value in UNKNOWN.items()}), 0.9
    )
    assert isinstance(judged, Verdicts)
    assert len(judged) == 0


@pytest.mark.parametrize(
    ("search", "recommendation"),
    [
        ({"recall": 0.5}, "raise_effort"),
        ({"recall": 0.5, "effort": np.nan}, "raise_effort"),
        ({"recall": 0.5, "effort": HIGHEST_POSITION}, "change_path"),
        ({"recall": 0.5, "effort": HIGHEST_POSITION, "certified": True}, "reindex"),
        ({"recall": 0.5, "certified": True}, "raise_effort"),
        ({"recall": 0.5, "effort": HIGHEST_POSITION, "index_missing": True}, "add_filter_index"),
        ({"recall": 1.0, **SLOW}, "change_path"),
        ({"recall": 1.0, "exact": True, "index_missing": True, **SLOW}, "add_filter_index"),
        ({"recall": 1.0, "index_missing": True, **QUICK}, "nothing"),
        ({"index_missing": True, **SLOW}, "nothing"),
        ({"irrelevant": 1}, "raise_effort"),
    ],
)
def test_judge_signals_recommends_what_would_help(search: dict[str, Any], recommendation: str) -> None:
    assert verdict(**search).recommendation == recommendation


def test_judge_signals_takes_impossible_values_as_unknown() -> None:
    for search in (
        {"recall": -0.1},
        {"recall": 1.5},
        {"recall": np.inf},
        {**QUICK, "latency_ms": -1.0},
        {**QUICK, "usual_ms": np.nan},
        {**QUICK, "slow_ms": np.nan},
    ):
        assert verdict(**search) == verdict()


def test_diversity_is_the_share_of_different_distances() -> None:
    nan = np.nan
    given = [
        [0.3, 0.1, 0.2, 0.1],
        [0.5, 0.5, 0.5, 0.5],
        [1, 2, nan, nan],
        [1, nan, nan, nan],
        [nan] * 4,
        [np.inf, np.inf, 1, nan],
    ]
    np.testing.assert_array_equal(diversity(np.array(given)), [0.75, 0.25, 1, nan, nan, 2 / 3])
    assert diversity(np.empty((0, 3))).shape == (0,)
    rng = np.random.default_rng(2)
    many = rng.integers(0, 20, size=(200, 30)).astype(np.float64)
    expected = [len(set(row)) / 30 for row in many.tolist()]
    np.testing.assert_array_equal(diversity(rng.permuted(many, axis=1)), expected)
