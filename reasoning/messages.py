"""Messages by key and language, read from data/messages.LANGUAGE.toml; English is the fallback."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

FALLBACK = "en"

_LANGUAGE = re.compile(r"[a-z]{2,3}")
_FIELD = re.compile(r"\{(\w+)\}")


def translate(key: str, params: Mapping[str, object] | None = None, language: str = FALLBACK) -> str:
    """Return the text of a key with its parameters filled in.

    `language` is a tag such as "de" or "de-AT". A missing text is replaced by the English one, and that by
    the key itself. A missing parameter stays in braces.
    """
    values = params or {}
    template = _texts(_primary(language)).get(key) or _texts(FALLBACK).get(key, key)
    # Not str.format, whose patterns could read attributes of a value.
    return _FIELD.sub(lambda field: str(values.get(field[1], field[0])), template)


def languages() -> tuple[str, ...]:
    """Return the languages that have texts, sorted."""
    names = (file.name.split(".") for file in _folder().iterdir())
    return tuple(sorted(parts[1] for parts in names if parts[0] == "messages" and parts[-1] == "toml"))


def texts(language: str) -> Mapping[str, str]:
    """Return the texts of a language by key; empty for an unknown language."""
    return _texts(_primary(language))


def _primary(language: str) -> str:
    match = _LANGUAGE.match(language.lower())
    return match[0] if match else FALLBACK


@cache
def _texts(language: str) -> dict[str, str]:
    file = _folder() / f"messages.{language}.toml"
    if not file.is_file():
        return {}
    sections = tomllib.loads(file.read_text("utf-8"))["errors"]
    return {
        f"errors.{section}.{name}": text
        for section, entries in sections.items()
        for name, text in entries.items()
    }


def _folder() -> Traversable:
    return resources.files("vectuned.reasoning") / "data"
