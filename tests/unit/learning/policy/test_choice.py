"""The choice of index, and between a fixed setting and effort by query."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import numpy as np
import psycopg
import pytest
from tests.unit.samples_helpers import hnsw, tuned_column

from vectuned.learning.patterns.optimizer import Policy
from vectuned.learning.patterns.reasoning_bank import Patterns
from vectuned.learning.policy.calibration import Candidate
from vectuned.learning.policy.choice import Offer, PublishRun, choose_between, choose_index

NO_QUERIES = np.empty((0, 4), dtype=np.float32)


def candidate(number: int, ms: float, *, proven: bool = True) -> Candidate:
    """Make the fixed setting of an index."""
    policy = Policy(10, 40 + number, 0.96, 0.95, proven, 200, 0.95, f"reason {number}", index_no=number)
    return Candidate(policy, Patterns.empty(), 100.0, ms)


def chosen(*fixed: Candidate, worth_measuring: bool = False) -> Candidate:
    """Choose by replays alone, without a database to measure in."""
    nowhere = cast(psycopg.Connection[Any], None)
    tuned = tuned_column(*(hnsw(c.policy.index_no or 0) for c in fixed))
    run = PublishRun(nowhere, tuned, 1, NO_QUERIES, 0)
    return choose_index(run, Offer(fixed, worth_measuring=worth_measuring))


@pytest.mark.parametrize(
    ("millis", "number"),
    [
        ((1.0,), 1),
        ((1.0, 2.0), 1),
        ((1.0, 0.96), 1),  # not clearly quicker
        ((1.0, 0.94), 2),
        ((1.0, 0.9, 0.8), 3),
        ((1.0, 0.8, 0.9), 2),
        ((1.0, 1.0, 1.0), 1),
    ],
)
@pytest.mark.parametrize("worth_measuring", [False, True])
def test_choose_index_replaces_the_main_one_only_if_clearly_quicker(
    millis: tuple[float, ...], number: int, worth_measuring: bool
) -> None:
    fixed = [candidate(place, ms) for place, ms in enumerate(millis, start=1)]
    found = chosen(
        *fixed, worth_measuring=worth_measuring
    )  # without stored queries nothing is measured, worth it or not
    assert found.policy.index_no == number
    assert replace(found.policy, reason="") == replace(fixed[number - 1].policy, reason="")
    assert (found.ms, found.cost) == (millis[number - 1], 100.0)
    place = "the quickest" if min(millis) == millis[number - 1] else "hardly slower than the quickest"
    said = f"; {place} of {len(millis)} indexes, {millis[number - 1]:.2f} ms" if len(millis) > 1 else ""
    assert found.policy.reason == f"reason {number}{said}"


def test_choose_index_takes_only_proven_ones() -> None:
    main, cheap = candidate(1, 1.0), candidate(2, 0.1, proven=False)
    assert chosen(main, cheap) is main
    assert chosen(main, cheap, candidate(3, 0.5)).policy.index_no == 3
    assert chosen(main, cheap, candidate(3, 0.99)).policy.index_no == 1


def test_choose_index_without_a_proven_main_one_takes_the_quickest() -> None:
    main = candidate(1, 0.1, proven=False)
    assert chosen(main) is main
    assert chosen(main, candidate(2, 0.1, proven=False)) is main
    other = candidate(2, 5.0)
    assert chosen(main, other) is other
    # The 5 % apply only to replacing the main index, which is not a candidate here.
    assert chosen(main, candidate(2, 1.0), candidate(3, 0.98)).policy.index_no == 3
    assert chosen(main, candidate(2, 0.98), candidate(3, 1.0)).policy.index_no == 2


def test_choose_between_takes_effort_by_query_if_it_saves() -> None:
    fixed, adaptive = candidate(1, 1.0), candidate(1, 0.8)
    adaptive = replace(adaptive, policy=replace(adaptive.policy, reason="by query"))
    better = choose_between(fixed, adaptive, 1.25, 0.05)
    assert replace(better.policy, reason="") == replace(adaptive.policy, reason="")
    assert better.policy.reason == "by query, measured to cost at most 0.80 of ef_search 41"
    for saving, said in ((1.04, "stepped aside"), (0.5, "stepped aside"), (None, "could not be measured")):
        choice = choose_between(fixed, adaptive, saving, 0.05)
        assert replace(choice.policy, reason="") == replace(fixed.policy, reason="")
        assert said in choice.policy.reason
    probes = replace(fixed, policy=replace(fixed.policy, method="ivfflat"))
    assert "at most 0.80 of probes 41" in choose_between(probes, adaptive, 1.25, 0.05).policy.reason
