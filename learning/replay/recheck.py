"""Repeats a recorded search as it is served now, to compare the answer with the exact one."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any

import psycopg

from vectuned.learning.model.trajectory import Trajectories
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.learning.model.vectors import Vector
from vectuned.sql.rows import fetch_value

from .scan import SCAN_TIMEOUT_MS, is_fatal

log = logging.getLogger(__name__)


def search_again(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    searches: Trajectories,
    i: int,
    timeout_ms: int = SCAN_TIMEOUT_MS,
) -> list[float] | None:
    """Repeat search `i` as a client would run it now and return its distances, ascending; None if it failed.

    It runs in the transaction of the exact answers, so that rows inserted or deleted since the search was
    recorded make no difference. The recall of the recorded answer at its own time is not what is checked.
    """
    values = {
        "relation": tuned.column.relation.as_string(conn),
        "query": Vector(searches.vectors[i]),
        "k": searches.ks[i],
        "filter": searches.filters[i],
        "column_name": tuned.column.name,
    }
    started = perf_counter()
    try:
        with conn.transaction():
            return list(fetch_value(conn, "check_search", values))
    except psycopg.errors.Error as error:
        if is_fatal(conn, error, perf_counter() - started, timeout_ms):
            raise
        log.warning(
            "a check of %s was given up: %s",
            tuned.column,
            error.diag.message_primary or error,
            extra={"action": "check"},
        )
        return None
