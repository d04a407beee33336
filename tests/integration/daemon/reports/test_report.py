"""The report as an HTML document."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.integration.daemon.reports.report_helpers import DIMENSIONS, KIND
from tests.integration.table_helpers import Connection, clustered, enable, make

from vectuned.config.settings import load_settings
from vectuned.daemon.cli.main import main
from vectuned.daemon.reports import status
from vectuned.daemon.reports.report import render_report
from vectuned.daemon.work.worker import Worker


class Document(HTMLParser):
    """Collect the text of elements and the addresses that a browser would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        named = [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]
        self.loads += [value for value in named if not value.startswith("#")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_render_report_holds_everything_and_loads_nothing(learned: Connection) -> None:
    learned.execute("REINDEX INDEX items_embedding_idx")
    Worker(learned, load_settings(None, {}, {})).replay_all()
    document = Document(render_report(learned).html)
    text = "\n".join(document.words)
    assert document.loads == []
    assert "script" not in document.tags
    assert "i" not in document.tags, "a name became markup"
    assert document.tags.count("svg") >= 2
    (column,) = status.read(learned)
    for row in column["classes"]:
        assert row["reason"] in text
    assert "rebuilt" in text
    assert f"filtered by {KIND} =" in text
    assert "exact, through the filter's index" in text
    assert "items_embedding_idx, ef_search 40: recall" in text


def test_render_report_without_a_tuned_column_says_so(
    conn: Connection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "report.html"
    assert main(["report", "--dsn", conn.info.dsn, "-o", str(target)]) == 0
    assert "No column is tuned yet" in target.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    make(conn, clustered(50, DIMENSIONS, seed=1))
    enable(conn)
    assert main(["report", "--dsn", conn.info.dsn, "-o", "-"]) == 0
    output = capsys.readouterr().out
    assert "No served search has been checked yet." in output
    assert main(["report", "--dsn", conn.info.dsn, "-o", str(tmp_path / "no" / "report.html")]) == 2
    assert "cannot be written" in capsys.readouterr().err
