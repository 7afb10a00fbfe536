"""A notebook cell as plain Python: its text alone is changed, and nothing of it is run."""

from __future__ import annotations

import ast

MARKS = ("%", "!", "?")


def plain_python(source: str) -> str:
    """Cell magics and shell lines become calls of `get_ipython()`, as in a kernel; the body of %%time is kept."""
    if not has_marks(source):
        return source
    first, _, rest = source.lstrip().partition("\n")
    if first.startswith(("%%time", "%%capture", "%%prun")):
        source = "\n" + rest
    try:
        ast.parse(source)
        return source
    except SyntaxError:
        from IPython.core.inputtransformer2 import TransformerManager

        return TransformerManager().transform_cell(source)


def has_marks(source: str) -> bool:
    """Whether IPython may have a say in it at all."""
    return any(mark in source for mark in MARKS)
