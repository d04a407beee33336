"""Reload of the settings: which changes take effect at once, and which need a restart."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vectuned.config.settings import Settings
from vectuned.daemon.logs import set_up_logging

from .engine import Engine

log = logging.getLogger(__name__)

# The server and how to connect to it, since sessions are open and locks are held there; and our own address.
NEED_RESTART: Final = ("database", "embedded", "metrics")
_IGNORED: Final = ("databases",)  # already merged into the settings of each database
_RELOAD: Final = {"action": "reload"}


@dataclass(frozen=True)
class SettingsDiff:
    """Keys that take effect at once, keys that need a restart, and the settings to use now."""

    now: tuple[str, ...]
    later: tuple[str, ...]
    settings: Settings


def compare_settings(old: Settings, new: Settings) -> SettingsDiff:
    """Compare settings by keys such as "schedule.drain_seconds"; without values, which may be secret."""
    before, after = (_flatten(each.model_dump()) for each in (old, new))
    changed = sorted(
        key
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key) and _section(key) not in _IGNORED
    )
    unchanged = {section: getattr(old, section) for section in NEED_RESTART}
    return SettingsDiff(
        tuple(key for key in changed if _section(key) not in NEED_RESTART),
        tuple(key for key in changed if _section(key) in NEED_RESTART),
        new.model_copy(update=unchanged),
    )


def apply_settings(engines: Sequence[Engine], settings: Mapping[str, Settings]) -> None:
    """Pass new settings, by the name of the database, to the engines and to logging; log what changed."""
    diffs = {
        engine.name: compare_settings(engine.settings, settings[engine.name])
        for engine in engines
        if engine.name in settings
    }
    for engine in engines:
        if (diff := diffs.get(engine.name)) is None:
            log.warning("%s is gone from the settings: that needs a restart", engine.name, extra=_RELOAD)
            continue
        prefix = f"{engine.name}: " if engine.name else ""
        changed = ", ".join(diff.now) or "nothing"
        log.info("%ssettings read again, changed: %s", prefix, changed, extra=_RELOAD)
        if diff.later:
            log.warning("%snot changed until a restart: %s", prefix, ", ".join(diff.later), extra=_RELOAD)
        engine.adopt(diff.settings)
    for name in settings.keys() - diffs.keys():
        log.warning("%s is new in the settings: that needs a restart", name, extra=_RELOAD)
    if diffs:
        set_up_logging(next(iter(diffs.values())).settings.logging, verbose=True)


def _section(key: str) -> str:
    return key.partition(".")[0]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
