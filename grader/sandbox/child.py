"""What runs behind the wall: the learner's cells, then calls of their functions. It knows no expected value.

Everything here shares a process with learner code, which may read and change all of it. That is why it holds nothing
worth reading, and why what it sends is treated as data about the learner's own outputs and nothing else.
"""

from __future__ import annotations

import ast
import builtins
import linecache
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict
from types import ModuleType
from typing import Any

from grader import wire
from grader.call import CallError, Printed, call, describe_error, time_limit
from grader.catalogue import snake_case
from grader.plain_python import plain_python
from grader.sandbox.channel import Channel, ChannelError


class Child:
    """One submission's process. probes: (module, name) -> the function, bound before learner code runs."""

    def __init__(self, channel: Channel, probes: Mapping[tuple[str, str], Callable[..., Any]]) -> None:
        self.channel = channel
        self.probes = probes
        self.module = ModuleType("__main__")
        self.namespace = self.module.__dict__
        self.bound: dict[str, Any] = {}
        sys.modules["__main__"] = self.module
        self.namespace["__builtins__"] = builtins
        self.namespace["display"] = lambda *_, **__: None
        self.namespace["get_ipython"] = _NoShell
        _replace_live_functions(self._use)

    def serve(self) -> None:
        """Answer requests until the grader hangs up."""
        handlers: dict[str, Callable[[dict[str, Any], bytes], tuple[dict[str, Any], bytes]]] = {
            "plain": self._plain,
            "cell": self._cell,
            "call": self._call,
        }
        while True:
            try:
                request, payload = self.channel.receive()
            except ChannelError:
                return
            reply, data = handlers[request["kind"]](request, payload)
            self.channel.send({**reply, "number": request["number"]}, data)

    def _plain(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Put one cell into plain Python. Here because IPython's patterns take hours over some texts."""
        try:
            with time_limit(request["limit_seconds"]):
                return {"error": None}, plain_python(payload.decode("utf-8")).encode("utf-8")
        except BaseException as raised:
            return {"error": asdict(describe_error(raised, ""))}, b""

    def _cell(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Run one cell of plain Python.

        only: "imports", "definitions" (imports, functions, classes) or "all" of its statements.
        """
        file = f"<cell {request['name']}>"
        printed = Printed()
        error: CallError | None = None
        try:
            source = payload.decode("utf-8")
            linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
            with redirect_stdout(printed), redirect_stderr(printed), time_limit(request["limit_seconds"]):
                _run(source, file, self.namespace, request["only"])
        except BaseException as raised:
            error = describe_error(raised, file)
        if request["binds"] and error is None:
            self.bound[request["name"]] = self.namespace.get(request["binds"])
        return {"error": asdict(error) if error else None, "printed": printed.getvalue()}, b""

    def _call(self, request: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        """Call one learner function on one input set."""
        answer = self.bound.get(request["cell"]) or self.namespace.get(request["answer"])
        if not callable(answer):
            kind = "missing" if answer is None else f"a {type(answer).__name__}"
            return {"absent": f"`{request['answer']}` is {kind}"}, b""
        # Not looked up in its module here: a cell may have put another in its place.
        probe = self.probes[request["module"], request["probe"]] if request["probe"] else None
        outcome = call(answer, payload, probe=probe, limit_seconds=request["limit_seconds"])
        reply = {
            "error": asdict(outcome.error) if outcome.error else None,
            "printed": outcome.printed,
            "changed": outcome.changed,
        }
        return reply, b"" if outcome.error else wire.dumps(outcome.value)

    def _use(self, name: Any) -> Any:
        """`use("lora_linear")` in a learner's cell: their own definition, whatever its state."""
        wanted = name if isinstance(name, str) else getattr(name, "__name__", "")
        return next((value for key, value in self.namespace.items() if snake_case(key) == wanted), None)


def _run(source: str, file: str, namespace: dict[str, Any], only: str) -> None:
    tree = ast.parse(source, file)
    kept: tuple[type[ast.stmt], ...] = (ast.Import, ast.ImportFrom)
    if only == "definitions":
        kept += (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    if only != "all":
        # One by one: a definition that leans on what a skipped cell made must not cost the ones after it.
        for statement in tree.body:
            if isinstance(statement, kept):
                try:
                    exec(compile(ast.Module([statement], []), file, "exec", dont_inherit=True), namespace)
                except Exception:
                    continue
        return
    exec(compile(tree, file, "exec", dont_inherit=True), namespace)


class _NoShell:
    """Stands where IPython's shell would: magics and shell commands do nothing while grading."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


def _replace_live_functions(use: Callable[[Any], Any]) -> None:
    """`check(...)` and its like in learner cells do nothing here: the official check is the grader's own."""
    grader = sys.modules["grader"]
    for name in ("check", "hint", "progress", "reset", "solution"):
        setattr(grader, name, lambda *_, **__: None)
    grader.use = use  # type: ignore[attr-defined]


def main(descriptor: int, probes: Mapping[tuple[str, str], Callable[..., Any]]) -> None:
    """Serve one submission on this socket. The first message, before learner code runs: this is behind the wall."""
    channel = Channel(descriptor)
    channel.send({"behind_the_wall": True})
    Child(channel, probes).serve()
