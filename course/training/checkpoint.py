"""Checkpoints that a crash, a full disk or a bad sector cannot turn into a wrong result.

A checkpoint is a folder `step-000050` with two files: `tensors.safetensors` (trainable weights, optimizer state, states
of the random number generators) and `state.json` (the step and plain data, with the SHA-256 of the tensors). Neither
format can carry code. It is written beside its final name, forced to disk and renamed, so a folder with the final name
is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TENSORS_FILE = "tensors.safetensors"
STATE_FILE = "state.json"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read. The message says what stands and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What `load_latest` found: all tensors by name, and the plain state."""

    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def training_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Everything of a run that is a tensor: "weight/NAME", "optimizer/NAME/KEY" and "rng/DEVICE"."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in trainable_parameters(model).items():
        tensors[f"weight/{name}"] = parameter.detach()
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer/{name}/{key}"] = value
    tensors["rng/cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            tensors[f"rng/cuda:{index}"] = state
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}


def restore_tensors(tensors: Mapping[str, Tensor], model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The inverse of `training_tensors`. Raises CheckpointError where the model trains other weights."""
    parameters = trainable_parameters(model)
    stored = {
        name.removeprefix("weight/"): value.shape for name, value in tensors.items() if name.startswith("weight/")
    }
    if stored != {name: parameter.shape for name, parameter in parameters.items()}:
        raise CheckpointError(
            "The checkpoint holds other weights than this model trains (another base model, rank or target_modules?). "
            "Choose another folder for this run."
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
            prefix = f"optimizer/{name}/"
            for key, value in tensors.items():
                if key.startswith(prefix):
                    # The step counter stays where torch's fused AdamW wants it: beside the weights.
                    optimizer.state[parameter][key.removeprefix(prefix)] = value.to(parameter.device)
    torch.set_rng_state(tensors["rng/cpu"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"rng/cuda:{index}" in tensors:
                torch.cuda.set_rng_state(tensors[f"rng/cuda:{index}"], index)


def trainable_parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The parameters that training changes, by name, in the model's order."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int) -> Path:
    """Write the checkpoint of `step` under `folder`, then drop all but the newest `keep`.

    Raises CheckpointError where the disk is full or refuses; earlier checkpoints stay as they were.
    """
    from safetensors.torch import save as to_bytes

    final = folder / f"step-{step:06d}"
    partial = folder / f"{final.name}.partial"
    data = to_bytes(dict(tensors))
    plain = {**state, "step": step, "sha256": hashlib.sha256(data).hexdigest()}
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        write_durably(partial / TENSORS_FILE, data)
        write_durably(partial / STATE_FILE, json.dumps(plain).encode())
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _force_to_disk(folder)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        stands = [path.name for path in _newest_first(folder)]
        raise CheckpointError(
            f"The checkpoint of step {step} ({len(data) / 1e6:.1f} MB) cannot be written to {folder}: "
            f"{error.strerror or error}. "
            f"Kept: {stands[0] if stands else 'no checkpoint yet'}. Free some space or correct the folder, "
            "then run the same call again: it goes on from there."
        ) from error
    for old in _newest_first(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def load_latest(folder: Path) -> Checkpoint | None:
    """The newest whole checkpoint under `folder`, or None where there is none yet.

    A damaged one is warned of and passed over for the one before it. Raises CheckpointError where all are damaged.
    """
    paths = _newest_first(folder)
    for path in paths:
        try:
            return _load(path)
        except CheckpointError as error:
            warnings.warn(f"{error} Going back to the checkpoint before it.", stacklevel=2)
    if paths:
        raise CheckpointError(
            f"No checkpoint in {folder} can be read. Move that folder away to start from the beginning."
        )
    return None


def write_durably(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, data: bytes) -> None:
    """Put new content under a name in one step: a reader sees all of the old or all of the new."""
    beside = path.with_name(f"{path.name}.partial")
    write_durably(beside, data)
    beside.replace(path)
    _force_to_disk(path.parent)


def _load(path: Path) -> Checkpoint:
    from safetensors import SafetensorError
    from safetensors.torch import load as from_bytes

    try:
        state = json.loads((path / STATE_FILE).read_text())
        data = (path / TENSORS_FILE).read_bytes()
        if hashlib.sha256(data).hexdigest() != state["sha256"]:
            raise CheckpointError(
                f"The checkpoint {path} is damaged: its tensors do not have the checksum in {STATE_FILE}."
            )
        return Checkpoint(from_bytes(data), state)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"The checkpoint {path} is damaged: {error}.") from error


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*") if path.suffix != ".partial"), reverse=True)


def _force_to_disk(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder; its renames are journalled
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
