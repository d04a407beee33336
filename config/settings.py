"""All settings together: how file, environment and command line are read, checked and put into one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from .errors import ConfigurationError, UsageError, printable
from .sections import (
    BudgetSettings,
    DatabaseSettings,
    EmbeddedSettings,
    ExportSettings,
    InboxSettings,
    LearningSettings,
    LoggingSettings,
    MetricsSettings,
    ReasoningSettings,
    ScheduleSettings,
    Section,
)
from .sources import (
    CONFIG_VARIABLE,
    HOME_VARIABLE,
    Schema,
    SourceReading,
    read_environment,
    read_file,
    read_overrides,
)

DEFAULT: Final = "default"
"""The source of a value that nothing sets."""


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


SECTIONS: Mapping[str, type[Section]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
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
    file = SourceReading() if path is None else read_file(path, SCHEMA, named_by)
    variables = read_environment(environ, SCHEMA, file.members("databases"))
    line = read_overrides(overrides or {}, SCHEMA)
    variables.problems += _of_home(environ)
    together = SourceReading()
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


def _of_several(together: SourceReading) -> list[str]:
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


def _nested(together: SourceReading) -> dict[str, Any]:
    plain: dict[str, Any] = {"databases": {}}
    for section, values in together.layer.items():
        family, _, name = section.partition(".")
        inner = {key: given.value for key, given in values.items()}
        if name:
            plain[family][name] = inner
        else:
            plain[section] = inner
    return plain
