"""The settings as a whole: read from file, environment and command line, checked and merged."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    IndexBuildSettings,
    LearningSettings,
    LoggingSettings,
    MetricsSettings,
    ObserveSettings,
    ReasoningSettings,
    ScheduleSettings,
    Section,
)
from .sources import (
    CONFIG_VARIABLE,
    HOME_VARIABLE,
    Layer,
    Schema,
    SourceReading,
    list_members,
    read_environment,
    read_file,
    read_overrides,
)

DEFAULT: Final = "default"
"""The source of a value that no file, variable or option sets."""


class Settings(BaseSettings):
    """All settings, checked and frozen. `Settings()` has the defaults; `load_settings` reads the sources."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    database: DatabaseSettings = DatabaseSettings()
    databases: dict[str, DatabaseSettings] = Field(
        default_factory=dict, description="Several databases by name, in place of the one of [database]."
    )
    learning: LearningSettings = LearningSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    budget: BudgetSettings = BudgetSettings()
    index_build: IndexBuildSettings = IndexBuildSettings()
    inbox: InboxSettings = InboxSettings()
    export: ExportSettings = ExportSettings()
    observe: ObserveSettings = ObserveSettings()
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
        """Read no source implicitly: `load_settings` reads them; see `sources.py` for the reason."""
        return (init_settings,)

    def each_database(self) -> list[tuple[str, Settings]]:
        """Return (name, settings) for each configured database, with its own settings in `database`.

        These are [databases.NAME] or, if there are none, [database], whose name is empty.
        """
        return [
            (name, self.model_copy(update={"database": database, "databases": {}}))
            for name, database in self.databases.items()
        ] or [("", self)]

    def of_database(self, name: str | None) -> Settings:
        """Return the settings of a database by name, or of the only one if `name` is None.

        Raises UsageError if there is no such database, or if `name` is None and there are several.
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

# Keys of [database] that each of [databases.*] inherits if it does not set them.
_INHERITED: Final = ("connect_timeout", "application_name")


@dataclass(frozen=True)
class Configuration:
    """The settings in force, the source of each "section.key", and the file that was read, if any."""

    settings: Settings
    sources: Mapping[str, str]
    file: Path | None


def load_settings(
    path: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Load the settings; see `load_configuration`."""
    return load_configuration(path, overrides, environ).settings


def load_configuration(
    path: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Configuration:
    """Load the settings: defaults, overridden by the file, then by the environment, then by `overrides`.

    path: a TOML file; if None, the one that VECTUNED_CONFIG names, if any.
    overrides: values by "section.key"; None stands for an option that is not given.
    environ: the environment, by default that of the process; VECTUNED_SECTION__KEY sets one key.

    Raises ConfigurationError, with all problems, for a file that is missing or not TOML, an unknown key or
    variable, and a value of the wrong type or out of range. Each problem names the source, the key and what
    is expected.
    """
    environ = os.environ if environ is None else environ
    named_by = ""
    if path is None and environ.get(CONFIG_VARIABLE):
        path, named_by = Path(environ[CONFIG_VARIABLE]), CONFIG_VARIABLE
    file = SourceReading() if path is None else read_file(path, SCHEMA, named_by)
    variables = read_environment(environ, SCHEMA, list_members(file.layer, "databases"))
    options = read_overrides(overrides or {}, SCHEMA)

    merged = _merge(file.layer, variables.layer, options.layer)
    _raise_problems(
        file,
        replace(variables, problems=[*variables.problems, *_check_home(environ)]),
        options,
        # Without the file, databases that it configures would seem to be incomplete.
        SourceReading(problems=_check_databases(merged) if file.readable else []),
    )
    layer = _inherit(merged)
    keys = SCHEMA.every_key(list_members(layer, "databases"))
    return Configuration(
        Settings.model_validate(_nest(layer)),
        {f"{section}.{key}": _source_of(layer, section, key) for section, key in keys},
        path,
    )


def _merge(file: Layer, variables: Layer, options: Layer) -> Layer:
    """Merge the layers, later ones overriding earlier ones."""
    if "dsn" in options.get("database", {}):
        # The database that the command line names takes the place of all that are configured.
        file, variables = _without_databases(file), _without_databases(variables)
    merged: Layer = {}
    for layer in (file, variables, options):
        for section, values in layer.items():
            merged[section] = merged.get(section, {}) | values
    return merged


def _without_databases(layer: Layer) -> Layer:
    members = list_members(layer, "databases")
    return {section: values for section, values in layer.items() if section not in members}


def _raise_problems(*readings: SourceReading) -> None:
    """Raise ConfigurationError if any reading has problems."""
    wrong = [reading for reading in readings if reading.problems]
    if wrong:
        raise ConfigurationError(
            " ".join(f"{reading.heading}{'; '.join(reading.problems)}." for reading in wrong),
            [f"{reading.heading}{problem}" for reading in wrong for problem in reading.problems],
        )


def _check_home(environ: Mapping[str, str]) -> list[str]:
    """Return what is wrong with VECTUNED_HOME, which is no setting but stands in for embedded.home."""
    try:
        EmbeddedSettings(home=environ.get(HOME_VARIABLE, ""))
    except ValidationError:
        return [f"{HOME_VARIABLE} must name a folder, without control characters or an unknown ~user"]
    return []


def _check_databases(merged: Layer) -> list[str]:
    """Return what is wrong with [databases.*] and with [database] beside them."""
    members = list_members(merged, "databases")
    return [
        *_find_missing_dsns(merged, members),
        *_find_replaced_dsns(merged, members),
        *_find_similar_names(members),
    ]


def _find_missing_dsns(merged: Layer, members: Sequence[str]) -> Iterator[str]:
    for section in members:
        dsn = merged[section].get("dsn")
        if dsn is None or dsn.value == "" or str(dsn.value).isspace():
            cause = next((f" ({value.source} names it)" for value in merged[section].values()), "")
            yield f"{section}.dsn is missing: each of [databases.*] needs one{cause}"


def _find_replaced_dsns(merged: Layer, members: Sequence[str]) -> Iterator[str]:
    database = merged.get("database", {})
    for key in ("dsn", "replay_dsn"):
        if members and key in database and str(database[key].value).strip():
            names = ", ".join(f"[{section}]" for section in members)
            yield (
                f"database.{key} ({database[key].source}) cannot be given together with {names}, which "
                "replace [database]: move it to a section [databases.NAME] or leave those out"
            )


def _find_similar_names(members: Sequence[str]) -> Iterator[str]:
    """Yield a message for names that one variable would name: in upper case, with _ for -."""
    names: dict[str, str] = {}
    for section in members:
        other = names.setdefault(section.lower().replace("-", "_"), section)
        if other != section:
            yield f"[{other}] and [{section}] need names that differ in more than case, - and _"


def _inherit(merged: Layer) -> Layer:
    """Return the layer with what each of [databases.*] inherits from [database]."""
    database = merged.get("database", {})
    inherited = {key: database[key] for key in _INHERITED if key in database}
    members = list_members(merged, "databases")
    return merged | {section: inherited | merged[section] for section in members}


def _source_of(layer: Layer, section: str, key: str) -> str:
    value = layer.get(section, {}).get(key)
    return DEFAULT if value is None else value.source


def _nest(layer: Layer) -> dict[str, Any]:
    """Return the values as `Settings` is built from them: by section, those of "databases.NAME" two deep."""
    nested: dict[str, Any] = {"databases": {}}
    for section, values in layer.items():
        family, _, name = section.partition(".")
        plain = {key: value.value for key, value in values.items()}
        if name:
            nested[family][name] = plain
        else:
            nested[section] = plain
    return nested
