"""Measure what each part of vectuned.search adds to the bare search.

Each arm does everything that the previous one does and one thing more, on the same queries at the same
ef_search, in blocks with the arms in random order; a part is the difference of two arms, query by query. The
second list is for a search whose effort a probe decides. `by_query` tells whether that pays: the fixed
setting against effort by query, both proven for the same target and served by vectuned, whichever of them
vectuned would have chosen.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

import numpy as np
from psycopg import sql

from benchmarks.arena import Arena, open_arena
from benchmarks.contest import Answers, Arm, Unfiltered, describe, fixed_at, plain, race_arms, tuned
from benchmarks.sets import load
from vectuned.daemon.console import Console
from vectuned.daemon.measure.fixed_setting import choose_best_fixed, compute_fixed_curve
from vectuned.daemon.measure.intervals import (
    TIME_STATISTICS,
    bootstrap_interval,
    summarize_searches,
    time_ratios,
)
from vectuned.learning.model.arrays import Floats
from vectuned.learning.model.vectors import Vector
from vectuned.learning.policy import learner, savings, storage
from vectuned.learning.policy.replays import load_replays
from vectuned.learning.truth.recall import recall_at_k
from vectuned.sql.files import trusted

_PROBE: Final = 56
_SETTINGS: Final = """LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
    SET plan_cache_mode = force_generic_plan SET jit = off
    SET hnsw.iterative_scan = off SET hnsw.ef_search = 40 SET enable_sort = off"""
_HEAD: Final = """CREATE FUNCTION vectuned_bench.{name}(query {type}, k int, ef int)
RETURNS TABLE (id text, distance float8) {settings} AS $$
#variable_conflict use_variable
DECLARE
    found_ids text[]; found_distances float8[];"""
_RETURN: Final = """RETURN QUERY SELECT u.id, u.distance
    FROM unnest(found_ids, found_distances) AS u (id, distance);
END $$"""
_FUNCTION: Final = """{head}{declared}
BEGIN
    {first}
    PERFORM set_config('hnsw.ef_search', ef::text, true);
    SELECT array_agg(n.id), array_agg(n.distance) INTO found_ids, found_distances
    FROM (SELECT t.id::text AS id, {distance} AS distance FROM {relation} t WHERE t.embedding IS NOT NULL
          ORDER BY {distance} LIMIT k) n;
    {answer}"""
_BANK: Final = """SELECT b.access_path, b.index_no, b.ef_search INTO path, index_no, fixed
    FROM vectuned.bank b WHERE b.column_id = {id} AND b.k_class = vectuned._k_class(k);"""
_PROBED: Final = """{head} found_id text; found_distance float8; scan refcursor;
    total float8 := 0; last float8; decided float8;
    zeros float8[] := array_fill(0, ARRAY[8]); weights float8[] := array_fill(1, ARRAY[32]);
BEGIN
    PERFORM set_config('hnsw.iterative_scan', 'relaxed_order', true),
            set_config('hnsw.ef_search', '{probe}', true);
    OPEN scan NO SCROLL FOR SELECT t.id::text, {distance} FROM {relation} t
        WHERE t.embedding IS NOT NULL ORDER BY {distance};
    FOR i IN 1 .. k LOOP
        FETCH scan INTO found_id, found_distance;
        total := total + found_distance; found_ids[i] := found_id; found_distances[i] := found_distance;
    END LOOP;
    FETCH RELATIVE {probe} - k FROM scan INTO found_id, last;
    {decide}
    {go_on}
    CLOSE scan;
    {answer}"""
_DECIDE: Final = """SELECT d.effort INTO decided
    FROM vectuned._decide({id}, vectuned._k_class(k), vectuned._signature(
        found_distances[1], found_distances[k], last, last, last, last, total / k, zeros, weights), 1e9) d;"""
_GO_ON: Final = """PERFORM set_config('hnsw.ef_search', (ef - {probe})::text, true);
    FOR i IN 1 .. ef - {probe} LOOP
        FETCH scan INTO found_id, found_distance;
        EXIT WHEN NOT FOUND OR found_distance >= found_distances[k];
        found_ids := found_ids || found_id; found_distances := found_distances || found_distance;
    END LOOP;
    IF cardinality(found_ids) > k THEN
        SELECT array_agg(n.id ORDER BY n.distance), array_agg(n.distance ORDER BY n.distance)
        INTO found_ids, found_distances
        FROM (SELECT u.id, u.distance FROM unnest(found_ids, found_distances) AS u (id, distance)
              ORDER BY u.distance LIMIT k) n;
    END IF;"""


def measure(options: dict[str, Any], console: Console, dsn: str | None) -> dict[str, Any]:
    """Measure the parts of a search; `options` are the keys of the definition."""
    data, target = load(options["set"], console, options.get("rows")), float(options["target"])
    with open_arena(data, int(options.get("k", 10)), target, console, dsn) as arena:
        contest = Unfiltered(arena, options)
        arena.record(contest.training)
        by_query = _by_query(arena, contest, target)
        served = arena.learn(target, sample_rate=0.0)
        replayed = load_replays(arena.conn, arena.tuned, arena.tuned.indexes[0]).sample(arena.k)
        ef = max(choose_best_fixed(compute_fixed_curve(replayed.recall), target), _PROBE + 10)
        static, probed = _race(arena, contest, ef)
        return {
            **describe(arena),
            "training": len(contest.training),
            "heldout": len(contest.heldout),
            "seed": contest.seed,
            "target": target,
            "ef_search": ef,
            "probe_ef": _PROBE,
            "served": served.reason,
            "cases": {
                "by a fixed setting": {"parts": _parts(static, contest)},
                "by a probe": {"parts": _parts(probed, contest)},
            },
            "by_query": by_query,
        }


def _race(arena: Arena, contest: Unfiltered, ef: int) -> tuple[Answers, Answers]:
    """Time every arm: first the steps of a search with a fixed setting, then those of one with a probe."""
    column, k = arena.tuned.column, arena.k
    _make(arena)
    function = "SELECT id, distance FROM vectuned_bench.{}($1, {}, {})"

    def own(name: str) -> Arm:
        return Arm(trusted(function.format(name, k, ef)), "")

    generated = trusted(f"SELECT id, distance FROM vectuned._search_{column.id}($1, {k})")
    serving = (
        "UPDATE vectuned.bank SET access_path = 'hnsw', ef_search = %s WHERE column_id = %s AND k_class = %s"
    )
    arena.conn.execute(serving, (ef, column.id, k))
    static = {
        "bare search": Arm(plain(column, k), "", fixed_at(ef)),
        "a function around it": own("plain_function"),
        "what the bank says": own("with_bank"),
        "checks, index, identity": Arm(generated, ""),
        "finding the function": Arm(tuned(k), ""),
    }
    probed = {
        "bare search": Arm(plain(column, k), "", fixed_at(ef)),
        "a function around it": own("plain_function"),
        "probe, and going on": own("probed"),
        "signature and lookup": own("decided"),
    }
    first = race_arms(arena, static, contest.heldout, contest.truth, contest.seed, "by a fixed setting")
    second = race_arms(arena, probed, contest.heldout, contest.truth, contest.seed, "by a probe")
    # The generated function decides about recording, so it is generated again and compared only with itself.
    arena.learn(arena.tuned.target_recall, sample_rate=1.0)
    arena.conn.execute(serving, (ef, column.id, k))
    unrecorded = Arm(tuned(k), "", {"vectuned.record": "off"})
    both = {"unrecorded": unrecorded, "recorded": Arm(tuned(k), "", {"vectuned.record": "on"})}
    third = race_arms(arena, both, contest.heldout, contest.truth, contest.seed, "recorded")
    offset = first["finding the function"][0].millis - third["unrecorded"][0].millis
    recorded, truth = third["recorded"]
    first["recording, of those recorded"] = replace(recorded, millis=recorded.millis + offset), truth
    return first, second


def _make(arena: Arena) -> None:
    column = arena.tuned.column
    distance = column.distance(sql.SQL("query")).as_string(arena.conn)
    known = {
        "type": f"{column.extension_schema}.vector",
        "distance": distance,
        "probe": _PROBE,
        "relation": column.relation.as_string(arena.conn),
        "id": column.id,
    }
    bank, decide, go_on = (text.format(**known) for text in (_BANK, _DECIDE, _GO_ON))
    for name, body, parts in (
        ("plain_function", _FUNCTION, {"declared": "", "first": ""}),
        ("with_bank", _FUNCTION, {"declared": " path text; index_no int; fixed int;", "first": bank}),
        ("probed", _PROBED, {"decide": "", "go_on": go_on}),
        ("decided", _PROBED, {"decide": decide, "go_on": go_on}),
    ):
        head = _HEAD.format(name=name, settings=_SETTINGS, **known)
        arena.conn.execute(trusted(body.format(head=head, answer=_RETURN, **known, **parts)))


def _parts(found: Answers, contest: Unfiltered) -> dict[str, dict[str, Any]]:
    """Return each arm's figures and its additional time over the previous arm."""
    parts: dict[str, dict[str, Any]] = {}
    before = None
    for name, (seen, truth) in found.items():
        recall = recall_at_k(seen.distances, truth, contest.arena.k)
        parts[name] = summarize_searches(seen.millis, recall, contest.seed)
        if before is not None:
            parts[name]["added"] = _differences(seen.millis, before, contest.seed)
        before = seen.millis
    return parts


def _differences(millis: Floats, other: Floats, seed: int) -> dict[str, dict[str, float]]:
    """Return mean and median, with bounds, of the additional milliseconds of n searches over another arm."""
    added = millis - other
    return {name: bootstrap_interval(TIME_STATISTICS[name], (added,), seed) for name in ("mean_ms", "p50_ms")}


def _by_query(arena: Arena, contest: Unfiltered, target: float) -> dict[str, Any]:
    """Serve effort by query, whether it pays or not, and compare it with the fixed setting."""
    arena.learn(target)
    forced = replace(arena.worker.options, step_aside=-1.0)
    served = learner.learn(arena.conn, arena.tuned, forced).served[arena.k].policy
    if served.signature is None:
        return {"offered": False, "reason": served.reason}
    fixed = replace(served, signature=None)
    with arena.conn.transaction(force_rollback=True):
        spent = savings.measure_times(arena.conn, arena.tuned, [fixed, served], contest.heldout, contest.seed)
        recalls = [_recall(arena, contest, policy) for policy in (fixed, served)]
    # Resamples the sums of blocks; the ratio of the means is the ratio of the sums.
    ratio = time_ratios(spent[1], spent[0], contest.seed)["mean_ms"]
    return {
        "offered": True,
        "reason": served.reason,
        "fixed_ef": served.fixed_ef,
        "ms": [round(float(each.sum()) / len(contest.heldout) * 1000, 4) for each in spent],
        "recall": [round(float(each.mean()), 4) for each in recalls],
        "by_query_over_fixed": ratio,
    }


def _recall(arena: Arena, contest: Unfiltered, policy: Any) -> Floats:
    storage.set_served_policy(arena.conn, arena.tuned, policy)
    found = np.full((len(contest.heldout), arena.k), np.inf)
    for i, vector in enumerate(contest.heldout):
        rows = arena.conn.execute(
            "SELECT distance FROM vectuned.search('vectuned_bench.vectors', %s, %s)",
            (Vector(vector), arena.k),
        ).fetchall()
        found[i, : len(rows)] = [row[0] for row in rows]
    return recall_at_k(found, contest.truth, arena.k)
