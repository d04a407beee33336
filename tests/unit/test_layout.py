"""The house stays as it was drawn: who imports whom, and what a wheel holds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("config", "sql", "learning", "reasoning", "daemon")

ALLOWED = {
    "config": (),
    # The client in `sql` is to stay light, so no settings and what they draw in.
    "sql": ("config.errors",),
    "learning": ("config", "sql"),
    "reasoning": ("config", "sql", "learning"),
    "daemon": ("config", "sql", "learning", "reasoning"),
}


# Sub-folders of a top folder, lowest first: a module imports from its own folder and from those before it.
# The modules directly in the top folder stand where "" stands.
ORDER = {
    "config": ("",),
    "sql": ("",),
    "learning": ("model", "statistics", "truth", "replay", "patterns", "policy", "oversight", ""),
    "reasoning": ("", "graph", "embedding", "store", "answering", "answering/nodes", "wordnet"),
    "daemon": (
        "",
        "server",
        "pacing",
        "database",
        "measure",
        "reports",
        "service",
        "advisor",
        "demo",
        "cli",
        "cli/administration",
        "cli/tuning",
        "cli/measuring",
        "cli/reasoning",
    ),
}
# The modules that put the parts of their sub-folders together.
ENTRANCES = {
    "daemon/__main__.py": "cli",
    "daemon/cli/main.py": "cli/reasoning",
    "reasoning/answering/reasoner.py": "answering/nodes",
}
# What .pkg/vectuned holds besides the links to the folders; client.py is vectuned.sql.client by a short name.
OWN_FILES = {"__init__.py", "client.py", "py.typed"}
MOST_FILES = 15  # on one level: more cannot be taken in at a glance


def modules() -> list[Path]:
    """List every module of ours, those of tests and benchmarks as well."""
    return sorted(
        path.relative_to(ROOT)
        for folder in (*FOLDERS, "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    )


def imported(source: str, package: str) -> Iterator[str]:
    """Yield the full names that a module in a package (such as `vectuned.daemon`) imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                kept = parents[: len(parents) - node.level + 1]
                base = ".".join([*kept, base]) if base else ".".join(kept)
            yield base
            # `from vectuned import daemon` names a module only in its second half.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(path: Path, source: str) -> list[str]:
    """List the imports that the module at a path below the root may not have."""
    folder = path.parts[0]
    package = ".".join(path.parent.parts)
    found = []
    for name in imported(source, f"vectuned.{package}" if folder in FOLDERS else package):
        first, _, rest = name.partition(".")
        if first in FOLDERS:
            found.append(name)
        elif first == "vectuned" and folder in FOLDERS and rest.partition(".")[0] in FOLDERS:
            permitted = (folder, *ALLOWED[folder])
            # `from vectuned.config import errors` yields the bare folder first, then the whole name.
            if not any(
                rest == each or rest.startswith(f"{each}.") or each.startswith(f"{rest}.")
                for each in permitted
            ):
                found.append(name)
    return found


@pytest.mark.parametrize("path", modules(), ids=str)
def test_imports_go_one_way_and_by_full_name(path: Path) -> None:
    source = (ROOT / path).read_text()
    assert violations(path, source) == []


@pytest.mark.parametrize(
    ("folder", "source", "bad"),
    [
        ("daemon", "from learning.replay import replay", ["learning.replay", "learning.replay.replay"]),
        ("tests", "import daemon.cli", ["daemon.cli"]),
        ("benchmarks", "def f():\n    import sql", ["sql"]),
        (
            "learning",
            "from vectuned.daemon.cli.main import main",
            ["vectuned.daemon.cli.main", "vectuned.daemon.cli.main.main"],
        ),
        ("learning", "from vectuned import reasoning", ["vectuned.reasoning"]),
        (
            "learning",
            "from ..reasoning.errors import x",
            ["vectuned.reasoning.errors", "vectuned.reasoning.errors.x"],
        ),
        ("config", "import vectuned.sql.files", ["vectuned.sql.files"]),
        ("sql", "from vectuned.config.settings import Settings", None),
        ("sql", "from vectuned.config.errors import VectunedError", []),
        ("sql", "from vectuned.config import errors", []),
        ("sql", "from vectuned.config import settings", ["vectuned.config.settings"]),
        ("daemon", "from . import embedded\nfrom .embedded import x\nfrom vectuned.learning import y", []),
        ("tests", "import vectuned\nfrom vectuned.daemon import cli\nimport sqlite3", []),
        ("config", "import configparser", []),
    ],
)
def test_the_guard_itself(folder: str, source: str, bad: list[str] | None) -> None:
    found = violations(Path(folder, "module.py"), source)
    assert found if bad is None else found == bad


def subfolder(name: str) -> tuple[str, str]:
    """Split `vectuned.learning.replay.scan` into ("learning", "replay"), and a module's own name off."""
    top, *rest = name.removeprefix("vectuned.").split(".")
    place = Path()
    for part in rest:
        if not (ROOT / top / place / part).is_dir():
            break
        place /= part
    return top, "" if place == Path() else str(place)


def upward(path: Path, source: str) -> list[str]:
    """List what the module at a path below the root imports from sub-folders that stand above its own."""
    top, own = path.parts[0], "/".join(path.parts[1:-1])
    order = ORDER[top]
    mine = order.index(ENTRANCES.get(str(path), own))
    package = ".".join(("vectuned", *path.parts[:-1]))
    found = []
    for name in imported(source, package):
        if name.startswith(f"vectuned.{top}."):
            _, theirs = subfolder(name)
            is_folder = (
                ROOT / top / theirs
            ).is_dir() and name == f"vectuned.{top}.{theirs.replace('/', '.')}"
            if not is_folder and order.index(theirs) > mine:
                found.append(name)
    return found


@pytest.mark.parametrize("path", [path for path in modules() if path.parts[0] in FOLDERS], ids=str)
def test_subfolders_import_downwards_only(path: Path) -> None:
    assert upward(path, (ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    ("path", "source", "bad"),
    [
        ("learning/model/column.py", "from vectuned.learning.truth.truth import Truth", 2),
        ("learning/model/column.py", "from ..truth import truth", 1),
        ("learning/truth/truth.py", "from vectuned.learning.model.column import Metric", 0),
        ("learning/truth/truth.py", "from .neighbors import Block", 0),
        ("learning/truth/truth.py", "from vectuned.learning import advisor", 1),
        ("learning/advisor.py", "from vectuned.learning.policy.learner import learn", 0),
    ],
)
def test_guard_finds_imports_from_above(path: str, source: str, bad: int) -> None:
    assert len(upward(Path(path), source)) == bad


@pytest.mark.parametrize("folder", [*FOLDERS, "tests"])
def test_no_level_has_more_files_than_can_be_taken_in(folder: str) -> None:
    levels = Counter(
        path.parent
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.name != "__init__.py" and "__pycache__" not in path.parts
    )
    assert {str(level): n for level, n in levels.items() if n > MOST_FILES} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_package_is_a_link_and_empty_inside(folder: str) -> None:
    assert (ROOT / ".pkg" / "vectuned" / folder).resolve() == ROOT / folder
    assert {path.read_text() for path in (ROOT / folder).rglob("__init__.py")} == {""}


def test_package_holds_its_own_files_and_the_links() -> None:
    held = [path for path in (ROOT / ".pkg" / "vectuned").iterdir() if path.name != "__pycache__"]
    assert {path.name for path in held if path.is_symlink()} == set(FOLDERS)
    assert {path.name for path in held if not path.is_symlink()} == OWN_FILES


def test_wheel_holds_the_tree_and_nothing_else(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        str(tmp_path),
        str(ROOT),
    ]
    built = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    held = {name for name in names if ".dist-info/" not in name}
    tree = {
        f"vectuned/{path.relative_to(ROOT)}"
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == tree | {f"vectuned/{name}" for name in OWN_FILES}
    assert len(names) == len(set(names))
    kinds = {Path(name).suffix for name in held}
    assert {".py", ".sql", ".toml"} <= kinds
    metadata = {name.partition(".dist-info/")[2] for name in names} - {""}
    assert {
        "METADATA",
        "WHEEL",
        "RECORD",
        "entry_points.txt",
        "licenses/LICENSE",
        "licenses/NOTICE",
    } == metadata


def test_every_statement_has_a_name_of_its_own() -> None:
    texts = [path.read_text() for path in (ROOT / "sql" / "tuner" / "queries").glob("*.sql")]
    names = [name for text in texts for name in re.findall(r"^-- name: *(\w+)", text, flags=re.M)]
    assert len(names) > 100
    assert len(set(names)) == len(names)
