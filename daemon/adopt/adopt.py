"""`vectuned adopt`: settings for all statements of a role or database, printed, applied or reverted."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from vectuned.config.errors import UsageError, VectunedError
from vectuned.learning.model.events import record_event
from vectuned.learning.model.scan_settings import Settings
from vectuned.learning.policy.statement_settings import read_statements
from vectuned.sql.files import queries, trusted
from vectuned.sql.rows import execute, fetch_rows, fetch_value

from .proposal import ADOPTABLE, DEFAULT_MAX_SLOWDOWN, Proposal, propose

Connection = psycopg.Connection[Any]


@dataclass(frozen=True)
class Scope:
    """Whose settings: a role's in this database, or, with None, those of every role in it."""

    database: str
    role: str | None
    role_oid: str

    @property
    def target(self) -> sql.Composable:
        """Return what ALTER names."""
        database = sql.Identifier(self.database)
        if self.role is None:
            return sql.SQL("DATABASE {}").format(database)
        return sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(self.role), database)

    def compose_change(self, name: str, value: str | None) -> sql.Composed:
        """Compose the ALTER that sets a setting, or with None takes it away."""
        setting = trusted(name)  # one of ADOPTABLE
        if value is None:
            return sql.SQL("ALTER {} RESET {}").format(self.target, setting)
        return sql.SQL("ALTER {} SET {} = {}").format(self.target, setting, sql.Literal(value))


@dataclass(frozen=True)
class CurrentSettings:
    """What new sessions of the scope have, and what the scope itself sets of that."""

    in_force: Settings
    own: Settings


@dataclass(frozen=True)
class Adoption:
    """A proposal for a scope, with what is to know before it is applied."""

    scope: Scope
    current: CurrentSettings
    proposal: Proposal
    overrides: tuple[tuple[str, str], ...]
    ours: Settings
    max_slowdown: float

    @property
    def foreign(self) -> dict[str, str]:
        """Return the values that the proposal changes and that something else than vectuned has set."""
        return {
            name: self.current.own[name]
            for name in self.proposal.changes
            if name in self.current.own and self.ours.get(name) != self.current.own[name]
        }


def read_scope(conn: Connection, role: str | None) -> Scope:
    """Find the scope; UsageError if the role does not exist."""
    if role is None:
        return Scope(conn.info.dbname, None, "0")
    oid = fetch_value(conn, "adopt_role", {"role": role})
    if oid is None:
        raise UsageError(f"there is no role {role!r} on this server.")
    return Scope(conn.info.dbname, role, oid)


def read_current(conn: Connection, scope: Scope) -> CurrentSettings:
    """Read the settings of new sessions of a scope."""
    schema = sql.Identifier(fetch_value(conn, "adopt_extension_schema"))
    fetch_value(conn, queries()["adopt_load_extension"].format(schema=schema))
    rows = fetch_rows(conn, "adopt_current", {"names": list(ADOPTABLE), "role_oid": scope.role_oid})
    return CurrentSettings(
        {row.name: row.in_force for row in rows}, {row.name: row.own for row in rows if row.own is not None}
    )


def plan(conn: Connection, role: str | None, max_slowdown: float = DEFAULT_MAX_SLOWDOWN) -> Adoption:
    """Choose settings for a role, or with None for the database.

    max_slowdown: how many times as long as now a statement that is not at its target may take.

    Raises UsageError if no statements are known.
    """
    scope = read_scope(conn, role)
    statements = read_statements(conn)
    if not statements:
        raise UsageError(
            "no statements of applications are known yet: run `vectuned observe` on the server's log, then "
            "`vectuned learn --once`."
        )
    current = read_current(conn, scope)
    proposal = propose(statements, current.in_force, max_slowdown)
    names = {"names": list(proposal.changes)}
    overrides = [(row.role, row.name) for row in fetch_rows(conn, "adopt_overrides", names)]
    ours = {name: value for row in reversed(_in_force(conn, scope)) for name, value in row.applied.items()}
    return Adoption(
        scope,
        current,
        proposal,
        tuple(each for each in overrides if role is None or each[0] != role),
        ours,
        max_slowdown,
    )


def apply(conn: Connection, adoption: Adoption) -> list[str]:
    """Apply a proposal and record the values before, in one transaction; return the statements run.

    Raises VectunedError if it was refused for some statement, or if the connection's role may not do it.
    """
    scope, changes = adoption.scope, adoption.proposal.changes
    if adoption.proposal.refused:
        worse = adoption.proposal.refused[0]
        raise VectunedError(
            f"nothing was applied: what would bring more statements to their target would slow another, "
            f"{_short(worse.statement.text)}, from {worse.now.ms:.2f} to {worse.then.ms:.2f} ms; use "
            "vectuned.client.tune, which sets each statement's own."
        )
    statements = [scope.compose_change(name, value) for name, value in sorted(changes.items())]
    if statements:
        with conn.transaction():
            _run(conn, scope, statements)
            record = {
                "role": scope.role,
                "applied": json.dumps(dict(changes)),
                "previous": json.dumps({name: adoption.current.own.get(name) for name in changes}),
                "figures": json.dumps(figures(adoption.proposal)),
            }
            execute(conn, "adopt_record", record)
            record_event(conn, None, "adopt", {"role": scope.role, "applied": dict(changes)})
    return [statement.as_string(conn) for statement in statements]


def revert(conn: Connection, role: str | None) -> tuple[list[str], dict[str, str]]:
    """Put back what was before the last `apply` of a scope, and record that.

    Returns the statements run, and the settings left alone because something else changed them since, each
    with its value. Raises UsageError if nothing was applied.
    """
    scope = read_scope(conn, role)
    with conn.transaction():
        adopted = _in_force(conn, scope)
        if not adopted:
            whom = f"the role {role}" if role else "the database"
            raise UsageError(
                f"there is nothing to revert: `vectuned adopt --apply` changed nothing of {whom}."
            )
        last = adopted[0]
        own = read_current(conn, scope).own
        changed = {
            name: own.get(name, "not set") for name, value in last.applied.items() if own.get(name) != value
        }
        statements = [
            scope.compose_change(name, last.previous.get(name))
            for name in sorted(last.applied)
            if name not in changed
        ]
        _run(conn, scope, statements)
        execute(conn, "adopt_reverted", {"adoption_no": last.adoption_no})
        record_event(conn, None, "adopt_reverted", {"role": role, "left_alone": changed})
    return [statement.as_string(conn) for statement in statements], changed


def figures(proposal: Proposal) -> list[dict[str, Any]]:
    """Describe what each statement has and gets, as JSON can hold it."""
    return [
        {
            "fingerprint": each.statement.fingerprint,
            "column_id": each.statement.column_id,
            "k_class": each.statement.k_class,
            "shape": each.statement.shape,
            "as_text": each.statement.as_text,
            "path": None if each.then.by is None else each.then.by.path,
            "effort": None if each.then.by is None else each.then.by.effort,
            "settings": None if each.then.by is None else dict(each.then.by.settings),
            "statement": each.statement.text,
            "calls": each.statement.calls,
            "target_recall": each.statement.target_recall,
            "recall_now": each.now.recall,
            "ms_now": each.now.ms,
            "recall_then": each.then.recall,
            "ms_then": each.then.ms,
            "reaches_target": each.then.proven,
            "reaches_unproven": each.is_unproven,
            "other_means": each.other_means or None,
        }
        for each in proposal.statements
    ]


def _in_force(conn: Connection, scope: Scope) -> list[Any]:
    return fetch_rows(conn, "adopt_in_force", {"role": scope.role})


def _run(conn: Connection, scope: Scope, statements: list[sql.Composed]) -> None:
    try:
        for statement in statements:
            conn.execute(statement)
    except psycopg.errors.InsufficientPrivilege as error:
        todo = "; ".join(statement.as_string(conn) for statement in statements)
        who = (
            "the owner of the database" if scope.role is None else "a superuser, or a role that may alter it"
        )
        raise VectunedError(
            f"the role {conn.info.user} may not change these settings: let {who} run {todo}"
        ) from error


def _short(text: str, longest: int = 80) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
