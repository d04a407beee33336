"""What differs between the settings that are in force and those that were read again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from vectuned.config.settings import Settings

# Which server, and how it is reached: sessions are open there, and locks are held. Where others reach us.
NEED_RESTART: Final = ("database", "embedded", "metrics")
_ELSEWHERE: Final = ("databases",)  # each database is given settings of its own, in which these are merged


@dataclass(frozen=True)
class SettingsDiff:
    """Keys that take effect at once, keys that wait for a restart, and the settings to go on with."""

    now: tuple[str, ...]
    later: tuple[str, ...]
    settings: Settings


def compare(old: Settings, new: Settings) -> SettingsDiff:
    """Compare settings by keys such as "schedule.drain_seconds"; values are not told, they may be secret."""
    before, after = (_flat(each.model_dump()) for each in (old, new))
    changed = sorted(
        key
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key) and _section(key) not in _ELSEWHERE
    )
    kept = {section: getattr(old, section) for section in NEED_RESTART}
    return SettingsDiff(
        tuple(key for key in changed if _section(key) not in NEED_RESTART),
        tuple(key for key in changed if _section(key) in NEED_RESTART),
        new.model_copy(update=kept),
    )


def _section(key: str) -> str:
    return key.partition(".")[0]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
