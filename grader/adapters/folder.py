"""Finds the adapters of a cohort and reads their two files: plain files only, no more than so many bytes, no links."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grader.cohort.collect import SAFE_NAME, CollectError, read_plain_file
from grader.syllabus import Lesson
from grader.wire import MAX_BYTES

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
# SmolLM2-135M at rank 16 on all linear layers: 20 MB in float32. An 8B model: 175 MB.
LARGEST_BYTES = {CONFIG_FILE: 64 * 1024, TENSORS_FILE: MAX_BYTES}
DEEPEST, MOST_ENTRIES = 6, 5000
LONGEST_SHOWN = 100
SAVE = "save it with `model.save_pretrained(folder)` of peft and hand in that folder"


class AdapterRefusedError(ValueError):
    """An adapter that will not be loaded; says what is wrong, with the value, and what to do."""


class NoAdapterError(LookupError):
    """A learner handed in no adapter."""


@dataclass(frozen=True)
class HandedAdapter:
    """Where one learner's things are. A learner who handed in a notebook alone has a file here, not a folder."""

    learner: str
    path: Path


@dataclass(frozen=True)
class AdapterFiles:
    """The two files of an adapter, as bytes."""

    config: bytes
    tensors: bytes

    @property
    def sha256(self) -> str:
        """One hash for both."""
        return hashlib.sha256(
            b"".join(hashlib.sha256(part).digest() for part in (self.config, self.tensors))
        ).hexdigest()


def shown(value: object) -> str:
    """A value from a learner's file in a sentence: escaped, and cut when long."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."


def find_adapters(submissions: Path) -> list[HandedAdapter]:
    """Every learner in a folder of submissions, by name, whether or not there is an adapter."""
    if not submissions.is_dir():
        raise CollectError(f"{submissions} is no folder; name the one that holds one folder per learner")
    found = []
    for entry in sorted(submissions.iterdir()):
        if entry.name.startswith(".") or entry.is_symlink() or not SAFE_NAME.fullmatch(entry.name):
            continue
        if entry.is_dir():
            found.append(HandedAdapter(entry.name, entry))
        elif entry.suffix == ".ipynb" and not (submissions / entry.stem).is_dir():
            found.append(HandedAdapter(entry.stem, entry))
    if not found:
        raise CollectError(f"{submissions} holds no learner's folder: looked for LEARNER/adapter/{CONFIG_FILE}")
    return found


def read_handed(handed: HandedAdapter, lesson: Lesson) -> AdapterFiles:
    """LEARNER/adapter, LEARNER/09_qlora/adapter, or the only adapter that lies anywhere below LEARNER.

    Raises NoAdapterError where there is none, AdapterRefusedError where there is one that is not to be read.
    """
    if handed.path.is_file():
        raise NoAdapterError(f"{handed.path.name} is a notebook; the adapter goes into {handed.learner}/adapter")
    try:
        folders, others = _look_through(handed.path)
    except OSError as error:
        raise AdapterRefusedError(f"a folder cannot be looked into ({error.strerror}); hand it in again") from error
    exact = [handed.path / "adapter", handed.path / lesson.id.removeprefix("l") / "adapter"]
    chosen = [folder for folder in exact if folder in folders][:1] or folders
    if len(chosen) > 1:
        names = ", ".join(shown(str(folder.relative_to(handed.path))) for folder in chosen[:5])
        raise AdapterRefusedError(
            f"{len(chosen)} adapters were handed in ({names}); put the one that counts in `adapter`"
        )
    if chosen:
        return read_folder(chosen[0])
    if others:
        raise AdapterRefusedError(
            f"{shown(str(others[0].relative_to(handed.path)))} is a {_kind(others[0])}, which is not opened; {SAVE}"
        )
    raise NoAdapterError(f"no {CONFIG_FILE} and no {TENSORS_FILE} below {handed.learner}")


def read_folder(folder: Path) -> AdapterFiles:
    """The adapter in a folder. Raises AdapterRefusedError for a file that is missing, too large or not plain."""
    return AdapterFiles(_read(folder / CONFIG_FILE), _read(folder / TENSORS_FILE))


def _read(path: Path) -> bytes:
    largest = LARGEST_BYTES[path.name]
    try:
        size = path.lstat().st_size
        data = b"" if size > largest else read_plain_file(path, largest)
    except FileNotFoundError as error:
        pickled = (
            "adapter_model.bin, a pickle that nobody opens here, but " if path.with_suffix(".bin").exists() else ""
        )
        raise AdapterRefusedError(
            f"the folder {shown(path.parent.name)} holds {pickled}no {path.name}; {SAVE}"
        ) from error
    except OSError as error:
        link = "is a symbolic link" if error.errno == errno.ELOOP else "is no plain file that can be read"
        raise AdapterRefusedError(f"{path.name} {link}; hand in the file itself") from error
    size = max(size, len(data))
    if size > largest:
        raise AdapterRefusedError(
            f"{path.name} has {size:,} bytes, and {largest:,} are the most that is read; "
            "hand in the adapter alone, without the base model, at a lower rank or in bfloat16"
        )
    return data


def _look_through(folder: Path) -> tuple[list[Path], list[Path]]:
    """(folders that hold a file of an adapter, things of an adapter's name that are not to be opened)."""
    folders, others = [], []
    for entry in _entries(folder):
        path = Path(entry.path)
        if entry.name in LARGEST_BYTES:
            folders.append(path.parent)
        elif entry.name == "adapter_model.bin" or (
            path.stem == "adapter" and (entry.is_symlink() or not entry.is_dir(follow_symlinks=False))
        ):
            others.append(path)
    return sorted(set(folders)), sorted(others)


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    """What lies below a folder, at most DEEPEST levels down and MOST_ENTRIES in all; links are not followed."""
    waiting, seen = [(folder, 1)], 0
    while waiting:
        here, depth = waiting.pop(0)
        with os.scandir(here) as entries:
            for entry in entries:
                seen += 1
                if seen > MOST_ENTRIES:
                    return
                yield entry
                if depth < DEEPEST and entry.is_dir(follow_symlinks=False):
                    waiting.append((Path(entry.path), depth + 1))


def _kind(path: Path) -> str:
    if path.is_symlink():
        return "symbolic link"
    return "pickle" if path.suffix == ".bin" else f"file with suffix {shown(path.suffix)}"
