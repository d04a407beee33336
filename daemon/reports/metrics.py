"""What Prometheus scrapes: the numbers of `vectuned status`, read from the databases when it asks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, Final
from wsgiref.simple_server import WSGIServer

import psycopg
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vectuned.config.errors import UsageError, VectunedError

from . import status

log = logging.getLogger(__name__)

Source = Callable[[], psycopg.Connection[Any]]

_COLUMN: Final = ("database", "relation", "column")
_PATIENCE_MS: Final = 10_000
_OF_A_COLUMN: Final = {
    "enabled": "Whether the column's searches are recorded and learned from.",
    "alert": "Whether more searches are checked, until what serves is proven again.",
    "target_recall": "The recall that was asked for.",
    "max_tail": "The share of searches with a recall under 0.8 that is tolerated.",
    "sample_rate": "The share of searches that is recorded.",
    "trajectories": "Recorded searches that are kept.",
    "awaiting_replay": "Recorded searches that wait to be replayed.",
    "in_inbox": "Recorded searches that wait to be drained.",
    "replays": "Replays that are kept.",
    "patterns": "Learned patterns that are published.",
    "bank_version": "The number of the publish that serves.",
    "recent_recall": "The mean recall of the last 1,000 searches checked.",
    "recent_below_08": "The share of them with a recall under 0.8.",
    "recent_latency_ms": "The mean latency of the last 1,000 searches recorded, in seconds.",
    "last_search": "When a search was recorded last, in seconds since 1970.",
    "last_published": "When something learned was published last, in seconds since 1970.",
    "feedback": "Searches with feedback.",
    "behind": "Whether replaying falls behind.",
}
_OF_A_CLASS: Final = {
    "expected_recall": "The recall that replays let expect of what serves.",
    "recall_bound": "At least so much is proven of it.",
    "tail_bound": "At most so large a share of searches has a recall under 0.8.",
    "certified": "Whether it is proven to reach the target.",
    "samples": "Replays behind it.",
    "saving": "Time of the fixed setting over that of effort by query: at least.",
}
_OF_A_PROMISE: Final = {
    "recall": "The mean recall that exact checks found in the searches served.",
    "recall_bound": "At least so much do they prove, whenever it is looked at.",
    "below_08": "The share of checked searches with a recall under 0.8.",
    "below_08_bound": "At most so large do they prove it to be.",
    "e_value": "Evidence that the target is missed, as an e-value: 1 is none, 20 is the 5 % level.",
    "checks": "Exact checks behind that, since it last began anew.",
    "unknown": "Checks that were given up.",
}
_OF_A_JOB: Final = {
    "failures": "How often the job failed in a row.",
    "last_success": "When it went well last, in seconds since 1970.",
    "duration_ms": "How long its last run took, in seconds.",
}
# Names of metrics that say the unit.
_UNITS: Final = {
    "last_search": "last_search_timestamp_seconds",
    "last_published": "last_published_timestamp_seconds",
    "last_success": "last_success_timestamp_seconds",
    "recent_latency_ms": "recent_latency_seconds",
    "duration_ms": "duration_seconds",
}


class StatusCollector(Collector):
    """Collect the status of databases: `sources` by the database's name, each opening a connection.

    A database that cannot be asked is down (`vectuned_up` 0), and the others are told of all the same.
    """

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = sources
        self._conns: dict[str, psycopg.Connection[Any]] = {}
        self._one_at_a_time = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Yield every family of metrics."""
        up = GaugeMetricFamily("vectuned_up", "Whether the database answers.", labels=["database"])
        read: dict[str, list[dict[str, Any]]] = {}
        jobs: dict[str, list[dict[str, Any]]] = {}
        with self._one_at_a_time:
            for name in self._sources:
                found = self._read(name)
                up.add_metric([name], float(found is not None))
                if found is not None:
                    read[name], jobs[name] = found
        yield up
        yield from column_families(read)
        yield from job_families(jobs)

    def close(self) -> None:
        """Close the connections."""
        with self._one_at_a_time:
            for conn in self._conns.values():
                conn.close()
            self._conns.clear()

    def _read(self, name: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]] | None:
        try:
            conn = self._conns.get(name)
            if conn is None or conn.closed:
                conn = self._conns[name] = self._sources[name]()
                conn.execute(f"SET statement_timeout = {_PATIENCE_MS}")
            return status.read(conn), status.read_daemon(conn)["jobs"]
        except (psycopg.Error, VectunedError) as error:
            log.warning("metrics of database %s cannot be read: %s", name, error, extra={"action": "metrics"})
            if name in self._conns:
                with suppress(psycopg.Error):
                    self._conns.pop(name).close()
            return None


def column_families(read: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Metric]:
    """Turn the status of each database's columns, as `status.read` returns it, into families of metrics."""
    columns = [
        ([name, column["relation"], column["column_name"]], column)
        for name, found in read.items()
        for column in found
    ]
    for key, text in _OF_A_COLUMN.items():
        yield _gauge(_UNITS.get(key, key), text, _COLUMN, columns, key)
    outcomes = {"success": "successes", "failure": "failures", "unknown": "unknown"}
    verdicts = [
        ([*labels, name], {"count": column[key]})
        for labels, column in columns
        for name, key in outcomes.items()
    ]
    yield _gauge("verdicts", "Verdicts on the searches kept.", (*_COLUMN, "verdict"), verdicts, "count")

    serving = (*_COLUMN, "k_class", "access_path", "index")
    classes = [
        ([*labels, str(row["k_class"]), row["access_path"], row["path_index"]], row)
        for labels, column in columns
        for row in column["classes"]
    ]
    efforts = [(labels, {"effort": row["probes"] or row["ef_search"]}) for labels, row in classes]
    yield _gauge(
        "serving_effort", "ef_search or probes; of effort by query the fixed one.", serving, efforts, "effort"
    )
    for key, text in _OF_A_CLASS.items():
        yield _gauge(f"serving_{key}", text, serving, classes, key)

    served = (*_COLUMN, "k_class", "filter")
    promises = [
        ([*labels, str(row["k_class"]), row["filter"] or ""], row)
        for labels, column in columns
        for row in column["promises"]
    ]
    for key, text in _OF_A_PROMISE.items():
        yield _gauge(f"served_{key}", text, served, promises, key)
    alarms = CounterMetricFamily("vectuned_alarms", "Alarms raised.", labels=served)
    for labels, row in promises:
        alarms.add_metric(labels, row["alarms"])
    yield alarms


def job_families(jobs: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Metric]:
    """Turn what each database's `vectuned.job` says into families of metrics."""
    rows = [([name, job["name"]], job) for name, found in jobs.items() for job in found]
    for key, text in _OF_A_JOB.items():
        yield _gauge(f"job_{_UNITS.get(key, key)}", text, ("database", "job"), rows, key)


@contextmanager
def serve_metrics(listen: str, sources: Mapping[str, Source]) -> Iterator[int | None]:
    """Serve metrics over HTTP at `listen`, "host:port"; empty: nowhere. Yields the port.

    Raises UsageError where nothing can be served there.
    """
    if not listen:
        yield None
        return
    host, _, port = listen.rpartition(":")
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    collector = StatusCollector(sources)
    registry.register(collector)
    server: WSGIServer
    try:
        server, thread = start_http_server(int(port), host.strip("[]"), registry)
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"Metrics cannot be served at {listen} (metrics.listen): {getattr(error, 'strerror', error)}."
        ) from error
    number = int(server.server_address[1])
    log.info("metrics at http://%s:%d/metrics", host, number, extra={"action": "metrics"})
    try:
        yield number
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        collector.close()


def _gauge(
    name: str, text: str, names: Sequence[str], rows: Sequence[tuple[list[str], Mapping[str, Any]]], key: str
) -> GaugeMetricFamily:
    """Make a family of what each row, with its labels, has under a key; what is unknown is left out."""
    family = GaugeMetricFamily(f"vectuned_{name}", text, labels=names)
    for labels, row in rows:
        value = row[key]
        if key == "behind":
            value = value is not None
        elif isinstance(value, datetime):
            value = value.timestamp()
        elif key.endswith("_ms") and value is not None:
            value = value / 1000.0
        if value is not None:
            family.add_metric(labels, float(value))
    return family
