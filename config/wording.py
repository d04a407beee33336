"""Numbers with their nouns, as people write them."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """Return a number and what it counts, a regular noun: "1 column", "2,000 searches"."""
    ending = "es" if noun.endswith(("ch", "s", "x")) else "s"
    return f"{count:,} {noun if count == 1 else noun + ending}"
