"""The advisor's logic: candidates, sizes of samples, extrapolation to all rows, and the choice."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vectuned.learning import advisor
from vectuned.learning.advisor import Definition, Trial
from vectuned.learning.model.column import VectorType
from vectuned.learning.model.ladder import probe_rungs

USUAL = Definition("hnsw", "plain", m=16, ef_construction=64)
HALF = Definition("hnsw", "halfvec", m=16, ef_construction=64)


def trial(definition: Definition, rows: int, *, misses: float = 4.0, cost: float = 1.0) -> Trial:
    """Make a curve like those of HNSW: misses fall with effort and grow with the logarithm of the rows."""
    rungs = np.asarray(definition.rungs, dtype=np.float64)
    missed = np.minimum(misses * math.log(rows) / 10 / rungs, 1.0)
    blocks = 300 * rungs
    timed = tuple((float(x), cost * float(x) / 5000) for x in blocks[3:6])
    return advisor.fit_times([Trial(definition, rows, 1 - missed, blocks, timed, rows * 1000, rows / 1000)])[
        0
    ]


@pytest.mark.parametrize(
    ("kind", "dimensions", "forms"),
    [
        ("vector", 256, {"plain", "halfvec", "bits"}),
        ("vector", 2001, {"halfvec", "bits"}),
        ("vector", 4001, {"bits"}),
        ("halfvec", 256, {"plain", "bits"}),
        ("halfvec", 4001, {"bits"}),
    ],
)
def test_initial_candidates_are_what_pgvector_can_index(
    kind: VectorType, dimensions: int, forms: set[str]
) -> None:
    found = advisor.initial_candidates(kind, dimensions, 100_000)
    assert {each.form for each in found} == forms
    assert len(set(found)) == len(found)
    assert all(each.lists == 0 or each.form != "bits" for each in found)
    for each in found:
        further = advisor.refine(each)
        assert each not in further
        assert all(other.form == each.form and other.method == each.method for other in further)
        assert all(other.ef_construction >= 2 * other.m for other in further)


def test_initial_candidates_have_lists_by_the_rows() -> None:
    lists = Definition("ivfflat", "halfvec", lists=300)
    assert lists.over(1.0) == lists
    assert lists.over(1 / 9).lists == 100
    assert lists.over(1e-9).lists == 1
    assert HALF.over(0.1) == HALF
    assert lists.rungs == probe_rungs(300)


@pytest.mark.parametrize(
    ("sample", "rows", "sizes"),
    [
        (50_000, 10**7, [5555, 16666, 50_000]),
        (50_000, 30_000, [10_000, 30_000]),
        (50_000, 5000, [5000]),
        (5000, 10**6, [1666, 5000]),
        (10**9, 10**9, [111_111_111, 333_333_333, 10**9]),
        (1, 1, [1]),
    ],
)
def test_sample_sizes_grow_and_are_two_for_extrapolation(sample: int, rows: int, sizes: list[int]) -> None:
    assert advisor.sample_sizes(sample, rows) == sizes


def test_keep_cheapest_keeps_missed_targets_only_alone() -> None:
    inf = math.inf
    others = [Definition("hnsw", "halfvec", m=m, ef_construction=128) for m in (8, 24, 32)]
    costs = [(USUAL, 3.0), (HALF, 1.0), *((each, inf) for each in others)]
    assert advisor.keep_cheapest(costs, 3) == [HALF, USUAL]
    assert advisor.keep_cheapest(costs, 1) == [HALF]
    assert len(advisor.keep_cheapest([(each, inf) for each in others], 2)) == 1


def test_forecast_extrapolates_growth() -> None:
    seen = [trial(HALF, rows) for rows in (5000, 15_000, 45_000)]
    expected, real = advisor.forecast(seen, 200_000), trial(HALF, 200_000)
    assert expected.extrapolated
    assert expected.sizes == (5000, 15_000, 45_000)
    # Misses that grow with the logarithm of the rows are not a power of them, but close enough.
    assert np.abs(expected.recall[3:] - real.recall[3:]).max() < 0.01
    assert expected.blocks == pytest.approx(real.blocks, rel=0.01)
    assert expected.ms == pytest.approx(real.ms, rel=0.01)
    assert expected.bytes == real.bytes
    assert (np.diff(expected.recall) >= 0).all()


def test_forecast_of_a_trial_over_all_rows_is_the_trial() -> None:
    seen = [trial(HALF, 5000), trial(HALF, 45_000)]
    found = advisor.forecast(seen, 45_000, growth=0.9)
    assert not found.extrapolated
    assert found.recall is seen[1].recall
    # One size shows no growth.
    alone = advisor.forecast(seen[:1], 45_000)
    assert alone.extrapolated
    assert alone.recall == pytest.approx(seen[0].recall)
    assert alone.blocks == pytest.approx(seen[0].blocks)


def test_growth_beyond_samples_follows_the_current_index() -> None:
    def grown(definition: Definition, rows: int, power: float) -> Trial:
        return trial(definition, rows, misses=30 * (rows / 5000) ** power / math.log(rows))

    sizes = (5000, 15_000)
    slow, fast = ([grown(HALF, rows, power) for rows in sizes] for power in (0.2, 0.4))
    assert advisor.estimate_growth(slow) == pytest.approx(0.2, abs=0.01)
    assert advisor.estimate_growth(fast) == pytest.approx(0.4, abs=0.01)
    assert advisor.estimate_growth(slow[:1]) is None
    real = grown(HALF, 45_000, 0.4)
    known = advisor.estimate_growth([slow[-1], real])
    assert known is not None
    assert known > 0.4
    assert advisor.growth_beyond(slow, slow, real) == pytest.approx(known)
    assert advisor.growth_beyond(fast, slow, real) == pytest.approx(1.5 * known)
    assert advisor.growth_beyond(fast[:1], slow, real) == pytest.approx(known)
    expected = advisor.forecast(slow, 45_000, known)
    assert np.abs(expected.recall[3:] - real.recall[3:]).max() < 0.005


def test_at_target_is_the_smallest_effort_that_reaches_it() -> None:
    found = advisor.forecast([trial(HALF, 45_000)], 45_000)
    point = found.at_target(0.95, 10)
    assert point is not None
    assert point.recall >= 0.95 > found.at(point.effort - 5).recall
    easy = found.at_target(0.5, 100)
    assert easy is not None
    assert easy.effort == 100
    assert found.at_target(0.9999, 10) is None


def test_choose_best_reaches_the_target_in_the_least_time() -> None:
    quick, slow = (
        advisor.forecast([trial(each, 45_000, cost=cost)], 45_000)
        for each, cost in ((HALF, 0.5), (USUAL, 1.0))
    )
    bits = Definition("hnsw", "bits", m=16, ef_construction=64)
    unable = advisor.forecast([trial(bits, 45_000, misses=400, cost=0.1)], 45_000)
    found = advisor.choose_best([slow, unable, quick], 0.95, 10)
    assert found is not None
    assert found[0] is quick
    assert advisor.choose_best([unable], 0.99, 10) is None


def lines(*timed: tuple[Definition, tuple[tuple[float, float], ...]]) -> list[list[float]]:
    """Return the fitted times of searches of 0, 100 and 200 buffers."""
    blocks = np.array([0.0, 100, 200])
    trials = [Trial(definition, 9, blocks, blocks, points, 1, 1.0) for definition, points in timed]
    return [trial.ms.tolist() for trial in advisor.fit_times(trials)]


def test_fit_times_fits_one_line_for_each_kind() -> None:
    careful = Definition("hnsw", "halfvec", m=32, ef_construction=200)
    found = lines(
        (HALF, ((100, 0.2), (200, 0.3))), (careful, ((300, 0.4),)), (USUAL, ((100, 0.5), (200, 1.0)))
    )
    assert found[0] == pytest.approx([0.1, 0.2, 0.3])
    assert found[1] == found[0]
    assert found[2] == pytest.approx([0.0, 0.5, 1.0], abs=1e-9)


def test_fit_times_never_descend_or_become_negative() -> None:
    # Measured beside other work, more buffers may seem to take less time.
    assert lines((HALF, ((100, 0.5), (200, 0.2)))) == [pytest.approx([0.35] * 3)]
    assert lines((HALF, ((100, 0.1), (200, 0.5)))) == [pytest.approx([0.0, 0.22, 0.44])]
    assert lines((HALF, ((100, 0.3),))) == [pytest.approx([0.3] * 3)]


def test_resample_on_rungs_from_fewer_lists() -> None:
    lists = Definition("ivfflat", "plain", lists=1000)
    small = probe_rungs(100)
    curve = advisor.resample_on_rungs(lists, small, np.linspace(0.5, 1.0, len(small)))
    assert 0.5 <= curve[0] < 0.6
    assert (np.diff(curve) >= 0).all()
    assert (curve[np.array(lists.rungs) >= 100] == 1.0).all()


def test_time_growth_goes_on_as_between_the_last_samples() -> None:
    # A quarter longer over four times the rows, so a quarter longer again over another four times.
    few, many = trial(HALF, 10_000, cost=1.0), trial(HALF, 40_000, cost=1.25)
    assert advisor.time_growth([few, many], 160_000) == pytest.approx(1.25)
    assert advisor.time_growth([many], 160_000) == 1.0
    # Noise is limited: no time falls, and none grows as fast as the rows.
    assert advisor.time_growth([trial(HALF, 10_000, cost=2.0), trial(HALF, 40_000)], 160_000) == 1.0
    assert advisor.time_growth([few, trial(HALF, 40_000, cost=4.0)], 160_000) < 2.0
