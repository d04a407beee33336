"""The benchmarks as a suite: definitions, result files, and the figures that come from those."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import benchmarks
from benchmarks import __main__ as command
from benchmarks.definitions import DEFINITIONS, Definition, Script, load_definitions
from benchmarks.figures import rewrite
from benchmarks.plots import draw, picture
from benchmarks.records import LARGEST, RESULTS, Result, record, rounded, store, stored
from benchmarks.runner import finish
from benchmarks.tables import figure, tables, walk
from vectuned.config.errors import ConfigurationError, UsageError, VectunedError


def interval(value: float, spread: float = 0.1) -> dict[str, float]:
    return {"value": value, "at_least": value * (1 - spread), "at_most": value * (1 + spread)}


def arm(recall: float, ms: float, setting: str = "ef_search 40") -> dict[str, Any]:
    times = {key: interval(ms * by) for key, by in (("mean_ms", 1.0), ("p50_ms", 0.9), ("p99_ms", 2.0))}
    recalls = {"value": recall, "at_least": recall - 0.004, "at_most": min(recall + 0.004, 1.0)}
    return {"queries": 2000, "setting": setting, "recall": recalls, "below_08": interval(0.06), **times}


def raced(scale: float = 1.0) -> dict[str, Any]:
    found = {}
    for target, ms in (("0.95", 2.0), ("0.98", 4.0), ("0.99", 7.0)):
        found[target] = {
            "arms": {
                "default": arm(0.88, scale * 1.1),
                "best fixed": arm(float(target) + 0.002, scale * ms, "ef_search 108"),
                "vectuned": arm(float(target) + 0.001, scale * ms * 0.75, "by query"),
                "oracle": arm(float(target), scale * ms * 0.5) | {"decision_paid": False},
                "exact": arm(1.0, scale * 60.0, "every row compared"),
            },
            "vectuned_over_fixed": {"mean_ms": interval(0.75), "p99_ms": interval(0.9)},
        }
    return found


ABOUT = {
    "set": "made up",
    "rows": 100_000,
    "dimensions": 256,
    "metric": "cosine",
    "k": 10,
    "training": 3000,
    "heldout": 2000,
    "index": "HNSW m=16",
    "server": "PostgreSQL 18.6, pgvector 0.8.6",
}
CURVE = [
    {"ef_search": ef, "recall": 1 - 2 / ef, "ms": ef / 40, "buffers": 9 * ef} for ef in (10, 40, 200, 800)
]
MADE_UP: dict[str, dict[str, Any]] = {
    "contest": {**ABOUT, "workload": "unfiltered", "targets": raced()},
    "growth": {
        **{key: value for key, value in ABOUT.items() if key != "rows"},
        "sizes": [
            {
                "rows": rows,
                "build_seconds": rows / 500,
                "index_mb": rows / 700,
                "replay_ms": 21.0,
                "targets": raced(scale),
                "curve": [{**step, "ms": step["ms"] * scale} for step in CURVE],
            }
            for rows, scale in ((10_000, 0.6), (100_000, 1.0), (1_000_000, 1.7))
        ],
    },
    "advising": {
        **ABOUT,
        "advised": "CREATE INDEX ON items USING hnsw ((embedding::halfvec(256)) halfvec_cosine_ops)",
        "forecast": {
            "at_the_target": {
                "predicted": {"recall": 0.981, "ms": 3.1, "blocks": 900},
                "measured": {"recall": 0.98, "ms": 2.85, "blocks": 870},
            },
        },
        "arms": {
            "default, usual index": arm(0.88, 1.1),
            "best fixed, usual index": arm(0.98, 4.0),
            "vectuned, advised index": arm(0.982, 2.0),
        },
        "vectuned_over_fixed": {"mean_ms": interval(0.5), "p99_ms": interval(0.6)},
    },
    "anatomy": {
        "unfiltered": {"parts": {"bare search": arm(0.9, 1.0), "in a function": arm(0.9, 1.2)}},
        "filtered": {"parts": {"bare search": arm(0.9, 2.0), "in a function": arm(0.9, 2.4)}},
    },
}


def definition(kind: str) -> Definition:
    # Not validated: the modules of the kinds are not needed to show their results.
    return Definition.model_construct(shows="something", minutes=1.0, kind=kind)


def keep(folder: Path, kind: str, name: str | None = None) -> Result:
    result = record(name or kind, definition(kind).as_run(), 7, lambda: MADE_UP[kind])
    store(result, folder)
    return result


def test_the_repositorys_figures_are_those_of_its_result_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["figures", "--check"]) == 0, capsys.readouterr().err


def test_the_repositorys_results_belong_to_runs_and_are_small() -> None:
    definitions = load_definitions()
    for path in RESULTS.glob("*"):
        result = stored(path.stem, RESULTS)
        assert result is not None
        assert tables(definitions[path.stem], [result])
        assert path.stat().st_size <= LARGEST
        assert result.definition == definitions[path.stem].as_run()


def test_every_script_is_run_with_options_it_has() -> None:
    for name, run in load_definitions().items():
        if isinstance(run, Script):
            text = (DEFINITIONS.parent / run.script).read_text()
            known = set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', text))
            asked = {argument for argument in run.arguments if argument.startswith("--")} | {"--seed"}
            asked |= {"--json"} if run.document == "file" else set()
            asked |= {"--dsn"} if run.takes_dsn else set()
            assert asked <= known, name
            assert ("--dsn" in known) == run.takes_dsn, name


@pytest.mark.parametrize(
    "script", sorted({run.script for run in load_definitions().values() if isinstance(run, Script)})
)
def test_every_script_starts_as_a_run_starts_it(script: str) -> None:
    code, text = finish([sys.executable, str(DEFINITIONS.parent / script), "--help"], subprocess.PIPE)
    assert code == 0
    assert text.startswith("usage: ")


def test_every_mistake_in_definitions_is_named_with_its_place(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(
        'x = 1\n[runs.Bad]\nshows = ""\nminutes = "a"\nkind = "nothing"\n[runs.good]\nshows = "s"\n'
        'minutes = 1\nkind = "script"\nscript = "../x.py"\njson = "no"\ncolour = 3\n'
        'tables = [{ rows = "a", columns = { a = 1 } }]\n'
    )
    with pytest.raises(ConfigurationError) as caught:
        load_definitions(wrong)
    places = {problem.partition(":")[0] for problem in caught.value.problems}
    assert places == {
        "x is unknown",
        "runs.Bad",
        "runs.Bad.shows",
        "runs.Bad.minutes",
        "runs.Bad.kind",
        "runs.good.json",
        "runs.good.script",
        "runs.good.colour",
        "runs.good.tables.0.columns.a",
    }
    assert "all stands in [runs.NAME]" in str(caught.value)
    wrong.write_text("[runs\n")
    with pytest.raises(ConfigurationError, match=r"is not TOML: .*line 1"):
        load_definitions(wrong)


def test_a_result_is_read_as_it_was_stored_and_says_where_it_is_from(tmp_path: Path) -> None:
    kept = keep(tmp_path, "contest")
    assert stored("contest", tmp_path) == kept
    assert [path.name for path in tmp_path.iterdir()] == ["contest.json"]
    assert kept.seed == 7
    assert kept.machine.cores >= 1
    assert kept.started.utcoffset() is not None
    assert stored("growth", tmp_path) is None


def test_a_result_that_cannot_be_written_leaves_the_former(tmp_path: Path) -> None:
    result = keep(tmp_path, "contest")
    before = (tmp_path / "contest.json").read_bytes()

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(VectunedError, match=r"cannot be written to .*contest\.json: File too large"):
            store(result, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "contest.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["contest.json"]


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    keep(tmp_path, "contest").model_dump()
    document = json.loads((tmp_path / "contest.json").read_text())
    (tmp_path / "other.json").write_text(json.dumps(document))
    with pytest.raises(VectunedError, match=r"is the result of contest, not of other"):
        stored("other", tmp_path)
    del document["machine"]["cores"]
    (tmp_path / "contest.json").write_text(json.dumps(document))
    with pytest.raises(VectunedError, match=r"contest\.json is not a result, machine\.cores: Field required"):
        stored("contest", tmp_path)


def test_floats_are_rounded_and_what_is_no_number_is_null() -> None:
    given = {
        1: np.float32(0.1234567),
        "a": np.array([1.0, np.nan]),
        "b": (123456.789, True, None, np.int64(3)),
    }
    assert rounded(given) == {"1": 0.12346, "a": [1.0, None], "b": [123460.0, True, None, 3]}
    with pytest.raises(TypeError, match="a result holds no set"):
        rounded({"a": {1}})


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "–"),
        (0.95234, "0.952"),
        (1.126, "1.13"),
        (12.345, "12.3"),
        (7094.2, "7,094"),
        (3, "3"),
        (True, "yes"),
        (interval(0.75), "0.750 (0.675 to 0.825)"),
        ({"value": 0.5}, "0.500"),
        ([1, 2.5], "1, 2.50"),
    ],
)
def test_figures_are_written_to_what_they_are_worth(value: Any, said: str) -> None:
    assert figure(value) == said


def test_a_path_goes_over_what_is_there() -> None:
    told = {"targets": {"0.95": {"rows": [{"n": 1}, {"n": 2}]}, "0.98": {"rows": [{"n": 3}]}}}
    assert list(walk(told, "targets/*/rows/*/n")) == [(("0.95",), 1), (("0.95",), 2), (("0.98",), 3)]
    assert list(walk(told, "targets/0.98/rows")) == [((), [{"n": 3}])]
    assert list(walk(told, "targets/0.95/rows/1/n")) == [((), 2)]
    assert list(walk(told, "targets/0.95/rows/2/n")) == []
    assert list(walk(told, "nothing/*")) == []


def test_figures_come_from_the_files_and_drift_is_seen(tmp_path: Path) -> None:
    definitions = {kind: definition(kind) for kind in MADE_UP} | {"again": definition("contest")}
    text = "\n".join(
        f"# {what}, not `<!-- figures: x -->` or `<!-- end of figures -->`\n"
        f"<!-- figures: {what} -->\nold\n<!-- end of figures -->"
        for what in ("contest targets=0.95", "growth", "advising", "anatomy", "again contest")
    )
    unmeasured, stale = rewrite(text, "x", definitions, tmp_path)
    assert stale[1] == "growth (x, line 6)"
    assert unmeasured.count("not measured yet") == 5
    assert "old" not in unmeasured
    for kind in MADE_UP:
        keep(tmp_path, kind)
    new, stale = rewrite(unmeasured, "x", definitions, tmp_path)
    assert len(stale) == 5
    assert rewrite(new, "x", definitions, tmp_path) == (new, [])
    ours = next(line for line in new.splitlines() if line.startswith("| 0.95 | vectuned |"))
    assert "| by query | 0.951 (0.947 to 0.955) | 6.0 % | 1.50 | 1.35 | 3 | 0.75 (0.68 to 0.82) |" in ours
    assert "| 0.95 | oracle (decision unpaid) |" in new
    only, growth, advising, anatomy, both = new.split("# ")[1:]
    assert "0.98 |" not in only
    assert "load " in only
    assert "n = 2,000, seed 7." in only
    assert growth.count("| 1,000,000 |") == 3
    assert "| at the target | measured | 0.980 | 2.85 | 870 |" in advising
    assert "| filtered | in a function | 2,000 | 0.900 (0.896 to 0.904) |" in anatomy
    assert "`again`: not measured yet" in both
    document = json.loads((tmp_path / "contest.json").read_text())
    document["result"]["targets"]["0.95"]["arms"]["vectuned"]["mean_ms"]["value"] = 9.87
    (tmp_path / "contest.json").write_text(json.dumps(document))
    newer, stale = rewrite(new, "x", definitions, tmp_path)
    assert "| 9.87 |" in newer
    assert [each.partition(" (")[0] for each in stale] == ["contest targets=0.95", "again contest"]


def test_figures_of_a_named_table_hold_its_chosen_rows_only() -> None:
    text = "<!-- figures: demo table=summary -->\n<!-- end of figures -->"
    written, _ = rewrite(text, "x", load_definitions(), RESULTS)
    rows = [line.split(" | ")[:2] for line in written.splitlines() if line.startswith("| ")]
    assert rows[0] == ["| searches", "settings"]
    assert ["| all rows", "pgvector's default"] in rows
    assert len(rows) == 7
    assert "| arm |" not in written


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n<!-- figures: contest -->\n", r"x, line 2: these figures have no"),
        ("<!-- figures: contest -->\n<!-- figures: growth -->\n<!-- end of figures -->", "line 1: these"),
        ("<!-- end of figures -->", "stands where no figures begin"),
        ("<!-- figures: nothing -->\n<!-- end of figures -->", "line 1: There is no run nothing; there"),
        ("<!-- figures: contest growth -->\n<!-- end of figures -->", "cannot share a table"),
        ("<!-- figures: contest a=b -->\n<!-- end of figures -->", "not by a=b"),
        ("<!-- figures: contest table=none -->\n<!-- end of figures -->", "contest has no table none"),
        ("<!-- figures: targets=0.9 -->\n<!-- end of figures -->", "must name a run"),
    ],
)
def test_a_wrong_marker_is_named_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    definitions = {kind: definition(kind) for kind in MADE_UP}
    with pytest.raises(UsageError, match=said):
        rewrite(text, "x", definitions, tmp_path)


DEFINED = """
[runs.broken]
shows = "s"
minutes = 1
kind = "script"
script = "broken.py"
needs = "demo"
[runs.printed]
shows = "s"
minutes = 1
kind = "script"
script = "printed.py"
arguments = ["--json"]
judged = "queries"
[runs.written]
shows = "s"
minutes = 1
kind = "script"
script = "written.py"
json = "file"
takes_dsn = false
[runs.module]
shows = "s"
minutes = 1
kind = "made_up"
set = "x"
seed = 4
"""
PROGRAMS = {
    "broken.py": "raise SystemExit(3)",
    "printed.py": "import json, sys; print(json.dumps({'queries': 5, 'told': sys.argv[1:]}))",
    "written.py": "import sys; print('a table'); file = sys.argv[-1].removeprefix('--json=')\n"
    "open(file, 'w').write('{\"seed\": \"%s\"}' % sys.argv[1])",
    "made_up.py": "def measure(options, console, dsn):\n    console.line('talk')\n"
    "    return {'told': options, 'dsn_given': dsn is not None}",
}


def test_runs_are_done_one_after_another_and_stored(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs.toml").write_text(DEFINED)
    for name, program in PROGRAMS.items():
        (tmp_path / name).write_text(program)
    for module in ("definitions", "runner"):
        monkeypatch.setattr(f"benchmarks.{module}.FOLDER", tmp_path)
    monkeypatch.setattr(benchmarks, "__path__", [*benchmarks.__path__, str(tmp_path)])
    folder, names = tmp_path / "results", ["broken", "printed", "written", "module"]
    place = ["--results", str(folder), "--definitions", str(tmp_path / "runs.toml")]
    assert command.main(["run", *names, *place, "--seed", "3", "--dsn", "dbname=secret"]) == 1
    said = capfd.readouterr()
    assert said.out == ""
    assert "broken failed with exit code 3; it needs what `vectuned demo --dsn ...` loads" in said.err
    assert "written runs without the database of --dsn" in said.err
    assert "a table" in said.err
    assert "talk" in said.err
    assert "n = 5, seed 3" in said.err
    broken, printed, written, measured = (stored(name, folder) for name in names)
    assert broken is None
    assert printed is not None
    assert printed.result["told"] == ["--json", "--seed=3", "--dsn=dbname=secret"]
    assert (printed.seed, printed.definition["script"]) == (3, "printed.py")
    assert written is not None
    assert written.result == {"seed": "--seed=3"}
    assert measured is not None
    assert measured.result == {"told": {"set": "x", "seed": 3}, "dsn_given": True}
    assert measured.definition == {"kind": "made_up", "set": "x"}


def test_the_list_says_what_was_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keep(tmp_path, "contest", "truth")
    assert command.main(["list", "--results", str(tmp_path)]) == 0
    lines = dict(line.split(":", 1) for line in capsys.readouterr().out.splitlines() if line[0] != " ")
    assert lines["truth"].endswith(" by another definition than today's")
    assert lines["overhead"] == " 1 min, after `vectuned demo`, not measured yet"
    assert lines.keys() == load_definitions().keys()


def test_without_matplotlib_a_plot_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(tmp_path, "contest", "truth")
    monkeypatch.setattr("benchmarks.plots.find_spec", lambda _: None)
    assert command.main(["plot", "--results", str(tmp_path), "--folder", str(tmp_path)]) == 2
    assert "Plots need matplotlib, which is not installed" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="matplotlib is in no extra that tests need")
def test_every_kind_has_a_plot(tmp_path: Path) -> None:
    panels = {kind: len(picture(keep(tmp_path, kind)).axes) for kind in MADE_UP}
    assert panels == {"contest": 2, "growth": 3, "advising": 2, "anatomy": 2}
    drawn = tmp_path / "new" / "anatomy.svg"
    draw(keep(tmp_path, "anatomy"), drawn)
    assert "in a function" in drawn.read_text()
