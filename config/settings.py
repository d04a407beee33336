"""What can be set, its defaults and ranges, and how file, environment and command line are put together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .errors import ConfigurationError, UsageError, printable
from .sources import (
    CONFIG_VARIABLE,
    HOME_VARIABLE,
    Reading,
    Schema,
    read_environment,
    read_file,
    read_overrides,
)
from .texts import ApplicationName, Conninfo, Folder, LanguageTag, Name, TextSearch, Url, Variable

DEFAULT: Final = "default"
"""The source of a value that nothing sets."""


class _Section(BaseModel):
    # No input in errors: it may be a password.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class DatabaseSettings(_Section):
    """Which PostgreSQL server, and how to reach it."""

    dsn: Conninfo = Field(
        default="",
        # A connection string may hold a password.
        repr=False,
        description="Connection string or URI; empty means libpq's own variables (PGHOST, PGSERVICE, ...) "
        "and, without those, the embedded server.",
    )
    replay_dsn: Conninfo = Field(
        default="",
        repr=False,
        description="Connection string or URI of a hot standby of that server, on which searches are "
        "replayed and checked; empty means on the server itself.",
    )
    connect_timeout: int = Field(
        default=10, ge=1, le=3600, description="Seconds to wait for a connection to be made."
    )
    application_name: ApplicationName = Field(
        default="vectuned",
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
    refresh_seconds: float = Field(
        default=60.0,
        gt=0,
        le=604_800,
        description="Seconds between two looks at what has become of the tuned tables and their indexes.",
    )
    maintain_seconds: float = Field(
        default=3600.0,
        gt=0,
        le=604_800,
        description="Seconds between two rounds of upkeep: partitions are made ahead, what is past its "
        "retention goes.",
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


class ExportSettings(_Section):
    """Files of what was learned, for other systems and from them."""

    folder: Folder = Field(
        default="", description="Folder that what was learned is written to; empty means it is not."
    )
    import_folder: Folder = Field(
        default="",
        description="Folder whose newest document of a column is taken over; empty means none is.",
    )
    seconds: float = Field(
        default=3600.0,
        gt=0,
        le=604_800,
        description="Seconds between two exports, and two looks for imports.",
    )
    keep: int = Field(
        default=7, ge=1, le=10_000, description="Documents of each column that are kept in the folder."
    )

    @property
    def in_use(self) -> bool:
        """Whether there is a folder to write to or to look into."""
        return bool(self.folder or self.import_folder)


class LoggingSettings(_Section):
    """What goes to stderr."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least severe message that is logged."
    )
    format: Literal["auto", "text", "journald", "json"] = Field(
        default="auto",
        description="Lines for people, lines with priorities for journald, or one JSON object a line; auto "
        "is journald where stderr goes to the journal, else text.",
    )


class MetricsSettings(_Section):
    """The endpoint that Prometheus scrapes."""

    listen: str = Field(
        default="",
        pattern=r"^(([^\s:\[\]]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5})?$",
        json_schema_extra={"expected": "an address and a port, such as 127.0.0.1:9187, or empty"},
        description="Address and port at which the daemon serves metrics; empty means nowhere.",
    )


class EmbeddedSettings(_Section):
    """The server that vectuned runs itself when it is given none."""

    home: Folder = Field(
        default="",
        description="Folder of the embedded server's data; empty means VECTUNED_HOME or else the XDG one.",
    )


class ReasoningSettings(_Section):
    """How questions are embedded, reasoned about and answered."""

    embedder: Literal["static", "minilm", "sentence-transformers", "endpoint"] = Field(
        default="static",
        description="What turns texts into vectors; it must be what the stored entities were embedded by.",
    )
    embedder_model: Name = Field(
        default="",
        description="Model of sentence-transformers or of the endpoint; the others have their own.",
    )
    embedder_version: Name = Field(
        default="",
        description="Version of that model, as it is stored beside its vectors; empty means unknown.",
    )
    embedder_url: Url = Field(
        default="", description="Address of an OpenAI-compatible embedding endpoint, up to and with /v1."
    )
    embedder_key_variable: Variable = Field(
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
    generator_model: Name = Field(default="", description="Model of the generating endpoint.")
    generator_url: Url = Field(
        default="", description="Address of an OpenAI-compatible chat endpoint, up to and with /v1."
    )
    generator_key_variable: Variable = Field(
        default="", description="Environment variable that holds that endpoint's key; empty means no key."
    )
    generator_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="Seconds that endpoint is given for an answer."
    )
    generator_tokens: int = Field(
        default=400, ge=16, le=32_768, description="Most tokens the model may write."
    )
    language: TextSearch = Field(
        default="english",
        description="Text search configuration of PostgreSQL that questions are read with.",
    )
    messages: LanguageTag = Field(default="en", description="Language of the errors, such as en or de.")
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
        hide_input_in_errors=True,
    )

    database: DatabaseSettings = DatabaseSettings()
    databases: dict[str, DatabaseSettings] = Field(
        default_factory=dict, description="Several databases by name, instead of the one of [database]."
    )
    learning: LearningSettings = LearningSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    budget: BudgetSettings = BudgetSettings()
    inbox: InboxSettings = InboxSettings()
    export: ExportSettings = ExportSettings()
    logging: LoggingSettings = LoggingSettings()
    metrics: MetricsSettings = MetricsSettings()
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

    def each_database(self) -> list[tuple[str, Settings]]:
        """Return (name, settings) of each database to work on, whose own are in `database` then.

        [databases.NAME] replace [database]; where there are none, that is the one, and its name is empty.
        """
        return [
            (name, self.model_copy(update={"database": database, "databases": {}}))
            for name, database in self.databases.items()
        ] or [("", self)]

    def of_database(self, name: str | None) -> Settings:
        """Return the settings of the database of that name, None standing for the only one there is.

        Raises UsageError if there is no such database, or none was chosen of several.
        """
        choices = dict(self.each_database())
        if name is None and len(choices) == 1:
            return next(iter(choices.values()))
        names = ", ".join(self.databases)
        if name is None:
            raise UsageError(f"Several databases are configured: choose one of {names} with --database.")
        if name in self.databases:
            return choices[name]
        if not names:
            raise UsageError(
                f"There is no database {printable(name)}: the configuration has no section [databases.NAME]."
            )
        raise UsageError(f"There is no database {printable(name)}: choose one of {names}.")


SECTIONS: Mapping[str, type[_Section]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, _Section)
}
SCHEMA: Final = Schema(SECTIONS, {"databases": DatabaseSettings})

# What [database] says of these counts for each of [databases.*] that does not say otherwise.
_SHARED: Final = ("connect_timeout", "application_name")


@dataclass(frozen=True)
class Configuration:
    """The settings in force, and of each "section.key" where it is from: a file, a variable and so on."""

    settings: Settings
    sources: Mapping[str, str]
    file: Path | None


def load_settings(
    path: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Put the settings together; see load_configuration."""
    return load_configuration(path, overrides, environ).settings


def load_configuration(
    path: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Configuration:
    """Put the settings together: defaults, then the file, then the environment, then `overrides`.

    `path` is a TOML file; without it VECTUNED_CONFIG names one, and without both there is none. `environ` is
    the process's environment unless given; every variable VECTUNED_SECTION__KEY sets one key. `overrides`
    maps "section.key" to a value, None meaning not given. Raises ConfigurationError, naming the source, the
    key and what is expected, for a file that is missing or no TOML, an unknown key or variable, or a value of
    the wrong type or out of range; all that is wrong is told at once.
    """
    environ = os.environ if environ is None else environ
    named_by = ""
    if path is None and environ.get(CONFIG_VARIABLE):
        path, named_by = Path(environ[CONFIG_VARIABLE]), CONFIG_VARIABLE
    file = Reading() if path is None else read_file(path, SCHEMA, named_by)
    variables = read_environment(environ, SCHEMA, file.members("databases"))
    line = read_overrides(overrides or {}, SCHEMA)
    variables.problems += _of_home(environ)
    together = Reading()
    if line.layer.get("database", {}).get("dsn"):
        # A database named on the command line is the one that is meant, whatever is configured.
        for reading in (file, variables):
            for section in reading.members("databases"):
                del reading.layer[section]
    for reading in (file, variables, line):
        for section, values in reading.layer.items():
            together.layer.setdefault(section, {}).update(values)
    readings = [file, variables, line]
    if file.readable:
        together.problems = _of_several(together)
        readings.append(together)
    wrong = [reading for reading in readings if reading.problems]
    if wrong:
        raise ConfigurationError(
            " ".join(f"{each.heading}{'; '.join(each.problems)}." for each in wrong),
            [f"{each.heading}{problem}" for each in wrong for problem in each.problems],
        )
    sources = {
        f"{section}.{key}": given.source
        for section, values in together.layer.items()
        for key, given in values.items()
    }
    keys = [f"{section}.{key}" for section, key in SCHEMA.every_key(together.members("databases"))]
    return Configuration(
        Settings.model_validate(_nested(together)), {key: sources.get(key, DEFAULT) for key in keys}, path
    )


def _of_home(environ: Mapping[str, str]) -> list[str]:
    try:
        EmbeddedSettings(home=environ.get(HOME_VARIABLE, ""))
    except ValidationError:
        return [f"{HOME_VARIABLE} must name a folder, without control characters, of a user there is"]
    return []


def _of_several(together: Reading) -> list[str]:
    """Say what is wrong with [databases.*], and have them share what [database] says of all."""
    members = together.members("databases")
    if not members:
        return []
    problems = []
    shared = together.layer.get("database", {})
    for section in members:
        values = together.layer[section]
        dsn = values.get("dsn")
        if dsn is None or dsn.value == "" or str(dsn.value).isspace():
            by = next((f" ({given.source} names it)" for given in values.values()), "")
            problems.append(f"{section}.dsn is missing: each of [databases.*] needs one{by}")
        together.layer[section] = {key: shared[key] for key in _SHARED if key in shared} | values
    for key in ("dsn", "replay_dsn"):
        if key in shared and str(shared[key].value).strip():
            names = ", ".join(f"[{section}]" for section in members)
            problems.append(
                f"database.{key} ({shared[key].source}) cannot be given together with {names}, which replace "
                f"[database]: move it to a section [databases.NAME] or leave those out"
            )
    alike: dict[str, str] = {}
    for section in members:
        other = alike.setdefault(section.lower().replace("-", "_"), section)
        if other != section:
            problems.append(f"[{other}] and [{section}] need names that differ in more than case, - and _")
    return problems


def _nested(together: Reading) -> dict[str, Any]:
    plain: dict[str, Any] = {"databases": {}}
    for section, values in together.layer.items():
        family, _, name = section.partition(".")
        inner = {key: given.value for key, given in values.items()}
        if name:
            plain[family][name] = inner
        else:
            plain[section] = inner
    return plain
