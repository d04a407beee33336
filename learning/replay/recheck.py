"""A served search once more, as it is served now, to be held against the exact answer at that time."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import Any

import psycopg
from pgvector import Vector

from vectuned.learning.model.trajectory import Trajectories
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.sql.files import queries

from .scan import SCAN_TIMEOUT_MS, is_fatal

log = logging.getLogger(__name__)


def search_again(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    searches: Trajectories,
    i: int,
    timeout_ms: int = SCAN_TIMEOUT_MS,
) -> list[float] | None:
    """Search as any client would now and return the distances, ascending; None if it was given up.

    In the transaction of the exact answers, so that rows that came or went since the search was recorded
    count neither for it nor against it. What its own answer was worth at its time is not what is checked.
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
            row = conn.execute(queries()["check_search"], values).fetchone()
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
    return list(row[0]) if row is not None else None
