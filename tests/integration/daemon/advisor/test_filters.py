"""`vectuned advise --filters` on a real table: one answer within a budget, what it costs, and --apply."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.integration.table_helpers import (
    Connection,
    build,
    clustered,
    copied,
    enable,
    make,
    one,
    prepared,
    raw,
    search,
    search_filtered,
    text,
)

from vectuned.config.settings import load_settings
from vectuned.daemon.advisor.filters import FilterBudget, FilterStatement, choose_within
from vectuned.daemon.cli.main import main
from vectuned.daemon.server.embedded import EmbeddedServer
from vectuned.daemon.work.worker import Worker

ROWS, KINDS = 9000, 12
MIB = 1 << 20


def statement(subject: str, gain: float | None, *, size: int = MIB, insert: float = 0.1) -> FilterStatement:
    kind = "filter index" if gain is None else "index"
    return FilterStatement(kind, subject, f"CREATE {subject}", "", size, 1.0, insert, gain, 100)


def names(statements: list[FilterStatement]) -> list[str]:
    return [each.subject for each in statements]


def test_choose_within_takes_trees_first_then_what_saves_most() -> None:
    found = [statement("b", 2.0), statement("tree", None), statement("a", 3.0), statement("small", 0.1)]
    taken, left_out = choose_within(found, FilterBudget(100 * MIB), 1.0)
    assert names(taken) == ["tree", "a", "b"]
    ((each, why),) = left_out
    assert each.subject == "small"
    assert "a small part of the best" in why


@pytest.mark.parametrize(
    ("budget", "why"),
    [
        (FilterBudget(100 * MIB, statements=1), "1 statements are taken already"),
        (FilterBudget(MIB), "would exceed the 1 MB of disk"),
        (FilterBudget(100 * MIB, insert_share=0.15), "would add more than 15% to the time of an insert"),
    ],
)
def test_choose_within_leaves_out_what_exceeds_a_budget(budget: FilterBudget, why: str) -> None:
    taken, left_out = choose_within([statement("a", 3.0), statement("b", 2.0)], budget, 1.0)
    assert names(taken) == ["a"]
    assert [(each.subject, reason) for each, reason in left_out] == [("b", why)]


def test_choose_within_leaves_room_to_what_is_smaller() -> None:
    large = replace(statement("large", 3.0), bytes=90 * MIB)
    taken, _ = choose_within([large, statement("a", 2.0)], FilterBudget(10 * MIB), 1.0)
    assert names(taken) == ["a"]


@pytest.fixture(scope="module")
def template_filtered(server: EmbeddedServer, template: str) -> str:
    """A tuned table whose recorded searches all filter by one of a few kinds, and what was learned."""
    name = "template_filtered"
    with prepared(server.dsn, template, name) as conn:
        vectors = clustered(ROWS, 12, seed=1)
        make(conn, vectors, index=False)
        conn.execute("ALTER TABLE items ADD COLUMN kind int")
        conn.execute(raw(f"UPDATE items SET kind = least(id % {KINDS}, 3)"))
        conn.execute("VACUUM ANALYZE items")
        build(conn)
        enable(conn, target_recall=0.9, sample_rate=1.0, min_samples=50)
        rng = np.random.default_rng(2)
        for number in range(240):
            query = vectors[int(rng.integers(ROWS))] + rng.normal(scale=0.3, size=12).astype(np.float32)
            if number % 3:
                search_filtered(conn, query, 10, {"kind": number % 4})
            else:
                search(conn, query)
        worker = Worker(conn, load_settings(None, {}, {}))
        worker.drain()
        worker.replay_all()
        worker.learn_all()
    return name


@pytest.fixture
def filtered(server: EmbeddedServer, template_filtered: str) -> Iterator[Connection]:
    """A connection to a copy of the table with the filtered searches."""
    with copied(server.dsn, template_filtered, "filtered") as conn:
        yield conn


def advise(database: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["advise", "items", "--filters", *arguments, "--json", "-q", "--dsn", database]) == 0
    return json.loads(capsys.readouterr().out)


def test_advise_filters_names_statements_with_their_costs_and_applies_them(
    filtered: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    report = advise(filtered.info.dsn, capsys)
    tree = report["statements"][0]
    assert (tree["kind"], tree["subject"]) == ("filter index", "kind")
    assert report["insert_ms"] > 0
    assert len(report["statements"]) <= 6
    for each in report["statements"]:
        assert each["bytes"] > 0
        if each["kind"] == "index":
            assert each["gain_ms"] > 0
            assert each["build_seconds"] > 0
            assert each["insert_ms"] > 0
    assert report["applied"] is None
    before = one(filtered, "SELECT count(*) FROM pg_index WHERE indrelid = 'items'::regclass")
    report = advise(filtered.info.dsn, capsys, "--apply", "--max-statements", "1")
    (index,) = report["applied"]
    assert one(filtered, "SELECT indisvalid FROM pg_index WHERE indexrelid = %s::regclass", index)
    assert one(filtered, "SELECT count(*) FROM pg_index WHERE indrelid = 'items'::regclass") == before + 1
    # What exists is not advised again.
    assert "kind" not in {each["subject"] for each in advise(filtered.info.dsn, capsys)["statements"]}
    assert one(filtered, "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'vectuned_advise%'") == 0


def test_advise_filters_names_partial_indexes_that_no_search_needs(
    filtered: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    filtered.execute(
        "CREATE INDEX unneeded ON items USING hnsw (embedding vector_cosine_ops) WHERE kind = 77"
    )
    filtered.execute("CREATE INDEX needed ON items USING hnsw (embedding vector_cosine_ops) WHERE kind = 3")
    filtered.execute("SELECT vectuned.refresh('items')")
    (found,) = advise(filtered.info.dsn, capsys)["drop"]
    assert found["statement"] == "DROP INDEX CONCURRENTLY unneeded"
    assert "was asked 0 times" in found["why"]


def test_advise_filters_prints_what_it_found(
    filtered: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", "items", "--filters", "-q", "--dsn", filtered.info.dsn]) == 0
    printed = capsys.readouterr().out
    assert "B-tree" in printed
    assert "An insert takes" in printed
    assert "CREATE INDEX CONCURRENTLY ON public.items (kind);" in printed


def test_advise_filters_names_json_keys_of_statements(
    filtered: Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    condition = "((t.meta ->> ''source''::text) = ''web''::text)"
    filtered.execute(
        raw(
            "INSERT INTO vectuned.trajectory (query_id, column_id, recorded_at, k, access_path, result_ids, "
            "distances, latency_ms, source, condition, shape) SELECT gen_random_uuid(), id, now(), 10, "
            f"'planner', '{{}}', '{{}}', 1, 'log', '{condition}', '((t.meta ->> $1) = $2)' "
            "FROM vectuned.tuned_column, generate_series(1, 30)"
        )
    )
    filtered.execute("ALTER TABLE items ADD COLUMN meta jsonb")
    filtered.execute("UPDATE items SET meta = jsonb_build_object('source', 's' || id % 7)")
    tree, generated = (each for each in advise(filtered.info.dsn, capsys)["others"] if "meta" in each["why"])
    assert "30 recorded statements filter by meta ->> 'source'" in tree["why"]
    assert tree["script"] == "CREATE INDEX CONCURRENTLY ON items ((meta ->> 'source'));"
    # Both can be run as they are, and the column is a filter of vectuned.search.
    run_script(filtered, tree["script"])
    run_script(filtered, generated["script"])
    filtered.execute("SELECT vectuned.refresh('items')")
    query = "SELECT count(*) FROM vectuned.search('items', %s, 10, '{\"meta_source\": \"s3\"}')"
    assert one(filtered, query, text(np.ones(12))) == 10
    # What an index serves already is not named again.
    assert not [each for each in advise(filtered.info.dsn, capsys)["others"] if "meta" in each["why"]]


def run_script(conn: Connection, script: str) -> None:
    """Run SQL as it is printed: a transaction as a whole, and each other line by itself."""
    whole, _, rest = script.rpartition("COMMIT;")
    if whole:
        conn.execute(raw(f"{whole} COMMIT;"))
    for line in filter(None, rest.splitlines()):
        conn.execute(raw(line))


@pytest.mark.parametrize("values", [12, 300])
def test_advise_filters_gives_a_script_for_partitions(
    conn: Connection, database: str, capsys: pytest.CaptureFixture[str], values: int
) -> None:
    """Its table holds the same rows, in partitions, and vectuned.search finds the same among them."""
    vectors = clustered(1500, 8, seed=1)
    make(conn, vectors, index=False)
    conn.execute(
        'ALTER TABLE items ADD COLUMN "Kind" text, ADD COLUMN twice int GENERATED ALWAYS AS (id * 2) STORED'
    )
    conn.execute(raw(f"UPDATE items SET \"Kind\" = 'it''s %' || id % {values}"))
    conn.execute("VACUUM ANALYZE items")
    build(conn)
    enable(conn, target_recall=0.9, sample_rate=1.0, min_samples=50)
    for number, query in enumerate(vectors[:110]):
        search_filtered(conn, query, 5, {"Kind": f"it's %{number % values}"})
    Worker(conn, load_settings(None, {}, {})).drain()
    rows = conn.execute("SELECT to_jsonb(i) FROM items i ORDER BY id").fetchall()
    (found,) = advise(database, capsys)["others"]
    kind = "list" if values == 12 else "hash"
    assert (
        f"100% of the searches filter by one value of Kind, which has about {values} values" in found["why"]
    )
    assert f"partitioning the table by {kind}" in found["why"]
    run_script(conn, found["script"])
    parts = one(conn, "SELECT count(*) FROM pg_inherits WHERE inhparent = 'items'::regclass")
    assert parts == (13 if values == 12 else 16)
    assert conn.execute("SELECT to_jsonb(i) FROM items i ORDER BY id").fetchall() == rows
    assert one(conn, "SELECT count(*) FROM items_other") == 0 if values == 12 else True
    wanted = conn.execute(
        "SELECT id::text FROM items WHERE \"Kind\" = 'it''s %%3' ORDER BY embedding <=> %s, id LIMIT 5",
        (text(vectors[7]),),
    ).fetchall()
    conn.execute("DELETE FROM vectuned.inbox")
    # The key now has two columns.
    found = search_filtered(conn, vectors[7], 5, {"Kind": "it's %3"})
    assert [(str(json.loads(key)[0]),) for key, _ in found] == wanted
    assert one(conn, "SELECT count(*) FROM vectuned.tuned_column WHERE enabled") == 1


def test_advise_filters_with_other_modes_is_refused(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", "items", "--filters", "--on-table", "--dsn", database]) == 2
    assert "--filters goes with neither --on-table nor --drop-old" in capsys.readouterr().err
