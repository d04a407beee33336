"""The settings that serve the statements of applications, as far as settings can choose an access path.

The cheapest group serves that is proven for the calls of a statement on the whole. The client also sends
cheaper settings for values whose share of matching rows is known; these are proven together.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Final

import psycopg

from vectuned.learning.model.scan_settings import Settings
from vectuned.learning.statistics.demand import Demand
from vectuned.sql.client.fingerprint import fingerprint, normalize
from vectuned.sql.rows import execute, fetch_rows

from .condition_paths import condition_options, options_by_share, read_calls
from .path_option import PathOption
from .text_paths import text_options

# The planner is free within a path. So that it chooses as in the replays, a statement is also sent with the
# planner's settings that these have, whatever the application or its database sets.
_EXACT_PLANNING: Final[Settings] = {"enable_bitmapscan": "on", "enable_seqscan": "on", "enable_sort": "on"}
_FREE_PLANNING: Final[Settings] = {
    "enable_bitmapscan": "on",
    "enable_indexscan": "on",
    "enable_seqscan": "on",
    "enable_sort": "on",
    "plan_cache_mode": "force_custom_plan",
}
_HIGHEST_EF: Final = 1000  # pgvector's limit


@dataclass(frozen=True)
class StatementCalls:
    """Calls of a statement that come down to a search of a tuned column.

    `text` may hold values: only the normalised text is stored. `shape` is the condition without its values,
    empty without a condition. Calls replayed `as_text` have the reason for it as their shape.
    """

    text: str
    column_id: int
    k_class: int
    shape: str
    calls: int
    first_seen: datetime
    last_seen: datetime
    as_text: bool = False


@dataclass(frozen=True)
class Statement:
    """A known statement with the paths that settings can choose for it, the cheapest first.

    `by_share` has the path for the calls in each selectivity bucket, proven together. Of a statement that
    `is_imported` the options were measured elsewhere, since none of its calls have been replayed here.
    """

    fingerprint: str
    column_id: int
    k_class: int
    shape: str
    text: str
    calls: int
    target_recall: float
    options: tuple[PathOption, ...] = field(default=())
    as_text: bool = False
    by_share: Mapping[int, PathOption] = field(default_factory=dict)
    is_imported: bool = False
    has_settings: bool = False

    @property
    def proven(self) -> tuple[PathOption, ...]:
        """Return the options that are proven."""
        return tuple(option for option in self.options if option.proven)


def count_calls(conn: psycopg.Connection[Any], calls: Iterable[StatementCalls]) -> None:
    """Add calls to the known statements."""
    for each in calls:
        execute(
            conn,
            "count_statement_calls",
            {
                "fingerprint": fingerprint(each.text),
                "column_id": each.column_id,
                "k_class": each.k_class,
                "shape": each.shape,
                "text": normalize(each.text),
                "as_text": each.as_text,
                "calls": each.calls,
                "first_seen": each.first_seen,
                "last_seen": each.last_seen,
            },
        )


def publish_settings(conn: psycopg.Connection[Any], column_id: int | None = None) -> int:
    """Choose and store the settings of the statements of a column, or of all; return how many have some.

    Run it in the transaction of the publish.
    """
    served = 0
    for group in _by_fingerprint(read_statements(conn, column_id)):
        if all(statement.is_imported for statement in group):
            served += sum(statement.has_settings for statement in group)
            continue
        chosen = choose_settings(group)
        served += len(group) if chosen is not None else 0
        for statement in group:
            # Of a text that stands for several statements, values do not say which one is called.
            by_share = choose_by_share(statement, chosen) if len(group) == 1 else {}
            _store(conn, statement, chosen, by_share)
    execute(conn, "forget_condition_shares", {"column_id": column_id})
    execute(conn, "publish_condition_shares", {"column_id": column_id})
    return served


def choose_by_share(statement: Statement, chosen: Settings | None) -> dict[int, Settings]:
    """Return the settings for each selectivity bucket that has others than those for all."""
    return {
        bucket: sent_settings(option)
        for bucket, option in statement.by_share.items()
        if option.settings != chosen
    }


def choose_settings(statements: Sequence[Statement]) -> Settings | None:
    """Choose the settings for statements that one text stands for: the cheapest that are proven for each.

    None if there are none. One text stands for several statements where it reaches several tables by
    search_path, or conditions that the server writes in different ways.
    """
    costs: dict[str, float] = defaultdict(float)
    settings: dict[str, Settings] = {}
    provers: dict[str, int] = defaultdict(int)
    for statement in statements:
        for key, option in {_key(option.settings): option for option in reversed(statement.proven)}.items():
            settings[key] = option.settings
            provers[key] += 1
            costs[key] += option.ms * max(statement.calls, 1)
    usable = [key for key, count in provers.items() if count == len(statements)]
    return settings[min(usable, key=lambda key: (costs[key], key))] if usable else None


def read_statements(conn: psycopg.Connection[Any], column_id: int | None = None) -> list[Statement]:
    """Read the statements of a column, or of all columns, with what settings can give each."""
    rows = fetch_rows(conn, "served_statements", {"column_id": column_id})
    columns = {"column_ids": sorted({row.column_id for row in rows})}
    described = {row.id: row for row in fetch_rows(conn, "statement_columns", columns)}
    plain: dict[tuple[int, int], list[Any]] = defaultdict(list)
    conditional: dict[tuple[int, int, str], list[Any]] = defaultdict(list)
    for row in fetch_rows(conn, "plain_index_paths", columns):
        plain[row.column_id, row.k_class].append(row)
    for row in fetch_rows(conn, "condition_calls", columns):
        conditional[row.column_id, row.k_class, row.shape].append(row)
    texts: dict[tuple[str, int, int, str], list[Any]] = defaultdict(list)
    for row in fetch_rows(conn, "text_outcomes", columns):
        texts[row.fingerprint, row.column_id, row.k_class, row.shape].append(row.outcomes)
    statements = []
    for row in rows:
        column = described.get(row.column_id)
        options: list[PathOption] = []
        by_share: dict[int, PathOption] = {}
        if column is not None and row.as_text:
            demand = Demand(column.target_recall, max_tail=column.max_tail)
            calls = texts[row.fingerprint, row.column_id, row.k_class, row.shape]
            options = text_options(calls, demand)
        elif column is not None and row.shape:
            replayed = conditional[row.column_id, row.k_class, row.shape]
            condition_calls = read_calls(replayed, column.method, column.max_effort)
            options = condition_options(condition_calls, column)
            by_share = options_by_share(condition_calls, column)
        elif column is not None:
            options = plain_options(plain[row.column_id, row.k_class])
        is_imported = not options and row.imported is not None
        if is_imported:
            options = [PathOption(**each) for each in row.imported]
        statements.append(
            Statement(
                row.fingerprint,
                row.column_id,
                row.k_class,
                row.shape,
                row.text,
                row.calls,
                column.target_recall if column is not None else 1.0,
                tuple(sorted(options, key=lambda option: option.ms)),
                row.as_text,
                by_share,
                is_imported,
                row.settings is not None,
            )
        )
    return statements


def plain_options(paths: Sequence[Any]) -> list[PathOption]:
    """Return the option of a statement without a condition: an effort for each index it may be planned with.

    The planner chooses between indexes, so each gets its effort, and all have to be proven.
    """
    if not paths:
        return []
    settings: dict[str, str] = {}
    for path in paths:
        name = "hnsw.ef_search" if path.method == "hnsw" else "ivfflat.probes"
        least = path.k_class if path.method == "hnsw" else 1
        effort = max(int(path.effort), least, int(settings.get(name, 0)))
        settings[name] = str(min(effort, _HIGHEST_EF) if path.method == "hnsw" else effort)
    return [
        PathOption(
            "index",
            settings,
            min(path.expected_recall or 0.0 for path in paths),
            min(path.recall_bound or 0.0 for path in paths),
            max(path.ms or 0.0 for path in paths),
            all(path.proven for path in paths),
        )
    ]


def sent_settings(option: PathOption) -> Settings:
    """Return what a statement is sent with for an option: its settings, and those it was measured with.

    The planner's choice may still differ from that in the replays, since it also depends on costs that roles
    and databases set. If it takes the vector index where it did not, an iterative scan leaves no rows out.
    """
    if option.path == "exact":
        return {**option.settings, **_EXACT_PLANNING}
    if option.path in ("hnsw_continued", "ivfflat_continued"):
        return {**option.settings, **_FREE_PLANNING}
    if option.path != "planner":
        return option.settings
    scans = {
        name: "relaxed_order"
        for name in option.settings
        if name in ("hnsw.iterative_scan", "ivfflat.iterative_scan")
    }
    return {**option.settings, **scans, **_FREE_PLANNING}


def _by_fingerprint(statements: Iterable[Statement]) -> list[list[Statement]]:
    groups: dict[tuple[str, int], list[Statement]] = defaultdict(list)
    for statement in statements:
        groups[statement.fingerprint, statement.k_class].append(statement)
    return list(groups.values())


def _key(settings: Settings) -> str:
    return json.dumps(settings, sort_keys=True)


def _store(
    conn: psycopg.Connection[Any],
    statement: Statement,
    chosen: Settings | None,
    by_share: Mapping[int, Settings],
) -> None:
    option = next((o for o in statement.proven if chosen is not None and o.settings == chosen), None)
    figures = [asdict(each) for each in statement.options]
    execute(
        conn,
        "publish_statement_settings",
        {
            "fingerprint": statement.fingerprint,
            "column_id": statement.column_id,
            "k_class": statement.k_class,
            "shape": statement.shape,
            "settings": None if option is None else _key(sent_settings(option)),
            "by_share": json.dumps(by_share) if by_share else None,
            "expected_recall": None if option is None else option.recall,
            "recall_bound": None if option is None else option.bound,
            "certified": option is not None,
            "figures": json.dumps(figures),
        },
    )
