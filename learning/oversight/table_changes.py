"""Changes of a table: whether it is still the one that was learned about, and what to do if not."""

from __future__ import annotations

import logging
from typing import Any, Final, Literal

import psycopg

from vectuned.learning.model.events import record_event
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.policy.replays import load_replays
from vectuned.sql.rows import execute, fetch_row

from .alarms import OversightLimits
from .fallback import Fallback, fall_back
from .growth import USUAL_POWER, estimate_power

Change = Literal["rewritten", "rebuilt", "deletes", "growth", "upgraded"]

log = logging.getLogger(__name__)

# Searches replayed again, in multiples of min_samples, on a changed table or through a new partial index. A
# new index of all rows gets more: much is to be proven of it, and with few replays a proof takes more effort.
REPLAYS_AFTER_CHANGE: Final = 3
REPLAYS_OF_NEW_INDEX: Final = 10  # times min_samples


def detect_table_change(
    conn: psycopg.Connection[Any], tuned: TunedColumn, limits: OversightLimits
) -> Change | None:
    """Detect whether a column's table has changed since it was learned about, and react.

    Returns the change. 'rewritten': vectors have other values, most likely from another embedding model; the
    old query vectors and replays are deleted. 'rebuilt': the main index was rebuilt. 'deletes' and 'growth':
    rows were deleted or added; the newest searches are replayed again, and earlier replays are trained on but
    prove nothing any more. In each case searches fall back, more of them are checked, and claims about their
    recall start over, in one transaction. 'upgraded': PostgreSQL or pgvector has another version, so that
    costs are measured again. What serves stays in service meanwhile, since versions do not change its recall.
    """
    column = {"column_id": tuned.column.id}
    changes = fetch_row(conn, "changes_since_baseline", column)
    if changes is None:
        execute(conn, "set_baseline", column)
        return None
    verdict = _classify(changes, limits.drift)
    if verdict is None:
        return _relearn_costs(conn, tuned, changes) if changes.upgraded_from is not None else None
    change, why = verdict
    power = USUAL_POWER
    if change == "growth" and tuned.main is not None:
        power = estimate_power(load_replays(conn, tuned, tuned.main), tuned.main, tuned)
    with conn.transaction():
        figures = {
            "growth": changes.growth,
            "gone": changes.gone or 0.0,
            "rewritten": changes.rewritten or 0.0,
        }
        fall_back(conn, tuned, change, why, figures, Fallback(limits.caps, power=power))
        execute(conn, "set_baseline", column)
        _discard_outdated(conn, tuned, change)
    return change


def _classify(changes: Any, drift: float) -> tuple[Change, str] | None:
    """Return which change is beyond the tolerated share `drift`, and a description; None if none is."""
    gone, rewritten = changes.gone or 0.0, changes.rewritten or 0.0
    if rewritten >= drift:
        return "rewritten", f"{rewritten:.0%} of the vectors were rewritten"
    if changes.rebuilt:
        return "rebuilt", "the index was rebuilt"
    if changes.growth is None:
        return "growth", "the table was empty and has rows now"
    if gone >= drift or changes.growth <= 1.0 - drift:
        return "deletes", f"{max(gone, 1.0 - changes.growth):.0%} of the rows are gone"
    if changes.growth >= 1.0 + drift:
        return "growth", f"the table has {changes.growth:.2f} times the rows"
    return None


def _relearn_costs(conn: psycopg.Connection[Any], tuned: TunedColumn, changes: Any) -> Change:
    """Delete replays made under other versions, and queue the newest searches to be replayed again.

    Where no query vectors are kept, the replays stay, but prove nothing any more.
    """
    column = {"column_id": tuned.column.id}
    why = (
        f"{changes.upgraded_from} became {changes.versions}: the costs of searches are measured again; what "
        "serves stays in service meanwhile"
    )
    with conn.transaction():
        execute(conn, "set_baseline_versions", column)
        if tuned.store_vectors:
            execute(conn, "delete_replays", column)
        else:
            execute(conn, "restart_evidence", column)
        count = REPLAYS_AFTER_CHANGE * tuned.min_samples
        execute(conn, "replay_again", {**column, "generation": None, "requires": None, "count": count})
        record_event(conn, tuned.column.id, "upgraded", {"why": why})
    log.warning("%s: %s", tuned.column, why, extra={"action": "upgraded"})
    return "upgraded"


def _discard_outdated(conn: psycopg.Connection[Any], tuned: TunedColumn, change: Change) -> None:
    """Delete what a change has made worthless, and queue searches to be replayed again."""
    column = {"column_id": tuned.column.id}
    if change == "rewritten":
        execute(conn, "delete_query_vectors", column)
        execute(conn, "delete_replays", column)
    if change in ("deletes", "growth"):
        execute(conn, "restart_evidence", column)
        count = REPLAYS_AFTER_CHANGE * tuned.min_samples
        execute(conn, "replay_again", {**column, "generation": None, "requires": None, "count": count})
