"""What operators look at: metrics, the status as it changes, and the report."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from psycopg.conninfo import make_conninfo
from tests.integration.table_helpers import Connection, clustered, enable, make, search, search_filtered

from vectuned.config.errors import DatabaseUnavailableError, UsageError
from vectuned.config.settings import load_settings
from vectuned.daemon.cli.main import main
from vectuned.daemon.console import Console
from vectuned.daemon.database.session import open_session
from vectuned.daemon.reports import status
from vectuned.daemon.reports.metrics import serve_metrics
from vectuned.daemon.reports.report import render_report
from vectuned.daemon.service.worker import Worker

DIMENSIONS = 16
KIND = '<i>"kind"</i>'

Metrics = dict[str, list[tuple[dict[str, str], float]]]


@pytest.fixture
def learned(conn: Connection) -> Connection:
    """A table searched with a filter on an oddly named column and without, learned about and checked."""
    make(conn, clustered(900, DIMENSIONS, seed=1))
    quoted = '"' + KIND.replace('"', '""') + '"'
    conn.execute(f"ALTER TABLE items ADD COLUMN {quoted} int; UPDATE items SET {quoted} = id % 4")
    conn.execute(f"CREATE INDEX ON items ({quoted}); ANALYZE items")
    enable(conn, sample_rate=1.0, min_samples=20, target_recall=0.9)
    worker = Worker(conn, load_settings(None, {"learning.batch_min": 10}, {}))
    for seed in (2, 3):
        for query in clustered(40, DIMENSIONS, seed=seed):
            search(conn, query)
            search_filtered(conn, query, 10, {KIND: 1})
        worker.drain()
        worker.replay_all()
        worker.judge()
        worker.learn_all()
    return conn


def scraped(port: int) -> Metrics:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {f.name: [(s.labels, s.value) for s in f.samples] for f in families}


def test_metrics_are_the_numbers_of_the_status(learned: Connection) -> None:
    learned.execute(
        "INSERT INTO vectuned.job (name, last_run, duration_ms, runs, failures, last_error) "
        "VALUES ('drain', now(), 1500, 3, 2, 'no')"
    )
    sources = {
        "shop": lambda: open_session(learned.info.dsn),
        "gone": lambda: open_session(make_conninfo(learned.info.dsn, dbname="gone")),
    }
    with serve_metrics("127.0.0.1:0", sources) as port:
        assert port is not None
        metrics = scraped(port)
        search(learned, clustered(1, DIMENSIONS, seed=9)[0])
        again = scraped(port)
    (column,) = status.read(learned)
    labels = {"database": "shop", "relation": "items", "column": "embedding"}
    assert {each["database"]: value for each, value in metrics["vectuned_up"]} == {"shop": 1, "gone": 0}
    assert metrics["vectuned_replays"] == [(labels, column["replays"])]
    assert metrics["vectuned_target_recall"] == [(labels, 0.9)]
    assert metrics["vectuned_recent_recall"][0][1] == pytest.approx(column["recent_recall"])
    assert metrics["vectuned_recent_latency_seconds"][0][1] < 1
    assert metrics["vectuned_behind"] == [(labels, 0)]
    assert sum(value for _, value in metrics["vectuned_verdicts"]) == 160
    served = {(each["k_class"], each["filter"]): value for each, value in metrics["vectuned_served_checks"]}
    assert served == {(str(p["k_class"]), p["filter"] or ""): p["checks"] for p in column["promises"]}
    assert ("10", f"{KIND} =") in served
    effort = {each["k_class"]: value for each, value in metrics["vectuned_serving_effort"]}
    assert effort == {str(row["k_class"]): row["ef_search"] for row in column["classes"]}
    assert metrics["vectuned_in_inbox"] == [(labels, 0)]
    assert again["vectuned_in_inbox"] == [(labels, 1)]
    job = {"database": "shop", "job": "drain"}
    assert metrics["vectuned_job_failures"] == [(job, 2)]
    assert metrics["vectuned_job_duration_seconds"] == [(job, 1.5)]
    assert metrics["vectuned_job_last_success_timestamp_seconds"] == []
    assert metrics["process_resident_memory_bytes"][0][1] > 1e6


def test_metrics_outlive_a_lost_connection(learned: Connection) -> None:
    with serve_metrics("127.0.0.1:0", {"shop": lambda: open_session(learned.info.dsn)}) as port:
        assert port is not None
        assert scraped(port)["vectuned_up"][0][1] == 1
        learned.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert [scraped(port)["vectuned_up"][0][1] for _ in range(2)] == [0, 1]


@pytest.mark.parametrize("listen", ["127.0.0.1:70000", "192.0.2.1:9187", "no.such.host.invalid:9187"])
def test_where_nothing_can_be_served(listen: str) -> None:
    with pytest.raises(UsageError, match=r"metrics\.listen"), serve_metrics(listen, {}):
        pass


def test_the_status_is_watched(learned: Connection, capsys: pytest.CaptureFixture[str]) -> None:
    opened: list[Connection | None] = []

    def open_conn() -> Connection:
        if len(opened) == 1:
            opened.append(None)
            raise DatabaseUnavailableError("The database is starting.")
        conn = open_session(learned.info.dsn)
        opened.append(conn)
        if len(opened) == 1:
            learned.execute("SELECT pg_terminate_backend(%s)", (conn.info.backend_pid,))
        return conn

    status.watch(Console(as_json=True), open_conn, 0.01, times=3)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    said = ["columns", "daemon", "jobs"]
    assert [list(line)[1:] for line in lines] == [["error"], ["error"], said]
    assert lines[2]["columns"][0]["relation"] == "items"
    status.watch(Console(), lambda: open_session(learned.info.dsn), 0.01, times=2)
    assert capsys.readouterr().out.count("items.embedding: serving") == 2


class Document(HTMLParser):
    """Collects the text of elements and what would be loaded."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_holds_everything_and_loads_nothing(learned: Connection) -> None:
    learned.execute("REINDEX INDEX items_embedding_idx")
    Worker(learned, load_settings(None, {}, {})).replay_all()
    document = Document(render_report(learned))
    text = "\n".join(document.words)
    assert document.loads == []
    assert "script" not in document.tags
    assert "i" not in document.tags, "a name became markup"
    assert document.tags.count("svg") >= 2
    (column,) = status.read(learned)
    for row in column["classes"]:
        assert row["reason"] in text
    assert "rebuilt" in text
    assert f"filtered by {KIND} =" in text
    assert "exact, through the filter's index" in text
    assert "items_embedding_idx, ef_search 40: recall" in text


def test_the_report_of_nothing(conn: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "report.html"
    assert main(["report", "--dsn", conn.info.dsn, "-o", str(target)]) == 0
    assert "No column is tuned yet" in target.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    make(conn, clustered(50, DIMENSIONS, seed=1))
    enable(conn)
    assert main(["report", "--dsn", conn.info.dsn, "-o", "-"]) == 0
    said = capsys.readouterr().out
    assert "No served search has been checked yet." in said
    assert main(["report", "--dsn", conn.info.dsn, "-o", str(tmp_path / "no" / "report.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
