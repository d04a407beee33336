"""The group of settings proposed for all statements: enough for each, and none made worse."""

from __future__ import annotations

import pytest

from vectuned.daemon.adopt.proposal import propose
from vectuned.learning.model.scan_settings import EXACT, Settings
from vectuned.learning.policy.path_option import PathOption
from vectuned.learning.policy.statement_settings import Statement

IN_FORCE = {
    "hnsw.ef_search": "40",
    "hnsw.iterative_scan": "off",
    "hnsw.max_scan_tuples": "20000",
    "ivfflat.iterative_scan": "off",
    "ivfflat.probes": "1",
}
PLANNER = {"hnsw.ef_search": "40", "hnsw.iterative_scan": "off"}
CONTINUED = {
    "hnsw.ef_search": "200",
    "hnsw.iterative_scan": "relaxed_order",
    "hnsw.max_scan_tuples": "20000",
}
DEEP = {"hnsw.ef_search": "800", "hnsw.iterative_scan": "relaxed_order", "hnsw.max_scan_tuples": "80000"}


def option(settings: Settings, ms: float, recall: float = 0.97, *, proven: bool = True) -> PathOption:
    return PathOption("path", settings, recall, recall, ms, proven)


def statement(*options: PathOption, calls: int = 1, name: str = "0") -> Statement:
    return Statement(name * 16, 1, 10, "", f"select {name}", calls, 0.95, options)


def ef(value: int) -> Settings:
    return {"hnsw.ef_search": str(value)}


def test_propose_raises_what_is_in_force_to_the_most_demanding_statement() -> None:
    proposal = propose([statement(option(ef(56), 1.0)), statement(option(ef(80), 1.5), name="1")], IN_FORCE)
    assert proposal.changes == ef(80)
    first, second = proposal.statements
    assert (first.now.proven, first.then.proven) == (False, True)
    assert first.then.ms == pytest.approx(80 / 56)  # an upper estimate: time by ef_search
    assert second.then.ms == 1.5
    assert proposal.refused == ()


def test_propose_prefers_the_cheapest_group_that_brings_all() -> None:
    filtered = statement(option(PLANNER, 1.0, 0.5, proven=False), option(CONTINUED, 4.0), option(DEEP, 9.0))
    proposal = propose([filtered], IN_FORCE)
    assert proposal.changes == {"hnsw.ef_search": "200", "hnsw.iterative_scan": "relaxed_order"}
    (outlook,) = proposal.statements
    assert (outlook.now.recall, outlook.then.recall) == (0.5, 0.97)
    assert propose([filtered], {**IN_FORCE, **CONTINUED}).changes == {}


def test_propose_never_lowers_a_setting() -> None:
    high = {**IN_FORCE, "hnsw.ef_search": "400"}
    assert propose([statement(option(ef(80), 1.0))], high).changes == {}
    assert propose([statement(option(ef(80), 1.0))], high).statements[0].then.proven


def test_propose_refuses_to_slow_a_statement_that_is_good_enough() -> None:
    good = statement(option(ef(40), 1.0), calls=1)
    needy = statement(option(ef(320), 8.0), calls=100, name="1")
    proposal = propose([good, needy], IN_FORCE)
    assert proposal.changes == {}
    (refused,) = proposal.refused
    assert refused.statement == good
    assert refused.then.ms == 8.0
    # Where a smaller step helps some without harm to others, it is proposed, and the rest is still refused.
    modest = statement(option(ef(56), 1.4), calls=10, name="2")
    proposal = propose([good, needy, modest], IN_FORCE)
    assert proposal.changes == ef(56)
    assert proposal.refused


def test_propose_bounds_the_time_of_statements_below_their_target() -> None:
    """What would take too long is not proposed, but told, with the limit that would allow it."""
    needy = statement(
        option(PLANNER, 1.0, 0.9, proven=False),
        option(CONTINUED, 4.0, 0.93, proven=False),
        option(DEEP, 15.2),
    )
    proposal = propose([needy], IN_FORCE, 10.0)
    assert proposal.changes == {"hnsw.ef_search": "200", "hnsw.iterative_scan": "relaxed_order"}
    assert proposal.slower is not None
    assert (proposal.slower.changes, proposal.slower.slowdown) == (DEEP, 15.2)
    assert proposal.slower.statements[0].then.proven
    assert "vectuned.client.tune" in proposal.statements[0].other_means
    assert propose([needy], IN_FORCE, 15.2).changes == DEEP
    assert propose([needy], IN_FORCE, 15.2).slower is None
    strict = propose([needy], IN_FORCE, 3.0)
    assert (strict.changes, strict.statements[0].then.recall) == ({}, 0.9)
    # Slower settings that gain nothing are not worth a word, and harm to others is refused as ever.
    assert (
        propose([statement(option(CONTINUED, 4.0), option(DEEP, 90.0))], IN_FORCE | CONTINUED).slower is None
    )
    good = statement(option(ef(40), 1.0), name="1")
    both = propose([needy, good], IN_FORCE)
    assert (both.changes, both.slower) == ({}, None)
    assert [each.statement for each in both.refused] == [good]


def test_propose_leaves_the_planner_alone_and_names_other_means() -> None:
    exact_only = statement(option(EXACT, 3.0, 1.0), option(PLANNER, 1.0, 0.4, proven=False))
    proposal = propose([exact_only, statement(name="1")], IN_FORCE)
    assert proposal.changes == {}
    by_exact, unmeasured = proposal.statements
    assert "vectuned.client.tune" in by_exact.other_means
    assert "learn --once" in unmeasured.other_means
    unproven = statement(option(PLANNER, 1.0, 0.4, proven=False))
    assert "vectuned advise" in propose([unproven], IN_FORCE).statements[0].other_means


def test_propose_takes_unproven_settings_by_their_measured_recall() -> None:
    """As far as settings can: what is measured to be better is proposed, and said to be unproven."""
    unproven = statement(
        option(PLANNER, 1.0, 0.47, proven=False),
        option(CONTINUED, 4.0, 0.93, proven=False),
        option(DEEP, 9.0, 0.97, proven=False),
        option(EXACT, 0.5, 1.0),
    )
    proposal = propose([unproven], IN_FORCE)
    assert proposal.changes == DEEP
    (outlook,) = proposal.statements
    assert (outlook.then.recall, outlook.then.proven, outlook.is_unproven) == (0.97, False, True)
    assert "do not prove it" in outlook.other_means
    # Less than a hundredth more recall is not worth twice the time.
    near = statement(option(CONTINUED, 4.0, 0.90, proven=False), option(DEEP, 9.0, 0.903, proven=False))
    assert propose([near], IN_FORCE).changes["hnsw.ef_search"] == "200"
    assert not propose([near], IN_FORCE).statements[0].is_unproven


def test_propose_ignores_settings_that_the_server_does_not_have() -> None:
    old = {"hnsw.ef_search": "40", "ivfflat.probes": "1"}
    assert propose([statement(option(CONTINUED, 4.0))], old).changes == {}
