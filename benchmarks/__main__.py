"""Command line of the benchmarks: `python -m benchmarks --help` in the root of the repository."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

import psycopg

from benchmarks.definitions import DEFINITIONS, FOLDER, NEEDS, choose, load_definitions
from benchmarks.figures import FILES, rewrite
from benchmarks.plots import draw, drawable
from benchmarks.records import LARGEST, RESULTS, store, stored
from benchmarks.runner import perform
from benchmarks.tables import judged, origin, tables
from vectuned.config.errors import UsageError, VectunedError, printable
from vectuned.daemon.console import Console

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.command(options)
    except VectunedError as error:
        return _fail(str(error), error.exit_code)
    except psycopg.OperationalError as error:
        return _fail(str(error).strip().partition("\n")[0], 69)
    except psycopg.Error as error:
        return _fail(str(error).strip().partition("\n")[0], 1)
    except KeyboardInterrupt:
        return _fail("interrupted", EXIT_INTERRUPTED)
    return code


def list_runs(options: argparse.Namespace) -> int:
    """List the runs: what each shows, how long it takes, and when its stored result was measured."""
    console = Console()
    for name, definition in load_definitions(options.definitions).items():
        result = stored(name, options.results)
        measured = "not measured yet" if result is None else f"measured on {result.started:%Y-%m-%d}"
        # A run with another seed is another draw of the same measurement.
        if result is not None and result.definition != definition.as_run():
            measured += " by another definition than today's"
        needs = f", after `{NEEDS[definition.needs]}`" if definition.needs else ""
        console.line(f"{name}: {definition.minutes:g} min{needs}, {measured}")
        console.line(f"    {definition.shows}")
    return 0


def load_data(options: argparse.Namespace) -> int:
    """Fetch and prepare data sets."""
    from benchmarks import sets

    sets.command(options.names, Console())
    return 0


def run(options: argparse.Namespace) -> int:
    """Perform runs one after another and store their results; continue after a run that fails."""
    chosen = choose(load_definitions(options.definitions), options.names)
    with redirect_stdout(sys.stderr):
        console = Console()
    failed: VectunedError | None = None
    for name, definition in chosen.items():
        console.say(f"{name}, about {definition.minutes:g} min: {definition.shows}")
        try:
            result = perform(name, definition, options.seed, console, options.dsn)
        except VectunedError as error:
            _fail(str(error), error.exit_code)
            failed = failed or error
            continue
        path = store(result, options.results)
        for table in tables(definition, [result]):
            console.table(table.columns, table.rows, title=table.title, left=table.left)
        console.say(f"{origin(result)}; {judged(definition, result)}")
        console.say(f"{name}: {path}, after {result.seconds:.0f} s")
        if (size := path.stat().st_size) > LARGEST:
            console.say(
                f"{path} has {size:,} bytes, more than the {LARGEST:,} that a repository should hold."
            )
    return 0 if failed is None else failed.exit_code


def plot(options: argparse.Namespace) -> int:
    """Plot the stored results that have a plot."""
    console = Console()
    definitions = load_definitions(options.definitions)
    drawn = 0
    for name in choose(definitions, options.names):
        result = stored(name, options.results)
        if result is None or not drawable(result):
            if options.names and result is None:
                raise UsageError(f"{name} was not measured yet: python -m benchmarks run {name}.")
            if options.names:
                raise UsageError(f"There is no plot for {name}, only figures.")
            continue
        path = options.folder / f"{name}.svg"
        draw(result, path)
        console.line(str(path))
        drawn += 1
    if not drawn:
        raise UsageError(
            f"There is nothing to draw in {options.results}: no result of a kind that has a plot."
        )
    return 0


def figures(options: argparse.Namespace) -> int:
    """Write the figures in the READMEs from the result files, or report which are stale."""
    definitions, stale = load_definitions(options.definitions), list[str]()
    for path in FILES:
        place = str(path.relative_to(FOLDER.parent))
        text = path.read_text(encoding="utf-8")
        new, changed = rewrite(text, place, definitions, options.results)
        stale += changed
        if changed and not options.check:
            path.write_text(new, encoding="utf-8")
    if options.check and stale:
        return _fail(f"stale figures: {'; '.join(stale)}. `python -m benchmarks figures` rewrites them.", 1)
    for each in stale:
        Console().line(f"rewritten: {each}")
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FOLDER",
        help="folder of the result files (default: benchmarks/results)",
    )
    common.add_argument(
        "--definitions",
        type=Path,
        default=DEFINITIONS,
        metavar="FILE",
        help="default: benchmarks/definitions.toml",
    )
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure vectuned, store the results, plot them and write them into the READMEs.",
        epilog="Exit codes: 0 done, 1 failed or stale, 2 usage, 69 no database, 78 wrong definitions.",
    )
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    verb = verbs.add_parser("list", parents=[common], help="list the runs and when each was measured")
    verb.set_defaults(command=list_runs)

    verb = verbs.add_parser("data", help="fetch and prepare data sets")
    verb.add_argument("names", nargs="*", metavar="NAME", help="data sets (default: all)")
    verb.set_defaults(command=load_data)

    verb = verbs.add_parser(
        "run", parents=[common], help="perform runs one after another and store their results"
    )
    verb.add_argument("names", nargs="+", metavar="NAME")
    verb.add_argument(
        "--dsn",
        help="database to measure in (default: a server started for the run, or vectuned's choice)",
    )
    verb.add_argument("--seed", type=_seed, help="seed of all random draws (default: that of the definition)")
    verb.set_defaults(command=run)

    verb = verbs.add_parser("plot", parents=[common], help="plot stored results as SVG")
    verb.add_argument("names", nargs="*", metavar="NAME", help="runs (default: all that have a plot)")
    verb.add_argument(
        "--folder", type=Path, default=Path("plots"), help="output folder (default: %(default)s)"
    )
    verb.set_defaults(command=plot)

    verb = verbs.add_parser(
        "figures", parents=[common], help="write the figures in the READMEs from the results"
    )
    verb.add_argument(
        "--check", action="store_true", help="write nothing; exit with status 1 if any figure is stale"
    )
    verb.set_defaults(command=figures)
    return parser


def _seed(text: str) -> int:
    seed = int(text)
    if seed < 0:
        raise ValueError(text)
    return seed


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"benchmarks: {printable(message, 10_000)}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
