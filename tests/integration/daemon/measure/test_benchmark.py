"""Benchmarks requested in SQL, on a real server: their figures against independent ones."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from tests.integration.search_helpers import ROWS, points, request, row, run_searches, serve, settings, tuned
from tests.integration.table_helpers import (
    Connection,
    exact,
    one,
    replace_search,
    search,
    search_filtered,
    text,
)
from tests.integration.table_helpers import serve as publish_fixed

from vectuned.daemon.service.requests import run_next_request
from vectuned.learning.model.trajectory import drain


@pytest.fixture
def column(conn: Connection) -> int:
    """Return the id of a column whose searches are recorded, with a published fixed ef_search of 20."""
    column = tuned(conn)
    publish_fixed(conn, column, None, 20)
    return column


def scan_recalls(conn: Connection, queries: Any, k: int) -> tuple[float, float]:
    """Return the mean recall@k of vectuned and of plain SQL, by scanning the table for every query."""
    own, plain = [], []
    for query in queries:
        bound = exact(conn, query, k)[-1][1] + 1e-6
        own.append(sum(d <= bound for _, d in search(conn, query, k)) / k)
        rows = conn.execute(
            "SELECT embedding <=> %(q)s::vector FROM items ORDER BY embedding <=> %(q)s::vector LIMIT "
            + str(k),
            {"q": text(query)},
        ).fetchall()
        plain.append(sum(d <= bound for (d,) in rows) / k)
    return float(np.mean(own)), float(np.mean(plain))


@pytest.mark.usefixtures("column")
@pytest.mark.parametrize("k", [10, 30])
def test_benchmark_recall_equals_recall_by_scanning(conn: Connection, k: int) -> None:
    run_searches(conn, 60)
    recorded = one(conn, "SELECT count(*) FROM vectuned.inbox")
    number = request(conn, "benchmark_recall('items', k => %s, sample_queries => 60)", k)
    result = serve(conn, number)
    conn.execute("SET vectuned.record = off")
    own, plain = scan_recalls(conn, points(60, seed=2), k)
    served, default = result["served"], result["default"]
    assert served["recall"] == pytest.approx(own, abs=1e-3)
    assert default["recall"] == pytest.approx(plain, abs=1e-3)
    assert served["recall"] < default["recall"] if k == 10 else served["recall"] == default["recall"]
    for each in (served, default):
        assert each["recall_at_least"] < each["recall"] < each["recall_at_most"] <= 1
        assert each["below_08_at_least"] <= each["below_08"] < each["below_08_at_most"]
        assert (each["searches"], each["given_up"]) == (60, 0)
    assert served["setting"] == ("ef_search 20" if k == 10 else "nothing learned yet: the default")
    assert default["setting"] == "ef_search 40, probes 1, through items_embedding_idx"
    assert (result["rows"], result["k"], result["confidence"]) == (ROWS, k, 0.95)
    assert result["queries"] == {
        "asked_for": 60,
        "recorded": 60,
        "perturbed_rows": 0,
        "filtered": 0,
        "fair": True,
        "note": None,
    }
    assert f"recall@{k} {own:.3f}" in result["summary"]
    # Searches of the benchmark are not recorded; those in the inbox were drained before.
    drain(conn)
    assert one(conn, "SELECT count(*) FROM vectuned.trajectory") == recorded
    assert one(conn, "SELECT (done, total) = (120, 120) FROM vectuned.requests")


@pytest.mark.usefixtures("column")
def test_benchmark_latency_measures_both_arms(conn: Connection) -> None:
    run_searches(conn, 50)
    call = "benchmark_latency('items', sample_queries => 50, percentiles => '{0,0.5,0.999,1}')"
    result = serve(conn, request(conn, call))
    for name in ("served", "default"):
        each = result[name]
        shares = each["percentiles_ms"]
        assert set(shares) == {"0", "0.5", "0.999", "1"}
        assert 0 < shares["0"] <= shares["0.5"] <= shares["0.999"] <= shares["1"] < 10_000
        assert shares["0"] <= each["mean_ms"] <= shares["1"]
        assert each["recall"] > 0.5
    assert result["served"]["recall"] < result["default"]["recall"]
    assert " ms" in result["summary"]


def search_by_kind(conn: Connection, count: int, seed: int) -> None:
    for number, query in enumerate(points(count, seed)):
        search_filtered(conn, query, 10, {"kind": number % 3})


@pytest.mark.usefixtures("column")
def test_benchmark_recall_with_filters_uses_recorded_filters(conn: Connection) -> None:
    run_searches(conn, 25, seed=2)
    search_by_kind(conn, 30, seed=3)
    without = serve(conn, request(conn, "benchmark_recall('items')"))
    assert without["queries"]["filtered"] == 0
    assert without["queries"]["recorded"] == 25
    assert without["queries"]["note"].startswith("only 25 different searches")
    call = "benchmark_recall('items', filtered => %s::boolean)"
    within = serve(conn, request(conn, call, True))
    assert within["queries"]["filtered"] == within["queries"]["recorded"] == 30
    # About 10 of the 40 rows of plain SQL are of one kind; vectuned returns k rows whenever k rows match.
    assert within["default"]["recall"] < within["served"]["recall"]
    assert within["served"]["recall"] > 0.95
    assert "as the planner chooses" in within["default"]["setting"]
    both = serve(conn, request(conn, call, None))
    assert (both["queries"]["filtered"], both["queries"]["recorded"]) == (30, 55)
    timed = serve(conn, request(conn, "benchmark_latency('items', filtered => true)"))
    assert timed["served"]["recall"] == within["served"]["recall"]
    conn.execute("ALTER TABLE items DROP COLUMN kind")
    number = request(conn, call, True)
    assert run_next_request(conn.info.dsn, settings())
    assert row(conn, number)[0] == "failed"


@pytest.mark.usefixtures("column")
def test_benchmark_recall_samples_the_newest_searches_and_each_once(conn: Connection) -> None:
    run_searches(conn, 30, seed=2)
    for _ in range(3):
        run_searches(conn, 20, seed=3)
    result = serve(conn, request(conn, "benchmark_recall('items', sample_queries => 25)"))
    assert result["queries"]["recorded"] == 25
    conn.execute(
        "UPDATE vectuned.trajectory SET query = NULL WHERE recorded_at < "
        "(SELECT percentile_disc(0.4) WITHIN GROUP (ORDER BY recorded_at) FROM vectuned.trajectory)"
    )
    result = serve(conn, request(conn, "benchmark_recall('items')"))
    assert result["queries"]["recorded"] == 20


@pytest.mark.usefixtures("column")
def test_benchmark_recall_with_perturbed_rows_notes_an_unfair_sample(conn: Connection) -> None:
    run_searches(conn, 12)
    number = request(conn, "benchmark_recall('items')")
    assert run_next_request(conn.info.dsn, settings())
    state, _, error = row(conn, number)
    assert state == "failed"
    assert error is not None
    assert "Only 12 different searches" in error
    assert "no fair sample" in error
    call = "benchmark_recall('items', perturbed => true, sample_queries => 50)"
    queries = serve(conn, request(conn, call))["queries"]
    assert (queries["recorded"], queries["perturbed_rows"], queries["fair"]) == (12, 38, False)
    assert "not a fair sample" in queries["note"]


@pytest.mark.usefixtures("column")
def test_benchmark_recall_with_failing_searches_counts_them_as_given_up(conn: Connection) -> None:
    run_searches(conn, 30)
    replace_search(conn, "RAISE division_by_zero")
    result = serve(conn, request(conn, "benchmark_recall('items')"))
    assert result["served"]["recall"] is None
    assert (result["served"]["recall_at_least"], result["served"]["recall_at_most"]) == (0, 1)
    assert (result["served"]["given_up"], result["default"]["given_up"]) == (30, 0)
    assert "every search was given up" in result["summary"]
    number = request(conn, "benchmark_latency('items')")
    assert run_next_request(conn.info.dsn, settings())
    assert row(conn, number) == ("failed", None, "division_by_zero")


def test_benchmarks_with_names_that_need_quoting_succeed(conn: Connection) -> None:
    conn.execute(
        'CREATE TABLE "Odd ""%s {table}" ("a b" text, "C" int, "e\'f" halfvec(4), PRIMARY KEY ("a b", "C"))'
    )
    conn.execute(
        'INSERT INTO "Odd ""%s {table}" SELECT \'n\' || n, n, '
        "ARRAY[sin(n), cos(n), sin(n * n), 1]::float4[]::vector FROM generate_series(1, 300) n"
    )
    conn.execute('CREATE INDEX ON "Odd ""%s {table}" USING hnsw ("e\'f" halfvec_l2_ops)')
    relation = '"Odd ""%s {table}"'
    conn.execute(
        "SELECT vectuned.enable(%s::regclass, 'e''f', sample_rate => 1, min_samples => 20)", (relation,)
    )
    for query in np.random.default_rng(1).normal(size=(30, 4)):
        conn.execute(
            "SELECT vectuned.search(%s::regclass, %s, 5, %s)",
            (relation, text(query), json.dumps({"C": {">": 9}})),
        )
    for kind in ("recall", "latency"):
        call = f"benchmark_{kind}(%s::regclass, perturbed => true, filtered => NULL, sample_queries => 40)"
        result = serve(conn, request(conn, call, relation))
        assert result["served"]["recall"] == 1
        assert (result["queries"]["filtered"], result["queries"]["perturbed_rows"]) == (30, 10)
