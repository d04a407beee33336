"""The command `vectuned recommend` and the kinds of advice that SQL gives."""

from __future__ import annotations

import re
from pathlib import Path

import vectuned.sql
from vectuned.daemon.cli.tuning.recommend import _HEADINGS

FUNCTIONS = Path(vectuned.sql.__path__[0], "tuner", "functions", "columns")


def test_every_kind_of_recommendation_has_a_heading() -> None:
    text = (FUNCTIONS / "recommend.sql").read_text()
    kinds = set(re.findall(r"^ *(?:RETURN QUERY )?SELECT '([a-z ]+)',", text, re.MULTILINE))
    assert {"search", "statement", "index"} <= kinds
    assert kinds == set(_HEADINGS)
