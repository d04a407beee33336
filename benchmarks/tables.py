"""Results as tables, by kind: the same for the terminal and for the documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.definitions import Definition, Figures
from benchmarks.records import Result
from vectuned.config.errors import VectunedError
from vectuned.daemon.console import Console

NOTHING: Final = "–"
RATIOS: Final = {"mean_ms": "mean over fixed", "p99_ms": "p99 over fixed"}
_ADDED: Final = {"mean_ms": "added on average", "p50_ms": "added at the median"}
_BY_QUERY: Final = {
    "ms": "fixed and by query, ms",
    "recall": "their recall",
    "by_query_over_fixed": "by query over fixed",
}
_ARM: Final = ("policy", "setting", "recall", "under 0.8", "mean ms", "p50 ms", "p99 ms")


@dataclass(frozen=True)
class Table:
    """A table of texts; the first `left` columns are left-aligned."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left: int = 1


def tables(
    definition: Definition, results: Sequence[Result], targets: Sequence[str] = (), name: str = ""
) -> list[Table]:
    """Make the tables of a run, or the common tables of several runs of one kind.

    `targets` chooses rows. With `name`, only the table of that name; otherwise those without a name.
    """
    names = ", ".join(result.name for result in results)
    try:
        if definition.tables:
            made = [_by_paths(figures, results) for figures in definition.tables if figures.name == name]
        else:
            made = _KINDS.get(definition.kind, _whatever)(results, targets)
    except (KeyError, ValueError) as error:
        raise VectunedError(
            f"The result of {names} is not what a {definition.kind} has ({type(error).__name__}: {error}): "
            "run it again."
        ) from error
    return [_without_empty_columns(table) for table in made if table.rows]


def origin(result: Result) -> str:
    """Return the machine, time and version of a result in one line."""
    told, machine, load = result.result, result.machine, result.load_average
    parts = [
        _described(told),
        f"{machine.cores} cores ({machine.processor}), {machine.memory_gb:.0f} GB",
        f"{result.started.day} {result.started:%B %Y}",
        f"vectuned {result.version}" + (f" ({result.commit})" if result.commit else ""),
        str(told.get("server", "")),
        f"load {load.start:.1f} at the start and {load.end:.1f} at the end",
    ]
    return ", ".join(part for part in parts if part)


def judged(definition: Definition, result: Result) -> str:
    """Return the number of held-out searches and the seeds in words."""
    found = [value for _, value in walk(result.result, definition.judged)] if definition.judged else []
    count = found[0] if found else result.result.get("heldout")
    seeds = result.result.get("seeds", [result.seed])
    said = [] if count is None else [f"n = {count:,}"]
    word = "seed" if len(seeds) == 1 else "seeds"
    return ", ".join([*said, f"{word} {', '.join(map(str, seeds))}"])


def walk(value: Any, path: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the values at a path, each with the keys that its asterisks matched."""
    first, _, rest = path.partition("/")
    if not path:
        yield (), value
    elif first == "*" and isinstance(value, Mapping):
        for key, each in value.items():
            yield from (((key, *keys), found) for keys, found in walk(each, rest))
    elif first == "*" and isinstance(value, list):
        for each in value:
            yield from walk(each, rest)
    elif isinstance(value, Mapping) and first in value:
        yield from walk(value[first], rest)
    elif isinstance(value, list) and first.isdigit() and int(first) < len(value):
        yield from walk(value[int(first)], rest)


def figure(value: Any, digits: int | None = None) -> str:
    """Format a number to its meaningful or to `digits` digits; an interval as `0.83 (0.80 to 0.86)`."""
    if value is None:
        return NOTHING
    if isinstance(value, Mapping):
        said = figure(value.get("value"), digits)
        if value.get("at_least") is None or value.get("at_most") is None:
            return said
        return f"{said} ({figure(value['at_least'], digits)} to {figure(value['at_most'], digits)})"
    if isinstance(value, list):
        return ", ".join(figure(each, digits) for each in value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.{_worth(value) if digits is None else digits}f}"
    return str(value)


def _worth(value: float) -> int:
    size = abs(value)
    if size >= 100 or (size > 1 and value.is_integer()):
        return 0
    return 1 if size >= 10 else 2 if size > 1 else 3


def point(value: Any) -> Any:
    """Return the value of an interval, or the number itself."""
    return value.get("value") if isinstance(value, Mapping) else value


def cases(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the arms or parts of each case of an anatomy, at any depth, with the name of the case."""
    if isinstance(value, Mapping):
        for key, each in value.items():
            if key in ("arms", "parts") and isinstance(each, Mapping):
                yield ", ".join(part for part in path if part != "cases"), each
            else:
                yield from cases(each, (*path, str(key)))


def _by_paths(figures: Figures, results: Sequence[Result]) -> Table:
    named = ("run",) * (len(results) > 1)
    rows = [
        (*(result.name for _ in named), *keys, *(_column(row, path) for path in figures.columns.values()))
        for result in results
        for keys, row in _rows(result.result, figures.rows)
    ]
    heads = (*named, *figures.heads)
    wide = next((len(row) for row in rows), 0)
    if rows and wide != len(heads) + len(figures.columns):
        raise ValueError(f"the rows at {figures.rows} have {wide - len(figures.columns)} names, not {heads}")
    return Table(figures.title, (*heads, *figures.columns), rows, len(heads))


def _rows(value: Any, rows: str | list[list[str]]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the rows at a path or of a list of chosen rows, each with its keys."""
    if isinstance(rows, str):
        yield from walk(value, rows)
        return
    for *keys, path in rows:
        found = [row for _, row in walk(value, path)]
        if len(found) != 1:
            raise ValueError(f"there are {len(found)} rows at {path}")
        yield tuple(keys), found[0]


def _column(row: Any, path: str) -> str:
    return next((figure(found) for _, found in walk(row, path)), NOTHING)


def _contest(results: Sequence[Result], targets: Sequence[str]) -> list[Table]:
    rows = []
    for result in results:
        for target, each in result.result["targets"].items():
            if targets and target not in targets:
                continue
            over = each.get("vectuned_over_fixed") or {}
            for name, arm in each["arms"].items():
                ratios = [figure(over.get(key), 2) if name == "vectuned" else "" for key in RATIOS]
                rows.append((*_run_of(result, results), target, *_arm(name, arm), *ratios))
    heads = (*_run_heads(results), "target")
    k = {result.result.get("k") for result in results}
    title = _described(results[0].result) if len(results) == 1 else ""
    columns = (*heads, *_arm_heads(k.pop() if len(k) == 1 else None), *RATIOS.values())
    return [Table(title, columns, rows, len(heads) + 2)]


def _growth(results: Sequence[Result], targets: Sequence[str]) -> list[Table]:
    rows = []
    for result in results:
        for size in result.result["sizes"]:
            built = [figure(size.get(key)) for key in ("rows", "build_seconds", "index_mb", "replay_ms")]
            for target, each in size["targets"].items():
                if targets and target not in targets:
                    continue
                fixed, ours = (each["arms"].get(name, {}) for name in ("best fixed", "vectuned"))
                over = each.get("vectuned_over_fixed") or {}
                rows.append(
                    (
                        *_run_of(result, results),
                        *built,
                        target,
                        *_short(fixed),
                        *_short(ours),
                        *(figure(over.get(key), 2) for key in RATIOS),
                    )
                )
    columns = (
        *_run_heads(results),
        "rows",
        "build s",
        "index MB",
        "replay ms",
        "target",
        "best fixed",
        "recall",
        "mean ms",
        "p99 ms",
        "vectuned",
        "its recall",
        "its mean ms",
        "its p99 ms",
        *RATIOS.values(),
    )
    return [Table("", columns, rows, len(_run_heads(results)))]


def _advising(results: Sequence[Result], targets: Sequence[str]) -> list[Table]:
    heads = _run_heads(results)
    advised = [(*_run_of(result, results), figure(result.result["advised"])) for result in results]
    arms = [
        (*_run_of(result, results), *_arm(name, arm))
        for result in results
        for name, arm in result.result["arms"].items()
    ]
    foreseen = [
        (*_run_of(result, results), place, what, *_effort(each[what]))
        for result in results
        for place, each in _forecasts(result.result)
        for what in ("predicted", "measured")
    ]
    over = [
        (*_run_of(result, results), of, figure(ratio.get("mean_ms"), 2), figure(ratio.get("p99_ms"), 2))
        for result in results
        for of in ("fixed", "default")
        for ratio in [result.result.get(f"vectuned_over_{of}")]
        if ratio
    ]
    return [
        Table("", (*heads, "advised index"), advised, len(heads) + 1),
        Table(
            "Predicted and measured", (*heads, "at", "", "recall", "ms", "buffers"), foreseen, len(heads) + 2
        ),
        Table("Arms", (*heads, *_arm_heads(results[0].result.get("k"))), arms, len(heads) + 2),
        Table("vectuned", (*heads, "over", "mean", "p99"), over, len(heads) + 1),
    ]


def _first_index(results: Sequence[Result], targets: Sequence[str]) -> list[Table]:
    """Return what was built, the forecast beside what was measured, and the arms."""
    heads = _run_heads(results)
    built, foreseen, arms = [], [], []
    for result in results:
        found, run = result.result, _run_of(result, results)
        build, forecast = found["build"], found["forecast"]
        served: Mapping[str, Any] = next(iter(found["serving"]), {})
        proven = figure(served.get("recall_bound"), 3) if served.get("certified") else "not proven"
        built.append((*run, figure(found["advised"]), figure(found["advise_seconds"]), proven))
        foreseen += [
            (*run, what, figure(seconds), figure(size), *_effort(forecast[what])[:2])
            for what, seconds, size in (
                ("predicted", build["foreseen_seconds"], build["foreseen_mb"]),
                ("measured", build["seconds"], build["mb"]),
            )
        ]
        arms += [(*run, *_arm(name, arm)) for name, arm in found["arms"].items()]
    return [
        Table("", (*heads, "advised index", "advise s", "proven recall"), built, len(heads) + 1),
        Table(
            "Predicted and measured", (*heads, "", "build s", "MB", "recall", "ms"), foreseen, len(heads) + 1
        ),
        Table("Arms", (*heads, *_arm_heads(results[0].result.get("k"))), arms, len(heads) + 2),
    ]


def _forecasts(value: Any, place: str = "the target") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield predicted beside measured figures, at any depth, with the name of the place."""
    if isinstance(value, Mapping):
        if isinstance(value.get("predicted"), Mapping) and isinstance(value.get("measured"), Mapping):
            yield place, value
        for key, each in value.items():
            yield from _forecasts(each, str(key).replace("_", " "))


def _effort(found: Mapping[str, Any]) -> tuple[str, ...]:
    blocks = found.get("buffers", found.get("blocks"))
    return figure(found.get("recall"), 3), figure(found.get("ms")), figure(blocks)


def _anatomy(results: Sequence[Result], targets: Sequence[str]) -> list[Table]:
    found = [(result, case, arms) for result in results for case, arms in cases(result.result)]
    parts = [arm for _, _, arms in found for arm in arms.values()]
    keys = list(dict.fromkeys(key for arm in parts for key, value in arm.items() if _is_figure(value)))
    rows = [
        (
            *_run_of(result, results),
            case,
            name,
            *(figure(arm.get(key)) for key in keys),
            *(figure((arm.get("added") or {}).get(key)) for key in _ADDED),
        )
        for result, case, arms in found
        for name, arm in arms.items()
    ]
    by_query = [
        (*_run_of(result, results), *(figure(each[key]) for key in _BY_QUERY))
        for result in results
        for each in [result.result.get("by_query") or {}]
        if each.get("offered")
    ]
    heads = (*_run_heads(results), "case", "part")
    said = (*(key.replace("_", " ") for key in keys), *_ADDED.values())
    return [
        Table("", (*heads, *said), rows, len(heads)),
        Table(
            "Effort by query against the fixed setting, both proven and served by vectuned",
            (*_run_heads(results), *_BY_QUERY.values()),
            by_query,
            len(_run_heads(results)),
        ),
    ]


def _whatever(results: Sequence[Result], targets: Sequence[str]) -> list[Table]:
    rows = [
        (*_run_of(result, results), key, figure(value))
        for result in results
        for key, value in result.result.items()
        if _is_figure(value) or isinstance(value, str)
    ]
    heads = (*_run_heads(results), "figure")
    return [Table("", (*heads, "value"), rows, len(heads))]


_KINDS: Final[Mapping[str, Callable[[Sequence[Result], Sequence[str]], list[Table]]]] = {
    "contest": _contest,
    "growth": _growth,
    "advising": _advising,
    "first_index": _first_index,
    "anatomy": _anatomy,
}


def _is_figure(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, Mapping) and "value" in value)


def _arm_heads(k: int | None) -> tuple[str, ...]:
    return tuple(f"recall@{k or 'k'}" if head == "recall" else head for head in _ARM)


def _arm(name: str, arm: Mapping[str, Any]) -> tuple[str, ...]:
    under = arm.get("below_08")
    percent = NOTHING if under is None else f"{100 * point(under):.1f} %"
    unpaid = "" if arm.get("decision_paid", True) else " (decision unpaid)"
    times = (figure(point(arm.get(key))) for key in ("mean_ms", "p50_ms", "p99_ms"))
    return (
        f"{name}{unpaid}",
        str(arm.get("setting", NOTHING)),
        figure(arm.get("recall"), 3),
        percent,
        *times,
    )


def _short(arm: Mapping[str, Any]) -> Iterator[str]:
    yield str(arm.get("setting", NOTHING))
    yield figure(point(arm.get("recall")), 3)
    yield from (figure(point(arm.get(key))) for key in ("mean_ms", "p99_ms"))


def _described(told: Mapping[str, Any]) -> str:
    """Describe the data of a result."""
    if "set" not in told:
        return ""
    rows, dimensions = told.get("rows"), told.get("dimensions")
    size = f"{rows:,} x {dimensions}" if rows is not None else str(dimensions or "")
    parts = [told["set"], size, told.get("metric"), told.get("workload"), told.get("index")]
    return ", ".join(str(part) for part in parts if part)


def _run_of(result: Result, results: Sequence[Result]) -> tuple[str, ...]:
    return (result.name,) if len(results) > 1 else ()


def _run_heads(results: Sequence[Result]) -> tuple[str, ...]:
    return ("run",) if len(results) > 1 else ()


def _without_empty_columns(table: Table) -> Table:
    """Leave out columns that are empty in every row."""
    kept = [
        at
        for at in range(len(table.columns))
        if at < table.left or any(row[at] not in ("", NOTHING) for row in table.rows)
    ]
    if len(kept) == len(table.columns):
        return table
    rows = [tuple(row[at] for at in kept) for row in table.rows]
    return Table(table.title, tuple(table.columns[at] for at in kept), rows, table.left)


def print_rows(console: Console, title: str, rows: Mapping[str, Mapping[str, float]]) -> None:
    """Print rows of the same named figures as a table."""
    names = list(next(iter(rows.values())))
    body = [(name, *(f"{row[label]:g}" for label in names)) for name, row in rows.items()]
    console.table(["", *names], body, title=title)
    console.line()
