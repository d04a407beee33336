"""The advice about filters as text."""

from __future__ import annotations

from typing import Any, Final

from vectuned.daemon.console import Console

_MIB: Final = 1 << 20  # bytes


def print_filter_advice(console: Console, report: dict[str, Any]) -> None:
    """Print the statements taken with what each costs and saves, and what was left out."""
    if not report["statements"]:
        console.line("The filters of the recorded searches need no further index.")
    else:
        console.table(
            ("for", "kind", "MB", "build s", "insert ms", "saves ms a search", "searches"),
            [_cells(each) for each in report["statements"]],
            title=f"{report['relation']}: what its filters need",
            left=2,
        )
        console.line(
            f"An insert takes {report['insert_ms']:.3f} ms today, measured on a copy; these add "
            f"{report['added_insert_ms']:.3f} ms and {report['added_bytes'] / _MIB:,.0f} MB."
        )
        for each in report["statements"]:
            console.line(f"  {each['statement']};")
    for each in report["left_out"]:
        console.line(f"Left out: {each['subject']}: {each['why']}")
    for each in report["drop"]:
        console.line(f"No longer worth its {each['mb']:,.1f} MB: {each['index']}: {each['why']}")
        console.line(f"  {each['statement']};")
    for other in report["others"]:
        console.line(f"Also: {other['why']}.")
        for statement in other["script"].splitlines():
            console.line(f"  {statement}")


def _cells(each: dict[str, Any]) -> tuple[str, ...]:
    gain = each["gain_ms"]
    return (
        each["subject"],
        "B-tree" if each["kind"] == "filter index" else "partial vector index",
        f"{each['bytes'] / _MIB:,.1f}",
        f"{each['build_seconds']:,.1f}",
        f"{each['insert_ms']:.4f}",
        "" if gain is None else f"{gain:.3f}",
        f"{each['searches']:,}",
    )
