"""Whether what serves a class of searches is still what its claim is about."""

from __future__ import annotations

from vectuned.learning.oversight.served_rows import ServedRow, raise_served, serves_otherwise


def row(effort: int | None, path: str = "hnsw", index: int | None = 1, bucket: int | None = 3) -> ServedRow:
    return {"bucket": bucket, "path": path, "index": index, "effort": effort}


def test_serves_otherwise_ignores_order_more_effort_and_slightly_less() -> None:
    promised = [row(200), row(None, "exact", None, 4)]
    for served in (promised[::-1], [row(181), promised[1]], [row(1000), promised[1]]):
        assert not serves_otherwise(served, promised)
    assert not serves_otherwise(None, [])


def test_serves_otherwise_compares_every_bucket_path_and_index() -> None:
    promised = [row(200), row(None, "exact", None, 4)]
    for served in (
        None,
        promised[:1],
        [*promised, row(200, bucket=5)],
        [row(179), promised[1]],
        [row(200, index=2), promised[1]],
        [row(200, "hnsw_continued"), promised[1]],
        [row(200), row(None, "planner", None, 4)],
    ):
        assert serves_otherwise(served, promised)


def test_raise_served_keeps_the_largest_effort_of_each_row() -> None:
    promised = [row(200), row(60, bucket=4)]
    served = [row(190), row(70, bucket=4), row(None, "exact", None, 5)]
    assert raise_served(served, promised) == [row(200), row(70, bucket=4), row(None, "exact", None, 5)]
    assert raise_served(None, promised) == []
    assert raise_served(served, None) == served


def test_effort_that_creeps_down_becomes_another_setting() -> None:
    promised = [row(200)]
    for effort in (195, 190, 185, 181):
        assert not serves_otherwise([row(effort)], promised)
        promised = raise_served([row(effort)], promised)
    assert serves_otherwise([row(179)], promised)
