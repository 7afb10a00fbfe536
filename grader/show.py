"""Results and standings as HTML for notebooks and as text for terminals. Knows nothing of judging.

Colours come from JupyterLab's own theme variables, with fallbacks that keep their contrast on light and dark pages, and
no meaning is carried by colour alone.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass

from grader.result import Result

MARKS = {"todo": "○", "passed": "✓", "failed": "✗", "crashed": "⚠", "broken": "⛔"}
TITLES = {
    "todo": "not started",
    "passed": "passed",
    "failed": "not yet",
    "crashed": "your code stopped with an error",
    "broken": "the exercise is broken",
}
# Mid-tones with at least 3:1 contrast on white and on JupyterLab's dark background: used for borders and bars only.
COLOURS = {
    "todo": "#8a8a8a",
    "passed": "#2e9e5b",
    "failed": "#d9534f",
    "crashed": "#c77700",
    "broken": "#9b59b6",
}
BOX = (
    "border:1px solid var(--jp-border-color1,#9e9e9e);border-left:6px solid {colour};border-radius:4px;"
    "padding:8px 14px;margin:4px 0;max-width:52rem;color:var(--jp-content-font-color1,inherit);line-height:1.5"
)
CODE = (
    "white-space:pre-wrap;overflow-wrap:anywhere;margin:4px 0;padding:4px 8px;"
    "background:var(--jp-layout-color2,rgba(128,128,128,.15));color:inherit;font-size:90%"
)


@dataclass(frozen=True)
class Card:
    """A titled box: lines of prose, each with an optional label, and optionally some code."""

    status: str
    title: str
    body: str = ""
    notes: tuple[tuple[str, str], ...] = ()
    code: str = ""

    def text(self) -> str:
        """For terminals and logs."""
        lines = [f"{MARKS[self.status]} {self.title}"]
        lines += [f"  {line}" for line in self.body.splitlines()]
        lines += [f"  {label}: {note}" for label, note in self.notes]
        lines += [f"  | {line}" for line in self.code.splitlines()]
        return "\n".join(lines)

    def html(self) -> str:
        """For notebooks."""
        # The last class keeps MathJax away, which would make links of what a learner's words hold.
        named, style = f"grader-card grader-{self.status} tex2jax_ignore", BOX.format(colour=COLOURS[self.status])
        parts = [f'<div class="{named}" style="{style}">']
        parts.append(f"<strong>{MARKS[self.status]} {_escape(self.title)}</strong>")
        if self.body:
            parts.append("".join(f"<div>{_escape_with_code(line)}</div>" for line in self.body.splitlines()))
        for label, note in self.notes:
            name = label.lower().replace(" ", "-")
            parts.append(
                f'<div class="grader-{name}" style="margin-top:6px"><strong>{_escape(label)}:</strong> '
                f"{_escape_with_code(note)}</div>"
            )
        if self.code:
            parts.append(f'<pre style="{CODE}">{_escape(self.code)}</pre>')
        return "".join(parts) + "</div>"


def result_card(result: Result, *, library_note: str = "", interview: str = "") -> Card:
    """What a learner sees after a check. The last two are shown after passing only."""
    points = f"{result.points:g} of {result.max_points:g} points"
    title = f"{result.title}: {TITLES[result.status]}"
    if result.status in ("todo", "broken"):
        return Card(result.status, title, result.message)
    notes: list[tuple[str, str]] = []
    if result.hint:
        notes.append(("Hint" if result.certain else "Perhaps", result.hint))
    if len(result.groups) > 1:
        notes += [(f"Points for {name}", f"{earned:g} of {possible:g}") for name, earned, possible in result.groups]
    printed = next((case.printed for case in result.cases if case.printed and case.visible and not case.passed), "")
    if result.passed:
        notes += [("In the library", library_note)] * bool(library_note)
        notes += [("Interview", interview)] * bool(interview)
    elif not result.hint:
        notes.append(("Stuck?", "`hint()` gives a general hint."))
    if printed and not result.passed:
        notes.append(("It printed", ""))
    code = printed.rstrip() if not result.passed else ""
    return Card(result.status, f"{title} ({points})", result.message, tuple(notes), code)


@dataclass(frozen=True)
class ProgressRow:
    """One exercise in the overview."""

    title: str
    name: str
    status: str
    tries: int
    points: float
    max_points: float


def progress_text(sections: Sequence[tuple[str, Sequence[ProgressRow]]]) -> str:
    """The overview for terminals."""
    lines: list[str] = []
    for title, rows in sections:
        lines.append(f"{title}: {_count(rows)}")
        for row in rows:
            tries = f", {row.tries} tries" if row.tries > 1 else ", 1 try" if row.tries else ""
            lines.append(
                f"  {MARKS[row.status]} {row.title} ({row.name}): {TITLES[row.status]}, "
                f"{row.points:g}/{row.max_points:g} points{tries}"
            )
    return "\n".join(lines)


def progress_html(sections: Sequence[tuple[str, Sequence[ProgressRow]]], home: str = "") -> str:
    """The overview for notebooks. home: the address of a page of the whole course, to link to."""
    parts = ['<div class="grader-progress" style="color:var(--jp-content-font-color1,inherit);max-width:52rem">']
    if home:
        parts.append(f'<a class="grader-home" href="{_escape(home)}">Course home: path, plan, skills</a>')
    for title, rows in sections:
        done = sum(row.status == "passed" for row in rows)
        share = 100 * done / max(len(rows), 1)
        parts.append(
            f'<div style="margin-top:10px"><strong>{_escape(title)}</strong> · {_count(rows)}</div>'
            '<div style="height:8px;border:1px solid var(--jp-border-color1,#9e9e9e);border-radius:4px">'
            f'<div style="height:100%;width:{share:.0f}%;background:{COLOURS["passed"]}"></div></div>'
            '<table style="width:100%;border-collapse:collapse;color:inherit"><tbody>'
        )
        for row in rows:
            parts.append(
                f'<tr class="grader-row" data-exercise="{_escape(row.name)}" data-status="{row.status}">'
                f'<td style="text-align:left;width:2em;border-left:4px solid {COLOURS[row.status]}">'
                f"{MARKS[row.status]}</td>"
                f'<td style="text-align:left">{_escape(row.title)} <code>{_escape(row.name)}</code></td>'
                f'<td style="text-align:left">{TITLES[row.status]}</td>'
                f'<td style="text-align:right">{row.points:g}/{row.max_points:g}</td>'
                f'<td style="text-align:right">{row.tries} {"try" if row.tries == 1 else "tries"}</td></tr>'
            )
        parts.append("</tbody></table>")
    return "".join(parts) + "</div>"


def _count(rows: Sequence[ProgressRow]) -> str:
    done = sum(row.status == "passed" for row in rows)
    return f"{done} of {len(rows)} exercises passed"


def _escape(text: str) -> str:
    return html.escape(text)


def _escape_with_code(text: str) -> str:
    """Escaped text, with `back-ticked` parts as code."""
    parts = html.escape(text).split("`")
    return "".join(f"<code>{part}</code>" if i % 2 and i < len(parts) - 1 else part for i, part in enumerate(parts))
