"""Run the items' checks: Python code whose result must be the right choice.

All checks run one after the other in one fresh Python process, each in a namespace of its own that holds `choices`
(the item's choices) and `gives(code, **names)` (what an expression evaluates to). A check's result is what it prints;
if it prints nothing, the repr of its last expression; if it raises, the exception's name.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 30.0


def gives(code: str, **names: Any) -> str:
    """The repr of what an expression evaluates to, or the name of the exception it raises."""
    try:
        return repr(eval(code, names))
    except Exception as error:
        return type(error).__name__


def result_of(check: str, choices: Sequence[str]) -> str:
    """One check's result, in this process."""
    names: dict[str, Any] = {"choices": list(choices), "gives": gives}
    printed, value = io.StringIO(), ""
    try:
        tree = ast.parse(check)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        with contextlib.redirect_stdout(printed):
            exec(compile(tree, "<check>", "exec"), names)
            if isinstance(last, ast.Expr):
                value = repr(eval(compile(ast.Expression(last.value), "<check>", "eval"), names))
    except (Exception, SystemExit) as error:
        return type(error).__name__
    return printed.getvalue().strip("\n") or value


def results_of(checks: Sequence[tuple[str, Sequence[str]]], timeout_seconds: float = TIMEOUT_SECONDS) -> list[str]:
    """The results of (check, choices) pairs, run in a fresh process; shorter than `checks` if one never ended."""
    # -I: no user site, no PYTHON* variables, nothing of the current folder.
    command = [sys.executable, "-I", str(Path(__file__).resolve())]
    try:
        run = subprocess.run(
            command, input=json.dumps(list(checks)), capture_output=True, text=True, timeout=timeout_seconds
        )
        lines = run.stdout
    except subprocess.TimeoutExpired as stopped:
        lines = (stopped.stdout or b"").decode()
    return [json.loads(line) for line in lines.splitlines()]


def main() -> None:
    """In the child: read the pairs from standard input, write each result as a line of JSON."""
    for check, choices in json.load(sys.stdin):
        print(json.dumps(result_of(check, choices)), flush=True)


if __name__ == "__main__":
    main()
