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

_BRANCHING = ast.If | ast.Try | ast.With | ast.For | ast.While | ast.Match


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


def violations_in_source(
    cells: Sequence[str], answer_name: str, forbidden: Sequence[str], own_cell: str = ""
) -> list[str]:
    """The same, read from a notebook's cells alone: for answers that must not be run here.

    own_cell: the cell whose definition of the answer is judged, whatever a later cell calls by that name.
    """
    if not forbidden:
        return []
    definitions, imported = _top_level(cells)
    own = _top_level([own_cell])[0].get(answer_name)
    if own:
        definitions[answer_name] = own
    scope = {bound: _loaded(full) for bound, full in imported.items()}
    # `from torch import softmax as row_softmax`
    whole = {imported[answer_name]} if answer_name in imported and answer_name not in definitions else set()
    names: set[str] = set(whole)
    values: list[Any] = [_loaded(full) for full in whole]
    seen: set[str] = set()
    waiting = [answer_name]
    while waiting:
        name = waiting.pop()
        if name in seen or name not in definitions:
            continue
        seen.add(name)
        dotted_names, own_imports = _names_in_trees(definitions[name])
        for dotted in dotted_names:
            head, _, rest = dotted.partition(".")
            waiting.append(head)
            known = own_imports if head in own_imports else imported
            if head in known and head not in definitions:
                full = f"{known[head]}.{rest}" if rest else known[head]
                names |= {full, _resolve(dotted, scope)}
                values.append(_loaded(full))
    return [name for name in forbidden if _is_named(name, names) or _is_among(name, values)]


def _top_level(cells: Sequence[str]) -> tuple[dict[str, list[ast.AST]], dict[str, str]]:
    """(statements that bind each name outside functions, what each imported name stands for); the last cell counts."""
    definitions: dict[str, list[ast.AST]] = {}
    imported: dict[str, str] = {}
    for cell in cells:
        try:
            body = ast.parse(_without_magics(cell)).body
        except (SyntaxError, ValueError, RecursionError, SystemError, MemoryError):
            continue  # No Python: it does not run either.
        bound: dict[str, list[ast.AST]] = {}
        for node in body:
            for name in _names_bound(node):
                # A branch may bind it or may not; a plain statement puts an end to what stood before.
                bound[name] = [*bound.get(name, []), node] if isinstance(node, _BRANCHING) else [node]
            if isinstance(node, ast.Import | ast.ImportFrom | _BRANCHING):
                imported |= _names_in_trees([node])[1]
        definitions |= bound
    return definitions, imported


def _without_magics(cell: str) -> str:
    """Lines for IPython left empty; the code between them counts."""
    if "%" not in cell and "!" not in cell:
        return cell
    lines = cell.split("\n")
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in lines)


def _names_bound(node: ast.stmt) -> set[str]:
    """The names that a statement binds, those inside its blocks included."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {node.name}
    bound: set[str] = set()
    waiting: list[ast.AST] = [node]
    while waiting:
        each = waiting.pop()
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(each.name)
            continue
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
            bound.add(each.id)
        waiting += ast.iter_child_nodes(each)
    return bound


def _loaded(full: str) -> Any:
    """The object of that full name, among modules that are loaded already; None otherwise. Nothing is imported."""
    module_name = full
    while module_name and module_name not in sys.modules:
        module_name = module_name.rpartition(".")[0]
    if not module_name:
        return None
    rest = full.removeprefix(module_name).lstrip(".")
    return _value(rest, vars(sys.modules[module_name])) if rest else sys.modules[module_name]


def _is_named(name: str, used_names: set[str]) -> bool:
    return any(used == name or used.startswith(f"{name}.") for used in used_names)


def _is_among(name: str, values: Sequence[Any]) -> bool:
    """Whether the forbidden object itself was reached, by whatever name: `from torch import softmax as s`."""
    found = _loaded(name)
    return found is not None and any(found is value for value in values)


def _globals(target: Any) -> Mapping[str, Any]:
    if isinstance(target, type):
        methods = [member for member in vars(target).values() if hasattr(member, "__globals__")]
        return methods[0].__globals__ if methods else {}
    return getattr(target, "__globals__", {})


def _names_in(source: str) -> tuple[set[str], dict[str, str]]:
    """(dotted names it uses, names that its own imports bind -> what they stand for)."""
    try:
        return _names_in_trees([ast.parse(source)])
    except SyntaxError:
        return set(), {}


def _names_in_trees(trees: Sequence[ast.AST]) -> tuple[set[str], dict[str, str]]:
    used: set[str] = set()
    imported: dict[str, str] = {}
    for node in (each for tree in trees for each in ast.walk(tree)):
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
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


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
