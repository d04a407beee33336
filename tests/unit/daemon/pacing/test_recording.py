"""`RecordingLimit` on a simulated clock."""

from __future__ import annotations

from vectuned.daemon.pacing.recording import RecordingLimit


def test_recording_limit_follows_what_can_be_replayed_and_recovers() -> None:
    now = 0.0
    limiter = RecordingLimit(lambda: now)
    share, limit, recorded, waiting = 0.05, None, 0, 0
    # 5,000 searches a second, of which 4 can be replayed.
    for _ in range(20):
        now += 60
        arrived = round(5000 * share * 60)
        recorded += arrived
        replayed = min(4 * 60, waiting + arrived)
        waiting = min(waiting + arrived - replayed, 10_000)
        limit = limiter.observe(recorded, replayed, waiting, share, limit)
        share = min(0.05, limit or 1.0)
    assert 4 <= 5000 * share <= 8.1
    # Fewer searches, all of which are replayed: everything is recorded again.
    for _ in range(20):
        now += 60
        recorded += 10
        limit = limiter.observe(recorded, 10, 0, share, limit)
        share = min(0.05, limit or 1.0)
    assert limit is None
    assert share == 0.05
