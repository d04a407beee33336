"""The tokens of an SQL text: enough to find literals, names and clauses, not a grammar."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple, cast

from vectuned.sql.client.fingerprint import comment_end

Kind = Literal["string", "number", "parameter", "word", "quoted", "operator", "mark"]

# A quote that is never closed takes the rest of the text, as it does in a text that was cut.
_TOKEN: Final = re.compile(
    r"""
    (?P<space>[\s\0]+|--[^\n\r]*)
  | (?P<comment>/\*)
  | (?P<string>[eE]'[^'\\]*(?:(?:\\.|'')[^'\\]*)*(?:'|\Z) | (?:[bBxXnN]|[uU]&)?'[^']*(?:''[^']*)*(?:'|\Z)
      | (?<![\w$])\$(?P<tag>(?:[^\W\d]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z))
  | (?P<quoted>(?:[uU]&)?"[^"]*(?:""[^"]*)*(?:"|\Z))
  | (?P<parameter>\$\d+)
  | (?P<number>0[xXoObB][0-9a-fA-F_]+|(?:\d[\d_]*(?:\.(?!\.)[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)?)
  | (?P<word>[^\W\d][\w$]*)
  | (?P<operator>(?:(?!--|/\*)[-+*/<>=~!@\#%^&|`?])+)
  | (?P<mark>::|:=|\.\.|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_ENDS_IN_SIGN: Final = re.compile(r"[~!@#%^&|`?]")  # an operator with one of these may end in + or -
_LONGEST_NAME: Final = 63  # bytes of an identifier that the server keeps


class Token(NamedTuple):
    """One token: its kind, its text as written, and where it starts."""

    kind: Kind
    text: str
    start: int

    @property
    def end(self) -> int:
        """Return where the token ends."""
        return self.start + len(self.text)

    @property
    def keyword(self) -> str:
        """Return an unquoted word in lower case, a mark as it is, otherwise an empty text."""
        if self.kind == "word":
            return self.text.lower()
        return self.text if self.kind == "mark" else ""

    @property
    def name(self) -> str:
        """Return the identifier that a word or quoted name stands for, as the catalogue holds it."""
        if self.kind == "word":
            name = self.text.lower()
        elif self.kind == "quoted":
            name = self.text[self.text.index('"') + 1 :].removesuffix('"').replace('""', '"')
        else:
            return ""
        return name.encode()[:_LONGEST_NAME].decode(errors="ignore")


def tokenize(text: str) -> list[Token]:
    """Split an SQL text into tokens without spaces and comments; any text can be split.

    Backslashes in plain quotes are taken literally, as by standard_conforming_strings.
    """
    return list(_tokens(text))


def _tokens(text: str) -> Iterator[Token]:
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None:  # cannot happen: the last branch takes any character
            return
        kind, found = match.lastgroup, match.group()
        if kind == "comment":
            place = comment_end(text, place)
            continue
        if kind == "operator" and found[-1] in "+-" and not _ENDS_IN_SIGN.search(found):
            # In `a=-1` the server reads the operator = and a sign.
            found = found.rstrip("+-") or found[0]
        if kind != "space":
            yield Token(cast(Kind, "string" if kind == "tag" else kind), found, place)
        place += len(found)


def rename_alias(text: str, alias: str, name: str) -> str:
    """Replace the alias of a table by another name where it qualifies a column, outside of quotes.

    In the server's output an alias is always followed by a dot and a column. A schema of the same name is
    followed by the name of an operator, a type, a function or a collation.
    """
    tokens = tokenize(text)
    pieces, copied = [], 0
    for at, token in enumerate(tokens):
        if token.name == alias and _qualifies_column(tokens, at):
            pieces += [text[copied : token.start], name]
            copied = token.end
    return "".join([*pieces, text[copied:]])


def _qualifies_column(tokens: Sequence[Token], at: int) -> bool:
    after = [token.text for token in tokens[at + 1 : at + 4]]
    before = [token.keyword for token in tokens[max(0, at - 2) : at]]
    is_call = after[2:] == ["("]
    is_type = before[-1:] in (["::"], ["."], ["collate"])
    return after[:1] == ["."] and not is_call and not is_type and before != ["operator", "("]


def cut_at_parameters(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the m + 1 pieces of a text before, between and after its m parameters, and their numbers."""
    pieces, numbers, copied = [], [], 0
    for token in tokenize(text):
        if token.kind == "parameter":
            pieces.append(text[copied : token.start])
            numbers.append(int(token.text[1:]))
            copied = token.end
    return (*pieces, text[copied:]), tuple(numbers)


def unquote(literal: str) -> str:
    """Return the text that a literal in plain quotes stands for."""
    return literal[1:-1].replace("''", "'")


def shape_of(condition: str, *, with_types: bool = False) -> str:
    """Replace the literals of a condition by $1, $2 ... in their order: the same for all of its values.

    A literal goes with its casts, so that `'a'::text` and a parameter look the same, unless `with_types`; an
    array of any number of literals counts as one.
    """
    tokens = tokenize(condition)
    pieces, at = [], 0
    while at < len(tokens):
        end = literal_end(tokens, at)
        if end is None:
            pieces.append(tokens[at].text)
            at += 1
            continue
        pieces.append(_LITERAL)
        if with_types:
            pieces += [token.text for token in tokens[at:end] if token.kind in ("word", "quoted", "mark")]
        at = end
    return _write(pieces)


_NOTHING: Final = Token("mark", "", 0)
_LITERAL: Final = "$"  # stands for a literal among the pieces of a shape


def literal_end(tokens: Sequence[Token], at: int) -> int | None:
    """Return the place after the literal, with its casts, that starts at a place; None if none does."""
    if at >= len(tokens):
        return None
    token, keyword = tokens[at], tokens[at].keyword
    before = tokens[at - 1] if at else _NOTHING
    is_constant = keyword in ("true", "false", "null") and before.keyword not in ("is", "not")
    end: int | None = None
    if is_constant or token.kind in ("string", "number", "parameter"):
        end = at + 1
    elif keyword == "(" and before.kind not in ("word", "quoted"):
        # ('{a,b}'::text[]) or ($2)::text
        end = _closing(tokens, literal_end(tokens, at + 1), ")")
    elif keyword == "array" and at + 1 < len(tokens) and tokens[at + 1].text == "[":
        last = literal_end(tokens, at + 2)
        while last is not None and last < len(tokens) and tokens[last].text == ",":
            last = literal_end(tokens, last + 1)
        end = _closing(tokens, last, "]")
    if end is None:
        return None
    while end < len(tokens) and tokens[end].text == "::":
        end = _type_end(tokens, end + 1)
    return end


def _closing(tokens: Sequence[Token], at: int | None, bracket: str) -> int | None:
    """Return the place after a closing bracket at a place, None if something else is there."""
    return at + 1 if at is not None and at < len(tokens) and tokens[at].text == bracket else None


# Types whose names are several words, as format_type writes them.
_TYPE_WORDS: Final = {
    "double": ("precision",),
    "character": ("varying",),
    "bit": ("varying",),
    "timestamp": ("with", "without", "time", "zone"),
    "time": ("with", "without", "time", "zone"),
    "interval": ("year", "month", "day", "hour", "minute", "second", "to"),
}


def _type_end(tokens: Sequence[Token], at: int) -> int:
    """Return where the name of a type ends, with its modifier and brackets."""
    end = at + 1
    while end + 1 < len(tokens) and tokens[end].text == ".":
        end += 2
    more = _TYPE_WORDS.get(tokens[at].keyword, ()) if at < len(tokens) else ()
    end = _skip_words(tokens, end, more)
    if end < len(tokens) and tokens[end].text == "(":
        while end < len(tokens) and tokens[end].text != ")":
            end += 1
        end = _skip_words(tokens, end + 1, more)
    while end + 1 < len(tokens) and tokens[end].text == "[" and tokens[end + 1].text == "]":
        end += 2
    return end


def _skip_words(tokens: Sequence[Token], at: int, words: tuple[str, ...]) -> int:
    while at < len(tokens) and tokens[at].keyword in words:
        at += 1
    return at


def _write(pieces: Sequence[str]) -> str:
    """Write pieces as a text, with the literals numbered; the layout depends on nothing but the pieces."""
    number, written, before = 0, [], "("
    for piece in pieces:
        shown = piece
        if piece == _LITERAL:
            number += 1
            shown = f"${number}"
        is_tight = before in ("(", "[", ".", "::") or piece in (")", "]", ",", ".", "::", "[")
        is_call = piece == "(" and re.match(r"[\w\"]", before) and before not in _BEFORE_BRACKET
        written += [shown] if is_tight or is_call else [" ", shown]
        before = piece
    return "".join(written)


_BEFORE_BRACKET: Final = ("AND", "OR", "NOT", "ANY", "ALL", "WHEN", "THEN", "ELSE", "CASE")
