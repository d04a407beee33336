"""The fingerprint of a statement: the same for its text with values and for its text with parameters.

Imports only the standard library and takes microseconds, because the client computes it in the application.
It is not a parser: it knows the tokens of SQL, and the few forms that drivers give to values.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Final

MARKER: Final = "?"  # stands for every literal and bind parameter in a normalised text
_DIGEST_BYTES: Final = 8  # 64 bits: two of a million statements collide with a probability of 3e-8

_STRING: Final = (
    r"""[eE]'[^'\\]*+(?:(?:\\.|'')[^'\\]*+)*+(?:'|\Z)|(?:[bBxXnN]|[uU]&)?'[^']*+(?:''[^']*+)*+(?:'|\Z)"""
)
_QUOTED: Final = r'(?:[uU]&)?"[^"]*+(?:""[^"]*+)*+(?:"|\Z)'
PLACEHOLDER_NAME: Final = r"[^()]*"  # of %(name)s; [^)]* takes quadratic time on %(%(%(
_CONVERSION: Final = rf"(?:\({PLACEHOLDER_NAME}\))?[sbt]\b"  # behind the % of the styles format and pyformat
# White space matches nothing, so findall skips it. A string that never ends takes the rest of the text.
_TOKEN: Final = re.compile(
    rf"""
    (?!(?:[eEbBxXnN]|[uU]&)['"])[^\W\d][\w$]*+
  | [(),;\[\]]
  | \$\d+
  | {_STRING}
  | {_QUOTED}
  | %{_CONVERSION}
  | ::
  | --[^\n\r]*
  | (?:[+*/<>=~!@\#^&|`?]|-(?!-)|%%?(?!{_CONVERSION}))+
  | 0[xXoObB][0-9a-fA-F_]+ | (?:\d[\d_]*(?:\.(?!\.)[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)?
  | (?<![:\w\])"]):[^\W\d]\w*
  | \S
    """,
    re.VERBOSE | re.DOTALL,
)
# What findall cannot take: nested comments, and dollar quotes, whose ends repeat their tags.
_NESTED: Final = re.compile(
    rf"""
    (?P<comment>/\*)
  | (?P<dollar>\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z))
  | {_STRING} | {_QUOTED} | --[^\n\r]* | \$\d+ | [^\W\d][\w$]*
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")
_DOLLAR_QUOTE: Final = re.compile(r"\$(?:[^\W\d]\w*)?\$")
_CONSTANTS: Final = frozenset({"true", "false", "null"})
# Words after which a sign belongs to the number that follows it, and `(` does not open a call's arguments.
_OPENING_WORDS: Final = frozenset(
    (
        "all",
        "and",
        "any",
        "as",
        "between",
        "by",
        "case",
        "else",
        "escape",
        "except",
        "filter",
        "from",
        "having",
        "ilike",
        "in",
        "intersect",
        "is",
        "like",
        "limit",
        "not",
        "offset",
        "on",
        "or",
        "returning",
        "select",
        "set",
        "similar",
        "some",
        "then",
        "union",
        "using",
        "values",
        "when",
        "where",
    )
)
_OPERATOR_CHARACTERS: Final = frozenset("+-*/<>=~!@#%^&|`?")
_LIST_OPENERS: Final = frozenset({"in", "array"})  # before the bracket of a list of values
_BEFORE_SIGN: Final = _OPERATOR_CHARACTERS - {MARKER}
_SPECIAL: Final = frozenset("~!@#%^&|`?")  # an operator with one of these may end in + or -
# Types whose names are several words.
_TYPE_WORDS: Final = {
    "double": frozenset({"precision"}),
    "character": frozenset({"varying"}),
    "bit": frozenset({"varying"}),
    "timestamp": frozenset({"with", "without", "time", "zone"}),
    "time": frozenset({"with", "without", "time", "zone"}),
}


def fingerprint(text: str) -> str:
    """Return the fingerprint of a statement, 16 hexadecimal digits.

    Values, bind parameters of any style, their casts, lists of values of any length, white space, comments
    and the case of unquoted words make no difference to it.
    """
    return blake2b(
        " ".join(_normal_tokens(text)).encode(errors="replace"), digest_size=_DIGEST_BYTES
    ).hexdigest()


def normalize(text: str) -> str:
    """Return a statement without its values: every literal and bind parameter is a `?`, comments are gone.

    Has the same fingerprint as the statement.
    """
    pieces, before = [], ""
    for piece in _normal_tokens(text):
        tight = (
            piece in (",", ")", "]", ".", "::", ";")
            or before in ("(", "[", ".", "::")
            or (piece == "(" and _may_be_called(before))
            or (piece == "[" and before not in _OPENING_WORDS)
        )
        pieces.append(piece if tight or not before else f" {piece}")
        before = piece
    return "".join(pieces)


def _may_be_called(piece: str) -> bool:
    return piece[:1].isalpha() and piece not in _OPENING_WORDS and piece not in ("over", "lateral")


def _normal_tokens(text: str) -> list[str]:
    """Return the tokens of a statement, with values as markers and without what makes no difference."""
    if "/*" in text or ("$" in text and _DOLLAR_QUOTE.search(text)):
        text = _simplify_nested(text)
    tokens = _TOKEN.findall(text)
    out: list[str] = []
    lists: list[int] = []  # for each open bracket: where the list of values starts that it opens, or -1
    at, count = 0, len(tokens)
    while at < count:
        piece = tokens[at]
        at += 1
        first = piece[0]
        if first.isalpha() or first == "_":
            if "'" in piece:
                piece = MARKER
            elif '"' not in piece:
                piece = piece.lower()
                if piece in _CONSTANTS and (not out or out[-1] not in ("is", "not")):
                    piece = MARKER
        elif first in "([":
            before = out[-1] if out else ""
            nested = bool(lists) and lists[-1] >= 0 and before in ("(", "[", ",")
            is_list = nested or before in _LIST_OPENERS
            out.append(piece)
            lists.append(len(out) if is_list else -1)
            continue
        elif first in ")]":
            start = lists.pop() if lists else -1
            if 0 < start == len(out) - 1 and out[-1] == MARKER:
                # A list of values only: IN (1, 2) is as good as IN $1, and ARRAY[1, 2] as $1.
                del out[start - 1 :]
                if first == "]" and out and out[-1] == "array":
                    out.pop()
                piece = MARKER
        elif first == "'" or first.isdigit() or (first in "$.:" and len(piece) > 1 and piece != "::"):
            piece = MARKER
        elif first == "-" and piece[:2] == "--":
            continue
        elif first == "%" and piece[-1] in "sbt":
            piece = MARKER
        elif len(piece) > 1 and first in _OPERATOR_CHARACTERS:
            head, piece = _split_operator(piece)
            if head:
                out.append(head)
        if piece == MARKER:
            if out and out[-1] in ("-", "+") and (len(out) == 1 or _takes_sign(out[-2])):
                out.pop()
            while at < count and tokens[at] == "::":
                at = _type_end(tokens, at + 1)
            # One marker stands for a list of any length.
            if lists and out[-1:] == [","] and 0 < lists[-1] == len(out) - 2 and out[-2] == MARKER:
                out.pop()
                continue
        out.append(piece)
    while out and out[-1] == ";":
        out.pop()
    return out


def _split_operator(piece: str) -> tuple[str, str]:
    """Divide a run of operator characters into the operator and a sign or a `?` that follows it."""
    if piece == "%%":  # how a driver of the style pyformat is told %
        return "", "%"
    last = piece[-1]
    if (last == "?" and piece != "@?") or (last in "+-" and not _SPECIAL.intersection(piece)):
        return piece[:-1], last
    return "", piece


def _takes_sign(before: str) -> bool:
    """Say whether + or - after a piece is the sign of a number, not an operator between two values."""
    return (
        before in _OPENING_WORDS or before in ("(", "[", ",") or before[0] in _OPERATOR_CHARACTERS - {MARKER}
    )


def _simplify_nested(text: str) -> str:
    """Replace comments, which nest, by a space, and strings in dollar quotes by an empty one."""
    pieces, place = [], 0
    while match := _NESTED.search(text, place):
        kept, end = match.start(), match.end()
        replacement = ""
        if match["comment"]:
            end, replacement = comment_end(text, kept), " "
        elif match["dollar"]:
            replacement = "''"
        else:
            kept = end
        pieces += [text[place:kept], replacement]
        place = end
    return "".join([*pieces, text[place:]])


def comment_end(text: str, start: int) -> int:
    """Return where the comment that begins at `start` ends; comments nest."""
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    return len(text)


def _type_end(tokens: list[str], at: int) -> int:
    """Return where the name of a type ends that starts at a place, with its modifier and brackets."""
    count = len(tokens)
    if at >= count:
        return at
    more = _TYPE_WORDS.get(tokens[at].lower(), frozenset())
    at += 1
    while at + 1 < count and tokens[at] == ".":
        at += 2
    while at < count and tokens[at].lower() in more:
        at += 1
    if at < count and tokens[at] == "(":
        while at < count and tokens[at] != ")":
            at += 1
        at += 1
        while at < count and tokens[at].lower() in more:
            at += 1
    while at + 1 < count and tokens[at] == "[":
        closing = at + 1 if tokens[at + 1] == "]" else at + 2
        if closing >= count or tokens[closing] != "]":
            break
        at = closing + 1
    return at
