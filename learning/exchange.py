"""Documents of what was learned: files for other databases, and from them.

sql/tuner/functions/exchange/ writes, checks and merges documents; here they are only carried to and fro.
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
from vectuned.learning.model.tuned_columns import TunedColumn, read_tuned_columns
from vectuned.sql.files import queries

log = logging.getLogger(__name__)

MAX_DOCUMENT_BYTES: Final = 64 * 1024 * 1024  # bytes; vectuned._check_document has the same limit
_ENDING: Final = ".vectuned.json"
_NAME: Final = re.compile(r"(?P<column>[^@]+)@(?P<database>[^@]+)\.(?P<time>\d{8}T\d{6}Z)\.vectuned\.json")
_LONGEST_PART: Final = 100  # of a name, in bytes: file systems allow 255 in all
_ABANDONED: Final = 3600.0  # seconds after which an unfinished file is nobody's any more


def export_document(conn: psycopg.Connection[Any], relation: str, column: str | None = None) -> str:
    """Return the document of a column; `relation` as SQL writes it."""
    values = {"relation": relation, "column_name": column}
    row = conn.execute(queries()["export_patterns"], values).fetchone()
    assert row is not None
    return str(row[0])


def import_document(
    conn: psycopg.Connection[Any],
    relation: str,
    column: str | None,
    text: str,
    *,
    dry_run: bool = False,
    place: str = "The document",
) -> dict[str, Any]:
    """Merge a document into what is known of a column and report, or only report.

    Raises UsageError, naming `place` and where in it, for a document that is not right; then nothing changed.
    """
    values = {"relation": relation, "column_name": column, "document": text, "dry_run": dry_run}
    try:
        row = conn.execute(queries()["import_patterns"], values).fetchone()
    except (psycopg.DataError, psycopg.errors.ProgramLimitExceeded) as error:
        said = [error.diag.message_primary or str(error), error.diag.message_detail]
        raise UsageError(f"{place} cannot be imported: {'; '.join(filter(None, said))}") from error
    assert row is not None
    report: dict[str, Any] = row[0]
    return report


def parse_document(text: str, place: str) -> dict[str, Any]:
    """Read a document as far as it is JSON; UsageError says where it is not. The database checks the rest."""
    try:
        document = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{place} is not JSON: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("provenance"), dict):
        raise UsageError(f"{place} is no document of vectuned: $.provenance must be an object")
    return document


def decode_document(content: bytes, place: str) -> str:
    """Return the text of a document; UsageError where it is too large or not UTF-8."""
    if len(content) > MAX_DOCUMENT_BYTES:
        raise UsageError(
            f"{place} takes more than {MAX_DOCUMENT_BYTES >> 20} MB: that is no document of vectuned."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{place} is not UTF-8: {error}") from error


def read_document(path: Path) -> str:
    """Return the text of a document in a file; UsageError where there is none."""
    try:
        # What looks like a file may be a pipe that nobody writes to.
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
    """Name the file of a document by its column, its database and its time."""
    told = document["provenance"]
    at = datetime.fromisoformat(document["created_at"]).astimezone(UTC)
    column = _part(told["schema"], told["relation"], told["column"])
    return f"{column}@{_part(told['database'])}.{at:%Y%m%dT%H%M%SZ}{_ENDING}"


def write_document(path: Path, text: str) -> None:
    """Write a document, for this user alone; nobody ever sees a part of it, not even after a crash."""
    try:
        with replace_file(path, private=True) as file:
            file.write(f"{text}\n".encode())
    except OSError as error:
        raise VectunedError(f"{path} cannot be written: {error.strerror}.") from error


def export_columns(conn: psycopg.Connection[Any], folder: Path, keep: int) -> list[Path]:
    """Write the document of every column that there is news of; return the files.

    Of each column the newest `keep` files stay. A column that cannot be exported is logged and passed over.
    Raises VectunedError if nothing can be written to the folder.
    """
    _check_folder(folder)
    _remove_abandoned(folder)
    written = []
    for tuned in read_tuned_columns(conn):
        try:
            text = export_document(conn, tuned.column.relation.as_string(conn), tuned.column.name)
        except psycopg.Error as error:
            if conn.closed or isinstance(error, psycopg.errors.QueryCanceled):
                raise
            log.warning(
                "%s is not exported: %s",
                tuned.column,
                error.diag.message_primary or error,
                extra={"action": "export"},
            )
            continue
        document = json.loads(text)
        path = folder / document_name(document)
        siblings = [p for p, name in _documents(folder) if name.group(1, 2) == _of(path.name).group(1, 2)]
        if not (document["classes"] or document["paths"]) or (siblings and _no_news(siblings[0], document)):
            continue
        write_document(path, text)
        written.append(path)
        log.info("exported %s to %s", tuned.column, path, extra={"action": "export"})
        for old in [p for p in siblings if p != path][keep - 1 :]:
            old.unlink(missing_ok=True)
    return written


def import_newest_document(
    conn: psycopg.Connection[Any], tuned: TunedColumn, folder: Path
) -> dict[str, Any] | None:
    """Take over the newest good document of a table and column of these names, and report.

    None where none is newer than what was imported last. What is no good document is logged and passed over.
    Raises VectunedError for a folder that is missing or that anyone may write to.
    """
    _check_folder(folder, trusted=True)
    column = tuned.column
    row = conn.execute(queries()["last_imported"], {"column_id": column.id}).fetchone()
    last = f"{row[0].astimezone(UTC):%Y%m%dT%H%M%SZ}" if row is not None and row[0] else ""
    own = _part(column.schema, column.table, column.name)
    for path, name in _documents(folder):
        if name["time"] <= last:
            break
        if name["column"] != own:
            continue
        try:
            text = read_document(path)
            told = parse_document(text, str(path))["provenance"]
            if [told.get(n) for n in ("schema", "relation", "column")] != [
                column.schema,
                column.table,
                column.name,
            ]:
                raise UsageError(f"{path} is of another column than its name says.")
            relation = column.relation.as_string(conn)
            return import_document(conn, relation, column.name, text, place=str(path))
        except UsageError as error:
            log.warning("%s", error, extra={"action": "import"})
    return None


def _documents(folder: Path) -> Iterator[tuple[Path, re.Match[str]]]:
    """Yield the documents in a folder, by their names, the newest first."""
    found = [(path, name) for path in folder.iterdir() if (name := _NAME.fullmatch(path.name))]
    yield from sorted(found, key=lambda pair: (pair[1]["time"], pair[0].name), reverse=True)


def _of(name: str) -> re.Match[str]:
    matched = _NAME.fullmatch(name)
    assert matched is not None
    return matched


def _no_news(path: Path, document: dict[str, Any]) -> bool:
    """Say whether a file holds the same but for when it was written and how many rows there were."""
    try:
        before = parse_document(read_document(path), str(path))
    except UsageError:
        return False
    return _told(before) == _told(document)


def _told(document: dict[str, Any]) -> dict[str, Any]:
    provenance = {name: value for name, value in document["provenance"].items() if name != "rows"}
    rest = {name: value for name, value in document.items() if name not in ("created_at", "checksum")}
    return {**rest, "provenance": provenance}


def _check_folder(folder: Path, *, trusted: bool = False) -> None:
    """Refuse a folder that is missing, closed to us, or, where it is to be `trusted`, open to everyone."""
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
        raise VectunedError(f"Anyone may write to {folder}: nothing is imported from there until that ends.")


def _remove_abandoned(folder: Path) -> None:
    """Remove what an export left behind that was killed."""
    for partial in folder.glob(PARTIAL_FILES):
        try:
            if time.time() - partial.stat().st_mtime > _ABANDONED:
                partial.unlink()
        except OSError:  # another one of us was quicker, or it is not ours
            continue


def _part(*names: str) -> str:
    """Write names so that they make one part of a file name, and no others make the same."""
    written = ".".join(quote(name, safe="").replace(".", "%2E") for name in names)
    if len(written) <= _LONGEST_PART:
        return written
    digest = hashlib.sha256(written.encode()).hexdigest()[:16]
    return f"{written[: _LONGEST_PART - 17]}~{digest}"


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a number")
