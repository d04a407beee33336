"""Watches what `vectuned adopt` set: an alarm where it no longer gives a statement what was proven.

Applications take no part in it: the evidence are replays of calls that were recorded since. Nothing is put
back by itself, since that would make the statements worse that the settings do serve.
"""

from __future__ import annotations

import json
import logging
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import psycopg

from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.events import notify, record_event
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.policy.filtering import other_paths
from vectuned.sql.rows import execute, fetch_rows, fetch_value

from .alarms import OversightLimits, RecallPromise, describe_alarm, detect_alarm

log = logging.getLogger(__name__)

# Events of a table after which nothing that was learned before counts as proven.
_CHANGES: Final = ("rewritten", "rebuilt", "deletes", "growth")
_SHOWN: Final = 100  # characters of a statement in a message


def check_adoptions(conn: psycopg.Connection[Any], tuned: TunedColumn, limits: OversightLimits) -> int:
    """Test the settings in force for the statements of a column; return how many alarms are new.

    Each statement is tested once for each adoption by all calls replayed since, which is valid at any time.
    """
    raised = 0
    for row in fetch_rows(conn, "adopted_statements", {"column_id": tuned.column.id}):
        why = _find_reason(conn, tuned, row, limits)
        if why is None:
            continue
        with conn.transaction():
            values = {"adoption_no": row.adoption_no, "fingerprint": row.fingerprint, "why": why}
            if not execute(conn, "add_adoption_alarm", values):
                continue
            whom = "the database" if row.role_name is None else f"the role {row.role_name}"
            text = (
                f"settings adopted for {whom} no longer serve {row.statement[:_SHOWN]}: {why}; run `vectuned "
                "learn --once`, then `vectuned adopt` again"
            )
            record_event(
                conn, tuned.column.id, "adoption_alarm", {"why": text, "fingerprint": row.fingerprint}
            )
            notify(conn, tuned.column.id, "adoption_alarm", fingerprint=row.fingerprint)
        log.warning("%s: %s", tuned.column, text, extra={"action": "adoption_alarm"})
        raised += 1
    return raised


def _find_reason(
    conn: psycopg.Connection[Any], tuned: TunedColumn, row: Any, limits: OversightLimits
) -> str | None:
    """Return why a statement is no longer served as it was proven, None if nothing says so."""
    since = {"column_id": tuned.column.id, "actions": list(_CHANGES), "since": row.applied_at}
    change: str | None = fetch_value(conn, "table_change_since", since)
    if change is not None:
        return change
    promise = RecallPromise(tuned.target_recall, tuned.max_tail)
    recalls = _read_recalls(conn, tuned, row)
    if not len(recalls):
        return None
    alarm = detect_alarm(recalls, promise, limits)
    return describe_alarm(recalls[alarm.began or 0 :], promise) if alarm.raised else None


def _read_recalls(conn: psycopg.Connection[Any], tuned: TunedColumn, row: Any) -> Floats:
    """Return the recall that the adopted settings give the calls since, in order, by what covers them."""
    values = {
        "column_id": tuned.column.id,
        "fingerprint": row.fingerprint,
        "k_class": row.k_class,
        "shape": row.shape,
        "since": row.applied_at,
    }
    settings = json.loads(row.settings)
    if row.as_text:
        found = [
            outcome["recall"]
            for call in fetch_rows(conn, "texts_since_adoption", values)
            for outcome in call.outcomes
            if outcome["settings"] == settings
        ]
        return np.array(found, dtype=np.float64)
    main = tuned.main
    if main is None:
        return np.empty(0)
    calls = fetch_rows(conn, "calls_since_adoption", {**values, "generation": main.generation})
    if row.shape:
        place = other_paths(main.method).index((row.path, row.effort))
        return _at([_as_planned(call.other_recall, call.takes_index) for call in calls], place)
    effort = int(settings.get("hnsw.ef_search") or settings.get("ivfflat.probes") or 0)
    # The rung at or below it: the settings find no fewer rows than that.
    return _at([call.asked_recall for call in calls], bisect_right(main.rungs, effort) - 1)


def _as_planned(recall: Sequence[float] | None, takes_index: Sequence[bool] | None) -> Sequence[float] | None:
    """Return the recall of a call by path: 1 where the planner ranks what matches, without the index."""
    if recall is None or takes_index is None:
        return recall
    return [found if takes else 1.0 for found, takes in zip(recall, takes_index, strict=True)]


def _at(curves: Sequence[Sequence[float] | None], place: int) -> Floats:
    """Return the values at a place, or the last ones of replays that ended before it."""
    found = [curve[min(place, len(curve) - 1)] for curve in curves if curve]
    return np.array(found if place >= 0 else [], dtype=np.float64)
