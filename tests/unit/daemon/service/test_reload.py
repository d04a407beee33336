"""What a reload of the settings changes."""

from __future__ import annotations

from vectuned.config.settings import load_settings
from vectuned.daemon.service.reload import compare_settings


def test_compare_settings_separates_changes_now_from_changes_at_a_restart() -> None:
    old = load_settings(None, {"database.dsn": "host=a", "schedule.drain_seconds": 5}, {})
    chosen = {"database.dsn": "host=b", "embedded.home": "/srv", "schedule.drain_seconds": 6}
    diff = compare_settings(old, load_settings(None, chosen, {}))
    assert diff.now == ("schedule.drain_seconds",)
    assert diff.later == ("database.dsn", "embedded.home")
    assert (diff.settings.database, diff.settings.embedded) == (old.database, old.embedded)
    assert diff.settings.schedule.drain_seconds == 6
    assert compare_settings(old, old).now == compare_settings(old, old).later == ()
