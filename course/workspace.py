"""The learner's own folder: copies of the lesson notebooks, which nothing here ever overwrites once edited.

`.grader/copied.json` in the workspace remembers the SHA-256 of each notebook as it was copied. A file that still has
that sum is ours and follows the course; any other file is the learner's and stays as it is.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from course.model_source import file_sha256

RECORDS_FOLDER = ".grader"
MANIFEST_NAME = "copied.json"


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
    from filelock import FileLock

    source = source or shipped_notebooks_folder()
    names = sorted(_relative_files(source, "*"))
    if not names:
        raise WorkspaceError(f"There are no notebooks in {source}. Build them with: grader build")
    if folder == source or source in folder.parents:
        raise WorkspaceError(f"The workspace {folder} lies inside the shipped notebooks. Choose another folder.")
    try:
        (folder / RECORDS_FOLDER).mkdir(parents=True, exist_ok=True)
        with FileLock(folder / RECORDS_FOLDER / "copy.lock"):
            return _copy_changed(folder, source, names)
    except OSError as error:
        raise WorkspaceError(
            f"Cannot write the workspace {folder}: {error.strerror or error}. "
            "Choose a folder you can write to: course lab --workspace FOLDER"
        ) from error


def _copy_changed(folder: Path, source: Path, names: list[str]) -> SyncReport:
    manifest = folder / RECORDS_FOLDER / MANIFEST_NAME
    copied_sums = _read_manifest(manifest)
    copied, updated, kept = [], [], []
    for name in names:
        shipped_sum = file_sha256(source / name)
        target = folder / name
        if target.exists():
            if copied_sums.get(name) == shipped_sum:
                continue  # the version they have, edited or not
            own_sum = file_sha256(target)
            if own_sum != shipped_sum and own_sum != copied_sums.get(name):
                kept.append(name)
                continue
            if own_sum != shipped_sum:
                updated.append(name)
        else:
            copied.append(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, (source / name).read_bytes())
        copied_sums[name] = shipped_sum
        # Recorded at once: a copy that is interrupted here must not look edited afterwards.
        write_whole(manifest, json.dumps(copied_sums, indent=1, sort_keys=True).encode())
    return SyncReport(folder, tuple(copied), tuple(updated), tuple(kept))


def _read_manifest(manifest: Path) -> dict[str, str]:
    """The recorded sums; none when the record is absent or damaged, so that every file counts as the learner's."""
    try:
        sums = json.loads(manifest.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return sums if isinstance(sums, dict) else {}


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: whoever reads it, and whenever this stops, finds the old content or the new."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def _relative_files(folder: Path, pattern: str) -> list[str]:
    """Files under a folder as relative paths, without hidden ones such as `.ipynb_checkpoints`."""
    relative = (path.relative_to(folder) for path in folder.rglob(pattern) if path.is_file())
    return [path.as_posix() for path in relative if not any(part.startswith(".") for part in path.parts)]


def _project_root() -> Path:
    return Path(__file__).resolve().parent.parent
