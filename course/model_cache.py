"""A cache folder that is whole or absent, however many processes write it and whenever one is killed.

Everything is written to a temporary sibling, flushed to disk, and renamed into place in one step. A file lock lets one
process write while others wait. The last file written is a manifest of sizes and SHA-256 sums, and every later use
compares it with what is on disk.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from course.model_source import BaseModelError, file_sha256

MANIFEST_NAME = "manifest.json"
PARTIAL_PREFIX = ".partial-"
LOCK_TIMEOUT_SECONDS = 600
DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# How safetensors, which writes from Rust, words the same errors.
DISK_FULL_TEXTS = tuple(f"(os error {number})" for number in DISK_FULL_ERRNOS)

ReportStage = Callable[[str], None]


def cache_root() -> Path:
    """The folder for converted models: COURSE_CACHE, or the user's cache folder."""
    import platformdirs

    chosen = os.environ.get("COURSE_CACHE")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("fine-tuning-course"))


def problem_with_folder(folder: Path, check_hashes: bool = False) -> str | None:
    """What is wrong with a converted folder, in one sentence, or None when it is whole.

    Sizes are compared always (under 1 ms); contents too with `check_hashes` (about 0.3 s).
    """
    try:
        files = json.loads((folder / MANIFEST_NAME).read_text())["files"]
        wanted = {name: (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except FileNotFoundError:
        return f"{folder} has no converted model"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{folder / MANIFEST_NAME} cannot be read ({error})"
    for name, (size_bytes, sha256) in wanted.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size_bytes:
            return f"{path} is {path.stat().st_size:,} bytes but {size_bytes:,} were written"
        if check_hashes and file_sha256(path) != sha256:
            return f"{path} changed since it was written"
    return None


def ensure_folder(
    folder: Path,
    write: Callable[[Path], None],
    needed_bytes: int,
    report: ReportStage = lambda stage: None,
    force: bool = False,
    check_hashes: bool = False,
) -> None:
    """Make sure `folder` is whole: where it is absent or damaged, or `force` is set, let `write` fill a new one.

    `report` is told in words what is going on. Raises BaseModelError with a next action for a full disk (also when less
    than `needed_bytes` is free), a folder that cannot be written, or another process that does not finish.
    """
    from filelock import FileLock, Timeout

    if not force and problem_with_folder(folder, check_hashes) is None:
        return
    with _explaining_disk_errors(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder.parent / f"{folder.name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report("Waiting for another process that prepares the model")
            try:
                lock.acquire(timeout=LOCK_TIMEOUT_SECONDS)
            except Timeout:
                raise BaseModelError(
                    f"Another process has been preparing {folder.name} for {LOCK_TIMEOUT_SECONDS // 60} minutes. "
                    "Stop that process, then try again."
                ) from None
        try:
            # Another process may have written it while this one waited.
            if force or problem_with_folder(folder, check_hashes) is not None:
                _replace(folder, write, needed_bytes, report)
        finally:
            lock.release()


def _replace(folder: Path, write: Callable[[Path], None], needed_bytes: int, report: ReportStage) -> None:
    """Fill a sibling of `folder` and rename it into place. The caller holds the lock."""
    _remove_partials(folder)  # whoever holds the lock is alone, so what is found belongs to a process that died
    free_bytes = shutil.disk_usage(folder.parent).free
    if free_bytes < needed_bytes:
        sizes = f"{free_bytes / 1e6:,.0f} MB are free and {needed_bytes / 1e6:,.0f} MB are needed"
        raise _disk_full(folder.parent, sizes)
    partial = _new_partial(folder)
    try:
        write(partial)
        report("Flushing to disk")
        _seal(partial)
        if folder.exists():  # damaged, or a new one was forced: it goes only now that its successor is whole
            os.rename(folder, _new_partial(folder) / "old")
        os.rename(partial, folder)
        _flush(folder.parent)
    finally:
        _remove_partials(folder)


def _new_partial(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"{PARTIAL_PREFIX}{folder.name}-", dir=folder.parent))


def _remove_partials(folder: Path) -> None:
    for leftover in folder.parent.glob(f"{PARTIAL_PREFIX}{folder.name}-*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _seal(folder: Path) -> None:
    """Flush every file, then write and flush the manifest that says the folder is whole."""
    files = {}
    for path in sorted(folder.iterdir()):
        path.chmod(0o644)  # safetensors makes the weights private; a cache may be shared
        _flush(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    manifest = folder / MANIFEST_NAME
    manifest.write_text(json.dumps({"files": files}, indent=1))
    manifest.chmod(0o644)
    _flush(manifest)
    folder.chmod(0o755)  # mkdtemp makes it private
    _flush(folder)


def _flush(path: Path) -> None:
    if path.is_dir() and os.name == "nt":  # Windows cannot open a folder; its renames are journalled
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows flushes what it may write
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _explaining_disk_errors(root: Path) -> Iterator[None]:
    """Turn what the operating system refuses into a BaseModelError with a next action."""
    from safetensors import SafetensorError

    try:
        yield
    except BaseModelError:
        raise
    except PermissionError as error:
        raise BaseModelError(
            f"Cannot write the model cache in {root}: permission denied ({error.filename}). "
            "Choose a folder you can write to: export COURSE_CACHE=~/course-cache"
        ) from error
    except (OSError, SafetensorError) as error:
        # safetensors writes from Rust and reports the operating system's error only as text.
        if getattr(error, "errno", None) in DISK_FULL_ERRNOS or str(error).endswith(DISK_FULL_TEXTS):
            raise _disk_full(root, str(error)) from error
        raise BaseModelError(
            f"Cannot write the model cache in {root}: {error}. "
            "Check that path, or choose another: export COURSE_CACHE=~/course-cache"
        ) from error


def _disk_full(root: Path, detail: str) -> BaseModelError:
    return BaseModelError(
        f"The disk that holds the model cache {root} is full: {detail}. "
        "Free some space, or choose another disk: export COURSE_CACHE=/path/with/space"
    )
