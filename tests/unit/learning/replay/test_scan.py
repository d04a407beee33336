"""Scans of an index with prepared answers of the database: stored, scored and extrapolated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import numpy as np
import psycopg
import pytest
from psycopg import errors, sql
from psycopg.rows import namedtuple_row
from tests.unit.samples_helpers import hnsw, ivfflat, truth, tuned_column

from vectuned.config.errors import VectunedError
from vectuned.learning.model.ladder import RUNGS
from vectuned.learning.model.tuned_columns import TunedIndex
from vectuned.learning.replay.scan import IndexScans, ScanGoal

QUERY = np.zeros(4, dtype=np.float32)
CONDITION = sql.SQL("t.kind = 1")
BLOCKS, MS = [float(r) for r in RUNGS], [r / 100 for r in RUNGS]
ALL = np.array([True])
TO_THE_END = ScanGoal()


class Row(NamedTuple):
    """A row of the statement that replays a search."""

    distances: list[float] | None
    counts: list[int]
    blocks: list[float]
    ms: list[float]
    matched: list[bool] | None
    exact_ms: float | None
    other_distances: list[float] | None
    other_counts: list[int] | None
    other_ms: list[float] | None
    entries: list[int] | None
    fresh_place: int | None = None
    fresh_ms: float | None = None
    takes_index: list[bool] | None = None


class Answers:
    """A connection that returns prepared rows and records the values of each statement."""

    closed = False

    def __init__(self, *rows: Row | Exception) -> None:
        self.rows = list(rows)
        self.asked: list[dict[str, Any]] = []

    @contextmanager
    def transaction(self) -> Iterator[None]:
        yield

    @contextmanager
    def cursor(self, *, row_factory: object) -> Iterator[Answers]:
        assert row_factory is namedtuple_row
        yield self

    def execute(self, _: object, values: dict[str, Any]) -> Answers:
        self.asked.append(values)
        return self

    def fetchone(self) -> Row:
        row = self.rows.pop(0)
        if isinstance(row, Exception):
            raise row
        return row


def answer(
    distances: list[float] | None,
    counts: list[int],
    *,
    blocks: list[float] = BLOCKS,
    ms: list[float] = MS,
    matched: list[bool] | None = None,
    exact_ms: float | None = None,
    others: tuple[list[float] | None, list[int] | None, list[float] | None] = (None, None, None),
    entries: list[int] | None = None,
) -> Row:
    """Make a row of the statement that replays; costs end where the counts do."""
    reached = len(counts)
    return Row(distances, counts, blocks[:reached], ms[:reached], matched, exact_ms, *others, entries)


def search_once(
    index: TunedIndex,
    row: Row,
    condition: sql.Composable | None = None,
    goal: ScanGoal = TO_THE_END,
    *,
    k: int = 10,
) -> IndexScans:
    """Search once through an index that answers with a row."""
    scans = IndexScans(tuned_column(index), index, 1, 100)
    conn = cast(psycopg.Connection[Any], Answers(row))
    assert scans.search(conn, 0, QUERY, k, condition, goal)
    assert scans.finished.tolist() == [True]
    return scans


def test_search_passes_its_index_rungs_and_goal_to_the_statement() -> None:
    index = ivfflat(3, lists=64)
    answers = Answers(answer([1.0], [1] * 14), answer([1.0], [1] * 14, exact_ms=2.0))
    scans = IndexScans(tuned_column(hnsw(), index), index, 2, 300)
    conn = cast(psycopg.Connection[Any], answers)
    scans.search(conn, 1, QUERY, 7, None, ScanGoal())
    scans.search(conn, 0, QUERY, 5, CONDITION, ScanGoal(1, 2.0, 3, 4.0), thorough=True, exact_ms=9.0)
    plain, filtered = answers.asked
    nothing = dict.fromkeys(("condition", "goal", "bound", "filter_goal", "filter_bound", "exact_ms"))
    expected = {
        "column_id": 7,
        "index_no": 3,
        "rungs": list(index.rungs),
        "k": 7,
        "depth": 300,
        "thorough": False,
    }
    assert {name: value for name, value in plain.items() if name != "query"} == expected | nothing
    assert {name: value for name, value in filtered.items() if name != "query"} == expected | {
        "k": 5,
        "condition": "t.kind = 1",
        "goal": 1,
        "bound": 2.0,
        "filter_goal": 3,
        "filter_bound": 4.0,
        "thorough": True,
        "exact_ms": 9.0,
    }
    assert scans.finished.all()
    assert np.isnan(scans.exact_ms[1])  # there was no filter
    assert scans.exact_ms[0] == 2


def test_recall_of_a_continued_scan_is_known_at_every_rung() -> None:
    # The k-th nearest row is row number 11 * k of the scan: n rows contain n / 11 of the nearest.
    seen = np.full(1000, 100.0)
    seen[10::11] = np.arange(len(seen[10::11]))
    scans = search_once(hnsw(), answer(seen.tolist(), list(RUNGS)))
    nearest = truth([np.arange(100.0)])
    for k in (1, 10, 90):
        expected = [min(rung // 11, k) / k for rung in RUNGS]
        np.testing.assert_allclose(scans.recall(ALL, nearest, k), [expected])
    np.testing.assert_array_equal(scans.blocks, [BLOCKS])
    np.testing.assert_array_equal(scans.ms, [MS])
    assert not scans.cut_short.any()


def test_recall_counts_dead_rows_as_effort() -> None:
    # Half of the entries are dead: a search of n returns as much as one of n / 2.
    seen = np.full(1000, 100.0)
    seen[10::11] = np.arange(len(seen[10::11]))
    alive = search_once(hnsw(), answer(seen.tolist(), list(RUNGS)))
    halved = search_once(hnsw(), answer(seen.tolist(), list(RUNGS), entries=[2 * rung for rung in RUNGS]))
    nearest = truth([np.arange(100.0)])
    for place in range(2, len(RUNGS)):
        if RUNGS[place] // 2 in RUNGS:
            half = alive.recall(ALL, nearest, 90)[0, RUNGS.index(RUNGS[place] // 2)]
            assert halved.recall(ALL, nearest, 90)[0, place] == half
    assert (halved.blocks[0] <= alive.blocks[0]).all()


def test_recall_of_a_scan_through_dead_rows_that_ended_early_includes_its_last_rows() -> None:
    # The nearest row came last, at the last rung reached, among three times as many dead rows.
    seen = [*(100.0 + np.arange(19.0)), 0.0]
    scans = search_once(hnsw(), answer(seen, [10, 14, 20], entries=[40, 56, 80]), goal=ScanGoal(1, 0.0))
    recall = scans.recall(ALL, truth([[0.0]]), 1)[0]
    assert recall.tolist() == [float(rung >= 80) for rung in RUNGS]


def test_scan_that_ended_early_is_extrapolated() -> None:
    scans = search_once(hnsw(), answer(list(np.arange(20.0)), [10, 14, 20]), goal=ScanGoal(10, 9.0))
    nearest = truth([np.arange(10.0)])
    assert scans.recall(ALL, nearest, 10).tolist() == [[1.0] * 14]
    # A rung costs what the rows between the last two cost, here one buffer and 0.01 ms each.
    np.testing.assert_allclose(scans.blocks, [BLOCKS])
    np.testing.assert_allclose(scans.ms, [MS])
    assert not scans.cut_short.any()  # without a filter nothing is
    # Where only one rung is known, or the last one was free, the price is the mean.
    once = search_once(hnsw(), answer([1.0] * 10, [10]))
    np.testing.assert_allclose(once.blocks, [BLOCKS])
    still = search_once(hnsw(), answer([1.0] * 10, [10, 10], blocks=[28.0, 28.0]))
    np.testing.assert_allclose(still.blocks[0, 1:], [2.0 * rung for rung in RUNGS[1:]])


def test_scan_of_an_empty_table_has_recall_1() -> None:
    for index in (hnsw(), ivfflat()):
        scans = search_once(index, answer(None, [0] * 14))
        nothing = truth(np.full((1, 10), np.inf))
        assert scans.recall(ALL, nothing, 10).tolist() == [[1.0] * 14]  # there was nothing to find
        assert scans.matches.tolist() == [[0] * 14]


def test_filtered_recall_counts_the_rows_that_match() -> None:
    seen = np.arange(1000.0)
    matched = (np.arange(1000) % 4 == 3).tolist()
    scans = search_once(
        hnsw(), answer(seen.tolist(), list(RUNGS), matched=matched, exact_ms=3.0), CONDITION, ScanGoal()
    )
    inside = truth([seen[3::4][:100]])
    expected = [min(rung // 4, 10) / 10 for rung in RUNGS]
    np.testing.assert_allclose(scans.filtered_recall(ALL, inside, 10), [expected])
    assert scans.matches.tolist() == [[rung // 4 for rung in RUNGS]]
    assert scans.exact_ms.tolist() == [3.0]
    assert not scans.cut_short.any()
    # The same scan has the recall of a search without the filter.
    np.testing.assert_allclose(scans.recall(ALL, truth([seen[:100]]), 100)[0, :3], [0.1, 0.14, 0.2])


@pytest.mark.parametrize(("goal", "cut_short"), [(5, False), (6, True)])
def test_filtered_scan_that_ended_before_its_goal_is_cut_short(goal: int, cut_short: bool) -> None:
    matched = (np.arange(20) % 4 == 3).tolist()  # five of them
    row = answer(list(np.arange(20.0)), [10, 14, 20], matched=matched, exact_ms=0.1)
    scans = search_once(hnsw(), row, CONDITION, ScanGoal(10, 9.0, goal, 19.0))
    assert scans.cut_short.tolist() == [[False] * 3 + [cut_short] * 11]
    near = search_once(hnsw(), row, CONDITION, ScanGoal(10, 9.0, 5, 18.0))  # one of the five is too far
    assert near.cut_short.tolist() == [[False] * 3 + [True] * 11]
    assert near.matches[0, 3:].tolist() == [5] * 11


def test_recall_of_restarted_scans_counts_the_rows_of_each_rung() -> None:
    index = ivfflat(1, lists=1000)
    # Every rung returns one more of the nearest rows, and all of those before.
    rows = [float(row) for rung in range(14) for row in range(rung + 1)]
    ends = np.cumsum(np.arange(1, 15)).tolist()
    scans = search_once(index, answer(rows, ends))
    np.testing.assert_allclose(
        scans.recall(ALL, truth([np.arange(10.0)]), 10), [[min(rung + 1, 10) / 10 for rung in range(14)]]
    )
    assert scans.matches.tolist() == [[rung + 1 for rung in range(14)]]
    # The filter was applied by the search itself.
    filtered = search_once(index, answer(rows, ends, exact_ms=1.0), CONDITION)
    np.testing.assert_allclose(
        filtered.filtered_recall(ALL, truth([np.arange(4.0)]), 4),
        [[min(rung + 1, 4) / 4 for rung in range(14)]],
    )


@pytest.mark.parametrize(("goal", "cut_short"), [(3, False), (4, True)])
def test_restarted_scans_that_ended_early_repeat_their_last_rung(goal: int, cut_short: bool) -> None:
    index = ivfflat(1, lists=1000)
    row = answer([0.0, 0.0, 1.0, 0.0, 1.0, 2.0], [1, 3, 6], exact_ms=0.1)
    scans = search_once(index, row, CONDITION, ScanGoal(None, None, goal, 2.0))
    assert scans.matches.tolist() == [[1, 2] + [3] * 12]
    assert scans.cut_short.tolist() == [[False] * 3 + [cut_short] * 11]
    recall = scans.filtered_recall(ALL, truth([np.arange(4.0)]), 4)
    np.testing.assert_allclose(recall, [[0.25, 0.5] + [0.75] * 12])
    rungs = np.array(index.rungs, dtype=np.float64)
    rise = (RUNGS[2] - RUNGS[1]) / max(rungs[2] - rungs[1], 1)
    np.testing.assert_allclose(scans.blocks[0, 3:], RUNGS[2] + rise * (rungs[3:] - rungs[2]))


def test_scan_of_a_partitioned_table_is_restarted_at_every_ef_search() -> None:
    index = hnsw(2, resumable=False)
    assert index.rungs == RUNGS
    row = answer([0.0] * 14, list(range(1, 15)))
    assert search_once(index, row).matches.tolist() == [[1] * 14]


def test_other_recall_scores_the_access_paths_without_rungs() -> None:
    others = ([0.0, 2.0, 0.0, 1.0, 2.0], [2, 2, 5], [0.5, 0.25, 4.0])
    matched = [True] * 1000
    row = answer(list(np.arange(1000.0)), list(RUNGS), matched=matched, exact_ms=1.0, others=others)
    scans = search_once(hnsw(), row, CONDITION)
    two = truth([[9.0, 9.0, 9.0, 9.0], [0.0, 1.0, 2.0, 3.0]])
    assert scans.other_ms == [[0.5, 0.25, 4.0]]
    assert scans.other_recall(0, 1, two, 4) == [0.5, 0.0, 0.75]
    assert scans.other_recall(0, 1, two, 1) == [1.0, 0.0, 1.0]
    without = search_once(hnsw(), answer(None, [0] * 14))
    assert without.other_ms == [[]]
    assert without.other_recall(0, 1, two, 4) == []


def test_search_that_did_not_finish_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    index = hnsw()
    scans = IndexScans(tuned_column(index), index, 3, 100)
    row = answer(list(np.arange(1000.0)), list(RUNGS))
    conn = cast(psycopg.Connection[Any], Answers(row, errors.QueryCanceled(), row, errors.QueryCanceled()))
    assert scans.search(conn, 0, QUERY, 10, None, ScanGoal())
    scans.timeout_ms = 0
    with caplog.at_level("WARNING"):
        assert not scans.search(conn, 1, QUERY, 10, None, ScanGoal())
    assert "took longer than 0 ms" in caplog.text
    scans.timeout_ms = 60_000
    assert scans.search(conn, 2, QUERY, 10, None, ScanGoal())
    assert scans.finished.tolist() == [True, False, True]
    assert scans.recall(scans.finished, truth([np.arange(10.0)] * 2), 10).shape == (2, 14)
    with pytest.raises(errors.QueryCanceled):  # cancelled by another session, long before the timeout
        scans.search(conn, 1, QUERY, 10, None, ScanGoal())


def test_search_raises_vectuned_error_for_another_plan() -> None:
    index = hnsw()
    conn = cast(psycopg.Connection[Any], Answers(errors.ObjectNotInPrerequisiteState()))
    with pytest.raises(VectunedError) as raised:
        IndexScans(tuned_column(index), index, 1, 100).search(conn, 0, QUERY, 10, None, ScanGoal())
    assert isinstance(raised.value.__cause__, errors.ObjectNotInPrerequisiteState)
