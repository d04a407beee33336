"""The report of the advisor: one JSON document, and tables that print it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from vectuned.daemon.console import Console
from vectuned.learning.advisor import WORTHWHILE_SHARE, Forecast, Point
from vectuned.learning.model.tuned_columns import TunedColumn

from .advice import Advice, AdvisorOptions, ExistingIndex
from .index_statement import compose_index_statement, find_rival_index
from .storage import choose_index_name

_REPLAY_FACTOR: Final = 2.0  # a trial replays and times searches too, about as long as it builds
_UNPRINTED: Final = ("min_parallel_table_scan_size",)  # needed for small tables only
_TARGETS: Final = (0.9, 0.95, 0.98, 0.99)  # recalls that the cost curve of a candidate is printed at


def build_report(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    options: AdvisorOptions,
    advice: Advice,
    existing: list[ExistingIndex],
) -> dict[str, Any]:
    """Return the advice with its figures, as JSON can hold them."""
    return _ReportBuilder(conn, tuned, options, advice, existing).build()


@dataclass(frozen=True)
class _ReportBuilder:
    conn: psycopg.Connection[Any]
    tuned: TunedColumn
    options: AdvisorOptions
    advice: Advice
    existing: Sequence[ExistingIndex]

    def build(self) -> dict[str, Any]:
        tuned, options, advice = self.tuned, self.options, self.advice
        now = None if advice.now is None else advice.now.at_target(options.target, options.k)
        best = None if advice.winner is None else advice.winner.at_target(options.target, options.k)
        worth = _is_worth_changing(advice, now, best)
        candidates = sorted(
            (self._candidate(each) for each in advice.forecasts),
            key=lambda row: (row["at_target"] or {}).get("ms", float("inf")),
        )
        if advice.now is not None:
            candidates.insert(0, {**self._candidate(advice.now), "current": True})
        return {
            "relation": f"{tuned.column.schema}.{tuned.column.table}",
            "column": tuned.column.name,
            "k": options.k,
            "target_recall": options.target,
            "queries": len(options.vectors),
            "rows": advice.rows,
            "sample_rows": advice.sizes,
            "seconds": round(advice.seconds, 1),
            "memory": advice.memory,
            "current": None if advice.current is None else advice.current.name,
            "exact_ms": None if advice.exact_ms is None else round(advice.exact_ms, 3),
            "candidates": candidates,
            "dropped": {
                str(each): {"rows": rows, "time_over_current": None if ratio is None else round(ratio, 3)}
                for each, (rows, ratio) in advice.dropped.items()
            },
            "skipped": {str(each): reason for each, reason in advice.skipped.items()},
            "out_of_time": bool(advice.out_of_time),
            "winner": None if not worth or advice.winner is None else str(advice.winner.definition),
            "note": self.options.note,
            "summary": _summarize(options, advice, now, best, worth=worth),
            "applied": None,
        }

    def _candidate(self, forecast: Forecast) -> dict[str, Any]:
        definition, k = forecast.definition, self.options.k
        current = forecast is self.advice.now
        rival = None if current else find_rival_index(definition, self.existing)
        return {
            "definition": str(definition),
            "current": False,
            "mb": round(forecast.bytes / 2**20, 1),
            "build_seconds": None if current else round(forecast.build_seconds, 1),
            "measured_over": list(forecast.sizes),
            "extrapolated": forecast.extrapolated,
            "curve": {
                f"{target:g}": self._point(forecast, forecast.at_target(target, k)) for target in _TARGETS
            },
            "at_target": self._point(forecast, forecast.at_target(self.options.target, k)),
            "fits": self._fits(forecast),
            "build": None if current else self._build(forecast),
            "statement": None if current else self._statement(forecast),
            "in_the_way": None if rival is None else rival.name,
        }

    def _point(self, forecast: Forecast, point: Point | None) -> dict[str, Any] | None:
        if point is None:
            return None
        return {
            forecast.definition.effort_name: point.effort,
            "recall": round(point.recall, 4),
            "ms": round(point.ms * self.advice.reference_ms, 3),
            "blocks": round(point.blocks, 1),
        }

    def _fits(self, forecast: Forecast) -> str:
        """Name the smallest memory that holds the index."""
        if forecast.bytes <= self.advice.memory["shared_buffers"]:
            return "shared_buffers"
        return "cache" if forecast.bytes <= self.advice.memory["effective_cache_size"] else "neither"

    def _build(self, forecast: Forecast) -> dict[str, Any]:
        """Return what building it on the table takes; `settings` are of the session that builds it."""
        plan = self.advice.plans[forecast.definition]
        settings = {name: value for name, value in plan.settings.items() if name not in _UNPRINTED}
        return {
            "needed_mb": round(plan.needed_bytes / 2**20, 1),
            "fits": plan.fits,
            "warning": plan.warning(),
            "settings": settings,
        }

    def _statement(self, forecast: Forecast) -> str:
        name = choose_index_name(self.conn, self.tuned, forecast.definition)
        statement = compose_index_statement(
            self.tuned,
            forecast.definition,
            self.existing,
            name,
            mixed=self.options.mixed,
        )
        return statement.as_string(self.conn)


def _is_worth_changing(advice: Advice, now: Point | None, best: Point | None) -> bool:
    """Say whether the winner is another index and enough cheaper, or the only one that reaches the target."""
    if advice.winner is None or advice.winner is advice.now:
        return False
    if advice.now is None:
        exact = advice.exact_ms or 0.0
        return best is not None and best.ms * advice.reference_ms < WORTHWHILE_SHARE * exact
    return now is None or (best is not None and best.ms < WORTHWHILE_SHARE * now.ms)


def _summarize(
    options: AdvisorOptions, advice: Advice, now: Point | None, best: Point | None, *, worth: bool
) -> str:
    summarize = _summarize_bare if advice.now is None else _summarize_best
    found = summarize(options, advice, now, best, worth=worth)
    if not advice.out_of_time:
        return found
    count = len(advice.out_of_time)
    seconds = math.ceil((options.budget_seconds + _REPLAY_FACTOR * advice.missing_seconds) / 60) * 60
    return (
        f"time ran out before {count} of the candidates could be tried further; so far: {found}. "
        f"Give more: --budget-seconds {seconds}"
    )


def _summarize_best(
    options: AdvisorOptions, advice: Advice, now: Point | None, best: Point | None, *, worth: bool
) -> str:
    target = f"recall {options.target:g}"
    # What was not tried may be better.
    nothing = "nothing better was found" if advice.out_of_time else "nothing is worth changing"
    if advice.winner is None or best is None:
        if options.memory_mb is not None:
            target += f" within {options.memory_mb:,} MB"
        most = max(advice.forecasts, key=_highest, default=None)
        nearest = "" if most is None else f"; nearest comes {most.definition}, {_highest(most):.3f} at most"
        return f"no candidate reaches {target}, nor does the current index: {nothing}{nearest}"
    definition, best_ms = advice.winner.definition, best.ms * advice.reference_ms
    if now is None:
        return (
            f"{definition} reaches {target} in {best_ms:.2f} ms, expected recall {best.recall:.3f}; the "
            f"current index does not reach it at any effort, but {_highest(advice.now):.3f} at most"
        )
    if worth:
        return (
            f"{definition} reaches {target} in {best_ms:.2f} ms instead of "
            f"{now.ms * advice.reference_ms:.2f}, {best.ms / now.ms:.2f} of the time"
        )
    if advice.winner is advice.now:
        return f"{nothing}: no candidate reaches {target} at less cost than the current index"
    return f"{nothing}: the best, {definition}, would take {best.ms / now.ms:.2f} of the time for {target}"


def _highest(forecast: Forecast | None) -> float:
    """Return the highest recall that is expected at any effort."""
    return 0.0 if forecast is None else float(forecast.recall.max())


def _summarize_bare(
    options: AdvisorOptions, advice: Advice, _now: Point | None, best: Point | None, *, worth: bool
) -> str:
    target, exact = f"recall {options.target:g}", advice.exact_ms or 0.0
    if advice.winner is None or best is None:
        if options.memory_mb is not None:
            target += f" within {options.memory_mb:,} MB"
        return f"no index reaches {target}: exact search takes about {exact:,.1f} ms"
    found = f"{advice.winner.definition} reaches {target} in {best.ms * advice.reference_ms:.2f} ms"
    if worth:
        return f"{found}; exact search, which needs no index, takes about {exact:,.1f} ms"
    return f"no index is worth its place: exact search takes about {exact:,.1f} ms; {found}"


def print_advice(console: Console, report: dict[str, Any]) -> None:
    """Print the candidates as a table, and the conclusion with its statement."""
    targets = [f"{target:g}" for target in _TARGETS]
    if report["note"]:
        console.line(report["note"])
    console.table(
        (
            "index",
            "MB",
            "build s",
            *(f"ms at {target}" for target in targets),
            "effort",
            "recall",
            "ms",
            "blocks",
            "fits in",
        ),
        [_candidate_cells(candidate) for candidate in report["candidates"]],
        title=f"{report['relation']}.{report['column']}, {report['rows']:,} rows, "
        f"{report['queries']} queries, recall@{report['k']} {report['target_recall']:g}",
    )
    samples = ", ".join(f"{size:,}" for size in report["sample_rows"])
    extrapolated = any(candidate["extrapolated"] for candidate in report["candidates"])
    console.line(
        f"Candidates were measured over copies of {samples} rows"
        + (" and extrapolated to all rows" if extrapolated else "")
        + "; RAM means effective_cache_size, the memory for caching that the server assumes."
    )
    for name, dropped in report["dropped"].items():
        ratio = dropped["time_over_current"]
        measure = "the current build" if report["current"] else "the quickest candidate"
        reason = "misses the target" if ratio is None else f"{ratio:.2f} of the time of {measure}"
        console.line(f"Dropped after {dropped['rows']:,} rows: {name}, {reason} as forecast from there")
    for name, reason in report["skipped"].items():
        console.line(f"Not tried: {name} {reason}")
    console.line(report["summary"])
    for candidate in report["candidates"]:
        if candidate["definition"] == report["winner"]:
            for name, value in candidate["build"]["settings"].items():
                console.line(f"  SET {name} = '{value}';")
            console.line(f"  {candidate['statement']};")
            if candidate["build"]["warning"]:
                console.line(f"  {candidate['build']['warning']}.")
            if candidate["in_the_way"]:
                console.line(
                    f"  PostgreSQL uses {candidate['in_the_way']} for the same statements until that is "
                    "dropped."
                )


def _candidate_cells(candidate: dict[str, Any]) -> tuple[str, ...]:
    point, seconds = candidate["at_target"], candidate["build_seconds"]
    if point is None:
        figures = ("-",) * 4
    else:
        effort = point["ef_search"] if "ef_search" in point else point["probes"]
        figures = (str(effort), f"{point['recall']:.3f}", f"{point['ms']:.2f}", f"{point['blocks']:,.0f}")
    return (
        ("now: " if candidate["current"] else "") + candidate["definition"],
        f"{candidate['mb']:,.0f}",
        "" if seconds is None else f"{seconds:,.0f}",
        *("-" if at is None else f"{at['ms']:.2f}" for at in candidate["curve"].values()),
        *figures,
        "RAM" if candidate["fits"] == "cache" else candidate["fits"],
    )


def print_measurement(console: Console, options: AdvisorOptions, applied: dict[str, Any]) -> None:
    """Print the forecast of the index that was built beside its measurement."""
    seconds, measured = applied["built_seconds"], applied["measured"]
    origin = "existed before" if seconds is None else f"built in {seconds:.0f} s"
    rows = [
        (
            name,
            str(comparison["effort"]),
            kind,
            f"{comparison[kind]['recall']:.4f}",
            f"{comparison[kind]['ms']:.3f}",
            f"{comparison[kind]['blocks']:,.0f}",
        )
        for name, key in (("at the target", "at_the_target"), ("as it serves", "as_served"))
        if (comparison := measured[key]) is not None
        for kind in ("predicted", "measured")
    ]
    headings = ("", "effort", "", f"recall@{options.k}", "ms", "blocks")
    console.table(headings, rows, title=f"{applied['index']}, {origin}")
    if measured["former_ms"] is not None:
        then, now = measured["former_ms"]["then"], measured["former_ms"]["now"]
        console.line(
            f"Times are scaled to the load at the prediction: the former index took {then:.2f} ms then, "
            f"{now:.2f} now."
        )
    if measured["as_served"] is None:
        console.line(
            "The index does not serve: it is not proven yet, or others are quicker. vectuned.search works as "
            "before (see vectuned recommend)."
        )
