"""The command `vectuned adopt`: one group of settings for all statements of a role or database."""

from __future__ import annotations

import argparse
import math
from typing import Any, Final

from vectuned.config.errors import printable
from vectuned.daemon.adopt.adopt import Adoption, apply, figures, plan, revert
from vectuned.daemon.adopt.proposal import DEFAULT_MAX_SLOWDOWN, StatementOutlook
from vectuned.daemon.cli.command import Command, Context
from vectuned.daemon.console import Console

_SHOWN: Final = 100  # characters of a statement that are shown


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--role",
        metavar="NAME",
        help="the role whose statements to serve (default: every role in the database)",
    )
    parser.add_argument(
        "--max-slowdown",
        type=_times,
        default=DEFAULT_MAX_SLOWDOWN,
        metavar="TIMES",
        help="how many times as long as now a statement below its target may take (default: %(default)g)",
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument(
        "--apply", action="store_true", help="change the settings, and keep the values before"
    )
    action.add_argument("--revert", action="store_true", help="put back those before the last --apply")


def _times(text: str) -> float:
    """Parse a number of times from 1 on."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1.0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, not {text!r}")
    return value


def _run(context: Context) -> None:
    options, console = context.options, context.console
    with context.session() as conn:
        if options.revert:
            _print_reverted(console, *revert(conn, options.role))
            return
        adoption = plan(conn, options.role, options.max_slowdown)
        statements = [
            adoption.scope.compose_change(name, value).as_string(conn)
            for name, value in sorted(adoption.proposal.changes.items())
        ]
        if not console.as_json:
            _print_proposal(console, adoption, statements)
        if options.apply:
            apply(conn, adoption)
    applied = bool(options.apply and statements)
    if console.as_json:
        console.document(_document(adoption, statements, applied=applied))
    elif applied:
        console.line("applied; sessions that begin from now on have these values")
    elif statements:
        console.line("nothing was changed: `vectuned adopt --apply` does it, and `--revert` undoes it")


def _print_proposal(console: Console, adoption: Adoption, statements: list[str]) -> None:
    slower = adoption.proposal.slower
    if not statements:
        limit = f" within {adoption.max_slowdown:g} times their time now" if slower else ""
        console.line(f"no settings bring more statements to their target than those in force{limit}")
    for statement in statements:
        console.line(f"{statement};")
    for name, value in adoption.foreign.items():
        console.line(f"  {name} is {value} now, which something else than vectuned has set")
    for role, name in adoption.overrides:
        console.line(f"  the role {role} has a value of {name} of its own, which stays: see --role {role}")
    console.line()
    longer = slower.statements if slower else adoption.proposal.statements
    for each, beyond in zip(adoption.proposal.statements, longer, strict=True):
        console.line(f"{printable(each.statement.text, _SHOWN)}")
        console.line(
            f"  {each.statement.calls:,} calls; now {_outlook(each.now)}; then {_outlook(each.then)}; "
            f"target {each.statement.target_recall:g} {_verdict(each)}"
        )
        if each.other_means:
            console.line(f"  {each.other_means}")
        if beyond.then.recall != each.then.recall:
            console.line(f"  {_outlook(beyond.then)} without the limit on the time")
    if slower:
        console.line(
            f"limited to {adoption.max_slowdown:g} times the time of now: `--max-slowdown "
            f"{_round_up(slower.slowdown):g}` allows what is said to be without the limit"
        )
    for each in adoption.proposal.refused:
        console.line(
            f"refused: more effort for the others would slow {printable(each.statement.text, _SHOWN)} "
            f"from {each.now.ms:.2f} to {each.then.ms:.2f} ms"
        )


def _round_up(times: float) -> float:
    """Round up to a tenth, so that the number shown is enough."""
    return math.ceil(10 * times) / 10


def _verdict(outlook: StatementOutlook) -> str:
    if outlook.then.proven:
        return "proven"
    return "reached, but not proven" if outlook.is_unproven else "not reached"


def _outlook(outlook: Any) -> str:
    if outlook.recall is None:
        return "not measured"
    return f"recall {outlook.recall:.3f} in {outlook.ms:.2f} ms"


def _print_reverted(console: Console, statements: list[str], changed: dict[str, str]) -> None:
    if console.as_json:
        console.document({"statements": statements, "left_alone": changed})
        return
    for statement in statements:
        console.line(f"{statement};")
    for name, value in changed.items():
        console.line(f"  {name} was changed since, to {value}, and stays")
    console.line("reverted; sessions that begin from now on have the values from before")


def _document(adoption: Adoption, statements: list[str], *, applied: bool) -> dict[str, Any]:
    slower = adoption.proposal.slower
    return {
        "database": adoption.scope.database,
        "role": adoption.scope.role,
        "statements": statements,
        "applied": applied,
        "set_by_others": adoption.foreign,
        "roles_with_own_values": [{"role": role, "name": name} for role, name in adoption.overrides],
        "outlook": figures(adoption.proposal),
        "max_slowdown": adoption.max_slowdown,
        "slower": None
        if slower is None
        else {
            "max_slowdown": _round_up(slower.slowdown),
            "settings": dict(slower.changes),
            "outlook": figures(slower),
        },
        "refused": [each.statement.text for each in adoption.proposal.refused],
    }


COMMAND: Final = Command(
    name="adopt",
    summary="choose settings for all statements of a role or database, without changes to applications",
    description="Prints the cheapest group of pgvector's settings that brings every known statement to its "
    "target as far as settings can, as ALTER ROLE or ALTER DATABASE, and what each statement gets. Changes "
    "nothing without --apply.",
    example="vectuned adopt --dsn postgresql://owner@db1/shop --role shop_app",
    run=_run,
    add_arguments=_add_arguments,
)
