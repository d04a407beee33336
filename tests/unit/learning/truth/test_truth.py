"""The tolerance of exact answers."""

from __future__ import annotations

import numpy as np
import pytest

from vectuned.learning.truth.truth import float32_tolerance


def test_float32_tolerance_has_the_scale_of_each_metric() -> None:
    assert float32_tolerance("cosine", 384, [0.0, 0.5]) == pytest.approx(1.645e-6, rel=1e-3)
    np.testing.assert_allclose(float32_tolerance("l2", 384, [0.0, 30.0]), [0.0, 30 * 1.645e-6], rtol=1e-3)
    np.testing.assert_allclose(
        float32_tolerance("ip", 384, [-5.0, 5.0], [10.0, 20.0]), [1.645e-5, 3.29e-5], rtol=1e-3
    )
