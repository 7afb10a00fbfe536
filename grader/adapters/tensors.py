"""A handed-in adapter_model.safetensors, read as data: exactly the tensors that its configuration calls for.

The safetensors library checks the file itself: that the header is JSON of the right form, and that the tensors cover
the rest without gap or overlap, each of the size its shape says. Here: names, shapes, number types and values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from grader.adapters.config import LoraSettings
from grader.adapters.folder import SAVE, TENSORS_FILE, AdapterRefusedError, shown

if TYPE_CHECKING:
    from torch import Tensor

LARGEST_HEADER_BYTES = 2 * 2**20
LENGTH_BYTES = 8
# The torch dtype of each number type that adapters are saved in.
DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
OTHER_FORMATS = {b"PK": "a zip archive, as torch.save writes", b"\x80": "a pickle", b"GGUF": "a GGUF file"}


def expected_shapes(settings: LoraSettings, layers: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that peft saves with these settings; layers: name -> (outputs, inputs)."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in settings.layers:
        outputs, inputs = layers[layer]
        prefix = f"base_model.model.{layer}"
        shapes[f"{prefix}.lora_A.weight"] = (settings.rank, inputs)
        shapes[f"{prefix}.lora_B.weight"] = (outputs, settings.rank)
        if settings.use_dora:
            shapes[f"{prefix}.lora_magnitude_vector"] = (outputs,)
    return shapes


def read_tensors(data: bytes, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """The tensors as float32, by name. Raises AdapterRefusedError unless they are those of `shapes`, all finite."""
    import torch
    from safetensors import SafetensorError, deserialize

    header_bytes = int.from_bytes(data[:LENGTH_BYTES], "little")
    if header_bytes > LARGEST_HEADER_BYTES:
        _refuse(
            f"is {_format(data)}: it would have a header of {header_bytes:,} bytes, and {LARGEST_HEADER_BYTES:,} are "
            f"the most that is read; {SAVE}"
        )
    try:
        stored: dict[str, dict[str, Any]] = dict(deserialize(data))
    except SafetensorError as error:
        _refuse(f"is {_format(data)} ({shown(str(error))}); {SAVE}")
    _compare_names(stored, shapes)
    tensors = {}
    for name, shape in shapes.items():
        found = stored[name]
        if found["dtype"] not in DTYPES:
            _refuse(f"holds {name} in {found['dtype']}; save the adapter in one of {', '.join(DTYPES)}")
        if tuple(found["shape"]) != shape:
            _refuse(f"holds {name} of shape {tuple(found['shape'])}; rank and base model make it {shape}")
        dtype = getattr(torch, DTYPES[found["dtype"]])
        tensor = torch.frombuffer(bytearray(found["data"]), dtype=dtype).reshape(shape).float()
        if not (finite := tensor.isfinite()).all():
            value = tensor[~finite][0].item()
            _refuse(f"holds {value} in {name}; training diverged: lower the learning rate and train again")
        tensors[name] = tensor
    return tensors


def _compare_names(stored: Mapping[str, Any], shapes: Mapping[str, Any]) -> None:
    strangers, missing = stored.keys() - shapes.keys(), shapes.keys() - stored.keys()
    advice = "hand in both files as they were saved together, trained on the course's base model"
    if strangers:
        _refuse(
            f"holds {len(strangers)} tensors that its configuration does not call for, as {shown(min(strangers))}; "
            f"{advice}"
        )
    if missing:
        _refuse(f"lacks {len(missing)} of {len(shapes)} tensors, as {min(missing)}; {advice}")


def _format(data: bytes) -> str:
    """What a file that is not safetensors seems to be. Asked after the fact: a sound one may begin with these bytes."""
    known = next((name for start, name in OTHER_FORMATS.items() if data.startswith(start)), None)
    return f"{known}, whatever its name says, and is not opened" if known else "no whole safetensors file"


def _refuse(what: str) -> NoReturn:
    raise AdapterRefusedError(f"{TENSORS_FILE} {what}")
