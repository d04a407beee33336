"""What each command of the command line does."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

import psycopg
from psycopg.rows import TupleRow, dict_row

from vectuned.config.errors import UsageError
from vectuned.config.settings import Settings
from vectuned.daemon.console import Console
from vectuned.daemon.database.choice import choose_database, open_database
from vectuned.daemon.database.connect import connect
from vectuned.daemon.database.session import open_session
from vectuned.daemon.reports import status
from vectuned.sql.files import queries
from vectuned.sql.install import migrate
from vectuned.sql.roles import install_roles

_ALL: Final = 1_000_000


@dataclass(frozen=True)
class Context:
    """What a command is given: its arguments, the settings and how to read them again, and where to speak."""

    options: argparse.Namespace
    settings: Settings
    console: Console
    reload: Callable[[], Settings]

    @contextmanager
    def database(self, dsn: str | None = None) -> Iterator[str]:
        """Yield the connection string of the database the user means; see connection.open_database."""
        if dsn is None:
            dsn = self.settings.of_database(None).database.dsn
        choice = choose_database(dsn, os.environ)
        home = Path(self.settings.embedded.home).expanduser() if self.settings.embedded.home else None
        with open_database(choice, home) as conninfo:
            yield conninfo

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[TupleRow]]:
        """Yield a connection to it, vectuned being installed there."""
        with self.database() as conninfo, open_session(conninfo, self.settings.database) as conn:
            yield conn


@dataclass(frozen=True)
class Command:
    """A verb of the command line."""

    name: str
    summary: str
    description: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Context], None]
    # Which settings it gets: those of the one database that it works on, which --database chooses; those of
    # all; or the defaults, because it reads the others itself and is to tell what is wrong with them.
    takes: Literal["one database", "all databases", "no settings"] = "one database"


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--queries", type=int, default=3000, help="queries to learn from (default %(default)s)"
    )
    parser.add_argument(
        "--held-out", type=int, default=1600, help="queries to be judged by (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default %(default)s)")


def _demo(context: Context) -> None:
    from vectuned.daemon.demo.demo import demo
    from vectuned.daemon.demo.demo_data import DemoSizes

    options = context.options
    if not (500 <= options.queries <= 30000 and 100 <= options.held_out <= 10000):
        raise UsageError("--queries must be between 500 and 30000, and --held-out between 100 and 10000.")
    # The embedded server unless a DSN was given: libpq's variables may point to something that matters.
    home = Path(context.settings.embedded.home).expanduser() if context.settings.embedded.home else None
    choice = choose_database(context.settings.database.dsn, {})
    with open_database(choice, home) as conninfo:
        where = "the embedded server" if choice.is_embedded else "the database of the DSN"
        context.console.say(f"Using {where}, schema vectuned_demo.")
        sizes = DemoSizes(options.queries, options.held_out, options.seed)
        result = demo(conninfo, context.settings, sizes, context.console)
    if context.console.as_json:
        context.console.document(result)


def _run(context: Context) -> None:
    # Here and below: what learns takes a second to import, which `status` need not wait for.
    from vectuned.daemon.service.service import Service

    Service(context.settings.each_database(), lambda: context.reload().each_database()).run()


def _migrate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--roles",
        action="store_true",
        help="create the roles vectuned_user, vectuned_admin and vectuned_daemon where they are missing, and "
        "give them their rights in this database",
    )
    parser.add_argument(
        "--public",
        action=argparse.BooleanOptionalAction,
        help="with --roles: whether everybody may search, or only members of the roles (default: as it is; "
        "at first everybody)",
    )


def _migrate(context: Context) -> None:
    options = context.options
    if options.public is not None and not options.roles:
        raise UsageError("--public and --no-public go with --roles.")
    with context.database() as conninfo, connect(conninfo, context.settings.database) as conn:
        done = migrate(conn)
        created = install_roles(conn, public=options.public) if options.roles else ()
        name = conn.info.dbname
    if context.console.as_json:
        context.console.document({"database": name, **asdict(done), "roles_created": created})
    applied = ", ".join(done.applied) if done.applied else "already up to date"
    context.console.line(f"vectuned in database {name}: {applied}; pgvector {done.extension_version}")
    if options.roles:
        there = f"created {', '.join(created)}" if created else "there already"
        context.console.line(f"roles: {there}; their rights are granted")


def _column_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("relation", help="table, with its schema if that is not in the search_path")
    parser.add_argument("column", help="its column of type vector or halfvec")


def _enable_arguments(parser: argparse.ArgumentParser) -> None:
    _column_arguments(parser)
    parser.add_argument("--target-recall", type=float, default=0.95, metavar="R", help="default %(default)s")
    parser.add_argument(
        "--max-tail",
        type=float,
        metavar="P",
        help="share of searches with a recall under 0.8 that is tolerated (default 2.5 times what the target "
        "recall leaves)",
    )
    parser.add_argument(
        "--sample-rate",
        type=float,
        default=0.05,
        metavar="P",
        help="share of searches recorded (default %(default)s)",
    )
    parser.add_argument(
        "--trajectory-window",
        type=int,
        default=10000,
        metavar="N",
        help="newest replays that count (default %(default)s)",
    )
    parser.add_argument("--learning-rate", type=float, default=0.1, metavar="R", help="default %(default)s")
    parser.add_argument(
        "--min-samples", type=int, default=200, metavar="N", help="replays before anything is published"
    )
    parser.add_argument(
        "--forget-vectors", action="store_true", help="drop each query vector once it was replayed"
    )


def _enable(context: Context) -> None:
    options = context.options
    values = {
        "relation": options.relation,
        "column_name": options.column,
        "target_recall": options.target_recall,
        "max_tail": options.max_tail,
        "sample_rate": options.sample_rate,
        "trajectory_window": options.trajectory_window,
        "learning_rate": options.learning_rate,
        "min_samples": options.min_samples,
        "store_vectors": not options.forget_vectors,
    }
    with context.session() as conn:
        conn.add_notice_handler(lambda notice: context.console.say(str(notice.message_primary)))
        row = conn.execute(queries()["enable"], values).fetchone()
    text = str(row[0]) if row else ""
    if context.console.as_json:
        context.console.document({**values, "message": text})
    context.console.line(text)


def _disable_arguments(parser: argparse.ArgumentParser) -> None:
    _column_arguments(parser)
    parser.add_argument("--forget", action="store_true", help="also delete what was recorded and learned")


def _disable(context: Context) -> None:
    options = context.options
    values = {"relation": options.relation, "column_name": options.column, "forget": options.forget}
    with context.session() as conn:
        conn.execute(queries()["disable"], values)
    if context.console.as_json:
        context.console.document(values)
    kept = "and forgotten" if options.forget else "searches go on with the default effort"
    context.console.line(f"{options.relation}.{options.column} is no longer tuned; {kept}")


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--watch",
        type=float,
        nargs="?",
        const=2.0,
        metavar="SECONDS",
        help="show it anew every so many seconds (2 if not said) until interrupted",
    )


def _status(context: Context) -> None:
    seconds = context.options.watch
    if seconds is not None:
        if not 0.1 <= seconds <= 3600:
            raise UsageError("--watch takes 0.1 to 3600 seconds.")
        database = context.settings.database
        with context.database() as conninfo, suppress(KeyboardInterrupt):  # the way to end it
            status.watch(context.console, lambda: open_session(conninfo, database), seconds)
        return
    with context.session() as conn:
        columns, daemon = status.read(conn), status.read_daemon(conn)
    if context.console.as_json:
        context.console.document({"columns": columns, **daemon})
    else:
        status.show(context.console, columns)
        status.show_daemon(context.console, daemon)


def optional_column_arguments(parser: argparse.ArgumentParser) -> None:
    """Take a relation, and its column where there are several."""
    parser.add_argument("relation", help="table, with its schema if that is not in the search_path")
    parser.add_argument("column", nargs="?", help="its tuned column, where there are several")


def _recommend(context: Context) -> None:
    options, console = context.options, context.console
    values = {"relation": options.relation, "column_name": options.column}
    with context.session() as conn:
        rows = conn.cursor(row_factory=dict_row).execute(queries()["recommend"], values).fetchall()
    if console.as_json:
        console.document({"relation": options.relation, "recommendations": rows})
        return
    if not rows:
        console.line(f"nothing was learned of {options.relation} yet: vectuned learn --once")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        console.line(f"\n{_KINDS[kind]}")
        for row in (row for row in rows if row["kind"] == kind):
            console.line(f"  {row['subject']}: {row['recommendation']}\n    {row['reason']}")
            if row["statement"] is not None:
                console.line(f"    {row['statement']};")


_KINDS: Final = {
    "search": "What serves searches (and what plain SQL would have to set)",
    "filtered search": "What serves filtered searches",
    "index": "Indexes that would help filtered searches, the most useful first",
    "filter index": "Indexes that filters lack",
    "statistics": "Statistics that are missing",
}


def _learn_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--once", action="store_true", required=True, help="one pass over everything, then exit"
    )
    parser.add_argument("--within-budget", action="store_true", help="keep to [budget] of the configuration")


def _learn(context: Context) -> None:
    from vectuned.daemon.database.standby import using_standby
    from vectuned.daemon.pacing.pace import Pace
    from vectuned.daemon.service.worker import Worker

    console = context.console
    report = []
    pace = Pace(context.settings.budget) if context.options.within_budget else None
    with context.session() as conn, using_standby(context.settings) as standby:
        worker = Worker(conn, context.settings, pace=pace, standby=standby)
        worker.drain()
        columns = worker.columns()
        if not columns:
            raise UsageError(
                "There is no tuned column to learn about: run `vectuned enable RELATION COLUMN` first."
            )
        for tuned in columns:
            waiting = conn.execute(
                "SELECT awaiting_replay FROM vectuned.stats(%s::regclass, %s)",
                (tuned.column.relation.as_string(conn), tuned.column.name),
            ).fetchone()
            with console.progress(f"replaying {tuned.column}", waiting[0] if waiting else 0) as progress:
                replayed = worker.replay(tuned, _ALL, progress)
            lesson = worker.learn(tuned)
            report.append(
                {
                    "column": str(tuned.column),
                    "replayed": replayed,
                    "replays": lesson.replays,
                    "version": lesson.version,
                    "classes": {
                        k: {
                            **s.policy.path_columns,
                            "recall_bound": s.policy.recall_bound,
                            "tail_bound": s.policy.tail_bound,
                            "patterns": s.patterns,
                            "saving": s.saving,
                        }
                        for k, s in lesson.served.items()
                    },
                }
            )
            needed = f"{lesson.replays} replays of the {tuned.min_samples} it takes: nothing published yet"
            console.line(
                f"{tuned.column}: {replayed} replayed, "
                + (needed if lesson.version is None else f"version {lesson.version} published")
            )
        worker.judge()
    if console.as_json:
        console.document({"columns": report})


def _none(_parser: argparse.ArgumentParser) -> None:
    """Take no arguments."""


COMMANDS: Final = (
    Command(
        "demo",
        "show on real text what recall the defaults give and what vectuned makes of it",
        "Loads WordNet's 117,659 glosses into the embedded server (or, with --dsn, into the schema "
        "vectuned_demo there), builds the usual HNSW index, lets vectuned learn from real queries, and "
        "compares on held-out ones. Takes three to six minutes.",
        _demo_arguments,
        _demo,
        "all databases",
    ),
    Command(
        "run",
        "run the daemon in the foreground",
        "Drains recorded searches, replays them, learns and publishes, on the schedule of the configuration, "
        "until SIGTERM or SIGINT. SIGHUP has it read the configuration again. Of several daemons on one "
        "database one works and the others stand by.",
        _none,
        _run,
        "all databases",
    ),
    Command(
        "migrate",
        "install vectuned in the database or bring it up to date",
        "Creates or upgrades the schema vectuned, and the extension vector where it is missing.",
        _migrate_arguments,
        _migrate,
    ),
    Command(
        "enable",
        "take a vector column into care",
        "Records a share of the column's searches and learns from them. Repeat it to change a setting.",
        _enable_arguments,
        _enable,
    ),
    Command(
        "disable",
        "stop recording and learning for a column",
        "Searches go on with the default effort.",
        _disable_arguments,
        _disable,
    ),
    Command(
        "status",
        "show what is tuned, what serves, and why",
        "A paragraph for each column and a row for each class of k.",
        _status_arguments,
        _status,
    ),
    Command(
        "recommend",
        "say what serves a column and why, and which indexes would help",
        "What every class of k and every kind of filter is served with, with the evidence; and statements "
        "that only the table's owner can run.",
        optional_column_arguments,
        _recommend,
    ),
    Command(
        "learn",
        "drain, replay, learn and publish now",
        "Does in one pass what the daemon does on its schedule.",
        _learn_arguments,
        _learn,
    ),
)
