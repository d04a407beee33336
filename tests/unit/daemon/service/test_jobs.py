"""The list of jobs."""

from __future__ import annotations

from vectuned.config.settings import Settings, load_settings
from vectuned.daemon.service.jobs import JOBS


def test_jobs_have_unique_names_intervals_and_the_right_queue() -> None:
    assert len({job.name for job in JOBS}) == len(JOBS)
    for job in JOBS:
        every = job.every(load_settings(None, {"export.folder": "/out", "export.import_folder": "/in"}, {}))
        assert every is not None
        assert every < 7200
        assert (job.every(Settings()) is None) == (job.name in ("export", "import"))
        # Long requests and learning must not delay the draining of the inbox.
        upkeep = ("refresh", "maintain", "export", "import")
        assert (job.queue == "upkeep") == (job.name in upkeep)
