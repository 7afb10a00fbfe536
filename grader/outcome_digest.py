"""A short digest of what a wrong answer gave, so that learners with one wrong idea can be found together.

Two answers have one digest when every case gave the same: right in both, or the same error, or values that agree but
for float noise. Noise must not split a group, so an array of floats enters as three rounded numbers, its root mean
square and two projections of its direction onto fixed random vectors: a value that lies on a rounding boundary is then
one in a few, not one in thousands.

The digest is for instructors. It is keyed by the secret seed, for without a key the hidden cases could be found by
trial; no card, comment or receipt shows it.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from grader.call import Outcome
from grader.wire import Array

DIGEST_CHARACTERS = 16
PROJECTIONS = 2
SAMPLED_VALUES = 2**20
SMALLEST_NOISE = 1e-12
# Decimals of the root mean square's leading digits and of unit projections; a 16-bit float keeps two to three digits.
DECIMALS = {"float16": 1, "bfloat16": 1, "float32": 3, "float64": 3}
EXACT_BELOW = 10**4  # Whole numbers that four digits tell apart; larger ones (token ids) are kept as they are.
ADDRESS = re.compile(r"\b0x[0-9a-fA-F]+\b")


def outcome_digest(
    outcomes: Sequence[Outcome], right: Sequence[bool], *, atol: float, violations: Sequence[str] = (), key: str = ""
) -> str:
    """16 hexadecimal digits. right: which outcomes were right; atol: the exercise's, values below it are taken as 0."""
    parts = ["right" if is_right else _describe(each, atol) for each, is_right in zip(outcomes, right, strict=True)]
    described = repr((sorted(violations), parts)).encode()
    return hmac.new(key.encode(), described, "sha256").hexdigest()[:DIGEST_CHARACTERS]


def _describe(outcome: Outcome, atol: float) -> Any:
    if outcome.error:
        return outcome.error.type, ADDRESS.sub("0x", outcome.error.message)
    return sorted(outcome.changed), _rounded(outcome.value, max(atol, SMALLEST_NOISE))


def _rounded(value: Any, noise: float) -> Any:
    """The value without float noise; what `compare` holds to be alike (list and tuple, 2 and 2.0) becomes equal."""
    if isinstance(value, Array):
        return _rounded_array(value, noise) if value.shape else _rounded(value.to_numpy().item(), noise)
    if isinstance(value, dict):
        return sorted((repr(key), _rounded(item, noise)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return [_rounded(item, noise) for item in value]
    if isinstance(value, float) or (type(value) is int and abs(value) < EXACT_BELOW):
        return f"{0.0 if abs(value) <= noise else float(value):.{DECIMALS['float64']}e}"
    # In hexadecimal: Python refuses to print very long numbers in decimals.
    return hex(value) if type(value) is int else value


def _rounded_array(array: Array, noise: float) -> Any:
    head = array.kind, array.dtype, array.shape
    if array.dtype not in DECIMALS:
        return *head, array.data
    values = array.to_numpy().reshape(-1).astype(np.float64)
    values = values[:: 1 + values.size // SAMPLED_VALUES]
    finite = np.isfinite(values)
    odd = [(int(i), str(values[i])) for i in np.flatnonzero(~finite)]
    kept = np.where(finite, values, 0.0)
    largest = np.abs(kept).max(initial=0.0)
    if largest <= noise:
        return *head, odd, 0
    decimals, unit = DECIMALS[array.dtype], kept / largest  # Scaled first: the squares of large values overflow.
    norm = float(np.linalg.norm(unit))
    # RandomState, not default_rng: numpy promises that its numbers never change.
    directions = np.random.RandomState(0).standard_normal((PROJECTIONS, kept.size))
    projected = [int(number) for number in np.rint(directions @ unit / norm * 10**decimals)]
    return *head, odd, f"{norm * largest / kept.size**0.5:.{decimals}e}", projected
