"""Which forbidden names an answer uses, read from its source and the names it can see; nothing is run.

It keeps honest learners from handing in the oracle by accident; it is no wall against somebody determined.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from grader.source import source_of


def violations(answer: Callable[..., Any], forbidden: Sequence[str]) -> list[str]:
    """The forbidden names that `answer`, or a function it calls from the same place, uses."""
    names: set[str] = set()
    seen: set[int] = set()
    waiting: list[Any] = [answer]
    while waiting and forbidden:
        target = waiting.pop()
        if id(target) in seen:
            continue
        seen.add(id(target))
        scope = _globals(target)
        for dotted in _dotted_names(source_of(target)):
            names.add(_resolve(dotted, scope))
            helper = scope.get(dotted.split(".")[0])
            if callable(helper) and getattr(helper, "__module__", None) == getattr(answer, "__module__", None):
                waiting.append(helper)
    return [name for name in forbidden if any(used == name or used.startswith(f"{name}.") for used in names)]


def _globals(target: Any) -> Mapping[str, Any]:
    if isinstance(target, type):
        methods = [member for member in vars(target).values() if hasattr(member, "__globals__")]
        return methods[0].__globals__ if methods else {}
    return getattr(target, "__globals__", {})


def _dotted_names(source: str) -> set[str]:
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute | ast.Name):
            found.add(_dotted(node))
    return found - {""}


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = _dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def _resolve(dotted: str, scope: Mapping[str, Any]) -> str:
    """`F.softmax` with `import torch.nn.functional as F` -> `torch.nn.functional.softmax`."""
    head, _, rest = dotted.partition(".")
    target = scope.get(head)
    if isinstance(target, ModuleType):
        full = target.__name__
    elif target is not None and getattr(target, "__module__", None) and hasattr(target, "__qualname__"):
        full = f"{target.__module__}.{target.__qualname__}"
    else:
        full = head
    return f"{full}.{rest}" if rest else full
