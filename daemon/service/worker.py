"""The daemon's work on one database: drain, replay, judge, learn, maintain. Each may be repeated."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from vectuned.config.errors import VectunedError
from vectuned.config.settings import Settings
from vectuned.daemon.database.standby import Standby, StandbyUnreadyError
from vectuned.daemon.pacing.pace import Pace
from vectuned.learning.exchange import export_columns, import_newest_document
from vectuned.learning.model.events import record_event
from vectuned.learning.model.trajectory import Trajectories, drain, read_pending
from vectuned.learning.model.tuned_columns import TunedColumn, read_tuned_columns
from vectuned.learning.oversight.judging import judge_searches, update_margins
from vectuned.learning.oversight.watch import (
    REPLAYS_AFTER_CHANGE,
    REPLAYS_OF_NEW_INDEX,
    OversightLimits,
    check_promises,
    detect_table_change,
    end_alert,
)
from vectuned.learning.policy.learner import LearningOptions, LearningResult, learn
from vectuned.learning.replay.replay import replay
from vectuned.learning.replay.work_timer import WorkTimer
from vectuned.sql.files import queries

log = logging.getLogger(__name__)

Progress = Callable[[int], None]
T = TypeVar("T")

_PATIENCE_MS: Final = 1000
_ADVICE: Final = "raise budget.core_share or lower sample_rate"
_ADVICE_BUSY: Final = "the server is busy with others: raise budget.pause_above or lower sample_rate"


class Worker:
    """Do the daemon's work through one autocommit connection.

    A column that cannot be worked on (its index dropped, a plan that is not the one to be measured) is
    logged and passed over; the others go on. With a `pace` it keeps within the budget and says when it falls
    behind; with a `standby` searches are replayed there.
    """

    def __init__(
        self,
        conn: psycopg.Connection[Any],
        settings: Settings,
        *,
        pace: Pace | None = None,
        standby: Standby | None = None,
    ) -> None:
        self.conn = conn
        self.settings = settings
        self.pace = pace
        self.standby = standby
        self._opened: dict[int, set[int]] = {}
        self._to_vacuum = False

    @property
    def options(self) -> LearningOptions:
        """How to learn, by the settings."""
        learning = self.settings.learning
        return LearningOptions(learning.confidence, learning.clusters, learning.seed, learning.step_aside)

    @property
    def limits(self) -> OversightLimits:
        """What is tolerated, by the settings."""
        learning = self.settings.learning
        return OversightLimits(learning.confidence, learning.false_alarms, learning.drift_share)

    def columns(self) -> list[TunedColumn]:
        """Return the columns that are enabled."""
        return [tuned for tuned in read_tuned_columns(self.conn) if tuned.enabled]

    def refresh(self, tuned: TunedColumn) -> TunedColumn:
        """Look what has become of a column's indexes and table, and have searches replayed on what is new."""
        values = {"column_id": tuned.column.id}
        self.check_rights(tuned)
        row = self.conn.execute(queries()["refresh_column"], values).fetchone()
        if row is not None and row[0]:
            log.info("the indexes of %s have changed", tuned.column, extra={"action": "indexes"})
        detect_table_change(self.conn, tuned, self.limits)
        tuned = next(iter(read_tuned_columns(self.conn, tuned.column.id)), tuned)
        opened = self._opened.get(tuned.column.id, set())
        # Only those there are: of a partitioned table a generation may come back.
        self._opened[tuned.column.id] = set(tuned.generations)
        for index in tuned.indexes:
            if index.generation in opened:
                continue
            wanted = {**values, "generation": index.generation, "requires": index.requires}
            count = tuned.min_samples * (
                REPLAYS_AFTER_CHANGE if index.requires is not None else REPLAYS_OF_NEW_INDEX
            )
            reopened = self.conn.execute(queries()["reopen"], {**wanted, "count": count}).rowcount
            if reopened > 0:
                log.info(
                    "%d searches of %s wait to be replayed on %s",
                    reopened,
                    tuned.column,
                    index.name,
                    extra={"action": "indexes"},
                )
        return tuned

    def check_rights(self, tuned: TunedColumn) -> None:
        """Raise VectunedError, with the statement that helps, where the role may not see all of a table."""
        row = self.conn.execute(queries()["unreadable"], {"column_id": tuned.column.id}).fetchone()
        if row is not None and row[0]:
            raise VectunedError(row[0])

    def refresh_all(self) -> int:
        """Look what has become of every enabled column; return how many are not as they were."""
        changed = 0
        for tuned in self.columns():
            with self._work():
                now = self._guarded(tuned, self.refresh)
            changed += now is not None and now != tuned
        return changed

    def prepare(self) -> None:
        """Bring into the database what the settings say of it.

        Raises VectunedError if the role has not the rights of a daemon.
        """
        role = sql.Identifier(self.conn.info.user).as_string(self.conn)
        try:
            self.conn.execute(queries()["bound_inbox"], {"bytes": self.settings.inbox.max_mb * 1024 * 1024})
        except psycopg.errors.InsufficientPrivilege as error:
            raise VectunedError(
                f"The role {role} may not do the daemon's work ({error.diag.message_primary}): run `vectuned "
                f"migrate --roles` as the schema's owner, then GRANT vectuned_daemon TO {role}."
            ) from error
        row = self.conn.execute(queries()["sees_others"]).fetchone()
        if self.settings.budget.pause_above and row is not None and not row[0]:
            log.warning(
                "budget.pause_above has no effect, others' statements cannot be seen: "
                "GRANT pg_read_all_stats TO %s",
                role,
                extra={"action": "rights"},
            )
        if self.standby is None:
            self._over(None, "standby_waits", "standby_ready")

    def drain(self) -> int:
        """Move recorded searches to the durable table; return how many.

        Where the vacuum after it fails, on a full disk perhaps, the next drain makes up for it.
        """
        moved = drain(self.conn)
        if moved:
            log.info("drained %d searches", moved, extra={"action": "drain"})
            self._to_vacuum = True
        if self._to_vacuum:
            may = self.conn.execute(queries()["may_vacuum"]).fetchone()
            if may is not None and may[0]:  # otherwise autovacuum does it, if later
                self.conn.execute(queries()["vacuum_inbox"])
            self._to_vacuum = False
        return moved

    def replay(self, tuned: TunedColumn, count: int, progress: Progress | None = None) -> int:
        """Replay up to `count` searches of a column, the newest first; return how many.

        Those beyond the column's window are not replayed any more. Raises StandbyUnreadyError where they are
        to be replayed on a standby that cannot be used now.
        """
        with self._work():
            tuned = self.refresh(tuned)
            values = {
                "column_id": tuned.column.id,
                "window": tuned.trajectory_window,
                "keep": tuned.store_vectors,
            }
            skipped = self.conn.execute(queries()["skip_old"], values).rowcount
        if skipped:
            log.info(
                "%d searches of %s are too old to be replayed",
                skipped,
                tuned.column,
                extra={"action": "replay"},
            )
        done = 0
        while done < count and self._waiting(tuned):
            if self.pace is not None:
                self.pace.wait_for_budget()
            reader = self._reader()
            size = count - done
            if self.pace is not None:
                if not self.pace.wait_for_server(reader or self.conn):
                    break
                size = self.pace.sizes[tuned.column.id].size(min(size, self.settings.learning.replay_batch))
            trajectories = read_pending(self.conn, tuned.column, size)
            done += self._pass(tuned, trajectories, reader, progress and _from(progress, done))
            if len(trajectories) < size:
                break
        if done:
            with self._work():
                check_promises(self.conn, tuned, self.limits)
            log.info("replayed %d searches of %s", done, tuned.column, extra={"action": "replay"})
        return done

    def _pass(
        self,
        tuned: TunedColumn,
        trajectories: Trajectories,
        reader: psycopg.Connection[Any] | None,
        progress: Progress | None,
    ) -> int:
        """Replay searches in one pass over the table, and learn how many the next should have."""
        if not len(trajectories):
            return 0
        timeout_ms = round(self.settings.budget.statement_timeout_seconds * 1000)
        size = self.pace.sizes[tuned.column.id] if self.pace is not None else None
        try:
            with self._work() as timer:
                done = replay(
                    self.conn,
                    tuned,
                    trajectories,
                    reader=reader,
                    progress=progress,
                    timeout_ms=timeout_ms,
                    timer=timer,
                )
        except psycopg.errors.SerializationFailure:
            if size is not None:  # a standby ends what stands in the way of its own replay
                size.record_failure()
            raise
        if self.pace is not None and size is not None:
            size.record(max(timer.wall - timer.scanning, 0.0), timer.scanning, timer.searches)
            self.pace.replayed[tuned.column.id] += done
        return done

    def replay_all(self, progress: Progress | None = None) -> int:
        """Replay a batch of every enabled column; return how many, 0 while a standby is not ready."""
        total, batch = 0, self.settings.learning.replay_batch
        try:
            for tuned in self.columns():
                total += self._guarded(tuned, lambda c: self.replay(c, batch, progress)) or 0
        except StandbyUnreadyError as error:
            if self.standby is not None and not self.standby.reported_unready:
                self.standby.reported_unready = True
                log.warning("%s", error, extra={"action": "standby"})
                record_event(self.conn, None, "standby_waits", {"why": str(error)})
        return total

    def watch_backlog(self) -> None:
        """Say of every column whether replaying keeps up."""
        if self.pace is None:
            return
        for tuned in self.columns():
            column = tuned.column.id
            backlog, replayed = self.pace.backlogs[column], self.pace.replayed.pop(column, 0)
            behind = backlog.observe(self._waiting(tuned), replayed)
            if behind is None:
                self._over(column, "behind", "caught_up")
            elif behind.due:
                advice = _ADVICE_BUSY if self.pace.busy else _ADVICE
                log.warning("%s is behind: %s; %s", tuned.column, behind, advice, extra={"action": "behind"})
                figures = {"waiting": behind.waiting, "per_minute": behind.per_minute, "advice": advice}
                record_event(self.conn, column, "behind", figures)

    def judge(self) -> int:
        """Judge the searches that were replayed or spoken of by users; return how many."""
        total = 0
        for tuned in self.columns():
            with self._work():
                judged = self._guarded(tuned, self._judge) or 0
            if judged:
                log.info("judged %d searches of %s", judged, tuned.column, extra={"action": "judge"})
            total += judged
        return total

    def _judge(self, tuned: TunedColumn) -> int:
        judged = judge_searches(self.conn, tuned)
        for k, margin in update_margins(self.conn, tuned).items():
            log.info(
                "%s: %.2g rungs on top of what was learned for up to %d rows",
                tuned.column,
                margin,
                k,
                extra={"action": "margin"},
            )
        return judged

    def learn(self, tuned: TunedColumn) -> LearningResult:
        """Learn about a column and publish, if there are enough replays."""
        if self.pace is not None:
            self.pace.wait_for_budget()
        with self._work():
            tuned = self.refresh(tuned)
            lesson = learn(self.conn, tuned, self.options)
            if lesson.version is not None:
                end_alert(self.conn, tuned)
        return lesson

    def learn_all(self) -> int:
        """Learn about every enabled column of which there is news; return how many were published."""
        published = 0
        for tuned in self.columns() if self.settings.learning.enabled else ():
            if self.has_news(tuned):
                lesson = self._guarded(tuned, self.learn)
                published += lesson is not None and lesson.version is not None
        return published

    def has_news(self, tuned: TunedColumn) -> bool:
        """Say whether learning again could change what serves: fresh replays, or no bank that fits."""
        values = {
            "column_id": tuned.column.id,
            "generations": tuned.generations,
            "target_recall": tuned.target_recall,
            "learn_from": tuned.learn_from,
            "max_tail": tuned.max_tail,
        }
        row = self.conn.cursor(row_factory=dict_row).execute(queries()["replays_since"], values).fetchone()
        assert row is not None
        return bool(row["fresh"] >= self.settings.learning.batch_min or not row["served"])

    def exchange(self) -> None:
        """Export and import, each even where the other fails."""
        try:
            self.export()
        finally:
            self.import_new()

    def export(self) -> int:
        """Write what was learned to the folder for it, if one is set; return how many files."""
        export = self.settings.export
        if not export.folder:
            return 0
        return len(export_columns(self.conn, Path(export.folder).expanduser(), export.keep))

    def import_new(self) -> int:
        """Take over the newest documents of the folder for it, if one is set; return how many had news."""
        if not self.settings.export.import_folder:
            return 0
        folder = Path(self.settings.export.import_folder).expanduser()
        changed = 0
        for tuned in self.columns():
            report = self._guarded(tuned, lambda c: import_newest_document(self.conn, c, folder))
            if report is not None and report["changed"]:
                log.info("%s took over %s", tuned.column, report["source"], extra={"action": "import"})
                changed += 1
        return changed

    def maintain(self) -> None:
        """Make the coming days' partitions, and drop those and all else that is past its retention.

        Of replays those go that are beyond their column's window, which learning sees to where it is on. The
        partitions come last: that locks out searches' feedback, so it gives up where somebody holds the
        tables for long.
        """
        days = {"days": self.settings.schedule.retention_days}
        self.conn.execute(queries()["forget_requests"], days)
        self.conn.execute(queries()["forget_events"], days)
        for tuned in self.columns() if not self.settings.learning.enabled else ():
            if tuned.indexes:  # of none that is there, all replays would go
                window = {"column_id": tuned.column.id, "window": tuned.trajectory_window}
                self.conn.execute(queries()["trim_replays"], {**window, "generations": tuned.generations})
        with self.conn.transaction():
            self.conn.execute(queries()["limit_wait"], {"milliseconds": str(_PATIENCE_MS)})
            self.conn.execute(queries()["partition"], days)

    def _work(self) -> AbstractContextManager[WorkTimer]:
        return self.pace.work() if self.pace is not None else nullcontext(WorkTimer())

    def _waiting(self, tuned: TunedColumn) -> int:
        row = self.conn.execute(queries()["waiting"], {"column_id": tuned.column.id}).fetchone()
        return int(row[0]) if row is not None else 0

    def _reader(self) -> psycopg.Connection[Any] | None:
        """Return the connection to replay on, the standby's once that has caught up; None: our own."""
        if self.standby is None:
            return None
        reader = self.standby.ready(self.conn)
        if self.standby.reported_unready is not False:
            self._over(None, "standby_waits", "standby_ready")
            self.standby.reported_unready = False
        return reader

    def _over(self, column_id: int | None, began: str, ended: str) -> None:
        self.conn.execute(queries()["over"], {"column_id": column_id, "began": began, "ended": ended})

    def _guarded(self, tuned: TunedColumn, work: Callable[[TunedColumn], T]) -> T | None:
        """Do work on a column; what fails for this column alone is logged and must not stop the others."""
        try:
            return work(tuned)
        except StandbyUnreadyError:
            raise
        except (VectunedError, psycopg.Error) as error:
            if self.conn.closed or isinstance(error, psycopg.errors.QueryCanceled):
                raise
            log.warning("%s is passed over: %s", tuned.column, sentence(error), extra={"action": "skip"})
            return None


def _from(progress: Progress, before: int) -> Progress:
    """Count on from what was done before."""
    return lambda done: progress(before + done)


def sentence(error: Exception) -> str:
    """Say what went wrong, as the server or we put it."""
    if isinstance(error, psycopg.Error) and error.diag.message_primary:
        return error.diag.message_primary
    return str(error)
