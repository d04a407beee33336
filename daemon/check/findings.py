"""What a check finds: one finding for each thing that is wrong or worth knowing, with what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["problem", "warning", "note"]

ORDER: dict[Severity, int] = {"problem": 0, "warning": 1, "note": 2}


@dataclass(frozen=True)
class Finding:
    """Something that a check found.

    A `problem` makes answers wrong or searches slow now; a `warning` costs something or will; a `note` is
    worth knowing. `code` names the kind for programs; `subject` the table, index or statement; `statement` is
    SQL that repairs it, where there is one.
    """

    severity: Severity
    code: str
    subject: str
    message: str
    advice: str = ""
    statement: str | None = None


def in_order(findings: list[Finding]) -> list[Finding]:
    """Return findings, the gravest first and otherwise as they were found."""
    return sorted(findings, key=lambda finding: ORDER[finding.severity])
