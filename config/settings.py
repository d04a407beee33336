"""What can be set, its defaults and ranges, and how file, environment and command line are put together."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from .errors import ConfigurationError

PREFIX = "VECTUNED_"
HOME_VARIABLE = "VECTUNED_HOME"
CONFIG_VARIABLE = "VECTUNED_CONFIG"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DatabaseSettings(_Section):
    """Which PostgreSQL server, and how to reach it."""

    dsn: str = Field(
        default="",
        # A connection string may hold a password.
        repr=False,
        description="Connection string or URI; empty means libpq's own variables (PGHOST, PGSERVICE, ...) "
        "and, without those, the embedded server.",
    )
    replay_dsn: str = Field(
        default="",
        repr=False,
        description="Connection string or URI of a hot standby of that server, on which searches are "
        "replayed and checked; empty means on the server itself.",
    )
    connect_timeout: int = Field(
        default=10, ge=1, le=3600, description="Seconds to wait for a connection to be made."
    )
    application_name: str = Field(
        default="vectuned",
        min_length=1,
        max_length=63,
        description="Name of the connections in pg_stat_activity and in the server's log.",
    )


class LearningSettings(_Section):
    """How much evidence is gathered, and what is made of it."""

    enabled: bool = Field(
        default=True,
        description="Whether patterns are learned; if not, searches are only recorded and measured.",
    )
    batch_min: int = Field(
        default=20,
        ge=1,
        le=100_000,
        description="New replays of a column before it is learned about again.",
    )
    replay_batch: int = Field(
        default=200, ge=1, le=100_000, description="Sampled searches replayed in one pass over the table."
    )
    confidence: float = Field(
        default=0.95, ge=0.5, lt=1, description="Confidence of every statement made about recall."
    )
    false_alarms: float = Field(
        default=0.05,
        gt=0,
        le=0.5,
        description="Probability of a false alarm, within a window of checks, while the promise is kept.",
    )
    drift_share: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="Share of a table's rows that may come, go or change before it is learned about again.",
    )
    clusters: int = Field(
        default=64,
        ge=1,
        le=4096,
        description="Most patterns learned for a column, index and class of searches.",
    )
    seed: int = Field(
        default=0, ge=0, le=2**32 - 1, description="Seed of everything random, for runs that can be repeated."
    )
    step_aside: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Share of the work a learned policy must save, all its costs paid, to be used at all.",
    )


class ScheduleSettings(_Section):
    """How often the daemon does its jobs."""

    drain_seconds: float = Field(
        default=10.0,
        gt=0,
        le=604_800,
        description="Seconds between two drains of the inbox of recorded searches.",
    )
    replay_seconds: float = Field(
        default=60.0, gt=0, le=604_800, description="Seconds between two replays of sampled searches."
    )
    learn_seconds: float = Field(
        default=300.0, gt=0, le=604_800, description="Seconds between two passes of learning and publishing."
    )
    request_seconds: float = Field(
        default=2.0, gt=0, le=604_800, description="Seconds between two looks for what was asked for in SQL."
    )
    consolidate_seconds: float = Field(
        default=3600.0,
        gt=0,
        le=604_800,
        description="Seconds between two rounds of merging and pruning patterns.",
    )
    retention_days: int = Field(
        default=30,
        ge=1,
        le=36_500,
        description="Days that trajectories, their query vectors and finished requests are kept.",
    )


class BudgetSettings(_Section):
    """What replaying, checking and learning may take from everybody else."""

    core_share: float = Field(
        default=0.25,
        gt=0,
        le=1,
        description="Share of one core that replaying, checking and learning may take, on the server and in "
        "the daemon together.",
    )
    pause_above: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Other statements running on the server above which replaying waits; 0 means never.",
    )
    statement_timeout_seconds: float = Field(
        default=60.0,
        ge=0.1,
        le=86_400,
        description="Seconds after which the replay or the check of one search is given up as unknown.",
    )
    lag_seconds: float = Field(
        default=10.0,
        gt=0,
        le=600,
        description="Seconds that a standby is given to catch up with its primary before it is replayed on.",
    )


class InboxSettings(_Section):
    """The table that searches are recorded in until they are drained."""

    max_mb: int = Field(
        default=64,
        ge=1,
        le=1_048_576,
        description="Size in MB at which searches stop being recorded until the daemon has caught up.",
    )


class LoggingSettings(_Section):
    """What goes to stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe message that is logged."
    )
    format: Literal["text", "json"] = Field(
        default="text", description="Lines for people, or one JSON object a line."
    )


class EmbeddedSettings(_Section):
    """The server that vectuned runs itself when it is given none."""

    home: str = Field(
        default="",
        description="Folder of the embedded server's data; empty means VECTUNED_HOME or else the XDG one.",
    )


class ReasoningSettings(_Section):
    """How questions are embedded, reasoned about and answered."""

    embedder: Literal["static", "minilm", "sentence-transformers", "endpoint"] = Field(
        default="static",
        description="What turns texts into vectors; it must be what the stored entities were embedded by.",
    )
    embedder_model: str = Field(
        default="",
        description="Model of sentence-transformers or of the endpoint; the others have their own.",
    )
    embedder_version: str = Field(
        default="",
        description="Version of that model, as it is stored beside its vectors; empty means unknown.",
    )
    embedder_url: str = Field(
        default="", description="Address of an OpenAI-compatible embedding endpoint, up to and with /v1."
    )
    embedder_key_variable: str = Field(
        default="", description="Environment variable that holds that endpoint's key; empty means no key."
    )
    embedder_dimensions: int = Field(
        default=0,
        ge=0,
        le=16_000,
        description="Dimensions of the endpoint's vectors, or of the static embedder's; 0 means its own.",
    )
    embedder_seconds: float = Field(
        default=10.0, gt=0, le=3600, description="Seconds that endpoint is given for a batch of texts."
    )
    embedder_batch: int = Field(default=32, ge=1, le=4096, description="Texts embedded at a time.")
    embedding_cache: int = Field(
        default=10_000, ge=0, le=1_000_000, description="Vectors kept in memory, by the hash of their texts."
    )
    generator: Literal["extractive", "endpoint"] = Field(
        default="extractive", description="Who writes answers: the facts themselves, or a language model."
    )
    generator_model: str = Field(default="", description="Model of the generating endpoint.")
    generator_url: str = Field(
        default="", description="Address of an OpenAI-compatible chat endpoint, up to and with /v1."
    )
    generator_key_variable: str = Field(
        default="", description="Environment variable that holds that endpoint's key; empty means no key."
    )
    generator_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds that endpoint is given for an answer."
    )
    generator_tokens: int = Field(
        default=400, ge=16, le=32_768, description="Most tokens the model may write."
    )
    language: str = Field(
        default="english",
        min_length=1,
        max_length=63,
        description="Text search configuration of PostgreSQL that questions are read with.",
    )
    messages: str = Field(
        default="en", min_length=2, max_length=35, description="Language of the errors, such as en or de."
    )
    rounds: int = Field(
        default=2, ge=1, le=2, description="Ways through the graph: 2 lets a run look more widely once."
    )
    min_coherence: float = Field(
        default=0.15, ge=0, le=1, description="Coherence below which a run is sent back."
    )
    min_completeness: float = Field(
        default=0.55, ge=0, le=1, description="Completeness below which a run is sent back."
    )
    relevance: float = Field(
        default=0.35, ge=0, le=1, description="Share of the best score below which entities are pruned."
    )
    max_age_days: int = Field(
        default=0, ge=0, le=36_500, description="Days after which relationships are outdated; 0 means never."
    )
    connections: int = Field(
        default=8, ge=2, le=1000, description="Most connections that one reasoner opens to the database."
    )
    count_uses: bool = Field(
        default=False, description="Whether the uses of cited entities are counted in the store."
    )


class Settings(BaseSettings):
    """All settings, checked and frozen. `Settings()` is the defaults; `load_settings` reads the sources."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=PREFIX,
        env_nested_delimiter="__",
    )

    database: DatabaseSettings = DatabaseSettings()
    learning: LearningSettings = LearningSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    budget: BudgetSettings = BudgetSettings()
    inbox: InboxSettings = InboxSettings()
    logging: LoggingSettings = LoggingSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    reasoning: ReasoningSettings = ReasoningSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing implicitly: `load_settings` checks each source, which the built-in ones do not."""
        return (init_settings,)


SECTIONS: Mapping[str, type[_Section]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, _Section)
}

_Layer = dict[str, dict[str, Any]]


def load_settings(
    path: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Put the settings together: defaults, then the file, then the environment, then `overrides`.

    `path` is a TOML file; without it VECTUNED_CONFIG names one, and without both there is none. `environ` is
    the process's environment unless given; every variable VECTUNED_SECTION__KEY sets one key. `overrides`
    maps "section.key" to a value, None meaning not given. Raises ConfigurationError, naming the source, the
    key and what is expected, for a file that is missing or no TOML, an unknown key or variable, or a value of
    the wrong type or out of range.
    """
    environ = os.environ if environ is None else environ
    if path is None and environ.get(CONFIG_VARIABLE):
        path = Path(environ[CONFIG_VARIABLE])
    merged: _Layer = {name: {} for name in SECTIONS}
    for layer in (
        {} if path is None else _read_file(path),
        _read_environment(environ),
        _read_overrides(overrides or {}),
    ):
        for section, values in layer.items():
            merged[section] |= values
    return Settings.model_validate(merged)


def _read_file(path: Path) -> _Layer:
    try:
        with path.open("rb") as file:
            layer = tomllib.load(file)
    except FileNotFoundError as error:
        raise ConfigurationError(f"The configuration file {path} does not exist.") from error
    except OSError as error:
        raise ConfigurationError(
            f"The configuration file {path} cannot be read: {error.strerror}."
        ) from error
    except ValueError as error:  # no TOML, or no UTF-8
        raise ConfigurationError(f"The configuration file {path} is not valid TOML: {error}.") from error
    problems = []
    for section, values in layer.items():
        if section not in SECTIONS:
            problems.append(f"unknown section [{section}]{_suggest(section, SECTIONS)}")
        elif not isinstance(values, dict):
            problems.append(f"{section} must be a section, [{section}]")
        else:
            # Strict: TOML has types of its own, and a quoted number is a mistake.
            problems += _problems(section, values, strict=True)
    if problems:
        raise ConfigurationError(f"{path}: {'; '.join(problems)}.")
    return layer


def _read_environment(environ: Mapping[str, str]) -> _Layer:
    known = {
        f"{PREFIX}{section}__{key}".upper(): (section, key)
        for section, model in SECTIONS.items()
        for key in model.model_fields
    }
    chosen = {}
    problems = []
    for name in sorted(environ):
        if not name.startswith(PREFIX) or name in (HOME_VARIABLE, CONFIG_VARIABLE):
            continue
        if name not in known:
            problems.append(f"unknown variable {name}{_suggest(name, known)}")
        else:
            chosen[name] = environ[name]
    source = EnvSettingsSource(Settings)
    # The source reads the process's environment by itself; here the environment is an argument.
    source.env_vars = {name.lower(): value for name, value in chosen.items()}
    layer: _Layer = source()
    for name in chosen:
        section, key = known[name]
        problems += [f"{name}: {problem}" for problem in _problems(section, {key: layer[section][key]})]
    if problems:
        raise ConfigurationError(f"Environment: {'; '.join(problems)}.")
    return layer


def _read_overrides(overrides: Mapping[str, object]) -> _Layer:
    layer: _Layer = {}
    problems = []
    known = [f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields]
    for name, value in overrides.items():
        section, _, key = name.partition(".")
        if name not in known:
            problems.append(f"unknown setting {name}{_suggest(name, known)}")
        elif value is not None:
            problems += _problems(section, {key: value})
            layer.setdefault(section, {})[key] = value
    if problems:
        raise ConfigurationError(f"Command line: {'; '.join(problems)}.")
    return layer


def _problems(section: str, values: Mapping[str, object], strict: bool = False) -> list[str]:
    """Say of each of a section's values that is wrong what is expected instead."""
    model = SECTIONS[section]
    try:
        model.model_validate(values, strict=strict)
    except ValidationError as error:
        keys = dict.fromkeys(str(detail["loc"][0]) for detail in error.errors())
        return [
            f"{section}.{key} must be {_expected(model, key)}"
            if key in model.model_fields
            else f"unknown key {section}.{key}{_suggest(key, model.model_fields)}"
            for key in keys
        ]
    return []


def _expected(model: type[_Section], key: str) -> str:
    schema = model.model_json_schema()["properties"][key]
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    kinds = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
    limits = {
        "minimum": "at least {}",
        "exclusiveMinimum": "more than {}",
        "maximum": "at most {}",
        "exclusiveMaximum": "less than {}",
        "minLength": "of at least {} character",
        "maxLength": "of at most {} characters",
    }
    bounds = [text.format(schema[name]) for name, text in limits.items() if name in schema]
    return " ".join((kinds[schema["type"]], " and ".join(bounds))).strip()


def _suggest(word: str, known: Mapping[str, object] | list[str]) -> str:
    if close := difflib.get_close_matches(word, known, n=1):
        return f" (did you mean {close[0]}?)"
    return f" (known: {', '.join(known)})" if len(known) < 10 else " (see config/vectuned.toml for all)"
