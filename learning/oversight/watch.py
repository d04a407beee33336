"""Watching a column: do its searches keep the promise, and is its table still the one learned about?"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import psycopg
from psycopg.rows import namedtuple_row

from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.events import notify, record_event
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.statistics.demand import TAIL_RECALL
from vectuned.learning.statistics.sequential import Alarm, alarm, claim_from_checks, tail_alarm
from vectuned.sql.files import queries

log = logging.getLogger(__name__)

# In shares of min_samples: searches replayed again where a partial index is new or the table is another, and
# where an index of all rows is: much is to be proven of it, and with few replays a proof takes more effort.
REPLAYS_AFTER_CHANGE: Final = 3
REPLAYS_OF_NEW_INDEX: Final = 10
_FOR_THE_TAIL: Final = 0.2
_LOWERED: Final = 0.9  # an effort under this share of the promised one is another setting


@dataclass(frozen=True)
class OversightLimits:
    """What is tolerated.

    `confidence` of statements; `false_alarms`, their probability for a class within a window of checks;
    `drift`, the share of rows that may come, go or change before what was learned no longer counts.
    """

    confidence: float = 0.95
    false_alarms: float = 0.05
    drift: float = 0.2


def detect_table_change(
    conn: psycopg.Connection[Any], tuned: TunedColumn, limits: OversightLimits
) -> str | None:
    """See whether a column's table is another than the one learned about, act, and return how it changed.

    'rewritten' (most likely by another embedding model: its old queries and replays are dropped), 'rebuilt'
    (the main index), 'deletes' or 'growth' (the latest searches are replayed again). In each case searches
    fall back, more of them are checked, and what is said of their recall begins anew, in one transaction.
    """
    column = {"column_id": tuned.column.id}
    cursor: psycopg.Cursor[Any] = conn.cursor(row_factory=namedtuple_row)
    seen = cursor.execute(queries()["since_baseline"], column).fetchone()
    if seen is None:
        conn.execute(queries()["set_baseline"], column)
        return None
    gone, rewritten = seen.gone or 0.0, seen.rewritten or 0.0
    if rewritten >= limits.drift:
        change, why = "rewritten", f"{rewritten:.0%} of the vectors were rewritten"
    elif seen.rebuilt:
        change, why = "rebuilt", "the index was rebuilt"
    elif gone >= limits.drift or seen.growth <= 1.0 - limits.drift:
        change, why = "deletes", f"{max(gone, 1.0 - seen.growth):.0%} of the rows are gone"
    elif seen.growth >= 1.0 + limits.drift:
        change, why = "growth", f"the table has {seen.growth:.2f} times the rows"
    else:
        return None
    with conn.transaction():
        if change == "rewritten":
            conn.execute(queries()["forget_queries"], column)
        if change != "rebuilt":
            conn.execute(queries()["delete_replays"], column)
        if change in ("deletes", "growth"):
            count = REPLAYS_AFTER_CHANGE * tuned.min_samples
            conn.execute(
                queries()["reopen"], {**column, "generation": None, "requires": None, "count": count}
            )
        conn.execute(queries()["set_baseline"], column)
        figures = {"growth": seen.growth, "gone": gone, "rewritten": rewritten}
        _fall_back(conn, tuned, None, None, change, why, figures)
    return change


def check_promises(conn: psycopg.Connection[Any], tuned: TunedColumn, limits: OversightLimits) -> int:
    """Bring up to date what is said of each class's recall, and act on alarms; return how many were raised.

    A class is what searches share: the class of k and the filter's columns and operators. On an alarm it
    falls back, more searches are checked, and only replays from the change on are learned from. A statement
    begins anew where another index or path serves, or clearly less effort, and when its first checks have
    left the column's window of them.
    """
    column = {"column_id": tuned.column.id}
    cursor: psycopg.Cursor[Any] = conn.cursor(row_factory=namedtuple_row)
    raised = 0
    for row in cursor.execute(queries()["promises"], column).fetchall():
        key = {**column, "k_class": row.k_class, "shape": row.shape}
        first = row.first_check or 0
        if row.seen and _is_another(row):
            latest = conn.execute(queries()["first_check"], key).fetchone()
            first = int(latest[0]) if latest is not None else 0
        checks = conn.execute(queries()["checks"], {**key, "first_check": first}).fetchall()
        if first == row.first_check and len(checks) < row.seen:
            # The first of them have been dropped since. A sliding window would be a test without end, whose
            # false alarms nothing bounds: what is said begins anew with the checks to come.
            first, checks = checks[-1][0] + 1 if checks else first, []
        recalls = np.array([check[1] for check in checks], dtype=np.float64)  # None becomes NaN
        said = claim_from_checks(recalls, limits.confidence)
        # Before anything was learned nothing was promised.
        promised = _as_promised(tuned, row.target)
        heard = _listen(recalls if row.learned else recalls[:0], promised, limits)
        with conn.transaction():
            conn.execute(
                queries()["upsert_promise"],
                {
                    **key,
                    "first_check": first,
                    "access_path": row.access_path,
                    "index_no": row.index_no,
                    "effort": row.effort,
                    "target": row.target,
                    "checks": said.checks,
                    "unknown": said.unknown,
                    "recall": said.mean if said.checks else None,
                    "recall_bound": said.lower,
                    "below_08": said.tail if said.checks else None,
                    "below_08_bound": said.tail_upper,
                    "e_value": heard.e_value,
                    "alarms": row.alarms + heard.raised,
                    "confidence": said.confidence,
                },
            )
            if heard.raised:
                raised += 1
                began = heard.began or 0
                recent = recalls[began:][~np.isnan(recalls[began:])]
                start = conn.execute(
                    queries()["first_replay_since"], {**column, "check_no": checks[began][0]}
                ).fetchone()
                conn.execute(queries()["set_learn_from"], {**column, "learn_from": start[0] if start else 0})
                _fall_back(
                    conn,
                    tuned,
                    row.k_class,
                    row.shape,
                    "alarm",
                    _alarming(recent, promised),
                    {
                        "k_class": row.k_class,
                        "shape": row.shape,
                        "e_value": heard.e_value,
                        "recall": float(recent.mean()),
                        "checks": said.checks,
                    },
                )
    conn.execute(queries()["trim_checks"], {**column, "window": tuned.trajectory_window})
    return raised


def end_alert(conn: psycopg.Connection[Any], tuned: TunedColumn) -> bool:
    """Check as many searches as usual again once what serves is proven; return whether that is so now."""
    if not tuned.alert:
        return False
    values = {
        "column_id": tuned.column.id,
        "learn_from": tuned.learn_from,
        "min_samples": tuned.min_samples,
    }
    with conn.transaction():
        row = conn.execute(queries()["promise_kept"], values).fetchone()
        if row is None or not row[0]:
            return False
        conn.execute(queries()["set_alert"], {"column_id": tuned.column.id, "alert": False})
        _tell(conn, tuned, "proven", {"target_recall": tuned.target_recall})
    log.info("what serves %s is proven again", tuned.column, extra={"action": "proven"})
    return True


def _as_promised(tuned: TunedColumn, target: float | None) -> TunedColumn:
    """Return the column with the target that what serves was published for: that may have been another."""
    if target is None or target == tuned.target_recall:
        return tuned
    return replace(tuned, target_recall=target, max_tail=1.0)


def _listen(recalls: Floats, tuned: TunedColumn, limits: OversightLimits) -> Alarm:
    """Raise an alarm about the mean recall or about the tail; most of what may go wrong goes to the mean."""
    heard = alarm(recalls, tuned.target_recall, (1.0 - _FOR_THE_TAIL) * limits.false_alarms)
    if heard.raised or tuned.max_tail >= 1.0:
        return heard
    tail = tail_alarm(recalls, tuned.max_tail, _FOR_THE_TAIL * limits.false_alarms)
    return tail if tail.raised else heard


def _is_another(row: Any) -> bool:
    """Say whether what serves a class is another setting, or for another target, than what was spoken of."""
    return (row.access_path, row.index_no, row.target) != (
        row.promised_path,
        row.promised_index,
        row.promised_target,
    ) or (row.effort or 0) < _LOWERED * (row.promised_effort or 0)


def _alarming(recent: Floats, tuned: TunedColumn) -> str:
    return (
        f"the last {len(recent)} checks found a recall of {recent.mean():.3f}, and under {TAIL_RECALL:g} in "
        f"{(recent < TAIL_RECALL).mean():.1%}, "
        f"where {tuned.target_recall:g} and at most {tuned.max_tail:.1%} were promised"
    )


def _fall_back(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    k_class: int | None,
    shape: str | None,
    action: str,
    why: str,
    figures: dict[str, Any],
) -> None:
    """Serve without relying on what was learned, check more, begin anew; tell everyone."""
    key = {"column_id": tuned.column.id, "k_class": k_class, "shape": shape}
    conn.execute(queries()["fall_back"], {**key, "why": why})
    conn.execute(queries()["restart_checks"], key)
    conn.execute(queries()["set_alert"], {"column_id": tuned.column.id, "alert": True})
    _tell(conn, tuned, action, {"why": why, **figures})
    log.warning(
        "%s: %s; searches fall back until it is learned again", tuned.column, why, extra={"action": action}
    )


def _tell(conn: psycopg.Connection[Any], tuned: TunedColumn, action: str, details: dict[str, Any]) -> None:
    record_event(conn, tuned.column.id, action, details)
    notify(conn, tuned.column.id, action)
