"""Runs as a separate process: on request it starts a child that works and publishes until it is killed.

A child is a daemon's worker that has everything imported already, so that many can be killed in little time.
"""

from __future__ import annotations

import os
import sys
from itertools import repeat

from vectuned.config.settings import load_settings
from vectuned.daemon.database.session import open_session
from vectuned.daemon.work.worker import Worker


def work(dsn: str, times: int | None = None) -> None:
    """Do the daemon's work in a loop."""
    with open_session(dsn) as conn:
        # In small batches; otherwise a process that is killed often never gets past them.
        worker = Worker(conn, load_settings(None, {"learning.replay_batch": 5}, {}))
        for _ in repeat(None) if times is None else repeat(None, times):
            worker.drain()
            worker.replay_all()
            worker.judge()
            for tuned in worker.columns():
                worker.learn(tuned)


def main() -> None:
    dsn = sys.argv[1]
    work(dsn, 1)  # imports and warm-up must not be interrupted
    print("ready", flush=True)
    child = 0
    for order in sys.stdin:
        if order.strip() == "start":
            child = os.fork()
            if child == 0:
                work(dsn)
            print(child, flush=True)
        else:
            _, status = os.waitpid(child, 0)
            print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
