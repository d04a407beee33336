"""Falling back: what happens when learned policies can no longer be trusted, and its end."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import psycopg

from vectuned.learning.model.events import notify, record_event
from vectuned.learning.model.tuned_columns import TunedColumn, lock_tuning
from vectuned.learning.policy.limits import EffortCaps
from vectuned.sql.rows import execute, fetch_value

from .growth import USUAL_POWER

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fallback:
    """Which searches fall back, and how far their effort may rise.

    The class of searches of `k_class` and `shape`, None for all; `power` is how effort grows with the rows of
    the table.
    """

    caps: EffortCaps
    k_class: int | None = None
    shape: str | None = None
    power: float = USUAL_POWER


def fall_back(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    action: str,
    why: str,
    figures: dict[str, Any],
    fallback: Fallback,
) -> None:
    """Serve searches without relying on what was learned, check more of them, and notify listeners.

    The claim about their recall starts over. `action` names the event, and `figures` go into its details. Run
    it in a transaction that has locked no rows yet or has called `lock_tuning`, before the baseline is set.
    """
    lock_tuning(conn)
    searches = {"column_id": tuned.column.id, "k_class": fallback.k_class, "shape": fallback.shape}
    caps = fallback.caps.tighten(tuned.max_effort, tuned.max_ms)
    values = {
        **searches,
        "why": why,
        "alarm": action == "alarm",
        "power": fallback.power,
        "max_effort": caps.max_effort,
        "max_ms": caps.max_ms,
    }
    execute(conn, "fall_back", values)
    execute(conn, "restart_checks", searches)
    execute(conn, "set_alert", {"column_id": tuned.column.id, "alert": True})
    _announce(conn, tuned, action, {"why": why, **figures})
    log.warning(
        "%s: %s; searches fall back until it is learned again", tuned.column, why, extra={"action": action}
    )


def end_alert(conn: psycopg.Connection[Any], tuned: TunedColumn) -> bool:
    """End the alert of a column if what serves it is proven again; return whether it ended.

    During an alert more searches than usual are recorded and checked.
    """
    if not tuned.alert:
        return False
    values = {
        "column_id": tuned.column.id,
        "min_samples": tuned.min_samples,
    }
    with conn.transaction():
        if not fetch_value(conn, "all_classes_proven", values):
            return False
        execute(conn, "set_alert", {"column_id": tuned.column.id, "alert": False})
        why = f"what serves is again proven to reach {tuned.target_recall:g}; there is nothing to do"
        _announce(conn, tuned, "proven", {"why": why, "target_recall": tuned.target_recall})
    log.info("what serves %s is proven again", tuned.column, extra={"action": "proven"})
    return True


def _announce(
    conn: psycopg.Connection[Any], tuned: TunedColumn, action: str, details: dict[str, Any]
) -> None:
    """Record an event and notify listeners."""
    record_event(conn, tuned.column.id, action, details)
    notify(conn, tuned.column.id, action)
