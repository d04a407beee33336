"""Simulate deployments on real recall curves: is the promise kept, and is a drop in recall noticed?

Run as `python benchmarks/promise.py [--deployments N] [--seed S] [--json]`; it needs no database and takes
one to two minutes. Every deployment has its own population, half of the replays of tests/data/replays.npz,
whose distribution is the truth; the replays for calibration and the checks in service are independent draws
from it. Exponential tilting of the recalls produces a drop, or a mean equal to the target.

calibration: `find_smallest_safe` chooses the effort from n replays. held: deployments whose true mean recall
reaches the target. Excess: the cost of the served effort over that of the cheapest effort that truly reaches
the target; if none is proven, the highest effort is served. monitoring: of the effort chosen from 400
replays, tested after every check. False alarms and wrong bounds are counted over 10,000 checks. Delays, in
checks, are until a drop to the target - 0.03 is noticed, from the served recall or from the target itself;
beside them are those of a bettor that starts only once, and of the Shiryaev-Roberts e-detector, whose limit
of 10,000 / 0.05 guarantees at most 5 % false alarms in 10,000 checks. tail: the same for the share of
searches with recall under 0.8, which rises by 0.03 from the limit itself.

The figures to watch: held >= 95 %, false alarms and wrong bounds <= 5 %, median delay after 1,000 good checks
<= 400.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np

from vectuned.learning.model import ladder
from vectuned.learning.model.arrays import Floats
from vectuned.learning.statistics.bounds import find_smallest_safe
from vectuned.learning.statistics.claims import claim_from_checks
from vectuned.learning.statistics.sequential import alarm, tail_alarm

DATA: Final = Path(__file__).parents[1] / "tests" / "data" / "replays.npz"
TARGETS: Final = (0.9, 0.95, 0.98)
LIMITS: Final = (0.02, 0.05, 0.1)
SIZES: Final = (200, 400, 1000)
WATCHED: Final = 400  # replays from which the monitored efforts are chosen
GOOD: Final = (0, 1000, 5000)
CHECKS: Final = 10_000
AFTER: Final = 5000  # checks after a drop within which it must be noticed
DROP: Final = 0.03
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
        _print(result)


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
        _deploy(recall, blocks, rng, seen)
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
        "tail": [_tail(seen, limit) for limit in LIMITS],
    }


def _deploy(recall: Floats, blocks: Floats, rng: np.random.Generator, seen: Counts) -> None:
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
            seen["proven", target, size].append(safe is not None)
            seen["held", target, size].append(truth[at] >= target)
            enough = np.flatnonzero(truth >= target)
            if len(enough):
                seen["blocks", target, size].append(cost[at] / cost[enough[0]] - 1.0)
                seen["ef", target, size].append(EFS[at] / EFS[enough[0]] - 1.0)
            if size == WATCHED and truth[at] >= target:
                _watch(_Recalls.served(recall[members], float(efforts[at])), target, rng, seen)
    for limit in LIMITS:
        _watch_tail(limit, rng, seen)


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
    said = claim_from_checks(checks)  # its bounds never widen, so the last ones are the tightest
    seen["wrong", target].append(said.lower > served.mean)
    seen["wrong tail", target].append(said.tail_upper < served.shares[served.values < 0.8].sum())
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


def _print(result: dict[str, Any]) -> None:
    lines = [f"{result['deployments']} deployments, seed {result['seed']}, {result['seconds']} s", ""]
    lines.append("target  replays    held  proven  excess ef  excess blocks")
    lines += [
        f"{r['target']:6.2f}  {r['replays']:7d}  {r['held']:6.1%}  {r['proven']:6.1%}  {r['excess_ef']:9.1%}"
        f"  {r['excess_blocks']:13.1%}"
        for r in result["calibration"]
    ]
    lines += ["", f"In {CHECKS:,} checks"]
    lines.append("target  served above  false alarms  at target  wrong bounds  of tail  below mean at 1,000")
    lines += [
        f"{r['target']:6.2f}  {r['served_above_target']:12.4f}  {r['false_alarms_served']:12.1%}"
        f"  {r['false_alarms_at_target']:9.1%}  {r['wrong_lower_bounds']:12.1%}"
        f"  {r['wrong_tail_bounds']:7.1%}  {r['bound_below_mean_after_1000']:19.4f}"
        for r in result["monitoring"]
    ]
    lines += ["", f"Delay of a drop to target - {DROP}: median, 90 % (- where not noticed in {AFTER:,})"]
    lines.append(
        "target  from     good        betting  began off      one start    constant  Shiryaev-Roberts"
    )
    for r in result["delays"]:
        rivals = [_pair(r["rivals"][name]) for name in ("one start", "constant stakes", "Shiryaev-Roberts")]
        began = "-" if r["began_off_median"] is None else str(r["began_off_median"])
        lines.append(
            f"{r['target']:6.2f}  {r['from']}  {r['good']:5d}  {_pair(r):>13}  {began:>9}  {rivals[0]:>13}"
            f"  {rivals[1]:>10}  {rivals[2]:>16}"
        )
    lines += ["", f"Tail, a rise by {DROP} from the limit"]
    lines.append("limit  false alarms  " + "  ".join(f"after {good:5d}" for good in GOOD))
    lines += [
        f"{r['limit']:5.2f}  {r['false_alarms_at_limit']:12.1%}  "
        + "  ".join(f"{_pair(d):>11}" for d in r["delays"])
        for r in result["tail"]
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _pair(quantiles: dict[str, Any]) -> str:
    return ", ".join("-" if quantiles[name] is None else str(quantiles[name]) for name in ("median", "p90"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--deployments", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.add_argument("--data", type=Path, default=DATA, help="replays to deploy on")
    return parser


if __name__ == "__main__":
    main()
