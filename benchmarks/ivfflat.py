"""Measure whether IVFFlat searches should choose probes by query, or use one number of probes for all.

At a target of 0.95 they should choose by query; at 0.98 the question is open. The distances seen by a first
search with one probe, the sorted distances to the lists' centroids, or both make the database 1.18 to 1.26
times as fast at equal mean recall, with a longer p99; clusters of queries (0.98 to 1.01) and searching all
lists within a factor of the nearest's distance (0.68 to 0.85) do not pay. End to end the first search gave
1.26 (at least 1.19) at 0.95 and 1.085 (at least 1.03) at 0.98, where 1 / 0.92 = 1.087 was wanted, on a
machine busy with other work.

Run as `python -m benchmarks.ivfflat [--dsn ...]`; without a DSN it starts an embedded server in a temporary
folder. WordNet's glosses are the rows, its usage examples the queries. Prints one JSON document, and a table
to standard error. The figure to watch: `saving`, the mean time of the best fixed probes over that of the
policy, end to end: at least 1.087.

Held-out queries are searched at every rung, in shuffled blocks, each charged its own time. pgvector does not
expose its centroids, but a scan with one probe, ordered by a row's own vector, returns the members of that
row's list: their means stand for the centroids, and training curves follow from exact answers without a
search (`training_off_by`: how far the mean of such curves is from the measured one). pgvector draws its
centroids at random in each build, so that two runs differ although all else is seeded.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql
from sklearn.cluster import KMeans
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.linear_model import RidgeCV

from benchmarks.scratch import scratch_database
from vectuned.config.errors import UsageError
from vectuned.daemon.measure.arms import BLOCK, race
from vectuned.learning.model.arrays import Floats, Ints, Singles
from vectuned.learning.model.column import VectorColumn
from vectuned.learning.model.ladder import HIGHEST_POSITION, interpolate
from vectuned.learning.patterns import signature
from vectuned.learning.patterns.distillation import distil
from vectuned.learning.truth.recall import recall_at_k
from vectuned.learning.truth.truth import Truth, exact_neighbors
from vectuned.reasoning.embedding.embedder import StaticEmbedder
from vectuned.reasoning.wordnet.corpus import load_wordnet

Connection = psycopg.Connection[Any]

PROBES: Final = (1, 2, 3, 4, 6, 8, 13, 20, 30, 46, 71, 109, 167, 256)  # as many rungs as the ladder has
PRICED: Final = np.array(PROBES, dtype=np.float64)
RUNG: Final = np.arange(len(PROBES), dtype=np.float64)
K: Final = 10
SEEN: Final = 40  # rows asked of a first search with one probe
PROFILE_RANKS: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
SEEN_RANKS: Final = (1, 2, 3, 5, 10, 15, 20, 30, 40)
BINS: Final = 128
TABLE: Final = "vectuned_ivfflat"
INDEX: Final = "vectuned_ivfflat_lists"
COLUMN: Final = VectorColumn(0, "public", TABLE, "embedding", "cosine", "vector", 256, ("id",), "public")
_WAYS: Final = ("first search", "first search and profile")

# The plan, made once, can only be the index's; `_only_index_scans` sees that it was.
_SETTINGS = """LANGUAGE plpgsql SET enable_seqscan = off SET enable_sort = off SET jit = off
    SET plan_cache_mode = force_generic_plan SET ivfflat.probes = 1"""
_NEAREST = f"ARRAY(SELECT embedding <=> q FROM {TABLE} ORDER BY embedding <=> q LIMIT {{}})"
_FIXED = f"""CREATE OR REPLACE FUNCTION pg_temp.fixed(
    q vector, probes int, k int, OUT ms float8, OUT nearest float8[]) {_SETTINGS} AS $$
DECLARE
    started timestamptz;
BEGIN
    PERFORM set_config('ivfflat.probes', probes::text, true);
    started := clock_timestamp();
    nearest := {_NEAREST.format("k")};
    ms := extract(epoch FROM clock_timestamp() - started) * 1000;
END $$"""
_ADAPTIVE = f"""CREATE OR REPLACE FUNCTION pg_temp.{{}}(q vector, OUT nearest float8[]) {_SETTINGS} AS $$
DECLARE
    seen float8[] := {_NEAREST.format(SEEN)};
    profile float8[]{{}};
    probes int := ({{}}::int[])[width_bucket({{}}, {{}}::float8[]) + 1];
BEGIN
    PERFORM set_config('ivfflat.probes', probes::text, true);
    nearest := {_NEAREST.format(K)};
END $$"""
_PROFILE = f" := ARRAY(SELECT centroid <=> q FROM {TABLE}_centroid ORDER BY 1)"


@dataclass(frozen=True)
class Searches:
    """Measurements of n queries.

    `features` (n, f) by name; `first_ms` (n,), what a first search took; `recall` and `ms` (n, rungs).
    """

    features: dict[str, Floats]
    first_ms: Floats
    recall: Floats
    ms: Floats


@dataclass(frozen=True)
class Line:
    """A linear score of features, and the recall curves (BINS, rungs) that searches of such a score had."""

    center: Floats
    weights: Floats
    thresholds: Floats
    curves: Floats

    def bins(self, features: Floats) -> Ints:
        """Return the bin (n,) that the score of `features` (n, f) falls into."""
        return np.searchsorted(self.thresholds, (features - self.center) @ self.weights, "right")


def main() -> None:
    """Run the benchmark and print its result."""
    options = _parser().parse_args()
    started = time.perf_counter()
    with (
        scratch_database(options.dsn) as dsn,
        psycopg.connect(dsn, autocommit=True, prepare_threshold=1) as conn,
    ):
        conn.execute("CREATE EXTENSION IF NOT EXISTS vector")
        register_vector(conn)
        try:
            result = measure(conn, options)
        finally:
            conn.execute(f"DROP TABLE IF EXISTS {TABLE}, {TABLE}_centroid")
    result["seconds"] = round(time.perf_counter() - started)
    for part in ("policies", "end_to_end"):
        for target, measured in result[part].items():
            for name, figures in measured.items():
                numbers = "  ".join(f"{key} {value:g}" for key, value in figures.items())
                print(f"{part:10s} {target}  {name:31s} {numbers}", file=sys.stderr)
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")


def measure(conn: Connection, options: argparse.Namespace) -> dict[str, Any]:
    """Load, search, learn, and compare in the database and end to end."""
    rng = np.random.default_rng(options.seed)
    embedder, corpus = StaticEmbedder(), load_wordnet()
    rows, asked = embedder.encode(corpus.texts()), corpus.queries()
    drawn = rng.permutation(len(asked))[: options.train + options.held_out]
    vectors = embedder.encode([asked[i].text for i in drawn])
    _load(conn, rows, options.lists)
    list_of = lists(conn, rows)
    centroids = _means(rows, list_of)
    with conn.cursor() as cursor:
        cursor.executemany(f"INSERT INTO {TABLE}_centroid VALUES (%s)", [(c,) for c in centroids])
    conn.execute(f"VACUUM ANALYZE {TABLE}_centroid")
    sample = rows[rng.permutation(len(rows))[:20_000]]
    coarse = _means(sample, KMeans(64, n_init=1, random_state=options.seed).fit(sample).labels_)
    truth = exact_neighbors(conn, COLUMN, vectors, K)
    seen, first_ms = _search(conn, vectors, 1, SEEN)
    if np.isinf(seen[:, 0]).any():
        raise UsageError("A search with one probe found an empty list: give fewer --lists.")
    found = np.isfinite(seen)  # short lists: the last distance stands for those that are missing
    seen = np.where(found, seen, np.where(found, seen, 0.0).max(axis=1, keepdims=True))
    profile = np.sort(1.0 - vectors @ centroids.T, axis=1).astype(np.float64)
    look, look_first = profile[:, np.array(PROFILE_RANKS) - 1], seen[:, np.array(SEEN_RANKS) - 1]
    features = {
        "query": vectors.astype(np.float64),
        "whole profile": profile,
        "whole first search": seen,
        "profile": look,
        "64 centroids": np.sort(1.0 - vectors @ coarse.T, axis=1).astype(np.float64),
        "first search": look_first,
        "first search and profile": np.column_stack([look_first, look]),
    }
    expected = curves_from_lists(conn, truth, vectors, list_of, centroids)
    train, held = slice(0, options.train), slice(options.train, None)
    answers = truth.take(np.arange(options.train, len(vectors)))
    recall, ms = curves(conn, vectors[held], answers, rng)
    past = Searches({n: f[train] for n, f in features.items()}, first_ms[train], expected[train], np.empty(0))
    new = Searches({n: f[held] for n, f in features.items()}, first_ms[held], recall, ms)
    predicted = predictions(past, new, options.seed)
    return {
        "machine": {
            "cores": os.cpu_count(),
            "platform": platform.platform(),
            "postgresql": conn.info.server_version,
        },
        "table": {"rows": len(rows), "dimensions": COLUMN.dimensions, "lists": options.lists},
        "queries": {"train": options.train, "held_out": options.held_out},
        "rungs": {
            "probes": PROBES,
            "recall": recall.mean(axis=0).round(4).tolist(),
            "ms": ms.mean(axis=0).round(3).tolist(),
            "training_off_by": (expected[held].mean(axis=0) - recall.mean(axis=0)).round(4).tolist(),
        },
        "policies": {str(t): policies(predicted, new, t) for t in options.target},
        "end_to_end": {str(t): end_to_end(conn, past, new, answers, t, rng) for t in options.target},
    }


def lists(conn: Connection, rows: Singles) -> Ints:
    """Return the list of the index that contains each row: int64 (rows,)."""
    found, count = np.full(len(rows), -1, dtype=np.int64), 0
    conn.execute("SET enable_seqscan = off; SET enable_sort = off; SET ivfflat.probes = 1")
    while (unknown := np.flatnonzero(found < 0)).size:
        answer = conn.execute(f"SELECT id FROM {TABLE} ORDER BY embedding <=> %s", (rows[unknown[0]],))
        members = np.array(answer.fetchall(), dtype=np.int64)[:, 0]
        if unknown[0] not in members or (found[members] >= 0).any():
            raise RuntimeError("a search by a row's own vector did not return its list")
        found[members] = count
        count += 1
    conn.execute("RESET ALL")
    return found


def curves_from_lists(
    conn: Connection, truth: Truth, vectors: Singles, list_of: Ints, centroids: Singles
) -> Floats:
    """Derive the recall (n, rungs) of each query from the lists of its true neighbours, without searching."""
    number = "(ctid::text::point)[0]::int8 << 16 | (ctid::text::point)[1]::int8"
    ctids = np.array(conn.execute(f"SELECT {number} FROM {TABLE} ORDER BY id").fetchall())[:, 0]
    order = np.argsort(ctids)
    holding = list_of[order[np.searchsorted(ctids[order], truth.ctids)]]
    rank = np.argsort(np.argsort(-(vectors @ centroids.T), axis=1), axis=1)
    met = np.take_along_axis(rank, holding, axis=1)[:, :, None] < np.array(PROBES)
    return np.asarray(met.mean(axis=1))


def curves(
    conn: Connection, vectors: Singles, truth: Truth, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Search at every rung: recall and milliseconds in the database, (n, rungs) each."""
    found, ms = np.empty((len(PROBES), len(vectors), K)), np.empty((len(vectors), len(PROBES)))
    with _only_index_scans(conn, ms.size):
        for first in range(0, len(vectors), BLOCK):
            block = slice(first, first + BLOCK)
            for rung in rng.permutation(len(PROBES)):
                found[rung, block], ms[block, rung] = _search(conn, vectors[block], PROBES[rung], K)
    return np.column_stack([recall_at_k(each, truth, K) for each in found]), ms


def predictions(past: Searches, new: Searches, seed: int) -> dict[str, tuple[Floats, Floats]]:
    """Learn from past searches; return each policy's expected recall (n, rungs) and own cost in ms (n,)."""
    clusters = KMeans(64, n_init=1, random_state=seed).fit(past.features["query"])
    member = np.eye(64)[clusters.labels_]
    means = (member.T @ past.recall + 10 * past.recall.mean(axis=0)) / (member.sum(axis=0)[:, None] + 10)
    free = np.zeros(len(new.ms))
    result = {"query clusters": (means[clusters.predict(new.features["query"])], free)}
    for name in ("profile", "64 centroids", *_WAYS):
        seen, fresh, own = past.features[name], new.features[name], new.first_ms if name in _WAYS else free
        forest = ExtraTreesRegressor(200, min_samples_leaf=10, max_features=0.5, n_jobs=2, random_state=seed)
        line = fit_line(seen, past.recall)
        result[f"{name}, trees"] = (forest.fit(seen, past.recall).predict(fresh), own)
        result[f"{name}, line"] = (line.curves[line.bins(fresh)], own)
        if (whole := f"whole {name}") in past.features:
            result[f"{name}, bank"] = (_bank(past.features[whole], new.features[whole], past, seed), own)
    return result


def fit_line(features: Floats, recall: Floats) -> Line:
    """Fit a score of `features` (n, f) to the missed recall of all rungs, and recall curves by score."""
    center, scale = features.mean(axis=0), features.std(axis=0)
    model = RidgeCV(np.logspace(-3, 3, 7)).fit((features - center) / scale, (1.0 - recall).sum(axis=1))
    weights: Floats = model.coef_ / scale
    scores = (features - center) @ weights
    thresholds = np.quantile(scores, np.arange(1, BINS) / BINS)
    middles = np.quantile(scores, (np.arange(BINS) + 0.5) / BINS)
    nearness = np.exp(-(((middles[:, None] - scores) / (0.15 * scores.std())) ** 2) / 2)
    return Line(center, weights, thresholds, nearness @ recall / nearness.sum(axis=1, keepdims=True))


def _bank(seen: Floats, fresh: Floats, past: Searches, seed: int) -> Floats:
    """Predict the curves of the three nearest patterns of vectuned, by its signature."""
    fitted = signature.fit_signature(seen, K, seen.shape[1], past.recall)
    cost = np.broadcast_to(PRICED, past.recall.shape)
    patterns = distil(fitted.transform(seen), past.recall, cost, seed=seed)
    distance = np.linalg.norm(fitted.transform(fresh)[:, None] - patterns.centroids, axis=2)
    nearest = np.argsort(distance, axis=1)[:, :3]
    weight = 1.0 / (np.take_along_axis(distance, nearest, axis=1)[:, :, None] + 8.0)
    return np.asarray((patterns.recall[nearest] * weight).sum(axis=1) / weight.sum(axis=1))


def choose(expected: Floats, cost: Floats, generosity: float, highest: float = HIGHEST_POSITION) -> Floats:
    """Choose each query's rung, fractions included, with the highest recall - exp(-generosity) * cost."""
    grid = np.arange(0.0, highest + 1e-9, 0.125)
    spent = interpolate(np.broadcast_to(cost, expected.shape), grid)
    return np.asarray(grid[np.argmax(interpolate(expected, grid) - np.exp(-generosity) * spent, axis=1)])


def _by_bin(curves: Floats, bins: Ints, generosity: float) -> Floats:
    return np.asarray(choose(curves, PRICED, generosity)[bins])


def policies(
    predicted: dict[str, tuple[Floats, Floats]], new: Searches, target: float
) -> dict[str, dict[str, float]]:
    """Compare policies on held-out queries at the same mean recall, each query charged its own time."""
    at = float(np.interp(target, new.recall.mean(axis=0), RUNG))
    fixed = interpolate(new.ms, [at])[:, 0]
    probes = float(np.interp(at, RUNG, PRICED))
    result = {"fixed": _times(fixed) | {"probes": round(probes)}}

    def add(name: str, own: Floats, efforts_of: Callable[[float], Floats]) -> None:
        efforts = efforts_of(_solve(efforts_of, new.recall, target))
        ms = own + interpolate(new.ms, efforts[:, None])[:, 0]
        result[name] = {"saving": round(float(fixed.mean() / ms.mean()), 3), **_times(ms)}

    def within_factor(generosity: float) -> Floats:
        profile = new.features["whole profile"]
        near = (profile <= profile[:, :1] * (1.0 + np.exp(generosity))).sum(axis=1)
        return np.asarray(np.interp(near, PRICED, RUNG))

    # Chen et al. (2021), "SPANN", NeurIPS 34: search the lists within a factor of the nearest's distance.
    add("factor of the nearest", np.zeros(len(fixed)), within_factor)
    for name, (expected, own) in predicted.items():
        add(name, own, partial(choose, expected, PRICED))
    expected, own = predicted[f"{_WAYS[1]}, line"]
    cap = float(np.interp(1.5 * probes, PRICED, RUNG))
    add("the same, <= 1.5 x fixed probes", own, partial(choose, expected, PRICED, highest=cap))
    add("oracle", np.zeros(len(fixed)), partial(choose, new.recall, new.ms))
    return result


def _solve(efforts_of: Callable[[float], Floats], recall: Floats, target: float) -> float:
    """Find by bisection the least generosity at which the mean of recall (n, rungs) reaches the target."""
    low, high = -12.0, 20.0
    for _ in range(30):
        middle = (low + high) / 2
        enough = interpolate(recall, efforts_of(middle)[:, None]).mean() >= target
        low, high = (low, middle) if enough else (middle, high)
    return high


def _times(ms: Floats) -> dict[str, float]:
    return {"mean_ms": round(float(ms.mean()), 2), "p99_ms": round(float(np.quantile(ms, 0.99)), 2)}


def end_to_end(
    conn: Connection, past: Searches, new: Searches, truth: Truth, target: float, rng: np.random.Generator
) -> dict[str, Any]:
    """Compare functions in the database as a client sees them, on the second half of the held-out queries.

    The first half sets the prices. Two fixed settings, a tenth below and above, give the cost of fixed probes
    at exactly the recall of an adaptive function: `saving`, and its 95 % bound (bootstrap).
    """
    half = len(new.ms) // 2
    fixed = float(np.interp(np.interp(target, new.recall[:half].mean(axis=0), RUNG), RUNG, PRICED))
    calls = {f"{p} probes": f"fixed(%s, {p}, {K})" for p in (round(fixed * 0.9), round(fixed * 1.1))}
    for name in _WAYS:
        line = fit_line(past.features[name], past.recall)
        bins = line.bins(new.features[name][:half])
        generosity = _solve(partial(_by_bin, line.curves, bins), new.recall[:half], target)
        calls[name] = _serve(conn, name, line, choose(line.curves, PRICED, generosity))
    vectors = new.features["query"][half : 2 * half].astype(np.float32)
    _race(conn, list(calls.values()), vectors[:BLOCK], rng)  # warms up
    with _only_index_scans(conn, half * (2 + 2 * len(_WAYS))):
        found, ms = _race(conn, list(calls.values()), vectors, rng)
    answers = truth.take(np.arange(half, 2 * half))
    recall = np.array([recall_at_k(each, answers, K) for each in found])
    result: dict[str, Any] = {}
    for arm, name in enumerate(calls):
        result[name] = {"recall": round(float(recall[arm].mean()), 4), **_times(ms[arm])}
        if name in _WAYS:
            drawn = [_saving(ms, recall, arm, rng.integers(0, half, half)) for _ in range(2000)]
            result[name]["saving"] = round(_saving(ms, recall, arm, np.arange(half)), 3)
            result[name]["at_least"] = round(float(np.quantile(drawn, 0.05)), 3)
    return result


def _serve(conn: Connection, name: str, line: Line, efforts: Floats) -> str:
    """Create the function that uses the probes of a query's bin of the score; return a call of it."""
    terms = [f"seen[least({rank}, cardinality(seen))]" for rank in SEEN_RANKS] + [
        f"profile[{rank}]" for rank in PROFILE_RANKS
    ]
    profiled = len(line.weights) == len(terms)
    weighed = zip(line.weights.tolist(), terms[: len(line.weights)], line.center.tolist(), strict=True)
    function = name.replace(" ", "_")
    statement = sql.SQL(_ADAPTIVE).format(
        sql.Identifier(function),
        sql.SQL(_PROFILE if profiled else ""),
        sql.Literal(np.interp(efforts, RUNG, PRICED).round().astype(int).tolist()),
        sql.SQL(" + ".join(f"({w!r}) * ({term} - ({c!r}))" for w, term, c in weighed)),
        sql.Literal(line.thresholds.tolist()),
    )
    conn.execute(statement)
    return f"{function}(%s)"


def _race(
    conn: Connection, calls: list[str], vectors: Singles, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Call functions in shuffled blocks; return distances (calls, n, K) and client ms (calls, n)."""

    def search_function(call: str) -> Callable[[Singles], list[float]]:
        statement = f"SELECT nearest FROM pg_temp.{call}".encode()
        return lambda vector: list(conn.execute(statement, (vector,), binary=True).fetchall()[0][0])

    searches = [(vector,) for vector in vectors]
    seen = race({call: search_function(call) for call in calls}, searches, K, seed=rng, warm_up=0).values()
    return np.array([each.distances for each in seen]), np.array([each.millis for each in seen])


def _saving(ms: Floats, recall: Floats, arm: int, rows: Ints) -> float:
    """Divide the cost of fixed probes at an arm's recall by the arm's cost; arms 0 and 1 are fixed.

    Between those two the logarithm of the missed recall is taken to be linear in the cost.
    """
    cost, missed = ms[:, rows].mean(axis=1), np.log(1.0 - recall[:, rows].mean(axis=1))
    share = (missed[arm] - missed[0]) / (missed[1] - missed[0])
    return float((cost[0] + share * (cost[1] - cost[0])) / cost[arm])


def _search(conn: Connection, vectors: Singles, probes: int, k: int) -> tuple[Floats, Floats]:
    """Search one by one: distances (n, k), padded with +inf, and milliseconds in the database (n,)."""
    found, ms = np.full((len(vectors), k), np.inf), np.empty(len(vectors))
    statement = "SELECT ms, nearest FROM pg_temp.fixed(%s, %s, %s)"
    for i, vector in enumerate(vectors):
        ((ms[i], nearest),) = conn.execute(statement, (vector, probes, k), binary=True).fetchall()
        found[i, : len(nearest)] = nearest
    return found, ms


def _load(conn: Connection, rows: Singles, count: int) -> None:
    """Create the table and its only index, and check that a search uses it."""
    conn.execute(f"DROP TABLE IF EXISTS {TABLE}, {TABLE}_centroid")
    conn.execute(f"CREATE TABLE {TABLE} (id int, embedding vector({COLUMN.dimensions}))")
    conn.execute(f"CREATE TABLE {TABLE}_centroid (centroid vector({COLUMN.dimensions}))")
    with conn.cursor() as cursor, cursor.copy(f"COPY {TABLE} FROM STDIN (FORMAT BINARY)") as copy:
        copy.set_types(["int4", "vector"])
        for number, vector in enumerate(rows):
            copy.write_row((number, vector))
    conn.execute(
        f"CREATE INDEX {INDEX} ON {TABLE} USING ivfflat (embedding vector_cosine_ops) WITH (lists = {count})"
    )
    conn.execute(f"VACUUM ANALYZE {TABLE}")
    conn.execute(_FIXED)
    conn.execute(f"SET enable_seqscan = off; SET ivfflat.probes = {PROBES[-1]}")
    one = f"(SELECT embedding FROM {TABLE} LIMIT 1)"
    plan = conn.execute(f"EXPLAIN SELECT id FROM {TABLE} ORDER BY embedding <=> {one} LIMIT {K}").fetchall()
    conn.execute("RESET ALL")
    if not any(f"Index Scan using {INDEX}" in line for (line,) in plan):
        raise RuntimeError("the planner does not use the index")


@contextmanager
def _only_index_scans(conn: Connection, searches: int) -> Iterator[None]:
    """Check that the index was scanned exactly once per search."""
    count = f"SELECT pg_stat_get_numscans('{INDEX}'::regclass)"
    flush = "SELECT pg_stat_force_next_flush()"
    conn.execute(flush)
    before = conn.execute(count).fetchall()[0][0]
    yield
    conn.execute(flush)
    scans = conn.execute(count).fetchall()[0][0] - before
    if scans != searches:
        raise RuntimeError(f"{searches} searches scanned the index {scans} times")


def _means(rows: Singles, labels: Ints) -> Singles:
    """Return the mean directions of groups of rows: float32 (groups, d), of length 1."""
    sums = np.zeros((int(labels.max()) + 1, rows.shape[1]))
    np.add.at(sums, labels, rows)
    return np.asarray(sums / np.linalg.norm(sums, axis=1, keepdims=True), dtype=np.float32)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dsn", help="a database in which pgvector can be used (default: an embedded server)"
    )
    parser.add_argument("--lists", type=int, default=343)
    parser.add_argument("--train", type=int, default=4000)
    parser.add_argument("--held-out", type=int, default=2000)
    parser.add_argument("--target", type=float, nargs="+", default=[0.95, 0.98])
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    main()
