"""Promises: what is claimed about the recall of each class of searches, kept up to date from checks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
from psycopg.types.json import Jsonb

from vectuned.learning.model.arrays import Floats, Ints
from vectuned.learning.model.tuned_columns import TunedColumn, lock_tuning
from vectuned.learning.statistics.claims import RecallClaim, claim_from_checks
from vectuned.learning.statistics.sequential import Alarm
from vectuned.sql.rows import execute, fetch_rows, fetch_value

from .alarms import OversightLimits, describe_alarm, detect_alarm, promise_of
from .fallback import Fallback, fall_back
from .heavy_filters import HeavyFilter, check_heavy_filters, limits_of_shape
from .served_rows import ServedRow, raise_served, serves_otherwise


@dataclass(frozen=True)
class _Checks:
    """The checks that a claim is made from: numbers, times and recalls in order.

    `first`, the number it starts at, and `since`, the time that the searches were recorded from, None if
    unknown; `served`, what serves them, with the largest effort since; `recalls` float64 (n,), NaN where a
    check was given up; `hardness` float64 (n,) of their queries;
    `filters`, a digest of each filter.
    """

    first: int
    since: datetime | None
    served: list[ServedRow]
    numbers: list[int]
    times: list[datetime]
    recalls: Floats
    hardness: Floats
    filters: list[str | None]


def check_promises(conn: psycopg.Connection[Any], tuned: TunedColumn, limits: OversightLimits) -> int:
    """Update the claim about the recall of each class of searches and act on alarms; return their number.

    A class of searches shares its class of k and its filter's columns and operators. On an alarm it falls
    back, more searches are checked, and only replays from the change on are evidence about it. A claim starts
    over when another index or path serves, also for some selectivity of the filters, or clearly less effort,
    and when its first checks have left the column's window.
    """
    raised = 0
    for row in fetch_rows(conn, "promises", {"column_id": tuned.column.id}):
        checks = _read_checks(conn, tuned, row)
        claim = claim_from_checks(checks.recalls, limits.confidence, checks.hardness)
        promise = promise_of(tuned, row.target)
        # Before anything was learned nothing was promised.
        promised_recalls = checks.recalls if row.learned else checks.recalls[:0]
        filtered = row.shape != ""
        class_limits = limits_of_shape(limits) if filtered else limits
        alarm = detect_alarm(promised_recalls, promise, class_limits, claim.block)
        heavy = (
            check_heavy_filters(
                checks.filters, checks.recalls, checks.hardness, promise if row.learned else None, limits
            )
            if filtered
            else []
        )
        tested: Ints = np.arange(len(checks.recalls))
        if not alarm.raised and (raised_by_one := _alarm_of_heavy_filter(heavy)) is not None:
            alarm, tested = raised_by_one
        with conn.transaction():
            if alarm.raised:
                lock_tuning(conn)
            _store_claim(conn, tuned, row, checks, claim, heavy, alarm)
            if alarm.raised:
                raised += 1
                began = alarm.began or 0
                recent = checks.recalls[tested[tested >= began]]
                recent = recent[~np.isnan(recent)]
                _learn_from_check(conn, tuned, row, checks.numbers[began])
                figures = {
                    "k_class": row.k_class,
                    "shape": row.shape,
                    "e_value": alarm.e_value,
                    "recall": float(recent.mean()),
                    "checks": claim.checks,
                }
                why = describe_alarm(recent, promise)
                fall_back(conn, tuned, "alarm", why, figures, Fallback(limits.caps, row.k_class, row.shape))
    execute(conn, "trim_checks", {"column_id": tuned.column.id, "window": tuned.trajectory_window})
    return raised


def _read_checks(conn: psycopg.Connection[Any], tuned: TunedColumn, row: Any) -> _Checks:
    """Read the checks that the claim about a class of searches is made from.

    Only checks of searches recorded since the claim began say what was served since.
    """
    searches = {"column_id": tuned.column.id, "k_class": row.k_class, "shape": row.shape}
    first, since, served = row.first_check, row.since, raise_served(row.served, row.promised)
    if first is None:
        first, since = 0, row.published_at if row.learned else None
    elif row.promised is not None and row.counted_checks and _is_other_policy(row):
        first = int(fetch_value(conn, "first_check", searches))
        since, served = row.published_at, row.served
    checks = fetch_rows(conn, "checks_of_class", {**searches, "first_check": first, "since": since})
    if first == row.first_check and len(checks) < row.counted_checks:
        # The first checks were deleted. A sliding window would be a test without end, and nothing would bound
        # its false alarms: so the claim starts over with the next check.
        first = checks[-1].check_no + 1 if checks else first
        since, served, checks = datetime.now(UTC), row.served, []
    if since is None and checks:
        since = min(check.recorded_at for check in checks)
    recalls = np.array([check.recall for check in checks], dtype=np.float64)  # None becomes NaN
    return _Checks(
        first,
        since,
        served,
        [check.check_no for check in checks],
        [check.checked_at for check in checks],
        recalls,
        np.array([check.hardness for check in checks], dtype=np.float64),
        [check.filter_digest for check in checks],
    )


def _alarm_of_heavy_filter(heavy: list[HeavyFilter]) -> tuple[Alarm, Ints] | None:
    """Return the alarm of a filter value, with positions among all checks, and those of its checks."""
    for each in heavy:
        own = each.alarm
        if own.raised and own.first is not None and own.began is not None:
            first, began = int(each.checks[own.first]), int(each.checks[own.began])
            return replace(own, first=first, began=began), each.checks
    return None


def _is_other_policy(row: Any) -> bool:
    """Say whether the claim about a class of searches has to start over with what serves it now."""
    return row.target != row.promised_target or serves_otherwise(row.served, row.promised)


def _store_claim(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    row: Any,
    checks: _Checks,
    claim: RecallClaim,
    heavy: list[HeavyFilter],
    alarm: Alarm,
) -> None:
    """Store the claim about a class of searches, with the policy that it is about."""
    epoch = claim.epoch
    values = {
        "column_id": tuned.column.id,
        "k_class": row.k_class,
        "shape": row.shape,
        "first_check": checks.first,
        "since": checks.since,
        "served": Jsonb(checks.served),
        "target": row.target,
        "block": claim.block,
        "checks": claim.checks,
        "unknown": claim.unknown,
        "recall": claim.mean if claim.checks else None,
        "recall_bound": claim.lower,
        "below_08": claim.tail if claim.checks else None,
        "below_08_bound": claim.tail_upper,
        "epoch_recall": epoch and epoch.mean,
        "epoch_bound": epoch and epoch.lower,
        "epoch_ended": epoch and checks.times[epoch.last],
        "heavy_filters": Jsonb(
            [
                {
                    "digest": each.digest,
                    "share": each.share,
                    "checks": each.claim.checks,
                    "recall": each.claim.mean if each.claim.checks else None,
                    "recall_bound": each.claim.lower,
                }
                for each in heavy
            ]
        ),
        "e_value": alarm.e_value,
        "alarms": row.alarms + alarm.raised,
        "confidence": claim.confidence,
    }
    execute(conn, "upsert_promise", values)


def _learn_from_check(conn: psycopg.Connection[Any], tuned: TunedColumn, row: Any, check_no: int) -> None:
    """Take only replays of searches checked from a check on as evidence about a class of searches."""
    column = {"column_id": tuned.column.id}
    start = fetch_value(conn, "first_replay_since", {**column, "check_no": check_no})
    searches = {**column, "k_class": row.k_class, "shape": row.shape}
    execute(conn, "set_learn_from", {**searches, "learn_from": start})
