"""Settings are read from file, environment and command line; every mistake is reported."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from pydantic import ValidationError

from vectuned.config.errors import ConfigurationError, UsageError
from vectuned.config.settings import SECTIONS, Settings, load_configuration, load_settings

KEYS = [(section, key) for section, model in SECTIONS.items() for key in model.model_fields]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "vectuned.toml"


def test_load_settings_without_sources_returns_the_defaults() -> None:
    settings = load_settings(environ={})
    assert settings == Settings()
    assert settings.database.dsn == ""
    assert settings.database.connect_timeout == 10
    assert settings.learning.replay_batch == 200
    assert settings.schedule.drain_seconds == 10
    assert settings.logging.format == "auto"


def test_vectuned_toml_has_every_setting_at_its_default_and_explained() -> None:
    text = (resources.files("vectuned.config") / "vectuned.toml").read_text(encoding="utf-8")
    assert {**tomllib.loads(text), "databases": {}} == Settings().model_dump()
    for section, key in KEYS:
        body = text.partition(f"[{section}]\n")[2].partition("\n[")[0]
        assert re.search(rf"^# .+\n{key} = ", body, re.MULTILINE), f"{section}.{key} has no comment"


def test_vectuned_toml_loads_with_and_without_its_example(file: Path) -> None:
    text = (resources.files("vectuned.config") / "vectuned.toml").read_text(encoding="utf-8")
    file.write_text(text)
    assert load_settings(file, environ={}) == Settings()
    example = re.sub(r"^# (?=\[databases\.\w+\]$|dsn = |replay_dsn = )", "", text, flags=re.MULTILINE)
    file.write_text(example)
    assert list(load_settings(file, environ={}).databases) == ["shop", "library"]


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_description_of_every_setting_is_whole_sentences(section: str, key: str) -> None:
    assert re.fullmatch(r"[A-Z].+\.", SECTIONS[section].model_fields[key].description or "")


def test_load_settings_later_sources_override_earlier_ones(file: Path) -> None:
    file.write_text("[learning]\nbatch_min = 1\nclusters = 1\nseed = 1\n")
    environ = {"VECTUNED_LEARNING__CLUSTERS": "2", "VECTUNED_LEARNING__SEED": "2", "HOME": "/nowhere"}
    learning = load_settings(file, {"learning.seed": 3, "learning.replay_batch": None}, environ).learning
    assert (learning.batch_min, learning.clusters, learning.seed) == (1, 2, 3)
    assert learning.replay_batch == 200


def test_load_settings_reads_every_key_from_its_variable() -> None:
    chosen: dict[str, dict[str, object]] = {
        "database": {
            "dsn": "dbname=shop",
            "replay_dsn": "host=standby",
            "connect_timeout": 3,
            "application_name": "tuner",
        },
        "learning": {
            "enabled": False,
            "batch_min": 5,
            "replay_batch": 50,
            "confidence": 0.9,
            "false_alarms": 0.01,
            "drift_share": 0.5,
            "max_effort": 400,
            "max_ms": 5.5,
            "clusters": 8,
            "seed": 7,
            "step_aside": 0.1,
        },
        "schedule": {
            "drain_seconds": 0.5,
            "replay_seconds": 1.5,
            "learn_seconds": 2.5,
            "request_seconds": 2.75,
            "refresh_seconds": 6.5,
            "maintain_seconds": 3.5,
            "idle_seconds": 12.5,
            "retention_days": 4,
            "trajectory_mb": 9,
        },
        "budget": {
            "core_share": 0.5,
            "mb_per_hour": 1234.5,
            "pause_above": 8,
            "statement_timeout_seconds": 5.5,
            "lag_seconds": 2.5,
        },
        "index_build": {"memory_mb": 512, "workers": 1},
        "inbox": {"max_mb": 1},
        "export": {"folder": "/srv/out", "import_folder": "/srv/in", "seconds": 60.5, "keep": 3},
        "observe": {"log": "/var/log/postgresql", "prefix": "%m [%p] ", "seconds": 5.5},
        "logging": {"level": "DEBUG", "format": "json"},
        "metrics": {"listen": "127.0.0.1:9187", "report": True},
        "embedded": {"home": "/srv/vectuned"},
        "reasoning": {
            "embedder": "endpoint",
            "embedder_model": "bge-small",
            "embedder_version": "1.5",
            "embedder_url": "http://127.0.0.1:8080/v1",
            "embedder_key_variable": "EMBEDDER_KEY",
            "embedder_dimensions": 384,
            "embedder_seconds": 2.5,
            "embedder_batch": 8,
            "embedding_cache": 0,
            "generator": "endpoint",
            "generator_model": "some-model",
            "generator_url": "http://127.0.0.1:8081/v1",
            "generator_key_variable": "GENERATOR_KEY",
            "generator_seconds": 5.5,
            "generator_tokens": 64,
            "language": "simple",
            "messages": "de",
            "rounds": 1,
            "min_coherence": 0.25,
            "min_completeness": 0.75,
            "relevance": 0.5,
            "max_age_days": 30,
            "connections": 4,
            "count_uses": True,
        },
    }
    assert [(section, key) for section, values in chosen.items() for key in values] == KEYS
    environ = {
        f"VECTUNED_{section.upper()}__{key.upper()}": str(value)
        for section, values in chosen.items()
        for key, value in values.items()
    }
    assert load_settings(environ=environ).model_dump() == {**chosen, "databases": {}}


def test_load_settings_reads_the_environment_of_the_process_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VECTUNED_INBOX__MAX_MB", "7")
    assert load_settings().inbox.max_mb == 7
    assert load_settings(environ={}).inbox.max_mb == 64
    assert Settings().inbox.max_mb == 64


def test_load_settings_reads_the_file_of_vectuned_config_unless_a_path_is_given(
    file: Path, tmp_path: Path
) -> None:
    file.write_text("[inbox]\nmax_mb = 8\n")
    other = tmp_path / "other.toml"
    other.write_text("[inbox]\nmax_mb = 9\n")
    others = {"VECTUNED_HOME": "/srv/vectuned", "VECTUNED_PROGRAMS": "/opt/postgres/bin"}
    environ = {"VECTUNED_CONFIG": str(file), **others}
    assert load_settings(environ=environ).inbox.max_mb == 8
    assert load_settings(other, environ=environ).inbox.max_mb == 9
    assert load_settings(environ={"VECTUNED_CONFIG": ""}).inbox.max_mb == 64


def test_load_settings_raises_for_a_missing_file(file: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"^The configuration file {file} does not exist\.$"):
        load_settings(file, environ={})
    with pytest.raises(ConfigurationError, match=r"toml, named by VECTUNED_CONFIG, does not exist\.$"):
        load_settings(environ={"VECTUNED_CONFIG": str(file)})


def test_load_settings_raises_for_an_unreadable_file(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load_settings(tmp_path, environ={})
    file.write_text("[database\n")
    with pytest.raises(ConfigurationError, match=r"is not valid TOML: .*line 1"):
        load_settings(file, environ={})
    file.write_bytes(b"[database]\ndsn = '\xff'\n")
    with pytest.raises(ConfigurationError, match="is not UTF-8, as TOML must be: see line 2"):
        load_settings(file, environ={})
    file.write_text(f"x = {'[' * 100_000}")
    with pytest.raises(ConfigurationError, match="is not valid TOML: it is nested too deeply"):
        load_settings(file, environ={})
    file.write_text(f"x = {'1' * 10_000}")
    with pytest.raises(ConfigurationError, match="is not valid TOML: Exceeds the limit"):
        load_settings(file, environ={})
    with pytest.raises(ConfigurationError, match="is longer than 1 MB"):
        load_settings(Path("/dev/zero"), environ={})
    # Even root cannot read this file at its beginning.
    with pytest.raises(ConfigurationError, match="/proc/self/mem cannot be read: Input/output error"):
        load_settings(Path("/proc/self/mem"), environ={})
    with pytest.raises(ConfigurationError, match="cannot be read: embedded null byte"):
        load_settings(Path("a\0b"), environ={})


def test_load_settings_ignores_a_byte_order_mark(file: Path) -> None:
    file.write_text("[learning]\nseed = 4\n", encoding="utf-8-sig")
    assert load_settings(file, environ={}).learning.seed == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[databse]\ndsn = ''", "unknown section [databse] (did you mean database?)."),
        ("debug = true", "unknown section [debug] (known: database, learning, "),
        ("database = 5", "database must be a section, [database]."),
        ("[database]\ndns = ''", "unknown key database.dns (did you mean dsn?)."),
        (
            "[database]\nx = ''",
            "unknown key database.x (known: dsn, replay_dsn, connect_timeout, application_name).",
        ),
        ("[database.dsn]\nhost = 'a'", "database.dsn must be text of at most 4096 char"),
        ("[database]\ndsn = 5", "that libpq understands, such as postgresql://user@host/name or host=..."),
        ("[database]\nreplay_dsn = 'x'", "database.replay_dsn must be text"),
        (
            "[database]\napplication_name = ''",
            "must be text of at least 1 character and of at most 63 characters of printable ASCII.",
        ),
        (
            "[database]\nconnect_timeout = '10'",
            "database.connect_timeout must be a whole number at least 1 and at most 3600.",
        ),
        (
            "[learning]\nclusters = 6.4",
            "learning.clusters must be a whole number at least 1 and at most 4096.",
        ),
        ("[learning]\nclusters = true", "learning.clusters must be a whole number"),
        (
            "[learning]\nreplay_batch = 0",
            "learning.replay_batch must be a whole number at least 1 and at most 100000.",
        ),
        (
            "[learning]\nconfidence = 1.0",
            "learning.confidence must be a number at least 0.5 and less than 1.",
        ),
        ("[learning]\nconfidence = nan", "learning.confidence must be a number"),
        ("[learning]\nenabled = 'yes'", "learning.enabled must be true or false."),
        (
            "[schedule]\ndrain_seconds = 0",
            "schedule.drain_seconds must be a number more than 0 and at most 604800.",
        ),
        ("[budget]\ncore_share = 0", "budget.core_share must be a number more than 0 and at most 1."),
        ("databases = 5", "databases must be sections, [databases.NAME]."),
        ("[databases]\ndsn = ''", "databases.dsn must be a section, [databases.dsn]."),
        ("[databases.'a b']\ndsn = ''", "[databases.a b] must be named by 1 to 63 letters, digits, _ and -."),
        ("[databases.a]\ndns = ''", "unknown key databases.a.dns (did you mean dsn?)."),
        ("[databases.a]\ndsn = 5", "databases.a.dsn must be text"),
        (
            "[databases.a]\ndsn = 'dbname=a'\nconnect_timeout = 0",
            "databases.a.connect_timeout must be a whole",
        ),
        ("[schedule]\ndrain_seconds = inf", "schedule.drain_seconds must be a number"),
        ("[logging]\nlevel = 'info'", "logging.level must be one of DEBUG, INFO, WARNING, ERROR."),
    ],
)
def test_load_settings_names_a_mistake_in_the_file(file: Path, text: str, message: str) -> None:
    file.write_text(text + "\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file, environ={})
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert caught.value.exit_code == 78


def test_load_settings_reports_all_mistakes_of_a_file(file: Path) -> None:
    file.write_text("[inbox]\nmax_mb = 0\nmin_mb = 1\n[logging]\nformat = 'xml'\n")
    with pytest.raises(ConfigurationError, match=r"inbox\.max_mb must.*inbox\.min_mb.*logging\.format must"):
        load_settings(file, environ={})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("VECTUNED_DSN", "x", "unknown variable VECTUNED_DSN ("),
        ("VECTUNED_DATABASE", '{"dsn": "x"}', "unknown variable VECTUNED_DATABASE ("),
        (
            "VECTUNED_DATABASE__DNS",
            "x",
            "unknown variable VECTUNED_DATABASE__DNS (did you mean VECTUNED_DATABASE__DSN?).",
        ),
        ("VECTUNED_DATABASE_DSN", "x", "(did you mean VECTUNED_DATABASE__DSN?)."),
        ("VECTUNED_database__dsn", "x", "unknown variable VECTUNED_database__dsn"),
        ("VECTUNED_DATABASE__DSN__HOST", "x", "unknown variable VECTUNED_DATABASE__DSN__HOST"),
        ("VECTUNED_LEARNING__SEED", "", "VECTUNED_LEARNING__SEED: learning.seed must be a whole number"),
        (
            "VECTUNED_LEARNING__ENABLED",
            "maybe",
            "VECTUNED_LEARNING__ENABLED: learning.enabled must be true or false.",
        ),
        (
            "VECTUNED_INBOX__MAX_MB",
            "0",
            "VECTUNED_INBOX__MAX_MB: inbox.max_mb must be a whole number at least 1",
        ),
    ],
)
def test_load_settings_names_a_mistake_in_the_environment(name: str, value: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ={name: value})
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("database.dns", "x", "Command line: unknown setting database.dns (did you mean database.dsn?)."),
        ("dsn", "x", "Command line: unknown setting dsn ("),
        ("inbox.max_mb", "lots", "Command line: inbox.max_mb must be a whole number"),
        ("inbox.mx_mb", None, "Command line: unknown setting inbox.mx_mb"),
    ],
)
def test_load_settings_names_a_mistake_on_the_command_line(
    name: str, value: str | None, message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(overrides={name: value}, environ={})
    assert str(caught.value).startswith(message)


def test_load_settings_reports_the_mistakes_of_all_sources(file: Path) -> None:
    file.write_text("[inbox]\nmax_mb = 0\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file, {"learning.seed": "x"}, {"VECTUNED_BUDGET__CORE_SHARE": "7", "VECTUNED_X": ""})
    assert [problem.partition(" must ")[0] for problem in caught.value.problems] == [
        f"{file}: inbox.max_mb",
        "Environment: VECTUNED_BUDGET__CORE_SHARE: budget.core_share",
        "Environment: unknown variable VECTUNED_X (see config/vectuned.toml for all)",
        "Command line: learning.seed",
    ]
    assert all(problem.partition(": ")[2] in str(caught.value) for problem in caught.value.problems)
    with pytest.raises(ConfigurationError, match=r"does not exist\. Environment: .*X.*\. Command line: "):
        load_settings(file.parent / "none", {"learning.seed": "x"}, {"VECTUNED_X": ""})


def test_load_configuration_returns_the_source_of_each_value(file: Path) -> None:
    file.write_text("[learning]\nbatch_min = 1\nclusters = 1\nseed = 1\n[databases.shop]\ndsn = 'dbname=a'\n")
    environ = {"VECTUNED_LEARNING__CLUSTERS": "2", "VECTUNED_LEARNING__SEED": "2"}
    found = load_configuration(file, {"learning.seed": 3}, environ)
    assert found.file == file
    assert list(found.sources) == [
        *(f"{section}.{key}" for section, key in KEYS),
        *(f"databases.shop.{key}" for key in SECTIONS["database"].model_fields),
    ]
    assert {name: source for name, source in found.sources.items() if source != "default"} == {
        "learning.batch_min": str(file),
        "learning.clusters": "VECTUNED_LEARNING__CLUSTERS",
        "learning.seed": "command line",
        "databases.shop.dsn": str(file),
    }
    assert set(load_configuration(environ={}).sources.values()) == {"default"}


SHOP = "[databases.shop]\ndsn = 'dbname=shop'\n"


def test_each_database_without_databases_has_an_empty_name() -> None:
    settings = load_settings(environ={"VECTUNED_DATABASE__DSN": "dbname=shop"})
    assert settings.each_database() == [("", settings)]
    assert settings.of_database(None) == settings
    with pytest.raises(UsageError, match=r"no database shop: the configuration has no section \[databases"):
        settings.of_database("shop")


def test_load_configuration_databases_inherit_from_database(file: Path) -> None:
    file.write_text(
        f"[database]\nconnect_timeout = 20\n{SHOP}connect_timeout = 5\n"
        "[databases.library-2]\ndsn = 'dbname=library'\nreplay_dsn = 'host=standby'\n[learning]\nseed = 4\n"
    )
    environ = {
        "VECTUNED_DATABASES__SHOP__APPLICATION_NAME": "till",
        "VECTUNED_DATABASES__LIBRARY_2__DSN": "service=library",
        "VECTUNED_DATABASES__NEW_ONE__DSN": "service=new",
    }
    found = load_configuration(file, {"databases.Old.dsn": "service=old"}, environ)
    each = dict(found.settings.each_database())
    assert {name: settings.database.dsn for name, settings in each.items()} == {
        "shop": "dbname=shop",
        "library-2": "service=library",
        "new_one": "service=new",
        "Old": "service=old",
    }
    assert each["shop"].database.connect_timeout == 5
    assert each["library-2"].database.connect_timeout == 20
    assert each["library-2"].database.replay_dsn == "host=standby"
    assert each["shop"].database.application_name == "till"
    assert each["new_one"].database.replay_dsn == ""
    assert found.sources["databases.Old.connect_timeout"] == str(file)
    for settings in each.values():
        assert settings.databases == {}
        assert settings.learning.seed == 4
    assert found.settings.of_database("shop") == each["shop"]
    with pytest.raises(UsageError, match=r"choose one of shop, library-2, new_one, Old with --database"):
        found.settings.of_database(None)
    with pytest.raises(UsageError, match=r"There is no database hop: choose one of shop, library-2"):
        found.settings.of_database("hop")


def test_of_database_without_a_name_returns_the_only_one(file: Path) -> None:
    file.write_text(SHOP)
    settings = load_settings(file, environ={})
    assert settings.of_database(None).database.dsn == "dbname=shop"


@pytest.mark.parametrize(
    ("text", "environ", "message"),
    [
        (
            f"[database]\ndsn = 'dbname=a'\n{SHOP}",
            {},
            r"database\.dsn \(.*toml\) cannot be given together with \[databases\.shop\], which replace",
        ),
        (
            SHOP,
            {"VECTUNED_DATABASE__DSN": "dbname=a"},
            r"^database\.dsn \(VECTUNED_DATABASE__DSN\) cannot be",
        ),
        (f"[database]\nreplay_dsn = 'dbname=a'\n{SHOP}", {}, r"^database\.replay_dsn \("),
        ("[databases.shop]", {}, r"^databases\.shop\.dsn is missing: each of \[databases\.\*\] needs one\.$"),
        ("[databases.shop]\ndsn = ' '", {}, r"^databases\.shop\.dsn is missing: .* \(.*toml names it\)"),
        (
            SHOP,
            {"VECTUNED_DATABASES__LIBRARY__CONNECT_TIMEOUT": "3"},
            r"^databases\.library\.dsn is missing: .*VECTUNED_DATABASES__LIBRARY__CONNECT_TIMEOUT names it",
        ),
        (
            f"{SHOP}[databases.Shop]\ndsn = 'dbname=b'",
            {},
            r"^\[databases\.shop\] and \[databases\.Shop\] need",
        ),
        (
            SHOP,
            {"VECTUNED_DATABASES__SHOP__DNS": "x"},
            r"variable VECTUNED_DATABASES__SHOP__DNS \(did you mean VECTUNED_DATABASES__SHOP__DSN\?\)",
        ),
        (SHOP, {"VECTUNED_DATABASES__DSN": "x"}, r"unknown variable VECTUNED_DATABASES__DSN"),
        (SHOP, {"VECTUNED_DATABASES____DSN": "x"}, r"unknown variable VECTUNED_DATABASES____DSN"),
        (SHOP, {"VECTUNED_DATABASES__shop__DSN": "x"}, r"unknown variable VECTUNED_DATABASES__shop__DSN"),
        (
            "",
            {"VECTUNED_DATABASES__A__DSN": "x"},
            r"VECTUNED_DATABASES__A__DSN: databases\.a\.dsn must be text",
        ),
    ],
)
def test_load_settings_names_a_mistake_with_several_databases(
    file: Path, text: str, environ: dict[str, str], message: str
) -> None:
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        load_settings(file, environ=environ)


def test_load_settings_dsn_of_the_command_line_replaces_configured_databases(file: Path) -> None:
    file.write_text(SHOP)
    environ = {"VECTUNED_DATABASES__B__DSN": "dbname=b"}
    settings = load_settings(file, {"database.dsn": "dbname=other"}, environ)
    assert [(name, each.database.dsn) for name, each in settings.each_database()] == [("", "dbname=other")]
    with pytest.raises(ConfigurationError, match=r"database\.dsn \(command line\) cannot be given together"):
        load_settings(file, {"database.dsn": "dbname=a", "databases.c.dsn": "dbname=c"}, environ)


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.inbox.max_mb = 1
    with pytest.raises(ValidationError, match="frozen"):
        settings.inbox = settings.inbox


def test_settings_hide_passwords_in_repr_and_errors(file: Path) -> None:
    secret = "postgresql://u:hunter2@h/d"
    settings = load_settings(overrides={"database.dsn": secret, "database.replay_dsn": secret}, environ={})
    assert settings.database.dsn == secret
    assert "hunter2" not in repr(settings)
    for wrong in (
        "['postgresql://u:hunter2@h/d']",
        "'password=hunter2 host'",
        "'postgresql://u:hunter2@[h/d'",
    ):
        file.write_text(f"[database]\ndsn = {wrong}\n[databases.hunter]\ndsn = {wrong}\n")
        with pytest.raises(ConfigurationError) as caught:
            load_settings(file, environ={})
        assert "hunter2" not in str(caught.value)
    with pytest.raises(ValidationError) as invalid:
        Settings.model_validate({"database": {"dsn": "password=hunter2 host"}})
    assert "hunter2" not in str(invalid.value)
