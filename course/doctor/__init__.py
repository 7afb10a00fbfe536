"""What this machine can do for the course, found by trying, and what to do about what it cannot.

Every finding is one row: ok (works), limited (the course works, something is smaller or slower), missing (the course
cannot run until it is mended). Nothing here needs torch to be installed, so a bare installation can say what it lacks.
"""

from __future__ import annotations

from collections.abc import Callable

from course.doctor import machine, parts
from course.doctor.finding import INSTALL_ADVICE, Finding

__all__ = ["Finding", "examine", "show_findings"]


def examine() -> list[Finding]:
    """Look at everything (about 5 s). A look that itself fails becomes a row, never an exception."""
    looks: tuple[Callable[[], Finding], ...] = (
        machine.python,
        machine.packages,
        machine.torch,
        machine.cuda,
        machine.cpu,
        machine.memory,
        machine.disk,
        machine.bitsandbytes,
        parts.base_model,
        parts.profile,
        parts.workspace,
        parts.jupyter,
    )
    return [_safely(look) for look in looks]


def show_findings(findings: list[Finding]) -> None:
    """Print the findings as a table, and below it one line that sums them up."""
    from rich.console import Console
    from rich.table import Table

    colours = {"ok": "green", "limited": "yellow", "missing": "red"}
    table = Table(title="What this machine can do", title_justify="left", show_lines=False)
    for heading in ("", "state", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        colour = colours[finding.state]
        table.add_row(finding.name, f"[{colour}]{finding.state}[/]", finding.found, finding.advice)
    console = Console()
    console.print(table)
    missing = [finding.name for finding in findings if finding.state == "missing"]
    if missing:
        console.print(f"[red]Not ready:[/] mend {', '.join(missing)} first, as the last column says.")
    else:
        console.print("[green]Ready.[/] Open the first lesson with: course lab")


def _safely(look: Callable[[], Finding]) -> Finding:
    name = look.__name__.replace("_", " ")
    try:
        return look()
    except ModuleNotFoundError as error:
        return Finding(name, "missing", f"needs {error.name}, which is not installed", INSTALL_ADVICE)
    except Exception as error:  # a broken installation fails in ways nobody can list
        first_line = f"{type(error).__name__}: {error}".split("\n")[0]
        return Finding(name, "missing", first_line, INSTALL_ADVICE)
