"""The command `vectuned observe`: learn from the SQL that applications send, as the server's log has it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psycopg

from vectuned.config.errors import UsageError
from vectuned.daemon.cli.command import Command, Connection, Context
from vectuned.daemon.console import Console

if TYPE_CHECKING:
    from vectuned.daemon.observe.observer import Observer
    from vectuned.daemon.observe.server_settings import ServerLogging
    from vectuned.daemon.observe.watching import LogWatch

_CHUNK: Final = 1 << 20  # bytes of standard input read at once
_SHOWN: Final = 100  # characters of a condition that are shown
_REASONS: Final = 12  # reasons shown, the commonest


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="log files or folders of them, in the format stderr, csvlog or jsonlog; - for standard input "
        "(default: the server's own log, read through the connection)",
    )
    parser.add_argument("--follow", action="store_true", help="go on with what the server logs, until Ctrl-C")
    parser.add_argument(
        "--enable", action="store_true", help="tune the columns that are searched, with default options"
    )
    parser.add_argument(
        "--prefix", metavar="TEXT", help="log_line_prefix of the files (default: the server's)"
    )


def _run(context: Context) -> None:
    from vectuned.daemon.observe.observer import Observer
    from vectuned.daemon.observe.server_settings import ServerLogging
    from vectuned.daemon.observe.storage import read_database

    options, console = context.options, context.console
    if "-" in options.files and len(options.files) > 1:
        raise UsageError("Standard input (-) cannot be read together with files.")
    with context.connection() as conn:
        database = read_database(conn)
        if options.enable and not database.is_installed:
            raise UsageError("--enable needs vectuned in the database: run `vectuned migrate` first.")
        logging = ServerLogging.read(conn)
        observer = Observer(conn, database, enables=options.enable)
        damaged = _observe(conn, context, observer, logging)
        observer.save_counts(damaged)
        version = conn.info.server_version // 10_000
    if console.as_json:
        console.document(_as_dict(observer, logging, database.name, damaged))
    _print(context, observer, logging, database.name, damaged, is_installed=database.is_installed)
    if not options.files and not logging.collects:
        console.line(
            "The server keeps no log files of its own (logging_collector = off), so none were read: name the "
            "file that its output goes to, on Debian and Ubuntu\n"
            f"    vectuned observe /var/log/postgresql/postgresql-{version}-main.log"
        )
    elif not observer.statements:
        console.line("No statement was found: run the application for a while, then this command again.")


def _observe(conn: Connection, context: Context, observer: Observer, logging: ServerLogging) -> int:
    """Read the logs into the observer; return how many records were damaged."""
    from vectuned.daemon.observe.formats import LogSettings
    from vectuned.daemon.observe.sources import server_files
    from vectuned.daemon.observe.storage import read_positions
    from vectuned.daemon.observe.watching import LogWatch, observe_stream, open_files

    options = context.options
    settings = logging.format
    if options.prefix is not None:
        settings = LogSettings(options.prefix, settings.zone)
    if options.files == ["-"]:
        with suppress(KeyboardInterrupt):
            observe_stream(observer, _standard_input(), settings)
        return 0
    paths = [Path(name) for name in options.files]
    for path in paths:
        if not path.exists():
            raise UsageError(f"{path} does not exist.")
        if not os.access(path, os.R_OK):
            raise UsageError(
                f"{path} may not be read: run as the owner of the logs, or in the group that may."
            )
    positions = read_positions(conn) if observer.is_storing else {}
    watch = LogWatch(
        observer, lambda: open_files(paths) if paths else server_files(conn), settings, positions
    )
    try:
        _read(watch, follows=options.follow)
    except psycopg.errors.InsufficientPrivilege as error:
        raise UsageError(
            f"The server's log cannot be read here ({error.diag.message_primary}): name "
            "its files, or grant the role pg_monitor, and EXECUTE on pg_read_binary_file(text, bigint, "
            "bigint, boolean) and pg_stat_file(text, boolean)."
        ) from error
    finally:
        watch.close()
    return watch.damaged


def _read(watch: LogWatch, *, follows: bool) -> None:
    if not follows:
        watch.read()
        return
    with suppress(KeyboardInterrupt):
        watch.follow()


def _standard_input() -> Iterator[bytes]:
    while chunk := os.read(sys.stdin.fileno(), _CHUNK):
        yield chunk


def _as_dict(observer: Observer, logging: ServerLogging, database: str, damaged: int) -> dict[str, Any]:
    from vectuned.daemon.observe.server_settings import statements_to_copy

    return {
        "statements": observer.statements,
        "other_databases": observer.other_databases,
        "no_vector_searches": observer.no_searches,
        "damaged_records": damaged,
        "searches": [kind.as_dict() for kind in observer.kinds.values()],
        "stored": observer.stored,
        "left_out": dict(observer.left_out.most_common()),
        "not_planned": dict(observer.failed.most_common()),
        "messages": observer.messages,
        "missing_settings": logging.missing(),
        "statements_to_copy": list(statements_to_copy(logging.missing(), database)[0]),
    }


def _print(
    context: Context,
    observer: Observer,
    logging: ServerLogging,
    database: str,
    damaged: int,
    *,
    is_installed: bool,
) -> None:
    console = context.console
    calls = sum(kind.calls for kind in observer.kinds.values())
    console.line(
        f"{observer.statements:,} statements: {calls:,} searches of one table, "
        f"{observer.left_out.total():,} left out, {observer.failed.total():,} that cannot be planned here, "
        f"{observer.no_searches:,} of other kinds, {observer.other_databases:,} of other databases; "
        f"{damaged:,} damaged records."
    )
    for message in observer.messages:
        console.say(message)
    _print_kinds(console, observer)
    for title, reasons in (("left out", observer.left_out), ("cannot be planned", observer.failed)):
        rows = [(reason[:_SHOWN], f"{count:,}") for reason, count in reasons.most_common(_REASONS)]
        if rows:
            console.line()
            console.table([title, "calls"], rows)
    if calls:
        console.line()
        _print_stored(context, observer, is_installed=is_installed)
    _print_settings(console, observer, logging, database)


def _print_stored(context: Context, observer: Observer, *, is_installed: bool) -> None:
    console = context.console
    if not is_installed:
        console.line(
            f"Nothing is stored: run `{context.repeat('migrate')}`, then "
            f"`{context.repeat('observe', '--enable', *context.options.files)}`."
        )
        return
    console.line(
        f"{observer.stored:,} calls stored; `{context.repeat('learn', '--once')}` or the daemon learns from "
        "them."
    )
    kinds = observer.kinds.values()
    untuned = sorted({f"{kind.table} {kind.column}" for kind in kinds if not kind.is_tuned})
    if untuned:
        console.line(f"Not tuned, so not stored: {', '.join(untuned)}; --enable tunes them.")


def _print_kinds(console: Console, observer: Observer) -> None:
    rows = [
        (
            f"{kind.table}.{kind.column}",
            kind.operator,
            (kind.shape or "")[:_SHOWN],
            ", ".join(str(k) for k, _ in kind.ks.most_common(3)),
            f"{kind.calls:,}",
            "" if kind.mean_ms is None else f"{kind.mean_ms:.2f}",
            "yes" if kind.is_tuned else "no",
        )
        for kind in sorted(observer.kinds.values(), key=lambda kind: -kind.calls)
    ]
    if rows:
        console.line()
        console.table(["column", "by", "condition", "k", "calls", "mean ms", "tuned"], rows, left=3)


def _print_settings(console: Console, observer: Observer, logging: ServerLogging, database: str) -> None:
    from vectuned.daemon.observe.server_settings import SAMPLE_RATE, statements_to_copy

    missing = logging.missing()
    if not missing:
        return
    system, one = statements_to_copy(missing, database)
    console.line("The server does not log what is needed. For all databases, as a superuser:")
    for statement in system:
        console.line(f"    {statement}")
    console.line("or for new sessions of this database alone:")
    for statement in one:
        console.line(f"    {statement}")
    console.line(
        "Use ALTER ROLE app IN DATABASE instead of ALTER DATABASE to log only the application's role, and "
        "not vectuned's own statements. The same statements with RESET instead of SET end it."
    )
    searches = sum(kind.calls for kind in observer.kinds.values()) + observer.left_out.total()
    size = observer.bytes / searches if searches else 4000
    rate = size * 100 * SAMPLE_RATE / 1000
    console.line(
        f"Each logged search takes about {size / 1000:.1f} kB of log: at a rate of {SAMPLE_RATE:g}, 100 "
        f"searches a second write {rate:.0f} kB/s. The log then holds values, which may be personal data."
    )


COMMAND: Final = Command(
    "observe",
    "learn from the SQL that applications send",
    "Reads the statements in a server's log, finds the vector searches among them, and stores those of tuned "
    "columns as searches to learn from. Searches are recognised by the server's own parser, never run. Log "
    "files are read from where an earlier run stopped. Says which settings of the server are missing.",
    "vectuned observe --dsn dbname=shop /var/log/postgresql/*.json",
    _run,
    _add_arguments,
)
