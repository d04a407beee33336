"""The result of the simulation of promises as tables of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def format_tables(
    result: dict[str, Any], *, checks: int, after: int, drop: float, good: Sequence[int]
) -> str:
    """Return the result as tables.

    A deployment was watched for `checks` searches, and `after` a drop by `drop`, which followed `good` ones.
    """
    lines = [f"{result['deployments']} deployments, seed {result['seed']}, {result['seconds']} s", ""]
    lines.append("target  replays    held  proven  unproven held  excess ef  excess blocks")
    lines += [
        f"{r['target']:6.2f}  {r['replays']:7d}  {r['held']:6.1%}  {r['proven']:6.1%}"
        f"  {r['unproven_held']:13.1%}  {r['excess_ef']:9.1%}"
        f"  {r['excess_blocks']:13.1%}"
        for r in result["calibration"]
    ]
    lines += ["", f"In {checks:,} checks"]
    lines.append("target  served above  false alarms  at target  wrong bounds  of tail  below mean at 1,000")
    lines += [
        f"{r['target']:6.2f}  {r['served_above_target']:12.4f}  {r['false_alarms_served']:12.1%}"
        f"  {r['false_alarms_at_target']:9.1%}  {r['wrong_lower_bounds']:12.1%}"
        f"  {r['wrong_tail_bounds']:7.1%}  {r['bound_below_mean_after_1000']:19.4f}"
        for r in result["monitoring"]
    ]
    lines += ["", f"Delay of a drop to target - {drop}: median, 90 % (- where not noticed in {after:,})"]
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
    lines += [
        "",
        "Circumstances",
        "                target    held  proven  wrong claims  false alarms"
        "  ignored: held  wrong claims  false alarms",
    ]
    lines += [
        f"{r['circumstance']:14}  {r['target']:6.2f}"
        + "".join(
            f"  {r[name]:{width}.1%}" if name in r else " " * (width + 1) + "-"
            for name, width in (
                ("held", 6),
                ("proven", 6),
                ("wrong_claims", 12),
                ("false_alarms", 12),
                ("single_held", 13),
                ("single_wrong_claims", 12),
                ("single_false_alarms", 12),
            )
        )
        for r in result["circumstances"]
    ]
    lines += ["", f"Tail, a rise by {drop} from the limit"]
    lines.append("limit  false alarms  " + "  ".join(f"after {count:5d}" for count in good))
    lines += [
        f"{r['limit']:5.2f}  {r['false_alarms_at_limit']:12.1%}  "
        + "  ".join(f"{_pair(d):>11}" for d in r["delays"])
        for r in result["tail"]
    ]
    return "\n".join(lines) + "\n"


def _pair(quantiles: dict[str, Any]) -> str:
    return ", ".join("-" if quantiles[name] is None else str(quantiles[name]) for name in ("median", "p90"))
