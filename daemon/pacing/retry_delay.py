"""Delays between retries: doubled with each failure, with a limit and random jitter."""

from __future__ import annotations

import random
from typing import Final

_JITTER: Final = 0.2  # share of the delay; keeps daemons that failed together from retrying together
_MAX_DOUBLINGS: Final = 30  # keeps the power finite; every limit is reached long before


def retry_delay(failures: int, first: float, longest: float, rng: random.Random) -> float:
    """Return the seconds to wait after a number of failures in a row.

    That is `first` after the first failure, doubled with each further one up to `longest`, give or take 20 %.
    """
    delay = min(first * 2.0 ** min(failures - 1, _MAX_DOUBLINGS), longest)
    return delay * rng.uniform(1 - _JITTER, 1 + _JITTER)
