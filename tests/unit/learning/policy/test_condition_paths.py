"""What settings give statements with a condition: proven for their calls, and by share where quicker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vectuned.learning.model.scan_settings import EXACT, continued_hnsw_settings
from vectuned.learning.policy.condition_paths import (
    condition_options,
    options_by_share,
    path_settings,
    read_calls,
)
from vectuned.learning.policy.filtering import other_paths
from vectuned.learning.policy.path_option import PathOption

PATHS = other_paths("hnsw")
LAST = len(PATHS)
COLUMN = SimpleNamespace(
    target_recall=0.9, max_tail=1.0, default_ef=40, default_probes=1, method="hnsw", max_effort=None
)
DENSE, SPARSE = 4, 12


def call(
    recall: list[float],
    ms: list[float],
    exact_ms: float = 1.0,
    bucket: int = DENSE,
    takes_index: list[bool] | None = None,
) -> Any:
    return SimpleNamespace(
        k_class=10,
        bucket=bucket,
        exact_ms=exact_ms,
        other_recall=recall,
        other_ms=ms,
        takes_index=takes_index,
    )


def rising(count: int, good_from: int, **options: Any) -> list[Any]:
    """Return calls whose recall is 1 from a place of the paths on and 0.5 before; path n takes n + 1 ms."""
    recall = [1.0 if at >= good_from else 0.5 for at in range(LAST)]
    return [call(recall, [1.0 + at for at in range(LAST)], **options) for _ in range(count)]


def by_effort(options: list[PathOption]) -> dict[tuple[str, int | None], PathOption]:
    return {(each.path, each.effort): each for each in options}


def test_read_calls_counts_what_was_left_out_as_the_last_scan_and_a_sort_as_exact() -> None:
    rows = [
        call([0.2, 0.6], [1.0, 4.0]),
        call([0.2, 0.6, 0.7], [1.0, 4.0, 5.0], takes_index=[True, True, False]),
        call([0.3], [1.0]),  # no scan was tried
    ]
    calls = read_calls(rows, "hnsw")
    assert len(calls) == 2
    assert calls.recall[0].tolist() == [0.2] + [0.6] * (LAST - 1)
    assert calls.ms[0].tolist() == [1.0] + [4.0] * (LAST - 1)
    assert calls.recall[1].tolist() == [0.2, 0.6] + [1.0] * (LAST - 2)
    assert calls.ms[1].tolist() == [1.0, 4.0] + [1.0] * (LAST - 2)
    capped = read_calls(rows, "hnsw", max_effort=80)
    assert capped.paths == (("planner", None), ("hnsw_continued", 40), ("hnsw_continued", 80))
    assert capped.recall.shape == (2, 3)
    assert len(read_calls([], "ivfflat")) == 0


def test_condition_options_prove_scans_that_are_slower_than_exact_search() -> None:
    options = by_effort(condition_options(read_calls(rising(200, 3), "hnsw"), COLUMN))
    assert options["exact", None] == PathOption("exact", EXACT, 1.0, 1.0, 1.0, True)
    assert [options[path].proven for path in PATHS] == [at >= 3 for at in range(LAST)]
    served = options[PATHS[3]]
    assert served.settings == continued_hnsw_settings(140, 10)
    assert (served.recall, served.ms) == (1.0, 4.0)
    assert 0.9 <= served.bound < 1.0
    assert options["planner", None].recall == 0.5


def test_condition_options_are_proven_over_all_shares_of_rows_together() -> None:
    """A share that few calls have is no reason to say nothing; one that many have is."""
    order = np.random.default_rng(1).permutation(200)
    few = rising(195, 2) + rising(5, LAST, bucket=SPARSE)
    options = by_effort(condition_options(read_calls([few[at] for at in order], "hnsw"), COLUMN))
    assert options[PATHS[2]].proven
    assert options[PATHS[2]].recall == pytest.approx(0.9875)
    many = rising(120, 2) + rising(80, LAST, bucket=SPARSE)
    options = by_effort(condition_options(read_calls([many[at] for at in order], "hnsw"), COLUMN))
    assert not any(options[path].proven for path in PATHS)


def test_condition_options_need_thirty_calls_and_enough_for_a_proof() -> None:
    assert condition_options(read_calls(rising(29, 1), "hnsw"), COLUMN) == []
    options = by_effort(condition_options(read_calls(rising(30, 1), "hnsw"), COLUMN))
    assert options["exact", None].proven
    assert not options[PATHS[1]].proven
    assert options[PATHS[1]].recall == 1.0


def test_options_by_share_take_what_is_quicker_where_it_is() -> None:
    order = np.random.default_rng(2).permutation(400)
    rows = rising(200, 3, exact_ms=50.0) + rising(200, LAST, bucket=SPARSE)
    calls = read_calls([rows[at] for at in order], "hnsw")
    # No scan is proven for all: half of the calls find half. With exact search for those one is.
    assert not any(option.proven for option in condition_options(calls, COLUMN) if option.path != "exact")
    found = options_by_share(calls, COLUMN)
    assert {bucket: (each.path, each.effort) for bucket, each in found.items()} == {
        DENSE: ("hnsw_continued", 140),
        SPARSE: ("exact", None),
    }
    assert found[DENSE].ms == 4.0
    assert options_by_share(read_calls(rising(29, 1), "hnsw"), COLUMN) == {}


def test_options_by_share_give_a_share_more_effort_that_its_own_calls_ask_for() -> None:
    order = np.random.default_rng(3).permutation(1040)
    rows = rising(1000, 2, exact_ms=50.0) + rising(40, 5, exact_ms=50.0, bucket=SPARSE)
    calls = read_calls([rows[at] for at in order], "hnsw")
    found = options_by_share(calls, COLUMN)
    assert found[DENSE].effort == 80  # proven for all, since few calls are of the other share
    assert found[SPARSE].effort == 400
    never = rising(1000, 2, exact_ms=50.0) + rising(40, LAST, exact_ms=50.0, bucket=SPARSE)
    assert options_by_share(read_calls([never[at] for at in order], "hnsw"), COLUMN)[SPARSE].path == "exact"


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
    assert path_settings("hnsw_continued", 200, 300, COLUMN)["hnsw.ef_search"] == "300"
