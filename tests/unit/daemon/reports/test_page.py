"""The page around a report."""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256

from vectuned.daemon.reports.page import compose_page, live_policy, table


def test_compose_page_allows_its_own_script_and_no_other() -> None:
    page = compose_page("<title>", "<p>body</p>", live=True)
    (script,) = re.findall(r"<script>(.*?)</script>", page, flags=re.S)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in live_policy()
    assert live_policy() in page
    assert "<title>&lt;title&gt;</title>" in page


def test_compose_page_that_is_not_live_has_no_script() -> None:
    page = compose_page("title", "<p>body</p>")
    assert "<script" not in page
    assert "refresh" not in page
    assert "script-src" not in page
    assert "<p>body</p>" in page


def test_table_escapes_cells_and_can_be_scrolled_by_the_keyboard() -> None:
    text = table(["<a>", "b"], [("<i>", "1")], numbers=[1], grades=["bad"])
    assert "<td>&lt;i&gt;</td>" in text
    assert "<th>&lt;a&gt;</th>" in text
    assert '<td class="n">1</td>' in text
    assert '<tr class="bad">' in text
    assert 'tabindex="0" role="region"' in text
    assert table(["a"], []) == '<p class="none">None.</p>'
