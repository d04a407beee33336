"""`vectuned export` and `vectuned import`: what was learned, as documents in files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import sql

from vectuned.config.errors import UsageError
from vectuned.daemon.console import Console

from .command import Command, Context


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("relation", nargs="?", help="table; without it every tuned column is exported")
    parser.add_argument("column", nargs="?", help="its tuned column; without it all of them")
    parser.add_argument(
        "-o",
        "--output",
        default=".",
        metavar="FILE|FOLDER",
        help="where to; of several columns a folder; - is stdout (default: the current folder)",
    )


def _export(context: Context) -> None:
    from vectuned.learning.exchange import document_name, export_document, parse_document, write_document

    options, console = context.options, context.console
    with context.session() as conn:
        columns = _chosen(conn, options.relation, options.column)
        texts = [export_document(conn, relation, column) for relation, column in columns]
    if options.output == "-":
        if len(texts) > 1:
            raise UsageError(
                f"{len(texts)} documents do not go to stdout: name one column, or give a folder."
            )
        sys.stdout.write(texts[0] + "\n")
        return
    output, files = Path(options.output), []
    if not output.is_dir() and (len(texts) > 1 or options.output.endswith("/")):
        raise UsageError(f"There is no folder {output}; create it first.")
    for (relation, column), text in zip(columns, texts, strict=True):
        document = parse_document(text, relation)
        path = output / document_name(document) if output.is_dir() else output
        write_document(path, text)
        patterns = sum(len(each["patterns"]) for each in document["classes"])
        files.append(
            {
                "relation": relation,
                "column": column,
                "file": str(path),
                "classes": len(document["classes"]),
                "patterns": patterns,
                "paths": len(document["paths"]),
            }
        )
        console.line(
            f"{relation}.{column}: {len(document['classes'])} classes of k, {patterns} patterns, "
            f"{len(document['paths'])} measured paths in {path}"
        )
    if console.as_json:
        console.document({"files": files})


def _chosen(conn: psycopg.Connection[Any], relation: str | None, column: str | None) -> list[tuple[str, str]]:
    """Return the tuned columns that are meant: each relation as SQL writes it, and column."""
    from vectuned.learning.model.tuned_columns import read_tuned_columns

    every = {tuned.column.id: tuned.column for tuned in read_tuned_columns(conn)}
    if relation is not None:
        rows = conn.execute(
            "SELECT id FROM vectuned.tuned_column WHERE relation = %s::regclass AND column_name = "
            "coalesce(%s, column_name) ORDER BY id",
            (relation, column),
        ).fetchall()
        # Says what is wrong with the name where there is none.
        ids = [row[0] for row in rows] or [_find(conn, relation, column)]
        every = {number: every[number] for number in ids if number in every}
    if not every:
        raise UsageError("There is no tuned column: run `vectuned enable RELATION COLUMN` first.")
    return [(each.relation.as_string(conn), each.name) for each in every.values()]


def _find(conn: psycopg.Connection[Any], relation: str, column: str | None) -> int:
    row = conn.execute("SELECT (vectuned._tuned_column(%s::regclass, %s)).id", (relation, column)).fetchone()
    assert row is not None
    return int(row[0])


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a document of vectuned export; - is stdin")
    parser.add_argument("relation", nargs="?", help="table (default: the one of the same name)")
    parser.add_argument("column", nargs="?", help="its tuned column")
    parser.add_argument("--dry-run", action="store_true", help="only report what would be taken over")


def _import(context: Context) -> None:
    from vectuned.learning.exchange import (
        MAX_DOCUMENT_BYTES,
        decode_document,
        import_document,
        parse_document,
        read_document,
    )

    options, console = context.options, context.console
    if options.file == "-":
        place, text = (
            "The document",
            decode_document(sys.stdin.buffer.read(MAX_DOCUMENT_BYTES + 1), "The document"),
        )
    else:
        place, text = options.file, read_document(Path(options.file))
    told = parse_document(text, place)["provenance"]
    relation, column = options.relation, options.column
    with context.session() as conn:
        if relation is None:
            names = [told.get(name) for name in ("schema", "relation", "column")]
            if not all(isinstance(name, str) and name and "\0" not in name for name in names):
                raise UsageError(f"{place} does not say of which column it is: name one to import it for.")
            relation, column = sql.Identifier(*names[:2]).as_string(conn), names[2]
        report = import_document(conn, relation, column, text, dry_run=options.dry_run, place=place)
    if console.as_json:
        console.document(report)
    else:
        _print_report(console, report)


def _print_report(console: Console, report: dict[str, Any]) -> None:
    how = "as it was proven" if report["as"] == "proven" else f"as a prior, for {report['why']}"
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
    if rows:
        console.table(("  searches", "", "effort", "patterns", "why"), rows, left=5)
    else:
        console.line("  there is nothing in it")
    if not report["changed"]:
        console.line("nothing changed" if not report["dry_run"] else "nothing would change")
    elif report["dry_run"]:
        console.line("nothing was imported: this was a dry run")


COMMANDS: Final = (
    Command(
        "export",
        "write what was learned to files, for other databases",
        "Writes a JSON document for each tuned column: policies, patterns and measured paths with their "
        "evidence. It holds no rows, no values of filters and no query vectors.",
        _export_arguments,
        _export,
    ),
    Command(
        "import",
        "take over what was learned elsewhere",
        "On the very index it was learned on it serves as it did. Elsewhere it is a prior: a setting to "
        "begin with, at least the proven effort, and not called proven until replays here prove something. "
        "What was learned here always stays. Importing twice changes nothing.",
        _import_arguments,
        _import,
    ),
)
