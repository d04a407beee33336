"""Simulations of claims and alarms with known distributions, and naive loops over checks and starts."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from tests.unit.calls_helpers import count_calls

from vectuned.config.errors import UsageError
from vectuned.learning.oversight.alarms import OversightLimits, RecallPromise, detect_alarm
from vectuned.learning.statistics.claims import claim_from_checks
from vectuned.learning.statistics.demand import TAIL_RECALL
from vectuned.learning.statistics.sequential import Alarm, alarm, tail_alarm

Floats = npt.NDArray[np.float64]


def recalls(rng: np.random.Generator, mean: float, shape: int | tuple[int, ...]) -> Floats:
    """Draw recall@10 as measured on real text: mostly 1, otherwise 0.7 and sometimes 0."""
    lost = rng.random(shape) < (1.0 - mean) / 0.44
    return np.where(lost, np.where(rng.random(shape) < 0.8, 0.7, 0.0), 1.0)


def test_recalls_have_the_requested_mean() -> None:
    assert recalls(np.random.default_rng(0), 0.95, 1_000_000).mean() == pytest.approx(0.95, abs=0.001)


def test_claims_and_alarms_count_timeouts_and_otherwise_ignore_them() -> None:
    rng = np.random.default_rng(4)
    known = np.concatenate([recalls(rng, 0.97, 300), recalls(rng, 0.7, 100)])
    places = np.sort(rng.permutation(500)[:400])
    checks = np.full(500, np.nan)
    checks[places] = known
    claim, without = claim_from_checks(checks), claim_from_checks(known)
    assert (claim.checks, claim.unknown, claim.lower, claim.tail_upper) == (
        400,
        100,
        without.lower,
        without.tail_upper,
    )
    for watch, limit in ((alarm, 0.95), (tail_alarm, 0.05)):
        raised, bare = watch(checks, limit), watch(known, limit)
        assert raised.raised
        assert raised.e_value == bare.e_value
        assert bare.first is not None
        assert bare.began is not None
        assert (raised.first, raised.began) == (places[bare.first], places[bare.began])


def naive_capital(values: Floats, target: float) -> list[float]:
    """Follow every start of every window separately, and the capital that is not at work yet."""
    spare = 1.0 - target
    capitals = []
    bettors: dict[tuple[int, int], float] = {}
    idle = 1.0
    for now, value in enumerate(values):
        share = (0.5 if now == 0 else 0.0) + 0.5 * 500 / ((500 + now) * (501 + now))
        idle -= share
        for window in (200, 400):
            bettors[window, now] = share / 2
            past = [target - v for v in values[max(now - window, 0) : now]]
            squares = sum(gap**2 / (1 + 0.06 / spare * gap) for gap in past)
            stake = min(max(sum(past) / (squares + 20 * 0.3 * spare), 0.0), 0.75 / spare)
            for start in range(now + 1):
                bettors[window, start] *= 1 + stake * (target - value)
        capitals.append(sum(bettors.values()) + idle)
    return capitals


def test_alarm_e_value_equals_that_of_a_loop_over_checks_and_starts() -> None:
    rng = np.random.default_rng(5)
    checks = np.concatenate([recalls(rng, 0.97, 250), recalls(rng, 0.75, 60), recalls(rng, 0.97, 140)])
    capitals = naive_capital(checks, 0.95)
    for count in (1, 2, 100, 251, 300, 450):
        assert alarm(checks[:count], 0.95).e_value == pytest.approx(capitals[count - 1])
    first = next(number for number, capital in enumerate(capitals) if capital >= 20)
    assert alarm(checks, 0.95).first == first
    assert alarm(checks[: first + 1], 0.95).first == first
    assert not alarm(checks[:first], 0.95).raised
    bad = (checks < 0.8).astype(np.float64)
    assert tail_alarm(checks, 0.1).e_value == pytest.approx(naive_capital(1.0 - bad, 0.9)[-1])


@pytest.mark.parametrize("target", [0.9, 0.95, 0.98])
def test_alarm_is_raised_falsely_as_rarely_as_promised_at_the_target(target: float) -> None:
    # At a true rate of 5 %, 300 runs have 28 alarms or more with probability 0.001.
    rng = np.random.default_rng(6)
    raised = [alarm(recalls(rng, target, 2000), target).raised for _ in range(300)]
    assert sum(raised) < 28


def test_alarm_e_value_is_one_on_average_at_the_target() -> None:
    # The standard error of the mean of 4,000 e-values is about 0.02.
    lost = (np.random.default_rng(7).random((4000, 30)) < 0.3).astype(np.float64)
    values = [alarm(1.0 - some, 0.7).e_value for some in lost]
    assert np.mean(values) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(("target", "most"), [(0.9, 900), (0.95, 480), (0.98, 250)])
@pytest.mark.parametrize("good", [1000, 3000])
def test_alarm_is_raised_soon_after_a_late_drop_and_dates_it(target: float, most: int, good: int) -> None:
    # `most` is well over the median delay.
    rng = np.random.default_rng(8)
    raised = [
        alarm(np.concatenate([recalls(rng, target + 0.01, good), recalls(rng, target - 0.03, 4000)]), target)
        for _ in range(40)
    ]
    delays = [math.inf if r.first is None else r.first - good for r in raised]
    assert np.median(delays) < most
    began = [r.began - good for r in raised if r.began is not None]
    assert abs(np.median(began)) < 150


def test_alarm_is_raised_at_once_by_a_breakdown() -> None:
    good = recalls(np.random.default_rng(9), 0.96, 5000)
    raised = alarm(np.concatenate([good, np.zeros(50)]), 0.95)
    assert raised.first is not None
    assert 5000 <= raised.first < 5025
    assert raised.began is not None
    assert 4950 <= raised.began <= 5000


def test_alarm_stays_raised_when_recall_recovers() -> None:
    rng = np.random.default_rng(10)
    dropped = np.concatenate([recalls(rng, 0.97, 500), recalls(rng, 0.85, 300)])
    before = alarm(dropped, 0.95)
    after = alarm(np.concatenate([dropped, recalls(rng, 0.99, 3000)]), 0.95)
    assert before.raised
    assert (after.raised, after.first, after.began) == (before.raised, before.first, before.began)
    assert after.e_value < before.e_value


def test_alarm_is_raised_later_with_fewer_false_alarms() -> None:
    checks = recalls(np.random.default_rng(11), 0.8, 1000)
    first = [alarm(checks, 0.95, rate).first or 0 for rate in (0.5, 0.05, 0.001, 1e-9)]
    assert first == sorted(set(first))
    assert first[0] > 0


def test_alarms_without_checks_and_from_the_best_and_worst_checks() -> None:
    for watch, limit in ((alarm, 0.95), (tail_alarm, 0.05)):
        for checks in ([], [float("nan")] * 5):
            assert watch(checks, limit) == Alarm(False, None, 1.0, None)
        best = watch(np.ones(5000), limit)
        assert not best.raised
        assert best.e_value <= 1.0 + 1e-9
        worst = watch(np.zeros(3000), limit)
        assert worst.raised
        assert worst.began == 0
        assert math.isfinite(worst.e_value)


def test_alarms_accept_extreme_targets_and_refuse_those_out_of_range() -> None:
    assert not alarm(np.ones(100), 1.0).raised
    assert alarm([1.0] * 100 + [0.9] * 10, 1.0).raised
    assert not tail_alarm(np.ones(100), 0.0).raised
    assert tail_alarm([1.0] * 100 + [0.5] * 10, 0.0).raised
    assert not alarm(np.full(1000, 0.01), 0.01).raised
    for target in (0.0, -0.5, 1.01, float("nan")):
        with pytest.raises(UsageError, match=r"target recall of .* cannot be watched"):
            alarm([0.5], target)
    for limit in (1.0, -0.01, float("nan")):
        with pytest.raises(UsageError, match=r"limit of .* cannot be watched"):
            tail_alarm([0.5], limit)


def test_claims_and_alarms_refuse_values_that_are_not_recalls() -> None:
    for watch in (
        claim_from_checks,
        lambda values: alarm(values, 0.9),
        lambda values: tail_alarm(values, 0.1),
    ):
        for values in ([1.1], [-0.1], [float("inf")], [float("nan"), 2.0]):
            with pytest.raises(UsageError, match="within 0 and 1"):
                watch(values)
        for shaped in ([[0.5]], 0.5):
            with pytest.raises(UsageError, match="must have 1 dimension"):
                watch(shaped)
    with pytest.raises(UsageError, match="confidence of 1"):
        claim_from_checks([0.5], 1.0)
    for rate in (0.0, 1.0, float("nan")):
        with pytest.raises(UsageError, match="false alarms of"):
            alarm([0.5], 0.9, rate)


@pytest.mark.parametrize(
    "watch", [claim_from_checks, lambda values: alarm(values, 0.95), lambda values: tail_alarm(values, 0.1)]
)
def test_claims_and_alarms_do_not_loop_over_checks(watch: Callable[[Floats], object]) -> None:
    checks = recalls(np.random.default_rng(12), 0.96, 10_000)
    # The test of dependence doubles the length of blocks, up to 2,000 checks.
    few = count_calls(lambda: watch(checks[: 2000 if watch is claim_from_checks else 100]))
    assert count_calls(lambda: watch(checks)) <= few + 10


def test_claims_and_alarms_are_reproducible() -> None:
    checks = recalls(np.random.default_rng(13), 0.9, 500)
    assert claim_from_checks(checks) == claim_from_checks(checks)
    assert alarm(checks, 0.95) == alarm(list(checks), 0.95)
    assert TAIL_RECALL == 0.8


@pytest.mark.parametrize("burst", [2, 5])
def test_alarm_of_blocks_takes_no_burst_of_hard_queries_for_a_drop(burst: int) -> None:
    limits, promise = OversightLimits(), RecallPromise(0.95, 1.0)
    single, blocks = 0, 0
    for seed in range(40):
        rng = np.random.default_rng([burst, seed])
        lengths = rng.geometric(1.0 / burst, 2000)
        checks = np.repeat(recalls(rng, 0.95, 2000), lengths)[:2000]
        hardness = np.repeat(rng.random(2000), lengths)[:2000]
        block = claim_from_checks(checks, hardness=hardness).block
        single += detect_alarm(checks, promise, limits).raised
        blocks += detect_alarm(checks, promise, limits, block).raised
    assert single >= 10, "the bursts are too weak to show anything"
    assert blocks <= 4


def test_alarm_of_blocks_notices_a_drop_and_where_it_began() -> None:
    rng = np.random.default_rng(8)
    checks = np.repeat(np.concatenate([recalls(rng, 0.97, 400), recalls(rng, 0.8, 400)]), 5)
    raised = alarm(checks, 0.95, block=10)
    assert raised.raised
    assert raised.first is not None
    assert raised.began is not None
    assert raised.first % 10 == 9
    assert 2000 <= raised.first < 3000
    assert abs(raised.began - 2000) <= 250
    assert alarm(checks, 0.95) == alarm(checks, 0.95, block=1)
