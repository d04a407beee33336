"""The command `vectuned import`: read what was learned from a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

from psycopg import sql

from vectuned.config.errors import UsageError
from vectuned.daemon.cli.command import Command, Context
from vectuned.daemon.console import Console


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="document written by `vectuned export`; - for stdin")
    parser.add_argument("relation", nargs="?", help="table (default: the one of the same name)")
    parser.add_argument("column", nargs="?", help="tuned column (default: the one of the same name)")
    parser.add_argument("--dry-run", action="store_true", help="only report what would be imported")


def _run(context: Context) -> None:
    from vectuned.learning.exchange import (
        MAX_DOCUMENT_BYTES,
        decode_document,
        import_document,
        parse_document,
        read_document,
    )

    options, console = context.options, context.console
    if options.file == "-":
        # One byte more than is allowed, so that `decode_document` notices a longer document.
        name = "The document"
        text = decode_document(sys.stdin.buffer.read(MAX_DOCUMENT_BYTES + 1), name)
    else:
        name, text = options.file, read_document(Path(options.file))
    provenance = parse_document(text, name)["provenance"]
    relation, column = options.relation, options.column
    with context.session() as conn:
        if relation is None:
            names = [provenance.get(key) for key in ("schema", "relation", "column")]
            if not all(isinstance(each, str) and each and "\0" not in each for each in names):
                raise UsageError(
                    f"{name} does not name its column: name one, as in "
                    "`vectuned import FILE RELATION COLUMN`."
                )
            relation, column = sql.Identifier(*names[:2]).as_string(conn), names[2]
        report = import_document(conn, relation, column, text, dry_run=options.dry_run, place=name)
    if console.as_json:
        console.document(report)
    else:
        _print_report(console, report)


def _print_report(console: Console, report: dict[str, Any]) -> None:
    how = "as it was proven" if report["as"] == "proven" else f"as a prior, because {report['why']}"
    console.line(f"{report['relation']}.{report['column']} from {report['source']}, {how}")
    rows = [
        (
            f"  k up to {each['k']}",
            each["action"],
            f"probes {each['probes']}" if each["probes"] else f"ef {each['ef_search'] or '-'}",
            str(each["patterns"]),
            each["why"],
        )
        for each in report["classes"]
    ]
    rows += [
        (f"  k up to {each['k']}, {each['shape']}", each["action"], f"{each['paths']} paths", "", each["why"])
        for each in report["filters"]
    ]
    rows += [
        ("  own SQL", each["action"], f"{each['statements']} statements", "", each["why"])
        for each in report["statements"]
    ]
    if rows:
        console.table(("  searches", "", "effort", "patterns", "why"), rows, left=5)
    else:
        console.line("  the document is empty")
    if not report["changed"]:
        console.line("nothing would change" if report["dry_run"] else "nothing changed")
    elif report["dry_run"]:
        console.line("nothing was imported: this was a dry run")


COMMAND: Final = Command(
    name="import",
    summary="import what was learned in another database",
    description="On the very index that it was learned on, the policy is used as it was there. Elsewhere it "
    "is a prior: a setting to begin with, of at least the proven effort, that counts as unproven until "
    "replays here prove one. What was learned here always stays. Importing twice changes nothing.",
    example="vectuned import learned.json items embedding --dry-run",
    run=_run,
    add_arguments=_add_arguments,
)
