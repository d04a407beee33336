"""The pages of the documentation: links, commands, names and words."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.pages_helpers import FOLDERS, PAGES, ROOT, Example, anchors, examples, links, prose, read

from benchmarks.__main__ import _parser as benchmarks_parser
from vectuned.config.settings import SECTIONS, load_configuration
from vectuned.daemon.cli.main import build_parser
from vectuned.daemon.reports.metrics import column_families, job_families
from vectuned.daemon.service.jobs import JOBS

LANGUAGES = {"", "sh", "sql", "python", "toml", "yaml", "text"}
SHELL = [example for page in PAGES for example in examples(page) if example.language == "sh"]
TOML = [example for page in PAGES for example in examples(page) if example.language == "toml"]

# Words that are archaic or vague in technical English, and vocabulary that was given up.
FORBIDDEN = re.compile(
    r"\b(nobody|somebody|whoever|whomever|whom|anew|merely|mere|lest|told|in no time|for ever|so many|be it"
    r"|of its own accord|in care|into care|under care|takes? care of|foreseen|comes down to|hardly any)\b",
    re.IGNORECASE,
)


def place(example: Example) -> str:
    return f"{example.page}:{example.line}"


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_of_a_page_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for number, target in links(page):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page.parent / path).resolve() if path else ROOT / page
        is_page = file.suffix == ".md" and file.is_file()
        if not file.exists() or (anchor and not (is_page and anchor in anchors(file.relative_to(ROOT)))):
            broken.append(f"{page}:{number}: {target}")
    assert broken == []


def test_every_page_is_linked_from_another() -> None:
    linked = {
        (ROOT / page.parent / target.partition("#")[0]).resolve()
        for page in PAGES
        for _, target in links(page)
        if not target.startswith(("#", "http"))
    }
    assert [str(page) for page in PAGES if page != Path("README.md") and ROOT / page not in linked] == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_words_of_a_page_are_plain(page: Path) -> None:
    found = [
        f"{page}:{number}: {word[0]}" for number, line in prose(page) for word in FORBIDDEN.finditer(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    "text", ["Nobody should guess.", "learn it anew", "a mere lookup", "what it was told"]
)
def test_forbidden_words_are_found(text: str) -> None:
    assert FORBIDDEN.search(text)
    assert not FORBIDDEN.search("a metre, renewed")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_examples_of_a_page_name_their_language(page: Path) -> None:
    assert [place(each) for each in examples(page) if each.language not in LANGUAGES] == []


def test_readme_is_short_and_begins_with_the_two_commands_that_set_up() -> None:
    readme = Path("README.md")
    assert len(read(readme).splitlines()) <= 150
    first, second = [each.text for each in examples(readme) if each.language == "sh"][:2]
    assert first == 'python3 -m venv .venv && .venv/bin/pip install ".[demo]" && .venv/bin/vectuned demo'
    assert second == '.venv/bin/pip install ".[demo,test]" && .venv/bin/python -m pytest'


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("own SQL", "Own SQL and ORMs"),
        ("PgBouncer", "Poolers"),
        ("jsonb", "jsonb"),
        ("How many searches", "How many searches it takes"),
        ("promised", "What is promised"),
        ("slower", "Why it can be slower than a fixed setting"),
        ("Which index", "Choose an index"),
        ("does it store", "What is stored"),
        ("logs", "Logs"),
        ("upgrade", "Upgrade"),
        ("remove", "Uninstall"),
    ],
)
def test_questions_of_users_are_answered_one_click_from_readme(question: str, answer: str) -> None:
    (row,) = [line for _, line in prose(Path("README.md")) if line.startswith("|") and f"{question}" in line]
    headings = set()
    for target in re.findall(r"\]\(([^)]+)\)", row):
        path, _, anchor = target.partition("#")
        texts = [line.lstrip("# ") for _, line in prose(Path(path)) if line.startswith("#")]
        headings |= {text for text in texts if not anchor or text.lower().replace(" ", "-") == anchor}
    assert answer in headings


@pytest.mark.parametrize("example", SHELL, ids=place)
def test_shell_examples_are_understood_by_the_commands(example: Example) -> None:
    commands = example.commands
    assert commands != []
    for words in commands:
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words = words[1:]
        if Path(words[0]).name == "vectuned":
            build_parser().parse_args(words[1:])
        elif words[1:3] == ["-m", "benchmarks"]:
            benchmarks_parser().parse_args(words[3:])


@pytest.mark.parametrize("example", TOML, ids=place)
def test_toml_examples_are_valid_configurations(example: Example, tmp_path: Path) -> None:
    file = tmp_path / "vectuned.toml"
    file.write_text(example.text)
    load_configuration(file, environ={})


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    known = {f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields}
    names = re.findall(rf"`((?:{'|'.join(SECTIONS)})\.[a-z_]+)", read(page))
    assert (
        set(names) - known - {f"{section}.{end}" for section in SECTIONS for end in ("py", "toml")} == set()
    )


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_files_that_a_page_names_exist(page: Path) -> None:
    names = {
        name
        for _, line in prose(page)
        for name in re.findall(r"`([\w./-]+\.(?:py|sql|toml|service|html))`", line)
        if "NNNN" not in name and not name.startswith(("/", "psycopg.", "vectuned."))
    }
    folders = {ROOT, ROOT / page.parent}
    files = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.*")}
    lost = [name for name in names if not any((folder / name).exists() for folder in folders)]
    # A name without a folder may be a file anywhere.
    assert [name for name in sorted(lost) if "/" in name or name not in files] == []


def test_jobs_are_all_described() -> None:
    section = read(Path("daemon/README.md")).partition("## The jobs")[2].partition("\n## ")[0]
    names = [name for row in re.findall(r"^\| ([a-z, ]+) \|", section, re.M) for name in row.split(", ")]
    assert sorted(names) == sorted(["job", *(job.name for job in JOBS)])


def test_metrics_that_pages_name_exist() -> None:
    families = [*column_families({}), *job_families({})]
    known = {f"{each.name}_total" if each.type == "counter" else each.name for each in families}
    kinds = "up|served|alarms|target|serving|recent|behind|awaiting|in_inbox|job"
    named = set(re.findall(rf"\b(vectuned_(?:{kinds})\w*)", read(Path("daemon/docs/monitoring.md"))))
    assert len(named) > 10
    assert named - known == {"vectuned_up"}
