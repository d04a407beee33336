"""What commands say to people: tables on stdout, talk and progress on stderr, one JSON document instead."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text


class Console:
    """Speak to the user; with `as_json` stdout carries nothing but the one document given to `document`."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self._quiet = quiet
        # A pipe has no width: never fold or cut a table there.
        width = None if sys.stdout.isatty() else 200
        # What is said holds names and values of others: nothing in it is markup.
        plain = partial(RichConsole, markup=False, emoji=False, highlight=False, soft_wrap=True)
        self._out = plain(file=sys.stdout, width=width)
        self._err = plain(file=sys.stderr)

    def say(self, text: str) -> None:
        """Write a line of talk to stderr."""
        if not self._quiet:
            self._err.print(text)

    def document(self, value: Any) -> None:
        """Write the one JSON document to stdout."""
        sys.stdout.write(json.dumps(value, indent=2, default=_plain) + "\n")
        sys.stdout.flush()

    def record(self, value: Any) -> None:
        """Write one JSON document on a line of its own, if the answer is to be JSON."""
        if self.as_json:
            sys.stdout.write(json.dumps(value, default=_plain) + "\n")
            sys.stdout.flush()

    def line(self, text: str = "") -> None:
        """Write a line of the answer to stdout, unless it is to be JSON."""
        if not self.as_json:
            self._out.print(text)

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "", left: int = 1
    ) -> None:
        """Write a table to stdout, unless the answer is to be JSON; the first `left` columns hold text."""
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
        """Show frames, on a terminal each in place of the one before; yields what one is written within."""
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
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """Show how far a long work is; yields a function that takes the number done so far.

        On a terminal a bar, elsewhere a line when it is done.
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
            yield lambda done: None
        self.say(f"{label}: {total:,} in {monotonic() - started:.1f} s")


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else str(value)
