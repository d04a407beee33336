"""Drawings of a graph and of a run: Mermaid for documents, SVG for everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from xml.sax.saxutils import escape

from vectuned.reasoning.trace import Step, Trace

from .graph import Plan

# Pixels: a box holds a name and one line of remarks.
_WIDTH: Final = 190
_HEIGHT: Final = 54  # two lines of text
_GAP_X: Final = 36  # between boxes of a layer
_GAP_Y: Final = 64  # between layers: room for arrows
_MARGIN: Final = 20  # around all
_FILLS: Final = {
    "ok": "#e3f3e6",
    "failed": "#f9d9d7",
    "timed_out": "#f9d9d7",
    "cancelled": "#eeeeee",
    "sent_back": "#fdf0cf",
    "": "#f4f4f6",
}


def draw_mermaid(plan: Plan, trace: Trace | None = None) -> str:
    """Return a graph as a Mermaid flowchart, with times and outcomes if there is a trace."""
    last = _last_steps(trace)
    names = {name: f"n{number}" for number, name in enumerate(plan.order)}
    lines = ["flowchart TD", '    inputs(["inputs"])']
    for name in plan.order:
        label = "<br/>".join((name, *_remarks(last.get(name))))
        lines.append(f'    {names[name]}["{_quoted(label)}"]')
    for (start, end), ports in _ports_by_edge(plan).items():
        source = "inputs" if start is None else names[start]
        lines.append(f"    {source} -->|{_quoted(', '.join(ports))}| {names[end]}")
    for step in trace.steps if trace else ():
        if step.status == "sent_back":
            lines.append(f"    {names[step.node]} -.->|sent back| inputs")
    for name in plan.order:
        status = last[name].status if name in last else ""
        lines.append(f"    style {names[name]} fill:{_FILLS[status]},stroke:#667,color:#223")
    return "\n".join(lines) + "\n"


def draw_svg(plan: Plan, trace: Trace | None = None) -> str:
    """Return a graph as an SVG image in layers, with times and outcomes if there is a trace."""
    last = _last_steps(trace)
    layers: list[list[str]] = [["inputs"], *_by_neighbours(plan)]
    across = max(map(len, layers))
    width = 2 * _MARGIN + across * _WIDTH + (across - 1) * _GAP_X
    height = 2 * _MARGIN + len(layers) * _HEIGHT + (len(layers) - 1) * _GAP_Y
    places: dict[str | None, tuple[float, float]] = {}
    for row, layer in enumerate(layers):
        left = (width - len(layer) * _WIDTH - (len(layer) - 1) * _GAP_X) / 2
        for column, name in enumerate(layer):
            key = None if row == 0 else name
            places[key] = (left + column * (_WIDTH + _GAP_X), _MARGIN + row * (_HEIGHT + _GAP_Y))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        '<defs><marker id="to" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#667"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for (start, end), ports in _ports_by_edge(plan).items():
        parts.append(_line(places[start], places[end], ", ".join(ports)))
    for key, (x, y) in places.items():
        step = last.get(key) if key else None
        parts.append(_box(x, y, key or "inputs", step))
    return "\n".join((*parts, "</svg>")) + "\n"


def _line(start: tuple[float, float], end: tuple[float, float], label: str) -> str:
    x0, y0 = start[0] + _WIDTH / 2, start[1] + _HEIGHT
    x1, y1 = end[0] + _WIDTH / 2, end[1]
    bend = (y1 - y0) / 2
    return (
        f'<path d="M{x0:g} {y0:g}C{x0:g} {y0 + bend:g} {x1:g} {y1 - bend:g} {x1:g} {y1:g}" fill="none" '
        f'stroke="#99a" marker-end="url(#to)"><title>{escape(label)}</title></path>'
    )


def _box(x: float, y: float, name: str, step: Step | None) -> str:
    fill = _FILLS[step.status if step else ""]
    middle = x + _WIDTH / 2
    texts = [name, *_remarks(step)]
    rows = "".join(
        f'<text x="{middle:g}" y="{y + _HEIGHT / 2 + 4 + 16 * (row - (len(texts) - 1) / 2):g}" '
        f'text-anchor="middle" fill="#223"{" font-weight=" + chr(34) + "bold" + chr(34) if row == 0 else ""}>'
        f"{escape(text)}</text>"
        for row, text in enumerate(texts)
    )
    return (
        f'<g><rect x="{x:g}" y="{y:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="8" fill="{fill}" '
        f'stroke="#667"/>{rows}</g>'
    )


def _by_neighbours(plan: Plan) -> list[list[str]]:
    """Order each layer by the positions of the nodes it depends on, so that fewer lines cross."""
    layers: list[list[str]] = []
    position: dict[str, float] = {}
    for layer in plan.layers():
        centred = sorted((_mean([position[before] for before in plan.after[name]]), name) for name in layer)
        ordered = [name for _, name in centred]
        position |= {name: (at + 0.5) / len(ordered) for at, name in enumerate(ordered)}
        layers.append(ordered)
    return layers


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.5


def _ports_by_edge(plan: Plan) -> Mapping[tuple[str | None, str], list[str]]:
    ports: dict[tuple[str | None, str], list[str]] = {}
    for edge in plan.edges:
        ports.setdefault((edge.producer, edge.consumer), []).append(edge.port)
    return ports


def _last_steps(trace: Trace | None) -> dict[str, Step]:
    return {step.node: step for step in trace.steps} if trace else {}


def _remarks(step: Step | None) -> list[str]:
    if step is None:
        return []
    more = "" if step.attempt == 1 else f", attempt {step.attempt}"
    more += "" if step.round == 1 else f", round {step.round}"
    return [f"{step.duration_ms:.1f} ms, {step.status.replace('_', ' ')}{more}"]


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("|", "&#124;")
