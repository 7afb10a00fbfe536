"""An answer as overlapping fragments of eight tokens that do not change when variables are renamed.

Comments, docstrings, layout and the text of strings are dropped; a name that the answer itself binds becomes its place
of first use within the fragment, as in the parameterised matching of Baker (1995), so `a = b @ c` and `y = x @ w` are
one fragment, and `a = a @ b` is another. Source that does not parse is read as far as it goes.
"""

from __future__ import annotations

import ast
import io
import keyword
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass

from grader.report.excerpt import parsed

FRAGMENT_TOKENS = 8
LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER}
OPENS_STATEMENT = {tokenize.NEWLINE, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}

Fragment = tuple[str, ...]


@dataclass(frozen=True)
class Token:
    """One token that counts. start, end: (line from 1, column from 0); own: a name that the answer itself binds."""

    text: str
    start: tuple[int, int]
    end: tuple[int, int]
    own: bool = False


def tokens_of(source: str) -> list[Token]:
    """The tokens that count, in order."""
    own = _names_bound(source)
    kept: list[Token] = []
    statement_opens = True
    for token in _tokens(source):
        if token.type == tokenize.STRING and statement_opens:
            continue  # A docstring, or a string nobody uses.
        if token.type in OPENS_STATEMENT or token.type == tokenize.COMMENT:
            statement_opens = statement_opens or token.type in OPENS_STATEMENT
            continue
        statement_opens = False
        if token.type in LAYOUT:
            continue
        is_name = token.type == tokenize.NAME and not keyword.iskeyword(token.string)
        is_own = is_name and (own is None or token.string in own)
        text = "a string" if token.type == tokenize.STRING else token.string
        kept.append(Token(text, token.start, token.end, is_own))
    return kept


def fragments_of(tokens: list[Token]) -> list[Fragment]:
    """Fragment i begins at token i."""
    return [_fragment(tokens[i : i + FRAGMENT_TOKENS]) for i in range(len(tokens) - FRAGMENT_TOKENS + 1)]


def _fragment(tokens: list[Token]) -> Fragment:
    places: dict[str, str] = {}
    return tuple(places.setdefault(token.text, f"name {len(places)}") if token.own else token.text for token in tokens)


def _tokens(source: str) -> Iterator[tokenize.TokenInfo]:
    try:
        yield from tokenize.generate_tokens(io.StringIO(source).readline)
    except (tokenize.TokenError, SyntaxError):
        return  # What stands before the fault is compared all the same.


def _names_bound(source: str) -> set[str] | None:
    """Names that are assigned, defined, imported under another name or parameters; None when it does not parse."""
    tree = parsed(source)
    if tree is None:
        return None
    bound: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound.add(node.id)
        elif isinstance(node, ast.arg):
            bound.add(node.arg)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(node.name)
        elif isinstance(node, ast.alias) and node.asname:
            bound.add(node.asname)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            bound.add(node.attr)
    return bound
