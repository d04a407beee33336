"""The daemon under a service manager: its notifications, reloads, and the systemd unit."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.integration.daemon_helpers import Daemon, Manager
from tests.integration.embedded_helpers import PACKAGE, eventually
from tests.integration.table_helpers import Connection, clustered, enable, make, one

from vectuned.config.errors import DatabaseUnavailableError
from vectuned.config.settings import load_settings
from vectuned.daemon.console import Console
from vectuned.daemon.reports import status
from vectuned.daemon.service.service import Service
from vectuned.daemon.service.systemd import Notifier

UNIT = PACKAGE / "config" / "vectuned.service"
MAX_EXPOSURE = 2.0  # of systemd-analyze security, from 0 (safe) to 10

# Without patience of its own, a job is stuck after ten times the statement timeout.
IMPATIENT = """
import sys
from vectuned.daemon.cli.main import main
from vectuned.daemon.service.jobs import JOBS
for job in JOBS:
    object.__setattr__(job, "patience", 0.0)
sys.exit(main(["run", *sys.argv[1:]]))
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket."""
    path = Path(tempfile.mkdtemp(prefix="vt-"))
    yield path
    shutil.rmtree(path)


def daemon_status(conn: Connection, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what `vectuned status` prints about the daemon."""
    status.show_daemon(Console(as_json=False, quiet=False), status.read_daemon(conn))
    return capsys.readouterr().out


def test_service_notifies_from_ready_through_reloads_and_failures_to_the_end(
    conn: Connection, database: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(conn, clustered(100, 4, seed=1))
    enable(conn)
    config = folder / "vectuned.toml"
    config.write_text("[schedule]\ndrain_seconds = 0.2\nlearn_seconds = 100\n")
    assert daemon_status(conn, capsys) == ""
    with (
        Manager(folder, abstract=False) as manager,
        Daemon(
            "--dsn", database, "--config", str(config), environment={"NOTIFY_SOCKET": manager.address}
        ) as daemon,
    ):
        manager.wait_for("READY=1")
        assert manager.received == ["READY=1"]  # nothing before the first connection
        manager.wait_for("STATUS=1 column, nothing published yet")
        assert eventually(lambda: one(conn, "SELECT count(*) > 0 FROM vectuned.job"))
        assert re.match(r"daemon: all \d jobs? (are|is) fine", daemon_status(conn, capsys))

        config.write_text(
            "[database]\nreplay_dsn = 'host=nowhere password=secret'\n"
            "[schedule]\ndrain_seconds = 0.1\nlearn_seconds = 100\n[logging]\nformat = 'json'\n"
        )
        daemon.process.send_signal(signal.SIGHUP)
        manager.wait_for(lambda text: bool(re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", text)))
        manager.wait_for("READY=1")
        assert "settings read again, changed: logging.format, schedule.drain_seconds\n" in daemon.log
        assert "not changed until a restart: database.replay_dsn\n" in daemon.log
        assert "secret" not in daemon.log

        config.write_text("[schedule]\ndrain_seconds = 'often'\n")
        daemon.process.send_signal(signal.SIGHUP)
        manager.wait_for("READY=1")
        entry = json.loads(daemon.log.splitlines()[-1])
        assert entry["level"] == "ERROR"
        assert "the old ones stay" in entry["message"]
        assert "schedule.drain_seconds must be a number" in entry["message"]

        # A failing job is retried with growing delays, does not stop the others, and is reported.
        conn.execute("ALTER FUNCTION vectuned._drain RENAME TO _elsewhere")
        failing = r"STATUS=1 column, nothing published yet; failing: drain \(\d+ times\)"
        manager.wait_for(lambda text: re.fullmatch(failing, text) is not None)
        row = conn.execute(
            "SELECT failures, last_error, last_success < last_run, next_run > last_run "
            "FROM vectuned.job WHERE name = 'drain'"
        ).fetchone()
        assert row is not None
        assert row[0] >= 2
        assert "function vectuned._drain" in row[1]
        assert row[2:] == (True, True)
        assert re.search(
            r"job drain failed \d+ times in a row: function vectuned._drain", daemon_status(conn, capsys)
        )
        conn.execute("ALTER FUNCTION vectuned._elsewhere RENAME TO _drain")
        manager.wait_for("STATUS=1 column, nothing published yet")
        found = (
            "SELECT failures = 0 AND last_error IS NULL AND runs > 2 FROM vectuned.job WHERE name = 'drain'"
        )
        assert eventually(lambda: one(conn, found))
        assert one(conn, "SELECT failures FROM vectuned.job WHERE name = 'request'") == 0

        daemon.process.terminate()
        manager.wait_for("STOPPING=1")
        assert daemon.process.wait(60) == 0
        assert not any("WATCHDOG" in text for text in manager.received)  # the manager set no watchdog
    assert daemon_status(conn, capsys).startswith("no daemon works here since ")


def test_service_notifies_the_watchdog_only_while_work_makes_progress(
    conn: Connection, database: str, folder: Path
) -> None:
    make(conn, clustered(100, 4, seed=1))
    enable(conn)
    with (
        Manager(folder, abstract=True) as manager,
        Daemon(
            "--dsn",
            database,
            program=("-c", IMPATIENT),
            environment={"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "600000"},
            schedule__drain_seconds=0.1,
            budget__statement_timeout_seconds=0.1,
        ) as daemon,
    ):
        manager.wait_for("READY=1")
        for _ in range(3):
            manager.wait_for("WATCHDOG=1")
        with conn.transaction():
            conn.execute("LOCK TABLE vectuned.inbox IN ACCESS EXCLUSIVE MODE")
            daemon.logs("watchdog: drain has made no progress for")
            manager.hear(0.1)
            assert "WATCHDOG=1" not in manager.hear(1.0)
        manager.wait_for("WATCHDOG=1")
        daemon.stop()


def test_service_without_a_database_ends_with_the_reason(folder: Path) -> None:
    chosen = load_settings(None, {"database.dsn": "host=/nonexistent"}, {})
    with Manager(folder, abstract=False) as manager:
        service = Service([("", chosen)], lambda: [], Notifier({"NOTIFY_SOCKET": manager.address}))
        with pytest.raises(DatabaseUnavailableError, match="/nonexistent"):
            service.run()
        received = manager.hear(0.1)
    assert received[0].startswith("STATUS=No connection to host=/nonexistent")
    assert received[1:] == ["STOPPING=1"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_unit_is_valid_and_hardened(tmp_path: Path) -> None:
    text = UNIT.read_text()
    # The path of the command differs between installations, and verify requires that it exists.
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("/opt/vectuned/bin/vectuned", sys.executable))
    assert unit.read_text() != text
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", rated.stdout)
    assert exposure is not None, rated.stderr
    assert float(exposure[1]) <= MAX_EXPOSURE
    for line in ("Type=notify", "ExecReload=/bin/kill -HUP $MAINPID", "RestartPreventExitStatus=2 78"):
        assert f"\n{line}\n" in text
