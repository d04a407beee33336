"""When queries or table change: detection, more effort and more checks, and learning again."""

from __future__ import annotations

import json

import numpy as np
import psycopg
import pytest
from tests.integration.promises_helpers import (
    TARGET,
    actions,
    after_alarm,
    alert,
    ask,
    bank,
    claim_of,
    ef_of_all,
    fail,
    insert_checks,
    points,
    serve_filter,
    served,
)
from tests.integration.table_helpers import Connection, enable, one, replace_search, search

from vectuned.daemon.work.worker import Worker
from vectuned.learning.oversight.judging import update_margins
from vectuned.learning.oversight.promises import check_promises


@pytest.fixture
def initial_database(learned: str) -> str:
    """Begin each test with the learned column."""
    return learned


def test_check_promises_makes_a_claim_about_what_serves(conn: Connection, worker: Worker) -> None:
    assert one(conn, "SELECT count(*) FROM vectuned.recall_check WHERE version IS NULL") == 200
    ask(worker, 150, seed=3)
    assert one(conn, "SELECT max(version) FROM vectuned.recall_check") == 1
    recall = one(conn, "SELECT avg(recall) FROM vectuned.recall_check WHERE version IS NOT NULL")
    assert recall >= TARGET - 0.02
    row = conn.execute(
        "SELECT checks, unknown, recall, recall_bound, below_08_bound, e_value FROM vectuned.promise"
    ).fetchone()
    assert row is not None
    checks, unknown, mean, bound, tail, e_value = row
    assert (checks, unknown) == (150, 0)
    assert TARGET - 0.1 < bound < mean <= 1
    assert 0 < tail < 0.5
    assert e_value < 20
    assert actions(conn) == ["publish"]
    assert not alert(conn)


def test_replay_again_adds_no_checks(conn: Connection, worker: Worker) -> None:
    before = one(conn, "SELECT count(*) FROM vectuned.recall_check")
    conn.execute("UPDATE vectuned.trajectory SET replayed_at = NULL")
    conn.execute("DELETE FROM vectuned.replay")
    assert worker.replay_all() == 200
    assert one(conn, "SELECT count(*) FROM vectuned.recall_check") == before


def test_check_promises_raises_an_alarm_for_a_broken_promise(conn: Connection, worker: Worker) -> None:
    listener = psycopg.connect(conn.info.dsn, autocommit=True)
    listener.execute("LISTEN vectuned")
    ask(worker, 100, seed=4)
    conn.execute("UPDATE vectuned.bank SET ef_search = 10, access_path = 'hnsw' WHERE k_class = 10")
    checked = 0
    while "alarm" not in actions(conn):
        ask(worker, 25, seed=100 + checked)
        checked += 25
        assert checked <= 400
    ef, certified = served(conn)
    assert (ef, certified) == (20, False)
    assert alert(conn)
    details = one(conn, "SELECT details FROM vectuned.event WHERE action = 'alarm'")
    assert details["k_class"] == 10
    assert details["recall"] < TARGET
    assert "promised" in one(conn, "SELECT reason FROM vectuned.bank WHERE k_class = 10")
    assert one(conn, "SELECT checks FROM vectuned.promise") == 0
    assert one(conn, "SELECT alarms FROM vectuned.promise") == 1
    heard = [json.loads(n.payload)["action"] for n in listener.notifies(timeout=300, stop_after=1)]
    listener.close()
    assert heard == ["alarm"]


def test_check_promises_starts_over_for_another_target(conn: Connection, worker: Worker) -> None:
    ask(worker, 100, seed=60)
    enable(conn, target_recall=0.99, sample_rate=1.0, min_samples=100)
    ask(worker, 200, seed=61)  # still served, and promised, what was published for 0.9
    assert actions(conn) == ["publish"]
    assert one(conn, "SELECT checks FROM vectuned.promise") == 300
    worker.learn_all()
    ask(worker, 50, seed=63)
    assert one(conn, "SELECT checks FROM vectuned.promise") == 50
    assert one(conn, "SELECT target_recall FROM vectuned.promise") == 0.99
    conn.execute("SELECT vectuned.disable('items', 'embedding')")
    assert one(conn, "SELECT count(*) FROM vectuned.promise") == 0


def test_check_promises_starts_over_when_first_checks_are_deleted(conn: Connection, worker: Worker) -> None:
    enable(conn, target_recall=TARGET, sample_rate=1.0, min_samples=100, trajectory_window=250)
    ask(worker, 120, seed=70)
    ask(worker, 120, seed=75)
    assert one(conn, "SELECT checks FROM vectuned.promise") == 240
    ask(worker, 40, seed=71)  # the checks of before anything was learned are dropped first
    assert one(conn, "SELECT checks FROM vectuned.promise") == 280
    assert one(conn, "SELECT count(*) FROM vectuned.recall_check") == 250
    ask(worker, 20, seed=72)
    assert one(conn, "SELECT checks FROM vectuned.promise") == 0
    ask(worker, 100, seed=73)
    ask(worker, 100, seed=74)
    assert one(conn, "SELECT checks FROM vectuned.promise") == 200
    assert one(
        conn, "SELECT first_check > (SELECT min(check_no) FROM vectuned.recall_check) FROM vectuned.promise"
    )
    assert "alarm" not in actions(conn)


def test_end_alert_when_all_is_proven_again(conn: Connection, worker: Worker) -> None:
    enable(conn, target_recall=TARGET, sample_rate=0.05, min_samples=100)
    conn.execute("REINDEX INDEX items_embedding_idx")
    worker.replay_all()
    assert "rebuilt" in actions(conn)
    assert alert(conn)
    assert not served(conn)[1]
    conn.execute("TRUNCATE vectuned.inbox")
    for query in points(400, seed=6):
        search(conn, query)
    recorded = one(conn, "SELECT count(*) FROM vectuned.inbox")
    assert 40 < recorded < 150  # one of five during the alert, although the sample rate is one of twenty
    worker.drain()
    worker.replay_all()
    worker.replay_all()
    worker.learn_all()
    assert served(conn)[1]
    assert not alert(conn)
    assert actions(conn)[-2:] == ["publish", "proven"]


def test_check_promises_with_easier_and_harder_queries(conn: Connection, worker: Worker) -> None:
    """Queries far from all rows are harder; what was proven for others does not hold for them."""
    seed, under = 20, 0
    for _ in range(24):
        ask(worker, 25, seed=seed, shift=1.5)
        worker.learn_all()
        seed += 1
        recall = one(
            conn,
            "SELECT avg(recall) FROM (SELECT recall FROM vectuned.recall_check "
            "ORDER BY check_no DESC LIMIT 100) c",
        )
        under = under + 25 if recall < TARGET - 0.02 else 0
        assert under <= 400
    assert under == 0


def test_check_promises_counts_abandoned_checks_as_unknown(conn: Connection, worker: Worker) -> None:
    for query in points(3, seed=40):
        search(conn, query)
    worker.drain()
    replace_search(conn, "RAISE division_by_zero")
    worker.replay_all()
    assert one(conn, "SELECT count(*) FROM vectuned.recall_check WHERE recall IS NULL") == 3
    assert one(conn, "SELECT unknown FROM vectuned.promise") == 3


def test_update_margins_raises_at_once_and_lowers_slowly(conn: Connection, worker: Worker) -> None:
    def judged(verdict: str) -> None:
        """Search, and store this verdict for all of these searches."""
        last = one(conn, "SELECT max(recorded_at) FROM vectuned.trajectory")
        ask(worker, 100, seed=one(conn, "SELECT count(*)::int FROM vectuned.trajectory"))
        worker.judge()
        conn.execute(
            "UPDATE vectuned.trajectory SET verdict = %s, recall = CASE WHEN %s <> 'unknown' THEN recall END "
            "WHERE recorded_at > %s",
            (verdict, verdict, last),
        )
        conn.execute("UPDATE vectuned.promise SET margin_since = %s", (last,))

    ask(worker, 50, seed=50)
    worker.judge()
    assert one(conn, "SELECT margin FROM vectuned.promise") == 0
    before, _ = served(conn)
    judged("failure")
    tuned = worker.columns()[0]
    assert update_margins(conn, tuned) == {10: 1.0}
    ef, certified = served(conn)
    assert before * 1.2 < ef < before * 1.6
    assert certified
    assert "more after failures" in one(conn, "SELECT reason FROM vectuned.bank WHERE k_class = 10")
    assert update_margins(conn, tuned) == {}  # the same failures count once
    learned = ef_of_all(worker)
    assert learned == pytest.approx(ef, rel=0.2)  # a publish keeps the margin
    judged("success")
    # The searches themselves, judged before, may have lowered it once as well.
    assert 1 - 2.01 * tuned.learning_rate < update_margins(conn, tuned)[10] < 1
    assert served(conn)[0] == learned
    judged("unknown")
    assert update_margins(conn, tuned) == {}
    conn.execute("UPDATE vectuned.promise SET margin = 0")
    assert ef_of_all(worker) < learned


def test_claim_never_exceeds_its_own_mean_when_recall_drifts_above_the_target(
    conn: Connection, worker: Worker
) -> None:
    rng = np.random.default_rng(80)
    drifting = np.concatenate([rng.random(3000) < 0.985, rng.random(4000) < 0.93])
    insert_checks(conn, drifting)
    check_promises(conn, worker.columns()[0], worker.limits)
    row = conn.execute(
        "SELECT recall, recall_bound, epoch_recall, epoch_bound, claim, alarms FROM vectuned.promises"
    ).fetchone()
    assert row is not None
    recall, bound, epoch_recall, epoch_bound, claim, alarms = row
    assert alarms == 0
    assert 0.93 < bound < recall < 0.965
    assert 0.88 < epoch_bound < epoch_recall < 0.96
    assert f"{recall:.3f}, at least {int(bound * 1000) / 1000:.3f} with 95 % confidence" in claim
    assert f"{epoch_recall:.3f}, at least {int(epoch_bound * 1000) / 1000:.3f}" in claim


def test_check_promises_raises_the_effort_once_up_to_the_cap(conn: Connection, worker: Worker) -> None:
    before, _ = served(conn)
    raised = after_alarm(conn, 10)
    fail(worker, k_class=10)
    assert served(conn) == (raised, False)
    fail(worker, k_class=10)
    assert served(conn) == (raised, False)
    assert actions(conn) == ["publish", "alarm", "alarm"]
    conn.execute(
        "UPDATE vectuned.bank SET ef_search = %s, learned_effort = NULL WHERE k_class = 10", (before,)
    )
    enable(conn, sample_rate=1.0, max_effort=before + 3)
    fail(worker, k_class=10)
    assert served(conn) == (before + 3, False)
    enable(conn, sample_rate=1.0, max_effort=10)
    fail(worker, k_class=10)
    assert served(conn) == (before + 3, False)  # a fall back never lowers an effort; the next publish does


def test_check_promises_takes_evidence_from_the_alarmed_class_only(conn: Connection, worker: Worker) -> None:
    before = bank(conn)
    assert before[10][1]  # nothing is proven of the classes that no search belongs to
    raised = after_alarm(conn, 1)
    fail(worker, k_class=1)
    assert bank(conn) == {**before, 1: (raised, False)}
    ask(worker, 30, seed=80, k=1)
    worker.learn_all()
    after = bank(conn)
    assert after[1] == (raised, False)  # 30 replays are no evidence yet
    for k in (3, 10, 30, 100):
        assert after[k][1] == before[k][1]
        assert after[k][0] <= 1.2 * before[k][0]
    assert alert(conn)
    for seed in (81, 82, 83):
        ask(worker, 70, seed=seed, k=1)
    worker.learn_all()
    after = bank(conn)
    assert (after[1][1], after[10][1]) == (True, True)
    assert after[1][0] <= 1.5 * before[1][0]
    assert not alert(conn)


def test_check_promises_starts_over_when_another_path_serves_filtered_searches(
    conn: Connection, worker: Worker
) -> None:
    shape = "seen ="
    conn.execute("UPDATE vectuned.tuned_column SET target_recall = 0.7")
    serve_filter(conn, (3, "hnsw", 1, 300), (4, "exact", None, None))
    insert_checks(conn, [1.0] * 100, shape)
    assert claim_of(conn, worker, shape) == (100, 1.0)
    serve_filter(conn, (3, "hnsw", 1, 290), (4, "exact", None, None))  # hardly less effort
    insert_checks(conn, [1.0] * 20, shape)
    assert claim_of(conn, worker, shape) == (120, 1.0)
    serve_filter(conn, (3, "hnsw_continued", 1, 200), (4, "exact", None, None))
    insert_checks(conn, [0.9] * 60, shape)
    assert claim_of(conn, worker, shape) == (60, pytest.approx(0.9))
    serve_filter(conn, (3, "hnsw_continued", 1, 200), (4, "planner", None, None))  # in one bucket only
    insert_checks(conn, [0.8] * 10, shape)
    assert claim_of(conn, worker, shape) == (10, pytest.approx(0.8))


def test_check_promises_starts_over_when_effort_creeps_down(conn: Connection, worker: Worker) -> None:
    conn.execute("UPDATE vectuned.bank SET ef_search = 200, version = 2, published_at = clock_timestamp()")
    insert_checks(conn, [1.0] * 50)
    claim_of(conn, worker)
    total, before, effort = 50, 50, 200
    while effort > 110:
        effort = int(effort * 0.95)
        conn.execute(
            "UPDATE vectuned.bank SET ef_search = %s, version = version + 1, "
            "published_at = clock_timestamp()",
            (effort,),
        )
        insert_checks(conn, [1.0] * 50)
        total += 50
        counted, _ = claim_of(conn, worker)
        assert counted <= 150  # at most three steps of 5 % belong to one claim
        before = counted
    assert before < total


def test_check_promises_does_not_count_searches_recorded_before_what_serves(
    conn: Connection, worker: Worker
) -> None:
    insert_checks(conn, [1.0] * 30)
    conn.execute("UPDATE vectuned.recall_check SET recorded_at = recorded_at - interval '1 day'")
    insert_checks(conn, [0.9] * 20)
    assert claim_of(conn, worker) == (20, pytest.approx(0.9))
    since = one(conn, "SELECT since FROM vectuned.promise WHERE shape = ''")
    assert since == one(conn, "SELECT max(published_at) FROM vectuned.bank")


def test_filter_value_that_many_searches_ask_for_has_a_claim_and_an_alarm_of_its_own(
    conn: Connection, worker: Worker
) -> None:
    shape = "seen ="
    serve_filter(conn, (3, "hnsw", 1, 300))
    # A tenant with a tenth of the searches gets half of its rows; the mean of all is above the target.
    insert_checks(conn, ([1.0] * 9 + [0.5]) * 60, shape)
    conn.execute(
        "UPDATE vectuned.recall_check SET filter_digest = CASE WHEN recall < 1 THEN 'tenant 7' "
        "ELSE 'tenant 1' END WHERE shape = %s",
        (shape,),
    )
    conn.execute("UPDATE vectuned.tuned_column SET max_tail = 1")
    (tuned,) = worker.columns()
    assert check_promises(conn, tuned, worker.limits) == 1
    why = one(conn, "SELECT details ->> 'why' FROM vectuned.event WHERE action = 'alarm'")
    assert "found a recall of 0.500" in why
    assert one(conn, "SELECT certified FROM vectuned.bank WHERE k_class = 10"), "only the shape falls back"


def test_claim_names_the_recall_of_filter_values_that_many_ask_for(conn: Connection, worker: Worker) -> None:
    shape = "seen ="
    serve_filter(conn, (3, "hnsw", 1, 300))
    insert_checks(conn, [1.0] * 200, shape)
    conn.execute(
        "UPDATE vectuned.recall_check SET filter_digest = CASE WHEN check_no %% 4 = 0 THEN 'often' "
        "ELSE 'rare ' || check_no END WHERE shape = %s",
        (shape,),
    )
    claim_of(conn, worker, shape)
    claim = one(conn, "SELECT claim FROM vectuned.promises WHERE filter = %s", shape)
    assert "often (25 % of them): 1.000, at least 0." in claim
    assert "rare" not in claim


def test_checks_of_equal_filters_have_equal_digests(conn: Connection, worker: Worker) -> None:
    for condition in ('{"seen": 1}', '{ "seen" : 1 }', '{"seen": 2}'):
        conn.execute(
            "SELECT FROM vectuned.search('items', %s::real[]::vector, 5, %s::jsonb)",
            (points(1, seed=9)[0].tolist(), condition),
        )
    worker.drain()
    worker.replay_all()
    digests = one(
        conn,
        "SELECT array_agg(DISTINCT length(filter_digest)) || array_agg(DISTINCT 0 + n::int) "
        "FROM (SELECT filter_digest, count(*) AS n FROM vectuned.recall_check "
        "WHERE shape <> '' GROUP BY 1) d",
    )
    assert digests == [16, 1, 2]
