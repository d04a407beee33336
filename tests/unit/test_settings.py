"""Settings come from file, environment and command line in that order; no mistake is swallowed."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest
from pydantic import ValidationError

from vectuned.config.errors import ConfigurationError
from vectuned.config.settings import SECTIONS, Settings, load_settings

KEYS = [(section, key) for section, model in SECTIONS.items() for key in model.model_fields]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "vectuned.toml"


def test_defaults_need_no_source() -> None:
    settings = load_settings(environ={})
    assert settings == Settings()
    assert settings.database.dsn == ""
    assert settings.database.connect_timeout == 10
    assert settings.learning.replay_batch == 200
    assert settings.schedule.drain_seconds == 10
    assert settings.logging.format == "text"


def test_the_shipped_file_is_the_defaults_and_explains_every_key() -> None:
    text = (resources.files("vectuned.config") / "vectuned.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text) == Settings().model_dump()
    for section, key in KEYS:
        body = text.partition(f"[{section}]\n")[2].partition("\n[")[0]
        assert re.search(rf"^# .+\n{key} = ", body, re.MULTILINE), f"{section}.{key} has no comment"


def test_the_shipped_file_loads(file: Path) -> None:
    file.write_bytes((resources.files("vectuned.config") / "vectuned.toml").read_bytes())
    assert load_settings(file, environ={}) == Settings()


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_field_says_what_it_does(section: str, key: str) -> None:
    assert re.fullmatch(r"[A-Z].+\.", SECTIONS[section].model_fields[key].description or "")


def test_each_source_overrides_the_one_before(file: Path) -> None:
    file.write_text("[learning]\nbatch_min = 1\nclusters = 1\nseed = 1\n")
    environ = {"VECTUNED_LEARNING__CLUSTERS": "2", "VECTUNED_LEARNING__SEED": "2", "HOME": "/nowhere"}
    learning = load_settings(file, {"learning.seed": 3, "learning.replay_batch": None}, environ).learning
    assert (learning.batch_min, learning.clusters, learning.seed) == (1, 2, 3)
    assert learning.replay_batch == 200


def test_every_key_can_be_set_by_its_variable() -> None:
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
            "clusters": 8,
            "seed": 7,
            "step_aside": 0.1,
        },
        "schedule": {
            "drain_seconds": 0.5,
            "replay_seconds": 1.5,
            "learn_seconds": 2.5,
            "request_seconds": 2.75,
            "consolidate_seconds": 3.5,
            "retention_days": 4,
        },
        "budget": {
            "core_share": 0.5,
            "pause_above": 8,
            "statement_timeout_seconds": 5.5,
            "lag_seconds": 2.5,
        },
        "inbox": {"max_mb": 1},
        "logging": {"level": "DEBUG", "format": "json"},
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
    assert load_settings(environ=environ).model_dump() == chosen


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VECTUNED_INBOX__MAX_MB", "7")
    assert load_settings().inbox.max_mb == 7
    assert load_settings(environ={}).inbox.max_mb == 64
    assert Settings().inbox.max_mb == 64


def test_a_variable_names_the_file_unless_one_is_given(file: Path, tmp_path: Path) -> None:
    file.write_text("[inbox]\nmax_mb = 8\n")
    other = tmp_path / "other.toml"
    other.write_text("[inbox]\nmax_mb = 9\n")
    environ = {"VECTUNED_CONFIG": str(file), "VECTUNED_HOME": "/srv/vectuned"}
    assert load_settings(environ=environ).inbox.max_mb == 8
    assert load_settings(other, environ=environ).inbox.max_mb == 9
    assert load_settings(environ={"VECTUNED_CONFIG": ""}).inbox.max_mb == 64


def test_a_missing_file_is_an_error(file: Path) -> None:
    with pytest.raises(ConfigurationError, match=rf"^The configuration file {file} does not exist\.$"):
        load_settings(file, environ={})
    with pytest.raises(ConfigurationError, match="does not exist"):
        load_settings(environ={"VECTUNED_CONFIG": str(file)})


def test_an_unreadable_file_is_an_error(tmp_path: Path, file: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: Is a directory"):
        load_settings(tmp_path, environ={})
    file.write_text("[database\n")
    with pytest.raises(ConfigurationError, match=r"is not valid TOML: .*line 1"):
        load_settings(file, environ={})
    file.write_bytes(b"[database]\ndsn = '\xff'\n")
    with pytest.raises(ConfigurationError, match="is not valid TOML"):
        load_settings(file, environ={})


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
        ("[database.dsn]\nhost = 'a'", "database.dsn must be text."),
        ("[database]\ndsn = 5", "database.dsn must be text."),
        (
            "[database]\napplication_name = ''",
            "must be text of at least 1 character and of at most 63 characters.",
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
        ("[schedule]\ndrain_seconds = inf", "schedule.drain_seconds must be a number"),
        ("[logging]\nlevel = 'info'", "logging.level must be one of DEBUG, INFO, WARNING, ERROR."),
    ],
)
def test_a_mistake_in_the_file_is_named(file: Path, text: str, message: str) -> None:
    file.write_text(text + "\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file, environ={})
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)
    assert caught.value.exit_code == 78


def test_all_mistakes_of_a_file_are_told_at_once(file: Path) -> None:
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
def test_a_mistake_in_the_environment_is_named(name: str, value: str, message: str) -> None:
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
def test_a_mistake_on_the_command_line_is_named(name: str, value: str | None, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(overrides={name: value}, environ={})
    assert str(caught.value).startswith(message)


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.inbox.max_mb = 1
    with pytest.raises(ValidationError, match="frozen"):
        settings.inbox = settings.inbox


def test_a_password_shows_neither_in_repr_nor_in_errors(file: Path) -> None:
    secret = "postgresql://u:hunter2@h/d"
    settings = load_settings(overrides={"database.dsn": secret, "database.replay_dsn": secret}, environ={})
    assert settings.database.dsn == secret
    assert "hunter2" not in repr(settings)
    file.write_text("[database]\ndsn = ['postgresql://u:hunter2@h/d']\n")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(file, environ={})
    assert "hunter2" not in str(caught.value)
