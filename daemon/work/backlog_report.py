"""Whether replaying keeps up with recording: said in events and the log, and recording limited where not."""

from __future__ import annotations

import logging
from typing import Final

from vectuned.daemon.pacing.pace import Pace
from vectuned.learning.model.events import record_event
from vectuned.learning.model.tuned_columns import TunedColumn

from . import storage

log = logging.getLogger(__name__)

_ADVICE: Final = "raise budget.core_share or lower sample_rate"
_ADVICE_READ: Final = "raise budget.mb_per_hour or lower sample_rate"
_ADVICE_BUSY: Final = "the server is busy with others: raise budget.pause_above or lower sample_rate"


def report_backlog(conn: storage.Connection, tuned: TunedColumn, pace: Pace, waiting: int) -> None:
    """Report whether replaying keeps up with recording a column, of which `waiting` searches wait.

    Limits recording to what can be replayed, and resets the count of searches replayed.
    """
    column_id = tuned.column.id
    replayed = pace.replayed.pop(column_id, 0)
    _limit_recording(conn, tuned, pace, waiting, replayed)
    lag = pace.backlogs[column_id].observe(waiting, replayed)
    if lag is None:
        storage.record_event_end(conn, column_id, "behind", "caught_up")
    elif lag.due:
        advice = _ADVICE_BUSY if pace.busy else _ADVICE_READ if pace.read_bound else _ADVICE
        log.warning("%s is behind: %s; %s", tuned.column, lag, advice, extra={"action": "behind"})
        details = {"waiting": lag.waiting, "per_minute": lag.per_minute, "advice": advice}
        record_event(conn, column_id, "behind", details)


def _limit_recording(
    conn: storage.Connection, tuned: TunedColumn, pace: Pace, waiting: int, replayed: int
) -> None:
    """Record no more searches than can be replayed."""
    now = storage.read_recording(conn, tuned)
    limit = pace.recording[tuned.column.id].observe(
        now.searches, replayed, waiting, now.share, now.record_at_most
    )
    if limit != now.record_at_most:
        storage.limit_recording(conn, tuned, limit)
        share = "its sample_rate" if limit is None else f"at most {limit:.2%}"
        log.info("%s: %s of the searches is recorded", tuned.column, share, extra={"action": "recording"})
