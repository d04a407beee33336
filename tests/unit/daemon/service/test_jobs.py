"""How the daemon's jobs are tried again and noted down, when they are stuck, and what a reload changes."""

from __future__ import annotations

import os
import random
import socket
import threading
from pathlib import Path

import pytest

from vectuned.config.settings import Settings, load_settings
from vectuned.daemon.service.jobs import JOBS, JobRecord, backoff
from vectuned.daemon.service.sd_notify import Notifier
from vectuned.daemon.service.settings_diff import compare
from vectuned.daemon.service.watchdog import Watchdog


class Time:
    """A clock that is turned by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("every", [0.1, 10.0, 3600.0])
def test_pauses_double_up_to_five_minutes_and_are_never_the_same(every: float) -> None:
    rng = random.Random(1)
    for failures in (*range(1, 20), 10_000):
        plain = min(min(every, 5.0) * 2.0 ** min(failures - 1, 30), 300.0)
        drawn = {backoff(failures, every, rng) for _ in range(50)}
        assert 0.8 * plain <= min(drawn) < max(drawn) <= 1.2 * plain


def test_runs_are_written_down_at_once_if_there_is_news_and_else_once_a_minute() -> None:
    clock = Time()
    record = JobRecord("drain", clock)
    assert not record.due()
    written = []
    for second in range(121):
        clock.now = 100.0 + second
        record.succeeded(clock.now, 0)
        if record.due():
            written.append((second, record.values(10.0)["runs"]))
            record.written()
    assert written == [(0, 1), (60, 60), (120, 60)]
    record.succeeded(clock.now, 5)
    assert record.due()
    record.written()
    for failures in (1, 2):
        record.failed(clock.now - 2, KeyError("nothing"))
        assert record.due()
        values = record.values(None)
        assert (values["failures"], values["error"], values["next"]) == (failures, "'nothing'", None)
        assert (values["ran"], values["duration_ms"], values["succeeded"]) == (2.0, 2000.0, 0.0)
        record.written()
    record.succeeded(clock.now, 0)  # that it works again is news
    assert record.due()
    assert (record.values(1.0)["failures"], record.values(1.0)["error"]) == (0, None)


def test_what_could_not_be_written_down_is_counted_the_next_time() -> None:
    record = JobRecord("drain", Time())
    for _ in range(3):
        record.succeeded(1.0, 1)
        assert record.due()
    assert record.values(None)["runs"] == 3


def test_every_job_has_a_name_of_its_own_and_a_time() -> None:
    assert len({job.name for job in JOBS}) == len(JOBS)
    for job in JOBS:
        every = job.every(load_settings(None, {"export.folder": "/var/lib/patterns"}, {}))
        assert every is not None
        assert every < 7200
        assert (job.every(Settings()) is None) == (job.name == "exchange")
        # A long request or lesson must not keep the recorded searches waiting.
        assert (job.queue == "upkeep") == (job.name in ("drain", "refresh", "maintain", "exchange"))


def test_work_is_stuck_when_it_neither_says_anything_nor_computes() -> None:
    clock, computed = Time(), Time()
    pulse = Watchdog(clock, lambda _thread: computed.now)
    with pulse.work("replay", 10):
        clock.now += 10
        assert pulse.stuck() is None
        pulse.beat()
        clock.now += 10
        assert pulse.stuck() is None
        with pulse.rest():
            clock.now += 1000
            assert pulse.stuck() is None
        clock.now += 9
        assert pulse.stuck() is None
        for _ in range(12):  # it computes when it is looked at, up to twelve times its patience
            clock.now += 9
            computed.now += 1
            assert pulse.stuck() is None
        clock.now += 9
        computed.now += 1
        assert pulse.stuck() == ("replay", 126)
        pulse.beat()
        assert pulse.stuck() is None
        for _ in range(3):  # to wake up and wait on is not to compute
            clock.now += 6
            computed.now += 0.01
            stuck = pulse.stuck()
        assert stuck == ("replay", 18)
    assert pulse.stuck() is None


def test_of_several_threads_the_one_that_waits_is_found() -> None:
    clock, hold, began = Time(), threading.Event(), threading.Event()
    pulse = Watchdog(clock)

    def wait() -> None:
        with pulse.work("drain", 5):
            began.set()
            hold.wait()

    thread = threading.Thread(target=wait)
    thread.start()
    with pulse.work("learn", 50):
        began.wait()
        pulse.stuck()
        clock.now += 6
        assert pulse.stuck() == ("drain", 6)
        hold.set()
        thread.join()
        assert pulse.stuck() is None


def test_what_takes_effect_at_once_and_what_needs_a_restart() -> None:
    old = load_settings(None, {"database.dsn": "host=a", "schedule.drain_seconds": 5}, {})
    chosen = {"database.dsn": "host=b", "embedded.home": "/srv", "schedule.drain_seconds": 6}
    changes = compare(old, load_settings(None, chosen, {}))
    assert changes.now == ("schedule.drain_seconds",)
    assert changes.later == ("database.dsn", "embedded.home")
    assert (changes.settings.database, changes.settings.embedded) == (old.database, old.embedded)
    assert changes.settings.schedule.drain_seconds == 6
    assert compare(old, old).now == compare(old, old).later == ()


def test_a_manager_that_is_gone_or_does_not_listen_harms_nobody(tmp_path: Path) -> None:
    for place in ("", "nonsense", "vsock:2:1", f"{tmp_path}/nothing", "@nothing-at-all"):
        environ = {"NOTIFY_SOCKET": place, "WATCHDOG_USEC": "soon", "OTHER": "stays"}
        notifier = Notifier(environ)
        notifier.ready()
        notifier.status("two\nlines")
        assert notifier.watchdog_seconds is None
        assert environ == {"OTHER": "stays"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf:
        deaf.bind(f"{tmp_path}/deaf")
        ours = {"NOTIFY_SOCKET": f"{tmp_path}/deaf", "WATCHDOG_USEC": "3000000"}
        for pid, seconds in ((None, 3), (os.getpid(), 3), (1, None)):
            more = {} if pid is None else {"WATCHDOG_PID": str(pid)}
            notifier = Notifier({**ours, **more})
            assert notifier.watchdog_seconds == seconds
        notifier.status("two\nlines")
        assert deaf.recv(100) == b"STATUS=two lines"
