"""The settings that statements are sent with are those that replays measure with."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from vectuned.learning.model import scan_settings
from vectuned.sql.client.snapshot import LocalSettings
from vectuned.sql.files import folder

FUNCTIONS = folder() / "tuner" / "functions"
REPLAY = (FUNCTIONS / "daemon" / "replay.sql").read_text()


@pytest.mark.parametrize("efforts", [scan_settings.CONTINUED_EFFORTS, scan_settings.CONTINUED_PROBES])
def test_continued_efforts_are_those_of_replays(efforts: tuple[int, ...]) -> None:
    assert f"ARRAY[NULL, {', '.join(map(str, efforts))}]" in REPLAY
    assert all(1 < after / before <= 3 for before, after in pairwise(efforts))


def test_continued_tuples_are_those_of_replays_and_searches() -> None:
    least = scan_settings.most_tuples(1)
    each = scan_settings.most_tuples(1000) // 1000
    assert f"greatest({least}, {each} * path.effort)" in REPLAY
    template = (FUNCTIONS / "search" / "filtered_template.sql").read_text()
    assert f"greatest({least}, {each} OPERATOR(pg_catalog.*) effort)" in template
    memory = scan_settings.continued_hnsw_settings(40, 10)["hnsw.scan_mem_multiplier"]
    assert re.search(rf"SET hnsw.scan_mem_multiplier = {memory}\b", REPLAY)


@pytest.mark.parametrize(
    "settings",
    [
        scan_settings.EXACT,
        scan_settings.hnsw_settings(40, 2000),
        scan_settings.continued_hnsw_settings(800, 10),
        scan_settings.ivfflat_settings(7),
        scan_settings.continued_ivfflat_settings(7),
    ],
)
def test_scan_settings_may_be_sent_by_the_client(settings: scan_settings.Settings) -> None:
    assert LocalSettings.of(settings) is not None
