"""Groups of server settings by which a plain SQL statement takes an access path, and their efforts.

Replays measure with the same values that statements are then sent with. sql/tuner/functions/daemon/replay.sql
holds the same efforts; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Settings = Mapping[str, str]
"""Values of server settings by name."""

# Without index scans no vector index is used, and the planner ranks what the condition matches. A plan kept
# from before would ignore that.
EXACT: Final[Settings] = {"enable_indexscan": "off", "plan_cache_mode": "force_custom_plan"}
# ef_search of scans that go on until k rows match. Each is less than twice the one before, so that the
# cheapest that reaches a target costs little more than the best value between them would.
CONTINUED_EFFORTS: Final = (40, 80, 140, 240, 400, 800)
# Probes of IVFFlat scans that go on likewise; an index with fewer lists is scanned whole.
CONTINUED_PROBES: Final = (1, 3, 8, 20, 50)
_LEAST_TUPLES: Final = 20_000  # max_scan_tuples of a continued scan: pgvector's default
_TUPLES_PER_EFFORT: Final = 100  # with more effort: its square is about what a scan to its end looks at
_SCAN_MEMORY: Final = "4"  # times work_mem: 4 MB alone would end a scan before 20,000 tuples
_HIGHEST_EF: Final = 1000  # pgvector's limit
_ALL_PROBES: Final = "32768"  # ivfflat.max_probes: pgvector's limit, more than any index has lists


def most_tuples(effort: int) -> int:
    """Return the max_scan_tuples of a continued scan with some ef_search."""
    return max(_LEAST_TUPLES, _TUPLES_PER_EFFORT * effort)


def hnsw_settings(ef: int, k: int) -> Settings:
    """Return the settings of an HNSW scan that ends after its first `ef`, or k, rows."""
    return {"hnsw.ef_search": str(min(max(ef, k), _HIGHEST_EF)), "hnsw.iterative_scan": "off"}


def continued_hnsw_settings(ef: int, k: int) -> Settings:
    """Return the settings of an HNSW scan that goes on until k rows match."""
    return {
        "hnsw.ef_search": str(min(max(ef, k), _HIGHEST_EF)),
        "hnsw.iterative_scan": "relaxed_order",
        "hnsw.max_scan_tuples": str(most_tuples(ef)),
        "hnsw.scan_mem_multiplier": _SCAN_MEMORY,
    }


def ivfflat_settings(probes: int) -> Settings:
    """Return the settings of an IVFFlat scan of some lists."""
    return {"ivfflat.iterative_scan": "off", "ivfflat.probes": str(probes)}


def continued_ivfflat_settings(probes: int) -> Settings:
    """Return the settings of an IVFFlat scan that goes on with more lists until k rows match."""
    return {
        "ivfflat.iterative_scan": "relaxed_order",
        "ivfflat.max_probes": _ALL_PROBES,
        "ivfflat.probes": str(probes),
    }
