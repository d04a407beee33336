"""What the application knows of the learned settings: a copy of the table vectuned.statement in memory.

Imports only the standard library. Reading it never waits: a lookup is one access to a dictionary by the
statement's text, and only a new text is fingerprinted. A caller with a connection outside of a
transaction refreshes it, see `Snapshot.claim_refresh`.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .fingerprint import fingerprint
from .recording import Recorder
from .values import Slot, value_key, value_slots

# Whether the table can be read: 4 if all of its columns are there and granted. Reads the catalogue alone, so
# it fails nowhere, and in no server's log stands an error.
PROBE: Final = (
    "SELECT pg_catalog.count(*) FROM pg_catalog.pg_attribute a "
    "JOIN pg_catalog.pg_class c ON c.oid = a.attrelid "
    "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
    "WHERE n.nspname = 'vectuned' AND c.relname = 'statement' "
    "AND a.attname IN ('fingerprint', 'k_class', 'settings', 'by_share') "
    "AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') "
    "AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')"
)
PROBED: Final = 4  # the columns that PROBE looks for
# Sent before LOAD, in its transaction: a table that is locked, as during an upgrade, must not hold up the
# application. A twentieth of a second is little beside the refresh interval, and plenty for a small table.
BOUND: Final = (
    "SELECT pg_catalog.set_config('lock_timeout', '50ms', true), "
    "pg_catalog.set_config('statement_timeout', '1s', true)"
)
LOAD: Final = (
    "SELECT s.fingerprint, s.k_class, s.settings::pg_catalog.text FROM vectuned.statement s "
    "WHERE s.settings IS NOT NULL "
    "UNION ALL SELECT pg_catalog.concat('#', s.fingerprint), s.k_class, s.by_share::pg_catalog.text "
    "FROM vectuned.statement s WHERE s.by_share IS NOT NULL "
    "UNION ALL SELECT pg_catalog.concat('=', c.value_key), c.bucket, NULL FROM vectuned.condition_shares() c"
)

DEFAULT_MAX_AGE: Final = 30.0  # seconds until a copy is refreshed: a publish takes minutes anyway
_ABSENT_FACTOR: Final = 10.0  # a table that was not there is looked for this many times less often
_MOST_TEXTS: Final = 2000  # texts remembered; an application has hundreds, unless it writes values into them
_LONGEST_CACHED: Final = 20_000  # characters; a longer text holds values, and will not come again
_LONGEST: Final = 1_000_000  # characters; a longer text is no search, and is not even looked at
# The operators of pgvector that indexes order by.
_DISTANCES: Final = ("<=>", "<->", "<#>", "<+>", "<~>", "<%>")

# The only settings that are ever sent, with the values that the server takes. All may be set by any role.
_INTEGER: Final = re.compile(r"[1-9]\d{0,9}")
_NUMBER: Final = re.compile(r"\d{1,4}(\.\d{1,6})?")
_SWITCH: Final = re.compile(r"on|off")
ALLOWED: Final[Mapping[str, re.Pattern[str]]] = {
    "hnsw.ef_search": re.compile(r"[1-9]\d{0,2}|1000"),
    "hnsw.iterative_scan": re.compile(r"off|relaxed_order|strict_order"),
    "hnsw.max_scan_tuples": _INTEGER,
    "hnsw.scan_mem_multiplier": _NUMBER,
    "ivfflat.probes": re.compile(r"[1-9]\d{0,3}|[12]\d{4}|3[01]\d{3}|32[0-6]\d{2}|327[0-5]\d|3276[0-8]"),
    "ivfflat.iterative_scan": re.compile(r"off|relaxed_order"),
    "ivfflat.max_probes": re.compile(r"[1-9]\d{0,3}|[12]\d{4}|3[01]\d{3}|32[0-6]\d{2}|327[0-5]\d|3276[0-8]"),
    "enable_indexscan": _SWITCH,
    "enable_seqscan": _SWITCH,
    "enable_bitmapscan": _SWITCH,
    "enable_sort": _SWITCH,
    "plan_cache_mode": re.compile(r"auto|force_generic_plan|force_custom_plan"),
}
# Marks that the values before are kept, in this transaction.
_SAVED: Final = "pg_catalog.set_config('vectuned.saved', 'yes', true)"
_RESTORED: Final = "pg_catalog.set_config('vectuned.saved', '', true)"
_IS_SAVED: Final = "pg_catalog.current_setting('vectuned.saved', true) = 'yes'"
_COUNT: Final = r"\s+(?:(?P<literal>\d+)|\$(?P<number>\d+)|%\((?P<name>\w+)\)s|(?P<next>%[sbt]\b|\?))(?!\w)"
_LIMIT: Final = re.compile(rf"\blimit{_COUNT}", re.I)
_OFFSET: Final = re.compile(rf"\boffset{_COUNT}", re.I)
_NEXT: Final = re.compile(r"%[sbt]\b|\?")


@dataclass
class Counters:
    """What became of the statements and of the snapshot, since the process started.

    `tuned`: sent with settings, `by_share`: with those for the share of rows that their values match.
    `untouched`: ours, but sent as they came, by reason. `foreign` texts were looked at and are none of ours;
    each is counted when it is first seen. `refreshes` of the snapshot, and `failures` of these by reason.
    """

    tuned: int = 0
    by_share: int = 0
    foreign: int = 0
    refreshes: int = 0
    untouched: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    def count_untouched(self, reason: str) -> None:
        """Count a statement of ours that was sent as it came."""
        self.untouched[reason] = self.untouched.get(reason, 0) + 1

    def count_failure(self, reason: str) -> None:
        """Count a refresh that failed."""
        self.failures[reason] = self.failures.get(reason, 0) + 1


@dataclass(frozen=True)
class LocalSettings:
    """The SQL that sends a group of settings, each a single SELECT.

    `apply` sets them to the end of the transaction, which is enough where the statement is a transaction of
    its own. In a longer one `save_and_apply` keeps the values before in settings named vectuned.saved_n, and
    `restore` puts them back; it does nothing where these were rolled back meanwhile.
    """

    values: tuple[tuple[str, str], ...]
    apply: str
    save_and_apply: str
    restore: str

    @classmethod
    def of(cls, values: Mapping[str, str]) -> LocalSettings | None:
        """Compose the SQL; None without settings, or if one is not among those that may be sent."""
        pairs = tuple(sorted(values.items()))
        if not pairs:
            return None
        for name, value in pairs:
            allowed = ALLOWED.get(name)
            if allowed is None or not isinstance(value, str) or not allowed.fullmatch(value):
                return None
        sets = [_set(name, f"'{value}'") for name, value in pairs]
        saves = [
            _set(f"vectuned.saved_{number}", f"coalesce(pg_catalog.current_setting('{name}', true), '')")
            for number, (name, _) in enumerate(pairs)
        ]
        restores = [
            # NULL, for a setting without a value, resets it.
            _set(name, f"nullif(pg_catalog.current_setting('vectuned.saved_{number}', true), '')")
            for number, (name, _) in enumerate(pairs)
        ]
        return cls(
            pairs,
            f"SELECT {', '.join(sets)}",
            f"SELECT {', '.join([_SAVED, *saves, *sets])}",
            f"SELECT {', '.join([*restores, _RESTORED])} WHERE {_IS_SAVED}",
        )


def _set(name: str, value: str) -> str:
    return f"pg_catalog.set_config('{name}', {value}, true)"


@dataclass(frozen=True)
class _Limit:
    """Where the text says how many rows it asks for, or passes over: a number, or the key of a parameter."""

    rows: int | None = None
    key: int | str | None = None

    def read(self, parameters: Any) -> int | None:
        """Return the number of rows, None if that cannot be told."""
        if self.key is None or parameters is None:
            return self.rows
        try:
            value = parameters[self.key]
        except (LookupError, TypeError):
            return None
        return value if isinstance(value, int) else None


@dataclass(frozen=True)
class _ClassSettings:
    """The settings of a statement for a class of k: for all values, and by the share of rows that they match.

    `settings` is None where none are proven for all; `by_bucket` by selectivity bucket.
    """

    settings: LocalSettings | None
    by_bucket: Mapping[int, LocalSettings] = field(default_factory=dict)


_Classes = tuple[tuple[int, _ClassSettings], ...]


@dataclass(frozen=True)
class _Known:
    """A text of ours: its settings by class of k, the smallest first, and its values if these matter."""

    name: str
    limit: _Limit
    offset: _Limit | None
    classes: _Classes
    slots: tuple[Slot, ...] | None

    def choose(self, parameters: Any) -> _ClassSettings | None:
        """Choose the settings of the smallest class that holds the rows asked for."""
        rows = self.limit.read(parameters)
        if rows is not None and self.offset is not None:
            skipped = self.offset.read(parameters)
            rows = None if skipped is None else rows + skipped
        if rows is None:  # for example FETCH FIRST, or a subquery: the most demanding is right for all
            return self.classes[-1][1]
        return next((settings for k_class, settings in self.classes if rows <= k_class), None)


class Snapshot:
    """The settings of all statements, by fingerprint. Safe for use by several threads.

    max_age: seconds until a copy is refreshed. recorder: keeps a sample of the statements, None without.
    """

    def __init__(self, max_age: float = DEFAULT_MAX_AGE) -> None:
        self.counters = Counters()
        self.max_age = max_age
        self.recorder: Recorder | None = None
        self._by_fingerprint: dict[str, _Classes] = {}
        self._buckets: dict[str, int] = {}  # by the key of values
        self._by_text: dict[str, _Known | None] = {}
        self._lock = threading.Lock()
        self._due = 0.0  # by time.monotonic()

    def __len__(self) -> int:
        return len(self._by_fingerprint)

    @property
    def is_due(self) -> bool:
        """Say whether the copy should be refreshed."""
        return time.monotonic() >= self._due

    def claim_refresh(self) -> bool:
        """Return True to the one caller that should refresh the copy now, if it is due."""
        if not self.is_due:
            return False
        with self._lock:
            if not self.is_due:
                return False
            self._due = time.monotonic() + self.max_age
            return True

    def postpone(self) -> None:
        """Leave the next refresh to the listener; the targets' connections step in if it falls silent."""
        self._due = time.monotonic() + 3 * self.max_age

    def start(self) -> float:
        """Return the time now if the next statement is to be recorded, otherwise 0."""
        recorder = self.recorder
        return time.perf_counter() if recorder is not None and recorder.draws() else 0.0

    def record(self, text: Any, parameters: Any, started: float) -> None:
        """Record a statement that `start` drew, once it was executed."""
        if self.recorder is not None and isinstance(text, str):
            self.recorder.add(text, parameters, time.perf_counter() - started)

    def expire(self) -> None:
        """Let the copy be refreshed at the next occasion, for example after a notification."""
        self._due = 0.0

    def find(self, text: str, parameters: Any = None) -> LocalSettings | None:
        """Return the settings to send with a statement, None if it goes out as it is."""
        try:
            known = self._by_text[text]
        except KeyError:
            known = self._recognise(text)
        if known is None:
            return None
        chosen = known.choose(parameters)
        if chosen is None:
            self.counters.count_untouched("more rows than proven")
            return None
        if chosen.by_bucket and known.slots is not None:
            bucket = self._buckets.get(value_key(known.name, known.slots, parameters) or "", -1)
            if bucket in chosen.by_bucket:
                self.counters.by_share += 1
                return chosen.by_bucket[bucket]
        if chosen.settings is None:
            self.counters.count_untouched("share of matching rows not known")
        return chosen.settings

    def replace(self, rows: Iterable[Sequence[Any]]) -> None:
        """Take over what the table holds: rows of (fingerprint, class of k, settings as JSON).

        With # before the fingerprint the settings are by selectivity bucket; rows of ("=" and the key of
        values, bucket, None) say which bucket values fall into.
        """
        found: dict[str, dict[int, LocalSettings | None]] = {}
        by_share: dict[str, dict[int, dict[int, LocalSettings]]] = {}
        buckets: dict[str, int] = {}
        for name, number, document in rows:
            text = str(name)
            if text.startswith("="):
                buckets[text[1:]] = number
            elif text.startswith("#"):
                shares = by_share.setdefault(text[1:], {})
                shares[number] = {} if number in shares else _parse_buckets(document)
            else:
                settings = _parse(document)
                if settings is None and document not in ("{}", {}):
                    self.counters.count_failure("invalid settings")
                known = found.setdefault(text, {})
                # One text that stands for several statements is served only if they agree.
                same = number not in known or known[number] == settings
                known[number] = settings if same else None
        by_fingerprint = {
            name: classes
            for name in {*found, *by_share}
            if (classes := _join(found.get(name, {}), by_share.get(name, {})))
        }
        with self._lock:
            self.counters.refreshes += 1
            self._buckets = buckets
            if by_fingerprint != self._by_fingerprint:
                self._by_fingerprint, self._by_text = by_fingerprint, {}

    def forget(self, reason: str) -> None:
        """Drop the copy, since the table cannot be read, and look for it again later."""
        with self._lock:
            self.counters.count_failure(reason)
            self._by_fingerprint, self._by_text, self._buckets = {}, {}, {}
            self._due = time.monotonic() + _ABSENT_FACTOR * self.max_age

    def _recognise(self, text: str) -> _Known | None:
        known = None
        by_text = self._by_text
        if self._by_fingerprint and len(text) <= _LONGEST and any(each in text for each in _DISTANCES):
            name = fingerprint(text)
            classes = self._by_fingerprint.get(name)
            if classes:
                has_buckets = any(each.by_bucket for _, each in classes)
                slots = value_slots(text) if has_buckets else None
                offset = _find_count(text, _OFFSET) if _OFFSET.search(text) else None
                known = _Known(name, _find_count(text, _LIMIT), offset, classes, slots)
        if known is None:
            self.counters.foreign += 1
        if len(text) <= _LONGEST_CACHED:
            if len(by_text) >= _MOST_TEXTS:
                by_text.clear()
            by_text[text] = known
        return known


def _join(
    settings: Mapping[int, LocalSettings | None], by_share: Mapping[int, Mapping[int, LocalSettings]]
) -> _Classes:
    """Return the settings of a statement by class of k that has some, the smallest first."""
    classes = [(k, _ClassSettings(settings.get(k), by_share.get(k, {}))) for k in {*settings, *by_share}]
    usable = [(k, each) for k, each in classes if each.settings is not None or each.by_bucket]
    return tuple(sorted(usable, key=lambda pair: pair[0]))


def _parse_buckets(document: Any) -> dict[int, LocalSettings]:
    try:
        values = json.loads(document) if isinstance(document, str) else document
        parsed = {int(bucket): LocalSettings.of(settings) for bucket, settings in values.items()}
    except (ValueError, AttributeError):
        return {}
    return {bucket: settings for bucket, settings in parsed.items() if settings is not None}


def _parse(document: Any) -> LocalSettings | None:
    try:
        values = json.loads(document) if isinstance(document, str) else document
        return LocalSettings.of(values) if isinstance(values, dict) else None
    except ValueError:
        return None


def _find_count(text: str, pattern: re.Pattern[str]) -> _Limit:
    """Find the last LIMIT or OFFSET of a text, as written for any driver."""
    found = list(pattern.finditer(text))
    if not found:
        return _Limit()
    last = found[-1]
    if last["literal"]:
        return _Limit(rows=int(last["literal"]))
    if last["number"]:
        return _Limit(key=int(last["number"]) - 1)
    if last["name"]:
        return _Limit(key=last["name"])
    return _Limit(key=len(_NEXT.findall(text, 0, last.start("next"))))
