"""Vectors as parameters and as values from the database, with every pgvector package from 0.3 on.

langchain-postgres requires a pgvector before 0.4, which keeps `Vector` elsewhere and loads numpy arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .arrays import Singles

if TYPE_CHECKING:
    from pgvector import HalfVector, Vector
else:
    try:
        from pgvector import HalfVector, Vector
    except ImportError:  # before 0.4
        from pgvector.psycopg import HalfVector, Vector

__all__ = ["HalfVector", "Vector", "to_array"]


def to_array(value: Any) -> Singles:
    """Return a vector that the database gave as float32 (d,)."""
    return np.asarray(value.to_numpy() if hasattr(value, "to_numpy") else value, dtype=np.float32)
