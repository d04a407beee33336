"""Texts that go on to somebody else: libpq, the server's catalogue, the file system."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, Field


def _conninfo(text: str) -> str:
    if "\0" in text:  # libpq would take what is before it for all there is
        raise ValueError
    try:
        parts = conninfo_to_dict(text).values()
    except ProgrammingError as error:
        raise ValueError from error
    if any(_has_controls(str(part)) for part in parts):
        raise ValueError
    return text


def _plain(text: str) -> str:
    if _has_controls(text):
        raise ValueError
    return text


def _folder(text: str) -> str:
    _plain(text)
    try:
        Path(text).expanduser()
    except RuntimeError as error:  # ~somebody who does not exist
        raise ValueError from error
    return text


def _has_controls(text: str) -> bool:
    return any(c < " " or c == "\x7f" for c in text)


def _limited(form: str, **limits: Any) -> Any:
    """Limit a text; the form goes on after "must be text of at most so many characters"."""
    return Field(json_schema_extra={"form": form}, **limits)


Conninfo = Annotated[
    str,
    AfterValidator(_conninfo),
    _limited(
        "that libpq understands, such as postgresql://user@host/name or host=... dbname=...", max_length=4096
    ),
]
Folder = Annotated[
    str,
    AfterValidator(_folder),
    _limited("that name a folder, without control characters or an unknown ~user", max_length=4096),
]
ApplicationName = Annotated[
    str,
    # The server cuts after 63 bytes, and replaces what is not printable ASCII.
    _limited("of printable ASCII", min_length=1, max_length=63, pattern="^[ -~]*$"),
]
Name = Annotated[str, AfterValidator(_plain), _limited("without control characters", max_length=256)]
Url = Annotated[
    str,
    _limited(
        "that is an address, such as http://localhost:8080/v1, or empty",
        max_length=2048,
        pattern=r"^(https?://[!-~]+)?$",
    ),
]
Variable = Annotated[
    str,
    _limited(
        "that names an environment variable, or empty",
        max_length=256,
        pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$",
    ),
]
TextSearch = Annotated[
    str,
    _limited(
        "that names a text search configuration, such as english",
        max_length=63,
        pattern=r"^[a-z_][a-z0-9_]*$",
    ),
]
LanguageTag = Annotated[
    str,
    _limited(
        "that names a language, such as en or de",
        max_length=35,
        pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*$",
    ),
]
