"""The report and the metrics over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from psycopg.conninfo import make_conninfo
from tests.integration.daemon_helpers import Daemon
from tests.integration.embedded_helpers import PACKAGE, eventually
from tests.integration.table_helpers import Connection

from vectuned.config.errors import UsageError
from vectuned.daemon.cli.main import main
from vectuned.daemon.database.session import open_session
from vectuned.daemon.reports import web
from vectuned.daemon.reports.web import serve_metrics, serve_report

Answer = tuple[int, dict[str, str], str]


def request(
    port: int, path: str = "/", method: str = "GET", host: str | None = None, address: str = "127.0.0.1"
) -> Answer:
    connection = http.client.HTTPConnection(address, port, timeout=300)
    try:
        headers = {} if host is None else {"Host": host}
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        connection.close()


def source(conn: Connection) -> Callable[[], Connection]:
    dsn = conn.info.dsn
    return lambda: open_session(dsn)


@contextmanager
def serving(conn: Connection) -> Iterator[int]:
    with serve_report("127.0.0.1:0", {"shop": source(conn)}) as url:
        assert url.startswith("http://127.0.0.1:")
        yield int(url.rpartition(":")[2].strip("/"))


def test_report_page_answers_what_a_person_asks(learned: Connection) -> None:
    with serving(learned) as port:
        status, headers, text = request(port)
    assert status == 200
    for question in ("Is recall all right", "What did it gain?", "What is there to do?"):
        assert question in text
    assert "vectuned run" in text, "no daemon runs"
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Frame-Options"] == "DENY"
    assert "script-src 'sha256-" in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]


def test_report_page_is_read_only(conn: Connection) -> None:
    with serving(conn) as port:
        assert [request(port, method=method)[0] for method in ("POST", "PUT", "DELETE")] == [405] * 3
        status, headers, text = request(port, method="HEAD")
        assert (status, text) == (200, "")
        assert int(headers["Content-Length"]) > 1000
        assert request(port, "/etc/passwd")[0] == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8432", 200),
        ("localhost", 200),
        ("LOCALHOST:1", 200),
        ("[::1]:8432", 200),
        ("10.1.2.3", 200),
        (socket.gethostname(), 200),
        # A page from elsewhere whose name was made to resolve to this address.
        ("attacker.example", 403),
        ("127.0.0.1.attacker.example:8432", 403),
        ("localhost.attacker.example", 403),
        ("[::1", 403),
    ],
)
def test_server_refuses_names_that_are_not_its_own(conn: Connection, host: str, status: int) -> None:
    with serving(conn) as port, serve_metrics("127.0.0.1:0", {"shop": source(conn)}) as other:
        assert other is not None
        assert request(port, host=host)[0] == status
        assert request(other, "/metrics", host=host)[0] == status


def test_metrics_on_a_network_are_served_under_every_name_but_the_report_is_not(conn: Connection) -> None:
    with serve_metrics("0.0.0.0:0", {"shop": source(conn)}, report=True) as port:
        assert port is not None
        assert request(port, "/metrics", host="vectuned.internal:9187")[0] == 200
        assert request(port, host="vectuned.internal:9187")[0] == 403
        assert request(port)[0] == 200


def test_report_page_says_so_while_the_database_is_gone_and_recovers(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_FRESH_SECONDS", -1.0)
    reachable = True

    def connect() -> Connection:
        return open_session(conn.info.dsn if reachable else make_conninfo(conn.info.dsn, dbname="gone"))

    with serve_report("127.0.0.1:0", {"<shop>": connect}) as url:
        port = int(url.rpartition(":")[2].strip("/"))
        assert request(port)[0] == 200
        reachable = False
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        request(port)  # finds the connection lost
        status, _, text = request(port)
        assert status == 503
        assert "Database &lt;shop&gt; cannot be read now" in text
        assert "gone" not in text, "what the log says is not for every reader"
        reachable = True
        assert request(port)[0] == 200


def test_report_page_is_rendered_once_for_many_readers(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_FRESH_SECONDS", 1000.0)
    with serving(conn) as port:
        texts = {request(port)[2] for _ in range(5)}
    assert len(texts) == 1, "each rendering has another time"


def test_server_ends_a_client_that_sends_nothing(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(conn) as port:
        with monkeypatch.context() as patch:
            patch.setattr(web._Handler, "timeout", 0.2)
            with socket.create_connection(("127.0.0.1", port), timeout=300) as silent:
                silent.sendall(b"GET / HTT")
                assert silent.recv(1) == b""
        assert request(port)[0] == 200


def test_server_turns_away_more_requests_than_it_has_threads_for(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web._Handler, "timeout", 300)  # seconds: the idle ones keep their threads
    with serving(conn) as port:
        idle = [socket.create_connection(("127.0.0.1", port), timeout=300) for _ in range(web._MOST_REQUESTS)]
        try:
            assert eventually(lambda: _is_turned_away(port))
        finally:
            for each in idle:
                each.close()
        assert eventually(lambda: not _is_turned_away(port))


def _is_turned_away(port: int) -> bool:
    try:
        request(port, "/nothing")
    except (ConnectionError, http.client.HTTPException):
        return True
    return False


@pytest.mark.parametrize("listen", ["127.0.0.1:70000", "192.0.2.1:8432", "no.such.host.invalid:8432"])
def test_serve_report_at_an_impossible_address_is_refused(listen: str) -> None:
    with pytest.raises(UsageError, match=r"--serve"), serve_report(listen, {}):
        pass


def test_report_command_refuses_what_is_no_address(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["report", "--serve", "8432"])
    assert ended.value.code == 2
    assert "127.0.0.1:8432" in capsys.readouterr().err


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM])
def test_report_command_serves_until_it_is_ended(conn: Connection, ends: signal.Signals) -> None:
    arguments = ("report", "--dsn", conn.info.dsn, "--serve", "127.0.0.1:0", "--json")
    with subprocess.Popen(
        [sys.executable, "-m", "vectuned.daemon", *arguments],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        try:
            assert command.stdout is not None
            url = json.loads(command.stdout.readline())["url"]
            assert request(int(url.rpartition(":")[2].strip("/")))[0] == 200
            command.send_signal(ends)
            _, err = command.communicate(timeout=300)
        finally:
            command.kill()
    assert (command.returncode, err) == (0, "")


@pytest.mark.parametrize("report", [True, False])
def test_daemon_serves_the_report_beside_its_metrics_if_it_is_told_to(conn: Connection, report: bool) -> None:
    with Daemon("--dsn", conn.info.dsn, metrics__listen="127.0.0.1:0", metrics__report=report) as daemon:
        daemon.logs("/metrics")
        match = re.search(r"metrics at http://127\.0\.0\.1:(\d+)/metrics", daemon.log)
        assert match is not None, daemon.log
        port = int(match[1])
        assert "vectuned_up" in request(port, "/metrics")[2]
        status, _, text = request(port)
        assert status == (200 if report else 404)
        assert ("No column is tuned yet" in text) == report
        daemon.stop()
