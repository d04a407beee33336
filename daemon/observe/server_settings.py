"""What a server has to log for its searches to be observed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg import sql

from vectuned.sql.rows import fetch_rows

from .formats import LogSettings
from .records import find_zone

SAMPLE_RATE: Final = (
    0.05  # of the statements: enough to learn from within a day, at a twentieth of the volume
)


@dataclass(frozen=True)
class ServerLogging:
    """The settings of a server's log, by name; those that the role may not read are missing."""

    values: dict[str, str]

    @classmethod
    def read(cls, conn: psycopg.Connection[Any]) -> ServerLogging:
        """Read the settings that new sessions have."""
        return cls({row.name: row.setting for row in fetch_rows(conn, "log_settings")})

    @property
    def format(self) -> LogSettings:
        """Return what its log is read by."""
        return LogSettings(self.values.get("log_line_prefix"), find_zone(self.values.get("log_timezone")))

    @property
    def logs_statements(self) -> bool:
        """Say whether it logs statements, all of them or a sample."""
        samples = (
            self._number("log_min_duration_sample") == 0 and self._number("log_statement_sample_rate") > 0
        )
        return (
            samples
            or self._number("log_min_duration_statement") == 0
            or self._number("log_transaction_sample_rate", 0) > 0
            or self.values.get("log_statement") == "all"
        )

    @property
    def collects(self) -> bool:
        """Say whether the server keeps files of its log, which can be read through it."""
        return self.values.get("logging_collector") != "off"

    def missing(self) -> dict[str, str]:
        """Return the settings that are missing, with the values to give them."""
        wanted: dict[str, str] = {}
        if not self.logs_statements:
            wanted["log_min_duration_sample"] = "0"
            if not 0 < self._number("log_statement_sample_rate") <= SAMPLE_RATE:
                wanted["log_statement_sample_rate"] = str(SAMPLE_RATE)
        if self._number("log_parameter_max_length") != -1:
            wanted["log_parameter_max_length"] = "-1"
        return wanted

    def _number(self, name: str, default: float = -1.0) -> float:
        try:
            return float(self.values.get(name, default))
        except ValueError:
            return default


def statements_to_copy(missing: dict[str, str], database: str) -> tuple[Sequence[str], Sequence[str]]:
    """Return the SQL that sets what is missing: for the server, and for one database only."""
    name = sql.Identifier(database).as_string()
    system = [f"ALTER SYSTEM SET {setting} = {value};" for setting, value in missing.items()]
    one = [f"ALTER DATABASE {name} SET {setting} = {value};" for setting, value in missing.items()]
    return [*system, "SELECT pg_reload_conf();"] if system else [], one
