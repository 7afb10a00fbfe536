"""Which forbidden names an answer uses, read from its source and the names it can see; nothing is run.

It keeps honest learners from handing in the oracle by accident; it is no wall against somebody determined.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Mapping, Sequence
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from grader.source import source_of


def violations(answer: Callable[..., Any], forbidden: Sequence[str]) -> list[str]:
    """The forbidden names that `answer`, or a function it calls from the same place, uses."""
    names: set[str] = {_full_name(answer)}
    values: list[Any] = [answer]
    seen: set[int] = set()
    waiting: list[Any] = [answer]
    while waiting and forbidden:
        target = waiting.pop()
        if id(target) in seen:
            continue
        seen.add(id(target))
        scope = _globals(target)
        dotted_names, imported = _names_in(source_of(target))
        for dotted in dotted_names:
            head, _, rest = dotted.partition(".")
            if head in imported:
                names.add(f"{imported[head]}.{rest}" if rest else imported[head])
                continue
            names.add(_resolve(dotted, scope))
            values.append(_value(dotted, scope))
            helper = scope.get(head)
            if callable(helper) and getattr(helper, "__module__", None) == getattr(answer, "__module__", None):
                waiting.append(helper)
    return [name for name in forbidden if _is_named(name, names) or _is_among(name, values)]


def _is_named(name: str, used_names: set[str]) -> bool:
    return any(used == name or used.startswith(f"{name}.") for used in used_names)


def _is_among(name: str, values: Sequence[Any]) -> bool:
    """Whether the forbidden object itself was reached, by whatever name: `from torch import softmax as s`."""
    module_name = name
    while module_name and module_name not in sys.modules:
        module_name = module_name.rpartition(".")[0]
    found = _value(name.removeprefix(module_name).lstrip("."), vars(sys.modules[module_name])) if module_name else None
    return found is not None and any(found is value for value in values)


def _globals(target: Any) -> Mapping[str, Any]:
    if isinstance(target, type):
        methods = [member for member in vars(target).values() if hasattr(member, "__globals__")]
        return methods[0].__globals__ if methods else {}
    return getattr(target, "__globals__", {})


def _names_in(source: str) -> tuple[set[str], dict[str, str]]:
    """(dotted names it uses, names that its own imports bind -> what they stand for)."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return set(), {}
    used: set[str] = set()
    imported: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                used.add(alias.asname or alias.name)
                bound = alias.asname or alias.name.split(".")[0]
                imported[bound] = alias.name if alias.asname else bound
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                used.add(alias.asname or alias.name)
                imported[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Attribute | ast.Name):
            used.add(_dotted(node))
    return used - {""}, imported


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = _dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def _value(dotted: str, scope: Mapping[str, Any]) -> Any:
    """What a dotted name stands for, followed through modules and classes only (nothing of the learner's is run)."""
    head, *rest = dotted.split(".")
    found = scope.get(head)
    for name in rest:
        found = vars(found).get(name) if isinstance(found, ModuleType | type) else None
    return found


def _resolve(dotted: str, scope: Mapping[str, Any]) -> str:
    """`F.softmax` with `import torch.nn.functional as F` -> `torch.nn.functional.softmax`."""
    head, _, rest = dotted.partition(".")
    target = scope.get(head)
    full = _full_name(target) if target is not None else head
    return f"{full or head}.{rest}" if rest else full or head


def _full_name(target: Any) -> str:
    if isinstance(target, ModuleType):
        return target.__name__
    if not isinstance(target, FunctionType | BuiltinFunctionType | type):
        return ""  # An object of the learner's: asking it for attributes could run its code.
    module, name = target.__module__, target.__qualname__
    return f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""
