"""Texts that somebody might put where a name or a path is expected, to see what gives way."""

from __future__ import annotations

_CONTROLS = [chr(code) for code in (*range(32), 127)]
_QUOTING = [
    "'", "''", '"', '""', "`", "\\", "\\\\", "\\'", "';", "$$", "$a$", "--", "/*", "*/", "%", "%%",
    "%s", "%n%n", "%x" * 40,
    "{}", "{0}", "{0.__class__}", "{self}", "${HOME}", "$(id)", "`id`", "|id", "; id", "&& id",
    "> /dev/null", "~nobody-there",
    "'; DROP SCHEMA vectuned CASCADE; --", "x' OR '1'='1", 'x"; SELECT pg_sleep(60); --',
    "1); DELETE FROM t; --",
    "E'\\x27'", "U&'\\0027'", "\\'; SELECT 1", "name' password='hunter2", "x application_name=y",
    "x host=elsewhere",
    "postgresql://u:p@h/d", "postgresql://[::1", "postgres://%zz", "=", "a=", "=b", "a b", "user=",
    "dbname='", "host=\\",
    "[bold red]x[/]", "[/]", ":smile:", "<0>emergency", "<script>", "{\"a\": 1}", "[database]",
    "# comment", "null", "None",
]  # fmt: skip
_UNICODE = [
    "é", "ß", "日本語", "🦊", "\u202e", "\u200b", "\u2028", "\u0085", "\ufeff", "\ufffd", "a\u0301",
    "\U0010ffff", "\ue000", "\xa0",
    "ﬀ", "İ", "\ud800", "a\udcffb",
]  # fmt: skip
_PATHS = [
    "..",
    "../../etc",
    "/",
    "//",
    "/dev/null",
    "/proc/self/mem",
    ".",
    "-",
    "--help",
    "a/../b",
    "~",
    "~root",
    "C:\\x",
]
_LONG = ["x" * length for length in (63, 64, 255, 256, 4096, 4097, 100_000)] + [
    "é" * 63,
    "/".join(["x"] * 2040),
]
_LINES = [
    "a\nb",
    "a\r\nb",
    "a\n<0>b",
    "\n",
    "a\x00b",
    "\x1b[2J",
    "\x1b]0;title\x07",
    "a\tb",
    "\x00",
    "dbname=a\x00b",
    "dbname=a\x1bb",
    " ",
    "  x  ",
    "",
]

HOSTILE = list(dict.fromkeys((*_CONTROLS, *_QUOTING, *_UNICODE, *_PATHS, *_LONG, *_LINES)))
