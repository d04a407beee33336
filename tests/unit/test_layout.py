"""The house stays as it was drawn: who imports whom, and what a wheel holds."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import zipfile
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
            "from ..reasoning.corpus import x",
            ["vectuned.reasoning.wordnet.corpus", "vectuned.reasoning.wordnet.corpus.x"],
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


@pytest.mark.parametrize("folder", FOLDERS)
def test_package_is_a_link_and_empty_inside(folder: str) -> None:
    assert (ROOT / ".pkg" / "vectuned" / folder).resolve() == ROOT / folder
    assert (ROOT / folder / "__init__.py").read_text() == ""


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
    assert held == tree | {"vectuned/__init__.py", "vectuned/py.typed"}
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
