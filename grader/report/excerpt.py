"""An answer without its docstrings, which repeat the stub's: what is left is what the learner wrote."""

from __future__ import annotations

import ast
import warnings

from grader.syntax_tree import syntax_tree

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def parsed(source: str) -> ast.Module | None:
    """A learner's source as a tree, None where it does not parse; what Python warns of in it is not our reader's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return syntax_tree(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def without_docstrings(source: str) -> str:
    """The source with the lines of its docstrings left out; as it is where it does not parse."""
    tree = parsed(source)
    if tree is None:
        return source
    lines = source.split("\n")  # As `ast` counts: splitlines also splits at form feeds.
    dropped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, Documented) and ast.get_docstring(node, clean=False) is not None and len(node.body) > 1:
            text = node.body[0]
            last = text.end_lineno or text.lineno
            after = lines[last - 1].encode()[text.end_col_offset :]
            if not lines[text.lineno - 1].encode()[: text.col_offset].strip() and not after.strip():
                dropped.update(range(text.lineno, last + 1))
    return "\n".join(line for number, line in enumerate(lines, 1) if number not in dropped)
