"""The load follows the runs in progress."""

from __future__ import annotations

from vectuned.reasoning.graph.concurrency import Load


def test_load_grows_with_the_runs_in_progress() -> None:
    load = Load(capacity=3)
    with load.running():
        assert load.level == 0
        with load.running():
            assert load.level == 0.5
            with load.running(), load.running():
                assert load.level == 1
    assert load.level == 0
