"""A handed-in adapter_config.json, read as data: fields from a list, each with a checked value.

Nothing of the file reaches peft: what is kept is a `LoraSettings`, from which our code makes a fresh configuration. So
a field that names code, files or another model can do nothing; it is refused all the same, because an adapter that
needs it would be evaluated as something else than what was trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn

from grader.adapters.folder import CONFIG_FILE, AdapterRefusedError, shown

LARGEST_RANK = 256
REQUIRED = ("peft_type", "r", "lora_alpha", "target_modules")
# Say nothing about what the adapter computes; neither used nor opened.
UNUSED_TEXT = ("base_model_name_or_path", "revision", "peft_version")
# field -> the values it may have; None may always be left out
ALLOWED: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none", None),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", None),
    "inference_mode": (True, False, None),
    "use_rslora": (True, False, None),
    "use_dora": (True, False, None),
    "megatron_core": ("megatron.core", None),
    "qalora_group_size": (16, None),
}


@dataclass(frozen=True)
class LoraSettings:
    """All that is kept of a configuration. layers: full names of the adapted layers. base: what it calls its base."""

    rank: int
    alpha: float
    layers: tuple[str, ...]
    use_rslora: bool
    use_dora: bool
    base: str


def read_settings(data: bytes, layers: Collection[str]) -> LoraSettings:
    """The settings in the bytes of an adapter_config.json; layers: names of the base model's linear layers.

    Raises AdapterRefusedError.
    """
    fields = _parse(data)
    for name in REQUIRED:
        if fields.get(name) is None:
            _refuse(f"has no {name}, which every LoRA adapter states")
    for name, value in fields.items():
        _check(name, value)
    return LoraSettings(
        rank=fields["r"],
        alpha=float(fields["lora_alpha"]),
        layers=_adapted(fields["target_modules"], layers),
        use_rslora=bool(fields.get("use_rslora")),
        use_dora=bool(fields.get("use_dora")),
        base=fields.get("base_model_name_or_path") or "",
    )


def _parse(data: bytes) -> dict[str, Any]:
    def no_constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is no JSON number")

    def no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for name, value in pairs:
            if name in fields:
                raise ValueError(f"{shown(name)} is given twice")
            fields[name] = value
        return fields

    try:
        fields = json.loads(data.decode("utf-8"), object_pairs_hook=no_twins, parse_constant=no_constant)
    except RecursionError:
        _refuse("is nested too deeply to be a configuration")
    except ValueError as error:
        _refuse(f"is no JSON that can be read ({shown(str(error))})")
    if not isinstance(fields, dict):
        _refuse(f"holds a {type(fields).__name__} where an object with fields is wanted")
    return fields


def _check(name: str, value: Any) -> None:
    if name == "r":
        if not _is_whole(value) or not 1 <= value <= LARGEST_RANK:
            _refuse(f"says r = {shown(value)}; a whole number from 1 to {LARGEST_RANK} is wanted")
    elif name == "lora_alpha":
        if not _is_number(value) or value <= 0:
            _refuse(f"says lora_alpha = {shown(value)}; a finite number above 0 is wanted")
    elif name == "lora_dropout":
        if value is not None and (not _is_number(value) or not 0 <= value <= 1):
            _refuse(f"says lora_dropout = {shown(value)}; a number from 0 to 1 is wanted")
    elif name in UNUSED_TEXT:
        if value is not None and not isinstance(value, str):
            _refuse(f"says {name} = {shown(value)}; a text is wanted")
    elif name in ALLOWED:
        if not any(type(value) is type(allowed) and value == allowed for allowed in ALLOWED[name]):
            wanted = " or ".join(repr(each) for each in ALLOWED[name] if each is not None)
            _refuse(f"says {name} = {shown(value)}; {wanted} is wanted")
    elif name != "target_modules" and not (value is None or value is False or value in ("", [], {})):
        _refuse(f"says {shown(name)} = {shown(value)}, which is not evaluated here; leave it at its default")


def _adapted(wanted: Any, layers: Collection[str]) -> tuple[str, ...]:
    """Full names of the layers that target_modules means, in the model's order; as in peft, by name or end of name."""
    if wanted == "all-linear":
        return tuple(layers)
    ends = sorted({layer.rpartition(".")[2] for layer in layers})
    advice = f"'all-linear' or a list of linear layers is wanted: {', '.join(ends)}"
    if not isinstance(wanted, list) or not wanted or not all(isinstance(each, str) for each in wanted):
        _refuse(f"says target_modules = {shown(wanted)}; {advice}")
    known = set(layers) | {layer[at + 1 :] for layer in layers for at, mark in enumerate(layer) if mark == "."}
    if stranger := next((each for each in wanted if each not in known), None):
        _refuse(f"names {shown(stranger)} among target_modules; {advice}")
    names = set(wanted)
    return tuple(
        layer
        for layer in layers
        if layer in names or any(layer[at + 1 :] in names for at, mark in enumerate(layer) if mark == ".")
    )


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """Finite also as a float: a JSON integer may have any number of digits."""
    if not _is_whole(value) and not isinstance(value, float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _refuse(what: str) -> NoReturn:
    raise AdapterRefusedError(f"{CONFIG_FILE} {what}")
