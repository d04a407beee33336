"""`JobRecord`: when and what to write about the runs of a job."""

from __future__ import annotations

from vectuned.daemon.service.job_runner import JobRecord


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_job_record_is_due_at_once_with_news_and_else_once_a_minute() -> None:
    clock = Clock()
    record = JobRecord("drain", clock)
    assert not record.is_due()
    written = []
    for second in range(121):
        clock.now = 100.0 + second
        record.succeed(clock.now, 0)
        if record.is_due():
            written.append((second, record.values(10.0)["runs"]))
            record.mark_written()
    assert written == [(0, 1), (60, 60), (120, 60)]
    record.succeed(clock.now, 5)
    assert record.is_due()
    record.mark_written()
    for failures in (1, 2):
        record.fail(clock.now - 2, KeyError("nothing"))
        assert record.is_due()
        values = record.values(None)
        assert (values["failures"], values["error"], values["next"]) == (failures, "'nothing'", None)
        assert (values["ran"], values["duration_ms"], values["succeeded"]) == (2.0, 2000.0, 0.0)
        record.mark_written()
    record.succeed(clock.now, 0)  # a recovery is news
    assert record.is_due()
    assert (record.values(1.0)["failures"], record.values(1.0)["error"]) == (0, None)


def test_job_record_not_written_counts_its_runs_until_the_next_write() -> None:
    record = JobRecord("drain", Clock())
    for _ in range(3):
        record.succeed(1.0, 1)
        assert record.is_due()
    assert record.values(None)["runs"] == 3
