"""Simulate deployments on real recall curves: is the promise kept, and is a drop in recall noticed?

Run as `python -m benchmarks.promise [--deployments N] [--seed S] [--json]`; it needs no database and takes
about ten minutes. Every deployment has its own population, half of the replays of tests/data/replays.npz,
whose distribution is the truth; the replays for calibration and the checks in service are independent draws
from it. Exponential tilting of the recalls produces a drop, or a mean equal to the target.

calibration: `find_smallest_safe` chooses the effort from n replays. held: deployments whose true mean recall
reaches the target at the effort that is proven, the highest if none is. Without a proof, or with one that
takes over 1.5 times what the replays ask for on average, that serves unproven (`guess_effort`); unproven
held: the share of these that reach the target. Excess: the cost of what serves over that of the cheapest
effort that truly reaches the target. monitoring: of the effort chosen from 400 replays, tested after every
check. False alarms and wrong bounds are counted over 10,000 checks. Delays, in checks, are until a drop to
the target - 0.03 is noticed, from the served recall or from the target itself; beside them are those of a
bettor that starts only once, and of the Shiryaev-Roberts e-detector, whose limit of 10,000 / 0.05 guarantees
at most 5 % false alarms in 10,000 checks. tail: the same for the share of searches with recall under 0.8,
which rises by 0.03 from the limit itself.

circumstances: what reality adds to independent draws. bursts, of like searches, as many as a geometric
distribution with this mean says; a deployment is held unless it serves a proven effort below the target.
ties: rows at the k-th distance fill the places of the nearer ones that are missed, and recall is measured
from such distances. paths: six paths with equal recall just under the target, of which the cheapest proven
one serves. Claims are looked at 8 times within 10,000 checks: with bursts, against the mean of the
population, as are alarms, after all 10,000; while recall drifts from 0.985 down to the target, against the
mean of what was served until then. "single" is what ignores the circumstance: proofs, claims and alarms by
single replays and checks, any row within the k-th distance, undivided errors. Each deployment has one of the
targets.

The figures to watch: held >= 95 %, false alarms and wrong bounds <= 5 %, median delay after 1,000 good checks
<= 400.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from benchmarks.promise_tables import format_tables
from vectuned.learning.model import ladder
from vectuned.learning.model.arrays import Floats, Ints
from vectuned.learning.oversight.alarms import OversightLimits, RecallPromise, detect_alarm
from vectuned.learning.statistics.bounds import find_smallest_safe
from vectuned.learning.statistics.claims import claim_from_checks, running_bounds
from vectuned.learning.statistics.demand import Demand, find_smallest_proven, guess_effort
from vectuned.learning.statistics.dependence import block_length, block_means
from vectuned.learning.statistics.sequential import alarm, tail_alarm
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import Truth

DATA: Final = Path(__file__).parents[1] / "tests" / "data" / "replays.npz"
TARGETS: Final = (0.9, 0.95, 0.98)
LIMITS: Final = (0.02, 0.05, 0.1)
SIZES: Final = (200, 400, 1000)
MAX_EXCESS: Final = 1.5  # as in vectuned.learning.policy.calibration
WATCHED: Final = 400  # replays from which the monitored efforts are chosen
GOOD: Final = (0, 1000, 5000)
CHECKS: Final = 10_000
AFTER: Final = 5000  # checks after a drop within which it must be noticed
DROP: Final = 0.03
BURSTS: Final = (2, 5, 25)
PATHS: Final = 6  # rivals that may each be proven wrongly: they share the error of a proof
CIRCUMSTANCES: Final = (*(f"bursts of {burst}" for burst in BURSTS), "ties", "six paths", "drift")
LOOKS: Final = np.geomspace(50, CHECKS, 8).astype(int)
STAKES: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
EFS: Final = np.unique(np.rint(np.geomspace(10, 1000, 160)).astype(np.int64))

Counts = dict[tuple[Any, ...], list[float]]


def main() -> None:
    """Run the simulation and print its result."""
    parser = _parser()
    options = parser.parse_args()
    if options.deployments < 1:
        parser.error("there must be 1 deployment or more")
    start = perf_counter()
    result = simulate(options.data, options.deployments, options.seed)
    result["seconds"] = round(perf_counter() - start, 1)
    if options.json:
        json.dump(json.loads(json.dumps(result), parse_constant=lambda _: None), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        sys.stdout.write(format_tables(result, checks=CHECKS, after=AFTER, drop=DROP, good=GOOD))


def simulate(data: Path, deployments: int, seed: int) -> dict[str, Any]:
    """Simulate `deployments` deployments, each with its own seed, and summarise them."""
    with np.load(data) as file:
        recall, blocks = file["recall"] / 10.0, file["blocks"].astype(np.float64)
    seen: Counts = defaultdict(list)
    for number in range(deployments):
        if number % 10 == 0:
            sys.stderr.write(f"\r{number} of {deployments} deployments")
            sys.stderr.flush()
        rng = np.random.default_rng([seed, number])
        _deploy(number, recall, blocks, rng, seen)
    sys.stderr.write(f"\r{deployments} of {deployments} deployments\n")
    return {
        "deployments": deployments,
        "seed": seed,
        "calibration": [_calibration(seen, target, size) for target in TARGETS for size in SIZES],
        "monitoring": [_monitoring(seen, target) for target in TARGETS],
        "delays": [
            _delays(seen, target, start, good)
            for target in TARGETS
            for start in ("served", "target")
            for good in GOOD
            if good or start == "served"
        ],
        "circumstances": [_circumstance(seen, name, target) for name in CIRCUMSTANCES for target in TARGETS],
        "tail": [_tail(seen, limit) for limit in LIMITS],
    }


def _deploy(number: int, recall: Floats, blocks: Floats, rng: np.random.Generator, seen: Counts) -> None:
    """Calibrate and serve at every target; count the outcomes in `seen`."""
    members = rng.permutation(len(recall))[: len(recall) // 2]
    efforts = ladder.position_of(EFS)
    recalls = ladder.interpolate(recall[members], efforts)
    truth, cost = recalls.mean(axis=0), ladder.interpolate(blocks[members], efforts).mean(axis=0)
    for size in SIZES:
        drawn = recalls[rng.integers(len(members), size=size)]
        for target in TARGETS:
            safe = find_smallest_safe(drawn, target, seed=int(rng.integers(2**31)))
            at = len(EFS) - 1 if safe is None else safe
            guess = guess_effort(drawn, np.ones_like(drawn), Demand(target))
            proven = safe is not None and EFS[safe] <= MAX_EXCESS * EFS[guess]
            serves = at if proven else guess
            seen["proven", target, size].append(proven)
            seen["held", target, size].append(truth[at] >= target)
            if not proven:
                seen["unproven held", target, size].append(truth[guess] >= target)
            enough = np.flatnonzero(truth >= target)
            if len(enough):
                seen["blocks", target, size].append(cost[serves] / cost[enough[0]] - 1.0)
                seen["ef", target, size].append(EFS[serves] / EFS[enough[0]] - 1.0)
            if size == WATCHED and truth[at] >= target:
                _watch(_Recalls.served(recall[members], float(efforts[at])), target, rng, seen)
    for limit in LIMITS:
        _watch_tail(limit, rng, seen)
    target = TARGETS[number % len(TARGETS)]
    for burst in BURSTS:
        _calibrate_bursts(recall[members], recalls, target, burst, rng, seen)
        _claim_bursts(recalls, truth, target, burst, rng, seen)
    _calibrate_ties(recall[members], target, rng, seen)
    _calibrate_paths(target, rng, seen)
    _claim_drift(target, rng, seen)


def _bursts(count: int, population: int, burst: int, rng: np.random.Generator) -> Ints:
    """Draw members of a population in bursts of geometric length, `burst` on average: (count,)."""
    lengths = rng.geometric(1.0 / burst, size=count)
    return np.repeat(rng.integers(population, size=count), lengths)[:count]


def _calibrate_bursts(
    recall: Floats, recalls: Floats, target: float, burst: int, rng: np.random.Generator, seen: Counts
) -> None:
    """Prove an effort from 1,000 replays that come in bursts, by blocks of replays and by single ones."""
    drawn = _bursts(SIZES[-1], len(recall), burst, rng)
    demand = Demand(target, seed=int(rng.integers(2**31)))
    block = block_length(recall[drawn].mean(axis=1))
    truth = recalls.mean(axis=0)
    for name, length in (("", block), ("single, ", 1)):
        sample = block_means(recalls[drawn], length)
        safe = find_smallest_proven(sample, np.ones_like(sample), demand)
        seen[f"{name}held", f"bursts of {burst}", target].append(safe is None or truth[safe] >= target)
        seen[f"{name}proven", f"bursts of {burst}", target].append(safe is not None)


def _claim_bursts(
    recalls: Floats, truth: Floats, target: float, burst: int, rng: np.random.Generator, seen: Counts
) -> None:
    """Claim the recall of the least effort that reaches the target from checks that come in bursts."""
    at = int(np.argmax(truth >= target))
    drawn = _bursts(CHECKS, len(recalls), burst, rng)
    checks = np.rint(10.0 * recalls[drawn, at]) / 10.0
    hardness = rng.random(len(recalls))[drawn]  # like queries have rows at like distances
    mean = float((np.rint(10.0 * recalls[:, at]) / 10.0).mean())
    wrong, single = False, bool((running_bounds(checks, np.log(20.0)) > mean).any())
    for end in LOOKS:
        claim = claim_from_checks(checks[:end], hardness=hardness[:end])
        wrong = wrong or claim.lower > mean
    raised = detect_alarm(checks, RecallPromise(mean, 1.0), OversightLimits(), claim.block).raised
    seen["false alarms", f"bursts of {burst}", target].append(raised)
    seen["single, false alarms", f"bursts of {burst}", target].append(alarm(checks, mean).raised)
    seen["wrong claims", f"bursts of {burst}", target].append(wrong)
    seen["single, wrong claims", f"bursts of {burst}", target].append(single)


def _calibrate_ties(recall: Floats, target: float, rng: np.random.Generator, seen: Counts) -> None:
    """Prove an effort where rows at the k-th distance fill the places of nearer rows that are missed."""
    strict = rng.integers(0, 11, size=len(recall))[:, None]  # rows that are nearer than the k-th
    missed = np.rint(10.0 * (1.0 - recall)).astype(np.int64)
    lost = np.minimum(missed, strict)  # ties make up for each other
    true = 1.0 - lost / 10.0
    measured = _measure_ties(strict, lost)
    members = rng.integers(len(recall), size=SIZES[-1])
    demand = Demand(target, seed=int(rng.integers(2**31)))
    for name, sample in (("", measured[members]), ("single, ", np.ones_like(true[members]))):
        safe = find_smallest_proven(sample, np.ones_like(sample), demand)
        seen[f"{name}held", "ties", target].append(safe is None or true.mean(axis=0)[safe] >= target)
        seen[f"{name}proven", "ties", target].append(safe is not None)


def _measure_ties(strict: Ints, lost: Ints) -> Floats:
    """Measure recall@10 where ties at distance 2 replace lost rows at distance 1: (n, rungs)."""
    near = np.arange(10) < strict
    truth = Truth(
        np.where(near, 1.0, 2.0),
        np.full(near.shape, 1e-6),
        np.full(len(near), 10),
        np.full(near.shape, -1),
        np.full(near.shape, -1),
        0,
    )
    return np.column_stack(
        [
            recall_at_k(np.where(np.arange(10) < strict - lost[:, [rung]], 1.0, 2.0), truth, 10)
            for rung in range(lost.shape[1])
        ]
    )


def _calibrate_paths(target: float, rng: np.random.Generator, seen: Counts) -> None:
    """Try to prove six paths whose recall is just under the target; any proof serves and is wrong."""
    demand = Demand(target)
    wrong = {"": False, "single, ": False}
    for _ in range(PATHS):
        sample = (rng.random((SIZES[1], 1)) < target - 0.0015).astype(np.float64)
        seed = int(rng.integers(2**31))
        for name, each in (("", demand.divide(PATHS)), ("single, ", demand)):
            proven = find_smallest_proven(sample, np.ones_like(sample), replace(each, seed=seed))
            wrong[name] = wrong[name] or proven is not None
    for name, value in wrong.items():
        seen[f"{name}held", "six paths", target].append(not value)
        seen[f"{name}proven", "six paths", target].append(value)


def _claim_drift(target: float, rng: np.random.Generator, seen: Counts) -> None:
    """Claim the recall of what was served while recall drifts, always at least at the target."""
    means = np.linspace(0.985, target, CHECKS)
    checks = np.where(rng.random(CHECKS) < (1.0 - means) / 0.4, 0.6, 1.0)
    running = np.cumsum(means) / np.arange(1, CHECKS + 1)
    claims = [claim_from_checks(checks[:end]) for end in LOOKS]
    wrong = any(claim.lower > running[end - 1] for claim, end in zip(claims, LOOKS, strict=True))
    above = any(claim.lower > claim.mean for claim in claims)
    seen["wrong claims", "drift", target].append(wrong or above)


class _Recalls:
    """A distribution of recall: `values` with `shares` that sum to 1."""

    def __init__(self, values: Floats, shares: Floats) -> None:
        self.values, self.shares = values, shares
        self.mean = float(values @ shares)

    @classmethod
    def served(cls, recall: Floats, effort: float) -> _Recalls:
        """Return recalls between two rungs as whole numbers of hits, alternately from either rung."""
        low = min(int(effort), recall.shape[1] - 2)
        shares = np.repeat([1.0 - (effort - low), effort - low], len(recall)) / len(recall)
        return cls(np.concatenate([recall[:, low], recall[:, low + 1]]), shares)

    def tilted(self, mean: float) -> _Recalls:
        """Change the frequency of hard queries so that the mean becomes `mean`."""
        low, high = -100.0, 100.0
        for _ in range(80):
            middle = (low + high) / 2.0
            shares = self.shares * np.exp(middle * (self.values - (middle > 0)))
            shares /= shares.sum()
            low, high = (middle, high) if self.values @ shares < mean else (low, middle)
        return _Recalls(self.values, shares)

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        return rng.choice(self.values, size=count, p=self.shares)


def _watch(served: _Recalls, target: float, rng: np.random.Generator, seen: Counts) -> None:
    """Monitor the served effort: over a long time, and through a drop."""
    exact, dropped = served.tilted(target), served.tilted(target - DROP)
    checks = served.draw(rng, CHECKS)
    seen["false, served", target].append(alarm(checks, target).raised)
    above, tail = (checks >= 0.8).astype(np.float64), served.shares[served.values < 0.8].sum()
    required = np.log(20.0)
    seen["wrong", target].append(bool((running_bounds(checks, required) > served.mean).any()))
    seen["wrong tail", target].append(bool((running_bounds(above, required) > 1.0 - tail).any()))
    seen["margin", target].append(served.mean - claim_from_checks(checks[:1000]).lower)
    seen["slack", target].append(served.mean - target)
    at_target = exact.draw(rng, CHECKS)
    seen["false, target", target].append(alarm(at_target, target).raised)
    for name, first in _rivals(at_target, target).items():
        seen[f"false, {name}", target].append(first is not None)
    for good in GOOD:
        for start, before in (("served", served), ("target", exact)):
            if not good and start == "target":
                continue
            checks = np.concatenate([before.draw(rng, good), dropped.draw(rng, AFTER)])
            raised = alarm(checks, target)
            _note(seen, ("betting", target, start, good), raised.first, good)
            if raised.began is not None and raised.first is not None and raised.first >= good:
                seen["began", target, start, good].append(raised.began - good)
            for name, first in _rivals(checks, target).items():
                _note(seen, (name, target, start, good), first, good)


def _watch_tail(limit: float, rng: np.random.Generator, seen: Counts) -> None:
    def draw(count: int, share: float) -> Floats:
        return np.where(rng.random(count) < share, 0.5, 1.0)

    seen["false tail", limit].append(tail_alarm(draw(CHECKS, limit), limit).raised)
    for good in GOOD:
        checks = np.concatenate([draw(good, limit), draw(AFTER, limit + DROP)])
        _note(seen, ("tail", limit, good), tail_alarm(checks, limit).first, good)


def _note(seen: Counts, key: tuple[Any, ...], first: int | None, good: int) -> None:
    """Record a delay: none for an alarm before the drop, infinite if no alarm was raised."""
    if first is None or first >= good:
        seen[key].append(np.inf if first is None else first - good + 1)


def _rivals(checks: Floats, target: float) -> dict[str, int | None]:
    """Return the first alarm of simpler detectors, each a mixture of constant stakes."""
    stakes = np.minimum(STAKES, 0.75 / (1.0 - target))[:, None]
    after = np.cumsum(np.log1p(stakes * (target - checks)), axis=1)
    before = np.concatenate([np.zeros((len(stakes), 1)), after[:, :-1]], axis=1)
    number = np.arange(len(checks))
    shares = 500.0 / ((500.0 + number) * (501.0 + number))

    def mixed(capital: Floats) -> Floats:
        together: Floats = np.logaddexp.reduce(capital) - np.log(len(stakes))
        return together

    e_values = {
        "one start": (mixed(after), np.log(20.0)),
        "constant stakes": (
            mixed(after + np.logaddexp.accumulate(np.log(shares) - before, axis=1)),
            np.log(20.0),
        ),
        "Shiryaev-Roberts": (mixed(after + np.logaddexp.accumulate(-before, axis=1)), np.log(CHECKS / 0.05)),
    }
    return {
        name: int(np.argmax(e >= limit)) if (e >= limit).any() else None
        for name, (e, limit) in e_values.items()
    }


def _share(seen: Counts, *key: Any) -> float:
    return round(float(np.mean(seen[key])), 4) if seen[key] else float("nan")


def _calibration(seen: Counts, target: float, size: int) -> dict[str, Any]:
    return {
        "target": target,
        "replays": size,
        "held": _share(seen, "held", target, size),
        "proven": _share(seen, "proven", target, size),
        "unproven_held": _share(seen, "unproven held", target, size),
        "excess_ef": _share(seen, "ef", target, size),
        "excess_blocks": _share(seen, "blocks", target, size),
    }


def _monitoring(seen: Counts, target: float) -> dict[str, Any]:
    return {
        "target": target,
        "deployments": len(seen["slack", target]),
        "served_above_target": _share(seen, "slack", target),
        "false_alarms_served": _share(seen, "false, served", target),
        "false_alarms_at_target": _share(seen, "false, target", target),
        "wrong_lower_bounds": _share(seen, "wrong", target),
        "wrong_tail_bounds": _share(seen, "wrong tail", target),
        "bound_below_mean_after_1000": _share(seen, "margin", target),
        "rivals_false_alarms_at_target": {
            name: _share(seen, f"false, {name}", target)
            for name in ("one start", "constant stakes", "Shiryaev-Roberts")
        },
    }


def _circumstance(seen: Counts, name: str, target: float) -> dict[str, Any]:
    row: dict[str, Any] = {"circumstance": name, "target": target}
    figures = ("held", "proven", "wrong claims", "false alarms")
    for key in (f"{prefix}{figure}" for prefix in ("", "single, ") for figure in figures):
        if seen[key, name, target]:
            row[key.replace(", ", "_").replace(" ", "_")] = _share(seen, key, name, target)
    return row


def _quantiles(values: list[float]) -> dict[str, float | None]:
    """Return median and 90 % quantile, None where a drop was not noticed."""
    found = np.quantile(values, [0.5, 0.9], method="higher") if values else [np.inf, np.inf]
    return {
        name: int(value) if np.isfinite(value) else None
        for name, value in zip(("median", "p90"), found, strict=True)
    }


def _delays(seen: Counts, target: float, start: str, good: int) -> dict[str, Any]:
    began = seen["began", target, start, good]
    return {
        "target": target,
        "from": start,
        "good": good,
        **_quantiles(seen["betting", target, start, good]),
        "began_off_median": round(float(np.median(np.abs(began)))) if began else None,
        "rivals": {
            name: _quantiles(seen[name, target, start, good])
            for name in ("one start", "constant stakes", "Shiryaev-Roberts")
        },
    }


def _tail(seen: Counts, limit: float) -> dict[str, Any]:
    return {
        "limit": limit,
        "false_alarms_at_limit": _share(seen, "false tail", limit),
        "delays": [{"good": good, **_quantiles(seen["tail", limit, good])} for good in GOOD],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--deployments", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--data", type=Path, default=DATA, help="replays to deploy on")
    return parser


if __name__ == "__main__":
    main()
