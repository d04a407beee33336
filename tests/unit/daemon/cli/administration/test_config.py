"""`vectuned config` checks and shows the configuration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from vectuned.config.settings import SECTIONS

Run = Callable[..., tuple[int, str, str]]

SHOP = "[databases.shop]\ndsn = 'host=/nowhere dbname=shop password=hunter2'\n"


def test_config_check_names_the_sources_of_a_valid_configuration(
    run: Run, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    assert run("config", "check") == (0, "the configuration (no file) is valid\n", "")
    assert run("config", "check", "--config", file) == (0, f"{file} is valid\n", "")
    monkeypatch.setenv("VECTUNED_CONFIG", str(file))
    monkeypatch.setenv("VECTUNED_LEARNING__CLUSTERS", "8")
    expected = f"{file} with VECTUNED_LEARNING__CLUSTERS, command line is valid\n"
    assert run("config", "check", "--set", "inbox.max_mb=7") == (0, expected, "")
    code, out, _ = run("config", "check", "--json")
    assert (code, json.loads(out)) == (0, {"valid": True, "problems": []})


@pytest.mark.parametrize("action", ["check", "show"])
def test_config_reports_all_problems_in_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, file: Path, action: str
) -> None:
    file.write_text("[learning]\nseed = 'x'\n[nonsense]\n[logging]\nlevel = 'LOUD'\n")
    monkeypatch.setenv("VECTUNED_INBOX__MAX_MB", "-1")
    code, out, err = run("config", action, "--config", file, "--set", "budget.core_share=nan")
    assert (code, out) == (78, "")
    assert err.startswith(f"vectuned: {file}: learning.seed must be a whole number at least 0")
    for problem in (
        "[nonsense]",
        "logging.level",
        "VECTUNED_INBOX__MAX_MB: inbox.max_mb",
        "budget.core_share",
    ):
        assert problem in err
    assert err.count("\n") == 1
    code, out, err = run("config", "check", "--json", "--config", file)
    assert code == 78
    document = json.loads(out)
    assert document["valid"] is False
    assert len(document["problems"]) == 4


def test_config_show_prints_each_value_and_its_source(
    run: Run, monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setenv("VECTUNED_INBOX__MAX_MB", "7")
    monkeypatch.setenv("VECTUNED_HOME", "/srv/home")
    arguments = ("config", "show", "--config", file, "--set", "database.application_name=[/] :smile:")
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines()}
    every = [f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields]
    assert set(every) < set(rows)
    for name, source, value in (
        ("learning.seed", str(file), "4"),
        ("learning.clusters", "default", "64"),
        ("learning.enabled", "default", "true"),
        ("inbox.max_mb", "VECTUNED_INBOX__MAX_MB", "7"),
        ("embedded.home", "VECTUNED_HOME", '"/srv/home"'),
        ("database.application_name", "command line", '"[/] :smile:"'),
    ):
        assert rows[name].removeprefix(name).strip().removeprefix(source).strip() == value
    assert rows["database:"].startswith(
        "database: the embedded server, since there is no DSN, and none of PGHOST"
    )

    monkeypatch.setenv("PGSERVICE", "shop")
    code, out, _ = run(*arguments, "--json")
    document = json.loads(out)
    assert document["file"] == str(file)
    assert list(document["settings"]) == every
    assert document["settings"]["inbox.max_mb"] == {"value": 7, "source": "VECTUNED_INBOX__MAX_MB"}
    assert document["databases"] == [
        {"name": None, "chosen": "an existing server, since the environment sets PGSERVICE=shop"}
    ]


def test_config_show_stars_passwords(run: Run, file: Path) -> None:
    file.write_text(f"{SHOP}replay_dsn = 'postgresql://ann:hunter2@standby:5433/shop?sslpassword=hunter2'\n")
    for form in ((), ("--json",)):
        code, out, _ = run("config", "show", "--config", file, *form)
        assert code == 0
        assert "hunter2" not in out
        assert "password=**** dbname=shop host=/nowhere" in out
        assert "user=ann password=**** dbname=shop host=standby port=5433 sslpassword=****" in out
    assert "hunter2" not in run("config", "show", "--dsn", "password=hunter2")[1]
