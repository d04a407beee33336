"""Statements of applications in the hands of the server: parsed and planned, never run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg

from vectuned.sql.files import trusted
from vectuned.sql.rows import execute, fetch_value

Plan = dict[str, Any]
NAME: Final = "_vectuned_statement"  # of the statement that is prepared to be planned


@contextmanager
def prepared_statement(
    conn: psycopg.Connection[Any],
    text: str,
    settings: Mapping[str, str | None],
    types: Sequence[str] = (),
    *,
    set_by: str = "statement_settings",
) -> Iterator[None]:
    """Prepare one statement, as NAME, for the block, and deallocate it afterwards.

    The block is in a transaction, or in a savepoint of the one that `conn` is in, which is rolled back.
    `settings` are the values of the statement `set_by`, which sets parameters to its end. PREPARE parses
    without planning, so it calls no function that the text names. It takes one statement only, whatever the
    text holds, because the extended protocol refuses several in one message. `types` are those of $1, $2 ...;
    without, the server finds them itself.

    Raises psycopg.Error for what the server says about the text; the connection stays usable.
    """
    declared = f"({', '.join(types)})" if types else ""
    is_prepared = False
    try:
        # A commit undoes the settings too, but the end of a savepoint does not. After a rollback psycopg
        # forgets the statements that it has prepared, and the server has to plan them again.
        is_nested = conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE
        with conn.transaction(force_rollback=is_nested):
            execute(conn, set_by, settings)
            with conn.cursor(binary=True) as cursor:  # binary results need the extended protocol
                cursor.execute(trusted(f"PREPARE {NAME} {declared} AS {text}"), prepare=False)
            is_prepared = True
            yield
    finally:
        # A rollback does not undo PREPARE.
        if is_prepared and not conn.closed:
            conn.execute(trusted(f"DEALLOCATE {NAME}"), prepare=False)


def plan_settings(*, timeout_ms: int, is_generic: bool, search_path: str | None) -> dict[str, str | None]:
    """Return the values of `statement_settings`; a generic plan leaves parameters open.

    The first plans of a prepared statement are custom ones anyway; forcing them would make the server plan
    our own statements again each time.
    """
    mode = "force_generic_plan" if is_generic else "auto"
    return {"timeout_ms": str(timeout_ms), "plan_cache_mode": mode, "search_path": search_path}


def explain(conn: psycopg.Connection[Any], values: Sequence[str | None]) -> Plan:
    """Return the plan of the prepared statement with these values, as texts; it is not run."""
    quoted = ", ".join("NULL" if value is None else quote(value) for value in values)
    call = f"{NAME}({quoted})" if values else NAME
    found = fetch_value(conn, trusted(f"EXPLAIN (VERBOSE, FORMAT JSON) EXECUTE {call}"))
    plan: Plan = found[0]["Plan"]
    return plan


def quote(value: str) -> str:
    """Write a text as an SQL literal, whatever standard_conforming_strings is."""
    quoted = value.replace("'", "''")
    return f"E'{quoted.replace(chr(92), chr(92) * 2)}'" if "\\" in quoted else f"'{quoted}'"
