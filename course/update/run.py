"""Updates a workspace lesson by lesson: finds each copy, merges, keeps a backup, writes in one step."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from course.update.merging import merge
from course.update.notebooks import Notebook, UnreadableNotebookError, read_notebook, written
from course.update.versions import METADATA, Version, lesson_of, origin, shipped_version
from course.workspace import (
    SyncReport,
    WorkspaceError,
    copy_changed,
    keep_shipped,
    read_copied_sums,
    shipped_names,
    shipped_notebooks_folder,
    write_copied_sums,
    write_whole,
    writing,
)

BACKUPS_FOLDER = Path(".course") / "backups"


@dataclass
class Outcome:
    """What an update did, or would do, to one file. name: relative to the workspace.

    state: "updated", "current", "new", "refused" (nothing was written), or "left" (a further copy of a lesson).
    """

    name: str
    state: str
    came_in: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    look: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changed_exercises: list[str] = field(default_factory=list)
    backup: Path | None = None


@dataclass(frozen=True)
class _Copy:
    """A notebook of the workspace."""

    name: str
    data: bytes
    notebook: Notebook

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def update_workspace(
    folder: Path, source: Path | None = None, *, only: Sequence[str] = (), dry_run: bool = False
) -> Iterator[Outcome]:
    """Bring the shipped notebooks' changes into the workspace; one outcome a file, as soon as it is done.

    only: names of notebooks in the workspace, where not all are meant. dry_run: nothing is written. Raises
    WorkspaceError for a workspace that is absent or cannot be written; every file is then its old or its new self.
    """
    source = source or shipped_notebooks_folder()
    if not folder.is_dir():
        raise WorkspaceError(f"There is no workspace at {folder}. Make it with: course lab")
    names = shipped_names(folder, source)
    if absent := [name for name in only if not (folder / name).is_file()]:
        raise WorkspaceError(f"There is no {absent[0]} in {folder}. Name notebooks as they are called there.")
    with writing(folder):
        yield from _Update(folder, source, only, dry_run).outcomes(names)


class _Update:
    def __init__(self, folder: Path, source: Path, only: Sequence[str], dry_run: bool) -> None:
        self.folder, self.source, self.only, self.dry_run = folder, source, only, dry_run
        self.sums = read_copied_sums(folder)
        self.backup_folder = folder / BACKUPS_FOLDER / datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        self.copies: dict[str, list[_Copy]] = {}
        self.refused: dict[str, str] = {}

    def outcomes(self, names: Sequence[str]) -> Iterator[Outcome]:
        self._read_copies()
        for name, reason in self.refused.items():
            yield Outcome(
                name,
                "refused",
                notes=[
                    f"{reason}. Nothing was changed. Mend it, or take an older copy from "
                    f"{BACKUPS_FOLDER} or .ipynb_checkpoints; or rename it and run this again for a fresh one."
                ],
            )
        for name in names:
            if not self.only:
                yield from self._shipped(name)
            elif name.endswith(".ipynb"):
                today = shipped_version(self.source / name)
                mine = self.copies.get(lesson_of(today.notebook), [])
                yield from (self._update(copy, name, today) for copy in mine if copy.name in self.only)

    def _read_copies(self) -> None:
        """Every notebook of the workspace, by its lesson: a renamed one is still of its lesson."""
        for path in sorted(self.folder.rglob("*.ipynb")):
            name = path.relative_to(self.folder).as_posix()
            if any(part.startswith(".") for part in Path(name).parts) or not path.is_file():
                continue
            is_wanted = name in self.only or not self.only
            try:
                data = path.read_bytes()
                notebook = read_notebook(data)
                self.copies.setdefault(lesson_of(notebook), []).append(_Copy(name, data, notebook))
            except UnreadableNotebookError as error:
                if is_wanted and (name in self.sums or (self.source / name).exists() or name in self.only):
                    self.refused[name] = str(error)

    def _shipped(self, name: str) -> Iterator[Outcome]:
        if name in self.refused:
            return
        try:
            today = shipped_version(self.source / name) if name.endswith(".ipynb") else None
        except UnreadableNotebookError:
            today = None
        lesson = lesson_of(today.notebook) if today else ""
        mine = self.copies.get(lesson, []) if lesson else []
        if today is None or not mine:
            yield from self._copied(name)
            return
        chosen = self._chosen(name, mine, today)
        for copy in mine:
            if copy in chosen:
                yield self._update(copy, name, today)
            else:
                said = f"another copy of {name}, left as it is. To update it: course update {copy.name!r}"
                yield Outcome(copy.name, "left", notes=[said])

    def _chosen(self, name: str, copies: list[_Copy], today: Version) -> list[_Copy]:
        """Untouched copies, and the one that the learner works in: by its name, or because it alone was edited."""
        untouched = [each for each in copies if each.sha256 in (self.sums.get(each.name), today.sha256)]
        edited = [each for each in copies if each not in untouched]
        named = [each for each in edited if each.name == name]
        return [each for each in untouched if each.name == name] + (named or (edited if len(edited) == 1 else []))

    def _copied(self, name: str) -> Iterator[Outcome]:
        """A file that is not there yet, or is no notebook of a lesson: copied as `course lab` does."""
        if self.dry_run:
            if not (self.folder / name).exists():
                yield Outcome(name, "new")
            return
        report: SyncReport = copy_changed(self.folder, self.source, [name])
        self.sums = read_copied_sums(self.folder)
        for state, found in (("new", report.copied), ("updated", report.updated)):
            yield from (Outcome(each, state) for each in found)

    def _update(self, copy: _Copy, name: str, today: Version) -> Outcome:
        shipped = self.source / name
        if copy.sha256 == today.sha256:
            return self._current(copy, shipped, today)
        copied_sum = self.sums.get(copy.name, "")
        base: Version | None = Version(copy.sha256, copy.notebook)
        if copy.sha256 != copied_sum:
            base = origin(self.folder, copy.notebook, copied_sum, shipped, today)
        if base is not None and base.sha256 == today.sha256:
            return self._current(copy, shipped, today)
        merged = merge(base.cells if base else None, today.cells, copy.notebook.cells)
        outcome = Outcome(copy.name, "updated", merged.came_in, merged.kept, merged.look)
        outcome.changed_exercises = merged.changed_exercises
        if base is None:
            outcome.notes.append(
                "This copy was made before the course kept what it was copied from, so every cell that differs counts "
                "as yours. Cells that you had deleted are back."
            )
        if base is not None and copy.sha256 == base.sha256:
            content = shipped.read_bytes()  # Nothing in it is the learner's.
        else:
            copy.notebook.cells = merged.cells
            copy.notebook.metadata["grader"] = today.notebook.metadata["grader"]
            copy.notebook.metadata[METADATA] = {"shipped": today.sha256}
            content = written(copy.notebook)
        if not self.dry_run:
            outcome.backup = self._write(copy, content, shipped, today)
        return outcome

    def _current(self, copy: _Copy, shipped: Path, today: Version) -> Outcome:
        if not self.dry_run:
            self._record(copy.name, shipped, today)
        return Outcome(copy.name, "current")

    def _write(self, copy: _Copy, content: bytes, shipped: Path, today: Version) -> Path:
        target = (self.folder / copy.name).resolve()  # A linked file is replaced where it lies.
        backup = self.backup_folder / copy.name
        try:
            backup.parent.mkdir(parents=True, exist_ok=True)
            write_whole(backup, copy.data)
            keep_shipped(self.folder, shipped, today.sha256)
            if target.read_bytes() != copy.data:
                raise WorkspaceError(
                    f"{copy.name} was saved by another program while this ran, and is left as it is. Run the same "
                    "command again."
                )
            write_whole(target, content)
            self._record(copy.name, shipped, today)
        except OSError as error:
            raise WorkspaceError(
                f"{copy.name} could not be updated: {error.strerror or error}. The file is whole, as it was or as it "
                f"is to be. Make room, or make {self.folder} writable, and run the same command again."
            ) from error
        return backup

    def _record(self, name: str, shipped: Path, today: Version) -> None:
        keep_shipped(self.folder, shipped, today.sha256)
        if self.sums.get(name) != today.sha256:
            self.sums[name] = today.sha256
            write_copied_sums(self.folder, self.sums)
