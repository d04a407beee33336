"""The log in each of its formats, and the run of a job that each line belongs to."""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from pathlib import Path
from typing import Literal

import pytest

from vectuned.config.sections import LoggingSettings
from vectuned.daemon.logs import goes_to_journal, log_context, set_up_logging

Format = Literal["auto", "text", "journald", "json"]
log = logging.getLogger("vectuned.daemon.service.service")


@pytest.fixture(params=["text", "journald", "json"])
def form(request: pytest.FixtureRequest) -> Format:
    form: Format = request.param
    return form


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def log_as(form: Format, level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO") -> None:
    set_up_logging(LoggingSettings(format=form, level=level), verbose=True)


def test_set_up_logging_text_has_time_level_run_and_action(capsys: pytest.CaptureFixture[str]) -> None:
    log_as("text")
    log.warning("drained %d searches", 3, extra={"action": "drain"})
    (line,) = lines(capsys)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d WARNING - drain: drained 3 searches", line)


def test_set_up_logging_journald_has_a_priority_and_no_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    log_as("journald", "DEBUG")
    for number, level in enumerate((logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)):
        log.log(level, "line %d", number, extra={"action": "drain"})
    log.critical("line 4", extra={"action": "drain"})
    assert lines(capsys) == [
        "<7>- drain: line 0",
        "<6>- drain: line 1",
        "<4>- drain: line 2",
        "<3>- drain: line 3",
        "<2>- drain: line 4",
    ]


def test_set_up_logging_json_is_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    log_as("json")
    log.info("a\nb \x1b[2J é", extra={"action": "drain"})
    with log_context("replay") as run:
        log.info("c")
    first, second = (json.loads(line) for line in lines(capsys))
    assert first["message"] == "a\nb \x1b[2J é"
    assert (first["level"], first["action"], first["run"]) == ("INFO", "drain", None)
    assert (second["action"], second["run"], second["logger"]) == (
        "replay",
        run,
        "vectuned.daemon.service.service",
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first["time"])


def test_log_context_marks_all_records_within(capsys: pytest.CaptureFixture[str], form: Format) -> None:
    log_as(form)
    log.info("before")
    with log_context("replay") as run:
        log.info("within")
        logging.getLogger("vectuned.learning.replay.replay").info("deeper", extra={"action": "scan"})
        with log_context() as inner:
            log.info("inner")
        log.info("again")
    log.info("after")
    logged = lines(capsys)
    assert re.fullmatch(r"[0-9a-f]{8}", run)
    assert run != inner
    assert [run in line for line in logged] == [False, True, True, False, True, False]
    assert [inner in line for line in logged] == [False, False, False, True, False, False]
    actions = ["service", "replay", "scan", "service", "replay", "service"]
    if form == "json":
        assert [json.loads(line)["action"] for line in logged] == actions
    else:
        assert [re.findall(r"(\w+): \w+$", line) for line in logged] == [[action] for action in actions]


def test_log_context_is_separate_in_each_thread(capsys: pytest.CaptureFixture[str]) -> None:
    log_as("json")
    runs: dict[str, str] = {}
    both = threading.Barrier(2)

    def work(name: str) -> None:
        with log_context(name) as runs[name]:
            both.wait(timeout=300)
            log.info("of %s", name)
            both.wait(timeout=300)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("drain", "judge")]
    with log_context("main"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    said = {entry["action"]: entry["run"] for entry in map(json.loads, lines(capsys))}
    assert said == runs
    assert len(set(runs.values())) == 2


def test_log_context_ends_after_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    log_as("text")
    with pytest.raises(ValueError, match="no"), log_context("replay"):
        raise ValueError("no")
    log.info("after")
    assert " - service: after" in lines(capsys)[0]


def test_set_up_logging_keeps_a_traceback_with_its_line(
    capsys: pytest.CaptureFixture[str], form: Format
) -> None:
    log_as(form)
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        log.exception("replay failed", extra={"action": "replay"})
    first, *more = lines(capsys)
    if form == "json":
        assert more == []
        assert "ValueError: first\nsecond" in json.loads(first)["exception"]
        return
    prefix = "<3>" if form == "journald" else ""
    assert first.endswith("- replay: replay failed")
    assert first.startswith(prefix)
    assert all(line.startswith(f"{prefix}\t") for line in more)
    assert more[-2:] == [f"{prefix}\tValueError: first", f"{prefix}\tsecond"]


def test_set_up_logging_escapes_forged_lines(capsys: pytest.CaptureFixture[str], form: Format) -> None:
    log_as(form)
    log.info(
        "table %s", "x\n<0>2026-11-21 10:00:00 ERROR - stop: forged\r\x1b[2J\x00\u2028", extra={"action": "a"}
    )
    output = capsys.readouterr().err
    assert all(char.isprintable() or char in "\n\t" for char in output)
    heads = [line for line in output.splitlines() if not re.match(r"(<6>)?\t", line)]
    assert len(heads) == 1
    assert heads[0].startswith("<6>") == (form == "journald")


def test_goes_to_journal_only_if_stderr_is_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "journal").open("w+") as journal:
        found = os.fstat(journal.fileno())
        monkeypatch.setattr("sys.stderr", journal)
        for named in (f"{found.st_dev}:{found.st_ino}", f"{found.st_dev}:{found.st_ino + 1}", "", "nonsense"):
            monkeypatch.setenv("JOURNAL_STREAM", named)
            log_as("auto")
            log.info("named %s", named)
        journal.seek(0)
        first, *others = journal.read().splitlines()
    assert first.startswith("<6>- service: named ")
    assert len(others) == 3
    assert not any(line.startswith("<") for line in others)
    assert not goes_to_journal(journal, os.environ)  # closed


def test_set_up_logging_without_verbose_logs_only_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    set_up_logging(LoggingSettings(format="text"), verbose=False)
    log.info("unheard")
    log.warning("heard")
    set_up_logging(LoggingSettings(format="text", level="ERROR"), verbose=True)
    log.warning("unheard")
    assert [line.rpartition(" ")[2] for line in lines(capsys)] == ["heard"]


def test_set_up_logging_includes_the_scheduler(capsys: pytest.CaptureFixture[str]) -> None:
    log_as("journald")
    logging.getLogger("apscheduler.executors.default").error("a job raised")
    logging.getLogger("apscheduler.scheduler").warning("still running")
    assert lines(capsys) == ["<3>- default: a job raised"]
