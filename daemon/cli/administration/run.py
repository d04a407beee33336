"""The command `vectuned run`: the daemon."""

from __future__ import annotations

from typing import Final

from vectuned.daemon.cli.command import Command, Context


def _run(context: Context) -> None:
    # Imported here because scikit-learn takes a second to import, which `vectuned status` need not wait for.
    from vectuned.daemon.service.service import Service

    Service(context.settings.each_database(), lambda: context.reload().each_database()).run()


COMMAND: Final = Command(
    name="run",
    summary="run the daemon in the foreground",
    description="Drains recorded searches, replays them, learns and publishes, on the schedule of the "
    "configuration, until SIGTERM or SIGINT. SIGHUP makes it read the configuration again. If several "
    "daemons run on one database, one works and the others stand by.",
    example="vectuned run --config /etc/vectuned.toml",
    run=_run,
    scope="all databases",
)
