"""The command `vectuned migrate`: install vectuned, and upgrade it."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Final

from vectuned.config.errors import UsageError
from vectuned.daemon.cli.command import Command, Context
from vectuned.sql.install import migrate
from vectuned.sql.roles import install_roles


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--roles",
        action="store_true",
        help="create the roles vectuned_user, vectuned_admin and vectuned_daemon where they are missing, and "
        "grant them their rights in this database",
    )
    parser.add_argument(
        "--public",
        action=argparse.BooleanOptionalAction,
        help="with --roles: let everybody search (PUBLIC), or only members of the roles (default: "
        "unchanged; everybody at first)",
    )


def _run(context: Context) -> None:
    options, console = context.options, context.console
    if options.public is not None and not options.roles:
        raise UsageError("--public and --no-public go with --roles.")
    with context.connection() as conn:
        result = migrate(conn)
        created = install_roles(conn, public=options.public) if options.roles else ()
        database = conn.info.dbname
    if console.as_json:
        console.document({"database": database, **asdict(result), "roles_created": created})
    applied = f"installed {', '.join(result.applied)}" if result.applied else "already up to date"
    console.line(f"vectuned in database {database}: {applied}; pgvector {result.extension_version}")
    if options.roles:
        roles = f"created {', '.join(created)}" if created else "there already"
        console.line(f"roles: {roles}; their rights are granted")


COMMAND: Final = Command(
    name="migrate",
    summary="install vectuned in the database or upgrade it",
    description="Creates or upgrades the schema vectuned, and creates the extension vector if it is missing. "
    "Changes nothing else in the database.",
    example="vectuned migrate --dsn postgresql://owner@db1/shop --roles",
    run=_run,
    add_arguments=_add_arguments,
)
