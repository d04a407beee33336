"""The daemon's work on one database: drain, replay, judge, learn, maintain. Each may be repeated."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from vectuned.config.errors import VectunedError
from vectuned.config.settings import Settings
from vectuned.learning.catalogue import Care, tuned_columns
from vectuned.learning.judging import judge, move_margins
from vectuned.learning.learner import Lesson, Options, learn
from vectuned.learning.replay import replay
from vectuned.learning.trajectory import drain, pending
from vectuned.learning.watch import Limits, calm_down, watch_recall, watch_table
from vectuned.sql.loader import queries

log = logging.getLogger(__name__)

Progress = Callable[[int], None]
T = TypeVar("T")

_REOPENED: Final = 3
_PATIENCE_MS: Final = 1000


class Worker:
    """Do the daemon's work through one autocommit connection.

    A column that cannot be worked on (its index dropped, a plan that is not the one to be measured) is
    logged and passed over; the others go on.
    """

    def __init__(self, conn: psycopg.Connection[Any], settings: Settings) -> None:
        self.conn = conn
        self.settings = settings
        self._opened: dict[int, set[int]] = {}

    @property
    def options(self) -> Options:
        """How to learn, by the settings."""
        learning = self.settings.learning
        return Options(learning.confidence, learning.clusters, learning.seed, learning.step_aside)

    @property
    def limits(self) -> Limits:
        """What is tolerated, by the settings."""
        learning = self.settings.learning
        return Limits(learning.confidence, learning.false_alarms, learning.drift_share)

    def columns(self) -> list[Care]:
        """Return the columns that are enabled."""
        return [care for care in tuned_columns(self.conn) if care.enabled]

    def refresh(self, care: Care) -> Care:
        """Look what has become of a column's indexes and table, and have searches replayed on what is new."""
        values = {"column_id": care.column.id}
        row = self.conn.execute(queries()["refresh_column"], values).fetchone()
        if row is not None and row[0]:
            log.info("the indexes of %s have changed", care.column, extra={"action": "indexes"})
        watch_table(self.conn, care, self.limits)
        care = next(iter(tuned_columns(self.conn, care.column.id)), care)
        opened = self._opened.get(care.column.id, set())
        # Only those there are: of a partitioned table a generation may come back.
        self._opened[care.column.id] = set(care.generations)
        for index in care.indexes:
            if index.generation in opened:
                continue
            wanted = {**values, "generation": index.generation, "requires": index.requires}
            count = self.conn.execute(queries()["reopen"], {**wanted, "count": _REOPENED * care.min_samples})
            if count.rowcount > 0:
                log.info(
                    "%d searches of %s wait to be replayed on %s", count.rowcount, care.column, index.name,
                    extra={"action": "indexes"},
                )  # fmt: skip
        return care

    def prepare(self) -> None:
        """Bring into the database what the settings say of it."""
        limit = sql.Literal(self.settings.inbox.max_mb * 1024 * 1024)
        self.conn.execute(queries()["bound_inbox"].format(bytes=limit))

    def drain(self) -> int:
        """Move recorded searches to the durable table; return how many."""
        moved = drain(self.conn)
        if moved:
            self.conn.execute(queries()["vacuum_inbox"])
            log.info("drained %d searches", moved, extra={"action": "drain"})
        return moved

    def replay(self, care: Care, count: int, progress: Progress | None = None) -> int:
        """Replay up to `count` searches of a column, the newest first; return how many."""
        care = self.refresh(care)
        trajectories = pending(self.conn, care.column, count)
        if not len(trajectories):
            return 0
        done = replay(self.conn, care, trajectories, progress=progress)
        watch_recall(self.conn, care, self.limits)
        log.info("replayed %d searches of %s", done, care.column, extra={"action": "replay"})
        return done

    def replay_all(self, progress: Progress | None = None) -> int:
        """Replay a batch of every enabled column; return how many searches."""
        return sum(
            self._guarded(care, lambda c: self.replay(c, self.settings.learning.replay_batch, progress)) or 0
            for care in self.columns()
        )

    def judge(self) -> int:
        """Judge the searches that were replayed or spoken of by users; return how many."""
        total = 0
        for care in self.columns():
            judged = self._guarded(care, self._judge) or 0
            if judged:
                log.info("judged %d searches of %s", judged, care.column, extra={"action": "judge"})
            total += judged
        return total

    def _judge(self, care: Care) -> int:
        judged = judge(self.conn, care)
        for k, margin in move_margins(self.conn, care).items():
            log.info(
                "%s: %.2g rungs on top of what was learned for up to %d rows", care.column, margin, k,
                extra={"action": "margin"},
            )  # fmt: skip
        return judged

    def learn(self, care: Care) -> Lesson:
        """Learn about a column and publish, if there are enough replays."""
        care = self.refresh(care)
        lesson = learn(self.conn, care, self.options)
        if lesson.version is not None:
            calm_down(self.conn, care)
        return lesson

    def learn_all(self) -> int:
        """Learn about every enabled column of which there is news; return how many were published."""
        published = 0
        for care in self.columns() if self.settings.learning.enabled else ():
            if self.has_news(care):
                lesson = self._guarded(care, self.learn)
                published += lesson is not None and lesson.version is not None
        return published

    def has_news(self, care: Care) -> bool:
        """Say whether learning again could change what serves: fresh replays, or no bank that fits."""
        values = {
            "column_id": care.column.id, "generations": care.generations, "target_recall": care.target_recall,
            "learn_from": care.learn_from,
            "max_tail": care.max_tail,
        }  # fmt: skip
        row = self.conn.cursor(row_factory=dict_row).execute(queries()["replays_since"], values).fetchone()
        assert row is not None
        return bool(row["fresh"] >= self.settings.learning.batch_min or not row["served"])

    def maintain(self) -> None:
        """Make the coming days' partitions and drop those past their retention, as well as finished requests.

        That locks out searches' feedback, so it gives up where somebody holds the tables for long.
        """
        days = {"days": self.settings.schedule.retention_days}
        self.conn.execute(queries()["forget_requests"], days)
        with self.conn.transaction():
            self.conn.execute(queries()["limit_wait"], {"milliseconds": str(_PATIENCE_MS)})
            self.conn.execute(queries()["partition"], days)

    def _guarded(self, care: Care, work: Callable[[Care], T]) -> T | None:
        """Do work on a column; what fails for this column alone is logged and must not stop the others."""
        try:
            return work(care)
        except (VectunedError, psycopg.Error) as error:
            if self.conn.closed or isinstance(error, psycopg.errors.QueryCanceled):
                raise
            log.warning("%s is passed over: %s", care.column, sentence(error), extra={"action": "skip"})
            return None


def sentence(error: Exception) -> str:
    """Say what went wrong, as the server or we put it."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return str(error)
