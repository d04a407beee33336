"""Metrics for Prometheus, scraped over HTTP."""

from __future__ import annotations

from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families
from psycopg.conninfo import make_conninfo
from tests.integration.daemon.reports.report_helpers import DIMENSIONS, KIND
from tests.integration.table_helpers import Connection, clustered, search

from vectuned.config.errors import UsageError
from vectuned.daemon.database.session import open_session
from vectuned.daemon.reports import status
from vectuned.daemon.reports.web import serve_metrics

Metrics = dict[str, list[tuple[dict[str, str], float]]]


def scrape(port: int) -> Metrics:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=300) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {f.name: [(s.labels, s.value) for s in f.samples] for f in families}


def test_serve_metrics_returns_the_figures_of_the_status(learned: Connection) -> None:
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
        metrics = scrape(port)
        search(learned, clustered(1, DIMENSIONS, seed=9)[0])
        again = scrape(port)
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
    job = {"database": "shop", "daemon_job": "drain"}
    assert metrics["vectuned_job_failures"] == [(job, 2)]
    assert metrics["vectuned_job_duration_seconds"] == [(job, 1.5)]
    assert metrics["vectuned_job_last_success_timestamp_seconds"] == []
    assert metrics["process_resident_memory_bytes"][0][1] > 1e6


def test_serve_metrics_reconnects_after_a_lost_connection(learned: Connection) -> None:
    with serve_metrics("127.0.0.1:0", {"shop": lambda: open_session(learned.info.dsn)}) as port:
        assert port is not None
        assert scrape(port)["vectuned_up"][0][1] == 1
        learned.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        assert [scrape(port)["vectuned_up"][0][1] for _ in range(2)] == [0, 1]


@pytest.mark.parametrize("listen", ["127.0.0.1:70000", "192.0.2.1:9187", "no.such.host.invalid:9187"])
def test_serve_metrics_at_an_impossible_address_is_refused(listen: str) -> None:
    with pytest.raises(UsageError, match=r"metrics\.listen"), serve_metrics(listen, {}):
        pass
