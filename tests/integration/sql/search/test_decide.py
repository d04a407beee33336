"""The choice of effort in SQL and in Python: equal to the last bit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import pytest
from tests.integration.table_helpers import clustered, enable, make, one, publish, raw, text

from vectuned.learning.model import ladder
from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.tuned_columns import read_tuned_columns
from vectuned.learning.model.vectors import Vector
from vectuned.learning.patterns.optimizer import Policy, SearchOptimizer, blend
from vectuned.learning.patterns.reasoning_bank import Patterns, ReasoningBank
from vectuned.learning.patterns.signature import Signature, feature_ranks, features
from vectuned.learning.policy.storage import read_bank

Connection = psycopg.Connection[Any]


def test_ladder_is_equal_in_sql_and_python(conn: Connection) -> None:
    assert tuple(one(conn, "SELECT vectuned._rungs()")) == ladder.RUNGS
    classes = conn.execute("SELECT k, vectuned._k_class(k) FROM generate_series(1, 1000) k").fetchall()
    assert len(classes) == 1000
    assert all(ladder.k_class(k) == k_class for k, k_class in classes)
    assert {k_class for _, k_class in classes} == set(ladder.K_CLASSES)


def test_ef_search_is_equal_in_sql_and_python(conn: Connection) -> None:
    rng = np.random.default_rng(5)
    between = np.arange(len(ladder.RUNGS) - 1)[:, None] + np.arange(0, 1, 1 / 64)  # many of them end in .5
    near = np.nextafter(np.arange(14.0), np.array([[-1.0], [99.0]]))
    efforts = np.concatenate(
        [rng.uniform(-1, 14, 5000), between.ravel(), near.ravel(), [0, 13, -5, 1e300, -1e300]]
    )
    for k in (1, 10, 37, 448, 1000):
        found = one(
            conn,
            "SELECT array_agg(vectuned._ef_search(e, %s) ORDER BY n) FROM unnest(%s::float8[]) "
            "WITH ORDINALITY AS u (e, n)",
            k,
            efforts.tolist(),
        )
        assert found == ladder.setting_at(efforts, k).tolist()
    for broken in ("NaN", "Infinity", "-Infinity", None):
        assert one(conn, "SELECT vectuned._ef_search(%s::float8, 10)", broken) is None


def probes_like_real_ones(k: int, probe_ef: int, seed: int) -> Floats:
    """Draw (n, probe_ef) distances: near and far, of every metric, out of order, with ties, and all equal."""
    rng = np.random.default_rng(seed)
    smooth = np.sort(rng.gamma(4.0, rng.uniform(0.01, 10, (400, 1)), (400, probe_ef)), axis=1)
    negative = smooth[:100] - 20
    coarse = np.round(smooth[:100], 1)
    relaxed = smooth[:100] * rng.uniform(0.9, 1.1, (100, probe_ef))
    level = np.repeat(rng.normal(size=(20, 1)), probe_ef, axis=1)
    vectors = clustered(probe_ef * 20, 8, seed).reshape(20, probe_ef, 8)
    norms = np.sort(np.linalg.norm(vectors - vectors[:, :1], axis=2).astype(np.float64), axis=1)
    return np.concatenate([smooth, negative, coarse, relaxed, level, norms, norms * 1e6, norms * 1e-12])


def random_signatures(k: int, probe_ef: int, seed: int) -> list[Signature]:
    rng = np.random.default_rng(seed)
    center = rng.normal(size=8)
    return [
        Signature(k, probe_ef, center, rng.normal(size=(8, 4)) * 40),
        Signature(k, probe_ef, center, rng.normal(size=(8, 4)) * 1e4),
        # Halves: many sums lie midway between two integers, and round to the even one.
        Signature(k, probe_ef, np.zeros(8), np.round(rng.normal(size=(8, 4))) / 2),
        Signature(k, probe_ef, np.zeros(8), np.eye(8, 4) * 5),
        Signature(k, probe_ef, center, np.zeros((8, 4))),
    ]


@pytest.mark.parametrize(("k", "probe_ef"), [(1, 28), (3, 7), (10, 28), (10, 112), (30, 56), (100, 1000)])
def test_signature_is_equal_in_sql_and_python(conn: Connection, k: int, probe_ef: int) -> None:
    probes = probes_like_real_ones(k, probe_ef, seed=k)
    places = ", ".join(f"d[{rank}]" for rank in feature_ranks(k, probe_ef))
    differing = 0
    for signature in random_signatures(k, probe_ef, seed=probe_ef):
        found = one(
            conn,
            f"SELECT array_agg(vectuned._signature({places}, (SELECT sum(v ORDER BY n) FROM unnest(d[1:%s]) "
            "WITH ORDINALITY AS u (v, n)) / %s, %s, %s)::float4[] ORDER BY row) FROM (SELECT row, "
            "(%s::float8[])[(row - 1) * %s + 1 : row * %s] AS d FROM generate_series(1, %s) AS row) AS p",
            k,
            k,
            signature.center.tolist(),
            signature.weights.ravel().tolist(),
            probes.ravel().tolist(),
            probe_ef,
            probe_ef,
            len(probes),
        )
        expected = signature.transform(probes)
        assert np.array(found, dtype=np.float32).shape == expected.shape
        differing += int((np.array(found, dtype=np.float32) != expected).sum())
    assert differing == 0


def bank(conn: Connection, column: int, patterns: int, seed: int, spread: int) -> tuple[Floats, Floats]:
    """Publish a random bank; return its centroids (p, 4) and values (p, 3)."""
    rng = np.random.default_rng(seed)
    centroids = rng.integers(-spread, spread + 1, size=(patterns, 4)).astype(np.float64)
    values = np.column_stack([rng.uniform(0, 13, patterns), rng.uniform(0, 1, (patterns, 2))])
    publish(conn, column, values[:, 0].tolist(), centroids=centroids.tolist())
    conn.cursor().executemany(
        "UPDATE vectuned.pattern SET expected_recall = %s, confidence = %s WHERE pattern_no = %s",
        [(values[i, 1], values[i, 2], i) for i in range(patterns)],
    )
    return centroids, values


@pytest.mark.parametrize("spread", [1, 30, 1000])  # with 1, nearly all distances are ties
@pytest.mark.parametrize("patterns", [1, 2, 3, 4, 64, 300])
def test_decide_is_equal_in_sql_and_python(conn: Connection, patterns: int, spread: int) -> None:
    make(conn, clustered(20, 4, seed=1))
    column = enable(conn)
    centroids, values = bank(conn, column, patterns, seed=patterns, spread=spread)
    size = len(centroids)
    known = ReasoningBank(
        replace(
            Patterns.at_centroids(centroids.astype(np.float32)),
            effort=values[:, 0],
            expected_recall=values[:, 1],
            confidence=values[:, 2],
        )
    )
    rng = np.random.default_rng(seed=spread)
    signatures = rng.integers(-spread - 1, spread + 2, size=(500, 4)).astype(np.float32)
    signatures[:50] = centroids[rng.integers(0, size, 50)]
    signatures[50:60] = [1000, -1000, 1000, -1000]
    reaches = (0.0, float(spread), 1e6)
    for reach in reaches:
        numbers, distances = known.lookup(signatures)
        expected = blend(values, numbers, distances, reach)
        found = conn.execute(
            "SELECT d.effort, d.expected_recall, d.confidence "
            "FROM unnest(%s::vector[]) WITH ORDINALITY AS s (v, n) "
            "LEFT JOIN LATERAL vectuned._decide(%s, 10, s.v, %s) d ON true ORDER BY s.n",
            ([Vector(s) for s in signatures], column, reach),
        ).fetchall()
        decided = np.array(found, dtype=np.float64)  # NULL becomes NaN
        assert np.array_equal(decided, expected, equal_nan=True)
        assert reach < 1e6 or not np.isnan(expected).any()
        assert reach > 0 or np.isnan(expected).any() or spread == 1


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("k", [1, 8, 10, 25])
def test_params_equal_the_optimizer_and_the_recorded_search(conn: Connection, metric: str, k: int) -> None:
    make(conn, clustered(1500, 12, seed=1), metric=metric)
    column = enable(conn, sample_rate=1.0)
    k_class, probe_ef = ladder.k_class(k), 56
    rng = np.random.default_rng(k)
    probing = "SELECT vectuned._probe(c, %s, %s) FROM vectuned.tuned_column c"
    shapes = features(
        np.array([one(conn, probing, text(q), probe_ef) for q in clustered(24, 12, seed=3)]),
        k_class,
        probe_ef,
    )
    signature = Signature(
        k_class,
        probe_ef,
        shapes.mean(axis=0),
        rng.normal(size=(8, 4)) * 15 / (shapes.std(axis=0)[:, None] + 1e-9),
    )
    centroids = np.rint((shapes - signature.center) @ signature.weights)
    nearest = np.sort(np.linalg.norm(centroids[:, None] - centroids, axis=2), axis=1)[:, 1]
    publish(
        conn,
        column,
        rng.uniform(0, 13, 24).tolist(),
        k_class=k_class,
        probe_ef=probe_ef,
        center=signature.center.tolist(),
        weights=signature.weights.ravel().tolist(),
        centroids=centroids.tolist(),
        reach=float(np.quantile(nearest, 0.4)),
        fixed_ef=137,
    )
    tuned = read_tuned_columns(conn)[0]
    policy, patterns = read_bank(conn, tuned)[k_class]
    optimizer = SearchOptimizer(ReasoningBank(patterns), policy)
    served = set()
    for query in clustered(60, 12, seed=2):
        probe = one(conn, probing, text(query), probe_ef)
        chosen = optimizer.optimize(np.array(probe), k)
        row = conn.execute(
            "SELECT access_path, ef_search, expected_recall, confidence, reason "
            "FROM vectuned.params('items', %s, %s)",
            (text(query), k),
        ).fetchone()
        assert row == (
            chosen.access_path,
            chosen.ef_search,
            chosen.expected_recall,
            chosen.confidence,
            chosen.reason,
        )
        assert policy.signature is not None
        signature = policy.signature.transform(np.array([probe]))[0]
        conn.execute("SELECT vectuned.search('items', %s, %s)", (text(query), k))
        recorded = conn.execute(
            "DELETE FROM vectuned.inbox RETURNING ef_search, signature::float4[], access_path, k"
        ).fetchone()
        assert recorded == (chosen.ef_search, signature.tolist(), "hnsw_adaptive", k)
        served.add(chosen.access_path)
    assert served == {"hnsw", "hnsw_adaptive"}


def test_params_without_a_bank_are_the_fixed_setting(conn: Connection) -> None:
    make(conn, clustered(300, 4, seed=1))
    column = enable(conn)
    publish(conn, column, [5.0], fixed_ef=90)
    conn.execute(raw("UPDATE vectuned.bank SET access_path = 'hnsw'"))
    policy, _ = read_bank(conn, read_tuned_columns(conn)[0])[10]
    for k in (4, 10):
        chosen = SearchOptimizer(ReasoningBank(Patterns.empty()), policy).optimize(np.arange(56.0), k)
        row = conn.execute(
            "SELECT access_path, ef_search, expected_recall, confidence, reason "
            "FROM vectuned.params('items', '[1,2,3,4]', %s)",
            (k,),
        ).fetchone()
        assert row == (
            chosen.access_path,
            chosen.ef_search,
            chosen.expected_recall,
            chosen.confidence,
            chosen.reason,
        )
    assert isinstance(policy, Policy)
