"""Exercise files read as source: the learner's stub, the public view without answers, the lines that give one away."""

from __future__ import annotations

import ast
import inspect
import linecache
import re
import textwrap
import tokenize
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grader.exercise import Exercise
from grader.syntax_tree import syntax_tree

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

ANSWER_LINE_CHARACTERS = 24
DECLARES = re.compile(r"^exercise\s*(:[^=]+)?=\s*Exercise\(", re.MULTILINE)


def answer_source(exercise: Exercise, name: str = "") -> str:
    """The reference as a learner would write it: no decorator, with the imports and helpers of its file it uses.

    name: an alternative or a misconception to write in its place, under the name that the answer must have. A reference
    that it builds on comes along as `first_<name>`.
    """
    text, tree = _parse(exercise)
    nodes = _top_level_nodes(tree)
    wanted = name or exercise.answer_name
    kept = _reachable(nodes, [wanted]) - {wanted}
    used = _names_used([nodes[name] for name in [*kept, wanted]])
    imports = [source for names, source in _imports(text, tree, _siblings(exercise)) if names & used]
    helpers = [_whole(text, node) for node in tree.body if any(nodes.get(name) is node for name in kept)]
    body = "\n\n\n".join([*helpers, definition_source(exercise, wanted)])
    if wanted != exercise.answer_name:
        body = re.sub(rf"\b{exercise.answer_name}\b", f"first_{exercise.answer_name}", body)
        body = re.sub(rf"\b{wanted}\b", exercise.answer_name, body)
    return "\n".join(imports) + "\n\n\n" + body if imports else body


def definition_source(exercise: Exercise, name: str) -> str:
    """One top-level function or class of the exercise's file, without its decorators."""
    text, tree = _parse(exercise)
    return _whole(text, _definitions(tree)[name])


def stub(exercise: Exercise) -> str:
    """Signature, docstring, `raise NotImplementedError`; a class keeps its public methods' signatures."""
    text, tree = _parse(exercise)
    return _stub(text, _definitions(tree)[exercise.answer_name])


def _stub(text: str, node: Definition) -> str:
    if not isinstance(node, ast.ClassDef):
        return _stub_function(text, node)
    parts = [_head(text, node)]
    methods = [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)]
    for method in methods:
        if method.name.startswith("_") and not method.name.startswith("__"):
            continue
        first = min([method.lineno, *(decorator.lineno for decorator in method.decorator_list)])
        decorators = _lines(text, first, method.lineno - 1, dedent=False) + "\n" if first < method.lineno else ""
        indent = " " * method.col_offset
        parts.append(decorators + textwrap.indent(_stub_function(text, method), indent))
    return "\n\n".join(parts)


def _stub_function(text: str, node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return f"{_head(text, node)}\n    raise NotImplementedError"


def _head(text: str, node: Definition) -> str:
    """From `def` or `class` through the docstring, and nothing of what follows."""
    if ast.get_docstring(node) is not None:
        return _lines(text, node.lineno, node.body[0].end_lineno or node.lineno).rstrip()
    lines = text.split("\n")[node.lineno - 1 : node.end_lineno]
    depth = 0
    for token in tokenize.generate_tokens(iter([line + "\n" for line in lines]).__next__):
        if token.type == tokenize.OP:
            depth += (token.string in "([{") - (token.string in ")]}")
            if token.string == ":" and depth == 0:
                row, column = token.end
                return textwrap.dedent("\n".join([*lines[: row - 1], lines[row - 1][:column]]))
    raise AssertionError(f"{node.name}: a definition without a colon cannot have been parsed")


def public_view(exercise: Exercise) -> str:
    """The exercise file with every answer removed: the probe, its helpers, the stub, and the imports that these use.

    Raises ValueError when the probe itself leans on an answer.
    """
    text, tree = _parse(exercise)
    nodes = _top_level_nodes(tree)
    answers = {exercise.answer_name, *exercise.alternatives, *exercise.misconceptions}
    probe = [exercise.probe_function.__name__] if exercise.probe_function else []
    kept = _reachable(nodes, probe)
    leaked = sorted(kept & answers)
    if leaked:
        raise ValueError(f"its probe uses {', '.join(leaked)}, which is an answer; the probe must work without answers")
    parts = [_whole(text, node) for node in tree.body if any(nodes.get(name) is node for name in kept)]
    parts.append(stub(exercise))
    # Only what these use: an import for the answers' sake would lead learner code to what answers are made of.
    used = _names_used([syntax_tree("\n".join(parts))])
    imports = [source for names, source in _imports(text, tree) if names & used]
    return "\n".join(imports) + "\n\n\n" + "\n\n\n".join(parts) + "\n"


def _whole(text: str, node: Any) -> str:
    """A top-level statement with its decorators, but without those that attach it to the exercise."""
    own = [each for each in getattr(node, "decorator_list", []) if not ast.unparse(each).startswith("exercise.")]
    decorators = [f"@{_lines(text, each.lineno, each.end_lineno or each.lineno).removeprefix('@')}" for each in own]
    return "\n".join([*decorators, _lines(text, node.lineno, node.end_lineno or node.lineno)])


def _top_level_nodes(tree: ast.Module) -> dict[str, Any]:
    """Top-level functions, classes and constants by name; the exercise object itself left out."""
    nodes: dict[str, Any] = dict(_definitions(tree))
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign):
            names = [each.id for target in targets if target for each in ast.walk(target) if isinstance(each, ast.Name)]
            nodes |= dict.fromkeys(names, node)
    nodes.pop("exercise", None)
    return nodes


def _siblings(exercise: Exercise) -> frozenset[str]:
    """Modules of the other exercises of its lesson: in a notebook their functions are the learner's own."""
    package = getattr(exercise.answer, "__module__", "").rpartition(".")[0]
    files = Path(exercise.source_file).parent.glob("*.py")
    return frozenset(f"{package}.{file.stem}" for file in files if DECLARES.search(file.read_text(encoding="utf-8")))


def _imports(text: str, tree: ast.Module, left_out: frozenset[str] = frozenset()) -> list[tuple[set[str], str]]:
    """(names it binds, source) of each top-level import but those of the grader and of `left_out` modules."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module in left_out:
            continue
        if isinstance(node, ast.Import | ast.ImportFrom) and getattr(node, "module", "") != "grader.exercise":
            names = {(alias.asname or alias.name).split(".")[0] for alias in node.names}
            found.append((names, _lines(text, node.lineno, node.end_lineno or node.lineno)))
    return found


def _names_used(nodes: Iterable[ast.AST]) -> set[str]:
    return {node.id for root in nodes for node in ast.walk(root) if isinstance(node, ast.Name)} | {"annotations"}


def _reachable(nodes: dict[str, ast.AST], roots: list[str]) -> set[str]:
    kept: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name in kept or name not in nodes:
            continue
        kept.add(name)
        waiting += [node.id for node in ast.walk(nodes[name]) if isinstance(node, ast.Name)]
    return kept


def answer_lines(exercise: Exercise, shortest: int = ANSWER_LINE_CHARACTERS) -> set[str]:
    """Code lines of the reference and the alternatives that would give them away, white space removed.

    Left out: signatures and docstrings (the stub shows them), lines shorter than `shortest`, and lines that also
    stand in what is public (imports, probe, cases, misconceptions).
    """
    text, tree = _parse(exercise)
    answers = {exercise.answer_name, *exercise.alternatives}
    secret: set[str] = set()
    public: set[str] = set(_squeezed(stub(exercise)))
    for node in tree.body:
        source = _squeezed(_lines(text, node.lineno, node.end_lineno or node.lineno))
        if isinstance(node, Definition) and node.name in answers:
            secret.update(set(source) - set(_squeezed(_stub(text, node))))
        else:
            public.update(source)
    return {line for line in secret - public if len(line) >= shortest and not line.startswith("#")}


def squeeze(line: str) -> str:
    """A line without white space, so that layout does not hide a copy."""
    return "".join(line.split())


def _squeezed(source: str) -> list[str]:
    return [squeeze(line) for line in source.splitlines()]


def _parse(exercise: Exercise) -> tuple[str, ast.Module]:
    text = Path(exercise.source_file).read_text(encoding="utf-8")
    return text, syntax_tree(text)


def _definitions(tree: ast.Module) -> dict[str, Definition]:
    return {node.name: node for node in tree.body if isinstance(node, Definition)}


def _lines(text: str, first: int, last: int, *, dedent: bool = True) -> str:
    chosen = "\n".join(text.split("\n")[first - 1 : last])  # As `ast` counts: splitlines also splits at form feeds.
    return textwrap.dedent(chosen) if dedent else chosen


def source_of(answer: object) -> str:
    """The source of a learner's function or class, "" when it cannot be had (defined in a plain REPL).

    A class defined in a notebook has no file of its own for `inspect`, so it is looked up through one of its methods.
    """
    if not inspect.isclass(answer):
        try:
            return textwrap.dedent(inspect.getsource(answer))  # type: ignore[arg-type]
        except (OSError, TypeError, IndentationError):
            return ""
    methods = (member for member in vars(answer).values() if inspect.isfunction(member))
    method = next(methods, None)
    cell = "".join(linecache.getlines(method.__code__.co_filename)) if method else ""
    try:
        node = _definitions(syntax_tree(cell)).get(answer.__name__)
    except SyntaxError:
        node = None
    return _lines(cell, node.lineno, node.end_lineno or node.lineno) if node else ""
