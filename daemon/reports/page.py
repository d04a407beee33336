"""The HTML page around a report, and its tables."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from html import escape
from importlib import resources
from string import Template
from typing import Final

REFRESH_SECONDS: Final = 30  # between two updates of a page that is served; what it shows changes in minutes
_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
)


def compose_page(title: str, body: str, *, live: bool = False) -> str:
    """Return a document around a body; a `live` one fetches itself again every 30 seconds."""
    if not live:
        return _template().substitute(
            title=escape(title), policy=_POLICY, head="", live="", body=body, script=""
        )
    # Without a script the browser loads the whole page again. The icon is named so that none is asked for.
    head = (
        f'<noscript><meta http-equiv="refresh" content="{REFRESH_SECONDS}"></noscript>'
        '<link rel="icon" href="data:,">'
    )
    bar = (
        f'<div id="live" data-seconds="{REFRESH_SECONDS}"><span id="state" role="status">Updates itself '
        f"every {REFRESH_SECONDS} seconds.</span>"
        '<button id="pause" type="button" aria-pressed="false" hidden>Pause</button></div>'
    )
    return _template().substitute(
        title=escape(title),
        policy=live_policy(),
        head=head,
        live=bar,
        body=body,
        script=f"<script>{_script()}</script>",
    )


def live_policy() -> str:
    """Return the content security policy of a live page: its one script may run and fetch the page."""
    digest = b64encode(sha256(_script().encode()).digest()).decode()
    return f"{_POLICY}; script-src 'sha256-{digest}'; connect-src 'self'"


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    numbers: Iterable[int] = (),
    grades: Sequence[str] | None = None,
) -> str:
    """Return a table that scrolls where it is too wide; columns at `numbers` are right-aligned.

    `grades` are classes of the rows, whose second column is coloured by them.
    """
    right = set(numbers)

    def cell(tag: str, place: int, text: str) -> str:
        opening = f'{tag} class="n"' if place in right else tag
        return f"<{opening}>{escape(text)}</{tag}>"

    lines = ["".join(cell("td", place, text) for place, text in enumerate(row)) for row in rows]
    if not lines:
        return '<p class="none">None.</p>'
    head = "".join(cell("th", place, heading) for place, heading in enumerate(headings))
    classes = [f' class="{grade}"' for grade in grades] if grades is not None else [""] * len(lines)
    body = "".join(f"<tr{each}>{line}</tr>" for each, line in zip(classes, lines, strict=True))
    label = escape(", ".join(headings), quote=True)
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="table: {label}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _template() -> Template:
    return Template(resources.files(__package__).joinpath("page.html").read_text("utf-8"))


def _script() -> str:
    return resources.files(__package__).joinpath("page.js").read_text("utf-8")
