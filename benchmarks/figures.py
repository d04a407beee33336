"""Figures in the READMEs: tables between markers, written from the result files.

A table stands between `<!-- figures: NAME ... -->` and `<!-- end of figures -->`, each on a line.
Runs of one kind named together share it; `targets=0.95,0.98` chooses rows, `table=NAME` a table with a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from benchmarks.definitions import FOLDER, Definition, choose
from benchmarks.records import Result, stored
from benchmarks.tables import Table, judged, origin, tables
from vectuned.config.errors import UsageError

FILES: Final = (FOLDER.parent / "README.md", FOLDER / "README.md")
MISSING: Final = "not measured yet"
_BEGIN: Final = re.compile(r"^<!-- figures: *(?P<what>.*?) *-->\n", re.MULTILINE)
_END: Final = re.compile(r"^<!-- end of figures -->$", re.MULTILINE)


def rewrite(
    text: str, place: str, definitions: Mapping[str, Definition], folder: Path
) -> tuple[str, list[str]]:
    """Return a text with its figures updated from the result files in `folder`, and the stale ones."""
    pieces, stale, at = [], list[str](), 0
    while found := _BEGIN.search(text, at):
        line = text.count("\n", 0, found.start()) + 1
        end, following = _END.search(text, found.end()), _BEGIN.search(text, found.end())
        if end is None or (following and following.start() < end.start()):
            raise UsageError(f"{place}, line {line}: these figures have no <!-- end of figures -->.")
        try:
            figures = _figures(found["what"], definitions, folder)
        except UsageError as error:
            raise UsageError(f"{place}, line {line}: {error}") from error
        figures = f"\n{figures}\n"
        if figures != text[found.end() : end.start()]:
            stale.append(f"{found['what']} ({place}, line {line})")
        pieces += [text[at : found.end()], figures]
        at = end.start()
    # An end marker without a start marker: the start marker is misspelt.
    if len(_END.findall(text)) != len(_BEGIN.findall(text)):
        raise UsageError(f"{place}: <!-- end of figures --> stands where no figures begin.")
    return "".join([*pieces, text[at:]]), stale


def markdown(table: Table) -> str:
    """Format a table in Markdown."""
    lines = [f"{table.title}:\n"] if table.title else []
    lines.append(_line(table.columns))
    lines.append("|" + "|".join(["---"] * table.left + ["---:"] * (len(table.columns) - table.left)) + "|")
    return "\n".join([*lines, *map(_line, table.rows)]) + "\n"


def _line(cells: tuple[str, ...]) -> str:
    return "|" + "|".join(f" {cell.replace('|', '&#124;').replace(chr(10), ' ')} " for cell in cells) + "|"


def _figures(what: str, definitions: Mapping[str, Definition], folder: Path) -> str:
    names = [word for word in what.split() if "=" not in word]
    targets: list[str] = []
    table = ""
    for word in what.split():
        key, equals, value = word.partition("=")
        if key == "targets" and equals:
            targets += value.split(",")
        elif key == "table" and equals:
            table = value
        elif equals:
            raise UsageError(f"figures are chosen by targets=... and table=..., not by {word}.")
    if not names:
        raise UsageError("figures must name a run.")
    chosen = choose(dict(definitions), names)
    kinds = {definition.kind for definition in chosen.values()}
    if len(chosen) > 1 and (len(kinds) > 1 or any(each.tables for each in chosen.values())):
        raise UsageError(f"{', '.join(names)} cannot share a table: they are not of one kind.")
    definition = next(iter(chosen.values()))
    if table and table not in [each.name for each in definition.tables]:
        raise UsageError(f"{names[0]} has no table {table}.")
    found = {name: stored(name, folder) for name in chosen}
    there: list[Result] = [result for result in found.values() if result is not None]
    if not there:
        return f"{MISSING}\n"
    parts = [markdown(table) for table in tables(definition, there, targets, table)]
    for name, result in found.items():
        who = f"`{name}`: " if len(found) > 1 else ""
        if result is None:
            parts.append(f"{who}{MISSING}\n")
        else:
            parts.append(f"{who}{origin(result)}; {judged(chosen[name], result)}.\n")
    return "\n".join(parts)
