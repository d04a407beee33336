"""The reference of the command line is generated from the parsers of the commands."""

from __future__ import annotations

from importlib import resources

from vectuned.daemon.cli.main import COMMANDS
from vectuned.daemon.cli.reference import PAGE, render_markdown


def test_committed_page_is_what_the_commands_render() -> None:
    text = (resources.files("vectuned.daemon") / "docs" / PAGE).read_text(encoding="utf-8")
    # If it differs: python -m vectuned.daemon.cli.reference daemon/docs
    assert text == render_markdown()


def test_render_markdown_describes_every_command_and_its_arguments() -> None:
    page = render_markdown()
    for command in COMMANDS:
        section = page.partition(f"\n## {command.name}\n")[2].partition("\n## ")[0]
        assert command.description in section
        assert command.example in section
    assert "| `[column]` | tuned column; may be omitted" in page
    assert "| `-o, --output FILE\\|FOLDER` |" in page
    assert page.count("`--config FILE`") == 1
