"""Names and sizes of the table that reports are about."""

from __future__ import annotations

DIMENSIONS = 16
KIND = '<i>"kind"</i>'  # a column whose name would become markup if it were not escaped
