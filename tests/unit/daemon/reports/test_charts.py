"""Charts as SVG."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from vectuned.daemon.reports.charts import Line, Scale, chart


def draw(*lines: Line, scale: Scale = "log") -> str:
    return chart(lines, title="a < b", x="ms", y="recall", scale=scale, level=0.95)


def test_chart_without_a_finite_point_says_so() -> None:
    text = draw(Line("empty", np.array([np.nan, -1.0]), np.array([0.5, 0.5])))
    assert text == '<p class="none">a &lt; b: nothing has been measured yet.</p>'


@pytest.mark.parametrize("scale", ["log", "time"])
def test_chart_draws_the_points_and_marks_the_chosen_one(scale: Scale) -> None:
    line = Line("<i>", np.array([1.0, 2.0, 4.0]), np.array([0.8, 0.9, 1.0]), ["p", "q", "r"], chosen=1)
    figure = ElementTree.fromstring(draw(line, scale=scale))
    circles = figure.findall(".//circle")
    assert [circle.get("r") for circle in circles] == ["3", "6", "3"]
    assert [circle.findtext("title") for circle in circles] == ["p", "q", "r"]
    x, y = ([float(circle.get(name, "")) for circle in circles] for name in ("cx", "cy"))
    assert sorted(x) == x
    assert sorted(y, reverse=True) == y
    assert "<i>" in "".join(figure.itertext())


def test_chart_omits_points_that_cannot_be_drawn_and_keeps_the_chosen_one() -> None:
    line = Line("a", np.array([0.0, 1.0, 10.0]), np.array([0.9, 0.9, np.nan]), ["p", "q", "r"], chosen=1)
    circles = ElementTree.fromstring(draw(line)).findall(".//circle")
    assert [(circle.get("r"), circle.findtext("title")) for circle in circles] == [("6", "q")]
