"""What the advisor found, as one document and as tables."""

from __future__ import annotations

from typing import Any, Final

import psycopg

from vectuned.daemon.console import Console
from vectuned.learning.advisor import WORTHWHILE_SHARE, Forecast
from vectuned.learning.model.tuned_columns import TunedColumn

from .advice import Advice, AdvisorOptions, ExistingIndex
from .apply import choose_index_name, compose_index_statement, find_rival_index

_POINTS: Final = (0.9, 0.95, 0.98, 0.99)


def build_report(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    options: AdvisorOptions,
    advice: Advice,
    existing: list[ExistingIndex],
) -> dict[str, Any]:
    """Return the advice with its figures, as JSON can hold them."""
    now = advice.now.at_target(options.target, options.k)
    best = None if advice.winner is None else advice.winner.at_target(options.target, options.k)
    changed = advice.winner is not None and advice.winner is not advice.now
    worth = changed and (now is None or (best is not None and best.ms < WORTHWHILE_SHARE * now.ms))
    rows = [
        _candidate(conn, tuned, options, advice, each, existing) for each in [advice.now, *advice.forecasts]
    ]
    rows[0]["current"] = True
    rows[1:] = sorted(rows[1:], key=lambda row: (row["at_target"] or {}).get("ms", float("inf")))
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
        "current": advice.current.name,
        "candidates": rows,
        "dropped": {
            str(each): {"rows": rows, "time_over_current": None if share is None else round(share, 3)}
            for each, (rows, share) in advice.dropped.items()
        },
        "skipped": {str(each): why for each, why in advice.skipped.items()},
        "winner": None if not worth or advice.winner is None else str(advice.winner.definition),
        "summary": _summary(options, advice, now, best, worth=worth),
        "applied": None,
    }


def _candidate(
    conn: psycopg.Connection[Any],
    tuned: TunedColumn,
    options: AdvisorOptions,
    advice: Advice,
    each: Forecast,
    existing: list[ExistingIndex],
) -> dict[str, Any]:
    point = each.at_target(options.target, options.k)
    in_the_way = find_rival_index(each.definition, existing)
    real = each is advice.now
    return {
        "definition": str(each.definition),
        "current": False,
        "mb": round(each.bytes / 2**20, 1),
        "build_seconds": None if real else round(each.build_seconds, 1),
        "measured_over": list(each.sizes),
        "extrapolated": each.extrapolated,
        "curve": {
            f"{target:g}": None if at is None else _point(at, advice, each)
            for target in _POINTS
            for at in [each.at_target(target, options.k)]
        },
        "at_target": None if point is None else _point(point, advice, each),
        "fits": "shared_buffers"
        if each.bytes <= advice.memory["shared_buffers"]
        else "cache"
        if each.bytes <= advice.memory["effective_cache_size"]
        else "neither",
        "statement": None
        if real
        else compose_index_statement(
            tuned, each.definition, existing, choose_index_name(conn, tuned, each.definition)
        ).as_string(conn),
        "in_the_way": None if real or in_the_way is None else in_the_way.name,
    }


def _point(point: Any, advice: Advice, forecast: Forecast) -> dict[str, Any]:
    return {
        forecast.definition.effort_name: point.effort,
        "recall": round(point.recall, 4),
        "ms": round(point.ms * advice.reference_ms, 3),
        "blocks": round(point.blocks, 1),
    }


def _summary(options: AdvisorOptions, advice: Advice, now: Any, best: Any, *, worth: bool) -> str:
    where = f"recall {options.target:g}"
    if advice.winner is None:
        return f"no candidate reaches {where}, nor does the current index: nothing is worth changing"
    definition = advice.winner.definition
    if not worth:
        if advice.winner is advice.now:
            return (
                f"nothing is worth changing: no candidate reaches {where} at less cost than the current index"
            )
        share = best.ms / now.ms
        return (
            f"nothing is worth changing: the best, {definition}, would take {share:.2f} of the time "
            f"for {where}"
        )
    took = best.ms * advice.reference_ms
    if now is None:
        return (
            f"{definition} reaches {where} in {took:.2f} ms, which the current index does not at any effort"
        )
    return (
        f"{definition} reaches {where} in {took:.2f} ms instead of {now.ms * advice.reference_ms:.2f}, "
        f"{best.ms / now.ms:.2f} of the time"
    )


def print_advice(console: Console, report: dict[str, Any]) -> None:
    """Print the candidates as a table, and what follows."""
    rows = []
    for row in report["candidates"]:
        point, curve = row["at_target"], row["curve"]
        rows.append(
            (
                ("now: " if row["current"] else "") + row["definition"],
                f"{row['mb']:,.0f}",
                "" if row["build_seconds"] is None else f"{row['build_seconds']:,.0f}",
                *("-" if at is None else f"{at['ms']:.2f}" for at in curve.values()),
                *(
                    ("-",) * 4
                    if point is None
                    else (
                        next(str(point[name]) for name in ("ef_search", "probes") if name in point),
                        f"{point['recall']:.3f}",
                        f"{point['ms']:.2f}",
                        f"{point['blocks']:,.0f}",
                    )
                ),
                {"cache": "RAM"}.get(row["fits"], row["fits"]),
            )
        )
    sampled = ", ".join(f"{size:,}" for size in report["sample_rows"])
    extrapolated = any(row["extrapolated"] for row in report["candidates"])
    console.table(
        (
            "index",
            "MB",
            "build s",
            *(f"ms at {target}" for target in report["candidates"][0]["curve"]),
            "effort",
            "recall",
            "ms",
            "blocks",
            "fits in",
        ),
        rows,
        title=f"{report['relation']}.{report['column']}, {report['rows']:,} rows, "
        f"{report['queries']} queries, recall@{report['k']} {report['target_recall']:g}",
    )
    console.line(
        f"Candidates over copies of {sampled} rows"
        + (", carried on to all rows" if extrapolated else "")
        + "; RAM is effective_cache_size, what the server takes its memory for."
    )
    for name, where in report["dropped"].items():
        share = where["time_over_current"]
        took = ", out of reach" if share is None else f", {share:.2f} of the time of the current build"
        console.line(f"Dropped after {where['rows']:,} rows: {name}{took} by what is known there")
    for name, why in report["skipped"].items():
        console.line(f"Not tried: {name} {why}")
    console.line(report["summary"])
    for row in report["candidates"]:
        if row["definition"] == report["winner"]:
            console.line(f"  {row['statement']};")
            if row["in_the_way"]:
                console.line(
                    f"  PostgreSQL takes {row['in_the_way']} for the same statements until that is dropped."
                )


def print_measurement(console: Console, options: AdvisorOptions, applied: dict[str, Any]) -> None:
    """Print what was predicted of the index that was built, and what was measured."""
    took = (
        "was there already"
        if applied["built_seconds"] is None
        else f"built in {applied['built_seconds']:.0f} s"
    )
    measured = applied["measured"]
    rows = [
        (
            name,
            str(held["effort"]),
            figures,
            f"{held[figures]['recall']:.4f}",
            f"{held[figures]['ms']:.3f}",
            f"{held[figures]['blocks']:,.0f}",
        )
        for name, key in (("at the target", "at_the_target"), ("as it serves", "as_served"))
        for held in [measured[key]]
        if held is not None
        for figures in ("predicted", "measured")
    ]
    console.table(
        ("", "effort", "", f"recall@{options.k}", "ms", "blocks"), rows, title=f"{applied['index']}, {took}"
    )
    if measured["former_ms"] is not None:
        console.line(
            "Times as at the prediction: the former index took {then:.2f} ms then, {now:.2f} now.".format(
                **measured["former_ms"]
            )
        )
    if measured["as_served"] is None:
        console.line(
            "It does not serve: not proven yet, or others are quicker. vectuned.search goes on as before "
            "(vectuned recommend says with what)."
        )
