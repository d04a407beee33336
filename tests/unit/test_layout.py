"""The layout of the code: which folders import which, what a wheel contains, and rules about the text."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("config", "sql", "learning", "reasoning", "daemon")

ALLOWED = {
    "config": (),
    # The client in `sql` must stay light: no settings, which import pydantic.
    "sql": ("config.errors",),
    "learning": ("config", "sql"),
    "reasoning": ("config", "sql", "learning"),
    "daemon": ("config", "sql", "learning", "reasoning"),
}


# Sub-folders of each top folder, lowest first: a module may import from its own folder and from those before
# it. "" stands for the modules directly in the top folder.
ORDER = {
    "config": ("",),
    "sql": ("client", "client/django", ""),
    "learning": (
        "model",
        "statistics",
        "truth",
        "statements",
        "replay",
        "patterns",
        "policy",
        "oversight",
        "",
    ),
    "reasoning": ("", "graph", "embedding", "store", "ranking", "answering", "answering/nodes", "wordnet"),
    "daemon": (
        "",
        "server",
        "pacing",
        "database",
        "measure",
        "reports",
        "check",
        "adopt",
        "observe",
        "work",
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
# Modules that combine the sub-folders and so may import from later ones, up to the folder named.
ENTRANCES = {
    "daemon/__main__.py": "cli",
    "daemon/cli/main.py": "cli/reasoning",
    "reasoning/answering/reasoner.py": "answering/nodes",
}
# Files of .pkg/vectuned besides the links to the folders; client.py re-exports vectuned.sql.client.
OWN_FILES = {"__init__.py", "client.py", "py.typed"}
MOST_FILES = 15  # on one level: more cannot be taken in at a glance


def modules() -> list[Path]:
    """List every module of the project, including tests and benchmarks."""
    return sorted(
        path.relative_to(ROOT)
        for folder in (*FOLDERS, "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
    )


def imported(source: str, package: str) -> Iterator[str]:
    """Yield the full names imported anywhere in a module of a package such as `vectuned.daemon`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                above = parents[: len(parents) - node.level + 1]
                base = ".".join([*above, base]) if base else ".".join(above)
            yield base
            # In `from vectuned import daemon` the imported name may be a module.
            yield from (f"{base}.{alias.name}" for alias in node.names)


def violations(path: Path, source: str) -> list[str]:
    """List the forbidden imports of the module at a path below the root."""
    folder = path.parts[0]
    package = ".".join(path.parent.parts)
    found = []
    for name in imported(source, f"vectuned.{package}" if folder in FOLDERS else package):
        first, _, rest = name.partition(".")
        if first in FOLDERS:
            found.append(name)
        elif first == "vectuned" and folder in FOLDERS and rest.partition(".")[0] in FOLDERS:
            permitted = (folder, *ALLOWED[folder])
            # `from vectuned.config import errors` yields the folder, then the full name.
            if not any(
                rest == each or rest.startswith(f"{each}.") or each.startswith(f"{rest}.")
                for each in permitted
            ):
                found.append(name)
    return found


@pytest.mark.parametrize("path", modules(), ids=str)
def test_imports_follow_the_order_of_folders(path: Path) -> None:
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
def test_violations_finds_forbidden_imports(folder: str, source: str, bad: list[str] | None) -> None:
    found = violations(Path(folder, "module.py"), source)
    assert found if bad is None else found == bad


def subfolder(name: str) -> tuple[str, str]:
    """Return a module's top folder and sub-folder: learning and replay of vectuned.learning.replay.scan."""
    top, *rest = name.removeprefix("vectuned.").split(".")
    folder = Path()
    for part in rest:
        if not (ROOT / top / folder / part).is_dir():
            break
        folder /= part
    return top, "" if folder == Path() else str(folder)


def upward_imports(path: Path, source: str) -> list[str]:
    """List the imports of the module at a path below the root from sub-folders that come after its own."""
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
def test_imports_follow_the_order_of_subfolders(path: Path) -> None:
    assert upward_imports(path, (ROOT / path).read_text()) == []


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
def test_upward_imports_finds_imports_from_later_subfolders(path: str, source: str, bad: int) -> None:
    assert len(upward_imports(Path(path), source)) == bad


@pytest.mark.parametrize("folder", [*FOLDERS, "tests"])
def test_no_folder_has_too_many_files(folder: str) -> None:
    levels = Counter(
        path.parent
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.name != "__init__.py" and "__pycache__" not in path.parts
    )
    assert {str(level): n for level, n in levels.items() if n > MOST_FILES} == {}


@pytest.mark.parametrize("folder", FOLDERS)
def test_package_folders_are_links_and_their_init_files_empty(folder: str) -> None:
    assert (ROOT / ".pkg" / "vectuned" / folder).resolve() == ROOT / folder
    assert {path.read_text() for path in (ROOT / folder).rglob("__init__.py")} == {""}


def test_package_contains_its_own_files_and_the_links() -> None:
    held = [path for path in (ROOT / ".pkg" / "vectuned").iterdir() if path.name != "__pycache__"]
    assert {path.name for path in held if path.is_symlink()} == set(FOLDERS)
    assert {path.name for path in held if not path.is_symlink()} == OWN_FILES


def test_wheel_contains_the_tree_and_nothing_else(tmp_path: Path) -> None:
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


STATEMENT_FOLDERS = ("sql/tuner/queries", "sql/entities/queries")
STATEMENT_FILES = sorted(
    path.relative_to(ROOT) for folder in STATEMENT_FOLDERS for path in (ROOT / folder).rglob("*.sql")
)


@pytest.mark.parametrize(("folder", "least"), [("sql/tuner/queries", 100), ("sql/entities/queries", 50)])
def test_statement_names_are_unique(folder: str, least: int) -> None:
    texts = [path.read_text() for path in (ROOT / folder).rglob("*.sql")]
    names = [name for text in texts for name in re.findall(r"^-- name: *(\w+)", text, flags=re.M)]
    assert len(names) > least
    assert len(set(names)) == len(names)


def uncommented_statements(text: str) -> list[str]:
    """List the named statements of a file that have no comment on the line after their name."""
    return re.findall(r"^-- name: *(\w+).*\n(?!--)", text, flags=re.M)


@pytest.mark.parametrize("path", STATEMENT_FILES, ids=str)
def test_every_statement_has_a_comment(path: Path) -> None:
    assert uncommented_statements((ROOT / path).read_text()) == []


def _is_number(node: ast.expr | None) -> bool:
    """Say whether an expression is made of number literals only."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) and not isinstance(node.value, bool)
    if isinstance(node, ast.UnaryOp):
        return _is_number(node.operand)
    return isinstance(node, ast.BinOp) and _is_number(node.left) and _is_number(node.right)


def _comment_lines(source: str) -> set[int]:
    """Return the numbers of the lines that hold a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}


def unexplained_numbers(source: str) -> list[str]:
    """List the module-level numeric constants of a module without a reason.

    The reason is a comment on a line of the constant or on the line above, or a docstring below. One comment
    above adjacent constants explains all of them.
    """
    body, comments = ast.parse(source).body, _comment_lines(source)
    found, explained = [], -1  # the last line of a constant that is explained
    for place, node in enumerate(body):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not _is_number(node.value):
            continue
        below = body[place + 1] if place + 1 < len(body) else None
        documented = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        last = node.end_lineno or node.lineno
        if documented or comments & {*range(node.lineno - 1, last + 1)} or node.lineno - 1 == explained:
            explained = last
        else:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            found.append(f"{node.lineno}: {ast.unparse(target)}")
    return found


def positional_reads(source: str) -> list[int]:
    """List the lines that read a column of a database row by its position."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == "row"
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, int)
    ]


@pytest.mark.parametrize(
    ("check", "source", "found"),
    [
        (uncommented_statements, "-- name: a\nSELECT 1;\n\n-- name: b\n-- Why.\nSELECT 2;\n", ["a"]),
        (unexplained_numbers, "A = 3\nB: Final = -0.5\n", ["1: A", "2: B"]),
        (unexplained_numbers, "A = 3  # seconds\nB = 60 * 60  # seconds", []),
        (unexplained_numbers, "# Seconds.\nA = 3\nB = 4\n\nC = 5\n", ["5: C"]),
        (unexplained_numbers, 'A = 3\n"""Seconds."""\nB = "#"\nC = True\nD = (1, 2)\n', []),
        (unexplained_numbers, "def f() -> None:\n    a = 3\n", []),
        (positional_reads, "row[0]\nrow.name\nrows[1]\nrow[name]\n", [1]),
    ],
)
def test_guards_of_the_text_find_offenders(
    check: Callable[[str], list[Any]], source: str, found: list[Any]
) -> None:
    assert check(source) == found


PRODUCT = [path for path in modules() if path.parts[0] in FOLDERS]


@pytest.mark.parametrize("path", PRODUCT, ids=str)
def test_every_numeric_constant_has_a_reason(path: Path) -> None:
    assert unexplained_numbers((ROOT / path).read_text()) == []


@pytest.mark.parametrize("path", PRODUCT, ids=str)
def test_rows_are_read_by_name(path: Path) -> None:
    assert positional_reads((ROOT / path).read_text()) == []


def test_the_formatter_lays_out_all_code() -> None:
    directive = "# fmt: " + "skip"
    assert [str(path) for path in modules() if directive in (ROOT / path).read_text()] == []
