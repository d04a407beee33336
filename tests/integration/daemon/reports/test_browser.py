"""The report in a real browser: nothing is forbidden by its policy, and it updates itself in place."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.integration.daemon.reports.browser_helpers import Browser, find_browser
from tests.integration.table_helpers import Connection

from vectuned.daemon.database.session import open_session
from vectuned.daemon.reports import page, web
from vectuned.daemon.reports.web import serve_report

TAB, ENTER = "\ue004", "\ue007"
_WIDTHS = [390, 768, 1280]  # pixels: a telephone, a tablet, a screen


@pytest.fixture
def url(learned: Connection, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a report that updates itself every second."""
    find_browser()
    monkeypatch.setattr(page, "REFRESH_SECONDS", 1)
    monkeypatch.setattr(web, "_FRESH_SECONDS", -1.0)
    dsn = learned.info.dsn
    with serve_report("127.0.0.1:0", {"shop": lambda: open_session(dsn)}) as address:
        yield address


def test_page_updates_itself_and_keeps_what_is_open_and_focused(url: str, learned: Connection) -> None:
    with Browser() as browser:
        browser.open(url)
        assert browser.errors() == []
        browser.run("document.querySelector('main details[id] summary').focus();")
        browser.press(ENTER)
        browser.wait_for("document.querySelector('main details[id]').open")
        learned.execute("UPDATE vectuned.tuned_column SET target_recall = 0.876")
        browser.wait_for("document.getElementById('main').innerText.includes('target recall 0.876')")
        browser.wait_for("document.getElementById('state').textContent.startsWith('Updated at')")
        assert browser.run("return document.querySelector('main details[id]').open;")
        assert browser.run(
            "return document.activeElement === document.querySelector('main details[id] summary');"
        )
        assert browser.errors() == []


def test_page_pauses_by_the_keyboard_and_says_when_it_cannot_be_updated(
    url: str, learned: Connection
) -> None:
    with Browser() as browser:
        browser.open(url)
        browser.press(TAB)
        assert browser.run("return document.activeElement.className;") == "skip"
        browser.press(TAB)
        assert browser.run("return document.activeElement.id;") == "pause"
        browser.press(ENTER)
        assert browser.run("return document.getElementById('pause').getAttribute('aria-pressed');") == "true"
        browser.press(ENTER)
        browser.wait_for("document.getElementById('state').textContent.startsWith('Updated at')")
        learned.execute("ALTER SCHEMA vectuned RENAME TO hidden")
        browser.wait_for("document.getElementById('state').classList.contains('stale')")
        said = browser.run("return document.getElementById('state').textContent;")
        assert "Not updated since" in said
        assert "cannot be read" in said
        assert browser.run("return document.querySelector('main h2') !== null;"), "the last figures stay"
        learned.execute("ALTER SCHEMA hidden RENAME TO vectuned")
        browser.wait_for("!document.getElementById('state').classList.contains('stale')")


@pytest.mark.parametrize("dark", [False, True])
def test_page_fits_every_width_and_has_contrast(url: str, dark: bool) -> None:
    for width in _WIDTHS:
        with Browser(width, dark=dark) as browser:
            browser.open(url)
            assert browser.run("return document.documentElement.scrollWidth;") <= width
            colours = browser.run(
                "const of = (s, p) => getComputedStyle(document.querySelector(s)).getPropertyValue(p);"
                "return [of('body', 'background-color'), of('body', 'color'), of('main .dim', 'color'),"
                " of('.verdict', 'color')];"
            )
            back, *texts = ([int(part) for part in colour[4:-1].split(",")] for colour in colours)
            assert (sum(back) < 3 * 64) == dark
            assert all(contrast(back, text) >= 4.5 for text in texts)


def contrast(one: list[int], other: list[int]) -> float:
    """Return the contrast of two colours as WCAG 2 defines it; 4.5 is enough for text."""

    def luminance(colour: list[int]) -> float:
        parts = [value / 255 for value in colour]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)
