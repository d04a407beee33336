"""What the console writes about long work if there is no terminal, for example into a log."""

from __future__ import annotations

import threading

import pytest

from vectuned.daemon import console
from vectuned.daemon.console import Console


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages of a console that does not wait before it says what is going on."""
    monkeypatch.setattr(console, "_FIRST_BEAT", 0.0)
    messages: list[str] = []
    arrived = threading.Event()

    def say(_: Console, text: str) -> None:
        messages.append(text)
        arrived.set()

    monkeypatch.setattr(Console, "say", say)
    monkeypatch.setattr(Console, "arrived", arrived, raising=False)
    return messages


def wait_for_a_message() -> None:
    arrived: threading.Event = vars(Console)["arrived"]
    assert arrived.wait(60)


def test_step_that_takes_long_is_named_while_it_goes_on(said: list[str]) -> None:
    with Console().step("building"):
        wait_for_a_message()
        assert said == ["building ..."]
    assert said[1].startswith("building: ")


def test_progress_that_takes_long_is_counted_while_it_goes_on(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "_FIRST_BEAT", 0.1)
    with Console().progress("replaying", 2000) as progress:
        progress(1500)
        wait_for_a_message()
        # The first may have been said before the first number was known.
        assert said[0] in ("replaying: 1,500 of 2,000 ...", "replaying: 0 of 2,000 ...")
    assert said[-1].startswith("replaying: 2,000 in ")


def test_quiet_console_says_nothing_of_long_work(said: list[str]) -> None:
    before = threading.active_count()
    with Console(quiet=True).step("building"):
        assert threading.active_count() == before


def test_say_once_says_a_message_once(said: list[str]) -> None:
    quiet = Console()
    for text in ("here", "here", "there"):
        quiet.say_once(text)
    assert said == ["here", "there"]
