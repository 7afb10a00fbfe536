"""Two wire values -> nothing, or one sentence. Order: None, type, keys, length, shape, dtype, non-finite, values.

Lists and tuples compare alike, and so do a Python number and a zero-dimensional array: both are honest styles of one
answer. Array dtypes compare strictly: computing in the wrong precision is a mistake this course teaches to see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from grader.wire import Array

SHOWN_CHARACTERS = 120  # Of one value or key.


@dataclass(frozen=True)
class Difference:
    """The first difference found. kind: none, type, keys, length, shape, dtype, non-finite or value."""

    kind: str
    path: str
    sentence: str


def compare(got: Any, want: Any, *, rtol: float, atol: float, path: str = "") -> Difference | None:
    """The first difference between two wire values, or None. Floats: |got - want| <= atol + rtol * |want|."""
    where = f"`{path}`" if path else "the result"
    got, want = _scalar(got, want), _scalar(want, got)
    if got is None and want is not None:
        missing = "" if path else ": is a `return` missing?"
        return Difference("none", path, f"{where} is None, {_describe(want)} was expected{missing}")
    if isinstance(want, Array):
        return _compare_arrays(got, want, rtol, atol, path, where)
    if isinstance(want, dict):
        return _compare_dicts(got, want, rtol, atol, path, where)
    if isinstance(want, list | tuple):
        return _compare_sequences(got, want, rtol, atol, path, where)
    if isinstance(want, float) and isinstance(got, int | float) and not isinstance(got, bool):
        return _compare_floats(_float(got), want, rtol, atol, path, where)
    if type(got) is not type(want):
        return Difference("type", path, f"{where} is {_describe(got)}, {_describe(want)} was expected")
    if got != want:
        return Difference("value", path, f"{where} is {_shorten(got)}, {_shorten(want)} was expected")
    return None


def _scalar(value: Any, other: Any) -> Any:
    """A zero-dimensional array becomes a Python number where the other side is one."""
    if isinstance(value, Array) and value.shape == () and not isinstance(other, Array):
        return value.to_numpy().item()
    return value


def _compare_arrays(got: Any, want: Array, rtol: float, atol: float, path: str, where: str) -> Difference | None:
    if not isinstance(got, Array) or got.kind != want.kind:
        return Difference("type", path, f"{where} is {_describe(got)}, {_describe(want)} was expected")
    if got.shape != want.shape:
        return Difference("shape", path, f"{where} has shape {got.shape}, {want.shape} was expected")
    if got.dtype != want.dtype:
        return Difference("dtype", path, f"{where} has dtype {got.dtype}, {want.dtype} was expected")
    if got.data == want.data:
        return None
    left, right = got.to_numpy(), want.to_numpy()
    if not np.issubdtype(right.dtype, np.floating):
        wrong = left != right
        if not wrong.any():
            return None
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        return Difference("value", path, _values_sentence(where, left, right, wrong, index))
    odd = ~np.isfinite(left) & ~((left == right) | (np.isnan(left) & np.isnan(right)))
    if odd.any():
        index = tuple(int(i) for i in np.argwhere(odd)[0])
        return Difference(
            "non-finite",
            path,
            f"{where} is {left[index]} at {list(index)}, where {right[index]:.6g} was expected "
            f"({int(odd.sum()):,} of {left.size:,} values are not finite)",
        )
    left64, right64 = left.astype(np.float64), right.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        allowed = atol + rtol * np.abs(right64)
        # An infinite allowance (an infinity was wanted) would accept every finite value.
        wrong = ~((np.isfinite(allowed) & (np.abs(left64 - right64) <= allowed)) | (left64 == right64))
    wrong &= ~(np.isnan(left64) & np.isnan(right64))
    if not wrong.any():
        return None
    index = tuple(int(i) for i in np.argwhere(wrong)[0])
    return Difference("value", path, _values_sentence(where, left64, right64, wrong, index))


def _values_sentence(where: str, got: np.ndarray, want: np.ndarray, wrong: np.ndarray, index: tuple[int, ...]) -> str:
    at = f" at {list(index)}" if index else ""
    sentence = f"{where} is {_number(got[index])}{at}, {_number(want[index])} was expected"
    if want.size > 1:
        sentence += f"; {int(wrong.sum()):,} of {want.size:,} values differ"
        if want.dtype != np.bool_:
            with np.errstate(invalid="ignore", over="ignore"):
                gap = np.abs(got.astype(np.float64) - want.astype(np.float64))
            if np.isfinite(gap).any():
                sentence += f", the largest difference is {gap[np.isfinite(gap)].max():.3g}"
    return sentence


def _compare_dicts(got: Any, want: dict, rtol: float, atol: float, path: str, where: str) -> Difference | None:
    if not isinstance(got, dict):
        return Difference("type", path, f"{where} is {_describe(got)}, {_describe(want)} was expected")
    missing = [key for key in want if key not in got]
    extra = [key for key in got if key not in want]
    if missing or extra:
        parts = [f"lacks {_names(missing)}"] * bool(missing) + [f"has {_names(extra)} too many"] * bool(extra)
        return Difference("keys", path, f"{where} {' and '.join(parts)}")
    for key in want:
        found = compare(got[key], want[key], rtol=rtol, atol=atol, path=f"{path}.{key}" if path else str(key))
        if found:
            return found
    return None


def _compare_sequences(got: Any, want: Any, rtol: float, atol: float, path: str, where: str) -> Difference | None:
    if not isinstance(got, list | tuple):
        return Difference("type", path, f"{where} is {_describe(got)}, {_describe(want)} was expected")
    if len(got) != len(want):
        return Difference("length", path, f"{where} has {len(got):,} items, {len(want):,} were expected")
    for i, (left, right) in enumerate(zip(got, want, strict=True)):
        found = compare(left, right, rtol=rtol, atol=atol, path=f"{path}[{i}]")
        if found:
            return found
    return None


def _compare_floats(got: float, want: float, rtol: float, atol: float, path: str, where: str) -> Difference | None:
    if got == want or (np.isnan(got) and np.isnan(want)) or abs(got - want) <= atol + rtol * abs(want) < np.inf:
        return None
    kind = "value" if np.isfinite(got) else "non-finite"
    return Difference(kind, path, f"{where} is {_number(got)}, {_number(want)} was expected")


def _describe(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, Array):
        return f"a {value.kind} array of shape {value.shape}" if value.kind == "numpy" else f"a tensor {value.shape}"
    if isinstance(value, dict):
        return f"a dict with {len(value)} keys"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"the {type(value).__name__} {_shorten(value)}"


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def _names(keys: list) -> str:
    names = [_cut(key) if isinstance(key, str) else _shorten(key) for key in keys[:4]]
    return ", ".join(f"`{name}`" for name in names) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")


def _float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:  # A whole number beyond the largest float.
        return np.inf if value > 0 else -np.inf


def _shorten(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 4 * SHOWN_CHARACTERS:
        return f"a whole number of {value.bit_length():,} bits"  # Python refuses to print very long ones.
    return _cut(repr(value))


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}... ({len(text):,} characters)"
