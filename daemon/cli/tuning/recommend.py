"""The command `vectuned recommend`: advice from what was learned."""

from __future__ import annotations

from typing import Final

from vectuned.daemon.cli.arguments import add_optional_column_arguments
from vectuned.daemon.cli.command import Command, Context
from vectuned.sql.rows import fetch_dicts

_HEADINGS: Final = {
    "search": "Settings of searches (and what plain SQL would have to set)",
    "filtered search": "Settings of filtered searches",
    "statement": "Statements of applications; `vectuned adopt` sets what serves them",
    "out of reach": "Targets that no setting of the index reaches",
    "invalid index": "Indexes that no search uses",
    "index": "Indexes that would help filtered searches, the most useful first",
    "filter index": "Indexes that filters lack",
    "statistics": "Statistics that are missing",
}


def _run(context: Context) -> None:
    options, console = context.options, context.console
    values = {"relation": options.relation, "column_name": options.column}
    with context.session() as conn:
        rows = fetch_dicts(conn, "recommend", values)
    if console.as_json:
        console.document({"relation": options.relation, "recommendations": rows})
        return
    if not rows:
        console.line(
            f"nothing has been learned about {options.relation} yet: let the application search it by "
            "vectuned.search, of which a share is recorded, while `vectuned run` learns; `vectuned evaluate "
            f"{options.relation} --queries FILE` measures with query vectors of your own at once"
        )
    unsearched = [row for row in rows if row["kind"] == "search" and not row["figures"]["searches"]]
    shown = [row for row in rows if row not in unsearched]
    for kind in dict.fromkeys(row["kind"] for row in shown):
        console.line(f"\n{_HEADINGS[kind]}")
        for row in (row for row in shown if row["kind"] == kind):
            console.line(f"  {row['subject']}: {row['recommendation']}\n    {row['reason']}")
            if row["statement"] is not None:
                console.line(f"    {row['statement']};")
    if unsearched:
        classes = ", ".join(row["subject"].removeprefix("k up to ") for row in unsearched)
        console.line(
            f"\nNo search without a filter was recorded for k up to {classes}: their settings are derived "
            "from other searches (--json shows them)."
        )


COMMAND: Final = Command(
    name="recommend",
    summary="explain a column's settings, and name indexes that would help",
    description="Prints the setting in use for every class of k and every kind of filter, with the evidence, "
    "and statements that only the owner of the table can run.",
    example="vectuned recommend items",
    run=_run,
    add_arguments=add_optional_column_arguments,
)
