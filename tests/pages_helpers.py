"""The pages of the documentation: their links, headings and examples."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("benchmarks", "config", "daemon", "learning", "reasoning", "sql", "tests")
PAGES = sorted(
    [path.relative_to(ROOT) for path in ROOT.glob("*.md")]
    + [path.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")]
)

_FENCE = re.compile(r"^```(\w*)$")
_DIRECTIVE = re.compile(r"^<!-- (?!figures|end of figures)(.+) -->$")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Example:
    """A fenced block: its page, the number of its first line, its language and text.

    `directive` is the text of a comment on the line above, which says how a test runs the example: `run` for
    shell commands, `$1: query_id` for a parameter that is not a query vector. `prints` holds the lines of a
    block of `text` that follows.
    """

    page: Path
    line: int
    language: str
    text: str
    directive: str = ""
    prints: tuple[str, ...] = ()

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a shell example, split into words; `&&` and a pipe separate commands."""
        text = self.text.replace("\\\n", " ")
        found: list[list[str]] = []
        for line in text.splitlines():
            words: list[str] = []
            for word in shlex.split(line, comments=True):
                if word in ("&&", "|", "||", ";"):
                    found.append(words)
                    words = []
                else:
                    words.append(word)
            found.append(words)
        return [words for words in found if words]


def read(page: Path) -> str:
    """Read a page, given by its path below the root."""
    return (ROOT / page).read_text(encoding="utf-8")


def examples(page: Path) -> list[Example]:
    """Return the fenced blocks of a page in their order."""
    lines = read(page).splitlines()
    found: list[Example] = []
    start: int | None = None
    language = directive = ""
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if start is None and fence:
            above = _DIRECTIVE.match(lines[number - 1]) if number else None
            start, language, directive = number + 1, fence[1], above[1] if above else ""
        elif start is not None and line == "```":
            text = "\n".join(lines[start:number])
            # Output follows its commands after an empty line.
            follows = found and language == "text" and not any(lines[_end(found[-1]) + 1 : start - 1])
            if follows and found[-1].language in ("sh", "sql"):
                found.append(replace(found.pop(), prints=tuple(text.splitlines())))
            else:
                found.append(Example(page, start + 1, language, text, directive))
            start = None
    assert start is None, f"{page}: the last block has no end"
    return found


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page outside of fenced blocks, with their numbers."""
    fenced = False
    for number, line in enumerate(read(page).splitlines(), start=1):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub forms them."""
    found: set[str] = set()
    for _, line in prose(page):
        if heading := re.match(r"#+ (.*)", line):
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).replace("`", "")
            found.add(re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-"))
    return found


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the targets of a page's links, with the numbers of the lines that they end on."""
    lines = dict(prose(page))
    text = "\n".join(lines.get(number, "") for number in range(1, len(read(page).splitlines()) + 1))
    for link in _LINK.finditer(text):
        yield text.count("\n", 0, link.end()) + 1, link[1]


def _end(example: Example) -> int:
    """Return the number, from 0, of the line that ends an example."""
    return example.line - 1 + len(example.text.splitlines())
