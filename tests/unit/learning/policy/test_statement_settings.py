"""Which settings serve a statement: the cheapest path that is proven for all that its calls ask for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vectuned.learning.model.scan_settings import EXACT, continued_hnsw_settings
from vectuned.learning.policy.condition_paths import path_settings
from vectuned.learning.policy.path_option import PathOption
from vectuned.learning.policy.statement_settings import (
    Statement,
    choose_settings,
    plain_options,
    sent_settings,
)
from vectuned.sql.client.snapshot import ALLOWED

COLUMN = SimpleNamespace(target_recall=0.95, default_ef=40, default_probes=1, method="hnsw")


def statement(*options: PathOption, column: int = 1, calls: int = 1) -> Statement:
    return Statement("0" * 16, column, 10, "", "select", calls, 0.95, options)


def option(ms: float, ef: int, *, proven: bool = True) -> PathOption:
    return PathOption("index", {"hnsw.ef_search": str(ef)}, 0.97, 0.96, ms, proven)


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
    # A scan was measured with the planner free to rank a few matching rows instead.
    continued = PathOption("hnsw_continued", continued_hnsw_settings(80, 10), 1.0, 1.0, 1.0, True, 80)
    assert sent_settings(continued).items() >= {**continued.settings, "enable_sort": "on"}.items()
    assert sent_settings(continued)["plan_cache_mode"] == "force_custom_plan"
    index = option(1.0, 80)
    assert sent_settings(index) == index.settings
    assert all(ALLOWED[name].fullmatch(value) for name, value in {**exact, **planner}.items())
