"""Runs in the foreground what SQL functions request of the daemon."""

from __future__ import annotations

import json
from typing import Any, Final

from vectuned.sql.rows import execute

from .arguments import find_column_id
from .command import Context

_LABELS: Final = {
    "auto_tune": "replaying searches of",
    "benchmark_recall": "measuring the recall of",
    "benchmark_latency": "measuring the latency of",
}


def run_request(context: Context, kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Check a request on the column that the options name, run it with progress, and return its result."""
    from vectuned.daemon.database.standby import using_standby
    from vectuned.daemon.service.requests import prepare_job
    from vectuned.daemon.work.worker import Worker

    options = context.options
    with context.session() as conn, using_standby(context.settings) as standby:
        execute(conn, "check_request", {"kind": kind, "arguments": json.dumps(arguments)})
        column_id = find_column_id(conn, options.relation, options.column)
        job = prepare_job(Worker(conn, context.settings, standby=standby), column_id, kind, arguments)
        with context.console.progress(f"{_LABELS[kind]} {options.relation}", job.total) as progress:
            return job.run(progress)
