"""A shell script with psql: nothing in it changes, the settings of its role do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.integration.framework_helpers import (
    HELD_OUT,
    ROLE,
    TARGET,
    Application,
    Query,
    check_learned,
    held_out,
    judge,
    vector_text,
)

from vectuned.daemon.server.installation import find_binaries

SCRIPT = Path(__file__).with_name("search.sh")


def test_script_is_learned_from_and_served(application: Application) -> None:
    application.create_documents()
    info = application.conn.info
    environment = {
        **os.environ,
        "PATH": f"{find_binaries().program('psql').parent}:{os.environ['PATH']}",
        "PGHOST": info.host,
        "PGPORT": str(info.port),
        "PGDATABASE": info.dbname,
        "PGUSER": ROLE,
    }

    def answers(queries: Sequence[Query]) -> dict[str, list[str]]:
        lines = "".join(f"{query.category} {vector_text(query)}\n" for query in queries)
        done = subprocess.run(
            [SCRIPT], input=lines, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        found = [line.split() for line in done.stdout.splitlines()]
        return {str(query.vector): ids for query, ids in zip(queries, found, strict=True)}

    def judged() -> tuple[float, int, int]:
        found = answers(held_out())
        got = judge(lambda query: found[str(query.vector)], held_out())
        return got.recall, got.short, got.foreign

    assert judged()[1] == HELD_OUT
    check_learned(application, application.learn_from_all(answers), "public.documents")
    application.vectuned("adopt", "--role", ROLE, "--apply")
    recall, short, foreign = judged()
    assert (recall >= TARGET, short, foreign) == (True, 0, 0)
    application.vectuned("adopt", "--role", ROLE, "--revert")
    assert judged()[1] == HELD_OUT
