"""Export and import: documents of what was learned, carried between databases as files.

The SQL functions in sql/tuner/functions/exchange/ write, check and merge documents; this module only reads
and writes the files.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import stat
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import psycopg

from vectuned.config.atomic_file import PARTIAL_FILES, replace_file
from vectuned.config.errors import UsageError, VectunedError
from vectuned.learning.model.tuned_columns import TunedColumn
from vectuned.sql.rows import fetch_rows, fetch_value

log = logging.getLogger(__name__)

MAX_DOCUMENT_BYTES: Final = 64 * 1024 * 1024  # bytes; vectuned._check_document has the same limit
_ENDING: Final = ".vectuned.json"
_NAME: Final = re.compile(r"(?P<column>[^@]+)@(?P<database>[^@]+)\.(?P<time>\d{8}T\d{6}Z)\.vectuned\.json")
_MAX_PART: Final = 100  # bytes of a part of a file name: file systems allow 255 in all
_ABANDONED: Final = 3600.0  # seconds after which no process is still writing a partial file


def export_document(conn: psycopg.Connection[Any], relation: str, column: str | None = None) -> str:
    """Return the document of a column; `relation` as SQL writes it."""
    values = {"relation": relation, "column_name": column}
    return str(fetch_value(conn, "export_patterns", values))


def import_document(
    conn: psycopg.Connection[Any],
    relation: str,
    column: str | None,
    text: str,
    *,
    dry_run: bool = False,
    place: str = "The document",
) -> dict[str, Any]:
    """Merge a document into what is known about a column and return a report; with `dry_run` only report.

    Raises UsageError for an invalid document, naming the document as `place` and the position in it; then
    nothing has changed.
    """
    values = {"relation": relation, "column_name": column, "document": text, "dry_run": dry_run}
    try:
        report: dict[str, Any] = fetch_value(conn, "import_patterns", values)
    except (psycopg.DataError, psycopg.errors.ProgramLimitExceeded) as error:
        causes = [error.diag.message_primary or str(error), error.diag.message_detail]
        raise UsageError(f"{place} cannot be imported: {'; '.join(filter(None, causes))}") from error
    return report


def parse_document(text: str, place: str) -> dict[str, Any]:
    """Parse a document as JSON; UsageError says where it is not. The database checks the rest."""
    try:
        document = json.loads(text, parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place} is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("provenance"), dict):
        raise UsageError(f"{place} is not a document of vectuned: $.provenance must be an object")
    return document


def decode_document(content: bytes, place: str) -> str:
    """Decode the text of a document; UsageError if it is too large or not UTF-8."""
    if len(content) > MAX_DOCUMENT_BYTES:
        raise UsageError(
            f"{place} takes more than {MAX_DOCUMENT_BYTES >> 20} MB: that is not a document of vectuned."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{place} is not UTF-8: {error}") from error


def read_document(path: Path) -> str:
    """Read the text of a document from a file; UsageError if that is not possible."""
    try:
        # Non-blocking, because the path may be a pipe that no process writes to.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise UsageError(f"{path} is not a file.")
        with os.fdopen(handle, "rb") as file:
            content = file.read(MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.") from error
    return decode_document(content, str(path))


def document_name(document: dict[str, Any]) -> str:
    """Return the file name of a document: its column, its database and its time."""
    provenance = document["provenance"]
    at = datetime.fromisoformat(document["created_at"]).astimezone(UTC)
    column = _part(provenance["schema"], provenance["relation"], provenance["column"])
    return f"{column}@{_part(provenance['database'])}.{at:%Y%m%dT%H%M%SZ}{_ENDING}"


def write_document(path: Path, text: str) -> None:
    """Write a document, readable by this user only; atomic, so that a crash leaves no partial document."""
    try:
        with replace_file(path, private=True) as file:
            file.write(f"{text}\n".encode())
    except OSError as error:
        raise VectunedError(f"{path} cannot be written: {error.strerror}.") from error


def prepare_export_folder(folder: Path) -> Path:
    """Check a folder for exports and remove partial files; VectunedError if it is not writable."""
    _check_folder(folder)
    _remove_abandoned(folder)
    return folder


def export_column(conn: psycopg.Connection[Any], tuned: TunedColumn, folder: Path, keep: int) -> Path | None:
    """Write the document of a column, and keep the newest `keep` files of it.

    Returns the file, None if nothing new was learned since the last one.
    """
    text = export_document(conn, tuned.column.relation.as_string(conn), tuned.column.name)
    document = json.loads(text)
    path = folder / document_name(document)
    siblings = [p for p, name in _documents(folder) if name.group(1, 2) == _parse_name(path.name)]
    if not any(document[part] for part in ("classes", "paths", "statements")) or (
        siblings and _is_unchanged(siblings[0], document)
    ):
        return None
    write_document(path, text)
    log.info("exported %s to %s", tuned.column, path, extra={"action": "export"})
    for old in [p for p in siblings if p != path][keep - 1 :]:
        old.unlink(missing_ok=True)
    return path


def check_import_folder(folder: Path) -> Path:
    """Return a folder to import from; VectunedError if it is missing or any user may write to it."""
    _check_folder(folder, trusted=True)
    return folder


def import_newest_documents(
    conn: psycopg.Connection[Any], tuned: TunedColumn, folder: Path
) -> list[dict[str, Any]]:
    """Import the newest valid document of each database for a table and column of the same names.

    A document is imported only if it is newer than the last one imported from the same database. An invalid
    document is logged, and the next older one is tried. Returns the reports. The folder must have passed
    `check_import_folder`.
    """
    column = tuned.column
    last = {
        _part(row.database): f"{row.created_at.astimezone(UTC):%Y%m%dT%H%M%SZ}"
        for row in fetch_rows(conn, "last_imports", {"column_id": column.id})
    }
    own = _part(column.schema, column.table, column.name)
    reports = []
    done: set[str] = set()
    for path, name in _documents(folder):
        database = name["database"]
        if name["column"] != own or database in done:
            continue
        if name["time"] <= last.get(database, ""):
            done.add(database)
            continue
        try:
            text = read_document(path)
            provenance = parse_document(text, str(path))["provenance"]
            if [provenance.get(n) for n in ("schema", "relation", "column")] != [
                column.schema,
                column.table,
                column.name,
            ]:
                raise UsageError(f"{path} holds another column than its name says.")
            relation = column.relation.as_string(conn)
            reports.append(import_document(conn, relation, column.name, text, place=str(path)))
            done.add(database)
        except UsageError as error:
            log.warning("%s", error, extra={"action": "import"})
    return reports


def _documents(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    """Yield the documents in a folder and their parsed names, the newest first."""
    found = [(path, name) for path in folder.iterdir() if (name := _NAME.fullmatch(path.name))]
    yield from sorted(found, key=lambda pair: (pair[1]["time"], pair[0].name), reverse=True)


def _parse_name(name: str) -> tuple[str, ...]:
    """Return the column and database in the file name of a document."""
    matched = _NAME.fullmatch(name)
    assert matched is not None
    return matched.group(1, 2)


def _is_unchanged(path: Path, document: dict[str, Any]) -> bool:
    """Say whether a file holds the same document except for its time and the number of rows."""
    try:
        before = parse_document(read_document(path), str(path))
    except UsageError:
        return False
    return _learned_content(before) == _learned_content(document)


def _learned_content(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document without its time, checksum, number of rows, and how often statements were sent."""
    counts = ("calls", "first_seen", "last_seen")
    statements = [
        {name: value for name, value in statement.items() if name not in counts}
        for statement in document["statements"]
    ]
    provenance = {name: value for name, value in document["provenance"].items() if name != "rows"}
    rest = {name: value for name, value in document.items() if name not in ("created_at", "checksum")}
    return {**rest, "provenance": provenance, "statements": statements}


def _check_folder(folder: Path, *, trusted: bool = False) -> None:
    """Raise VectunedError for a folder that is missing, inaccessible or, if `trusted`, open to all."""
    try:
        mode = folder.stat().st_mode
    except OSError as error:
        raise VectunedError(f"The folder {folder} cannot be used: {error.strerror}.") from error
    if not stat.S_ISDIR(mode):
        raise VectunedError(f"{folder} is not a folder.")
    if not os.access(folder, os.R_OK | os.X_OK | (0 if trusted else os.W_OK)):
        raise VectunedError(
            f"The folder {folder} cannot be {'read' if trusted else 'written to'} by this user."
        )
    if trusted and mode & stat.S_IWOTH:
        raise VectunedError(
            f"Any user may write to {folder}: nothing is imported from there until that is changed."
        )


def _remove_abandoned(folder: Path) -> None:
    """Remove the partial files of exports that were killed."""
    for partial in folder.glob(PARTIAL_FILES):
        try:
            if time.time() - partial.stat().st_mtime > _ABANDONED:
                partial.unlink()
        except OSError:  # another process removed it first, or it belongs to another user
            continue


def _part(*names: str) -> str:
    """Encode names as one part of a file name, unambiguously."""
    written = ".".join(quote(name, safe="").replace(".", "%2E") for name in names)
    if len(written) <= _MAX_PART:
        return written
    digest = hashlib.sha256(written.encode()).hexdigest()[:16]
    return f"{written[: _MAX_PART - 17]}~{digest}"


def _reject_constant(text: str) -> float:
    """Refuse NaN and infinities, which Python accepts but JSON does not know."""
    raise ValueError(f"{text} is not a number")
