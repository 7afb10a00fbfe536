"""Writes the page, the draft and the list of sources into `portfolio/` of the workspace."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from course.portfolio.findings import Findings, Source, collect
from course.portfolio.lines import Line, draft_lines
from course.workspace import WorkspaceError, write_whole
from grader.catalogue import Catalogue, find_course

FOLDER = "portfolio"
PAGE, DRAFT, SOURCES = "index.html", "resume.md", "sources.json"
TEMPLATES = Path(__file__).resolve().parent
SHARED_TEMPLATES = TEMPLATES.parent / "evaluation"
HEADING = """# Draft lines for your résumé

Every number comes from the files named below. Reword the lines as you like, but keep their numbers and footnotes:
`course portfolio --check` compares both with the files. Running `course portfolio` again keeps this draft as it was
in resume.md.old.
"""


@dataclass(frozen=True)
class Written:
    """What was written: the files, the lines, and what the artefacts did not give."""

    page: Path
    draft: Path
    lines: Sequence[Line]
    found: Findings


def write_portfolio(folder: Path, catalogue: Catalogue | None = None) -> Written:
    """Collect the artefacts of a workspace and write the portfolio. Raises WorkspaceError."""
    if not folder.is_dir():
        raise WorkspaceError(f"There is no workspace at {folder}. Make it with: course lab")
    found = collect(folder, catalogue or find_course())
    lines = draft_lines(found)
    out = folder / FOLDER
    page, draft = page_of(found, lines).encode(), draft_of(lines).encode()
    sums = {
        "files": {each.path: each.sha256 for each in found.sources},
        "page_sha256": hashlib.sha256(page).hexdigest(),
        "lines": [line.text for line in lines],
    }
    try:
        out.mkdir(exist_ok=True)
        if (out / DRAFT).exists() and (out / DRAFT).read_bytes() != draft:
            write_whole(out / f"{DRAFT}.old", (out / DRAFT).read_bytes())
        for name, content in ((PAGE, page), (DRAFT, draft), (SOURCES, (json.dumps(sums, indent=1) + "\n").encode())):
            write_whole(out / name, content)
    except OSError as error:
        raise WorkspaceError(
            f"The portfolio cannot be written to {out}: {error.strerror or error}. Make room, or make it writable, and "
            "run the same command again."
        ) from error
    return Written(out / PAGE, out / DRAFT, lines, found)


def draft_of(lines: Sequence[Line]) -> str:
    """The Markdown draft: a line a result, a footnote for each."""
    body = [f"- {line.text}[^{number}]" for number, line in enumerate(lines, start=1)]
    notes = [f"[^{number}]: {'; '.join(map(_cited, line.sources))}" for number, line in enumerate(lines, start=1)]
    told = body or ["No artefact gives a number yet. The page beside this file says which lesson makes which."]
    return "\n".join([HEADING, *told, "", *notes]).rstrip() + "\n"


def _cited(source: Source) -> str:
    return f"`{source.path}`, SHA-256 {source.sha256}"


def page_of(found: Findings, lines: Sequence[Line]) -> str:
    """The page: one file that needs nothing else."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([TEMPLATES, SHARED_TEMPLATES]), autoescape=True, undefined=StrictUndefined
    )
    return environment.get_template("page.html.j2").render(found=found, lines=lines)
