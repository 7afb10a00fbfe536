"""Which forbidden names an answer uses, read from its source and the names it can see; nothing is run.

It keeps honest learners from handing in the oracle by accident; it is no wall against somebody determined.
"""

from __future__ import annotations

import builtins
import sys
from collections.abc import Callable, Mapping, Sequence, Set
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from grader.cell_names import CellNames, Statement, uses_in
from grader.source import source_of
from grader.syntax_tree import syntax_tree


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
        try:
            uses = uses_in([syntax_tree(source_of(target))])
        except SyntaxError:
            continue
        names |= {full for every in uses.imported.values() for full in every}
        for dotted in uses.dotted:
            head = dotted.partition(".")[0]
            if head in uses.imported:
                names |= _full_names(uses.imported, dotted)
                continue
            names.add(_resolve(dotted, scope))
            values.append(_value(dotted, scope))
            helper = scope.get(head)
            if callable(helper) and getattr(helper, "__module__", None) == getattr(answer, "__module__", None):
                waiting.append(helper)
    return [name for name in forbidden if _is_named(name, names) or _is_among(name, values)]


class _Binding:
    """What one statement made its names stand for. before: what the names that it looks up at once stood for then."""

    def __init__(self, statement: Statement, known: Mapping[str, _Binding]) -> None:
        self.statement = statement
        looked_up = statement.at_once if statement.replaces else statement.at_once | statement.binds
        self.before = {name: known[name] for name in looked_up if name in known}


class NotebookNames:
    """What the names of a notebook's cells stand for, followed in order; read once, asked for every exercise."""

    def __init__(self, cells: Mapping[str, CellNames]) -> None:
        self._final: dict[str, _Binding] = {}
        self._own: dict[str, dict[str, _Binding]] = {}
        self._stars: set[str] = set()
        for cell_name, cell in cells.items():
            own = self._own[cell_name] = {}
            for statement in cell.statements:
                binding = _Binding(statement, self._final)
                own |= dict.fromkeys(statement.binds, binding)
                self._final |= dict.fromkeys(statement.binds, binding)
                self._stars |= statement.uses.stars

    def violations(self, answer_name: str, forbidden: Sequence[str], cell_name: str = "") -> list[str]:
        """The forbidden names that an answer reaches, read from the cells alone: for answers that must not be run here.

        cell_name: the cell whose definition of the answer is judged, whatever a later cell calls by that name.
        """
        if not forbidden:
            return []
        start = self._own.get(cell_name, {}).get(answer_name) or self._final.get(answer_name)
        names: set[str] = set()
        whole: set[str] = set()
        attributes: set[str] = set()
        seen: set[tuple[int, str]] = set()
        waiting = [(start, answer_name)] if start else []
        while waiting:
            binding, dotted = waiting.pop()
            if (id(binding), dotted) in seen:
                continue
            seen.add((id(binding), dotted))
            head = dotted.partition(".")[0]
            uses = binding.statement.uses
            names |= _full_names(uses.imported, dotted)
            if head in binding.before:  # Perhaps it stands for that still: `if far: softmax = mine`.
                waiting.append((binding.before[head], dotted))
            if (id(binding), "") in seen:
                continue
            seen.add((id(binding), ""))
            attributes |= uses.attributes
            for used in uses.dotted:
                first = used.partition(".")[0]
                reached = _full_names(uses.imported, used)
                bindings = [each for each in (binding.before.get(first), self._final.get(first)) if each]
                reached |= {full for each in bindings for full in _full_names(each.statement.uses.imported, used)}
                if not reached and not bindings and not hasattr(builtins, first):
                    reached = {f"{module}.{used}" for module in self._stars}
                names |= reached
                if used in uses.whole:
                    whole |= reached
                waiting += [(each, used) for each in bindings]
            if binding.statement.is_definition:
                names |= {full for every in uses.imported.values() for full in every}
        names |= {_canonical(full) for full in names}
        values = [_loaded(full) for full in names]
        aliased = [name for name in forbidden if _is_behind_another_name(name, whole, attributes)]
        return [n for n in forbidden if n in aliased or _is_named(n, names) or _is_among(n, values)]


def _full_names(imported: Mapping[str, frozenset[str]], dotted: str) -> set[str]:
    """`F.softmax` where `torch.nn.functional` was imported as `F`: `torch.nn.functional.softmax`."""
    head, dot, rest = dotted.partition(".")
    return {f"{full}{dot}{rest}" for full in imported.get(head, ())}


def _canonical(full: str) -> str:
    """The name under which a library itself knows what it shows as `full`; that name again where it is not loaded."""
    return _full_name(_loaded(full)) or full


def _is_behind_another_name(name: str, whole: Set[str], attributes: Set[str]) -> bool:
    """`lib = torch` and `lib.softmax`: the module is handed on as a value, and what it is asked for is forbidden."""
    parts = name.split(".")
    values = [_loaded(full) for full in whole]
    for count in range(1, len(parts)):
        prefix = ".".join(parts[:count])
        if attributes >= set(parts[count:]) and (prefix in whole or _is_among(prefix, values)):
            return True
    return False


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
