"""Types of text settings: what libpq, the server and the file system accept.

Each has a `form` in its JSON schema, which ends the error "... must be text of at most N characters <form>".
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pydantic import AfterValidator, Field


def _check_conninfo(text: str) -> str:
    if "\0" in text:  # libpq would ignore what follows it
        raise ValueError
    try:
        values = conninfo_to_dict(text).values()
    except ProgrammingError as error:
        raise ValueError from error
    if any(_has_control_characters(str(value)) for value in values):
        raise ValueError
    return text


def _check_plain(text: str) -> str:
    if _has_control_characters(text):
        raise ValueError
    return text


def _check_folder(text: str) -> str:
    _check_plain(text)
    try:
        Path(text).expanduser()
    except RuntimeError as error:  # ~name of an unknown user
        raise ValueError from error
    return text


def _has_control_characters(text: str) -> bool:
    return any(c < " " or c == "\x7f" for c in text)


def _text_field(form: str, **limits: Any) -> Any:
    """Return a field with limits of length or pattern, and the form that errors describe."""
    return Field(json_schema_extra={"form": form}, **limits)


Conninfo = Annotated[
    str,
    AfterValidator(_check_conninfo),
    _text_field(
        "that libpq understands, such as postgresql://user@host/name or host=... dbname=...",
        # No connection string is longer; it bounds error messages and the output of `vectuned config show`.
        max_length=4096,
    ),
]
Folder = Annotated[
    str,
    AfterValidator(_check_folder),
    _text_field(
        "that name a folder, without control characters or an unknown ~user",
        max_length=4096,  # PATH_MAX of Linux
    ),
]
ApplicationName = Annotated[
    str,
    # The server cuts the name after 63 bytes, and replaces characters that are not printable ASCII.
    _text_field("of printable ASCII", min_length=1, max_length=63, pattern="^[ -~]*$"),
]
ModelName = Annotated[
    str,
    AfterValidator(_check_plain),
    _text_field("without control characters", max_length=256),  # bounds error messages
]
LogPrefix = Annotated[
    str,
    AfterValidator(_check_plain),
    _text_field("without control characters", max_length=1000),  # ten times the longest in use
]
Url = Annotated[
    str,
    _text_field(
        "that is an address, such as http://localhost:8080/v1, or empty",
        max_length=2048,  # what HTTP clients and proxies commonly accept
        pattern=r"^(https?://[!-~]+)?$",
    ),
]
VariableName = Annotated[
    str,
    _text_field(
        "that names an environment variable, or empty",
        max_length=256,  # bounds error messages
        pattern=r"^([A-Za-z_][A-Za-z0-9_]*)?$",
    ),
]
TextSearchConfiguration = Annotated[
    str,
    _text_field(
        "that names a text search configuration, such as english",
        max_length=63,  # bytes of a name in PostgreSQL
        pattern=r"^[a-z_][a-z0-9_]*$",
    ),
]
LanguageTag = Annotated[
    str,
    _text_field(
        "that names a language, such as en or de",
        max_length=35,  # the longest tag that RFC 5646, section 4.4.1, expects
        pattern=r"^[A-Za-z]{2,3}([-_][A-Za-z0-9]{1,8})*$",
    ),
]
