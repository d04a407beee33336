"""Drawings show nodes, ports and what happened."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from tests.unit.reasoning.graph.graph_helpers import (
    GRAPH,
    Inputs,
    Wider,
)

from vectuned.reasoning.graph.picture import draw_mermaid, draw_svg
from vectuned.reasoning.graph.runner import run
from vectuned.reasoning.graph.testing import StubNode


def test_drawings_show_nodes_ports_and_steps() -> None:
    graph = GRAPH.replace("count", Wider())
    graph = graph.replace("say", StubNode(graph["say"], {"sentence": "x"}))
    done = run(graph.plan(), Inputs("<a> & b"))
    drawn = draw_mermaid(graph.plan(), done.trace)
    assert drawn.startswith("flowchart TD\n")
    for name in graph.plan().order:
        assert f'["{name}<br/>' in drawn
    assert drawn.count("-->") == 6
    assert "sent back" in drawn
    assert "ms, ok, round 2" in drawn
    root = ET.fromstring(draw_svg(graph.plan(), done.trace))
    texts = [each.text for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"inputs", *graph.plan().order} <= set(texts)
    boxes = [each for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("rx")]
    assert len(boxes) == 5
    names = [text for text in texts if "ms" not in str(text)]
    tops = {name: float(box.get("y", 0)) for name, box in zip(names, boxes, strict=True)}
    assert tops["inputs"] < tops["split"] < tops["count"] < tops["say"]
    assert tops["split"] == tops["measure"]
    assert "ms" not in draw_svg(graph.plan())
