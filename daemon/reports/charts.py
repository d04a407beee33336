"""Charts as SVG text: a share, such as recall, over a logarithmic axis or over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from typing import Final, Literal

import numpy as np

from vectuned.learning.model.arrays import Floats

Scale = Literal["log", "time"]

COLOURS: Final = 8  # classes c0 to c7 of the style sheet in page.html
# Units of the SVG's viewBox: the whole, and margins that hold the labels of the axes.
_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 16, 14, 44


@dataclass(frozen=True)
class Line:
    """Points (n,) joined in order, with `labels` as tooltips; a single point is drawn as a dot.

    `lower` (n,) is the lower edge of a band below the line. `chosen` is the index of a point to be marked.
    """

    name: str
    x: Floats
    y: Floats
    labels: Sequence[str] = ()
    lower: Floats | None = None
    chosen: int | None = None


def chart(lines: Sequence[Line], *, title: str, x: str, y: str, scale: Scale, level: float) -> str:
    """Draw lines and their legend; `x` and `y` name the axes, `level` is a horizontal line such as a target.

    Points that are not finite, or not positive on a logarithmic axis, are left out. If none is left, the
    result is a sentence that says so.
    """
    drawable = [line for line in (_finite(line, scale) for line in lines) if len(line.x)]
    if not drawable:
        return f'<p class="none">{escape(title)}: nothing has been measured yet.</p>'
    x_axis = _axis(np.concatenate([line.x for line in drawable]), scale)
    heights = [line.y for line in drawable] + [line.lower for line in drawable if line.lower is not None]
    low = min(float(np.concatenate(heights).min()), level)
    bottom = max(0.0, np.floor((low - 0.01) * 20) / 20)

    def place_y(value: float) -> float:
        return float(_TOP + (_HEIGHT - _TOP - _BOTTOM) * (1.0 - value) / (1.0 - bottom))

    parts = [
        f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title, quote=True)}">'
    ]
    parts += _grid(x_axis, place_y, bottom, x, y)
    parts.append(
        f'<line class="level" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{place_y(level):.1f}" '
        f'y2="{place_y(level):.1f}"><title>target {level:g}</title></line>'
    )
    for number, line in enumerate(drawable):
        parts += _draw(line, f"c{number % COLOURS}", x_axis.place, place_y)
    parts.append(f"</svg><figcaption><b>{escape(title)}</b>")
    parts += [
        f'<span class="entry"><span class="key c{number % COLOURS}"></span>{escape(line.name)}</span> '
        for number, line in enumerate(drawable)
    ]
    parts.append("</figcaption></figure>")
    return "".join(parts)


@dataclass(frozen=True)
class _Axis:
    place: Callable[[float], float]
    ticks: Sequence[tuple[float, str]]


def _axis(values: Floats, scale: Scale) -> _Axis:
    low, high = float(values.min()), float(values.max())
    if scale == "log":
        low, high = np.log10(low), np.log10(high)
    margin = 0.02 * (high - low) or 0.5 * (abs(high) or 1.0)  # a single value gets an axis of some width
    low, high = low - margin, high + margin

    def place(value: float) -> float:
        position = np.log10(value) if scale == "log" else value
        return float(_LEFT + (_WIDTH - _LEFT - _RIGHT) * (position - low) / (high - low))

    if scale == "log":
        candidates = [
            m * 10.0**e for e in range(int(np.floor(low)), int(np.ceil(high)) + 1) for m in (1, 2, 5)
        ]
        ticks = [value for value in candidates if low <= np.log10(value) <= high]
        return _Axis(place, [(value, f"{value:g}") for value in ticks])
    ticks = list(np.linspace(low, high, 7)[1:-1])
    form = "%H:%M" if high - low < 86_400 else "%m-%d %H:%M" if high - low < 10 * 86_400 else "%Y-%m-%d"
    return _Axis(place, [(value, f"{datetime.fromtimestamp(value, UTC):{form}}") for value in ticks])


def _grid(x_axis: _Axis, place_y: Callable[[float], float], bottom: float, x: str, y: str) -> list[str]:
    step = 0.05 if bottom >= 0.75 else 0.1 if bottom >= 0.5 else 0.2
    rows = np.arange(1.0, bottom - 1e-9, -step)
    right, base = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [
        f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{place_y(row):.1f}" y2="{place_y(row):.1f}"/>'
        f'<text x="{_LEFT - 6}" y="{place_y(row) + 4:.1f}" text-anchor="end">{row:.2f}</text>'
        for row in rows
    ]
    columns = [(f"{x_axis.place(value):.1f}", text) for value, text in x_axis.ticks]
    parts += [
        f'<line class="grid" x1="{place}" x2="{place}" y1="{_TOP}" y2="{base}"/>'
        f'<text x="{place}" y="{base + 16}" text-anchor="middle">{escape(text)}</text>'
        for place, text in columns
    ]
    upright = f"translate(14 {(_TOP + base) / 2:.0f}) rotate(-90)"
    parts.append(
        f'<text x="{(_LEFT + right) / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x)}</text>'
        f'<text transform="{upright}" text-anchor="middle">{escape(y)}</text>'
    )
    return parts


def _draw(
    line: Line, colour: str, place_x: Callable[[float], float], place_y: Callable[[float], float]
) -> list[str]:
    points = [(place_x(a), place_y(b)) for a, b in zip(line.x, line.y, strict=True)]
    parts = []
    if line.lower is not None:
        under = [(place_x(a), place_y(b)) for a, b in zip(line.x, line.lower, strict=True)]
        parts.append(f'<polygon class="band {colour}" points="{_points(points + under[::-1])}"/>')
    if len(points) > 1:
        parts.append(f'<polyline class="line {colour}" points="{_points(points)}"/>')
    for number, (a, b) in enumerate(points):
        if len(points) > 1 and not line.labels and number != line.chosen:
            continue
        radius = 6 if number == line.chosen or len(points) == 1 else 3
        label = line.labels[number] if line.labels else line.name
        parts.append(
            f'<circle class="{colour}" cx="{a:.1f}" cy="{b:.1f}" r="{radius}">'
            f"<title>{escape(label)}</title></circle>"
        )
    return parts


def _points(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in points)


def _finite(line: Line, scale: Scale) -> Line:
    good = np.isfinite(line.x) & np.isfinite(line.y)
    if scale == "log":
        good &= line.x > 0
    chosen = line.chosen
    return replace(
        line,
        x=line.x[good],
        y=line.y[good],
        labels=[label for label, keep in zip(line.labels, good, strict=True) if keep] if line.labels else (),
        lower=None if line.lower is None else line.lower[good],
        chosen=int(np.count_nonzero(good[:chosen])) if chosen is not None and good[chosen] else None,
    )
