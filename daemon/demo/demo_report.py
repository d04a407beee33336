"""Tables that print the result of the demonstration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from vectuned.daemon.console import Console

_HEADINGS: Final = ("target", "setting", "recall@10", "under 0.8", "mean ms", "p50 ms", "p99 ms")
_FILTERED_ARMS: Final = {
    "default": "default, ef 40",
    "relaxed": "relaxed_order, ef 40",
    "relaxed_200": "relaxed_order, ef 200",
    "exact": "exact, by the filter's B-tree",
    "vectuned": "vectuned, with the indexes it advised",
    "relaxed_advised": "relaxed_order, the same indexes",
}
_ARMS_BEFORE_ADVICE: Final = {
    "vectuned": "vectuned, before its advice",
}
_UNRELATED_ARMS: Final = {**_FILTERED_ARMS, "vectuned": "vectuned"}
_STATEMENTS: Final = 2  # of the advised indexes, which differ only in the category


def print_demo(console: Console, result: Mapping[str, Any]) -> None:
    """Print the result of `vectuned demo`; targets are printed in ascending order."""
    targets = sorted(result["targets"], key=float)
    _print_summary(console, result, targets[0])
    console.line("\nIn detail:")
    _print_unfiltered(console, result, targets)
    _print_filtered(console, result, targets[0])
    console.line("\nFiltered by a topic that has nothing to do with the query")
    rows = [("", _UNRELATED_ARMS[arm], *_figures(outcome)) for arm, outcome in result["unrelated"].items()]
    console.table(_HEADINGS, rows, left=2)
    _print_advice(console, result["advice"])
    for target in targets:
        learned = result["learned"][target]
        console.line(
            f"target {float(target):.2f}: at least {learned['recall_bound']:.3f} with 95 % confidence from "
            f"{learned['replays']:,} replays; {learned['reason']}"
        )
    console.line(
        "\nThe same on your own database:\n"
        "  vectuned check --dsn DSN    -- what recall your searches have now; writes nothing\n"
        "  vectuned migrate --dsn DSN && vectuned enable --dsn DSN my_table my_vector_column\n"
        "  SELECT id, distance FROM vectuned.search('my_table', $1, 10)  -- in your application\n"
        "  vectuned run --dsn DSN      -- learns as searches come; vectuned status shows what it learned\n"
        "An application that sends SQL of its own need not change: vectuned observe and vectuned adopt."
    )


def _print_summary(console: Console, result: Mapping[str, Any], target: str) -> None:
    """Print what an application gets by default, and what it gets from vectuned."""
    plain, filtered = result["targets"][target], result["filtered"]
    served = f"vectuned, target {float(target):.2f}"
    rows = (
        ("all rows", "pgvector's default", plain["default"]),
        ("all rows", served, plain["vectuned"]),
        ("filtered by a category", "pgvector's default, as LangChain sends it", filtered["default"]),
        ("filtered by a category", f"{served}, with the indexes it advised", filtered["vectuned"]),
    )
    console.line(f"\nSearches for {result['corpus']['k']} of {result['corpus']['rows']:,} rows")
    console.table(
        ("searches", "settings", *_HEADINGS[2:]),
        [(searches, settings, *_figures(outcome)) for searches, settings, outcome in rows],
        left=2,
    )


def _print_unfiltered(console: Console, result: Mapping[str, Any], targets: list[str]) -> None:
    corpus = result["corpus"]
    console.line(
        f"\n{corpus['rows']:,} glosses of {corpus['dimensions']} dimensions, HNSW m=16 ef_construction=64, "
        f"{corpus['heldout_queries']:,} held-out queries, recall@{corpus['k']}, times as the client waits"
    )
    rows = []
    for target in targets:
        outcomes, learned = result["targets"][target], result["learned"][target]
        adaptive = learned["access_path"] == "hnsw_adaptive"
        effort = "effort per query" if adaptive else f"ef {learned['fixed_ef_search']}"
        names = {
            "default": f"default, ef {outcomes['default']['ef_search']}",
            "fixed": f"best fixed, ef {outcomes['fixed']['ef_search']}",
            "vectuned": f"vectuned, {effort}",
        }
        for arm, name in names.items():
            label = f"{float(target):.2f}" if arm == "default" else ""
            rows.append((label, name, *_figures(outcomes[arm])))
    console.table(_HEADINGS, rows, left=2)


def _print_filtered(console: Console, result: Mapping[str, Any], target: str) -> None:
    console.line(
        f"\nThe same filtered by lexical category (45 of very different size), "
        f"{result['corpus']['filtered_queries']:,} held-out queries, target {float(target):.2f}"
    )
    rows = [("", name, *_figures(result["filtered"][arm])) for arm, name in _FILTERED_ARMS.items()]
    before = result["filtered_before_advice"]
    rows += [("", name, *_figures(before[arm])) for arm, name in _ARMS_BEFORE_ADVICE.items()]
    console.table(_HEADINGS, rows, left=2)


def _print_advice(console: Console, advice: Mapping[str, Any]) -> None:
    console.line(
        f"\nFollowing the advice took {advice['seconds']:.0f} s, replays included: "
        f"{len(advice['statements'])} partial indexes of together {advice['index_mb']:,.0f} MB, which add "
        f"{advice['added_insert_ms']:.2f} ms to the {advice['insert_ms']:.2f} ms of an insert, such as"
    )
    for statement in advice["statements"][:_STATEMENTS]:
        console.line(f"  {statement}")
    console.line()


def _figures(outcome: Mapping[str, float]) -> tuple[str, ...]:
    times = (f"{outcome[name]:.2f}" for name in ("mean_ms", "p50_ms", "p99_ms"))
    return (f"{outcome['recall']:.3f}", f"{outcome['below_08']:.1%}", *times)
