"""Python source to its syntax tree, one thread at a time.

CPython 3.11 counts the depth of the tree that it builds in one place for all threads. Two that build at once can find
the other's count and raise "SystemError: AST constructor recursion depth mismatch", for a notebook that has no fault.
"""

from __future__ import annotations

import ast
import threading

_one_at_a_time = threading.RLock()


def syntax_tree(source: str, file: str = "<unknown>") -> ast.Module:
    """What `ast.parse` gives, and raises what it raises."""
    with _one_at_a_time:
        return ast.parse(source, file)
