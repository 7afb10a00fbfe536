"""`course portfolio --check`: whether page and draft still say what the artefacts give."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from course.portfolio.findings import collect, source
from course.portfolio.lines import draft_lines
from course.portfolio.write import DRAFT, FOLDER, PAGE, SOURCES
from course.run_record import RecordError
from grader.catalogue import Catalogue, find_course

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
REFERENCE = re.compile(r"\[\^(\d+)\]")
AGAIN = "make it again with: course portfolio"


def problems(folder: Path, catalogue: Catalogue | None = None) -> list[str]:
    """What is not as the artefacts have it, in sentences; none where everything agrees."""
    out = folder / FOLDER
    try:
        told = json.loads((out / SOURCES).read_text(encoding="utf-8"))
        files, page_sum, lines = dict(told["files"]), str(told["page_sha256"]), list(map(str, told["lines"]))
    except FileNotFoundError:
        return [f"there is no portfolio in {out}; make it with: course portfolio"]
    except (ValueError, KeyError, TypeError) as error:
        return [f"{FOLDER}/{SOURCES} is damaged ({error}); {AGAIN}"]
    found = [*_changed(folder, files), *_page(out / PAGE, page_sum)]
    if not found and [line.text for line in draft_lines(collect(folder, catalogue or find_course()))] != lines:
        found.append(f"{FOLDER}/{SOURCES} has other lines than the artefacts give; {AGAIN}")
    return [*found, *_draft(out / DRAFT, lines)]


def _changed(folder: Path, files: dict[str, Any]) -> Iterator[str]:
    for path, sha256 in files.items():
        try:
            now = source(folder, folder / path).sha256
        except RecordError as error:
            yield str(error)
            continue
        if now != sha256:
            yield (
                f"{path} has changed since the portfolio was made (SHA-256 {now[:12]}..., then {str(sha256)[:12]}...); "
                f"{AGAIN}"
            )


def _page(path: Path, sha256: str) -> Iterator[str]:
    if not path.is_file():
        yield f"{FOLDER}/{path.name} is missing; {AGAIN}"
    elif hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        yield f"{FOLDER}/{path.name} was changed by hand; {AGAIN}"


def _draft(path: Path, lines: Sequence[str]) -> Iterator[str]:
    """A reworded line may leave numbers out; it may not hold one that its artefacts do not give."""
    if not path.is_file():
        return
    for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        cited = [int(each) for each in REFERENCE.findall(text)]
        if not cited or text.startswith("[^"):
            continue
        if unknown := [each for each in cited if not 1 <= each <= len(lines)]:
            yield f"{FOLDER}/{path.name}, line {number} cites footnote {unknown[0]}, which there is not"
            continue
        given = {each for cite in cited for each in NUMBER.findall(lines[cite - 1])}
        for each in NUMBER.findall(REFERENCE.sub("", text)):
            if each not in given:
                yield f"{FOLDER}/{path.name}, line {number} says {each}, which its artefacts do not give"
