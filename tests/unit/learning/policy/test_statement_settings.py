"""Which settings serve a statement: the cheapest path that is proven for all that its calls ask for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from vectuned.learning.model.scan_settings import EXACT
from vectuned.learning.policy.path_option import PathOption
from vectuned.learning.policy.statement_settings import (
    Statement,
    choose_settings,
    conditional_options,
    path_settings,
    plain_options,
    sent_settings,
)
from vectuned.sql.client.snapshot import ALLOWED

COLUMN = SimpleNamespace(target_recall=0.95, default_ef=40, default_probes=1, method="hnsw")
CONTINUED = {
    "hnsw.ef_search": "200",
    "hnsw.iterative_scan": "relaxed_order",
    "hnsw.max_scan_tuples": "20000",
    "hnsw.scan_mem_multiplier": "4",
}


def cell(path: str, bucket: int, ms: float, recall: float = 1.0, *, proven: bool = True) -> Any:
    return SimpleNamespace(
        access_path=path,
        effort={"hnsw_continued": 200}.get(path),
        bucket=bucket,
        k_class=10,
        expected_recall=recall,
        recall_bound=recall,
        proven=proven,
        ms=ms,
    )


def statement(*options: PathOption, column: int = 1, calls: int = 1) -> Statement:
    return Statement("0" * 16, column, 10, "", "select", calls, 0.95, options)


def option(ms: float, ef: int, *, proven: bool = True) -> PathOption:
    return PathOption("index", {"hnsw.ef_search": str(ef)}, 0.97, 0.96, ms, proven)


def by_path(options: list[PathOption]) -> dict[str, PathOption]:
    return {each.path: each for each in options}


def test_conditional_options_weigh_buckets_by_their_calls() -> None:
    cells = [cell("exact", 4, 8.0), cell("exact", 10, 2.0), cell("hnsw_continued", 4, 3.0, 0.99)]
    options = by_path(conditional_options(cells, {4: 75, 10: 25}, COLUMN))
    assert options["exact"] == PathOption("exact", EXACT, 1.0, 1.0, 6.5, True)
    # Nothing is known of the continued scan for a quarter of the calls: they count with recall 0.
    continued = options["hnsw_continued"]
    assert continued.settings == CONTINUED
    assert continued.recall == pytest.approx(0.7425)
    assert not continued.proven


def test_conditional_options_tolerate_few_unknown_calls() -> None:
    options = conditional_options([cell("hnsw_continued", 4, 3.0, 0.99)], {4: 98, 30: 2}, COLUMN)
    assert [each.proven for each in options] == [True]
    assert options[0].bound == pytest.approx(0.9702)


def test_conditional_options_need_proof_in_every_bucket_measured() -> None:
    cells = [cell("planner", 4, 1.0), cell("planner", 10, 1.0, 0.97, proven=False)]
    assert not by_path(conditional_options(cells, {4: 99, 10: 1}, COLUMN))["planner"].proven
    assert conditional_options(cells, {20: 5}, COLUMN) == []


@pytest.mark.parametrize(
    ("method", "k", "expected"),
    [
        ("hnsw", 10, {"hnsw.ef_search": "40", "hnsw.iterative_scan": "off"}),
        ("hnsw", 100, {"hnsw.ef_search": "100", "hnsw.iterative_scan": "off"}),
        ("ivfflat", 10, {"ivfflat.iterative_scan": "off", "ivfflat.probes": "1"}),
    ],
)
def test_path_settings_of_the_planner_are_those_it_was_measured_with(
    method: str, k: int, expected: dict[str, str]
) -> None:
    column = SimpleNamespace(**{**vars(COLUMN), "method": method})
    assert path_settings("planner", None, k, column) == expected


def test_path_settings_raise_ef_search_to_k() -> None:
    assert path_settings("hnsw_continued", 200, 300, COLUMN) == {**CONTINUED, "hnsw.ef_search": "300"}


def test_plain_options_give_every_index_its_effort_and_need_all_proven() -> None:
    def index(method: str, effort: int, *, proven: bool = True) -> Any:
        return SimpleNamespace(
            method=method,
            effort=effort,
            k_class=10,
            expected_recall=0.97,
            recall_bound=0.95,
            proven=proven,
            ms=1.0,
        )

    assert plain_options([]) == []
    (both,) = plain_options([index("hnsw", 56), index("ivfflat", 4)])
    assert both.settings == {"hnsw.ef_search": "56", "ivfflat.probes": "4"}
    assert both.proven
    assert not plain_options([index("hnsw", 56), index("ivfflat", 4, proven=False)])[0].proven
    assert plain_options([index("hnsw", 4)])[0].settings == {"hnsw.ef_search": "10"}


def test_choose_settings_takes_the_cheapest_proven_for_all_statements_of_a_text() -> None:
    assert choose_settings([statement(option(1, 40, proven=False), option(2, 80), option(3, 160))]) == {
        "hnsw.ef_search": "80"
    }
    one = statement(option(2, 80), option(3, 160))
    other = statement(option(4, 160), column=2, calls=9)
    assert choose_settings([one, other]) == {"hnsw.ef_search": "160"}
    assert choose_settings([one, statement(option(1, 40), column=2)]) is None
    assert choose_settings([statement()]) is None


def test_sent_settings_leave_the_planner_what_the_path_was_measured_with() -> None:
    """Otherwise an application that switches sorts or scans off gets another plan than was proven."""
    exact = sent_settings(PathOption("exact", EXACT, 1.0, 1.0, 1.0, True))
    assert exact == {**EXACT, "enable_bitmapscan": "on", "enable_seqscan": "on", "enable_sort": "on"}
    planner = sent_settings(
        PathOption("planner", path_settings("planner", None, 10, COLUMN), 1.0, 1.0, 1.0, True)
    )
    # If the planner takes the vector index where it did not, no rows are left out.
    assert planner["hnsw.iterative_scan"] == "relaxed_order"
    assert planner["plan_cache_mode"] == "force_custom_plan"
    assert {planner[f"enable_{name}"] for name in ("bitmapscan", "indexscan", "seqscan", "sort")} == {"on"}
    index = option(1.0, 80)
    assert sent_settings(index) == index.settings
    assert all(ALLOWED[name].fullmatch(value) for name, value in {**exact, **planner}.items())
