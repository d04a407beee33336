"""All statements of the service, one function each; see `sql/tuner/queries/daemon/service.sql`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psycopg

from vectuned.sql.rows import execute, fetch_row, fetch_rows, fetch_value

Connection = psycopg.Connection[Any]


# Locks and sessions


def acquire_leader_lock(conn: Connection) -> bool:
    """Try to take the leader's lock; return whether this session holds it."""
    return bool(fetch_value(conn, "acquire_leader_lock"))


def holds_leader_lock(conn: Connection) -> bool:
    """Return whether this session holds the leader's lock."""
    return bool(fetch_value(conn, "holds_leader_lock"))


def listen_for_wakes(conn: Connection) -> None:
    """Make this session receive the notifications that wake the daemon."""
    execute(conn, "listen_for_wakes")


def can_be_woken(conn: Connection) -> bool:
    """Return whether recorded searches may notify the daemon."""
    return bool(fetch_value(conn, "can_be_woken"))


def set_wake_wanted(conn: Connection, *, wanted: bool) -> None:
    """Make recorded searches notify the daemon, or not any more."""
    execute(conn, "want_wake", {"wanted": wanted})


def daemon_sleeps(conn: Connection) -> bool:
    """Return whether the leading daemon sleeps, or is about to."""
    return bool(fetch_value(conn, "daemon_sleeps"))


def has_pending_work(conn: Connection) -> bool:
    """Return whether searches or requests wait for the daemon."""
    return bool(fetch_value(conn, "has_pending_work"))


def acquire_work_lock(conn: Connection) -> bool:
    """Try to take the lock of the session in which jobs work; return whether this session holds it."""
    return bool(fetch_value(conn, "acquire_work_lock"))


def acquire_request_lock(conn: Connection) -> bool:
    """Try to take the lock for working on requests; return whether this session holds it."""
    return bool(fetch_value(conn, "acquire_request_lock"))


def detect_lost_clients(conn: Connection) -> None:
    """Make the server end this session soon after the daemon or the network is gone."""
    execute(conn, "set_keepalives")
    with suppress(psycopg.errors.InvalidParameterValue):  # not supported by the server's operating system
        execute(conn, "set_connection_check")


# Jobs


def write_job(conn: Connection, values: dict[str, Any]) -> None:
    """Write how a job runs into vectuned.job."""
    execute(conn, "write_job", values)


def delete_unknown_jobs(conn: Connection, names: Sequence[str]) -> None:
    """Delete the rows of all other jobs."""
    execute(conn, "delete_unknown_jobs", {"names": list(names)})


def read_summary(conn: Connection) -> Any:
    """Return the number of enabled columns (`columns`) and the time of the last publish (`published_at`)."""
    return fetch_row(conn, "service_summary")


# Requests


def has_open_requests(conn: Connection) -> bool:
    """Return whether a request is queued or running."""
    return bool(fetch_value(conn, "has_open_requests"))


def requeue_abandoned_requests(conn: Connection, attempts: int) -> list[Any]:
    """Requeue requests that a dead daemon left running, at most `attempts` times; return ids and states."""
    return fetch_rows(conn, "requeue_abandoned_requests", {"attempts": attempts})


def take_request(conn: Connection) -> Any:
    """Mark the oldest queued request as running and return it; None if none is queued."""
    return fetch_row(conn, "take_request")


def write_request_progress(conn: Connection, request_id: int, done: int, total: int | None) -> bool:
    """Write the progress of a request; return whether it still runs and is not being cancelled."""
    values = {"request_id": request_id, "done": done, "total": total}
    return fetch_value(conn, "write_request_progress", values) is False


def finish_request(conn: Connection, request_id: int, outcome: dict[str, Any]) -> None:
    """Write how a request ended: `state`, `result` as JSON text, `error` and `done`."""
    execute(conn, "finish_request", {"request_id": request_id, **outcome})


def requeue_request(conn: Connection, request_id: int) -> None:
    """Queue a running request again without counting the attempt."""
    execute(conn, "requeue_request", {"request_id": request_id})
