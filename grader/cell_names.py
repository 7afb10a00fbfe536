"""What a notebook cell binds and what it uses, read from its source. Nothing of it is run, and nothing is imported."""

from __future__ import annotations

import ast
import itertools
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from grader.syntax_tree import syntax_tree

LONGEST_CHAIN = 20  # Attributes of one name that are followed; no library's is as long.
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_PLAIN = (*_DEFINITIONS, ast.Assign, ast.Import, ast.ImportFrom)


class NotPythonError(ValueError):
    """A cell that Python's parser refuses; says why, in the parser's words. kind: the name of the parser's error."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.kind = type(error).__name__


@dataclass(frozen=True, slots=True)
class Uses:
    """The names in some code.

    dotted: every dotted name. whole: those that are no part of a longer one, such as `torch` in `f(torch)`.
    attributes: what comes behind a dot, behind whatever. imported: name -> what its imports there make it stand for.
    stars: modules whose every name is imported, and which are not loaded here.
    """

    dotted: frozenset[str]
    whole: frozenset[str]
    attributes: frozenset[str]
    imported: dict[str, frozenset[str]]
    stars: frozenset[str]


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement of a cell that binds names.

    at_once: the first parts of the names that it looks up when it runs; a function looks up the rest when it is called.
    replaces: whether the names stood for something else before it, rather than perhaps for that still.
    is_definition: a function or a class.
    """

    binds: frozenset[str]
    uses: Uses
    at_once: frozenset[str]
    replaces: bool
    is_definition: bool


@dataclass(frozen=True)
class CellNames:
    """One cell as plain Python, and those of its statements that bind a name, in order."""

    source: str
    statements: tuple[Statement, ...]


def read_cell(source: str, file: str = "<cell>") -> CellNames:
    """Read a cell of plain Python. file: what errors call it. Raises NotPythonError."""
    try:
        body = syntax_tree(source, file).body
    except (SyntaxError, ValueError, RecursionError, SystemError, MemoryError) as error:
        raise NotPythonError(error) from error
    statements = (_statement(node) for node in body)
    return CellNames(source, tuple(each for each in statements if each.binds or each.uses.stars))


def _statement(node: ast.stmt) -> Statement:
    uses = uses_in([node])
    if not isinstance(node, _DEFINITIONS):
        binds = _bound([node]) | uses.imported.keys()
        at_once = {dotted.partition(".")[0] for dotted in uses.dotted}
    else:
        parts = _looked_up_at_once(node)
        at_once = {each.id for part in parts for each in ast.walk(part) if isinstance(each, ast.Name)}
        binds = {node.name, *_global_names([node])}
    replaces = isinstance(node, _PLAIN) and not _global_names([node])
    return Statement(frozenset(binds), uses, frozenset(at_once), replaces, isinstance(node, _DEFINITIONS))


def _looked_up_at_once(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Iterator[ast.AST]:
    """What of a definition runs where it stands: decorators, defaults, a class's bases and its own statements."""
    yield from node.decorator_list
    if not isinstance(node, ast.ClassDef):
        yield node.args
        return
    yield from [*node.bases, *node.keywords]
    for each in node.body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from [each.args, *each.decorator_list]
        else:
            yield each


def uses_in(nodes: Iterable[ast.AST]) -> Uses:
    """The names in some code; variables of its functions do not count, whatever they are called."""
    dotted: set[str] = set()
    whole: set[str] = set()
    attributes: set[str] = set()
    imported: dict[str, frozenset[str]] = {}
    stars: set[str] = set()
    waiting: list[tuple[ast.AST, frozenset[str]]] = [(node, frozenset()) for node in nodes]
    while waiting:
        node, hidden = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            for bound, full in _imports(node):
                imported[bound] = imported.get(bound, frozenset()) | {full}
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*" and node.module not in sys.modules:
                stars.add(node.module or "")
        elif isinstance(node, ast.Attribute | ast.Name):
            base, parts = _chain(node)
            attributes.update(parts)
            if not isinstance(base, ast.Name):
                waiting.append((base, hidden))
            elif base.id not in hidden:
                names = list(itertools.accumulate([base.id, *parts[:LONGEST_CHAIN]], "{}.{}".format))
                dotted.update(names)
                if isinstance(node.ctx, ast.Load):
                    whole.add(names[-1])
        elif isinstance(node, _FUNCTIONS):
            body = node.body if isinstance(node.body, list) else [node.body]
            inside = (hidden | _variables(node)) - _global_names(node.body if isinstance(node.body, list) else [])
            waiting += [(each, inside) for each in body]
            waiting += [(each, hidden) for each in (node.args, *getattr(node, "decorator_list", []))]
        elif isinstance(node, _COMPREHENSIONS):
            waiting.append((node.generators[0].iter, hidden))
            inside = hidden | _bound(each.target for each in node.generators)
            results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            waiting += [(each, inside) for each in results]
            for number, each in enumerate(node.generators):
                waiting += [(part, inside) for part in (*each.ifs, *([each.iter] if number else []))]
        else:
            if isinstance(node, ast.ClassDef):  # Whoever has the class has these, as its attributes.
                handed_on = {bound for each in _imports_of_class(node) for bound, _ in _imports(each)}
                dotted |= handed_on
                whole |= handed_on
            waiting += [(each, hidden) for each in ast.iter_child_nodes(node)]
    return Uses(frozenset(dotted), frozenset(whole), frozenset(attributes), imported, frozenset(stars))


def _imports_of_class(node: ast.ClassDef) -> Iterator[ast.Import | ast.ImportFrom]:
    """Those among its own statements, and not among those of its functions and classes."""
    waiting: list[ast.AST] = [node]
    while waiting:
        for each in ast.iter_child_nodes(waiting.pop()):
            if isinstance(each, ast.Import | ast.ImportFrom):
                yield each
            elif not isinstance(each, (*_FUNCTIONS, ast.ClassDef)):
                waiting.append(each)


def _imports(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """(name that it binds, what the name stands for)."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            first = alias.name.split(".")[0]
            yield (alias.asname, alias.name) if alias.asname else (first, first)
        elif alias.name == "*" and node.module in sys.modules:
            known = vars(sys.modules[node.module])
            shown = known.get("__all__", [name for name in known if not name.startswith("_")])
            yield from ((name, f"{node.module}.{name}") for name in shown)
        elif alias.name != "*" and node.module:
            yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _variables(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> frozenset[str]:
    """What a function's own arguments and assignments bind, but not its imports: what they bind is known."""
    all_of = function.args
    args = [*all_of.posonlyargs, *all_of.args, *all_of.kwonlyargs, all_of.vararg, all_of.kwarg]
    given = frozenset(each.arg for each in args if each is not None)
    if isinstance(function, ast.Lambda):
        return given
    inside = (each for statement in function.body for each in ast.walk(statement))
    imports = (each for each in inside if isinstance(each, ast.Import | ast.ImportFrom))
    return (given | _bound(function.body)) - {bound for each in imports for bound, _ in _imports(each)}


def _bound(nodes: Iterable[ast.AST]) -> set[str]:
    """The names that statements bind in their own scope, imports left out."""
    bound: set[str] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                bound.add(name)
                bound |= _global_names([node])
                continue
            case ast.Name(id=name, ctx=ast.Store()):
                bound.add(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                bound.add(name)
            case ast.MatchMapping(rest=str(name)):
                bound.add(name)
            case ast.Attribute(ctx=ast.Store()) | ast.Subscript(ctx=ast.Store()):
                bound |= {each.id for each in ast.walk(node.value) if isinstance(each, ast.Name)}
        # Variables of these are their own; a walrus in a comprehension is not.
        if isinstance(node, ast.Lambda):
            continue
        if isinstance(node, ast.comprehension):
            waiting += [node.iter, *node.ifs]
        else:
            waiting += ast.iter_child_nodes(node)
    return bound


def _global_names(nodes: Iterable[ast.AST]) -> set[str]:
    return {name for node in nodes for each in ast.walk(node) if isinstance(each, ast.Global) for name in each.names}


def _chain(node: ast.expr) -> tuple[ast.expr, list[str]]:
    """(what stands before the first dot, the attributes behind it)."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return node, parts[::-1]
