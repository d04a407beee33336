"""Plot stored results: recall against time, growth, and the parts of a search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.records import Result
from benchmarks.tables import cases, point
from vectuned.config.errors import UsageError, VectunedError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of policies, the same in all plots; other arms use the remaining ones.
_COLOURS: Final = {"default": "C7", "best fixed": "C0", "vectuned": "C3", "oracle": "C2", "exact": "C1"}
_OTHERS: Final = ("C4", "C5", "C6", "C8", "C9", "black", "navy", "gold", "lime")
_GROWING: Final = ("default", "best fixed", "vectuned", "oracle", "exact")  # more lines would not be legible
_STYLES: Final = ("-", "--", ":", "-.")
_RECALLS: Final = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 1.0)
_FLOOR: Final = 1e-4  # of missed recall, so that a recall of 1 can be drawn


def drawable(result: Result) -> bool:
    """Return whether results of this kind have a plot."""
    return result.definition.get("kind") in _KINDS


def picture(result: Result) -> Figure:
    """Plot a result."""
    if find_spec("matplotlib") is None:
        raise UsageError("Plots need matplotlib, which is not installed: pip install '.[benchmarks]'.")
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    try:
        _KINDS[result.definition["kind"]](result, figure)
    except KeyError as error:
        raise VectunedError(
            f"The result of {result.name} cannot be drawn, it has no {error}: run it again."
        ) from error
    return figure


def draw(result: Result, path: Path) -> None:
    """Plot a result into a file, with the format of its suffix; the same result gives the same SVG."""
    figure = picture(result)
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": result.name, "svg.fonttype": "none"}):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {}, dpi=120)
        except (OSError, ValueError) as error:
            raise UsageError(f"The plot cannot be written to {path}: {error}.") from error


def _contest(result: Result, figure: Figure) -> None:
    """Plot time against recall, one line per policy over the targets: the mean and the slowest percentile."""
    told = result.result
    targets = {float(target): each["arms"] for target, each in told["targets"].items()}
    policies = list(dict.fromkeys(name for arms in targets.values() for name in arms))
    looks = _colours(policies)
    figure.set_size_inches(11, 5)
    panels = figure.subplots(1, 2)
    for axes, key, label in zip(panels, ("mean_ms", "p99_ms"), ("mean ms", "p99 ms"), strict=True):
        for name in policies:
            arms = [targets[target][name] for target in sorted(targets) if name in targets[target]]
            shown = [arm for arm in arms if _known(arm, "recall", key)]
            if shown and all(point(arm["recall"]) == 1 for arm in shown):  # a logarithmic axis cannot show it
                middle = sum(point(arm[key]) for arm in shown) / len(shown)
                axes.axhline(middle, label=f"{name} (recall 1)", color=looks[name], linestyle="--")
            else:
                _line(axes, shown, key, label=name, color=looks[name], linestyle="-")
        for target in targets:
            axes.axvline(max(1 - target, _FLOOR), color="grey", lw=0.8, ls=":")
        _recalls(axes.xaxis, axes.set_xscale, told.get("k"))
        axes.invert_xaxis()
        _milliseconds(axes, f"{label} a search")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, fontsize="small")
    figure.suptitle(_title(result), fontsize="medium")


def _growth(result: Result, figure: Figure) -> None:
    """Plot time and recall against rows, and recall against effort at each size."""
    from matplotlib.lines import Line2D

    told = result.result
    sizes = sorted(told["sizes"], key=lambda size: float(size["rows"]))
    targets = sorted({target for size in sizes for target in size["targets"]}, key=float)
    measured = {name for size in sizes for each in size["targets"].values() for name in each["arms"]}
    policies = [name for name in _GROWING if name in measured]
    looks = _colours(policies)
    styles = dict(zip(targets, _cycle(_STYLES), strict=False))
    figure.set_size_inches(14, 5)
    cost, quality, curves = figure.subplots(1, 3)
    for target, name in product(targets, policies):
        arms = [(size["rows"], size["targets"].get(target, {"arms": {}})["arms"].get(name)) for size in sizes]
        shown = [(rows, arm) for rows, arm in arms if arm is not None and _known(arm, "recall", "mean_ms")]
        for axes, key, of in ((cost, "mean_ms", _same), (quality, "recall", _missed)):
            values = [arm[key] for _, arm in shown]
            if axes is quality and all(
                point(value) == 1 for value in values
            ):  # a logarithmic axis cannot show it
                continue
            axes.errorbar(
                [rows for rows, _ in shown],
                [of(float(point(value))) for value in values],
                yerr=_bounds(values, of),
                color=looks[name],
                linestyle=styles[target],
                marker="o",
                markersize=4,
                capsize=2,
                elinewidth=0.8,
            )
    for axes in (cost, quality):
        axes.set_xscale("log")
        axes.set_xlabel("rows")
    _milliseconds(cost, "mean ms a search")
    _recalls(quality.yaxis, quality.set_yscale, told.get("k"))
    quality.invert_yaxis()
    for size in sizes:
        steps = size.get("curve", [])
        missed = [_missed(step["recall"]) for step in steps]
        curves.plot(missed, [step["ms"] for step in steps], marker=".", label=f"{size['rows']:,} rows")
    _recalls(curves.xaxis, curves.set_xscale, told.get("k"))
    curves.invert_xaxis()
    _milliseconds(curves, "ms a search at each ef_search")
    curves.legend(fontsize="small")
    meanings = [Line2D([], [], color=looks[name], marker="o", label=name) for name in policies] + [
        Line2D([], [], color="black", linestyle=styles[target], label=f"target {target}")
        for target in targets
    ]
    figure.legend(handles=meanings, loc="outside lower center", ncols=len(meanings), fontsize="small")
    figure.suptitle(_title(result), fontsize="medium")


def _advising(result: Result, figure: Figure) -> None:
    """Plot time against recall, one point per arm."""
    told = result.result
    looks = _colours(list(told["arms"]))
    figure.set_size_inches(11, 5)
    panels = figure.subplots(1, 2)
    for axes, key, label in zip(panels, ("mean_ms", "p99_ms"), ("mean ms", "p99 ms"), strict=True):
        for name, arm in told["arms"].items():
            if _known(arm, "recall", key):
                _line(axes, [arm], key, label=name, color=looks[name], linestyle="none")
        _recalls(axes.xaxis, axes.set_xscale, told.get("k"))
        axes.invert_xaxis()
        _milliseconds(axes, f"{label} a search")
    panels[0].legend(fontsize="small")
    figure.suptitle(_title(result), fontsize="medium")


def _anatomy(result: Result, figure: Figure) -> None:
    """Plot the time of each part, one panel per case."""
    found = list(cases(result.result))
    if not found:
        raise KeyError("arms or parts")
    figure.set_size_inches(8, 1.2 + sum(0.5 + 0.4 * len(parts) for _, parts in found))
    heights = [len(parts) for _, parts in found]
    panels = figure.subplots(len(found), 1, squeeze=False, sharex=True, height_ratios=heights)[:, 0]
    for axes, (case, parts) in zip(panels, found, strict=True):
        for at, arm in enumerate(parts.values()):
            for key, shift, colour in (("mean_ms", -0.18, "C0"), ("p50_ms", 0.18, "C1")):
                if _known(arm, key):
                    bounds = _bounds([arm[key]], _same)
                    axes.barh(
                        at + shift,
                        point(arm[key]),
                        0.34,
                        xerr=bounds,
                        color=colour,
                        capsize=2,
                        label=key.replace("_", " ") if at == 0 else None,
                    )
        axes.set_yticks(range(len(parts)), list(parts))
        axes.invert_yaxis()
        axes.set_title(case, fontsize="small", loc="left")
        axes.grid(axis="x", lw=0.3)
    panels[0].legend(fontsize="small")
    panels[-1].set_xlabel("ms a search")
    figure.suptitle(_title(result), fontsize="medium")


_KINDS: Final[Mapping[str, Callable[[Result, Figure], None]]] = {
    "contest": _contest,
    "growth": _growth,
    "advising": _advising,
    "anatomy": _anatomy,
}


def _line(axes: Axes, arms: Sequence[Mapping[str, Any]], key: str, **look: Any) -> None:
    recalls, times = [arm["recall"] for arm in arms], [arm[key] for arm in arms]
    x, y = [_missed(float(point(each))) for each in recalls], [float(point(each)) for each in times]
    axes.errorbar(
        x,
        y,
        xerr=_bounds(recalls, _missed),
        yerr=_bounds(times, _same),
        marker="o",
        markersize=4,
        capsize=2,
        elinewidth=0.8,
        **look,
    )


def _bounds(values: Sequence[Any], of: Callable[[float], float]) -> list[list[float]] | None:
    """Return the distances of intervals' bounds from their values, None for plain numbers."""
    if not all(isinstance(each, Mapping) and each.get("at_least") is not None for each in values):
        return None
    low, high = [], []
    for each in values:
        value, ends = of(each["value"]), sorted((of(each["at_least"]), of(each["at_most"])))
        low.append(max(value - ends[0], 0.0))
        high.append(max(ends[1] - value, 0.0))
    return [low, high]


def _known(arm: Mapping[str, Any], *keys: str) -> bool:
    return all(key in arm and point(arm[key]) is not None for key in keys)


def _recalls(axis: Any, scale: Callable[[str], None], k: int | None) -> None:
    """Scale an axis by the logarithm of missed recall, and label it with the recall."""
    scale("log")
    low, high = sorted(axis.get_view_interval())
    shown = [recall for recall in _RECALLS if low <= _missed(recall) <= high]
    axis.set_ticks([_missed(recall) for recall in shown], [f"{recall:g}" for recall in shown])
    axis.set_ticks([], minor=True)
    axis.set_label_text(f"recall@{k or 'k'}")
    axis.grid(lw=0.3)


def _milliseconds(axes: Axes, label: str) -> None:
    """Scale the vertical axis logarithmically, with plain numbers as labels."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 3.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(label)
    axes.grid(axis="y", lw=0.3)


def _same(value: float) -> float:
    return value


def _missed(recall: float) -> float:
    return max(1.0 - recall, _FLOOR)


def _colours(names: Sequence[str]) -> dict[str, str]:
    left = _cycle(_OTHERS)
    return {name: _COLOURS.get(name) or next(left) for name in names}


def _cycle(values: Sequence[str]) -> Iterator[str]:
    while True:
        yield from values


def _title(result: Result) -> str:
    told = result.result
    words = (told.get(key) for key in ("set", "metric", "workload", "index"))
    size = f"{told['rows']:,} x {told.get('dimensions')}" if "rows" in told else None
    about = ", ".join(str(word) for word in (*words, size) if word)
    return f"{result.name}: {about}" if about else result.name
