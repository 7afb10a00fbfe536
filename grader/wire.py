"""Values <-> plain data. The only code that knows how a value crosses a process.

A wire value is built from None, bool, int, float, str, bytes, list, tuple, dict and `Array` only; `encode` copies and
normalises into it, `decode` builds fresh objects from it, `dumps` and `loads` turn it into bytes (JSON for the tree,
safetensors for the arrays: never pickle, so reading data can never run code). Every check, live or official, goes
through it.
"""

from __future__ import annotations

import base64
import json
import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_BYTES = 256 * 1024 * 1024
MAX_ITEMS = 1_000_000
MAX_DEPTH = 40
MAX_DIMENSIONS = 64  # Of an array, as in numpy; torch allows more.
MAX_EMPTY_EXTENT = 2**16  # An empty array costs no bytes, and yet whoever walks along it takes a step for each row.

# Bytes per item of every array dtype that may cross, by the name torch and numpy share.
ITEM_BYTES = {"bool": 1, "uint8": 1, "int8": 1, "int16": 2, "int32": 4, "int64": 8}
ITEM_BYTES |= {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


class WireError(ValueError):
    """A value that cannot cross; says what it is, where it sits, and what to return instead."""


@dataclass(frozen=True)
class Array:
    """An array as data. kind: "torch" or "numpy"; data: contiguous little-endian bytes."""

    kind: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes

    def to_numpy(self) -> np.ndarray:
        """The values as numpy, shape kept; bfloat16, which numpy lacks, widened exactly to float32."""
        if self.dtype == "bfloat16":
            bits = np.frombuffer(self.data, dtype=np.uint16).astype(np.uint32) << 16
            return bits.view(np.float32).reshape(self.shape)
        return np.frombuffer(self.data, dtype=self.dtype).reshape(self.shape)


def encode(value: Any) -> Any:
    """Copy `value` into a wire value. Subclasses are reduced to their base type, so no method of theirs survives."""
    budget = _Budget()
    return _encode(value, "the value", 0, budget)


class _Budget:
    def __init__(self) -> None:
        self.bytes = 0
        self.items = 0

    def spend(self, size: int, where: str) -> None:
        self.items += 1
        self.bytes += size
        if self.bytes > MAX_BYTES or self.items > MAX_ITEMS:
            raise WireError(
                f"{where} is too large to check: over {MAX_BYTES // 2**20} MiB or {MAX_ITEMS:,} items. "
                "Return only what the exercise asks for."
            )


def _encode(value: Any, where: str, depth: int, budget: _Budget) -> Any:
    if depth > MAX_DEPTH:
        raise WireError(f"{where} is nested more than {MAX_DEPTH} levels deep. Does it contain itself?")
    kind = type(value)
    if value is None or kind is bool:
        budget.spend(1, where)
        return value
    if issubclass(kind, int):
        budget.spend(8, where)
        return int.__index__(value)
    if issubclass(kind, float):
        budget.spend(8, where)
        return float.__float__(value)
    if issubclass(kind, str):
        budget.spend(str.__len__(value), where)
        return "".join(str.__iter__(value)) if kind is not str else value
    if issubclass(kind, bytes | bytearray):
        plain = memoryview(value)
        budget.spend(plain.nbytes, where)
        return plain.tobytes()
    if issubclass(kind, list | tuple):
        budget.spend(8, where)
        base = tuple if issubclass(kind, tuple) else list
        return base(_encode(item, f"{where}[{i}]", depth + 1, budget) for i, item in enumerate(base.__iter__(value)))
    if issubclass(kind, set | frozenset):
        budget.spend(8, where)
        walk = set.__iter__ if issubclass(kind, set) else frozenset.__iter__
        members = [_encode(item, where, depth + 1, budget) for item in walk(value)]
        try:
            return sorted(members, key=lambda member: (type(member).__name__, member))
        except TypeError:
            raise WireError(f"{where} is a set whose members have no order. Return a list.") from None
    if issubclass(kind, dict):
        budget.spend(8, where)
        plain_items = ((_encode_key(key, where, budget), item) for key, item in dict.items(value))
        return {key: _encode(item, f"{where}[{_brief(key)}]", depth + 1, budget) for key, item in plain_items}
    return _encode_array(value, where, budget)


def _encode_key(key: Any, where: str, budget: _Budget) -> str | int:
    kind = type(key)
    if issubclass(kind, str):
        budget.spend(str.__len__(key), where)
        return str.__str__(key)
    if issubclass(kind, int) and kind is not bool:
        budget.spend(8, where)
        return int.__index__(key)
    raise WireError(f"{where} has a key of type {kind.__name__}; keys are strings or whole numbers here")


def _brief(key: str | int) -> str:
    return repr(key[:40]) if isinstance(key, str) else hex(key) if abs(key) >= 2**53 else str(key)


def _encode_array(value: Any, where: str, budget: _Budget) -> Any:
    kind = type(value)
    if issubclass(kind, np.generic):
        number = np.generic.item(value)
        if not isinstance(number, bool | int | float | str | bytes):
            raise _unknown(kind, where)
        return _encode(number, where, 0, budget)
    if issubclass(kind, np.ndarray):
        array = np.asarray(value)
        little_endian = array.dtype.newbyteorder("<")

        def read_numpy() -> bytes:
            return array.astype(little_endian, copy=False).tobytes()

        return _array("numpy", array.dtype.name, array.shape, array.nbytes, read_numpy, where, budget)
    torch = sys.modules.get("torch")
    if torch is not None and issubclass(kind, torch.Tensor):
        return _tensor(value, where, budget)
    if torch is not None and issubclass(kind, torch.dtype | torch.device):
        return str(value)
    raise _unknown(kind, where)


def _unknown(kind: type, where: str) -> WireError:
    return WireError(
        f"{where} is a {kind.__module__}.{kind.__qualname__}, which cannot be compared. "
        "Return numbers, text, lists, dicts or tensors."
    )


def _tensor(value: Any, where: str, budget: _Budget) -> Array:
    import torch

    # A subclass may override every method and __torch_function__: call the base class's own, with overrides off.
    with torch._C.DisableTorchFunctionSubclass():
        layout = torch.Tensor.layout.__get__(value)  # type: ignore[attr-defined]
        if layout is not torch.strided:
            raise WireError(f"{where} is a {layout} tensor. Return a dense one.")
        plain = torch.Tensor.as_subclass(torch.Tensor.detach(value), torch.Tensor)
        if plain.is_meta:
            raise WireError(f"{where} is a tensor on the meta device: it has a shape but no values")
        name = str(plain.dtype).removeprefix("torch.")

        def read_torch() -> bytes:
            # A clone, not .contiguous(): that leaves odd strides on tensors of one item, which then refuse the view.
            dense = plain.cpu().clone(memory_format=torch.contiguous_format)
            return dense.reshape(-1).view(torch.uint8).numpy().tobytes() if dense.numel() else b""

        size_bytes = plain.numel() * plain.element_size()
        return _array("torch", name, tuple(plain.shape), size_bytes, read_torch, where, budget)


def _array(
    kind: str, dtype: str, shape: tuple[int, ...], size_bytes: int, read: Any, where: str, budget: _Budget
) -> Array:
    if dtype not in ITEM_BYTES:
        raise WireError(f"{where} has dtype {dtype}; supported are {', '.join(ITEM_BYTES)}")
    budget.spend(size_bytes, where)
    if len(shape) > MAX_DIMENSIONS:
        raise WireError(f"{where} has {len(shape):,} dimensions; {MAX_DIMENSIONS} can be compared")
    if _is_absurd(shape):
        raise WireError(f"{where} is empty and yet has the shape {tuple(shape)}")
    return Array(kind, dtype, tuple(int(size) for size in shape), read())


def _is_absurd(shape: tuple[int, ...]) -> bool:
    return 0 in shape and max(shape) > MAX_EMPTY_EXTENT


def decode(wire: Any) -> Any:
    """Fresh objects from a wire value; changing them changes nothing else."""
    if isinstance(wire, Array):
        if wire.kind == "numpy":
            return wire.to_numpy().copy()
        import torch

        flat = torch.frombuffer(bytearray(wire.data), dtype=getattr(torch, wire.dtype)) if wire.data else None
        empty = torch.empty(wire.shape, dtype=getattr(torch, wire.dtype))
        return empty if flat is None else flat.reshape(wire.shape)
    if isinstance(wire, list):
        return [decode(item) for item in wire]
    if isinstance(wire, tuple):
        return tuple(decode(item) for item in wire)
    if isinstance(wire, dict):
        return {key: decode(item) for key, item in wire.items()}
    return wire


def dumps(wire: Any) -> bytes:
    """Bytes of a wire value: a safetensors file of raw bytes whose metadata holds the tree, dtypes and shapes."""
    from safetensors.numpy import save

    arrays: dict[str, np.ndarray] = {}
    tree = _to_json(wire, arrays)
    return save(arrays, {"tree": json.dumps(tree)})


def _to_json(wire: Any, arrays: dict[str, np.ndarray]) -> Any:
    if wire is None or isinstance(wire, bool | str):
        return wire
    if isinstance(wire, float):
        return wire if math.isfinite(wire) else {"float": repr(wire)}
    if isinstance(wire, int):
        return {"int": hex(wire)} if abs(wire) >= 2**53 else wire
    if isinstance(wire, bytes):
        return {"bytes": base64.b64encode(wire).decode("ascii")}
    if isinstance(wire, Array):
        name = str(len(arrays))
        arrays[name] = np.frombuffer(wire.data, dtype=np.uint8)
        return {"array": name, "kind": wire.kind, "dtype": wire.dtype, "shape": wire.shape}
    if isinstance(wire, dict):
        return {"dict": [[key, _to_json(item, arrays)] for key, item in wire.items()]}
    if isinstance(wire, tuple):
        return {"tuple": [_to_json(item, arrays) for item in wire]}
    return [_to_json(item, arrays) for item in wire]


def loads(data: bytes) -> Any:
    """A wire value from bytes; anything malformed or over the size cap raises WireError."""
    from safetensors.numpy import load

    if len(data) > MAX_BYTES + 2**20:
        raise WireError(f"a message of {len(data):,} bytes is over the cap of {MAX_BYTES:,}")
    try:
        arrays = load(data)
        header_bytes = int.from_bytes(data[:8], "little")
        tree = json.loads(data[8 : 8 + header_bytes])["__metadata__"]["tree"]
        return _from_json(json.loads(tree), arrays, 0, _Budget())
    except WireError:
        raise
    except Exception as error:
        raise WireError(f"a message that is no wire value: {type(error).__name__}: {error}") from None


def _from_json(tree: Any, arrays: dict[str, Any], depth: int, budget: _Budget) -> Any:
    if depth > MAX_DEPTH + 1:
        raise WireError(f"a message nested more than {MAX_DEPTH} levels deep")
    budget.spend(len(tree) if isinstance(tree, str) else 8, "the message")

    def inner(item: Any) -> Any:
        return _from_json(item, arrays, depth + 1, budget)

    if isinstance(tree, list):
        return [inner(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "array" in tree:
        # One array may be named many times: each naming costs its bytes again.
        budget.spend(arrays[tree["array"]].nbytes, "the message")
        return _array_from_json(tree, arrays[tree["array"]].tobytes())
    if "dict" in tree:
        return {_encode_key(key, "the message", budget): inner(item) for key, item in tree["dict"]}
    if "tuple" in tree:
        return tuple(inner(item) for item in tree["tuple"])
    if "int" in tree:
        return int(tree["int"], 16)
    if "float" in tree:
        return float(tree["float"])
    if "bytes" in tree:
        return base64.b64decode(tree["bytes"], validate=True)
    raise WireError(f"a message with the unknown tag {sorted(tree)}")


def _array_from_json(tree: dict[str, Any], data: bytes) -> Array:
    shape = tuple(int(size) for size in tree["shape"])
    if len(shape) > MAX_DIMENSIONS:
        raise WireError(f"an array of {len(shape):,} dimensions")
    if tree["kind"] not in ("torch", "numpy") or tree["dtype"] not in ITEM_BYTES or min(shape, default=0) < 0:
        raise WireError(f"an array of kind {tree['kind']!r}, dtype {tree['dtype']!r}, shape {shape}")
    if math.prod(shape) * ITEM_BYTES[tree["dtype"]] != len(data):
        raise WireError(f"an array of shape {shape} and dtype {tree['dtype']} with {len(data):,} bytes of data")
    if _is_absurd(shape):
        raise WireError(f"an empty array of shape {shape}")
    return Array(tree["kind"], tree["dtype"], shape, data)
