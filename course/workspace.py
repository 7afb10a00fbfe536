"""The learner's own folder: copies of the lesson notebooks, which nothing here ever overwrites once edited.

`.grader/copied.json` in the workspace remembers the SHA-256 of each notebook as it was copied. A file that still has
that sum is ours and follows the course; any other file is the learner's and stays as it is. The copied version itself
is kept in `.course/shipped`: `course update` needs it to tell the learner's changes from ours.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from course.model_source import file_sha256

RECORDS_FOLDER = ".grader"
MANIFEST_NAME = "copied.json"
SHIPPED_FOLDER = Path(".course") / "shipped"
SUM_CHARACTERS = 16  # of the SHA-256, in a kept version's name


class WorkspaceError(RuntimeError):
    """The workspace cannot be made. The message says which path was wrong and what to do next."""


@dataclass(frozen=True)
class SyncReport:
    """What a copy did, by path relative to the workspace.

    `copied` were absent; `updated` were unedited and an older version; `kept` were edited and a newer version exists.
    """

    folder: Path
    copied: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


def workspace_folder(chosen: Path | None = None) -> Path:
    """The workspace: `chosen`, else COURSE_WORKSPACE, else `workspace/` in the project's root."""
    named = chosen or os.environ.get("COURSE_WORKSPACE") or _project_root() / "workspace"
    return Path(named).expanduser().resolve()


def shipped_notebooks_folder() -> Path:
    """The folder of built notebooks that the course ships."""
    return _project_root() / "notebooks"


def assistant_files_folder() -> Path:
    """What coding assistants read in a workspace: how to tutor without solving."""
    return Path(__file__).resolve().parent / "assistants"


def sync_workspace(folder: Path, source: Path | None = None) -> SyncReport:
    """Copy the shipped notebooks into the workspace, leaving every file the learner changed alone.

    To get a fresh copy of one lesson, the learner renames or deletes theirs. Raises WorkspaceError when the course
    ships no notebooks or the folder cannot be written.
    """
    source = source or shipped_notebooks_folder()
    names = shipped_names(folder, source)
    with writing(folder):
        return copy_changed(folder, source, names)


def shipped_names(folder: Path, source: Path) -> list[str]:
    """The files that the course ships, relative to `source`. Raises WorkspaceError where `folder` cannot take them."""
    names = sorted(_relative_files(source, "*"))
    if not names:
        raise WorkspaceError(f"There are no notebooks in {source}. Build them with: grader build")
    if folder == source or source in folder.parents:
        raise WorkspaceError(f"The workspace {folder} lies inside the shipped notebooks. Choose another folder.")
    return names


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """The workspace, made if need be, for this process alone. Raises WorkspaceError where it cannot be written."""
    from filelock import FileLock

    try:
        (folder / RECORDS_FOLDER).mkdir(parents=True, exist_ok=True)
        with FileLock(folder / RECORDS_FOLDER / "copy.lock"):
            yield
    except OSError as error:
        raise WorkspaceError(
            f"Cannot write the workspace {folder}: {error.strerror or error}. "
            "Choose a folder you can write to: course lab --workspace FOLDER"
        ) from error


def copy_changed(folder: Path, source: Path, names: list[str]) -> SyncReport:
    """Copy these files where they are absent or unedited; only inside `writing`."""
    copied_sums = read_copied_sums(folder)
    copied, updated, kept = [], [], []
    for name in names:
        shipped_sum = file_sha256(source / name)
        target = folder / name
        if target.exists():
            if copied_sums.get(name) == shipped_sum:
                keep_shipped(folder, source / name, shipped_sum)
                continue  # the version they have, edited or not
            own_sum = file_sha256(target)
            if own_sum != shipped_sum and own_sum != copied_sums.get(name):
                kept.append(name)
                continue
            if own_sum != shipped_sum:
                updated.append(name)
        else:
            copied.append(name)
        keep_shipped(folder, source / name, shipped_sum)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, (source / name).read_bytes())
        copied_sums[name] = shipped_sum
        # Recorded at once: a copy that is interrupted here must not look edited afterwards.
        write_copied_sums(folder, copied_sums)
    return SyncReport(folder, tuple(copied), tuple(updated), tuple(kept))


def keep_shipped(folder: Path, shipped: Path, shipped_sum: str) -> None:
    """Keep this version of a notebook in the workspace, under its name and its sum."""
    kept = folder / SHIPPED_FOLDER / f"{shipped.stem}-{shipped_sum[:SUM_CHARACTERS]}.ipynb"
    if shipped.suffix == ".ipynb" and not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_whole(kept, shipped.read_bytes())


def read_copied_sums(folder: Path) -> dict[str, str]:
    """The recorded sums; none when the record is absent or damaged, so that every file counts as the learner's."""
    try:
        sums = json.loads((folder / RECORDS_FOLDER / MANIFEST_NAME).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return sums if isinstance(sums, dict) else {}


def write_copied_sums(folder: Path, sums: dict[str, str]) -> None:
    """Record which version each file was copied from, by its path relative to the workspace."""
    write_whole(folder / RECORDS_FOLDER / MANIFEST_NAME, json.dumps(sums, indent=1, sort_keys=True).encode())


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader, and whoever looks after a crash, finds the old content or the new."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, partial)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _relative_files(folder: Path, pattern: str) -> list[str]:
    """Files under a folder as relative paths, without hidden ones such as `.ipynb_checkpoints`."""
    relative = (path.relative_to(folder) for path in folder.rglob(pattern) if path.is_file())
    return [path.as_posix() for path in relative if not any(part.startswith(".") for part in path.parts)]


def _project_root() -> Path:
    return Path(__file__).resolve().parent.parent
