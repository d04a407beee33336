"""What the report says was gained, against the replays that it is computed from."""

from __future__ import annotations

from typing import Any

import pytest
from tests.integration.daemon.reports.report_helpers import KIND
from tests.integration.table_helpers import Connection

from vectuned.daemon.reports import status
from vectuned.daemon.reports.gains import Figures, Gain, read_gains, total
from vectuned.learning.model.tuned_columns import read_tuned_columns
from vectuned.learning.policy.replays import load_replays


def gains(conn: Connection) -> list[Gain]:
    (tuned,) = read_tuned_columns(conn)
    replays = [(index, load_replays(conn, tuned, index)) for index in tuned.indexes]
    return read_gains(conn, tuned, replays, status.read(conn)[0]["promises"])


def row(conn: Connection, statement: str) -> Any:
    return conn.execute(statement.encode()).fetchone()


def test_read_gains_compares_the_default_with_what_serves(learned: Connection) -> None:
    found = {(gain.k_class, gain.shape): gain for gain in gains(learned)}
    assert set(found) == {(10, ""), (10, f"{KIND} =")}
    plain, filtered = found[10, ""], found[10, f"{KIND} ="]
    assert plain.replays == filtered.replays == 80
    # ef_search 40 is the fifth rung of the ladder.
    default = row(
        learned,
        "SELECT avg(asked_recall[5]), avg((asked_recall[5] < 0.8)::int) "
        "FROM vectuned.replay WHERE shape IS NULL",
    )
    assert (plain.before.recall, plain.before.poor) == pytest.approx(default)
    default = row(
        learned, "SELECT avg(other_recall[1]), avg(other_ms[1]) FROM vectuned.replay WHERE shape IS NOT NULL"
    )
    assert (filtered.before.recall, filtered.before.ms) == pytest.approx(default, rel=1e-5)
    for gain in found.values():
        checked = row(
            learned,
            "SELECT recall, below_08, checks FROM vectuned.promise "
            f"WHERE shape = $${gain.shape}$$ AND k_class = 10",
        )
        assert (gain.now.recall, gain.now.poor, gain.checks) == checked
        assert gain.now.ms is not None


def test_read_gains_counts_searches_of_a_partial_index_once(learned: Connection) -> None:
    before = {gain.shape: gain for gain in gains(learned)}[f"{KIND} ="].now.ms
    assert before is not None
    served = "FROM vectuned.measured_path WHERE shape IS NOT NULL AND k_class = 10 AND serves AND samples > 0"
    (samples,) = row(learned, f"SELECT sum(samples) {served}")
    learned.execute(
        "INSERT INTO vectuned.measured_path (column_id, k_class, shape, bucket, access_path, index_no, "
        "requires, share, expected_recall, recall_bound, proven, ms, samples, serves) "
        "SELECT column_id, k_class, shape, 0, 'hnsw', 2, '{}', 0.25, 1, 0.95, true, 0, "
        f"{samples} / 2, true {served} LIMIT 1".encode()
    )
    after = {gain.shape: gain for gain in gains(learned)}[f"{KIND} ="].now.ms
    assert after == pytest.approx(before * (1 - (samples // 2) / float(samples)))


def test_total_weights_by_replays_and_leaves_out_what_is_unknown() -> None:
    many = Gain(10, "", 300, Figures(0.8, 0.2, 1.0), Figures(1.0, 0.0, 2.0), 100)
    few = Gain(10, "kind =", 100, Figures(0.4, 0.6, 3.0), Figures(0.96, None, 4.0), 0)
    before, now = total([many, few])
    assert (before.recall, before.poor, before.ms) == pytest.approx((0.7, 0.3, 1.5))
    assert (now.recall, now.ms) == pytest.approx((0.99, 2.5))
    assert now.poor is None
