"""The READMEs' figures: tables between markers, written from the result files.

A table stands between `<!-- figures: NAME ... -->` and `<!-- end of figures -->`. Runs of one kind named
together share it; `targets=0.95,0.98` chooses rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vectuned.config.errors import UsageError

from .definitions import FOLDER, Definition, choose
from .results import Result, stored
from .tables import Table, judged, origin, tables

FILES: Final = (FOLDER.parent / "README.md", FOLDER / "README.md")
MISSING: Final = "not measured yet"
_BEGIN: Final = re.compile(r"<!-- figures: *(?P<what>[^\n]*?) *-->\n")
_END: Final = "<!-- end of figures -->"


def rewritten(text: str, place: str, definitions: Mapping[str, Definition], folder: Path) -> str:
    """Return a text with the figures between its markers as the result files in `folder` have them."""
    pieces, at = [], 0
    while found := _BEGIN.search(text, at):
        line = text.count("\n", 0, found.start()) + 1
        end = text.find(_END, found.end())
        following = _BEGIN.search(text, found.end())
        if end < 0 or (following and following.start() < end):
            raise UsageError(f"{place}, line {line}: the figures do not end with {_END}.")
        try:
            figures = _figures(found["what"], definitions, folder)
        except UsageError as error:
            raise UsageError(f"{place}, line {line}: {error}") from error
        pieces += [text[at : found.end()], "\n", figures, "\n"]
        at = end
    # An end without a beginning is a marker misspelt.
    if text.count(_END) != len(_BEGIN.findall(text)):
        raise UsageError(f"{place}: {_END} stands where no figures begin.")
    return "".join([*pieces, text[at:]])


def markdown(table: Table) -> str:
    """Write a table in Markdown."""
    lines = [f"{table.title}:\n"] if table.title else []
    lines.append(_line(table.columns))
    lines.append("|" + "|".join(["---"] * table.left + ["---:"] * (len(table.columns) - table.left)) + "|")
    return "\n".join([*lines, *map(_line, table.rows)]) + "\n"


def _line(cells: tuple[str, ...]) -> str:
    return "|" + "|".join(f" {cell.replace('|', '&#124;').replace(chr(10), ' ')} " for cell in cells) + "|"


def _figures(what: str, definitions: Mapping[str, Definition], folder: Path) -> str:
    names = [word for word in what.split() if "=" not in word]
    targets: list[str] = []
    for word in what.split():
        key, equals, value = word.partition("=")
        if equals and key != "targets":
            raise UsageError(f"figures are chosen by targets=..., not by {word}.")
        targets += value.split(",") if equals else []
    if not names:
        raise UsageError("figures must name a run.")
    chosen = choose(dict(definitions), names)
    kinds = {definition.kind for definition in chosen.values()}
    if len(chosen) > 1 and (len(kinds) > 1 or any(each.tables for each in chosen.values())):
        raise UsageError(f"{', '.join(names)} cannot share a table: they are not of one kind.")
    found = {name: stored(name, folder) for name in chosen}
    there: list[Result] = [result for result in found.values() if result is not None]
    if not there:
        return f"{MISSING}\n"
    parts = [markdown(table) for table in tables(next(iter(chosen.values())), there, targets)]
    for name, result in found.items():
        who = f"`{name}`: " if len(found) > 1 else ""
        if result is None:
            parts.append(f"{who}{MISSING}\n")
        else:
            parts.append(f"{who}{origin(result)}; {judged(chosen[name], result)}.\n")
    return "\n".join(parts)
