"""Names that an answer takes from the lesson's own demo cells, whose values an official run does not compute.

An official run takes imports, functions and classes from the released cells and runs what the learner wrote. An answer
that reads a variable of a demo cell works at the desk and would fail there, so the live check says so at once.
"""

from __future__ import annotations

import ast
import dis
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from grader.source import squeeze
from grader.syntax_tree import syntax_tree

STUB_BODY = "raiseNotImplementedError"


def demo_names_used(answer: Callable[..., Any], lesson_file: Path, inputs: Sequence[str] = ()) -> list[str]:
    """The variables of the lesson's demo cells that `answer` reads, itself or through functions of the notebook.

    inputs: the cells that were run; a name that the learner's own cell binds is the learner's own, unless by a stub.
    """
    text = lesson_file.read_text(encoding="utf-8")
    demo = _assigned(text)
    used = _globals_read(answer) & demo
    if not used:
        return []
    released = squeeze(text)
    own: set[str] = set()
    for cell in inputs:
        if squeeze(cell) not in released and STUB_BODY not in squeeze(cell):
            own |= _assigned(cell, definitions_too=True)
    return sorted(used - own)


def _assigned(source: str, *, definitions_too: bool = False) -> set[str]:
    """Names that top-level statements bind to values; with definitions_too also functions and classes."""
    try:
        body = syntax_tree(source).body
    except SyntaxError:
        return set()
    names: set[str] = set()
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names |= {statement.name} if definitions_too else set()
        elif not isinstance(statement, ast.Import | ast.ImportFrom) and not _is_use(statement):
            stored = (node for node in ast.walk(statement) if isinstance(node, ast.Name))
            names |= {node.id for node in stored if isinstance(node.ctx, ast.Store)}
    return names


def _is_use(statement: ast.stmt) -> bool:
    """`LoraLinear = use("lora_linear")`: an official run supplies the exercise's part, the learner's own or ours."""
    value = statement.value if isinstance(statement, ast.Assign) else None
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "use"


def _globals_read(answer: Callable[..., Any]) -> set[str]:
    names: set[str] = set()
    seen: set[int] = set()
    waiting: list[Any] = [answer]
    while waiting:
        for function in _functions(waiting.pop()):
            if id(function) in seen:
                continue
            seen.add(id(function))
            scope: Mapping[str, Any] = function.__globals__
            for name in _loaded(function.__code__):
                names.add(name)
                helper = scope.get(name)
                if getattr(helper, "__module__", None) == function.__module__:
                    waiting.append(helper)
    return names


def _functions(target: Any) -> Iterator[FunctionType]:
    if isinstance(target, type):
        members = [getattr(member, "__func__", member) for member in vars(target).values()]
        yield from (member for member in members if isinstance(member, FunctionType))
    elif callable(target) and isinstance(found := inspect.unwrap(target), FunctionType):
        yield found


def _loaded(code: CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _loaded(constant)
