"""Which of the statements that applications send order by a distance, and whether an index serves them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql

from vectuned.learning.statements.preparation import NAME, explain, prepared_statement
from vectuned.sql.files import queries
from vectuned.sql.rows import fetch_rows, fetch_value

from .catalogue import Server, VectorIndex, VectorTable
from .findings import Finding
from .health import SMALL_TABLE
from .recall import describe_path

MOST: Final = 30  # statements looked at, those that took the most time: each is planned, none is run
_TIMEOUT_MS: Final = 2_000  # milliseconds that planning one may take
_SHOWN: Final = 100  # characters of a statement that are shown
_LONGEST: Final = 100_000  # characters of a statement that is planned: pg_stat_statements keeps any length
_OPERATOR: Final = r"<->|<=>|<#>|<\+>"
_FUNCTION: Final = re.compile(r"\b(cosine_distance|l2_distance|l1_distance|inner_product)\s*\(", re.I)


@dataclass(frozen=True)
class VectorStatement:
    """A statement that orders by a distance, its values replaced by $1, $2 ...

    `plan` says how the planner answers it, None where it cannot be planned here, for the reason `unplanned`;
    `filters` are the conditions that rows are tested by after an index gave them.
    """

    text: str
    calls: int
    mean_ms: float
    plan: str | None
    filters: tuple[str, ...] = ()
    unplanned: str = ""

    @property
    def short(self) -> str:
        """Return the text on one line, cut."""
        line = " ".join(self.text.split())
        return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return {
            "statement": self.text[:_LONGEST],
            "calls": self.calls,
            "mean_ms": round(self.mean_ms, 3),
            "plan": self.plan,
            "filters": list(self.filters),
            "not_planned_because": self.unplanned or None,
        }


def read_statements(
    conn: psycopg.Connection[Any], server: Server, tables: Sequence[VectorTable]
) -> list[VectorStatement]:
    """Read the statements that took the most time and plan each; `conn` is in a transaction.

    Nothing is read where pg_stat_statements is missing.
    """
    if server.statements_schema is None:
        return []
    schema = sql.Identifier(server.statements_schema)
    statement = queries()["check_statements"].format(schema=schema)
    try:
        with conn.transaction():
            rows = fetch_rows(conn, statement, {"most": MOST})
    except psycopg.Error:
        return []  # created, but not loaded by shared_preload_libraries
    names = {name for table in tables for name in table.index_names}
    return [_planned(conn, row, names) for row in rows]


def _planned(conn: psycopg.Connection[Any], row: Any, indexes: set[str]) -> VectorStatement:
    text, calls, mean = str(row.text), int(row.calls), float(row.mean_ms)
    if len(text) > _LONGEST:
        return VectorStatement(text, calls, mean, None, (), "it is too long")
    try:
        plan = _plan(conn, text)
    except psycopg.Error as error:
        reason = (error.diag.message_primary or str(error)).strip()
        return VectorStatement(text, calls, mean, None, (), reason)
    return VectorStatement(text, calls, mean, describe_path(plan, indexes), tuple(_filters(plan, indexes)))


def _plan(conn: psycopg.Connection[Any], text: str) -> dict[str, Any]:
    """Return the generic plan of a statement with $n in place of values; it is prepared, never run.

    A LIMIT is planned as 10 rows: the planner takes an unknown one to be a tenth of the table, which no
    vector search asks for.
    """
    limited = re.sub(
        r"\boffset\s+\$\d+", "OFFSET 0", re.sub(r"\blimit\s+\$\d+", "LIMIT 10", text, flags=re.I)
    )
    settings = {"timeout_ms": str(_TIMEOUT_MS)}
    with prepared_statement(conn, limited, settings, set_by="check_plan_settings"):
        count = fetch_value(conn, "check_prepared_parameters", {"name": NAME})
        return explain(conn, [None] * int(count or 0))


def _filters(plan: dict[str, Any], indexes: set[str]) -> Iterator[str]:
    """Yield the conditions that are tested on rows of a vector index."""
    if plan.get("Index Name") in indexes and "Filter" in plan:
        yield str(plan["Filter"])
    for child in plan.get("Plans", ()):
        yield from _filters(child, indexes)


def check_statement(statement: VectorStatement, tables: Sequence[VectorTable]) -> Iterator[Finding]:
    """Find what keeps a statement from an index, or short of rows."""
    if statement.plan is None:
        return
    seen = f"{statement.calls:,} calls of {statement.mean_ms:.1f} ms"
    if statement.plan == "exact, every row read":
        table = _largest_named(statement, tables)
        if table is None or table.rows < SMALL_TABLE:
            return
        yield Finding(
            "problem",
            "statement-without-index",
            statement.short,
            f"reads all {table.rows:,.0f} rows of {table} ({seen}): {_why(statement.text, table)}",
            _advice(statement.text, table),
        )
    elif statement.filters and statement.plan.startswith("index "):
        yield Finding(
            "warning",
            "filter-after-index",
            statement.short,
            f"filters the rows that {statement.plan} gives ({seen}): with iterative scans off, where few of "
            "them match, it returns fewer rows than it asks for",
            "measured below, where the column that it filters by is known",
        )


def unused_operator_classes(
    statements: Sequence[VectorStatement], tables: Sequence[VectorTable]
) -> Iterator[Finding]:
    """Find indexes by a distance that no statement on their table orders by."""
    for table in tables:
        texts = [s.text for s in statements if re.search(rf"\b{re.escape(table.table)}\b", s.text)]
        used = {operator for text in texts for operator in re.findall(_OPERATOR, text)}
        for index in table.indexes:
            if used and index.is_valid and index.operator and index.operator not in used:
                yield Finding(
                    "warning",
                    "operator-class-unused",
                    str(index),
                    f"serves {index.operator} ({index.metric}), while statements on {table.table} order by "
                    f"{' and '.join(sorted(used))}",
                    "build an index with the operator class of the distance that statements use",
                )


def _largest_named(statement: VectorStatement, tables: Sequence[VectorTable]) -> VectorTable | None:
    named = [t for t in tables if re.search(rf"\b{re.escape(t.table)}\b", statement.text)]
    return max(named, key=lambda table: table.rows, default=None)


def _why(text: str, table: VectorTable) -> str:
    order = text[[m.start() for m in re.finditer(r"\border\s+by\b", text, re.I)][-1] :]
    valid = [index for index in table.indexes if index.is_valid]
    operators = set(re.findall(_OPERATOR, order)) or set(re.findall(_OPERATOR, text))
    if not valid:
        return "the column has no valid vector index"
    if re.search(r"\bdesc\b", order, re.I):
        return "it orders by a similarity, descending; an index gives the smallest distances first"
    if _FUNCTION.search(order):
        return "it orders by a function; only the operators <->, <=>, <#> and <+> use an index"
    if re.search(rf"[-+*/]\s*\(?[^,]*(?:{_OPERATOR})", order):
        return "it orders by an expression around the distance, not by the distance itself"
    if not re.search(r"\blimit\b|\bfetch\s+(first|next)\b", text, re.I):
        return "it has no LIMIT"
    if operators and not operators & {index.operator for index in valid}:
        served = " and ".join(sorted({f"{i.operator} ({i.metric})" for i in valid}))
        return f"it orders by {' and '.join(sorted(operators))}, the index serves {served}"
    if any(not index.key for index in valid) and all(index.expression not in order for index in valid):
        return f"it orders by another expression than the index: {_first(valid).expression}"
    return "the planner thinks this is cheaper than the index, or the statement's form keeps it from one"


def _advice(text: str, table: VectorTable) -> str:
    why = _why(text, table)
    if "descending" in why or "expression around" in why:
        return "write ORDER BY embedding <=> $1 LIMIT n and compute the similarity in the output"
    if "no valid vector index" in why:
        return "see the finding about its table"
    if "function" in why:
        return "order by the operator: <=> for cosine_distance, <-> for l2_distance"
    if "the index serves" in why:
        return "build an index with the operator class of that distance, or order by the index's"
    if "another expression" in why:
        return "order by the same expression and cast as the index's"
    return "see its plan with EXPLAIN"


def _first(indexes: Sequence[VectorIndex]) -> VectorIndex:
    return indexes[0]
