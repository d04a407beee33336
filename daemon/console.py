"""The output of commands: tables or one JSON document on stdout, messages and progress on stderr."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Any, Final

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_FIRST_BEAT: Final = 3.0  # seconds; after this a reader of a log wonders whether anything is happening
_NEXT_BEATS: Final = 30.0  # seconds between later messages; more of them would fill the log
_PIPE_WIDTH: Final = 200  # columns; a pipe has no width, and tables there must not be folded or cut


class Console:
    """Write a command's output; with `as_json` stdout holds JSON only, written by `document` or `record`."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self._quiet = quiet
        self._said: set[str] = set()
        width = None if sys.stdout.isatty() else _PIPE_WIDTH
        # Messages hold names and values from the database, so they must not be read as markup.
        plain = partial(RichConsole, markup=False, emoji=False, highlight=False, soft_wrap=True)
        self._out = plain(file=sys.stdout, width=width)
        self._err = plain(file=sys.stderr)

    def say(self, text: str) -> None:
        """Write a message to stderr, unless quiet."""
        if not self._quiet:
            self._err.print(text)

    def say_once(self, text: str) -> None:
        """Write a message to stderr, unless it was written before or the console is quiet."""
        if text not in self._said:
            self._said.add(text)
            self.say(text)

    def document(self, value: Any) -> None:
        """Write the one JSON document to stdout."""
        sys.stdout.write(json.dumps(value, indent=2, default=_plain) + "\n")
        sys.stdout.flush()

    def record(self, value: Any) -> None:
        """Write one JSON document as a line to stdout, if the output is JSON."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, default=_plain) + "\n")
            sys.stdout.flush()

    def line(self, text: str = "") -> None:
        """Write a line to stdout, unless the output is JSON."""
        if not self.as_json:
            self._out.print(text)

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", left: int = 1
    ) -> None:
        """Write a table to stdout, unless the output is JSON; the first `left` columns are left-aligned."""
        if self.as_json:
            return
        table = Table(title=title or None, title_justify="left", title_style="bold", pad_edge=False, box=None)
        for number, column in enumerate(columns):
            table.add_column(column, justify="left" if number < left else "right", no_wrap=True)
        for row in rows:
            table.add_row(*row)
        self._out.print(table)

    @contextmanager
    def frames(self) -> Iterator[Callable[[], AbstractContextManager[None]]]:
        """Yield a context manager for writing one frame; on a terminal each frame replaces the last."""
        if self.as_json or not self._out.is_terminal:
            yield nullcontext
            return
        with self._out.screen() as screen:

            @contextmanager
            def frame() -> Iterator[None]:
                with self._out.capture() as captured:
                    yield
                screen.update(Text.from_ansi(captured.get()))

            yield frame

    @contextmanager
    def step(self, label: str) -> Iterator[None]:
        """Show on a terminal that work of unknown length goes on, and write a line when it is done."""
        started = monotonic()
        if self._err.is_terminal and not self._quiet:
            with self._err.status(Text(label)):
                yield
        else:
            with self._heartbeat(lambda: label):
                yield
        self.say(f"{label}: {monotonic() - started:.1f} s")

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show the progress of long work; yields a function that takes the number of items done so far.

        A terminal shows a bar, and in any case a line follows when the work is done.
        """
        started = monotonic()
        if self._err.is_terminal and not self._quiet:
            columns = (
                TextColumn("{task.description:<28}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            with Progress(*columns, console=self._err, transient=True) as bar:
                task = bar.add_task(label, total=total)
                yield lambda done: bar.update(task, completed=done)
        else:
            done = 0

            def note(number: int) -> None:
                nonlocal done
                done = number

            with self._heartbeat(lambda: f"{label}: {done:,} of {total:,}"):
                yield note
        self.say(f"{label}: {total:,} in {monotonic() - started:.1f} s")

    @contextmanager
    def _heartbeat(self, describe: Callable[[], str]) -> Iterator[None]:
        """Say what is going on, first after a few seconds and then every half minute, as no bar shows it."""
        ended = threading.Event()

        def beat() -> None:
            seconds = _FIRST_BEAT
            while not ended.wait(seconds):
                self.say(f"{describe()} ...")
                seconds = _NEXT_BEATS

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        try:
            if not self._quiet:
                thread.start()
            yield
        finally:
            ended.set()
            if thread.ident is not None:  # so that it says nothing after the last line
                thread.join(_FIRST_BEAT)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
