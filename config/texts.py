"""Texts that go on to somebody else: libpq, the server's catalogue, the file system."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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


def _folder(text: str) -> str:
    if _has_controls(text):
        raise ValueError
    try:
        Path(text).expanduser()
    except RuntimeError as error:  # ~somebody who does not exist
        raise ValueError from error
    return text


def _name(text: str) -> str:
    if _has_controls(text):
        raise ValueError
    return text


def _has_controls(text: str) -> bool:
    return any(c < " " or c == "\x7f" for c in text)


# What `form` says goes on after "must be text of at most so many characters".
Conninfo = Annotated[
    str,
    AfterValidator(_conninfo),
    Field(
        max_length=4096,
        json_schema_extra={
            "form": "that libpq understands, such as postgresql://user@host/name or host=... dbname=..."
        },
    ),
]
Folder = Annotated[
    str,
    AfterValidator(_folder),
    Field(
        max_length=4096,
        json_schema_extra={"form": "that name a folder, without control characters or an unknown ~user"},
    ),
]
ApplicationName = Annotated[
    str,
    # The server cuts after 63 bytes, and replaces what is not printable ASCII.
    Field(min_length=1, max_length=63, pattern="^[ -~]*$", json_schema_extra={"form": "of printable ASCII"}),
]
Name = Annotated[
    str,
    AfterValidator(_name),
    Field(max_length=256, json_schema_extra={"form": "without control characters"}),
]
Url = Annotated[
    str,
    Field(
        max_length=2048,
        pattern=r"^(https?://[!-~]+)?$",
        json_schema_extra={"form": "that is an address, such as http://localhost:8080/v1, or empty"},
    ),
]
Variable = Annotated[
    str,
    Field(
        max_length=256,
        pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$",
        json_schema_extra={"form": "that names an environment variable, or empty"},
    ),
]
TextSearch = Annotated[
    str,
    Field(
        max_length=63,
        pattern=r"^[a-z_][a-z0-9_]*$",
        json_schema_extra={"form": "that names a text search configuration, such as english"},
    ),
]
LanguageTag = Annotated[
    str,
    Field(
        max_length=35,
        pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*$",
        json_schema_extra={"form": "that names a language, such as en or de"},
    ),
]
