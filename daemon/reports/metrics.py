"""Metrics for Prometheus: the numbers of `vectuned status`, read from the databases at each scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import psycopg
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from . import status
from .sources import Sources

_COLUMN_LABELS: Final = ("database", "relation", "column")
_JOB_LABEL: Final = "daemon_job"  # Prometheus gives every sample a label "job" of its own
STATEMENT_TIMEOUT_MS: Final = 10_000  # Prometheus gives up a scrape after 10 s by default
_COLUMN_METRICS: Final = {
    "enabled": "Whether the column's searches are recorded and learned from.",
    "alert": "Whether more searches are checked, until the policies in service are proven again.",
    "target_recall": "The target recall.",
    "max_tail": "The tolerated share of searches with a recall under 0.8.",
    "sample_rate": "The share of searches that is recorded.",
    "trajectories": "Recorded searches in store.",
    "awaiting_replay": "Recorded searches that wait to be replayed.",
    "in_inbox": "Recorded searches that wait to be drained.",
    "recorded_share": "The share of searches that is recorded now: no more than can be replayed.",
    "refused": "Sampled searches that were not recorded since the last crash of the server.",
    "unrecordable": "Sampled searches of a kind that is never recorded, since the last crash of the server.",
    "replays": "Replays in store.",
    "patterns": "Published learned patterns.",
    "bank_version": "The version of the bank in service.",
    "recent_recall": "The mean recall of the last 1,000 checked searches.",
    "recent_below_08": "The share of the last 1,000 checked searches with a recall under 0.8.",
    "recent_latency_ms": "The mean latency of the last 1,000 recorded searches, in seconds.",
    "last_search": "Time of the last recorded search, in seconds since 1970.",
    "last_published": "Time of the last publish, in seconds since 1970.",
    "feedback": "Searches with feedback.",
    "behind": "Whether replaying falls behind.",
    "statements": "Known statements of applications.",
    "statements_served": "Statements of applications with proven settings.",
    "statement_calls": "Calls of these statements that were observed.",
    "texts_awaiting_replay": "Calls that wait to be replayed as text.",
}
_CLASS_METRICS: Final = {
    "expected_recall": "The recall of the policy in service, expected from replays.",
    "recall_bound": "A proven lower bound of that recall.",
    "tail_bound": "A proven upper bound of the share of searches with a recall under 0.8.",
    "certified": "Whether the policy is proven to reach the target.",
    "samples": "Replays behind the policy.",
    "saving": "A lower bound of the time at the fixed effort over the time at an effort chosen per query.",
}
_PROMISE_METRICS: Final = {
    "recall": "The mean recall of served searches, by exact checks.",
    "recall_bound": "A lower bound of that recall, valid at any time.",
    "epoch_recall": "The mean recall of the last closed epoch of 500 exact checks.",
    "epoch_bound": "A lower bound of that recall.",
    "below_08": "The share of checked searches with a recall under 0.8.",
    "below_08_bound": "An upper bound of that share, valid at any time.",
    "e_value": "Evidence that the target is missed, as an e-value: 1 is none, 20 is the 5 % level.",
    "checks": "Exact checks since the promise last started over.",
    "unknown": "Exact checks that were given up.",
}
_OBSERVED_METRICS: Final = {
    "statements": "Statements of applications that were observed.",
    "searches": "Vector searches among them that can be replayed.",
    "stored": "Searches among them that were stored to be replayed.",
    "left_out": "Vector searches among them that cannot be replayed.",
    "not_planned": "Statements among them that the server refuses to plan.",
    "damaged": "Records of a log that were cut or cannot be read.",
}
_JOB_METRICS: Final = {
    "failures": "Consecutive failures of the job.",
    "columns_failing": "Columns on which the job failed the last time.",
    "last_success": "Time of the last successful run, in seconds since 1970.",
    "duration_ms": "Duration of the last run, in seconds.",
}
# Prometheus wants base units in names: milliseconds and dates become seconds.
_METRIC_NAMES: Final = {
    "last_search": "last_search_timestamp_seconds",
    "last_published": "last_published_timestamp_seconds",
    "last_success": "last_success_timestamp_seconds",
    "recent_latency_ms": "recent_latency_seconds",
    "duration_ms": "duration_seconds",
}


class StatusCollector(Collector):
    """Collect the status of databases.

    A database that cannot be read has `vectuned_up` 0; the metrics of the others are unaffected.
    """

    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    def collect(self) -> Iterator[Metric]:
        """Yield every family of metrics."""
        up = GaugeMetricFamily("vectuned_up", "Whether the database answers.", labels=["database"])
        columns: dict[str, list[dict[str, Any]]] = {}
        daemons: dict[str, dict[str, Any]] = {}
        for name, result in self._sources.read(_read_status):
            up.add_metric([name], float(result is not None))
            if result is not None:
                columns[name], daemons[name] = result
        yield up
        yield from column_families(columns)
        yield from job_families({name: daemon["jobs"] for name, daemon in daemons.items()})
        yield from statement_families(daemons)

    def close(self) -> None:
        """Close the connections."""
        self._sources.close()


def _read_status(conn: psycopg.Connection[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    return status.read(conn), status.read_daemon(conn)


def column_families(columns_by_database: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Metric]:
    """Turn the status of each database's columns, as returned by `status.read`, into metric families."""
    columns = [
        ([name, column["relation"], column["column_name"]], column)
        for name, statuses in columns_by_database.items()
        for column in statuses
    ]
    for key, text in _COLUMN_METRICS.items():
        yield _gauge(_METRIC_NAMES.get(key, key), text, _COLUMN_LABELS, columns, key)
    outcomes = {"success": "successes", "failure": "failures", "unknown": "unknown"}
    verdicts = [
        ([*labels, name], {"count": column.get(key)})
        for labels, column in columns
        for name, key in outcomes.items()
    ]
    yield _gauge(
        "verdicts", "Verdicts on the searches in store.", (*_COLUMN_LABELS, "verdict"), verdicts, "count"
    )
    failing = [([*labels, run["job"]], run) for labels, column in columns for run in column["failing"]]
    yield _gauge(
        "column_failures",
        "Consecutive failures of a job on the column; none if the last run succeeded.",
        (*_COLUMN_LABELS, _JOB_LABEL),
        failing,
        "failures",
    )
    unread = [(labels, {"error": column["error"] is not None}) for labels, column in columns]
    yield _gauge(
        "column_unread", "Whether the column's status cannot be read.", _COLUMN_LABELS, unread, "error"
    )

    serving = (*_COLUMN_LABELS, "k_class", "access_path", "index")
    classes = [
        ([*labels, str(row["k_class"]), row["access_path"], row["path_index"]], row)
        for labels, column in columns
        for row in column["classes"]
    ]
    efforts = [(labels, {"effort": row["probes"] or row["ef_search"]}) for labels, row in classes]
    yield _gauge(
        "serving_effort",
        "ef_search or probes; with effort per query, the fallback.",
        serving,
        efforts,
        "effort",
    )
    # Without a proof there is no bound, and a dashboard would draw the stored 0 and 1 as measurements.
    classes = [
        (labels, row if row["certified"] else {**row, "recall_bound": None, "tail_bound": None})
        for labels, row in classes
    ]
    for key, text in _CLASS_METRICS.items():
        yield _gauge(f"serving_{key}", text, serving, classes, key)

    served = (*_COLUMN_LABELS, "k_class", "filter")
    promises = [
        ([*labels, str(row["k_class"]), row["filter"] or ""], row)
        for labels, column in columns
        for row in column["promises"]
    ]
    for key, text in _PROMISE_METRICS.items():
        yield _gauge(f"served_{key}", text, served, promises, key)
    read = CounterMetricFamily(
        "vectuned_read_bytes", "Bytes read of the table to find exact answers.", labels=_COLUMN_LABELS
    )
    for labels, column in columns:
        if "read_bytes" in column:
            read.add_metric(labels, column["read_bytes"])
    yield read
    alarms = CounterMetricFamily("vectuned_alarms", "Alarms raised.", labels=served)
    for labels, row in promises:
        alarms.add_metric(labels, row["alarms"])
    yield alarms


def statement_families(daemons: Mapping[str, Mapping[str, Any]]) -> Iterator[Metric]:
    """Turn what observing and adopting came to in each database into metric families."""
    seen = [([name, row["source"]], row) for name, daemon in daemons.items() for row in daemon["observed"]]
    for key, text in _OBSERVED_METRICS.items():
        counter = CounterMetricFamily(f"vectuned_observed_{key}", text, labels=("database", "source"))
        for labels, row in seen:
            counter.add_metric(labels, row[key])
        yield counter
    adopted = [
        ([name, row["role"] or ""], {"alarms": len(row["alarms"])})
        for name, daemon in daemons.items()
        for row in daemon["adopted"]
    ]
    yield _gauge(
        "adoption_alarms",
        "Statements that adopted settings no longer serve as proven.",
        ("database", "role"),
        adopted,
        "alarms",
    )


def job_families(jobs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Metric]:
    """Turn the rows of `vectuned.job` of each database into metric families."""
    rows = [([name, job["name"]], job) for name, runs in jobs.items() for job in runs]
    for key, text in _JOB_METRICS.items():
        yield _gauge(f"job_{_METRIC_NAMES.get(key, key)}", text, ("database", _JOB_LABEL), rows, key)


def _gauge(
    name: str, text: str, names: Sequence[str], rows: Sequence[tuple[list[str], Mapping[str, Any]]], key: str
) -> GaugeMetricFamily:
    """Return a gauge with the value under `key` of each row and its labels; NULL is left out."""
    family = GaugeMetricFamily(f"vectuned_{name}", text, labels=names)
    for labels, row in rows:
        value = row.get(key)  # none of a column that cannot be read
        if key == "behind":
            value = None if row.get("error") else value is not None
        elif isinstance(value, datetime):
            value = value.timestamp()
        elif key.endswith("_ms") and value is not None:
            value = value / 1000.0
        if value is not None:
            family.add_metric(labels, float(value))
    return family
