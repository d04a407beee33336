"""The command `vectuned export`: write what was learned to files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import psycopg

from vectuned.config.errors import UsageError
from vectuned.daemon.cli.arguments import find_column_id
from vectuned.daemon.cli.command import Command, Context, raise_failures
from vectuned.daemon.database.isolation import Failure, attempt
from vectuned.sql.rows import fetch_values


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("relation", nargs="?", help="table (default: every tuned table)")
    parser.add_argument("column", nargs="?", help="tuned column (default: all of the table)")
    parser.add_argument(
        "-o",
        "--output",
        default=".",
        metavar="FILE|FOLDER",
        help="where to write, for several columns a folder; - for stdout (default: the current folder)",
    )


def _run(context: Context) -> None:
    options, console = context.options, context.console
    with context.session() as conn:
        columns = _find_columns(conn, options.relation, options.column)
        _check_output(options.output, len(columns))
        texts, failures = _export_each(conn, columns)
    if options.output == "-":
        sys.stdout.writelines(f"{text}\n" for text in texts.values())
        texts = {}
    files = []
    for (relation, column), text in texts.items():
        file = _write_document(Path(options.output), relation, column, text)
        files.append(file)
        console.line(
            f"{relation}.{column}: {file['classes']} classes of k, {file['patterns']} patterns, "
            f"{file['paths']} measured paths, {file['statements']} statements written to {file['file']}"
        )
    if console.as_json and options.output != "-":
        console.document({"files": files})
    raise_failures(failures, len(columns), "exported")


def _check_output(output: str, count: int) -> None:
    """Raise UsageError if a number of documents cannot go where --output says."""
    if output == "-":
        if count > 1:
            raise UsageError(
                f"{count} documents do not go to stdout: name one column, or a folder with --output."
            )
    elif not Path(output).is_dir() and (count > 1 or output.endswith("/")):
        raise UsageError(f"There is no folder {output}; create it first.")


def _export_each(
    conn: psycopg.Connection[Any], columns: Sequence[tuple[str, str]]
) -> tuple[dict[tuple[str, str], str], dict[str, str]]:
    """Return the documents of the columns, and why some have none, by name."""
    from vectuned.learning.exchange import export_document

    texts, failures = {}, {}
    for relation, column in columns:
        text = attempt(conn, partial(export_document, conn, relation, column))
        if isinstance(text, Failure):
            failures[f"{relation}.{column}"] = text.reason
        else:
            texts[relation, column] = text
    return texts, failures


def _write_document(output: Path, relation: str, column: str, text: str) -> dict[str, Any]:
    """Write a document to a file, or into a folder under its own name; return what it holds."""
    from vectuned.learning.exchange import document_name, parse_document, write_document

    document = parse_document(text, relation)
    path = output / document_name(document) if output.is_dir() else output
    write_document(path, text)
    return {
        "relation": relation,
        "column": column,
        "file": str(path),
        "classes": len(document["classes"]),
        "patterns": sum(len(each["patterns"]) for each in document["classes"]),
        "paths": len(document["paths"]),
        "statements": len(document["statements"]),
    }


def _find_columns(
    conn: psycopg.Connection[Any], relation: str | None, column: str | None
) -> list[tuple[str, str]]:
    """Return (relation as SQL writes it, column) of the tuned columns that the arguments name."""
    from vectuned.learning.model.tuned_columns import read_tuned_columns

    columns = {tuned.column.id: tuned.column for tuned in read_tuned_columns(conn)}
    if relation is not None:
        ids = fetch_values(conn, "matching_columns", {"relation": relation, "column_name": column})
        # If there is none, find_column_id raises the server's error about the name.
        ids = ids or [find_column_id(conn, relation, column)]
        columns = {number: columns[number] for number in ids if number in columns}
    if not columns:
        raise UsageError("There is no tuned column: run `vectuned enable RELATION COLUMN` first.")
    return [(each.relation.as_string(conn), each.name) for each in columns.values()]


COMMAND: Final = Command(
    name="export",
    summary="write what was learned to files, for other databases",
    description="Writes a JSON document for each tuned column: policies, patterns and measured paths with "
    "their evidence. It holds no rows, no filter values and no query vectors. `vectuned import` reads it.",
    example="vectuned export items -o learned.json",
    run=_run,
    add_arguments=_add_arguments,
)
