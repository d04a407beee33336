"""`vectuned config`, `--set` and `--database`, run in this process: none of it needs a database."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from vectuned.config.settings import SECTIONS
from vectuned.daemon.cli.main import build_parser, main
from vectuned.daemon.database.connect import redact

SHOP = "[databases.shop]\ndsn = 'host=/nowhere dbname=shop password=hunter2'\n"
LIBRARY = "[databases.library]\ndsn = 'host=/nowhere dbname=library'\n"


@pytest.fixture(autouse=True)
def _no_other_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("VECTUNED_", "PG")):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "vectuned.toml"
    file.write_text("[learning]\nseed = 4\n")
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_check_says_what_is_valid(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    assert run(capsys, "config", "check") == (0, "the configuration (no file) is valid\n", "")
    assert run(capsys, "config", "check", "--config", file) == (0, f"{file} is valid\n", "")
    monkeypatch.setenv("VECTUNED_CONFIG", str(file))
    monkeypatch.setenv("VECTUNED_LEARNING__CLUSTERS", "8")
    expected = f"{file} with VECTUNED_LEARNING__CLUSTERS, command line is valid\n"
    assert run(capsys, "config", "check", "--set", "inbox.max_mb=7") == (0, expected, "")
    code, out, _ = run(capsys, "config", "check", "--json")
    assert (code, json.loads(out)) == (0, {"valid": True, "problems": []})


@pytest.mark.parametrize("what", ["check", "show"])
def test_a_broken_configuration_is_told_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: Path, what: str
) -> None:
    file.write_text("[learning]\nseed = 'x'\n[nonsense]\n[logging]\nlevel = 'LOUD'\n")
    monkeypatch.setenv("VECTUNED_INBOX__MAX_MB", "-1")
    code, out, err = run(capsys, "config", what, "--config", file, "--set", "budget.core_share=nan")
    assert (code, out) == (78, "")
    assert err.startswith(f"vectuned: {file}: learning.seed must be a whole number at least 0")
    for told in ("[nonsense]", "logging.level", "VECTUNED_INBOX__MAX_MB: inbox.max_mb", "budget.core_share"):
        assert told in err
    assert err.count("\n") == 1
    code, out, err = run(capsys, "config", "check", "--json", "--config", file)
    assert code == 78
    document = json.loads(out)
    assert document["valid"] is False
    assert len(document["problems"]) == 4


def test_show_tells_each_value_and_its_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setenv("VECTUNED_INBOX__MAX_MB", "7")
    monkeypatch.setenv("VECTUNED_HOME", "/srv/home")
    arguments = ("config", "show", "--config", file, "--set", "database.application_name=[/] :smile:")
    code, out, err = run(capsys, *arguments)
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
    code, out, _ = run(capsys, *arguments, "--json")
    document = json.loads(out)
    assert document["file"] == str(file)
    assert list(document["settings"]) == every
    assert document["settings"]["inbox.max_mb"] == {"value": 7, "source": "VECTUNED_INBOX__MAX_MB"}
    assert document["databases"] == [
        {"name": None, "chosen": "an existing server, since the environment sets PGSERVICE=shop"}
    ]


def test_show_stars_passwords(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    file.write_text(f"{SHOP}replay_dsn = 'postgresql://ann:hunter2@standby:5433/shop?sslpassword=hunter2'\n")
    for form in ((), ("--json",)):
        code, out, _ = run(capsys, "config", "show", "--config", file, *form)
        assert code == 0
        assert "hunter2" not in out
        assert "password=**** dbname=shop host=/nowhere" in out
        assert "user=ann password=**** dbname=shop host=standby port=5433 sslpassword=****" in out
    assert "hunter2" not in run(capsys, "config", "show", "--dsn", "password=hunter2")[1]


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://ann:hunter2@db:5433/shop?connect_timeout=3",
        "postgres://ann:hunter%32@db/shop",
        "postgresql://db/shop?password=hunter2",
        "host=db password=hunter2 dbname='a b' user=ann",
        r"password='hunter2 \'x' host=db",
        "host=db sslpassword=hunter2",
        "host=db oauth_client_secret=hunter2",
        "host=db scram_client_key=hunter2 scram_server_key=hunter2",
    ],
)
def test_only_the_secrets_of_a_dsn_are_starred(dsn: str) -> None:
    told = redact(dsn)
    assert "hunter" not in told
    given, kept = conninfo_to_dict(dsn), conninfo_to_dict(told)
    assert given.keys() == kept.keys()
    changed = {name for name in given if given[name] != kept[name]}
    assert changed
    assert {kept[name] for name in changed} == {"****"}


@pytest.mark.parametrize("dsn", ["", "postgresql://ann@db/shop", "service=shop", "host=db  user=ann"])
def test_a_dsn_without_secrets_stays_as_it_was_written(dsn: str) -> None:
    assert redact(dsn) == dsn


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("config", "check", "--set", "learning.sed=1"), 78, "learning.sed (did you mean learning.seed?)"),
        (("config", "check", "--set", "learning.seed=x"), 78, "Command line: learning.seed must be a whole"),
        (("status", "--set", "budget.core_share=0"), 78, "Command line: budget.core_share must be a number"),
        (("run", "--set", "logging.level=LOUD"), 78, "Command line: logging.level must be one of DEBUG, "),
        (("status", "--dsn", "x", "--set", "learning.seed=x"), 2, "not a connection string"),
        (("status", "--dsn", "dbname=a", "--set", "database.dsn=dbname=b"), 2, "give one of them"),
        (("status", "--dsn", "dbname=a", "--database", "b"), 2, "give one of them"),
        (("status", "--database", "shop"), 2, "There is no database shop: the configuration has no section"),
        (("status", "--set", "database.dsn=host=/nowhere dbname=b"), 69, "to host=/nowhere dbname=b (conn"),
        (("status", "--config", "/a\x1b[2J\n"), 78, r"The configuration file /a\x1b[2J\n does not exist."),
    ],
)
def test_what_the_command_line_overrides_is_checked_too(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: int, said: str
) -> None:
    returned, out, err = run(capsys, *arguments)
    assert (returned, out) == (code, "")
    assert said in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("text", ["x", "=", "seed=1", "learning=1", ""])
def test_an_override_needs_section_key_and_value(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit) as exited:
        main(["status", "--set", text])
    assert exited.value.code == 2
    assert "is not SECTION.KEY=VALUE" in capsys.readouterr().err


def test_one_of_several_databases_is_chosen_by_name(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    file.write_text(SHOP + LIBRARY)
    for arguments in (("status",), ("migrate",), ("learn", "--once")):
        code, _, err = run(capsys, *arguments, "--config", file)
        assert (code, err) == (
            2,
            "vectuned: Several databases are configured: choose one of shop, library with --database.\n",
        )
    code, _, err = run(capsys, "status", "--config", file, "--database", "library")
    assert code == 69
    assert "No connection to host=/nowhere dbname=library" in err
    code, _, err = run(capsys, "status", "--config", file, "--database", "librari")
    assert (code, err) == (2, "vectuned: There is no database librari: choose one of shop, library.\n")
    code, _, err = run(capsys, "status", "--config", file, "--dsn", "host=/nowhere dbname=other")
    assert code == 69
    assert "No connection to host=/nowhere dbname=other" in err


def test_commands_that_work_on_all_databases_choose_none(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("run", "demo", "config"):
        with pytest.raises(SystemExit):
            build_parser().parse_args(
                [command, *(["check"] if command == "config" else []), "--database", "x"]
            )
        assert "unrecognized arguments: --database" in capsys.readouterr().err
